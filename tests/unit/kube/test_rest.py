"""What comes from an API server, or from whoever is in its place, is what it should be."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from alauda_registry.kube.errors import Expired, KubeError, Unreachable
from alauda_registry.kube.resources import GroupVersionResource, ListQuery
from alauda_registry.kube.rest import ApiServerResources

pytestmark = pytest.mark.anyio

THINGS = GroupVersionResource("example.com", "v1", "things")


class Saying:
    """Answers everything with the same bytes."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    async def request(self, *_: object, **__: object) -> bytes:
        return self.content

    @asynccontextmanager
    async def stream(self, *_: object, **__: object) -> AsyncIterator[AsyncIterator[bytes]]:
        yield self._lines()

    async def _lines(self) -> AsyncIterator[bytes]:
        yield self.content


def resources(content: bytes) -> ApiServerResources:
    client: Any = Saying(content)
    return ApiServerResources(client)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"metadata": []}',
        b'{"metadata": {"resourceVersion": 7}}',
        b'{"metadata": {"resourceVersion": "x"}}',
        b'{"metadata": {"resourceVersion": "7"}, "items": {}}',
        b'{"metadata": {"resourceVersion": "7"}, "items": [1]}',
        b'{"metadata": {"resourceVersion": "7"}, "items": [{"metadata": {}}]}',
    ],
)
async def test_a_list_that_is_none_is_no_answer(content: bytes) -> None:
    with pytest.raises(Unreachable):
        await resources(content).list(THINGS, ListQuery())


async def test_a_list_may_be_empty() -> None:
    page = await resources(b'{"metadata": {"resourceVersion": "7"}, "items": null}').list(
        THINGS, ListQuery()
    )

    assert (page.revision, [*page.items], page.token) == ("7", [], "")


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"{", Unreachable),
        (b"{}", Unreachable),
        (b'{"type": "ADDED", "object": {"metadata": {"resourceVersion": "7"}}}', Unreachable),
        (b'{"type": "ADDED", "object": {"metadata": {"name": "a"}}}', Unreachable),
        (b'{"type": [], "object": {"metadata": {"resourceVersion": "7"}}}', Unreachable),
        (b'{"type": "OTHER", "object": {"metadata": {"resourceVersion": "7"}}}', Unreachable),
        (b'{"type": "BOOKMARK", "object": {}}', Unreachable),
        (b'{"type": "ERROR", "object": {"code": "text"}}', KubeError),
        (b'{"type": "ERROR", "object": {"kind": "Status", "code": 410}}', Expired),
    ],
)
async def test_an_event_that_is_none_ends_a_watch(content: bytes, error: type[KubeError]) -> None:
    async with resources(content).watch(THINGS, "1") as events:
        with pytest.raises(error):
            await anext(events)
