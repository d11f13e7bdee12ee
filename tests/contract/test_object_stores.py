"""The executable half of the object store contract. Every store passes all of it."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from alauda_imageapi.machinery.sqlite import SQLiteStore, StoreLimits
from alauda_imageapi.machinery.store import (
    Changed,
    Compacted,
    Event,
    EventType,
    Exists,
    Key,
    Missing,
    ObjectStore,
    ObjectTooLarge,
    Stored,
    TooNew,
    Watch,
)

pytestmark = pytest.mark.anyio

LIMITS = StoreLimits(
    object_bytes=100_000, log_rows=30, log_bytes=10**9, poll_seconds=0.01, reach_seconds=0.05
)

STORES = ["sqlite", "sqlite of two processes"]


@dataclass(frozen=True)
class Pair:
    """What one process writes with and another reads with; perhaps the same."""

    writer: ObjectStore
    reader: ObjectStore


@asynccontextmanager
async def opened(kind: str, folder: Path, limits: StoreLimits = LIMITS) -> AsyncGenerator[Pair]:
    async with AsyncExitStack() as stack:
        path = folder / "folder" / "objects.db"
        writer = await stack.enter_async_context(SQLiteStore.opened(path, limits))
        reader = writer
        if kind != "sqlite":
            reader = await stack.enter_async_context(SQLiteStore.opened(path, limits))
        yield Pair(writer, reader)


@pytest.fixture(params=STORES)
async def pair(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Pair]:
    async with opened(request.param, tmp_path) as found:
        yield found


def key(name: str, namespace: str = "team", resource: str = "imagestreams") -> Key:
    return Key(resource, namespace, name)


def document(name: str, **more: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, **more}


async def put(store: ObjectStore, name: str, count: int) -> Stored:
    """Write an object again and again."""
    stored = await store.get(key(name)) or await store.create(key(name), document(name, n=-1))
    for number in range(count):
        stored = await store.update(stored.key, document(name, n=number), expected=stored.revision)
    return stored


async def take(watch: Watch, count: int) -> list[Event]:
    found: list[Event] = []
    while len(found) < count:
        found += await watch.next(5)
    return found


async def names(store: ObjectStore, revision: int | None = None) -> list[tuple[str, str]]:
    snapshot = await store.snapshot("imagestreams", revision)
    return [(item.key.namespace, item.key.name) for item in snapshot.items]


async def test_what_was_written_is_read_at_once(pair: Pair) -> None:
    made = await pair.writer.create(key("app"), document("app", spec={"a": 1}))

    found = await pair.reader.get(key("app"))

    assert found is not None
    assert found.revision == made.revision
    assert found.object() == {
        "metadata": {"name": "app", "resourceVersion": str(made.revision)},
        "spec": {"a": 1},
    }


async def test_each_change_has_a_larger_revision_whatever_it_is_of(pair: Pair) -> None:
    one = await pair.writer.create(key("one"), document("one"))
    two = await pair.writer.create(key("two", "", "images"), document("two"))
    three = await pair.writer.update(one.key, document("one", n=1), expected=one.revision)
    four = await pair.writer.delete(two.key, expected=two.revision)

    assert one.revision < two.revision < three.revision < four.revision


async def test_an_object_is_made_once(pair: Pair) -> None:
    await pair.writer.create(key("app"), document("app"))

    with pytest.raises(Exists):
        await pair.reader.create(key("app"), document("app"))


async def test_only_what_is_at_the_expected_revision_is_changed(pair: Pair) -> None:
    made = await pair.writer.create(key("app"), document("app"))
    await pair.reader.update(made.key, document("app", n=1), expected=made.revision)

    with pytest.raises(Changed):
        await pair.writer.update(made.key, document("app", n=2), expected=made.revision)
    with pytest.raises(Changed):
        await pair.writer.delete(made.key, expected=made.revision)
    found = await pair.reader.get(made.key)
    assert found is not None
    assert found.object()["n"] == 1


async def test_what_is_gone_is_neither_changed_nor_deleted_again(pair: Pair) -> None:
    made = await pair.writer.create(key("app"), document("app"))
    await pair.writer.delete(made.key, expected=made.revision)

    with pytest.raises(Missing):
        await pair.reader.update(made.key, document("app"), expected=made.revision)
    with pytest.raises(Missing):
        await pair.reader.delete(made.key, expected=made.revision)
    assert await pair.reader.get(made.key) is None


async def test_a_failed_change_uses_no_revision(pair: Pair) -> None:
    made = await pair.writer.create(key("app"), document("app"))
    with pytest.raises(Exists):
        await pair.writer.create(key("app"), document("app"))

    assert (await pair.reader.snapshot("imagestreams")).revision == made.revision


async def test_an_object_that_is_too_large_is_refused_and_the_old_one_stays(pair: Pair) -> None:
    made = await pair.writer.create(key("app"), document("app"))

    with pytest.raises(ObjectTooLarge):
        await pair.writer.update(
            made.key, document("app", text="x" * 100_001), expected=made.revision
        )
    found = await pair.reader.get(made.key)
    assert found is not None
    assert found.revision == made.revision


async def test_a_snapshot_is_ordered_by_namespace_and_name(pair: Pair) -> None:
    for namespace, name in (("b", "a"), ("a-b", "x"), ("a", "c"), ("a", "b.c"), ("a", "b")):
        await pair.writer.create(key(name, namespace), document(name))
    await pair.writer.create(key("other", "", "images"), document("other"))

    assert await names(pair.reader) == [
        *(("a", "b"), ("a", "b.c"), ("a", "c")),
        *(("a-b", "x"), ("b", "a")),
    ]


async def test_a_snapshot_of_the_past_is_what_was_seen_then(pair: Pair) -> None:
    one = await pair.writer.create(key("one"), document("one", n=0))
    two = await pair.writer.create(key("two"), document("two"))
    await pair.writer.create(key("three"), document("three"))
    await pair.writer.update(one.key, document("one", n=1), expected=one.revision)
    await pair.writer.delete(two.key, expected=two.revision)

    past = await pair.reader.snapshot("imagestreams", two.revision)

    assert past.revision == two.revision
    assert [(item.key.name, item.object().get("n")) for item in past.items] == [
        ("one", 0),
        ("two", None),
    ]


async def test_the_past_that_was_compacted_is_not_known(pair: Pair) -> None:
    first = await pair.writer.create(key("app"), document("app"))
    await put(pair.writer, "app", 220)

    with pytest.raises(Compacted):
        await pair.reader.snapshot("imagestreams", first.revision)
    with pytest.raises(Compacted):
        await pair.reader.watch("imagestreams", first.revision)


async def test_the_future_is_waited_for_only_a_little(pair: Pair) -> None:
    made = await pair.writer.create(key("app"), document("app"))

    with pytest.raises(TooNew) as caught:
        await pair.reader.reach("imagestreams", made.revision + 1000)
    with pytest.raises(TooNew):
        await pair.reader.snapshot("imagestreams", made.revision + 1000)

    assert (caught.value.asked, caught.value.current) == (made.revision + 1000, made.revision)


@pytest.mark.parametrize("kind", STORES)
async def test_a_revision_that_comes_in_time_is_reached(kind: str, tmp_path: Path) -> None:
    # As long as it takes on a machine that has other things to do.
    patient = replace(LIMITS, reach_seconds=30)
    async with opened(kind, tmp_path, patient) as pair:
        made = await pair.writer.create(key("app"), document("app"))

        async with asyncio.TaskGroup() as group:
            group.create_task(pair.reader.reach("imagestreams", made.revision + 2))
            group.create_task(put(pair.writer, "app", 2))


async def test_a_watch_has_every_change_once_and_in_order(pair: Pair) -> None:
    start = (await pair.reader.snapshot("imagestreams")).revision
    watch = await pair.reader.watch("imagestreams", start)
    made = await pair.writer.create(key("app"), document("app", n=0))
    await pair.writer.create(key("sha", "", "images"), document("sha"))
    changed = await pair.writer.update(made.key, document("app", n=1), expected=made.revision)
    gone = await pair.writer.delete(made.key, expected=changed.revision)

    events = await take(watch, 3)

    assert [(event.type, event.revision) for event in events] == [
        (EventType.ADDED, made.revision),
        (EventType.MODIFIED, changed.revision),
        (EventType.DELETED, gone.revision),
    ]
    assert [event.previous and event.previous.object().get("n") for event in events] == [None, 0, 1]
    assert events[2].stored.object()["n"] == 1
    assert events[2].stored.object()["metadata"]["resourceVersion"] == str(gone.revision)
    assert watch.revision == gone.revision


async def test_a_watch_begins_where_it_is_told_to(pair: Pair) -> None:
    made = await pair.writer.create(key("app"), document("app"))
    last = await put(pair.writer, "app", 3)

    watch = await pair.reader.watch("imagestreams", made.revision + 1)

    assert [event.revision for event in await take(watch, 2)] == [last.revision - 1, last.revision]
    assert await watch.next(0) == []


async def test_a_quiet_watch_knows_how_far_it_has_come(pair: Pair) -> None:
    watch = await pair.reader.watch(
        "imagestreams", (await pair.reader.snapshot("imagestreams")).revision
    )
    other = await pair.writer.create(key("sha", "", "images"), document("sha"))
    await pair.reader.get(key("app"))

    assert await watch.next(0) == []
    assert watch.revision == other.revision


async def test_a_watch_that_is_too_slow_is_told_so(pair: Pair) -> None:
    start = (await pair.reader.snapshot("imagestreams")).revision
    watch = await pair.reader.watch("imagestreams", start)
    await put(pair.writer, "app", 300)

    with pytest.raises(Compacted):
        await take(watch, 300)


async def test_of_two_that_change_the_same_at_once_one_comes_through(pair: Pair) -> None:
    made = await pair.writer.create(key("app"), document("app"))

    async def change(store: ObjectStore, number: int) -> bool:
        try:
            await store.update(made.key, document("app", n=number), expected=made.revision)
        except Changed:
            return False
        return True

    done = await asyncio.gather(
        *(change(store, n) for n, store in enumerate([pair.writer, pair.reader] * 5))
    )

    assert done.count(True) == 1


async def test_writers_that_try_again_lose_nothing(pair: Pair) -> None:
    await pair.writer.create(key("app"), document("app", seen=[]))

    async def add(store: ObjectStore, number: int) -> None:
        while True:
            stored = await store.get(key("app"))
            assert stored is not None
            seen = [*stored.object()["seen"], number]
            try:
                await store.update(stored.key, document("app", seen=seen), expected=stored.revision)
            except Changed:
                continue
            return

    await asyncio.gather(*(add(store, n) for n, store in enumerate([pair.writer, pair.reader] * 8)))

    found = await pair.reader.get(key("app"))
    assert found is not None
    assert sorted(found.object()["seen"]) == list(range(16))


@pytest.mark.parametrize(
    "name", ["sha256:" + "0" * 64, "app:v1", "a'b\"; --", "ä", "%2F", "x" * 253], ids=repr
)
async def test_names_are_kept_as_they_are(pair: Pair, name: str) -> None:
    await pair.writer.create(key(name), document(name))

    found = await pair.reader.get(key(name))

    assert found is not None
    assert found.key.name == found.object()["metadata"]["name"] == name
