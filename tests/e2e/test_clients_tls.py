"""The clients over TLS: content with the authority, and never without it.

Only crane is not asked to fail, since it tries again for many seconds.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import layouts
from tests.e2e.clients import Client
from tests.parts import registry
from tests.parts.certificates import Authority, CertificatePair
from tests.parts.containerd import Containerd
from tests.parts.registry import Server
from tests.parts.tools import find, require

pytestmark = pytest.mark.skipif(
    "E2E_REGISTRY" in os.environ, reason="needs a server with a certificate of the tests"
)

UNTRUSTED = "certificate signed by unknown authority"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> CertificatePair:
    return Authority().issue(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def server(pair: CertificatePair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with registry.running(tmp_path_factory.mktemp("registry"), tls=pair) as running:
        yield running


@pytest.fixture
def trusted(pair: CertificatePair, tmp_path: Path) -> Path:
    """The authority in a folder, as the clients of the containers project want it."""
    folder = tmp_path / "trusted"
    folder.mkdir()
    shutil.copy(pair.authority, folder / "ca.crt")
    return folder


def test_skopeo_pushes_and_pulls_with_the_authority_of_the_server(
    server: Server, trusted: Path, home: dict[str, str], repository: str, tmp_path: Path
) -> None:
    require("skopeo")
    skopeo = Client([find("skopeo")], home)
    source = layouts.image(tmp_path / "image")
    remote = f"docker://{server.address}/{repository}:1"

    skopeo("copy", "--dest-cert-dir", trusted, f"oci:{source.path}:1", remote)
    skopeo("copy", "--src-cert-dir", trusted, remote, f"oci:{tmp_path / 'back'}:1")

    assert (tmp_path / "back" / "blobs" / source.digest.replace(":", "/")).exists()
    assert UNTRUSTED in skopeo.fails("inspect", remote)


def test_buildah_pushes_and_pulls_with_the_authority_of_the_server(
    server: Server, trusted: Path, home: dict[str, str], repository: str, tmp_path: Path
) -> None:
    require("buildah")
    storage = ("--root", tmp_path / "storage", "--runroot", tmp_path / "run")
    buildah = Client([find("buildah"), *storage, "--storage-driver", "vfs"], home)
    name = f"{server.address}/{repository}:1"
    source = layouts.image(tmp_path / "image")
    image = buildah("pull", "--quiet", f"oci:{source.path}:1").strip()

    buildah("push", "--cert-dir", trusted, image, name)
    buildah("rmi", "--all", "--force")

    assert buildah("pull", "--quiet", "--cert-dir", trusted, name).strip() == image
    assert UNTRUSTED in buildah.fails("pull", "--policy", "always", name)


def test_crane_pushes_and_pulls_with_the_authority_of_the_server(
    server: Server, trusted: Path, home: dict[str, str], repository: str, tmp_path: Path
) -> None:
    require("crane")
    name = f"{server.address}/{repository}:1"
    source = layouts.image(tmp_path / "image")
    crane = Client([find("crane")], home | {"SSL_CERT_FILE": str(trusted / "ca.crt")})

    crane("push", source.path, name)

    assert crane("digest", name).strip() == source.digest
    crane("validate", "--remote", name)


def test_containerd_pushes_and_pulls_with_the_authority_of_the_server(
    server: Server,
    containerd_part: Containerd,
    trusted: Path,
    home: dict[str, str],
    repository: str,
    tmp_path: Path,
) -> None:
    namespace = repository.replace("/", "-")
    address = ("--address", containerd_part.socket, "--namespace", namespace)
    ctr = Client([find("ctr"), *address, "images"], home)
    image = f"{server.address}/{repository}"
    source = layouts.image(tmp_path / "image")
    ctr("import", "--no-unpack", "--base-name", image, source.archive())
    # A node is told in the same way; without it, containerd speaks HTTP to this address.
    hosts = tmp_path / "hosts" / server.address / "hosts.toml"
    hosts.parent.mkdir(parents=True)
    hosts.write_text(f'[host."{server.url}"]\nca = "{trusted / "ca.crt"}"\n')
    authority = ("--hosts-dir", tmp_path / "hosts")

    ctr("push", *authority, f"{image}:1")
    ctr("rm", "--sync", f"{image}:1")
    ctr("pull", *authority, "--snapshotter", "native", f"{image}:1")

    assert source.digest in ctr("ls", f"name=={image}:1")
    hosts.write_text(f'[host."{server.url}"]\n')
    refused = ctr.fails("pull", *authority, "--snapshotter", "native", f"{image}:1")
    assert UNTRUSTED in refused
    ctr("rm", "--sync", f"{image}:1")


def test_helm_pushes_and_pulls_with_the_authority_of_the_server(
    server: Server, trusted: Path, home: dict[str, str], repository: str, tmp_path: Path
) -> None:
    require("helm")
    helm = Client([find("helm")], home)
    charts = f"oci://{server.address}/{repository}"
    helm("create", tmp_path / "shop")
    helm("package", tmp_path / "shop", "--version", "1.0.0", "--destination", tmp_path)
    authority = ("--ca-file", trusted / "ca.crt")

    helm("push", *authority, tmp_path / "shop-1.0.0.tgz", charts)

    assert "version: 1.0.0" in helm("show", "chart", *authority, f"{charts}/shop")
    assert UNTRUSTED in helm.fails("show", "chart", f"{charts}/shop")
