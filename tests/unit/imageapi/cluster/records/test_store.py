"""What a store in custom resources does when answers are lost, and what it costs."""

import asyncio
import json
import random
import zlib
from binascii import a2b_base64
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from typing_extensions import override

from alauda_imageapi.cluster.records import encoding
from alauda_imageapi.cluster.records.encoding import KINDS, Unpacked, Unreadable
from alauda_imageapi.cluster.records.store import RecordStore
from alauda_imageapi.cluster.records.watch_cache import RecordLimits
from alauda_imageapi.kinds.images import Images
from alauda_imageapi.kinds.names import GROUP
from alauda_imageapi.machinery.resources import Context
from alauda_imageapi.machinery.store import (
    Changed,
    Choice,
    Compacted,
    Event,
    Exists,
    Key,
    Missing,
    NamespaceGone,
    ObjectTooLarge,
    StoreFull,
    StoreUnavailable,
    TooNew,
)
from alauda_registry.kube.errors import NotServed, StorageFull, TooLarge, Unreachable
from alauda_registry.kube.inmemory_resources import InMemoryResources
from alauda_registry.kube.refusals import refusal
from alauda_registry.kube.resources import GroupVersionResource, ListQuery, Page, WatchEvent
from tests.unit.imageapi.apis import DIGEST, mapping, open_records, opened, stream

pytestmark = pytest.mark.anyio

KEY = Key("imagestreams", "team", "app")
STREAMS = KINDS["imagestreams"]


@pytest.fixture
def cluster() -> InMemoryResources:
    return InMemoryResources()


@pytest.fixture
async def store(cluster: InMemoryResources) -> AsyncIterator[RecordStore]:
    async with RecordStore.opened(cluster, RecordLimits(reach_seconds=0.2)) as found:
        await found.snapshot("imagestreams")
        yield found


def document(key: Key = KEY, **more: Any) -> dict[str, Any]:
    return {"metadata": {"name": key.name, "namespace": key.namespace}, **more}


async def test_a_lost_answer_to_a_creation_is_made_good(
    cluster: InMemoryResources, store: RecordStore
) -> None:
    cluster.lost_answers = 1

    made = await store.create(KEY, document(n=1))

    assert made.object()["n"] == 1
    with pytest.raises(Exists):
        await store.create(KEY, document(n=1))


async def test_a_lost_answer_to_an_update_is_made_good(
    cluster: InMemoryResources, store: RecordStore
) -> None:
    made = await store.create(KEY, document(n=1))
    cluster.lost_answers = 1

    changed = await store.update(KEY, document(n=2), expected=made.revision)

    assert changed.object()["n"] == 2
    with pytest.raises(Changed):
        await store.update(KEY, document(n=2), expected=made.revision)


@pytest.mark.parametrize("finalizers", [[], ["example.com/hold"]])
async def test_a_lost_answer_to_a_deletion_is_made_good(
    cluster: InMemoryResources, store: RecordStore, finalizers: list[str]
) -> None:
    wanted = document(n=1)
    wanted["metadata"]["finalizers"] = finalizers
    made = await store.create(KEY, wanted)
    cluster.lost_answers = 1

    gone = await store.delete(KEY, expected=made.revision)

    assert gone.object()["n"] == 1
    with pytest.raises(Missing):
        await store.delete(KEY, expected=made.revision)


async def test_a_deletion_is_done_while_nothing_is_followed(
    cluster: InMemoryResources, store: RecordStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alauda_imageapi.cluster.records.store._DELETION_SECONDS", 0.05)
    made = await store.create(KEY, document(n=1))
    deaf = RecordStore(cluster, RecordLimits())

    gone = await deaf.delete(KEY, expected=made.revision)

    assert gone.revision > made.revision
    assert gone.object()["n"] == 1
    assert await store.get(KEY) is None


@pytest.mark.parametrize("trouble", [Unreachable("away"), NotServed("no such kind")], ids=repr)
async def test_trouble_is_no_empty_store_and_passes(
    cluster: InMemoryResources, store: RecordStore, trouble: Exception
) -> None:
    made = await store.create(KEY, document())
    watch = await store.watch("imagestreams", made.revision)
    assert isinstance(trouble, Unreachable | NotServed)
    cluster.disturb(trouble)

    asked: list[Awaitable[object]] = [
        store.get(KEY),
        store.snapshot("imagestreams"),
        store.update(KEY, document(), expected=made.revision),
        store.delete(KEY, expected=made.revision),
        store.create(Key("images", "", "x"), document()),
    ]
    for each in asked:
        with pytest.raises(StoreUnavailable):
            await each
    assert str(trouble) in store.trouble

    cluster.disturb(None)
    changed = await store.update(KEY, document(), expected=made.revision)
    (event,) = await watch.next(10)
    assert event.revision == changed.revision
    async with asyncio.timeout(10):
        while store.trouble:  # noqa: ASYNC110 -- no event tells
            await asyncio.sleep(0.01)


class Silent(InMemoryResources):
    """A cluster that does not answer who wants to follow again, once it was disturbed."""

    @override
    @asynccontextmanager
    async def watch(
        self, of: GroupVersionResource, revision: str, *, namespace: str = "", name: str = ""
    ) -> AsyncGenerator[AsyncIterator[WatchEvent]]:
        while self.trouble is not None:  # noqa: ASYNC110 -- no event tells
            await asyncio.sleep(0.01)
        async with super().watch(of, revision, namespace=namespace, name=name) as events:
            yield events


@pytest.mark.parametrize("kind", [InMemoryResources, Silent])
async def test_watches_end_when_nobody_knows_what_happens(kind: type[InMemoryResources]) -> None:
    """Another replica may know; whoever stays would believe that nothing happens."""
    limits = RecordLimits(reach_seconds=0.2, deaf_seconds=0.1)
    cluster = kind()
    async with RecordStore.opened(cluster, limits) as store:
        made = await store.create(KEY, document())
        watch = await store.watch("imagestreams", made.revision)
        cluster.disturb(Unreachable("away"))

        async with asyncio.timeout(30):
            with pytest.raises(StoreUnavailable, match="does not hear of changes"):
                await watch.next(10)
        with pytest.raises(StoreUnavailable, match="does not hear of changes"):
            await store.watch("imagestreams", made.revision)

        cluster.disturb(None)
        changed = await store.update(KEY, document(n=1), expected=made.revision)
        async with asyncio.timeout(10):
            while store.trouble:  # noqa: ASYNC110 -- no event tells
                await asyncio.sleep(0.01)
        again = await store.watch("imagestreams", made.revision)
        assert [event.revision for event in await again.next(10)] == [changed.revision]


async def test_who_follows_hears_when_changes_went_unseen(
    cluster: InMemoryResources, store: RecordStore
) -> None:
    made = await store.create(KEY, document())
    watch = await store.watch("imagestreams", made.revision)
    cluster.disturb(Unreachable("away"))
    await asyncio.sleep(0)
    cluster.trouble = None
    async with RecordStore.opened(cluster) as other:
        await other.update(KEY, document(n=1), expected=made.revision)
    cluster.compact()

    with pytest.raises(Compacted):
        await watch.next(10)
    (item,) = (await store.snapshot("imagestreams")).items
    assert item.object()["n"] == 1


async def test_who_follows_goes_on_when_nothing_was_missed(
    cluster: InMemoryResources, store: RecordStore
) -> None:
    made = await store.create(KEY, document())
    watch = await store.watch("imagestreams", made.revision - 1)
    assert len(await watch.next(10)) == 1
    cluster.disturb(Unreachable("away"))
    await asyncio.sleep(0)
    cluster.trouble = None
    image = Key("images", "", "x")
    await store.create(image, document(image))
    # So that everything has to be read again.
    cluster.compact()
    cluster.requests.clear()
    async with asyncio.timeout(10):
        while ("list", "imagestreamrecords") not in cluster.requests or store.trouble:  # noqa: ASYNC110 -- no event tells
            await asyncio.sleep(0.01)

    changed = await store.update(KEY, document(n=1), expected=made.revision)

    (event,) = await watch.next(10)
    assert event.revision == changed.revision
    assert event.previous is not None


async def test_a_watch_goes_on_at_a_replica_that_began_later(
    cluster: InMemoryResources, store: RecordStore
) -> None:
    made = await store.create(KEY, document(n=0))
    changed = await store.update(KEY, document(n=1), expected=made.revision)
    again = await store.update(KEY, document(n=2), expected=changed.revision)
    passing = Key("imagestreams", "team", "passing")
    came = await store.create(passing, document(passing, n=3))
    went = await store.delete(passing, expected=came.revision)

    async with RecordStore.opened(cluster) as new:
        await new.snapshot("imagestreams")
        watches = [await new.watch("imagestreams", made.revision) for _ in range(2)]
        later = await store.update(KEY, document(n=4), expected=again.revision)
        for watch in watches:
            events: list[Event] = []
            while len(events) < 5:
                found = await watch.next(5)
                assert found
                events += found
            assert [event.revision for event in events] == [
                *(changed.revision, again.revision, came.revision),
                *(went.revision, later.revision),
            ]
            before = [event.previous and event.previous.object()["n"] for event in events]
            assert before == [0, 1, None, 3, 2]
    # Both were fed by one, besides what each replica follows.
    assert cluster.requests.count(("watch", "imagestreamrecords")) == 3


async def test_a_watch_that_began_too_long_ago_is_told_so(
    cluster: InMemoryResources, store: RecordStore
) -> None:
    made = await store.create(KEY, document())
    await store.update(KEY, document(n=1), expected=made.revision)
    async with RecordStore.opened(cluster) as new:
        await new.snapshot("imagestreams")
        cluster.compact()
        with pytest.raises(Compacted):
            await new.watch("imagestreams", made.revision)


async def test_lists_asked_for_at_once_share_an_answer_that_is_not_older(
    cluster: InMemoryResources, store: RecordStore
) -> None:
    cluster.requests.clear()

    first = [asyncio.ensure_future(store.snapshot("imagestreams")) for _ in range(20)]
    await asyncio.sleep(0)
    made = await store.create(KEY, document())
    late = [store.snapshot("imagestreams") for _ in range(20)]
    snapshots = await asyncio.gather(*first, *late)

    assert cluster.requests.count(("list", "imagestreamrecords")) <= 3
    assert all(len(snapshot.items) == 1 for snapshot in snapshots[20:])
    assert all(snapshot.revision >= made.revision for snapshot in snapshots[20:])


async def test_few_read_what_only_the_cluster_knows_at_once(
    cluster: InMemoryResources, store: RecordStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    revisions = []
    for number in range(8):
        key = Key("imagestreams", "team", f"app-{number}")
        revisions.append((await store.create(key, document(key))).revision)
    running, most, really = 0, 0, cluster.list

    async def count(of: GroupVersionResource, query: ListQuery) -> Page:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        return await really(of, query)

    # It began after all of them.
    async with RecordStore.opened(cluster, RecordLimits()) as late:
        await late.snapshot("imagestreams")
        monkeypatch.setattr(cluster, "list", count)
        wanted = [late.snapshot("imagestreams", revision) for revision in revisions[:-1]]
        found = await asyncio.gather(*wanted)

    assert [len(snapshot.items) for snapshot in found] == [1, 2, 3, 4, 5, 6, 7]
    assert most <= 2


async def test_who_waits_for_what_will_not_come_asks_with_the_others(
    cluster: InMemoryResources, store: RecordStore
) -> None:
    cluster.requests.clear()

    reached = await asyncio.gather(
        *(store.reach("imagestreams", 10**9) for _ in range(50)), return_exceptions=True
    )

    assert {type(found) for found in reached} == {TooNew}
    # Each once, since it may be there already; then all of them together.
    assert len(cluster.requests) <= 50 + 3


async def test_a_list_asks_for_no_body_that_is_known(
    cluster: InMemoryResources, store: RecordStore
) -> None:
    for number in range(50):
        key = Key("imagestreams", "team", f"app-{number}")
        await store.create(key, document(key))
    await store.snapshot("imagestreams")
    cluster.requests.clear()

    for _ in range(10):
        await store.snapshot("imagestreams")

    assert cluster.requests == [("list", "imagestreamrecords")] * 10


@pytest.mark.parametrize("path", ["imagestreams/app/layers", "imagestreamimages/app@{0}"])
@pytest.mark.parametrize(("gone", "asked"), [(0, 0), (3, 3), (40, 1)])
async def test_what_is_in_a_stream_costs_no_more_for_many_images(
    cluster: InMemoryResources, tmp_path: Path, path: str, gone: int, asked: int
) -> None:
    digests = [f"sha256:{number:064x}" for number in range(1, 61)]
    team = "/apis/image.alauda.io/v1/namespaces/team"
    async with opened(tmp_path, open_store=partial(open_records, cluster=cluster)) as api:
        for number, digest in enumerate(digests):
            await api.make(f"{team}/imagestreammappings", mapping("app", f"v{number}", digest))
        for digest in digests[:gone]:
            assert (await api.call("DELETE", f"images/{digest}")).status_code == 200
        await api.get("images")
        cluster.requests.clear()

        await api.get(f"{team}/{path.format(digests[-1])}")
        missing = await api.call("GET", f"{team}/imagestreamimages/app@sha256:f")

    assert missing.status_code == 404
    # The stream twice and an image; each time images that are gone, or a list when they are many.
    assert len(cluster.requests) <= 3 + 2 * asked


async def test_a_list_of_a_namespace_asks_for_no_other(
    cluster: InMemoryResources, store: RecordStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.create(KEY, document())
    asked: list[ListQuery] = []
    really = cluster.list

    async def note(of: GroupVersionResource, query: ListQuery) -> Page:
        asked.append(query)
        return await really(of, query)

    monkeypatch.setattr(cluster, "list", note)
    await store.snapshot("imagestreams", namespace="team")

    assert [query.namespace for query in asked] == ["team"]


async def test_pages_of_a_list_ask_once(cluster: InMemoryResources, store: RecordStore) -> None:
    await store.create(KEY, document())
    # The revision goes on elsewhere, so that it is none that the watch of streams would see.
    image = Key("images", "", "x")
    await store.create(image, document(image))
    first = await store.snapshot("imagestreams")
    cluster.requests.clear()

    for _ in range(10):
        assert await store.snapshot("imagestreams", first.revision) is first
    assert cluster.requests == []


async def test_namespaces_that_take_nothing_are_told() -> None:
    cluster = InMemoryResources({"ending": True})
    async with RecordStore.opened(cluster) as store:
        for namespace, is_ending in (("absent", False), ("ending", True)):
            key = Key("imagestreams", namespace, "app")
            with pytest.raises(NamespaceGone) as caught:
                await store.create(key, document(key))
            assert caught.value.is_ending is is_ending


async def test_an_etcd_that_takes_less_says_so(
    cluster: InMemoryResources, store: RecordStore
) -> None:
    made = await store.create(KEY, document())
    cluster.trouble = TooLarge("etcdserver: request is too large")

    with pytest.raises(ObjectTooLarge, match="compressed"):
        await store.update(KEY, document(), expected=made.revision)
    cluster.trouble = None


async def test_an_etcd_that_is_full_is_read_from_and_says_so(
    cluster: InMemoryResources, store: RecordStore
) -> None:
    made = await store.create(KEY, document())
    said = {"kind": "Status", "message": "etcdserver: mvcc: database space exceeded"}
    full = refusal(500, "updating imagestreamrecords", json.dumps(said).encode())
    cluster.trouble = full

    with pytest.raises(StoreFull, match="disarm its NOSPACE alarm"):
        await store.update(KEY, document(), expected=made.revision)
    cluster.trouble = None
    assert isinstance(full, StorageFull)


@pytest.mark.parametrize(
    "damage",
    [
        {"payload": "AAAA"},
        {"payload": "%"},
        {"payload": None},
        {"object": "other"},
        {"object": 1},
        {"schema": 0},
        {"schema": "1"},
        {"schema": 2},
    ],
    ids=json.dumps,
)
async def test_a_damaged_record_is_neither_shown_nor_passed_over(
    cluster: InMemoryResources, store: RecordStore, damage: dict[str, Any]
) -> None:
    await store.create(KEY, document())
    other = Key("imagestreams", "team", "other")
    await store.create(other, document(other))
    record = await cluster.get(STREAMS.of, "team", "app")
    damaged = await cluster.update(STREAMS.of, {**record, **damage})

    async def read_one() -> object:
        found = await store.get(KEY)
        return found and found.object()

    async def read_all() -> list[object]:
        return [item.object() for item in (await store.snapshot("imagestreams")).items]

    for read in (read_one, read_all):
        with pytest.raises(Unreadable):
            await read()
    assert await store.get(other) is not None

    metadata = damaged["metadata"]
    await cluster.delete(
        STREAMS.of, "team", "app", uid=metadata["uid"], revision=metadata["resourceVersion"]
    )
    assert [item.key for item in (await store.snapshot("imagestreams")).items] == [other]


@pytest.mark.parametrize(
    "damaged",
    [
        b'{"metadata":{"name":"app","labels":["a"]}}',
        b'{"metadata":{"name":"app","labels":{"a":1}}}',
        b'{"metadata":{"name":"app"',
        b'["metadata":{}]',
        b'[{"metadata":{}}]',
    ],
)
async def test_what_is_no_object_is_damaged_also_to_who_selects_by_labels(
    cluster: InMemoryResources, store: RecordStore, damaged: bytes
) -> None:
    made = await store.create(KEY, document())
    watch = await store.watch(
        "imagestreams", made.revision, Choice("", lambda stored: "a" in stored.labels)
    )
    record = await cluster.get(STREAMS.of, "team", STREAMS.name("app"))
    spoilt = await cluster.update(STREAMS.of, {**record, "payload": encoding.pack(damaged)})

    with pytest.raises(StoreUnavailable, match="damaged"):
        await watch.next(10)
    # Whoever follows others goes on.
    other = Key("imagestreams", "team", "other")
    watch = await store.watch("imagestreams", int(spoilt["metadata"]["resourceVersion"]))
    later = await store.create(other, document(other))
    (event,) = await watch.next(10)
    assert event.revision == later.revision
    assert store.trouble == ""


async def test_what_nobody_foresaw_does_not_end_following(
    cluster: InMemoryResources,
    store: RecordStore,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = await store.create(KEY, document(n=1))
    watch = await store.watch("imagestreams", made.revision)
    ring = store._caches["imagestreams"].ring
    with monkeypatch.context() as patch:
        patch.setattr(type(ring), "add", lambda *_: 1 // 0)
        changed = await store.update(KEY, document(n=2), expected=made.revision)
        async with asyncio.timeout(10):
            while not store.trouble:  # noqa: ASYNC110 -- no event tells
                await asyncio.sleep(0)

    # Whoever asks meanwhile is not told that nothing is there.
    (found,) = (await store.snapshot("imagestreams", made.revision)).items
    assert found.revision == made.revision
    async with asyncio.timeout(10):
        while store.trouble:  # noqa: ASYNC110 -- no event tells
            await asyncio.sleep(0.01)
    assert "unforeseen" in caplog.text
    (found,) = (await store.snapshot("imagestreams", 0)).items
    assert found.revision == changed.revision
    # Whoever missed it hears so.
    with pytest.raises(Compacted):
        await watch.next(10)


async def test_watches_that_are_ended_at_once_are_opened_more_and_more_seldom() -> None:
    class Impatient(InMemoryResources):
        @override
        @asynccontextmanager
        async def watch(
            self, of: GroupVersionResource, revision: str, *, namespace: str = "", name: str = ""
        ) -> AsyncIterator[AsyncIterator[WatchEvent]]:
            async with super().watch(of, revision, namespace=namespace, name=name):
                yield nothing()

    async def nothing() -> AsyncIterator[WatchEvent]:
        events: list[WatchEvent] = []
        for event in events:
            yield event

    cluster = Impatient()
    async with RecordStore.opened(cluster):
        await asyncio.sleep(1)
        async with asyncio.timeout(30):
            while cluster.requests.count(("watch", STREAMS.of.resource)) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    assert 2 <= cluster.requests.count(("watch", STREAMS.of.resource)) <= 8


async def test_a_list_that_fails_asks_for_nothing_more(
    cluster: InMemoryResources, store: RecordStore
) -> None:
    cache = store._caches["imagestreams"]
    for number in range(100):
        key = Key("imagestreams", "team", f"s{number}")
        await store.create(key, document(key))
    async with asyncio.timeout(10):
        while len(cache.state) < 100:  # noqa: ASYNC110 -- no event tells
            await asyncio.sleep(0)
    cache.state.clear()
    asking = asyncio.ensure_future(store.snapshot("imagestreams"))
    while cluster.requests.count(("list", STREAMS.of.resource)) < 5:  # noqa: ASYNC110 -- likewise
        await asyncio.sleep(0)
    cluster.trouble = Unreachable("away")

    with pytest.raises(StoreUnavailable):
        await asking

    asked = len(cluster.requests)
    await asyncio.sleep(0.1)
    assert len(cluster.requests) <= asked + 1


async def test_what_is_told_of_a_damaged_record_does_not_grow_each_time(
    cluster: InMemoryResources, store: RecordStore
) -> None:
    await store.create(KEY, document())
    record = await cluster.get(STREAMS.of, "team", "app")
    await cluster.update(STREAMS.of, {**record, "schema": 2})
    with pytest.raises(Unreadable):
        await store.snapshot("imagestreams")

    async def depth(read: Callable[[], Awaitable[object]]) -> int:
        with pytest.raises(Unreadable) as caught:
            await read()
        return len(caught.traceback)

    for read in (
        lambda: store.get_several([KEY]),
        lambda: store.snapshot("imagestreams", 0),
        lambda: store.snapshot("imagestreams"),
        lambda: store.page("imagestreams", limit=1),
    ):
        first = await depth(read)
        # All that a traceback leads to is kept as long as its error.
        assert [await depth(read) for _ in range(3)] == [first] * 3


async def test_a_bomb_is_not_unpacked() -> None:
    payload = encoding.pack(b" " * (65 * 2**20))
    record = encoding.write(STREAMS, KEY, document(), payload)
    record["metadata"] |= {"uid": "1", "resourceVersion": "1"}

    with pytest.raises(Unreadable, match="too large"):
        assert encoding.read(STREAMS, record, Unpacked(1)).body


def test_what_was_unpacked_is_bounded() -> None:
    unpacked = Unpacked(100_000)
    for number in range(50):
        text = encoding.text(document(text="x" * 10_000))
        record = encoding.write(STREAMS, KEY, document(), encoding.pack(text))
        record["metadata"] |= {"uid": str(number), "resourceVersion": "1"}
        read = encoding.read(STREAMS, record, unpacked)
        read.cache["line"] = read.body

    assert unpacked.taken <= 100_000


@pytest.mark.parametrize(
    ("name", "record"),
    [
        ("app", "app"),
        ("a.b-c", "a.b-c"),
        ("a_b", "a--b"),
        ("a__b", "a----b"),
        ("a" * 253, "a" * 253),
    ],
)
def test_streams_keep_their_names_where_they_can(name: str, record: str) -> None:
    assert encoding.stream_record_name(name) == record


@pytest.mark.parametrize("name", ["a--b", "a-_b", "A", "a_", ".", "..", "a/b", "", "a" * 254])
def test_other_streams_get_a_name_with_a_hash(name: str) -> None:
    prefix, mark, digest = encoding.stream_record_name(name).partition("---")

    assert mark
    assert len(digest) == 64
    assert prefix.isalnum()


def test_records_of_images_are_named_after_digests() -> None:
    digest = random.Random(1).randbytes(32).hex()

    assert encoding.image_record_name(f"sha256:{digest}") == f"sha256-{digest}"
    for other in (f"sha256-{digest}", f"sha256:{digest.upper()}", f"sha512:{digest * 2}", "x-1"):
        assert encoding.image_record_name(other).startswith("x-")


async def test_an_api_words_it_as_kubernetes_does(tmp_path: Path) -> None:
    """The namespace may have gone after it was looked at."""
    cluster = InMemoryResources({"ending": True})
    async with opened(tmp_path, open_store=partial(open_records, cluster=cluster)) as api:
        absent = await api.call("POST", "namespaces/absent/imagestreams", stream())
        ending = await api.call("POST", "namespaces/ending/imagestreams", stream())

    assert absent.status_code == 404
    assert absent.json()["details"] == {"name": "absent", "kind": "namespaces"}
    assert ending.status_code == 403
    assert ending.json()["message"] == (
        'imagestreams.image.alauda.io "app" is forbidden: unable to create new content in '
        "namespace ending because it is being terminated"
    )
    assert ending.json()["details"]["causes"][0]["reason"] == "NamespaceTerminating"


async def test_an_api_refuses_what_does_not_fit(tmp_path: Path) -> None:
    limits = RecordLimits(record_bytes=2000)
    noise = random.Random(1).randbytes(2000).hex()
    async with opened(tmp_path, open_store=partial(open_records, limits=limits)) as api:
        annotated = stream()
        annotated["metadata"]["annotations"] = {"noise": noise}
        made = await api.call("POST", "namespaces/team/imagestreams", annotated)
        pushed = mapping("app", "v1")
        pushed["image"]["dockerImageMetadata"] = {"Comment": noise}
        mapped = await api.call("POST", "namespaces/team/imagestreammappings", pushed)

    for answer in (made, mapped):
        assert answer.status_code == 413
        assert "too large to be stored" in answer.json()["message"]


Counts: TypeAlias = list[int]


class Counting(InMemoryResources):
    """A cluster that notes how many objects each list has had."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counts = []

    @override
    async def list(self, of: GroupVersionResource, query: ListQuery) -> Page:
        page = await super().list(of, query)
        self.counts.append(len(page.items))
        return page


async def test_a_page_is_asked_for_alone(tmp_path: Path) -> None:
    cluster = Counting()
    async with opened(tmp_path, open_store=partial(open_records, cluster=cluster)) as api:
        path = "namespaces/team/imagestreams"
        for number in range(30):
            await api.make(path, stream(f"s{number:02}"))
        cluster.counts.clear()
        names, query, counts = [], "limit=10", []
        while query:
            page = await api.get(f"{path}?{query}")
            names += [item["metadata"]["name"] for item in page["items"]]
            counts.append(page["metadata"].get("remainingItemCount"))
            token = page["metadata"].get("continue")
            query = token and f"limit=10&continue={token}"
        assert cluster.counts == [10, 10, 10]
        cluster.counts.clear()
        await api.get(f"{path}?limit=500&fieldSelector=metadata.name%3Ds07")

    assert names == [f"s{number:02}" for number in range(30)]
    assert counts == [20, 10, None]
    assert cluster.counts == [1]


async def test_what_requests_cost(cluster: InMemoryResources, tmp_path: Path) -> None:
    """Each is asked of the API server once at most, and not at all where any state will do."""
    one = "namespaces/team/imagestreams/app"

    async with opened(tmp_path, open_store=partial(open_records, cluster=cluster)) as api:
        await api.get("imagestreams")
        counted: dict[str, list[tuple[str, str]]] = {}

        async def count(what: str, asked: Awaitable[object]) -> None:
            cluster.requests.clear()
            await asked
            counted[what] = [*cluster.requests]

        await count("create", api.make("namespaces/team/imagestreams", stream()))
        await count("get", api.get(one))
        await count("get a part", api.call("GET", f"{one}/status"))
        await count("list", api.get("namespaces/team/imagestreams"))
        # By now what was made has come by the watch.
        await count("get from memory", api.get(f"{one}?resourceVersion=0"))
        await count("list from memory", api.get("imagestreams?resourceVersion=0"))
        await count("absent", api.call("GET", f"{one}-2?resourceVersion=0"))

    records = "imagestreamrecords"
    assert counted == {
        "create": [("create", records)],
        "get": [("get", records)],
        "get a part": [("get", records)],
        "list": [("list", records)],
        "get from memory": [],
        "list from memory": [],
        "absent": [],
    }


@pytest.mark.parametrize(
    "path", ["imagestreamtags/app:v1", "imagetags/app:v1", f"imagestreamimages/app@{DIGEST}"]
)
async def test_views_of_a_stream_cost_nothing_where_any_state_will_do(
    cluster: InMemoryResources, tmp_path: Path, path: str
) -> None:
    async with opened(tmp_path, open_store=partial(open_records, cluster=cluster)) as api:
        await api.make("namespaces/team/imagestreams", stream())
        await api.make("namespaces/team/imagestreammappings", mapping("app", "v1"))
        # Lists end when what was made has come by the watch.
        await api.get("images")
        await api.get("imagestreams")
        cluster.requests.clear()
        recent = await api.get(f"namespaces/team/{path}?resourceVersion=0")
        asked = [*cluster.requests]
        latest = await api.get(f"namespaces/team/{path}")

    assert recent == latest
    assert recent["image"]["metadata"]["name"] == DIGEST
    assert asked == []
    assert cluster.requests == [("get", "imagestreamrecords"), ("get", "imagerecords")]


async def test_an_image_that_is_not_known_yet_is_asked_for(
    cluster: InMemoryResources, store: RecordStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = Images(GROUP, store)
    await store.create(Key("images", "", DIGEST), {"metadata": {"name": DIGEST}})
    await store.snapshot("images")
    # As while its record has not come by the watch.
    monkeypatch.setattr(store._caches["images"], "known", lambda _: None)

    found = await images.find_named(Context(resource="imagestreamtags", recent=True), DIGEST)

    assert found is not None


async def test_any_state_will_do_while_the_cluster_is_away(
    cluster: InMemoryResources, store: RecordStore
) -> None:
    made = await store.create(KEY, document(n=1))
    watch = await store.watch("imagestreams", made.revision - 1)
    await watch.next(5)
    cluster.disturb(Unreachable("away"))

    found = await store.get(KEY, recent=True)

    assert found is not None
    assert found.object()["n"] == 1
    with pytest.raises(StoreUnavailable):
        await store.get(KEY)


async def test_any_state_of_what_cannot_be_read_is_none(
    cluster: InMemoryResources, store: RecordStore
) -> None:
    made = await store.create(KEY, document(n=1))
    watch = await store.watch("imagestreams", made.revision - 1)
    await watch.next(5)
    record = await cluster.get(STREAMS.of, "team", "app")
    await cluster.update(STREAMS.of, {**record, "payload": "?"})
    async with asyncio.timeout(30):
        while ("team", "app") not in store._caches["imagestreams"].unreadable:  # noqa: ASYNC110 -- no event tells
            await asyncio.sleep(0.01)

    with pytest.raises(Unreadable):
        await store.get(KEY, recent=True)


@pytest.mark.parametrize("size", [0, 2000, 3900, 4000, 4200, 100_000])
async def test_documents_of_any_size_come_back(
    cluster: InMemoryResources, store: RecordStore, size: int
) -> None:
    text = random.Random(1).randbytes(size // 2).hex()

    await store.create(KEY, document(text=text))

    async with RecordStore.opened(cluster) as other:
        (item,) = (await other.snapshot("imagestreams")).items
    assert item.object()["text"] == text


def test_a_small_document_is_packed_as_well_in_a_small_window() -> None:
    body = b"".join(b'{"name":"v%d","from":{"kind":"DockerImage"}}' % n for n in range(40))

    packed = a2b_base64(encoding.pack(body))

    assert len(packed) <= len(zlib.compress(body)) + 8
    # The window that reading it takes is in its first byte: a sixteenth of the usual one.
    assert packed[0] >> 4 == zlib.compress(body)[0] // 16 - 3
