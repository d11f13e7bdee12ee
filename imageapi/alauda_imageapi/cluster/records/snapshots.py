"""Lists of the records of one kind: as they are now, or were at a revision.

Now means: at a revision that the API server names when it is asked. What it is asked for are names
and revisions only, and of a page of a list those that are on it; the objects are known from the
watch cache, and what that does not know yet is read. To wait until the watch has come that far
would not do: on a quiet kind that takes minutes.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

from alauda_imageapi.cluster.records.encoding import Record, RecordKind
from alauda_imageapi.cluster.records.watch_cache import (
    Place,
    RecordLimits,
    WatchCache,
    is_same,
    place_of,
)
from alauda_imageapi.machinery.store import (
    Compacted,
    Page,
    Snapshot,
    Stored,
    TokenInvalid,
    TooNew,
)
from alauda_registry.kube.errors import Expired, Rejected
from alauda_registry.kube.resources import ListQuery, Manifest, ResourceClient
from alauda_registry.storage.together import together

_PAGE = 1000
_AT_ONCE = 8
_EARLIER_AT_ONCE = 2
_POLL_SECONDS = 0.2


class Snapshots:
    """The states of one kind.

    Args:
        client: Of the API server.
        kind: Of the records.
        cache: Of the same kind.
        limits: How much is kept.
    """

    def __init__(
        self, client: ResourceClient, kind: RecordKind, cache: WatchCache, limits: RecordLimits
    ) -> None:
        self._client, self._kind, self._cache, self._limits = client, kind, cache, limits
        self._head = 0
        self._made: OrderedDict[tuple[int, str], Snapshot] = OrderedDict()
        self._under_way: dict[str, asyncio.Task[Snapshot]] = {}
        self._waiting: dict[str, asyncio.Task[Snapshot]] = {}
        # Of states that only the API server knows; anybody may ask for as many as there were.
        self._turns = asyncio.Semaphore(_EARLIER_AT_ONCE)
        self._polls, self._polling = 0, asyncio.Lock()

    async def now(self, namespace: str) -> Snapshot:
        """Return a state that is not older than the call.

        Who comes while the API server is being asked must not get that answer, which may be older.
        So all who come meanwhile share the next one.
        """
        asked = self._waiting.get(namespace)
        if asked is None:
            asked = asyncio.ensure_future(self._ask(namespace, self._under_way.get(namespace)))
            self._waiting[namespace] = asked
            # Everybody who wanted it may have gone.
            asked.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(asked)

    async def page(self, query: ListQuery) -> Page:
        """Return some objects.

        Args:
            query: Asks for the metadata of their records. Its revision is that of the first page,
                also when it has a token.

        Raises:
            Compacted: They are not known any more.
            TokenInvalid: It is not a token of this list.
            TooNew: It has not come to the revision yet.
        """
        await self._cache.wait_until_loaded()
        if query.revision and not query.token:
            await self.reach(int(query.revision))
        try:
            page = await self._client.list(self._kind.of, query)
        except Expired as error:
            raise Compacted from error
        except Rejected as error:
            if not query.token:
                raise
            raise TokenInvalid from error
        if query.revision not in ("", page.revision):
            raise TokenInvalid
        try:
            items = await self._found(page.items, self._saw(page.revision))
        except Expired as error:
            raise Compacted from error
        left = page.remaining
        return Page(int(page.revision), items, page.token, left if page.token else 0)

    async def recent(self, namespace: str) -> Snapshot:
        """Return the state of a moment ago."""
        cache = self._cache
        await cache.wait_until_loaded()
        return self._undone(cache.ring.reached, namespace)

    async def at(self, revision: int, namespace: str) -> Snapshot:
        """Return the state at a revision.

        Raises:
            Compacted: It is not known any more.
            TooNew: It has not come to that yet.
        """
        made = self._made.get((revision, namespace))
        if made is not None:
            self._made.move_to_end((revision, namespace))
            return made
        await self.reach(revision)
        # While everything is read again, what is known is not what there is.
        await self._cache.wait_until_loaded()
        ring = self._cache.ring
        if ring.oldest <= revision <= ring.reached:
            return self._keep(self._undone(revision, namespace), namespace)
        async with self._turns:
            # Whoever had the turn before may have asked for the same.
            made = self._made.get((revision, namespace))
            if made is not None:
                return made
            try:
                return await self._listed(namespace, str(revision))
            except Expired as error:
                raise Compacted from error

    async def reach(self, revision: int) -> None:
        """Wait a little for a revision.

        Raises:
            TooNew: It has not come to that yet.
        """
        if revision <= max(self._head, self._cache.ring.reached):
            return
        loop = asyncio.get_running_loop()
        end = loop.time() + self._limits.reach_seconds
        head = await self.ask_head()
        while revision > head:
            if loop.time() > end:
                raise TooNew(revision, self._head)
            head = await self._ask_again()

    async def ask_head(self) -> int:
        """Return the revision that the API server is at now."""
        query = ListQuery(metadata_only=True, limit=1)
        self._saw((await self._client.list(self._kind.of, query)).revision)
        return self._head

    async def _ask_again(self) -> int:
        """Ask in a moment, once for all who wait: anybody may, for what will never come."""
        polls = self._polls
        async with self._polling:
            if polls == self._polls:
                await asyncio.sleep(_POLL_SECONDS)
                try:
                    await self.ask_head()
                finally:
                    self._polls += 1
        return self._head

    async def _ask(self, namespace: str, before: "asyncio.Task[Snapshot] | None") -> Snapshot:
        if before is not None:
            await asyncio.wait([before])
        task = self._under_way[namespace] = self._waiting.pop(namespace)
        try:
            return await self._listed(namespace)
        finally:
            if self._under_way[namespace] is task and namespace not in self._waiting:
                del self._under_way[namespace]

    def _saw(self, revision: str) -> int:
        self._head = max(self._head, int(revision))
        return int(revision)

    async def _listed(self, namespace: str, revision: str = "") -> Snapshot:
        cache = self._cache
        await cache.wait_until_loaded()
        query = ListQuery(namespace=namespace, metadata_only=True, limit=_PAGE, revision=revision)
        found: list[Stored] = []
        while True:
            page = await self._client.list(self._kind.of, query)
            at = self._saw(page.revision)
            # There may be many: what the API server says of them is let go page by page.
            found += await self._found(page.items, at)
            if not page.token:
                return self._keep(Snapshot(at, sorted(found, key=_position)), namespace)
            query = replace(query, revision="", token=page.token)

    async def _found(self, items: Sequence[Manifest], revision: int) -> list[Stored]:
        """Return the records of which there are only metadata, as they were at a revision.

        Raises:
            Unreadable: One of them is not as we write it.
        """
        cache = self._cache
        found: dict[Place, Stored] = {}
        missing: list[Manifest] = []
        for item in items:
            where = place_of(item)
            if where in cache.unreadable:
                raise cache.unreadable[where].with_traceback(None)
            known = cache.state.get(where)
            if known is not None and is_same(known, item):
                found[where] = known
            else:
                missing.append(item)
        if missing:
            found |= await self._earlier(missing, revision)
        return [found[place_of(item)] for item in items]

    async def _earlier(self, items: Sequence[Manifest], revision: int) -> dict[Place, Stored]:
        """Return records that are not, or not any more, what the cache has."""
        ring = self._cache.ring
        unknown = {place_of(item): item for item in items}
        found: dict[Place, Stored] = {}
        if ring.oldest <= revision <= ring.reached:
            for event in reversed(ring.after(revision)):
                key = event.stored.key
                where = key.namespace, self._kind.name(key.name)
                if where in unknown and event.previous is not None:
                    found[where] = event.previous
        rest = [item for where, item in unknown.items() if where not in found]
        read = await self._read(rest, str(revision))
        return found | dict(zip(map(place_of, rest), read, strict=True))

    async def _read(self, items: Sequence[Manifest], revision: str) -> list[Record]:
        """Return the records of which there are only metadata, as they were at a revision."""
        if not items:
            return []

        async def read(item: Manifest) -> Record:
            namespace, name = place_of(item)
            query = ListQuery(namespace=namespace, name=name, revision=revision)
            page = await self._client.list(self._kind.of, query)
            if not page.items:
                raise Expired(f"{name} was not there at {revision}")
            return self._cache.read(page.items[0])

        return await together(map(read, items), _AT_ONCE)

    def _undone(self, revision: int, namespace: str) -> Snapshot:
        cache = self._cache
        for (of, _), unreadable in cache.unreadable.items():
            if namespace in ("", of):
                raise unreadable.with_traceback(None)
        state: dict[tuple[str, str], Stored] = {
            _position(record): record
            for record in cache.state.values()
            if namespace in ("", record.key.namespace)
        }
        for event in reversed(cache.ring.after(revision)):
            where = _position(event.stored)
            if namespace not in ("", where[0]):
                continue
            if event.previous is None:
                state.pop(where, None)
            else:
                state[where] = event.previous
        return Snapshot(revision, [state[where] for where in sorted(state)])

    def _keep(self, snapshot: Snapshot, namespace: str) -> Snapshot:
        self._made[snapshot.revision, namespace] = snapshot
        while len(self._made) > self._limits.snapshots:
            self._made.popitem(last=False)
        return snapshot


def _position(record: Stored) -> tuple[str, str]:
    return record.key.namespace, record.key.name
