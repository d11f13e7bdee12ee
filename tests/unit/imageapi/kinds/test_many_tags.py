"""Streams of thousands of tags: what a request costs grows with the number of tags, not its square.

Counted are the lines of the kinds that are run, so that nothing depends on the machine.
"""

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from alauda_imageapi import kinds
from alauda_imageapi.kinds.tag_events import TagEvents
from alauda_registry.kube.inmemory_resources import InMemoryResources
from tests.unit.imageapi.apis import MERGE_PATCH, Api, mapping, open_records, opened, stream

pytestmark = pytest.mark.anyio

TEAM = "namespaces/team"
STREAMS = f"{TEAM}/imagestreams"
FEW, MANY = 100, 400


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


class Lines:
    """How many lines of the kinds were run."""

    def __init__(self) -> None:
        self.count = 0
        self._folder = str(Path(kinds.__file__).parent)

    def trace(self, frame: FrameType, event: str, _argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(self._folder):
            return None
        self.count += event == "line"
        return self.trace


@contextmanager
def counted() -> Iterator[Lines]:
    lines, before = Lines(), sys.gettrace()
    sys.settrace(lines.trace)
    try:
        yield lines
    finally:
        sys.settrace(before)


@pytest.fixture
def cluster() -> InMemoryResources:
    return InMemoryResources()


@pytest.fixture
async def api(tmp_path: Path, cluster: InMemoryResources) -> AsyncIterator[Api]:
    async with opened(tmp_path, open_store=partial(open_records, cluster=cluster)) as found:
        yield found


async def make_source(api: Api, count: int) -> None:
    """Make a stream of so many images and tags."""
    await api.make(f"{TEAM}/imagestreammappings", mapping("source", "t0000", digest(1)))
    await write_status(api, count)


async def write_status(api: Api, count: int, name: str = "source") -> None:
    items = [
        {"created": "2026-01-01T00:00:00Z", "dockerImageReference": f"a/b@{image}", "image": image}
        for image in map(digest, range(1, count + 1))
    ]
    status = {
        "tags": [{"tag": f"t{number:04}", "items": [item]} for number, item in enumerate(items)]
    }
    await api.patch(f"{STREAMS}/{name}/status", {"status": status}, MERGE_PATCH)


async def statuses(api: Api, count: int) -> None:
    await api.make(STREAMS, tagged(count, "DockerImage", lambda _: "a/b:1"))
    for _ in range(2):
        await write_status(api, count, "app")


def tagged(count: int, kind: str, name: Callable[[int], str], **more: Any) -> Any:
    return stream(
        tags=[
            {"name": f"t{number:04}", "from": {"kind": kind, "name": name(number)}, **more}
            for number in range(count)
        ]
    )


async def references(api: Api, count: int) -> None:
    await api.make(STREAMS, tagged(count, "DockerImage", lambda _: "a/b:1", reference=True))


async def copies(api: Api, count: int) -> None:
    await make_source(api, count)
    await api.make(STREAMS, tagged(count, "ImageStreamTag", lambda number: f"source:t{number:04}"))


async def pinned(api: Api, count: int) -> None:
    await make_source(api, count)

    def name(number: int) -> str:
        return f"source@{digest(number + 1)}"

    await api.make(STREAMS, tagged(count, "ImageStreamImage", name))


async def followers(api: Api, count: int) -> None:
    await api.make(STREAMS, tagged(count, "ImageStreamTag", lambda _: "latest"))
    await api.make(f"{TEAM}/imagestreammappings", mapping("app", "latest"))


async def followed(api: Api, count: int) -> None:
    """Each tag is followed by the next."""
    await make_source(api, 1)
    body = tagged(
        count, "ImageStreamTag", lambda number: f"t{number - 1:04}" if number else "source:t0000"
    )
    await api.make(STREAMS, body)


@pytest.mark.parametrize("make", [references, copies, pinned, followers, followed, statuses])
async def test_many_tags_are_made_without_looking_through_all_of_them_for_each(
    api: Api, make: Callable[[Api, int], Awaitable[None]]
) -> None:
    costs = []
    for count in (FEW, MANY):
        with counted() as lines:
            await make(api, count)
        costs.append(lines.count)
        for name in ("app", "source"):
            await api.call("DELETE", f"{STREAMS}/{name}")

    few, many = costs
    assert few > FEW
    # A fifth more than so many times as much; with the square it would be sixteen times.
    assert many < 1.2 * MANY / FEW * few


@pytest.mark.parametrize("make", [copies, pinned])
async def test_the_source_of_many_tags_is_read_once(
    api: Api, cluster: InMemoryResources, make: Callable[[Api, int], Awaitable[None]]
) -> None:
    await make(api, 50)

    found = (await api.get(f"{STREAMS}/app"))["status"]["tags"]
    assert {named["items"][0]["image"] for named in found} == {*map(digest, range(1, 51))}
    assert cluster.requests.count(("get", "imagestreamrecords")) < 10


def test_an_image_is_found_by_its_beginning() -> None:
    document: dict[str, Any] = {"metadata": {"name": "app", "namespace": "team"}}
    events = TagEvents(document)
    first, second, other = "sha256:" + "ab" * 32, "sha256:" + "ac" * 32, "sha512:" + "ad" * 64

    def point(tag: str, image: str, place: str) -> None:
        events.point(tag, {"image": image, "dockerImageReference": place, "generation": 1})

    def place(wanted: str) -> Any:
        found = events.image(wanted)
        return found and found["dockerImageReference"]

    assert place("") is None
    assert place("a") is None
    point("one", first, "1")
    assert [place(wanted) for wanted in ("", "ab", "sha256:a", first, "b", "sha256:b")] == [
        *("1", "1", "1", "1"),
        *(None, None),
    ]
    # Also what came since it was first asked for.
    point("one", second, "2")
    point("two", other, "3")
    point("two", first, "4")
    assert [place(wanted) for wanted in ("sha256:a", "a", "ab", "ac", "sha512", second)] == [
        *(None, None),
        *("4", "2", "3", "2"),
    ]


def test_an_image_that_is_displaced_in_its_place_is_not_taken_for_the_other() -> None:
    events = TagEvents({"metadata": {"name": "app", "namespace": "team"}})
    first, second = digest(1), digest(2)
    events.point("v1", {"image": first, "dockerImageReference": "place", "generation": 1})
    assert events.image(first)

    events.point("v1", {"image": second, "dockerImageReference": "place", "generation": 1})

    found = events.image(first)
    assert found is None or found["image"] == first
    assert (events.image(second) or {})["image"] == second
