"""The contract between the API and whatever keeps its objects.

A store knows keys, documents and one order of changes; it knows nothing of kinds, HTTP or users.
Revisions only grow, each commit has one, and whoever saw revision N never hears later of a change
up to N. ``tests/contract/test_object_stores.py`` is the executable half of this file.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any, Protocol

from alauda_imageapi.machinery import objects
from alauda_imageapi.machinery.objects import Object


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """Where an object is.

    Attributes:
        resource: The plural name of its kind.
        namespace: Empty for what belongs to none.
        name: As it is in the object.
    """

    resource: str
    namespace: str
    name: str


class Stored:
    """The state of an object at a revision; its document is never changed.

    Args:
        key: Where it is.
        revision: Of its last change.
        body: The document, which has the revision as ``metadata.resourceVersion``.
    """

    def __init__(self, key: Key, revision: int, body: bytes) -> None:
        self.key = key
        self.revision = revision
        self._kept = body
        self._cache: dict[str, Any] = {}

    @property
    def body(self) -> bytes:
        """The document."""
        return self._kept

    @property
    def size(self) -> int:
        """Bytes that keeping it takes."""
        return len(self._kept)

    def object(self) -> Object:
        """Return the document, which may be changed."""
        found: Object = objects.decode(self.body)
        return found

    @cached_property
    def labels(self) -> dict[str, str]:
        """The object's labels."""
        labels: dict[str, str] = self.object()["metadata"].get("labels") or {}
        return labels

    @property
    def cache(self) -> dict[str, Any]:
        """Whatever follows from the document and is worth keeping for a while."""
        return self._cache


class EventType(StrEnum):
    """What happened."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"


@dataclass(frozen=True, slots=True)
class Event:
    """A change.

    Attributes:
        type: What happened.
        stored: The state after it; of what was deleted, the last one, with the revision of
            the deletion.
        previous: The state before it.
    """

    type: EventType
    stored: Stored
    previous: Stored | None

    @property
    def revision(self) -> int:
        """Of the change."""
        return self.stored.revision


@dataclass(frozen=True, slots=True)
class Choice:
    """Some objects of a resource. Equal choices are made once, for all who have made them.

    Attributes:
        namespace: Whose objects; empty for all of them.
        matches: Which of these; without it all of them.
    """

    namespace: str = ""
    matches: Callable[[Stored], bool] | None = None

    def has(self, stored: Stored) -> bool:
        """Tell whether an object is one of them."""
        if self.namespace and stored.key.namespace != self.namespace:
            return False
        return self.matches is None or self.matches(stored)


EVERYTHING = Choice()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Objects of a resource as they were at one revision, ordered by namespace and name."""

    revision: int
    items: Sequence[Stored]


@dataclass(frozen=True, slots=True)
class Page:
    """Some objects of a resource as they were at one revision.

    Attributes:
        revision: The same for all pages of a list.
        items: In the store's own order (`ObjectStore.order`).
        token: Where the next page begins; empty when there is none.
        left: How many objects the next pages have; None when that is not known.
    """

    revision: int
    items: Sequence[Stored]
    token: str
    left: int | None


class StoreError(Exception):
    """A store could not do what it was asked."""


class Exists(StoreError):
    """There is an object at the key."""


class Missing(StoreError):
    """There is no object at the key."""


class Changed(StoreError):
    """The object is not at the revision it was expected at."""


class Compacted(StoreError):
    """What happened since the revision is not known any more."""


class TokenInvalid(StoreError):
    """No page of this list begins at the token."""


class TooNew(StoreError):
    """The revision does not exist yet."""

    def __init__(self, asked: int, current: int) -> None:
        super().__init__(f"revision {asked} is larger than {current}")
        self.asked = asked
        self.current = current


class ObjectTooLarge(StoreError):
    """The document is larger than the store takes.

    Args:
        size: Bytes that it has.
        limit: Bytes that it may have.
        is_packed: Whether both are counted as the store packs documents.
    """

    def __init__(self, size: int, limit: int, *, is_packed: bool = False) -> None:
        how = " when it is compressed" if is_packed else ""
        super().__init__(f"it has {size} bytes{how}, and at most {limit} are kept")


class NamespaceGone(StoreError):
    """Nothing can be made in a namespace that is not there, or is ending."""

    def __init__(self, namespace: str, *, is_ending: bool) -> None:
        super().__init__(f"namespace {namespace} is {'ending' if is_ending else 'not there'}")
        self.namespace = namespace
        self.is_ending = is_ending


class StoreUnavailable(StoreError):
    """The store does not work at the moment; the message says how, the log has the rest."""


class StoreFull(StoreUnavailable):
    """There is no room; the message says where, and what to do about it."""


class Watch(Protocol):
    """Changes of one resource, in order and without gaps."""

    lost: "asyncio.Future[None]"
    """Done when the caller has become too slow, also while it does not ask."""

    @property
    def revision(self) -> int:
        """Every change up to here has been returned."""
        ...

    async def next(self, seconds: float) -> Sequence[Event]:
        """Return the next changes, or none when none came in time.

        What comes to be chosen is added, and what ceases to be is deleted, in its new state.

        Raises:
            Compacted: The caller was too slow.
        """
        ...


class ObjectStore(Protocol):
    """Keeps objects. Everything it returns has happened for good.

    Every call may raise `StoreUnavailable`.
    """

    async def get(self, key: Key, *, recent: bool = False) -> Stored | None:
        """Return the latest state of an object: nobody was told of a later one before the call.

        Args:
            key: Where it is.
            recent: That of a moment ago will do.
        """
        ...

    async def get_several(self, keys: Iterable[Key]) -> Mapping[Key, Stored]:
        """Return those of some objects that there are, at little more cost than one of them.

        What was made before the call is found; each is as it was a moment ago at least, so that
        one that was just deleted may still be there.
        """
        ...

    async def snapshot(
        self, resource: str, revision: int | None = None, *, namespace: str = ""
    ) -> Snapshot:
        """Return a resource as it is now, or as it was.

        Args:
            resource: The plural name of the kind.
            revision: When it was so; 0 when the state of a moment ago will do.
            namespace: Whose objects; empty for all of them.

        Raises:
            Compacted: That is not known any more.
            TooNew: It has not come to that yet.
        """
        ...

    async def page(
        self,
        resource: str,
        *,
        limit: int,
        namespace: str = "",
        name: str = "",
        revision: int | None = None,
        token: str = "",
    ) -> Page:
        """Return some objects of a resource as it is now, without looking at the others.

        Args:
            resource: The plural name of the kind.
            limit: How many, at most.
            namespace: Whose objects; empty for all of them.
            name: Of a single object; empty for all of them.
            revision: As it was then; None for now.
            token: Of the page before, which needs the revision, too; empty for the first page.

        Raises:
            Compacted: That is not known any more.
            TokenInvalid: It is not a token of this list.
            TooNew: It has not come to that yet.
        """
        ...

    def order(self, key: Key) -> tuple[str, str]:
        """Return what the objects of pages are ordered by, so that a list can go on without one."""
        ...

    async def reach(self, resource: str, revision: int) -> None:
        """Wait a little for a revision.

        Raises:
            TooNew: It has not come to that yet.
        """
        ...

    async def create(self, key: Key, document: Object) -> Stored:
        """Keep a new object.

        Raises:
            Exists: There is one at the key.
            NamespaceGone: Where namespaces are more than a part of keys.
            ObjectTooLarge: It is larger than the store takes.
        """
        ...

    async def update(self, key: Key, document: Object, *, expected: int) -> Stored:
        """Replace an object that is at a revision.

        Raises:
            Changed: It is at another.
            Missing: It is gone.
            ObjectTooLarge: It is larger than the store takes.
        """
        ...

    async def delete(self, key: Key, *, expected: int) -> Stored:
        """Remove an object that is at a revision, and return its last state.

        Raises:
            Changed: It is at another.
            Missing: It is gone already.
        """
        ...

    async def watch(self, resource: str, after: int, choice: Choice = EVERYTHING) -> Watch:
        """Follow what happens after a revision that was reached.

        Args:
            resource: The plural name of the kind.
            after: The revision.
            choice: Which objects are followed.

        Raises:
            Compacted: What happened then is not known any more.
        """
        ...
