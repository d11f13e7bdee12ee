"""Without authentication, what a browser could be tricked into is refused."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from alauda_imageapi.embedded import Guard
from tests.unit.imageapi.apis import Api, opened, stream

pytestmark = pytest.mark.anyio

STREAMS = "namespaces/team/imagestreams"


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with opened(tmp_path, guard=Guard(frozenset({"registry.example.com"}))) as found:
        yield found


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:5000", 200),
        ("127.0.0.1:5000", 200),
        ("[::1]:5000", 200),
        ("[::1]", 200),
        ("registry.example.com.:443", 200),
        ("evil.example.com", 403),
        ("evil.example.com:5000", 403),
        ("localhost.evil.example.com", 403),
        ("127.0.0.1.evil.example.com", 403),
        ("", 403),
    ],
)
async def test_only_our_own_names_are_answered(api: Api, host: str, status: int) -> None:
    answer = await api.call("GET", "/apis", Host=host)

    assert answer.status_code == status


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_posts_of_other_sites_are_refused(api: Api, kind: str) -> None:
    answer = await api.client.post(
        f"/apis/image.alauda.io/v1/{STREAMS}",
        content=b'{"metadata": {"name": "app"}}',
        headers={"Content-Type": kind} if kind else {},
    )

    assert (answer.status_code, answer.json()["reason"]) == (415, "UnsupportedMediaType")
    assert (await api.get("imagestreams"))["items"] == []


async def test_a_read_only_registry_shows_and_changes_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path, read_only=True) as api:
        refused = await api.call("POST", STREAMS, stream())

        assert (refused.status_code, refused.json()["reason"]) == (405, "MethodNotAllowed")
        assert "read-only" in refused.json()["message"]
        assert (await api.get("imagestreams"))["items"] == []
