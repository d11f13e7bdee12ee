"""What is served beside the registry, and how the registry tells it what was pushed."""

import json
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path

import anyio
import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from alauda_imageapi import embedded
from alauda_registry.__main__ import find_extension
from alauda_registry.oci.digest import Digest
from alauda_registry.oci.errors import StorageUnavailable
from alauda_registry.oci.media_types import OCI_INDEX
from alauda_registry.oci.reference import RepositoryName, Tag
from alauda_registry.server import extensions
from alauda_registry.server.app import create_app
from alauda_registry.server.extensions import ExtensionOpener, ExtensionSlot, Surroundings
from alauda_registry.storage.drivers.inmemory import InMemoryDriver
from alauda_registry.storage.repositories import Registry

MANIFEST = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}).encode()
DIGEST = Digest.of(MANIFEST)
HEADERS = {"Content-Type": OCI_INDEX}

IMAGE_API: ExtensionOpener = embedded.open_image_api
"""Its type is the point: the image API fits the server's protocols without importing them."""


class FakeRecorder:
    """Notes what it is told, and fails when it is told to."""

    def __init__(self) -> None:
        self.told: list[tuple[str, ...]] = []
        self.is_broken = False

    async def pushed(self, name: RepositoryName, digest: Digest, tags: Sequence[Tag]) -> None:
        self._note("pushed", name, str(digest), *tags)

    async def deleted(self, name: RepositoryName, reference: Tag | Digest) -> None:
        self._note("deleted", name, str(reference))

    def _note(self, *words: str) -> None:
        if self.is_broken:
            raise StorageUnavailable
        self.told.append(words)


@pytest.fixture
def recorder() -> FakeRecorder:
    return FakeRecorder()


@pytest.fixture
def client(recorder: FakeRecorder) -> Iterator[TestClient]:
    registry = Registry(InMemoryDriver())
    with TestClient(create_app(lambda: nullcontext(registry), None, recorder)) as found:
        yield found


def test_pushes_are_told_of(client: TestClient, recorder: FakeRecorder) -> None:
    client.put("/v2/team/app/manifests/v1", content=MANIFEST, headers=HEADERS)
    client.put(f"/v2/team/app/manifests/{DIGEST}?tag=v2", content=MANIFEST, headers=HEADERS)

    assert recorder.told == [
        ("pushed", "team/app", str(DIGEST), "v1"),
        ("pushed", "team/app", str(DIGEST), "v2"),
    ]


def test_a_push_that_was_refused_is_not_told_of(client: TestClient, recorder: FakeRecorder) -> None:
    client.put("/v2/team/app/manifests/v1", content=b"{}", headers=HEADERS)

    assert recorder.told == []


def test_a_push_that_is_not_recorded_is_to_be_tried_again(
    client: TestClient, recorder: FakeRecorder
) -> None:
    recorder.is_broken = True
    refused = client.put("/v2/team/app/manifests/v1", content=MANIFEST, headers=HEADERS)
    recorder.is_broken = False
    again = client.put("/v2/team/app/manifests/v1", content=MANIFEST, headers=HEADERS)

    assert (refused.status_code, again.status_code) == (503, 201)
    assert "retry-after" in refused.headers
    assert len(recorder.told) == 1


@pytest.mark.parametrize("reference", ["v1", str(DIGEST)])
def test_a_deletion_that_is_not_recorded_can_be_asked_for_again(
    client: TestClient, recorder: FakeRecorder, reference: str
) -> None:
    client.put("/v2/team/app/manifests/v1", content=MANIFEST, headers=HEADERS)
    recorder.told.clear()
    recorder.is_broken = True
    refused = client.delete(f"/v2/team/app/manifests/{reference}")
    recorder.is_broken = False
    again = client.delete(f"/v2/team/app/manifests/{reference}")

    assert (refused.status_code, again.status_code) == (503, 404)
    assert recorder.told == [("deleted", "team/app", reference)]


class FakeExtension:
    """Answers with its name."""

    def __init__(self) -> None:
        self.app: ASGIApp = PlainTextResponse("extension")
        self.recorder = FakeRecorder()
        self.is_drained = False

    def check(self) -> str:
        return "is away"

    def drain(self) -> None:
        self.is_drained = True


FAKE = FakeExtension()


@asynccontextmanager
async def open_fake(_surroundings: Surroundings) -> AsyncGenerator[FakeExtension]:
    yield FAKE


def test_its_paths_are_served_while_it_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    # Other tests' folders are no packages, so this module is found under a name of its own.
    monkeypatch.setitem(sys.modules, "fake_extension", sys.modules[__name__])
    slot = ExtensionSlot("fake_extension:open_fake")
    client = TestClient(slot.beside(PlainTextResponse("registry")))
    surroundings = Surroundings(
        Registry(InMemoryDriver()), "localhost:5000", frozenset(), None, True, False, True
    )

    async def answers() -> dict[str, str]:
        async with slot.opened(surroundings):
            slot.drain()
            assert slot.check() == "is away"
            paths = ("/apis/x", "/api", "/openapi/v2", "/version", "/v2/apis/blobs", "/apisx")
            return {path: (await anyio.to_thread.run_sync(client.get, path)).text for path in paths}

    assert client.get("/apis").text == "registry"
    assert anyio.run(answers) == {
        "/apis/x": "extension",
        "/api": "extension",
        "/openapi/v2": "extension",
        "/version": "extension",
        "/v2/apis/blobs": "registry",
        "/apisx": "registry",
    }
    assert FAKE.is_drained
    assert slot.check() == "the image API is not open"


def test_the_image_api_is_found_by_its_name() -> None:
    assert find_extension(extensions.IMAGE_API) == "alauda_imageapi.embedded:open_image_api"
    assert find_extension("none") is None


def test_nothing_of_it_is_imported_by_a_registry_alone(tmp_path: Path) -> None:
    code = (
        "import sys, alauda_registry.__main__, alauda_registry.server.workers.worker\n"
        "print([name for name in sys.modules if 'imageapi' in name or name in "
        "('orjson', 'jsonpatch')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )

    assert done.stdout.strip() == "[]"
