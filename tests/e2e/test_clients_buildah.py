"""buildah against a registry: images built from nothing, and upon what the registry has."""

from pathlib import Path

import pytest

from tests.e2e import layouts
from tests.e2e.clients import Client
from tests.e2e.conftest import Target
from tests.parts.tools import find, require

PLAIN = "--tls-verify=false"


@pytest.fixture
def buildah(home: dict[str, str], tmp_path: Path) -> Client:
    require("buildah")
    storage = ("--root", tmp_path / "storage", "--runroot", tmp_path / "run")
    return Client([find("buildah"), *storage, "--storage-driver", "vfs"], home)


@pytest.fixture
def content(tmp_path: Path) -> Path:
    """A file to put into images."""
    file = tmp_path / "content"
    file.write_bytes(layouts.tarball())
    return file


def built(buildah: Client, content: Path, *, base: str = "scratch", media: str = "oci") -> str:
    """Build an image with one more layer, and return its identity."""
    container = buildah("from", PLAIN, base).strip()
    buildah("copy", container, content, f"/{content.name}")
    buildah("config", "--cmd", "/content", "--label", "made-by=buildah", container)
    return buildah("commit", "--quiet", "--rm", "--format", media, container).strip()


@pytest.mark.parametrize(
    ("manifest_format", "media_type"),
    [("oci", layouts.MANIFEST), ("docker", layouts.DOCKER_MANIFEST)],
    ids=["oci", "docker"],
)
def test_built_image_is_pushed_and_pulled_by_tag_and_by_digest(
    buildah: Client,
    target: Target,
    repository: str,
    image_name: str,
    content: Path,
    manifest_format: str,
    media_type: str,
) -> None:
    image = built(buildah, content, media=manifest_format)

    buildah("push", PLAIN, image, f"{image_name}:1")
    digest, manifest = target.manifest(repository, "1")
    pulled = []
    for reference in (f"{image_name}:1", f"{image_name}@{digest}"):
        buildah("rmi", "--all", "--force")
        pulled.append(buildah("pull", "--quiet", PLAIN, reference).strip())

    assert manifest["mediaType"] == media_type
    assert pulled == [image, image]


def test_image_is_built_on_one_that_the_registry_has(
    buildah: Client,
    target: Target,
    repository: str,
    other_repository: str,
    image_name: str,
    content: Path,
) -> None:
    buildah("push", PLAIN, built(buildah, content), f"{image_name}:1")
    buildah("rmi", "--all", "--force")
    content.write_bytes(layouts.tarball())

    image = built(buildah, content, base=f"{image_name}:1")
    log = buildah.said(
        "--log-level=debug", "push", PLAIN, image, f"{target.address}/{other_repository}:1"
    )

    _, base = target.manifest(repository, "1")
    _, manifest = target.manifest(other_repository, "1")
    assert len(manifest["layers"]) == 2
    assert manifest["layers"][0]["digest"] == base["layers"][0]["digest"]
    assert log.count("... mount OK") == 1


def test_manifest_list_is_pushed_whole(
    buildah: Client, target: Target, repository: str, image_name: str, content: Path
) -> None:
    buildah("manifest", "create", "list")
    for architecture in ("amd64", "arm64"):
        image = built(buildah, content)
        reference = f"containers-storage:{image}"
        buildah("manifest", "add", "--arch", architecture, "list", reference)
        content.write_bytes(layouts.tarball())

    buildah("manifest", "push", PLAIN, "--all", "list", f"docker://{image_name}:1")

    _, index = target.manifest(repository, "1")
    platforms = [child["platform"]["architecture"] for child in index["manifests"]]
    assert sorted(platforms) == ["amd64", "arm64"]
    for child in index["manifests"]:
        assert target.manifest(repository, child["digest"])[0] == child["digest"]
