"""What a resource is to the rest of the machinery, whether its objects are stored or computed.

A resource says what it is called, what its objects look like and which verbs it has; discovery,
OpenAPI, tables and routing follow from that. A verb that is not in ``verbs`` is 405, and not seen
in discovery.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, TypeAlias

from alauda_imageapi.machinery.errors import (
    AlreadyExists,
    Cause,
    Conflict,
    Forbidden,
    InsufficientStorage,
    Invalid,
    MethodNotAllowed,
    NotFound,
    ServiceUnavailable,
    StatusError,
    invalid_object,
)
from alauda_imageapi.machinery.managed_fields import Manager
from alauda_imageapi.machinery.metadata import Surroundings
from alauda_imageapi.machinery.objects import Object
from alauda_imageapi.machinery.schema import Schema
from alauda_imageapi.machinery.store import StoreFull, StoreUnavailable
from alauda_registry.kube.client import ANONYMOUS, UserInfo

TABLE_NAME = "name"


@dataclass(frozen=True, slots=True)
class Group:
    """The API group and its one version."""

    name: str
    version: str

    @property
    def api_version(self) -> str:
        """As objects have it."""
        return f"{self.name}/{self.version}"


@dataclass(frozen=True, slots=True)
class Access:
    """Something that is done to an object, as ResourceAttributes of this group have it."""

    verb: str
    resource: str
    subresource: str = ""
    namespace: str = ""
    name: str = ""


async def allow_all(user: UserInfo, access: Access) -> bool:
    """Let everybody do everything."""
    del user, access
    return True


async def admit_all(context: "Context", name: str) -> None:
    """Let everything be made anywhere."""
    del context, name


def reserve_nothing(
    context: "Context", resource: str, name: str
) -> AbstractAsyncContextManager[None]:
    """Have room for everything."""
    del context, resource, name
    return nullcontext()


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One request, as resources see it.

    Attributes:
        resource: The plural name that was asked for; errors name it, also those about others.
        namespace: Empty for what belongs to none, and for all of them.
        user: Who asks.
        manager: The field manager.
        dry_run: Do everything but change anything.
        recent: Objects as they were a moment ago will do.
        parameters: Of the request, for parts that have some of their own.
        warnings: What the client is told besides.
        surroundings: Time and chance.
        admit: Raises a StatusError when something of that name must not be made there.
        reserve: Has room for an object of a resource and name while it is made, or raises a
            StatusError.
        allows: Says whether somebody may do something that a request leads to besides.
    """

    resource: str
    namespace: str = ""
    user: UserInfo = ANONYMOUS
    manager: str = "unknown"
    dry_run: bool = False
    recent: bool = False
    parameters: Mapping[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    surroundings: Surroundings = field(default_factory=Surroundings)
    admit: "Admission" = admit_all
    reserve: "Reservation" = reserve_nothing
    allows: "Permission" = allow_all


Admission: TypeAlias = Callable[[Context, str], Awaitable[None]]
Permission: TypeAlias = Callable[[UserInfo, Access], Awaitable[bool]]
Reservation: TypeAlias = Callable[[Context, str, str], AbstractAsyncContextManager[None]]


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """How something is to be deleted.

    Attributes:
        uid: It must have this identity.
        revision: It must be at this revision.
        policy: Orphan, Background, Foreground, or empty for what the object says.
    """

    uid: str = ""
    revision: str = ""
    policy: str = ""


class Change(ABC):
    """Turns the state of an object into the one that is wanted."""

    creates: ClassVar[bool] = False
    """Whether an object that is not there is made."""
    replaces: ClassVar[bool] = False
    """Whether it is a whole object that a client has read before."""
    manages: ClassVar[bool] = False
    """Whether the result has its managed fields already."""

    manager: Manager
    """Who wants it."""

    @abstractmethod
    async def __call__(self, old: Object | None) -> Object:
        """Return the wanted state; may be called again with a newer state."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an update led to."""

    document: Object
    is_new: bool = False


@dataclass(frozen=True, slots=True)
class Deletion:
    """What a deletion led to.

    Attributes:
        uid: Of what is gone.
        document: What is still there, and waits for its finalizers.
    """

    uid: str = ""
    document: Object | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One object of a list, decoded only when it is wanted.

    Attributes:
        position: Returns where it is in the order of pages.
        labels: What label selectors look at.
        fields: What field selectors look at.
        load: Returns the object.
        body: Returns the object as it is sent, where that is known.
    """

    position: Callable[[], tuple[str, ...]]
    labels: Callable[[], Mapping[str, str]]
    fields: Callable[[], Mapping[str, str]]
    load: Callable[[], Object]
    body: Callable[[], bytes] | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """Some objects of a resource at one revision, in an order of their own.

    Attributes:
        token: For those after these; empty when there are none.
        left: How many those are; None when that is not known.
    """

    revision: int
    entries: Sequence[Entry]
    token: str
    left: int | None


@dataclass(frozen=True, slots=True)
class Listing:
    """All objects of a resource at one revision, in order.

    Attributes:
        is_as_pages: Whether that is the order of their positions.
    """

    revision: int
    entries: Iterable[Entry]
    is_as_pages: bool = True


@dataclass(frozen=True, slots=True)
class Column:
    """A column of ``kubectl get``; of priority 1 those that only ``-o wide`` shows."""

    name: str
    description: str
    type: str = "string"
    format: str = ""
    priority: int = 0


NAME_COLUMN = Column("Name", "Name must be unique within a namespace.", format=TABLE_NAME)


@dataclass(frozen=True, slots=True)
class Subresource:
    """A part of an object that has verbs of its own.

    Attributes:
        name: Behind the object's name in the path.
        kind: Of what it answers with.
        schema: Of what it answers with.
        verbs: What can be done.
        lists: Whether that is a list, which takes a list's parameters.
    """

    name: str
    kind: str
    schema: Schema
    verbs: tuple[str, ...]
    lists: bool = False


class Resource:
    """The objects of one kind. Every verb is refused unless a resource overrides it."""

    name: ClassVar[str]
    singular: ClassVar[str]
    kind: ClassVar[str]
    namespaced: ClassVar[bool] = True
    verbs: ClassVar[tuple[str, ...]]
    short_names: ClassVar[tuple[str, ...]] = ()
    categories: ClassVar[tuple[str, ...]] = ()
    schema: ClassVar[Schema]
    subresources: ClassVar[tuple[Subresource, ...]] = ()
    columns: ClassVar[tuple[Column, ...]] = (
        NAME_COLUMN,
        Column("Created At", "When the object was made."),
    )
    selectable: ClassVar[frozenset[str]] = frozenset({"metadata.name", "metadata.namespace"})
    position_length: ClassVar[int] = 2
    """Parts of an entry's position in lists."""

    def __init__(self, group: Group) -> None:
        self.group = group

    async def get(self, context: Context, name: str) -> Object:
        """Return an object."""
        raise self._refused(context, "get")

    async def listing(self, context: Context, revision: int | None) -> Listing:
        """Return all objects, as they are now or were at a revision; 0 for a moment ago."""
        raise self._refused(context, "list")

    async def part(
        self, context: Context, limit: int, revision: int | None, token: str, name: str
    ) -> Part | None:
        """Return some objects, or the one of a name; None where all are as cheap.

        Args:
            context: Of the request.
            limit: How many, at most.
            revision: As they were then; None for now.
            token: Of the part before.
            name: Of the only one that is wanted.
        """
        del context, limit, revision, token, name
        return None

    async def reach(self, revision: int) -> None:
        """Wait a little for a revision.

        Raises:
            Timeout: It has not come to that yet.
        """

    async def create(self, context: Context, document: Object, manager: Manager) -> Object:
        """Make an object."""
        raise self._refused(context, "create")

    async def update(
        self, context: Context, name: str, change: Change, subresource: str = ""
    ) -> Outcome:
        """Change an object, or a part of it."""
        raise self._refused(context, "update")

    async def delete(self, context: Context, name: str, options: DeleteOptions) -> Deletion:
        """Delete an object."""
        raise self._refused(context, "delete")

    async def get_part(self, context: Context, name: str, subresource: str) -> Object:
        """Return a part of an object."""
        raise self._refused(context, "get")

    def row(self, document: Object, now: datetime) -> list[Any]:
        """Return the cells of an object's row in a table."""
        del now
        metadata = document["metadata"]
        return [metadata.get("name", ""), metadata.get("creationTimestamp")]

    async def require_create(self, context: Context, name: str) -> None:
        """Let a client make what it was only allowed to change.

        Raises:
            Forbidden: It must not.
        """
        access = Access("create", self.name, "", context.namespace, name)
        if await context.allows(context.user, access):
            return
        where = "at the cluster scope"
        if context.namespace:
            where = f'in the namespace "{context.namespace}"'
        raise Forbidden(
            f'{self.qualified} "{name}" is forbidden: User "{context.user.username}" cannot create '
            f'resource "{self.name}" in API group "{self.group.name}" {where}',
            details=self.details(context, name),
        )

    @property
    def qualified(self) -> str:
        """The plural name with the group, as messages have it."""
        return f"{self.name}.{self.group.name}"

    def subresource(self, name: str) -> Subresource | None:
        """Return a subresource by its name."""
        return next((part for part in self.subresources if part.name == name), None)

    def details(self, context: Context, name: str) -> dict[str, Any]:
        """Say which object an error is about. Its kind is what the request asked for."""
        return {"name": name, "group": self.group.name, "kind": context.resource}

    def not_found(self, context: Context, name: str) -> NotFound:
        """There is no such object."""
        return NotFound(
            f'{context.resource}.{self.group.name} "{name}" not found',
            details=self.details(context, name),
        )

    def already_exists(self, context: Context, name: str) -> AlreadyExists:
        """There is such an object."""
        return AlreadyExists(
            f'{context.resource}.{self.group.name} "{name}" already exists',
            details=self.details(context, name),
        )

    def conflict(self, context: Context, name: str, why: str) -> Conflict:
        """The object is not what the client took it for."""
        return Conflict(
            f"Operation cannot be fulfilled on {context.resource}.{self.group.name} "
            f'"{name}": {why}',
            details=self.details(context, name),
        )

    def check_preconditions(
        self, context: Context, name: str, metadata: Object, options: DeleteOptions
    ) -> None:
        """Check that an object is the one that is to be deleted.

        Raises:
            Conflict: It is another one, or has changed.
        """
        for what, wanted, key in (
            ("UID", options.uid, "uid"),
            ("ResourceVersion", options.revision, "resourceVersion"),
        ):
            found = metadata.get(key, "")
            if wanted and wanted != found:
                why = f"{what} in precondition: {wanted[:64]}, {what} in object meta: {found}"
                raise self.conflict(context, name, f"Precondition failed: {why}")

    def modified(self, context: Context, name: str) -> Conflict:
        """Somebody else was faster."""
        return self.conflict(
            context,
            name,
            "the object has been modified; please apply your changes to the latest version and "
            "try again",
        )

    def require_no_uid(self, context: Context, name: str, metadata: Object) -> None:
        """Let nothing be made in place of what a client takes to be there still.

        Raises:
            Conflict: It says which one it means.
        """
        if metadata.get("uid"):
            uid = metadata["uid"][:64]
            why = f"the provided object specified uid {uid}, and no existing object was found"
            raise self.conflict(context, name, f"uid mismatch: {why}")

    def invalid(self, name: str, causes: Sequence[Cause]) -> Invalid:
        """The object breaks the rules of its kind."""
        return invalid_object(self.kind, self.group.name, name, causes)

    def _refused(self, context: Context, verb: str) -> StatusError:
        return MethodNotAllowed(
            f'{verb} is not supported on resources of kind "{context.resource}.{self.group.name}"',
            details={"group": self.group.name, "kind": context.resource},
        )


def unavailable(error: StoreUnavailable) -> StatusError:
    """The store does not work at the moment, or has no room."""
    if isinstance(error, StoreFull):
        return InsufficientStorage(str(error))
    return ServiceUnavailable(str(error), details={"retryAfterSeconds": 1})
