"""Watches: where they begin, what they show, and how they end."""

from pathlib import Path

import pytest

from tests.unit.imageapi.apis import MERGE_PATCH, METADATA, TABLE, Api, mapping, opened, stream

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

    answer = await api.call("GET", "imagestreams?watch=true&resourceVersion=3")

    assert (answer.status_code, answer.json()["reason"]) == (410, "Expired")


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


async def test_more_watches_than_there_may_be_are_refused(tmp_path: Path) -> None:
    async with opened(tmp_path, most_watches=2) as api:
        async with api.watch("images?watch=true") as one, api.watch("images?watch=true") as two:
            assert (await one.started(), await two.started()) == (200, 200)
            refused = await api.call("GET", "images?watch=true")

        async with api.watch("images?watch=true") as three:
            assert await three.started() == 200
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
