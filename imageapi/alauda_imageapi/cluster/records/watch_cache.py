"""What the records of one kind are, kept up to date by following what happens to them."""

import asyncio
import logging
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

from alauda_imageapi.cluster.records import encoding
from alauda_imageapi.cluster.records.encoding import Record, RecordKind, Unpacked, Unreadable
from alauda_imageapi.cluster.records.history import History
from alauda_imageapi.machinery.ring import Ring
from alauda_imageapi.machinery.store import (
    Compacted,
    Event,
    EventType,
    Key,
    StoreUnavailable,
)
from alauda_registry.kube.errors import Expired, KubeError
from alauda_registry.kube.resources import ListQuery, Manifest, ResourceClient, WatchEvent

logger = logging.getLogger(__name__)

Place: TypeAlias = tuple[str, str]
"""Namespace and name of a record."""

_PAGE = 100
_LONGEST_PAUSE = 5.0
_SHORT_SECONDS = 5.0
"""A watch that lasts longer was not ended as soon as it began."""

_MOST_HISTORIES = 4


@dataclass(frozen=True, slots=True)
class RecordLimits:
    """How much is kept.

    Attributes:
        object_bytes: The largest document.
        record_bytes: The largest payload, compressed and as text. etcd takes 1.5 MiB for the
            whole record.
        ring_rows: Changes of each kind that are known for watches and pages; twice as many at most.
        ring_bytes: What these may take, unless they are only a few.
        unpacked_bytes: What documents may take that are kept as they are sent.
        reach_seconds: How long a revision, or the first look at the cluster, is waited for.
        deaf_seconds: How long watches stay open when it is known that it is not heard what happens
            in the cluster. A connection that has gone silent is noticed after 100 s.
        snapshots: Lists of each kind that are known for their later pages.
    """

    object_bytes: int = 32 * 2**20
    record_bytes: int = 1536 * 2**10 - 16 * 2**10
    ring_rows: int = 10_000
    ring_bytes: int = 16 * 2**20
    unpacked_bytes: int = 32 * 2**20
    reach_seconds: float = 3.0
    deaf_seconds: float = 10.0
    snapshots: int = 16


class WatchCache:
    """All records of one kind, as they were a moment ago, and the latest changes of them.

    Args:
        client: Of the API server that has them.
        kind: Theirs.
        unpacked: What was unpacked lately.
        limits: How much is kept.
    """

    def __init__(
        self, client: ResourceClient, kind: RecordKind, unpacked: Unpacked, limits: RecordLimits
    ) -> None:
        self._client, self._kind, self._unpacked, self._limits = client, kind, unpacked, limits
        self.state: dict[Place, Record] = {}
        self.unreadable: dict[Place, Unreadable] = {}
        """What is wrong with those that cannot be read. They are raised again and again, so without
        the traceback of the last time: it would grow, and keep all that it leads to."""
        self.ring = Ring(limits.ring_rows, limits.ring_bytes)
        self.trouble = "they have not been read yet"
        """Why the records are not followed at the moment; empty when they are."""
        self._is_deaf = False
        self._deafness: asyncio.TimerHandle | None = None
        self._loaded = asyncio.Event()
        self._deletions: dict[str, list[asyncio.Future[Record]]] = {}
        self._histories: list[History] = []
        self._opening = asyncio.Lock()

    async def run(self) -> None:
        """Follow the records for ever."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                await self._follow()
            finally:
                if self._deafness is not None:
                    self._deafness.cancel()

    async def _follow(self) -> None:
        # Watches that brought nothing, one after the other: also those that were ended at once.
        futile = 0
        while True:
            futile += 1
            is_resumed, began = self._loaded.is_set(), time.monotonic()
            try:
                if not self._loaded.is_set():
                    await self._load()
                async with self._client.watch(self._kind.of, str(self.ring.reached)) as events:
                    self._hear()
                    async for event in events:
                        futile = 0
                        self._apply(event)
            except Expired:
                logger.info("%s are read again: the watch is too old", self._kind.of.resource)
                self._loaded.clear()
                self.trouble = "they are being read again"
                if is_resumed:
                    futile = 0
            except KubeError as error:
                # Told once, and not with every try.
                level = logging.DEBUG if self.trouble == str(error) else logging.WARNING
                logger.log(level, "%s are not followed: %s", self._kind.of.resource, error)
                self.trouble = str(error)
            except Exception:
                # Whatever it was: without this task nothing would ever be followed again.
                logger.exception("%s are read again: unforeseen", self._kind.of.resource)
                self._loaded.clear()
                self.state = {}
                self.trouble = "the log says why"
            if self.trouble and self._deafness is None:
                self._become_deaf_later()
            if time.monotonic() - began > _SHORT_SECONDS:
                futile = 1 if self.trouble else 0
            longest = min(_LONGEST_PAUSE, 0.1 * 2 ** min(futile, 10)) if futile else 0.0
            await asyncio.sleep(random.uniform(longest / 2, longest))  # noqa: S311 -- spread only

    async def wait_until_loaded(self) -> None:
        """Wait a little until there is a state.

        Raises:
            StoreUnavailable: There is none yet.
        """
        if self._loaded.is_set():
            return
        try:
            async with asyncio.timeout(self._limits.reach_seconds):
                await self._loaded.wait()
        except TimeoutError:
            raise StoreUnavailable(
                "the image API has not read its records from the cluster yet: try again"
            ) from None

    async def wait_until_followed(self) -> None:
        """Wait a little until there is a state, and see that it is kept up to date.

        Raises:
            StoreUnavailable: It is not.
        """
        await self.wait_until_loaded()
        if self._is_deaf:
            raise _deaf()

    def _hear(self) -> None:
        self.trouble, self._is_deaf = "", False
        if self._deafness is not None:
            self._deafness.cancel()
            self._deafness = None

    def _become_deaf_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._deafness = loop.call_later(self._limits.deaf_seconds, self._become_deaf)

    def _become_deaf(self) -> None:
        """Send those who follow to another replica, which may hear what this one does not."""
        self._is_deaf = True
        self.ring.fail(_deaf())
        # Who follows what happened earlier comes here later.
        self._become_deaf_later()

    def read(self, manifest: Manifest) -> Record:
        """Return what a record is of, without a second copy of one that is known.

        Raises:
            Unreadable: It is not one of ours.
        """
        record = encoding.read(self._kind, manifest, self._unpacked)
        known = self.state.get(place_of(manifest))
        return known if known is not None and is_same(known, manifest) else record

    def known(self, key: Key) -> Record | None:
        """Return an object as it was a moment ago.

        Raises:
            Unreadable: Its record is not one of ours.
        """
        where = key.namespace, self._kind.name(key.name)
        if where in self.unreadable:
            raise self.unreadable[where].with_traceback(None)
        return self.state.get(where)

    @contextmanager
    def deletion(self, uid: str) -> "Iterator[asyncio.Future[Record]]":
        """Give what will have the last state of a record, with the revision of its deletion."""
        waiting: asyncio.Future[Record] = asyncio.get_running_loop().create_future()
        self._deletions.setdefault(uid, []).append(waiting)
        try:
            yield waiting
        finally:
            self._deletions[uid].remove(waiting)
            if not self._deletions[uid]:
                del self._deletions[uid]

    async def history(self, after: int) -> History:
        """Return what happened from a revision before the ring up to its beginning.

        Raises:
            Compacted: It is not known any more.
        """
        async with self._opening:
            self._histories = [found for found in self._histories if found.is_useful]
            for found in self._histories:
                if found.ring.oldest <= after and found.end >= self.ring.oldest:
                    return found
            if len(self._histories) >= _MOST_HISTORIES:
                # Whoever still follows one keeps it.
                complete = [found for found in self._histories if found.is_complete]
                if not complete:
                    raise Compacted
                self._histories.remove(complete[0])
            ring = Ring(self._limits.ring_rows, self._limits.ring_bytes)
            made = History(self._client, self._kind, self._unpacked, ring, self.ring.oldest)
            await made.open(self._group, after)
            self._histories.append(made)
            return made

    async def _load(self) -> None:
        state: dict[Place, Record] = {}
        unreadable: dict[Place, Unreadable] = {}
        token, revision = "", ""
        while not revision or token:
            page = await self._client.list(self._kind.of, ListQuery(limit=_PAGE, token=token))
            token, revision = page.token, page.revision
            for manifest in page.items:
                where = place_of(manifest)
                try:
                    state[where] = self.read(manifest)
                except Unreadable as error:
                    logger.error("%s", error)
                    unreadable[where] = error
        was, self.state, self.unreadable = self.state, state, unreadable
        if was and was.keys() == state.keys() and all(was[at] is state[at] for at in state):
            # Nobody who follows has missed anything that he would find in a list.
            self.ring.advance(int(revision))
            self.ring.wake()
        else:
            self.ring.reset(int(revision))
        self._loaded.set()

    def _apply(self, event: WatchEvent) -> None:
        if event.type == "BOOKMARK":
            self.ring.advance(event.revision)
        else:
            change = self._change(event)
            if change is None:
                self.ring.advance(event.revision)
            else:
                self.ring.add(change)
        self.ring.wake()

    def _change(self, event: WatchEvent) -> Event | None:
        """Bring the state to what it is after an event, and return what that is to others."""
        where = place_of(event.object)
        previous = self.state.get(where)
        self.unreadable.pop(where, None)
        try:
            record = encoding.read(self._kind, event.object, self._unpacked)
        except Unreadable as error:
            if event.type != EventType.DELETED:
                logger.error("%s", error)
                self.unreadable[where] = error
                return None
            if previous is None:
                return None
            record = previous.at(event.revision)
        if event.type == EventType.DELETED:
            self.state.pop(where, None)
            for waiting in self._deletions.get(record.origin.uid, ()):
                if not waiting.done():
                    waiting.set_result(record)
        else:
            self.state[where] = record
        return Event(EventType(event.type), record, previous)


def _deaf() -> StoreUnavailable:
    return StoreUnavailable(
        "the image API does not hear of changes in the cluster at the moment: the log says why"
    )


def place_of(manifest: Manifest) -> Place:
    """Return where a record is."""
    metadata = manifest["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


def is_same(record: Record, manifest: Manifest) -> bool:
    """Whether a record is in the state that its metadata tell of."""
    metadata = manifest["metadata"]
    return (record.origin.uid, str(record.revision)) == (
        metadata["uid"],
        metadata["resourceVersion"],
    )
