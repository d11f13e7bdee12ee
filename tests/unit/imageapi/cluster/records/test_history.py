"""What happened before a replica began, as the API server tells it: in whatever pieces it comes."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import pytest
from typing_extensions import override

from alauda_imageapi.cluster.records import encoding
from alauda_imageapi.cluster.records.encoding import KINDS, Unpacked
from alauda_imageapi.cluster.records.history import History
from alauda_imageapi.cluster.records.store import RecordStore
from alauda_imageapi.cluster.records.watch_cache import RecordLimits
from alauda_imageapi.machinery.ring import Ring, RingWatch
from alauda_imageapi.machinery.store import Compacted, Event, Key
from alauda_registry.kube.errors import Expired, KubeError, Unreachable
from alauda_registry.kube.inmemory_resources import InMemoryResources
from alauda_registry.kube.resources import (
    GroupVersionResource,
    ListQuery,
    Manifest,
    Page,
    WatchEvent,
)

pytestmark = pytest.mark.anyio

KEY = Key("imagestreams", "team", "app")
BEGIN, END = 10, 12

Line: TypeAlias = WatchEvent | KubeError | asyncio.Event


def document(key: Key = KEY, **more: Any) -> dict[str, Any]:
    return {"metadata": {"name": key.name, "namespace": key.namespace}, **more}


def manifest(revision: int, n: int) -> Manifest:
    kind, content = KINDS["imagestreams"], document(n=n)
    found = encoding.write(kind, KEY, content, encoding.pack(encoding.text(content)))
    found["metadata"] |= {"uid": "1", "resourceVersion": str(revision)}
    return found


def line(kind: str, revision: int, n: int = 0) -> WatchEvent:
    if kind == "BOOKMARK":
        return WatchEvent(kind, {"metadata": {"resourceVersion": str(revision)}})
    return WatchEvent(kind, manifest(revision, n))


class Told(InMemoryResources):
    """Answers watches with what it was given: each with one list, then with silence.

    Args:
        watches: What each has; trouble ends it, and an event is waited for.
        earlier: The state of the object by revision.
    """

    def __init__(self, *watches: Sequence[Line], earlier: dict[int, Manifest] | None = None):
        super().__init__()
        self._watches = list(watches)
        self._earlier = earlier or {}
        self.asked: list[str] = []
        self.lines = 0

    @override
    @asynccontextmanager
    async def watch(
        self, of: GroupVersionResource, revision: str, *, namespace: str = "", name: str = ""
    ) -> AsyncIterator[AsyncIterator[WatchEvent]]:
        self.asked.append(revision)
        yield self._tell(self._watches.pop(0) if self._watches else ())

    @override
    async def list(self, of: GroupVersionResource, query: ListQuery) -> Page:
        self.asked.append(f"{query.namespace}/{query.name} at {query.revision}")
        found = self._earlier.get(int(query.revision))
        return Page(query.revision, [found] if found else [])

    async def _tell(self, lines: Sequence[Line]) -> AsyncGenerator[WatchEvent]:
        for line in lines:
            self.lines += 1
            if isinstance(line, WatchEvent):
                yield line
            elif isinstance(line, KubeError):
                raise line
            else:
                await line.wait()
        await asyncio.Event().wait()


class Tasks(asyncio.TaskGroup):
    """Ends with its block, whatever still runs."""

    def __init__(self) -> None:
        super().__init__()
        self._mine: list[asyncio.Task[Any]] = []

    @override
    def create_task(self, *arguments: Any, **more: Any) -> asyncio.Task[Any]:
        self._mine.append(super().create_task(*arguments, **more))
        return self._mine[-1]

    @override
    async def __aexit__(self, *trouble: Any) -> None:
        for task in self._mine:
            task.cancel()
        await super().__aexit__(*trouble)


@asynccontextmanager
async def told(*watches: Sequence[Line], **more: Any) -> AsyncGenerator[tuple[Told, History]]:
    """Have a history of what is told."""
    client = Told(*watches, **more)
    history = History(client, KINDS["imagestreams"], Unpacked(10**6), Ring(100, 10**6), END)
    async with asyncio.timeout(30), Tasks() as group:
        await history.open(group, BEGIN)
        yield client, history


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 -- nothing else to await
        await asyncio.sleep(0)


def seen(ring: Ring) -> list[tuple[str, int, int | None]]:
    """Return type, revision and that of the state before, of each change."""
    return [
        (event.type.value, event.revision, event.previous.revision if event.previous else None)
        for event in ring.after(BEGIN)
    ]


async def test_it_ends_where_it_is_told_to() -> None:
    async with told([line("ADDED", 11), line("MODIFIED", 12), line("MODIFIED", 13)]) as (
        client,
        history,
    ):
        await until(lambda: history.is_complete)
        await asyncio.sleep(0.01)

        assert seen(history.ring) == [("ADDED", 11, None), ("MODIFIED", 12, 11)]
        # Nobody needs what comes then, and the watch would go on for ever.
        assert client.lines == 2


async def test_it_holds_nothing_that_comes_later() -> None:
    async with told([line("ADDED", 11), line("MODIFIED", 15)]) as (_, history):
        await until(lambda: history.is_complete)

        assert seen(history.ring) == [("ADDED", 11, None)]
        assert history.ring.reached == END


async def test_a_bookmark_says_that_there_is_nothing_else() -> None:
    async with told([line("ADDED", 11), line("BOOKMARK", 12)]) as (_, history):
        await until(lambda: history.is_complete)

        assert seen(history.ring) == [("ADDED", 11, None)]


async def test_it_goes_on_where_the_connection_broke() -> None:
    async with told([line("ADDED", 11), Unreachable("away")], [line("MODIFIED", 12)]) as (
        client,
        history,
    ):
        await until(lambda: history.is_complete)

        assert client.asked == ["10", "11"]
        assert seen(history.ring) == [("ADDED", 11, None), ("MODIFIED", 12, 11)]
        assert history.is_useful


async def test_who_waits_hears_that_the_rest_is_forgotten() -> None:
    now = asyncio.Event()
    rest = [line("MODIFIED", 12)]
    async with told([line("ADDED", 11), now, Expired("gone")], rest) as (client, history):
        watch = RingWatch(lambda _: history.ring, "imagestreams", BEGIN)
        assert [event.revision for event in await watch.next(1)] == [11]
        waiting = asyncio.ensure_future(watch.next(3))
        await asyncio.sleep(0)
        now.set()

        with pytest.raises(Compacted):
            await waiting
        assert not history.is_useful
        assert client.asked == ["10"]


async def test_who_waits_is_woken_up_by_what_comes() -> None:
    now = asyncio.Event()
    async with told([line("ADDED", 11), now, line("MODIFIED", 12)]) as (_, history):
        watch = RingWatch(lambda _: history.ring, "imagestreams", 11)
        waiting = asyncio.ensure_future(watch.next(60))
        await asyncio.sleep(0.01)
        now.set()

        assert [event.revision for event in await waiting] == [12]


async def test_the_first_sign_is_enough_to_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alauda_imageapi.cluster.records.history._FIRST_SIGN_SECONDS", 60)
    async with told([line("ADDED", 11)]) as (_, history):
        assert not history.is_complete


async def test_the_state_before_is_asked_for_once() -> None:
    earlier = {10: manifest(9, 1), 11: manifest(11, 2)}
    lines = [line("MODIFIED", 11, 2), line("MODIFIED", 12, 3)]
    async with told(lines, earlier=earlier) as (client, history):
        await until(lambda: history.is_complete)

        assert seen(history.ring) == [("MODIFIED", 11, 9), ("MODIFIED", 12, 11)]
        assert client.asked == ["10", "team/app at 10"]


@pytest.mark.parametrize("is_known", [False, True])
async def test_a_deletion_has_the_last_state_before_it(is_known: bool) -> None:
    lines = [line("ADDED", 11, 1)] if is_known else []
    async with told([*lines, line("DELETED", 12, 1)]) as (client, history):
        await until(lambda: history.is_complete)

        assert seen(history.ring)[-1] == ("DELETED", 12, 11 if is_known else 12)
        assert client.asked == ["10"]


async def test_what_cannot_be_read_is_passed_over() -> None:
    damaged = line("ADDED", 11)
    damaged.object["payload"] = "?"
    async with told([damaged, line("ADDED", 12)]) as (_, history):
        await until(lambda: history.is_complete)

        assert seen(history.ring) == [("ADDED", 12, None)]


async def test_a_state_before_that_is_not_there_is_forgotten() -> None:
    now = asyncio.Event()
    async with told([line("BOOKMARK", 11), now, line("MODIFIED", 12)]) as (_, history):
        now.set()
        await until(lambda: not history.is_useful)

        with pytest.raises(Compacted):
            history.ring.after(BEGIN)


async def written(cluster: InMemoryResources, count: int) -> list[int]:
    """Change a stream so often, and return the revisions."""
    async with RecordStore.opened(cluster) as store:
        revisions = [(await store.create(KEY, document(n=0))).revision]
        while len(revisions) < count:
            changed = document(n=len(revisions))
            stored = await store.update(KEY, changed, expected=revisions[-1])
            revisions.append(stored.revision)
    return revisions


@asynccontextmanager
async def later(
    cluster: InMemoryResources, limits: RecordLimits | None = None
) -> AsyncGenerator[RecordStore]:
    """Open a replica that has seen nothing of what was before."""
    async with RecordStore.opened(cluster, limits or RecordLimits()) as store:
        await store.snapshot("imagestreams")
        cluster.requests.clear()
        yield store


async def follow(store: RecordStore, after: int, last: int) -> list[int]:
    """Return the revisions after one, up to another."""
    watch, events = await store.watch("imagestreams", after), list[Event]()
    async with asyncio.timeout(30):
        while not events or events[-1].revision < last:
            events += await watch.next(1)
    return [event.revision for event in events]


def watches(cluster: InMemoryResources) -> int:
    return cluster.requests.count(("watch", "imagestreamrecords"))


async def test_who_is_not_behind_needs_no_history() -> None:
    cluster = InMemoryResources()
    revisions = await written(cluster, 3)
    async with later(cluster) as store:
        await store.watch("imagestreams", revisions[-1])

        assert watches(cluster) == 0


async def test_those_who_come_at_once_share_one() -> None:
    cluster = InMemoryResources()
    revisions = await written(cluster, 5)
    async with later(cluster) as store:
        found = await asyncio.gather(
            *(follow(store, after, revisions[-1]) for after in revisions[:3] * 2)
        )

        assert found == [revisions[1:], revisions[2:], revisions[3:]] * 2
        assert watches(cluster) == 1


async def test_who_is_further_behind_gets_another() -> None:
    cluster = InMemoryResources()
    revisions = await written(cluster, 8)
    async with later(cluster) as store:
        for begin in range(6, -1, -1):
            found = await follow(store, revisions[begin], revisions[-1])
            assert found == revisions[begin + 1 :]
        assert watches(cluster) == 7
        # And what is left of them for those who come again is bounded.
        for begin in range(7):
            await follow(store, revisions[begin], revisions[-1])
        assert len(store._caches["imagestreams"]._histories) <= 4


async def test_one_that_ends_before_the_ring_begins_is_not_used_again() -> None:
    cluster = InMemoryResources()
    revisions = await written(cluster, 3)
    async with later(cluster, RecordLimits(ring_rows=20)) as store:
        assert await follow(store, revisions[0], revisions[-1]) == revisions[1:]
        # So many that the ring forgets half of them, but fewer than another history can hold.
        for number in range(45):
            stored = await store.update(KEY, document(n=-number), expected=revisions[-1])
            revisions.append(stored.revision)
        await store.reach("imagestreams", revisions[-1])

        assert await follow(store, revisions[0], revisions[-1]) == revisions[1:]


async def test_those_who_follow_one_keep_it() -> None:
    cluster = InMemoryResources()
    revisions = await written(cluster, 6)
    async with RecordStore.opened(cluster) as elsewhere:
        # The ring begins at a revision of which streams will not hear anything.
        image = Key("images", "", "x")
        await elsewhere.create(image, document(image))
    async with later(cluster) as store:
        kept = [await store.watch("imagestreams", revisions[begin]) for begin in (4, 3, 2, 1)]
        with pytest.raises(Compacted):
            await store.watch("imagestreams", revisions[0])

        for watch, begin in zip(kept, (4, 3, 2, 1), strict=True):
            events = list(await watch.next(1))
            assert [event.revision for event in events] == revisions[begin + 1 :]
