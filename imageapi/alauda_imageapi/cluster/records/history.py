"""What happened before a process began to follow, as far as the API server still knows."""

import asyncio
import logging
import random

from alauda_imageapi.cluster.records import encoding
from alauda_imageapi.cluster.records.encoding import Record, RecordKind, Unpacked, Unreadable
from alauda_imageapi.machinery.ring import Ring
from alauda_imageapi.machinery.store import Compacted, Event, EventType
from alauda_registry.kube.errors import Expired, KubeError
from alauda_registry.kube.resources import ListQuery, Manifest, ResourceClient, WatchEvent

logger = logging.getLogger(__name__)

_FIRST_SIGN_SECONDS = 0.3
_TRIES = 5


class History:
    """The changes up to the revision at which a ring begins, for watches that are older.

    It is a watch of the API server's that goes on until it shows something later; on a quiet kind
    that takes until the next bookmark. Meanwhile those who wait for it are told nothing that comes
    later, so that they have everything in order.

    Args:
        client: Of the API server.
        kind: Of the records.
        unpacked: What was unpacked lately.
        ring: Takes the changes; empty.
        end: The revision at which the other ring begins.
    """

    def __init__(
        self, client: ResourceClient, kind: RecordKind, unpacked: Unpacked, ring: Ring, end: int
    ) -> None:
        self._client, self._kind, self._unpacked = client, kind, unpacked
        self.ring = ring
        self.end = end
        self._sign = asyncio.Event()
        self._known: dict[tuple[str, str], Record] = {}
        self._is_gone = False

    @property
    def is_useful(self) -> bool:
        """Whether there is, or will be, anything in it."""
        return not self._is_gone

    @property
    def is_complete(self) -> bool:
        """Whether everything is in it."""
        return self.ring.reached >= self.end

    async def open(self, group: asyncio.TaskGroup, after: int) -> None:
        """Begin after a revision, and wait a little for a sign that it is still known.

        Raises:
            Compacted: It is not.
        """
        self.ring.reset(after)
        group.create_task(self._run())
        try:
            async with asyncio.timeout(_FIRST_SIGN_SECONDS):
                await self._sign.wait()
        except TimeoutError:
            return
        if self._is_gone:
            raise Compacted

    async def _run(self) -> None:
        try:
            for _ in range(_TRIES):
                try:
                    async with self._client.watch(self._kind.of, str(self.ring.reached)) as events:
                        async for event in events:
                            await self._take(event)
                            self._sign.set()
                            if self.is_complete:
                                return
                except Expired:
                    break
                except KubeError as error:
                    logger.info("earlier %s are not known: %s", self._kind.of.resource, error)
                    await asyncio.sleep(random.uniform(0.2, 1.0))  # noqa: S311 -- spread only
                except Exception:
                    logger.exception("earlier %s are not known: unforeseen", self._kind.of.resource)
                    break
            self._is_gone = True
            # Whoever waits for it hears that it is not known any more.
            self.ring.reset(self.end)
        finally:
            self._sign.set()

    async def _take(self, event: WatchEvent) -> None:
        revision = event.revision
        if event.type != "BOOKMARK" and revision <= self.end:
            change = await self._change(event)
            if change is not None:
                self.ring.add(change)
        self.ring.advance(min(revision, self.end))
        # Also who follows nothing of it has to hear that he may go on with what comes after it.
        self.ring.wake_all()

    async def _change(self, event: WatchEvent) -> Event | None:
        metadata = event.object["metadata"]
        where = (metadata.get("namespace", ""), metadata["name"])
        try:
            record = encoding.read(self._kind, event.object, self._unpacked)
            previous = await self._previous(event, record, where)
        except Unreadable as error:
            logger.warning("a change is passed over: %s", error)
            return None
        if event.type == EventType.DELETED:
            self._known.pop(where, None)
        else:
            self._known[where] = record
        return Event(EventType(event.type), record, previous)

    async def _previous(
        self, event: WatchEvent, record: Record, where: tuple[str, str]
    ) -> Record | None:
        """Return the state before a change, which only the first change of an object has to ask."""
        if event.type == EventType.ADDED:
            return None
        if event.type == EventType.DELETED:
            # Deleting changes nothing else.
            return self._known.get(where, record)
        if where in self._known:
            return self._known[where]
        before: Manifest = await self._at(where, event.revision - 1)
        return encoding.read(self._kind, before, self._unpacked)

    async def _at(self, where: tuple[str, str], revision: int) -> Manifest:
        namespace, name = where
        query = ListQuery(namespace=namespace, name=name, revision=str(revision))
        page = await self._client.list(self._kind.of, query)
        if not page.items:
            raise Expired(f"{namespace}/{name} was not there at {revision}")
        return page.items[0]
