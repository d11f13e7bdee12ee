"""The registry under test, the daemons of the clients, and a home of its own for every test.

Without ``E2E_REGISTRY`` our own server is started. With it, the clients work against
whatever registry listens at that ``HOST:PORT`` on plain HTTP.
"""

import json
import os
import shutil
import tempfile
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.layouts import DOCKER_LIST, DOCKER_MANIFEST, INDEX, MANIFEST, Layout
from tests.parts import containerd, dockerd, registry
from tests.parts.containerd import Containerd
from tests.parts.dockerd import Dockerd
from tests.parts.tools import require

E2E = Path(__file__).parent

# Real clients on a busy machine; a test of these takes a second or two on an idle one.
SECONDS = 240


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if E2E in item.path.parents:
            item.add_marker("e2e")
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(SECONDS))


@dataclass(frozen=True, slots=True)
class Target:
    """The registry that the clients talk to."""

    address: str

    def manifest(self, name: str, reference: str) -> tuple[str, Mapping[str, Any]]:
        """Return the digest that the registry answers, and the manifest."""
        accept = ", ".join([MANIFEST, INDEX, DOCKER_MANIFEST, DOCKER_LIST])
        url = f"http://{self.address}/v2/{name}/manifests/{reference}"
        request = urllib.request.Request(url, headers={"Accept": accept})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.headers["Docker-Content-Digest"], json.load(answer)

    def tags(self, name: str) -> list[str]:
        """Return the tags of a repository."""
        url = f"http://{self.address}/v2/{name}/tags/list"
        with urllib.request.urlopen(url, timeout=60) as answer:
            return list(json.load(answer)["tags"] or [])

    def push(self, layout: Layout, name: str) -> None:
        """Push an image or an index under the tag ``1``, without any client.

        Manifests are pushed as blobs, too, which does no harm and needs no second list.
        """
        contents = layout.blobs()
        for digest, content in contents.items():
            started = self._send("POST", f"/v2/{name}/blobs/uploads/")
            location = urllib.parse.urljoin(f"http://{self.address}", started["Location"])
            separator = "&" if "?" in location else "?"
            self._send("PUT", f"{location}{separator}digest={digest}", content)
        document = json.loads(contents[layout.digest])
        references = {layout.digest: "1"}
        references |= {child["digest"]: child["digest"] for child in document.get("manifests", [])}
        for digest, reference in reversed(references.items()):
            media_type = json.loads(contents[digest])["mediaType"]
            path = f"/v2/{name}/manifests/{reference}"
            self._send("PUT", path, contents[digest], media_type)

    def _send(
        self,
        method: str,
        url: str,
        body: bytes = b"",
        media_type: str = "application/octet-stream",
    ) -> Message:
        request = urllib.request.Request(
            urllib.parse.urljoin(f"http://{self.address}", url),
            data=body,
            method=method,
            headers={"Content-Type": media_type},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            headers: Message = answer.headers
            return headers


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    if address := os.environ.get("E2E_REGISTRY"):
        yield Target(address)
        return
    # Two processes, so that most uploads are continued by another one than began them.
    with registry.running(tmp_path_factory.mktemp("registry"), workers=2) as server:
        yield Target(server.address)
    # A failed run keeps its folders to be looked at, but not gigabytes of layers.
    shutil.rmtree(server.root)


@pytest.fixture
def repository() -> str:
    """A repository name that nothing was ever pushed to."""
    return f"team/app-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def image_name(target: Target, repository: str) -> str:
    """The same, as clients write it."""
    return f"{target.address}/{repository}"


@pytest.fixture
def other_repository(repository: str) -> str:
    """A second name, for what moves between repositories."""
    return f"{repository}-copy"


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment in which no client finds the credentials or the settings of a user."""
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "auth.json").write_text("{}")
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return kept | {
        "HOME": str(folder),
        "TMPDIR": str(tmp_path),
        "DOCKER_CONFIG": str(folder / "docker"),
        "REGISTRY_AUTH_FILE": str(folder / "auth.json"),
        "XDG_RUNTIME_DIR": str(folder),
        "BUILDAH_ISOLATION": "chroot",
    }


@pytest.fixture(scope="session")
def sockets() -> Iterator[Path]:
    """A folder with a short name, since the path of a socket must not be long."""
    with tempfile.TemporaryDirectory(prefix="parts-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def containerd_part(
    sockets: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Containerd]:
    require("containerd", "ctr")
    with containerd.running(tmp_path_factory.mktemp("containerd"), sockets) as part:
        yield part


@pytest.fixture(scope="session")
def dockerd_part(
    sockets: Path, containerd_part: Containerd, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Dockerd]:
    require("dockerd", "docker")
    with dockerd.running(tmp_path_factory.mktemp("dockerd"), sockets, containerd_part) as part:
        yield part
