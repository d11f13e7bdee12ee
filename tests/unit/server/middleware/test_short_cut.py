"""The short way answers exactly as the ordinary one, and leaves to it what is not plain."""

import json
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager

import pytest
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from alauda_registry.oci.digest import Digest
from alauda_registry.server.app import create_app
from alauda_registry.server.middleware.short_cut import ShortCut
from alauda_registry.server.state import ServerOptions
from alauda_registry.storage.drivers.inmemory import InMemoryDriver
from alauda_registry.storage.repositories import Registry

CONFIG = b"{}"
CONFIG_DIGEST = Digest.of(CONFIG)
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
MANIFEST = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {
            "mediaType": "application/vnd.oci.empty.v1+json",
            "digest": str(CONFIG_DIGEST),
            "size": len(CONFIG),
        },
        "layers": [],
    }
).encode()
MANIFEST_DIGEST = Digest.of(MANIFEST)
OPTIONS = ServerOptions(headers={"X-Extra": ["one", "two"], "Content-Type": ["never/this"]})


class Counted:
    """Counts what came the ordinary way."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.requests += scope["type"] == "http"
        await self.app(scope, receive, send)


class Ways:
    """The same registry, with the short way and without."""

    def __init__(self) -> None:
        registry = Registry(InMemoryDriver())

        @asynccontextmanager
        async def open_registry() -> AsyncGenerator[Registry, None]:
            yield registry

        self.ordinary = Counted(create_app(open_registry, OPTIONS))
        short = ShortCut(self.ordinary, prefix=OPTIONS.prefix, headers=OPTIONS.headers)
        self.with_short_cut = TestClient(short)
        self.without = TestClient(create_app(open_registry, OPTIONS))

    def push(self) -> None:
        self.without.post(f"/v2/a/b/blobs/uploads/?digest={CONFIG_DIGEST}", content=CONFIG)
        headers = {"Content-Type": MANIFEST_TYPE}
        pushed = self.without.put("/v2/a/b/manifests/v1", content=MANIFEST, headers=headers)
        assert pushed.status_code == 201
        # The first to ask brings the content into memory.
        self.without.get(f"/v2/a/b/blobs/{CONFIG_DIGEST}")


@pytest.fixture
def ways() -> Generator[Ways, None, None]:
    ways = Ways()
    with ways.with_short_cut, ways.without:
        ways.push()
        ways.ordinary.requests = 0
        yield ways


PLAIN = [
    "/v2/a/b/manifests/v1",
    f"/v2/a/b/manifests/{MANIFEST_DIGEST}",
    f"/v2/a/b/blobs/{CONFIG_DIGEST}",
]
"""Paths that take the short way."""


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", PLAIN, ids=["by-tag", "by-digest", "blob"])
def test_plain_request_is_answered_as_by_the_router(ways: Ways, method: str, path: str) -> None:
    short = ways.with_short_cut.request(method, path)
    ordinary = ways.without.request(method, path)

    assert ways.ordinary.requests == 0
    assert sorted(short.headers.multi_items()) == sorted(ordinary.headers.multi_items())
    assert (short.status_code, short.content) == (ordinary.status_code, ordinary.content)


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        (PLAIN[0], {"If-None-Match": f'"{MANIFEST_DIGEST}"'}),
        (PLAIN[2], {"Range": "bytes=0-0"}),
        ("/v2/a/b/manifests/absent", {}),
        ("/v2/a/b/manifests/sha256:bad", {}),
        ("/v2/a/c/manifests/v1", {}),
        (f"/v2/a/c/blobs/{CONFIG_DIGEST}", {}),
        ("/v2/A/b/manifests/v1", {}),
        ("/v2/a/b/tags/list", {}),
        ("/v2/", {}),
    ],
)
def test_other_request_takes_the_ordinary_way(
    ways: Ways, path: str, headers: dict[str, str]
) -> None:
    short = ways.with_short_cut.get(path, headers=headers)
    ordinary = ways.without.get(path, headers=headers)

    assert ways.ordinary.requests == 1
    assert (short.status_code, short.content) == (ordinary.status_code, ordinary.content)


def test_moved_tag_and_deleted_manifest_show_at_once(ways: Ways) -> None:
    moved = MANIFEST.replace(b'"layers": []', b'"layers": [], "annotations": {"a": "b"}')
    headers = {"Content-Type": MANIFEST_TYPE}
    assert ways.with_short_cut.get(PLAIN[0]).content == MANIFEST

    ways.without.put("/v2/a/b/manifests/v1", content=moved, headers=headers)

    assert ways.with_short_cut.get(PLAIN[0]).content == moved
    ways.without.delete(f"/v2/a/b/manifests/{MANIFEST_DIGEST}")
    assert ways.with_short_cut.get(PLAIN[1]).status_code == 404


def test_unlinked_blob_is_unknown_although_it_is_in_memory(ways: Ways) -> None:
    assert ways.with_short_cut.get(PLAIN[2]).status_code == 200

    ways.without.delete(PLAIN[2])

    assert ways.with_short_cut.get(PLAIN[2]).status_code == 404
