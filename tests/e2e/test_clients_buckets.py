"""Real clients against our server with its images in a bucket, each sent there for its blobs.

The public endpoint that clients are sent to is a proxy, which tells what they fetched.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from conformance.s3proxy import proxy
from conformance.s3proxy.proxy import Proxy
from tests.e2e import layouts
from tests.e2e.clients import Client
from tests.e2e.conftest import Target
from tests.e2e.layouts import Layout
from tests.parts import registry, s3
from tests.parts.containerd import Containerd
from tests.parts.dockerd import Dockerd
from tests.parts.tools import find, require

LARGE = 200_000


@dataclass(frozen=True)
class Served:
    """Our server over a bucket.

    Attributes:
        target: The server.
        bucket: What it keeps its images in.
        sent_to: Where clients are sent for blobs.
    """

    target: Target
    bucket: s3.Bucket
    sent_to: Proxy

    def fetched(self) -> set[str]:
        """Return the digests of the blobs that clients fetched themselves."""
        return {
            f"sha256:{seen.request.key.split('/')[-2]}"
            for seen in self.sent_to.seen
            if seen.request.operation == "GetObject" and seen.status == 200
        }


@pytest.fixture(scope="module", params=s3.KINDS)
def served(
    request: pytest.FixtureRequest,
    start_s3: Callable[[s3.Kind], s3.S3Server],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Served]:
    require(request.param)
    bucket = start_s3(request.param).create_bucket()
    with proxy.before(bucket.server.address) as public:
        variables = bucket.variables(redirectendpoint=public.endpoint)
        directory = tmp_path_factory.mktemp("registry")
        with registry.running(directory, storage=variables, workers=2) as server:
            yield Served(Target(server.address), bucket, public)
            assert bucket.uploads() == []
    bucket.remove()


@pytest.fixture
def target(served: Served) -> Target:
    """Takes the place of the server that the other tests share."""
    served.sent_to.forget()
    return served.target


@pytest.fixture
def source(tmp_path: Path) -> Layout:
    """An image with a layer that is too large to be served by the registry itself."""
    archive = tmp_path / "large-layer.tar"
    archive.write_bytes(layouts.tarball(size=LARGE))
    return layouts.image(tmp_path / "image", layer=archive)


def layers_of(target: Target, name: str, reference: str) -> set[str]:
    _, manifest = target.manifest(name, reference)
    return {layer["digest"] for layer in manifest["layers"]}


def test_docker_pushes_and_pulls(
    dockerd_part: Dockerd,
    home: dict[str, str],
    served: Served,
    repository: str,
    image_name: str,
    tmp_path: Path,
) -> None:
    docker = Client([find("docker"), "--host", f"unix://{dockerd_part.socket}"], home)
    archive = tmp_path / "layer.tar"
    archive.write_bytes(layouts.tarball(size=LARGE))
    image_id = docker("import", "--change", "CMD /content", archive).strip()
    docker("tag", image_id, f"{image_name}:1")

    docker("push", f"{image_name}:1")
    docker("rmi", "--force", image_id)
    docker("pull", f"{image_name}:1")

    assert docker("image", "inspect", "-f", "{{.Id}}", f"{image_name}:1").strip() == image_id
    assert served.fetched() >= layers_of(served.target, repository, "1")


def test_podman_pushes_and_pulls(
    home: dict[str, str],
    served: Served,
    repository: str,
    image_name: str,
    source: Layout,
    tmp_path: Path,
) -> None:
    require("podman")
    # The path of this one must have 50 characters at most.
    with tempfile.TemporaryDirectory(prefix="podman-") as run:
        podman = Client(
            [
                find("podman"),
                *("--root", tmp_path / "storage", "--runroot", run),
                *("--tmpdir", tmp_path / "scratch", "--storage-driver", "vfs"),
                *("--cgroup-manager", "cgroupfs", "--events-backend", "file"),
            ],
            home,
        )
        image_id = podman("pull", "--quiet", f"oci:{source.path}:1").strip()

        podman("push", "--tls-verify=false", image_id, f"{image_name}:1")
        podman("rmi", "--all", "--force")
        podman("pull", "--tls-verify=false", f"{image_name}:1")

        assert podman("image", "inspect", "-f", "{{.Id}}", f"{image_name}:1").strip() == image_id
    assert served.fetched() >= layers_of(served.target, repository, "1")


def test_containerd_pushes_and_pulls(
    containerd_part: Containerd,
    home: dict[str, str],
    served: Served,
    repository: str,
    image_name: str,
    source: Layout,
) -> None:
    namespace = repository.replace("/", "-")
    ctr = Client([find("ctr"), "--address", containerd_part.socket, "--namespace", namespace], home)
    ctr("images", "import", "--all-platforms", "--no-unpack", "--base-name", image_name,
        source.archive())  # fmt: skip

    ctr("images", "push", "--plain-http", f"{image_name}:1")
    ctr("images", "rm", "--sync", f"{image_name}:1")
    ctr("images", "pull", "--plain-http", "--snapshotter", "native", f"{image_name}:1")

    assert set(ctr("content", "ls", "--quiet").split()) == set(source.blobs())
    assert served.fetched() >= layers_of(served.target, repository, "1")
    ctr("images", "rm", "--sync", f"{image_name}:1")


def test_skopeo_copies_an_index_there_and_back(
    home: dict[str, str], served: Served, repository: str, image_name: str, tmp_path: Path
) -> None:
    require("skopeo")
    skopeo = Client([find("skopeo")], home)
    index = layouts.multi_platform(tmp_path / "index")

    skopeo("copy", "--all", "--dest-tls-verify=false", f"oci:{index.path}:1",
           f"docker://{image_name}:1")  # fmt: skip
    skopeo("copy", "--all", "--src-tls-verify=false", f"docker://{image_name}:1",
           f"oci:{tmp_path / 'back'}:1")  # fmt: skip

    assert served.target.manifest(repository, "1")[0] == index.digest
    assert Layout(tmp_path / "back", index.digest).blobs() == index.blobs()


def test_crane_pushes_validates_and_pulls(
    home: dict[str, str], served: Served, image_name: str, source: Layout, tmp_path: Path
) -> None:
    require("crane")
    crane = Client([find("crane")], home)

    crane("push", source.path, f"{image_name}:1")
    crane("validate", "--fast", "--remote", f"{image_name}:1")
    crane("pull", "--format", "oci", f"{image_name}:1", tmp_path / "back")

    assert crane("digest", f"{image_name}:1").strip() == source.digest
    assert {file.name for file in (tmp_path / "back/blobs/sha256").iterdir()} == {
        file.name for file in (source.path / "blobs/sha256").iterdir()
    }
    assert served.fetched()


def test_regctl_copies_in_chunks_there_and_back(
    home: dict[str, str],
    served: Served,
    repository: str,
    image_name: str,
    source: Layout,
    tmp_path: Path,
) -> None:
    require("regctl")
    options = f"reg={served.target.address},tls=disabled,blobChunk=70000,blobMax=70000"
    regctl = Client([find("regctl"), "--host", options], home)

    regctl("image", "copy", f"ocidir://{source.path}:1", f"{image_name}:1")
    regctl("image", "copy", f"{image_name}:1", f"ocidir://{tmp_path / 'back'}:1")

    assert served.target.manifest(repository, "1")[0] == source.digest
    assert served.fetched() >= layers_of(served.target, repository, "1")
