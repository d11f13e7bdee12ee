"""What could be wrong with a registry over a bucket, to see that the proof finds it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from alauda_registry.oci.digest import Digest
from alauda_registry.oci.reference import Tag
from alauda_registry.storage import locks, paths
from alauda_registry.storage.bucket.tags import BucketTagStore
from alauda_registry.storage.content import read_link
from alauda_registry.storage.driver import ObjectStore, Stage, Unreachable
from alauda_registry.storage.drivers.s3.client import S3Client
from alauda_registry.storage.drivers.s3.direct import DirectWriter
from alauda_registry.storage.drivers.s3.driver import S3Driver
from alauda_registry.storage.drivers.s3.locks import Locks
from alauda_registry.storage.drivers.s3.reading import SharedReads
from tests.torture.programs import Action, Program
from tests.torture.replicas_of_bucket import NO_TROUBLE, Trouble

_publish = S3Driver.publish
_put = S3Client.put
_read = SharedReads.read
_pointing_to = BucketTagStore.pointing_to


def links_first() -> AbstractContextManager[Any]:
    """Links show before what they lead to."""

    async def publish(self: S3Driver, *stages: Stage) -> None:
        await _publish(self, *reversed(stages))

    return patch.object(S3Driver, "publish", publish)


def shown_unchecked() -> AbstractContextManager[Any]:
    """An object is completed, whatever its digest turns out to be."""

    async def abort(self: DirectWriter) -> None:
        await self.commit()

    return patch.object(DirectWriter, "abort", abort)


def lost_answers_taken_for_success() -> AbstractContextManager[Any]:
    """A write that nobody confirmed is acknowledged."""

    async def put(self: S3Client, path: str, body: Sequence[bytes], **more: Any) -> str:
        try:
            return await _put(self, path, body, **more)
        except Unreachable:
            return ""

    return patch.object(S3Client, "put", put)


def deletions_unnoticed() -> AbstractContextManager[Any]:
    """A push does not look again whether something was deleted meanwhile."""

    async def deletions(objects: ObjectStore, name: str) -> str:
        return ""

    return patch.object(locks, "deletions", deletions)


def tags_forgotten() -> AbstractContextManager[Any]:
    """Deleting a manifest leaves the tags that point to it."""

    async def pointing_to(self: BucketTagStore, digest: Digest) -> list[Tag]:
        return []

    return patch.object(BucketTagStore, "pointing_to", pointing_to)


def tags_seen_once() -> AbstractContextManager[Any]:
    """Deleting a manifest does not look for tags again when it is gone."""

    async def pointing_to(self: BucketTagStore, digest: Digest) -> list[Tag]:
        revision = paths.revision_link(self._name, digest)
        if await read_link(self._driver, revision) is None:
            return []
        return await _pointing_to(self, digest)

    return patch.object(BucketTagStore, "pointing_to", pointing_to)


def links_remembered() -> AbstractContextManager[Any]:
    """What one replica has read once it takes for what is there."""

    async def read(self: SharedReads, path: str) -> bytes:
        known: dict[str, bytes] = self.__dict__.setdefault("known", {})
        if path not in known:
            known[path] = await _read(self, path)
        return known[path]

    return patch.object(SharedReads, "read", read)


def conditions_ignored() -> AbstractContextManager[Any]:
    """An object is replaced, whoever else has replaced it."""

    async def put(self: S3Client, path: str, body: Sequence[bytes], **more: Any) -> str:
        more.pop("instead_of", None)
        return await _put(self, path, body, **more)

    return patch.object(S3Client, "put", put)


def locks_ignored() -> AbstractContextManager[Any]:
    """Nobody waits for a lock, and nobody sees who holds one."""

    async def nothing(self: Locks, *arguments: object, **more: object) -> str:
        return ""

    return patch.multiple(Locks, _acquire=nothing, _release=nothing, settled=nothing)


PUSH = Action("push", 0, 0, 1)
PUSH_TWO_TAGS = Action("push", 0, 0, 3)
DELETE = Action("delete manifest", 0, 0, 0)
_RACE = ((PUSH,), (DELETE, PUSH), (DELETE,))
_TURNS = ((DELETE, PUSH, DELETE, PUSH), (DELETE, PUSH, DELETE))


@dataclass(frozen=True, slots=True)
class Mutation:
    """Something wrong, and what it is found in.

    Attributes:
        plant: Does it, for the length of a block.
        start: What the clients find, see ``programs.STARTS``.
        clients: What they do; a number decides in which order.
        trouble: What else goes wrong meanwhile.
    """

    plant: Callable[[], AbstractContextManager[Any]]
    start: int
    clients: tuple[tuple[Action, ...], ...]
    trouble: Trouble = NO_TROUBLE

    def programs(self, count: int) -> Iterator[Program]:
        """Yield as many programs, which differ in the order of what happens."""
        for number in range(count):
            yield Program(self.start, self.clients, number)


MUTATIONS = (
    Mutation(links_first, 1, ((PUSH,),)),
    Mutation(shown_unchecked, 0, _RACE),
    Mutation(
        lost_answers_taken_for_success,
        1,
        ((Action("push blob", 1, 1, 2),),),
        Trouble(refused=0.7),
    ),
    Mutation(deletions_unnoticed, 0, ((PUSH_TWO_TAGS,), (DELETE,))),
    Mutation(tags_forgotten, 0, _RACE),
    Mutation(links_remembered, 0, _TURNS),
    Mutation(conditions_ignored, 0, _RACE),
    Mutation(locks_ignored, 0, _RACE),
)
