"""Watches: where they begin, what they show, and how they end."""

import asyncio
import gc
import logging
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest
from starlette.types import Message
from typing_extensions import override

from alauda_imageapi.cluster.records.encoding import KINDS
from alauda_imageapi.machinery.ring import RingWatch
from alauda_imageapi.machinery.watch_limits import WatchLimits
from alauda_imageapi.machinery.watching import WatchStream
from alauda_registry.kube.inmemory_resources import InMemoryResources
from alauda_registry.serving.exchange import ABORT
from tests.unit.imageapi.apis import (
    MERGE_PATCH,
    METADATA,
    TABLE,
    Api,
    Lines,
    image,
    mapping,
    open_records,
    opened,
    stream,
)

pytestmark = pytest.mark.anyio

STREAMS = "namespaces/team/imagestreams"
WATCH_LIST = (
    "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
)


async def label(api: Api, name: str, **labels: str | None) -> None:
    await api.patch(f"{STREAMS}/{name}", {"metadata": {"labels": labels}}, MERGE_PATCH)


async def test_a_watch_without_a_revision_begins_with_what_there_is(api: Api) -> None:
    await api.make(STREAMS, stream("a"))
    async with api.watch("imagestreams?watch=true") as lines:
        assert await lines.started() == 200
        assert await lines.take(1) == [("ADDED", "a")]
        await label(api, "a", x="y")
        await api.call("DELETE", f"{STREAMS}/a")

        assert await lines.take(2) == [("MODIFIED", "a"), ("DELETED", "a")]


async def test_a_watch_goes_on_behind_a_revision(api: Api) -> None:
    made = await api.make(STREAMS, stream("a"))
    await api.make(STREAMS, stream("b"))
    revision = made["metadata"]["resourceVersion"]

    async with api.watch(f"{STREAMS}?watch=1&resourceVersion={revision}") as lines:
        assert await lines.take(1) == [("ADDED", "b")]


async def test_headers_are_sent_before_anything_happens(api: Api) -> None:
    async with api.watch("imagestreams?watch=true") as lines:
        assert await lines.started() == 200
        assert lines.headers[b"content-type"] == b"application/json"


async def test_initial_events_end_with_a_bookmark(api: Api) -> None:
    await api.make(STREAMS, stream("a"))
    made = await api.make(STREAMS, stream("b"))

    async with api.watch(f"{STREAMS}?{WATCH_LIST}") as lines:
        first = await lines.take(2)
        bookmark = await lines.next()
        await label(api, "a", x="y")
        after = await lines.take(1)

    assert first == [("ADDED", "a"), ("ADDED", "b")]
    assert bookmark["type"] == "BOOKMARK"
    assert bookmark["object"]["kind"] == "ImageStream"
    assert bookmark["object"]["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]
    assert bookmark["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
    assert after == [("MODIFIED", "a")]


async def test_a_watch_may_begin_now(api: Api) -> None:
    await api.make(STREAMS, stream("a"))
    query = "watch=true&sendInitialEvents=false&resourceVersionMatch=NotOlderThan"

    async with api.watch(f"{STREAMS}?{query}") as lines:
        await lines.started()
        await api.make(STREAMS, stream("b"))

        assert await lines.take(1) == [("ADDED", "b")]


async def test_what_begins_or_stops_matching_comes_and_goes(api: Api) -> None:
    await api.make(STREAMS, stream("a"))
    async with api.watch("imagestreams?watch=true&labelSelector=x%3Dy") as lines:
        await lines.started()
        await label(api, "a", x="y")
        await label(api, "a", z="1")
        await label(api, "a", x=None)
        await label(api, "a", z="2")
        await label(api, "a", x="y")

        assert await lines.take(4) == [
            *(("ADDED", "a"), ("MODIFIED", "a")),
            *(("DELETED", "a"), ("ADDED", "a")),
        ]


async def test_other_namespaces_and_kinds_are_not_seen(api: Api) -> None:
    async with api.watch(f"{STREAMS}?watch=true") as lines:
        await lines.started()
        await api.make("namespaces/other/imagestreams", stream("a"))
        await api.make("namespaces/team/imagestreammappings", mapping("b", "v1"))

        assert await lines.take(1) == [("ADDED", "b")]


async def test_a_deletion_shows_the_last_state_at_its_own_revision(api: Api) -> None:
    made = await api.make(STREAMS, stream("a"))
    async with api.watch(f"{STREAMS}?watch=true&fieldSelector=metadata.name%3Da") as lines:
        await lines.next()
        await api.call("DELETE", f"{STREAMS}/a")
        event = await lines.next()

    assert event["type"] == "DELETED"
    assert event["object"]["metadata"]["uid"] == made["metadata"]["uid"]
    assert int(event["object"]["metadata"]["resourceVersion"]) > int(
        made["metadata"]["resourceVersion"]
    )


async def test_a_watch_ends_in_time_with_a_bookmark(api: Api) -> None:
    query = "watch=true&timeoutSeconds=1&allowWatchBookmarks=true"
    async with api.watch(f"imagestreams?{query}") as lines:
        bookmark = await lines.next()

        assert bookmark["type"] == "BOOKMARK"
        assert await lines.next() is None


async def test_a_server_that_stops_ends_its_watches(api: Api) -> None:
    async with api.watch("imagestreams?watch=true") as lines:
        await lines.started()
        api.server.stop()

        assert await lines.next() is None


async def test_a_forgotten_revision_is_gone(api: Api) -> None:
    await api.make(STREAMS, stream("a"))
    for number in range(150):
        await label(api, "a", x=str(number))
    api.forget()

    answer = await api.call("GET", "imagestreams?watch=true&resourceVersion=3")

    assert (answer.status_code, answer.json()["reason"]) == (410, "Expired")


@pytest.mark.parametrize("selector", ["", "&labelSelector=x%3Dy"], ids=["all", "selected"])
async def test_what_cannot_be_read_ends_a_watch_with_the_reason_and_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, selector: str
) -> None:
    cluster, streams = InMemoryResources(), KINDS["imagestreams"]
    async with opened(tmp_path, open_store=partial(open_records, cluster=cluster)) as api:
        made = await api.make(STREAMS, stream("a"))
        path = f"{STREAMS}?watch=true{selector}"
        since = f"&resourceVersion={made['metadata']['resourceVersion']}"
        record = await cluster.get(streams.of, "team", "a")
        async with api.watch(path + since) as lines, api.watch(path + since) as others:
            await lines.started()
            await cluster.update(streams.of, {**record, "payload": "AA=="})
            last = [await lines.next(), await others.next()]
            ends = [await lines.next(), await others.next()]
        # Also who comes again, and who begins with what there is: at once, where it is known.
        for begins in (since, ""):
            async with api.watch(path + begins) as lines:
                again = await lines.next()
                last.append(again if "type" in again else {"type": "ERROR", "object": again})

    assert ends == [None] * 2
    for event in last:
        status = event["object"]
        assert (event["type"], status["kind"], status["code"]) == ("ERROR", "Status", 503)
        assert "team/a" in status["message"]
    told = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(told) == 1
    assert "team/a" in told[0].getMessage()
    assert told[0].exc_info is None


async def test_tables_are_watched_with_columns_in_the_first_event(api: Api) -> None:
    await api.make(STREAMS, stream("a"))
    async with api.watch("imagestreams?watch=true", accept=TABLE) as lines:
        first = await lines.next()
        await label(api, "a", x="y")
        second = await lines.next()

    assert first["object"]["kind"] == second["object"]["kind"] == "Table"
    assert first["object"]["columnDefinitions"][0]["name"] == "Name"
    assert second["object"]["columnDefinitions"] is None
    assert second["object"]["rows"][0]["object"]["metadata"]["labels"] == {"x": "y"}


async def test_metadata_is_watched_with_bookmarks_of_its_form(api: Api) -> None:
    await api.make(STREAMS, stream("a"))
    async with api.watch(f"imagestreams?{WATCH_LIST}", accept=METADATA) as lines:
        event, bookmark = await lines.next(), await lines.next()

    assert event["object"].keys() == {"kind", "apiVersion", "metadata"}
    assert bookmark["object"]["kind"] == "PartialObjectMetadata"


@pytest.mark.parametrize("resource", ["imagestreamtags", "imagetags"])
async def test_views_cannot_be_watched(api: Api, resource: str) -> None:
    answer = await api.call("GET", f"{resource}?watch=true")

    assert (answer.status_code, answer.json()["reason"]) == (405, "MethodNotAllowed")


async def test_who_is_too_slow_is_cut_off_and_the_others_do_not_notice(api: Api) -> None:
    slow = Slow()
    query = f"{STREAMS}?watch=true&sendInitialEvents=false&resourceVersionMatch=NotOlderThan"
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(api.watch(query, lines=slow))
        others = [await stack.enter_async_context(api.watch(query)) for _ in range(5)]
        for quick in others:
            await quick.started()
        await api.make(STREAMS, stream("a"))
        await slow.is_full.wait()
        for quick in others:
            assert await quick.take(1) == [("ADDED", "a")]
        # As many as are known: twice as many as are wanted, looked at every hundred.
        for number in range(200):
            await label(api, "a", n=str(number))

            for quick in others:
                assert await quick.take(1) == [("MODIFIED", "a")]
        assert await asyncio.wait_for(slow.ending, 30) == ABORT

    assert slow.bodies == 1


class Slow(Lines):
    """A client that reads no event."""

    def __init__(self) -> None:
        super().__init__()
        self.is_full = asyncio.Event()
        self.ending: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.bodies = 0

    @override
    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.body" and message["body"]:
            self.bodies += 1
            self.is_full.set()
            await asyncio.Event().wait()
        if message["type"] != "http.response.start" and not message.get("more_body"):
            self.ending.set_result(message["type"])


async def test_a_large_event_is_handed_over_in_parts(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        lines = Parts()
        query = "images?watch=true&sendInitialEvents=false&resourceVersionMatch=NotOlderThan"
        async with api.watch(query, lines=lines):
            await lines.started()
            await api.make("images", image(dockerImageManifest="x" * 1_000_000))
            event = await lines.next()

    assert len(event["object"]["dockerImageManifest"]) == 1_000_000
    assert max(lines.sizes) <= 64 * 1024


class Parts(Lines):
    """A client that notes what it is sent at once."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    @override
    async def send(self, message: Message) -> None:
        self.sizes.append(len(message.get("body", b"")))
        await super().send(message)


async def test_more_watches_than_there_may_be_are_refused(tmp_path: Path) -> None:
    async with opened(tmp_path, watch_limits=WatchLimits(2)) as api:
        async with api.watch("images?watch=true") as one, api.watch("images?watch=true") as two:
            assert (await one.started(), await two.started()) == (200, 200)
            refused = await api.call("GET", "images?watch=true")

        async with api.watch("images?watch=true") as three:
            assert await three.started() == 200
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")


async def test_watches_that_are_being_opened_count(tmp_path: Path) -> None:
    async with opened(tmp_path, watch_limits=WatchLimits(2)) as api:
        # Each waits for a revision that does not come.
        answers = await asyncio.gather(
            *(api.call("GET", "images?watch=true&resourceVersion=999999") for _ in range(10))
        )
        async with api.watch("images?watch=true") as one, api.watch("images?watch=true") as two:
            assert (await one.started(), await two.started()) == (200, 200)

    assert sorted(answer.status_code for answer in answers) == [429] * 8 + [504] * 2


async def test_one_user_leaves_watches_for_the_others(tmp_path: Path) -> None:
    query = "images?watch=true"
    async with opened(tmp_path, watch_limits=WatchLimits(100, per_user=2)) as api:
        async with AsyncExitStack() as stack:
            for _ in range(2):
                lines = await stack.enter_async_context(api.watch(query, user="greedy"))
                assert await lines.started() == 200
            async with api.watch(query, user="greedy") as lines:
                assert await lines.started() == 429
                assert lines.headers[b"retry-after"] == b"1"
                status = await lines.next()
            async with api.watch(query, user="modest") as lines:
                assert await lines.started() == 200
            # Lists are none of them.
            assert (await api.call("GET", "images")).status_code == 200
        async with api.watch(query, user="greedy") as lines:
            assert await lines.started() == 200

    assert (status["kind"], status["code"], status["reason"]) == ("Status", 429, "TooManyRequests")
    assert status["message"].startswith("you have 2 watches here")
    assert status["details"] == {"retryAfterSeconds": 1}


@pytest.mark.parametrize("group", ["system:masters", "system:serviceaccounts:kube-system"])
async def test_some_watches_are_left_for_those_whom_the_cluster_needs(
    tmp_path: Path, group: str
) -> None:
    query = "images?watch=true"
    async with opened(tmp_path, watch_limits=WatchLimits(16)) as api, AsyncExitStack() as stack:
        for _ in range(15):
            lines = await stack.enter_async_context(api.watch(query, user="greedy"))
            assert await lines.started() == 200
        async with api.watch(query, user="modest") as lines:
            assert await lines.started() == 429
        async with api.watch(query, user="controller", groups=(group,)) as lines:
            assert await lines.started() == 200


async def test_nothing_is_followed_for_a_watch_that_is_over(api: Api) -> None:
    def count() -> int:
        # Not isinstance, which asks what it is given, and that may be dead.
        return sum(type(one) is RingWatch for one in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = count()
        async with api.watch("imagestreams?watch=true") as lines:
            await lines.started()
            assert count() == before + 1
        assert count() == before
    finally:
        gc.enable()


async def test_a_client_is_told_of_unforeseen_trouble(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> bytes:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(WatchStream, "_line", fail)
    await api.make(STREAMS, stream("a"))
    async with api.watch(f"{STREAMS}?{WATCH_LIST}") as lines:
        event = await lines.next()
        assert await lines.next() is None

    assert (event["type"], event["object"]["code"]) == ("ERROR", 500)
    assert "unforeseen" in caplog.text
