"""The executable half of the object store contract. Every store passes all of it."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from alauda_imageapi.cluster.records.store import RecordStore
from alauda_imageapi.cluster.records.watch_cache import RecordLimits
from alauda_imageapi.machinery.sqlite import SQLiteStore
from alauda_imageapi.machinery.sqlite_file import StoreLimits
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
    Page,
    Stored,
    TokenInvalid,
    TooNew,
    Watch,
)
from alauda_registry.kube.inmemory_resources import InMemoryResources
from tests.parts import record_store

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

OBJECT_BYTES = 100_000
NAMESPACES = ("a", "a-b", "b", "team")


@dataclass(frozen=True)
class Pair:
    """What one process writes with and another reads with; perhaps the same.

    Attributes:
        compact: Forgets what was long ago, where that does not happen by itself.
    """

    writer: ObjectStore
    reader: ObjectStore
    compact: Callable[[], None] = lambda: None


@asynccontextmanager
async def of_sqlite(
    request: pytest.FixtureRequest, *, reach_seconds: float, is_one: bool
) -> AsyncGenerator[Pair]:
    folder: Path = request.getfixturevalue("tmp_path")
    limits = StoreLimits(
        object_bytes=OBJECT_BYTES,
        log_rows=30,
        log_bytes=10**9,
        poll_seconds=0.01,
        reach_seconds=reach_seconds,
    )
    path = folder / "folder" / "objects.db"
    async with of(lambda: SQLiteStore.opened(path, limits), is_one) as (writer, reader):
        yield Pair(writer, reader)


@asynccontextmanager
async def of_records(
    request: pytest.FixtureRequest, *, reach_seconds: float, is_one: bool
) -> AsyncGenerator[Pair]:
    del request
    limits, cluster = record_limits(reach_seconds), InMemoryResources()
    async with of(lambda: RecordStore.opened(cluster, limits), is_one) as (writer, reader):
        yield Pair(writer, reader, cluster.compact)


@asynccontextmanager
async def of_a_cluster(
    request: pytest.FixtureRequest, *, reach_seconds: float, is_one: bool
) -> AsyncGenerator[Pair]:
    config: Path = request.getfixturevalue("image_api_account")
    record_store.make_namespaces(request.getfixturevalue("control_plane"), *NAMESPACES)
    await record_store.empty(config)
    limits = record_limits(reach_seconds)
    async with of(lambda: record_store.opened(config, limits), is_one) as (writer, reader):
        yield Pair(writer, reader)


@asynccontextmanager
async def of(
    open_one: Callable[[], AbstractAsyncContextManager[ObjectStore]], is_one: bool
) -> AsyncGenerator[tuple[ObjectStore, ObjectStore]]:
    async with AsyncExitStack() as stack:
        writer = await stack.enter_async_context(open_one())
        yield writer, writer if is_one else await stack.enter_async_context(open_one())


def record_limits(reach_seconds: float) -> RecordLimits:
    # Long enough for an answer of the API server.
    reach_seconds = max(reach_seconds, 1.0)
    return RecordLimits(object_bytes=OBJECT_BYTES, ring_rows=30, reach_seconds=reach_seconds)


STORES = {
    "sqlite": partial(of_sqlite, is_one=True),
    "sqlite of two processes": partial(of_sqlite, is_one=False),
    "records": partial(of_records, is_one=True),
    "records of two replicas": partial(of_records, is_one=False),
    "records in a cluster": partial(of_a_cluster, is_one=True),
    "records in a cluster of two replicas": partial(of_a_cluster, is_one=False),
}

# What the API server of a cluster has forgotten is up to it; tests/integration/test_record_store.py
# has one of its own.
FORGETFUL = [name for name in STORES if "cluster" not in name]


@pytest.fixture(params=STORES)
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    async with STORES[request.param](request, reach_seconds=0.05) as found:
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


async def test_several_are_read_that_were_just_written(pair: Pair) -> None:
    keys = [Key("images", "", f"sha256:{number:064}") for number in range(12)]
    keys += [Key("imagestreams", "team", f"app-{number}") for number in range(2)]
    absent = [Key("images", "", f"absent-{number}") for number in range(12)]
    for key in keys:
        await pair.writer.create(key, document(key.name, n=1))

    for wanted in ([*keys, *absent], [keys[0], absent[0], keys[-1]], absent, []):
        found = await pair.reader.get_several(wanted)

        assert {key: stored.object()["n"] for key, stored in found.items()} == {
            key: 1 for key in wanted if key in keys
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


async def test_a_failed_change_is_no_change(pair: Pair) -> None:
    made = await pair.writer.create(key("app"), document("app"))
    watch = await pair.reader.watch("imagestreams", made.revision)
    with pytest.raises(Exists):
        await pair.writer.create(key("app"), document("app"))
    gone = await pair.writer.delete(made.key, expected=made.revision)

    (event,) = await take(watch, 1)

    assert event.revision == gone.revision


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


async def test_pages_are_in_an_order_that_is_told(pair: Pair) -> None:
    for namespace, name in (("b", "a"), ("a-b", "x"), ("a", "a_b"), ("a", "a0b"), ("a", "A")):
        await pair.writer.create(key(name, namespace), document(name))

    found = [await pair.reader.page("imagestreams", limit=1)]
    while found[-1].token:
        page = found[-1]
        found.append(
            await pair.reader.page(
                "imagestreams", limit=1, revision=page.revision, token=page.token
            )
        )

    keys = [item.key for page in found for item in page.items]
    assert len(keys) == 5
    assert keys == sorted(keys, key=pair.reader.order)


async def test_a_snapshot_may_be_of_one_namespace(pair: Pair) -> None:
    passing = await pair.writer.create(key("b", "a"), document("b"))
    for namespace, name in (("b", "a"), ("a", "c")):
        await pair.writer.create(key(name, namespace), document(name))
    made = await pair.writer.create(key("a", "a-b"), document("a"))
    await pair.writer.delete(passing.key, expected=passing.revision)

    now = await pair.reader.snapshot("imagestreams", namespace="a")
    past = await pair.reader.snapshot("imagestreams", made.revision, namespace="a")

    assert [item.key.name for item in now.items] == ["c"]
    assert [item.key.name for item in past.items] == ["b", "c"]
    assert now.revision > past.revision == made.revision


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


async def pages(store: ObjectStore, limit: int, **query: Any) -> list[Page]:
    """Return all pages of a list."""
    found = [await store.page("imagestreams", limit=limit, **query)]
    while token := found[-1].token:
        query["revision"] = found[0].revision
        found.append(await store.page("imagestreams", limit=limit, token=token, **query))
    return found


async def test_pages_have_each_object_once_as_it_was_at_the_first(pair: Pair) -> None:
    names = ("a", "a_b", "a-b", "b", "b.c", "c")
    made = {name: await pair.writer.create(key(name, "a"), document(name, n=0)) for name in names}
    await pair.writer.create(key("x", "b"), document("x"))
    first = await pair.reader.page("imagestreams", limit=2, namespace="a")
    for name in ("a", "c"):
        await pair.writer.update(made[name].key, document(name, n=1), expected=made[name].revision)
    await pair.writer.delete(made["b"].key, expected=made["b"].revision)
    await pair.writer.create(key("d", "a"), document("d"))

    again = await pages(pair.reader, 2, namespace="a", revision=first.revision)

    assert [item.body for item in again[0].items] == [item.body for item in first.items]
    assert [len(page.items) for page in again] == [2, 2, 2]
    assert [page.left for page in again] == [4, 2, 0]
    assert {page.revision for page in again} == {first.revision}
    items = [item for page in again for item in page.items]
    assert sorted(item.key.name for item in items) == sorted(names)
    assert {item.object()["n"] for item in items} == {0}
    now = await pages(pair.reader, 3)
    assert sorted(item.key.name for page in now for item in page.items) == [
        *("a", "a-b", "a_b", "b.c", "c", "d", "x")
    ]


async def test_a_page_may_be_of_one_name(pair: Pair) -> None:
    for namespace, name in (("a", "app"), ("b", "app"), ("a", "a_b")):
        await pair.writer.create(key(name, namespace), document(name))

    both = await pages(pair.reader, 5, name="app")
    one = await pages(pair.reader, 5, name="a_b", namespace="a")

    assert [[item.key.namespace for item in page.items] for page in both] == [["a", "b"]]
    assert [[item.key.name for item in page.items] for page in one] == [["a_b"]]
    assert await pages(pair.reader, 5, name="c") == [replace(both[0], items=[], left=0)]


@pytest.mark.parametrize("token", ["nonsense", "-1", "e30", "\u00e4", "9" * 5000])
async def test_a_token_that_is_none_is_refused(pair: Pair, token: str) -> None:
    made = await pair.writer.create(key("app"), document("app"))

    with pytest.raises(TokenInvalid):
        await pair.reader.page("imagestreams", limit=1, revision=made.revision, token=token)


async def test_a_state_of_a_moment_ago_comes_to_be_that_of_now(pair: Pair) -> None:
    made = await pair.writer.create(key("app"), document("app"))
    watch = await pair.reader.watch("imagestreams", made.revision - 1)
    await take(watch, 1)

    recent = await pair.reader.snapshot("imagestreams", 0)
    one = await pair.reader.get(key("app"), recent=True)

    assert recent.revision >= made.revision
    assert [item.body for item in recent.items] == [made.body]
    assert one is not None
    assert one.body == made.body
    assert await pair.reader.get(key("absent"), recent=True) is None
    await put(pair.writer, "app", 1)
    assert (await pair.reader.snapshot("imagestreams", 0)).revision >= recent.revision


@pytest.mark.parametrize("pair", FORGETFUL, indirect=True)
async def test_the_past_that_was_compacted_is_not_known(pair: Pair) -> None:
    first = await pair.writer.create(key("app"), document("app"))
    await put(pair.writer, "app", 220)
    pair.compact()

    with pytest.raises(Compacted):
        await pair.reader.snapshot("imagestreams", first.revision)
    with pytest.raises(Compacted):
        await pair.reader.watch("imagestreams", first.revision)
    with pytest.raises(Compacted):
        await pair.reader.page("imagestreams", limit=1, revision=first.revision)


async def test_the_future_is_waited_for_only_a_little(pair: Pair) -> None:
    made = await pair.writer.create(key("app"), document("app"))

    with pytest.raises(TooNew) as caught:
        await pair.reader.reach("imagestreams", made.revision + 1000)
    with pytest.raises(TooNew):
        await pair.reader.snapshot("imagestreams", made.revision + 1000)
    with pytest.raises(TooNew):
        await pair.reader.page("imagestreams", limit=1, revision=made.revision + 1000)

    assert caught.value.asked == made.revision + 1000
    assert made.revision <= caught.value.current < made.revision + 1000


@pytest.mark.parametrize("kind", STORES)
async def test_a_revision_that_comes_in_time_is_reached(
    kind: str, request: pytest.FixtureRequest
) -> None:
    # As long as it takes on a machine that has other things to do.
    async with STORES[kind](request, reach_seconds=30) as pair:
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
    first = await put(pair.writer, "app", 1)
    second = await put(pair.writer, "app", 1)
    third = await put(pair.writer, "app", 1)

    watch = await pair.reader.watch("imagestreams", first.revision)

    events = await take(watch, 2)
    assert [event.revision for event in events] == [second.revision, third.revision]
    assert await watch.next(0) == []


async def test_a_quiet_watch_is_not_ahead(pair: Pair) -> None:
    start = (await pair.reader.snapshot("imagestreams")).revision
    watch = await pair.reader.watch("imagestreams", start)
    other = await pair.writer.create(key("sha", "", "images"), document("sha"))

    assert await watch.next(0) == []
    assert start <= watch.revision <= other.revision


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
