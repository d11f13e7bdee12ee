"""The contract between the API and whatever keeps its objects.

A store knows keys, documents and one order of changes; it knows nothing of kinds, HTTP or users.
Revisions only grow, each commit has one, and whoever saw revision N never hears later of a change
up to N. ``tests/contract/test_object_stores.py`` is the executable half of this file.
"""

from collections.abc import Sequence
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
        self.body = body

    def object(self) -> Object:
        """Return the document, which may be changed."""
        found: Object = objects.decode(self.body)
        return found

    @cached_property
    def labels(self) -> dict[str, str]:
        """The object's labels."""
        labels: dict[str, str] = self.object()["metadata"].get("labels") or {}
        return labels

    @cached_property
    def cache(self) -> dict[str, Any]:
        """Whatever follows from the document and is worth keeping with it."""
        return {}


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
class Snapshot:
    """All objects of a resource as they were at one revision, ordered by namespace and name."""

    revision: int
    items: Sequence[Stored]


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


class TooNew(StoreError):
    """The revision does not exist yet."""

    def __init__(self, asked: int, current: int) -> None:
        super().__init__(f"revision {asked} is larger than {current}")
        self.asked = asked
        self.current = current


class ObjectTooLarge(StoreError):
    """The document is larger than the store takes."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"the object has {size} bytes, and the store takes {limit}")
        self.size = size
        self.limit = limit


class StoreUnavailable(StoreError):
    """The store does not work at the moment; the message says how, the log has the rest."""


class Watch(Protocol):
    """Changes of one resource, in order and without gaps."""

    @property
    def revision(self) -> int:
        """Every change up to here has been returned."""
        ...

    async def next(self, seconds: float) -> Sequence[Event]:
        """Return the next changes, or none when none came in time.

        Raises:
            Compacted: The caller was too slow.
        """
        ...


class ObjectStore(Protocol):
    """Keeps objects. Everything it returns has happened for good.

    Every call may raise `StoreUnavailable`.
    """

    async def get(self, key: Key) -> Stored | None:
        """Return the latest state of an object: nobody was told of a later one before the call."""
        ...

    async def snapshot(self, resource: str, revision: int | None = None) -> Snapshot:
        """Return a resource as it is now, or as it was.

        Raises:
            Compacted: That is not known any more.
            TooNew: It has not come to that yet.
        """
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

    async def watch(self, resource: str, after: int) -> Watch:
        """Follow what happens after a revision that was reached.

        Raises:
            Compacted: What happened then is not known any more.
        """
        ...
