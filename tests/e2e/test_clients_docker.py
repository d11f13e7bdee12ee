"""docker, with a real dockerd, against a registry."""

from pathlib import Path

import pytest

from tests.e2e import layouts
from tests.e2e.clients import Client
from tests.e2e.conftest import Target
from tests.parts.dockerd import Dockerd
from tests.parts.tools import find


@pytest.fixture
def docker(dockerd_part: Dockerd, home: dict[str, str]) -> Client:
    return Client([find("docker"), "--host", f"unix://{dockerd_part.socket}"], home)


@pytest.fixture
def image_id(docker: Client, tmp_path: Path) -> str:
    """An image that dockerd holds."""
    archive = tmp_path / "layer.tar"
    archive.write_bytes(layouts.tarball())
    return docker("import", "--change", "CMD /content", archive).strip()


def test_pushed_image_is_pulled_by_tag_and_by_digest(
    docker: Client, target: Target, repository: str, image_name: str, image_id: str
) -> None:
    docker("tag", image_id, f"{image_name}:1")
    docker("push", f"{image_name}:1")
    digest, manifest = target.manifest(repository, "1")

    for reference in (f"{image_name}:1", f"{image_name}@{digest}"):
        docker("rmi", "--force", image_id)
        assert f"Digest: {digest}" in docker("pull", reference)
        assert docker("image", "inspect", "--format", "{{.Id}}", reference).strip() == image_id

    assert manifest["mediaType"] == layouts.DOCKER_MANIFEST
    assert manifest["config"]["digest"] == image_id


def test_layer_of_another_repository_is_mounted(
    docker: Client,
    target: Target,
    repository: str,
    other_repository: str,
    image_name: str,
    image_id: str,
) -> None:
    copy = f"{target.address}/{other_repository}:1"
    docker("tag", image_id, f"{image_name}:1")
    docker("tag", image_id, copy)
    docker("push", f"{image_name}:1")

    assert f"Mounted from {repository}" in docker("push", copy)
    assert target.manifest(repository, "1") == target.manifest(other_repository, "1")


def test_second_push_finds_the_layer(docker: Client, image_name: str, image_id: str) -> None:
    for tag in ("1", "2"):
        docker("tag", image_id, f"{image_name}:{tag}")
    docker("push", f"{image_name}:1")

    assert "Layer already exists" in docker("push", f"{image_name}:2")


def test_all_tags_are_pushed_and_pulled_at_once(
    docker: Client, target: Target, repository: str, image_name: str, image_id: str
) -> None:
    for tag in ("1", "2", "3"):
        docker("tag", image_id, f"{image_name}:{tag}")
    docker("push", "--all-tags", image_name)
    docker("rmi", "--force", image_id)

    docker("pull", "--all-tags", image_name)

    listed = docker("images", "--format", "{{.Tag}}", image_name).split()
    assert sorted(listed) == ["1", "2", "3"] == target.tags(repository)


def test_manifest_list_is_made_in_the_registry(
    docker: Client, target: Target, repository: str, image_name: str, tmp_path: Path
) -> None:
    images = {}
    for architecture in ("amd64", "arm64"):
        archive = tmp_path / f"{architecture}.tar"
        archive.write_bytes(layouts.tarball())
        part = f"{image_name}:{architecture}"
        images[architecture] = docker("import", archive, part).strip()
        docker("push", part)
    listed = f"{image_name}:1"

    docker("manifest", "create", "--insecure", listed, *(f"{image_name}:{name}" for name in images))
    # What is imported is said to be for this machine.
    for name in images:
        docker("manifest", "annotate", "--arch", name, listed, f"{image_name}:{name}")
    docker("manifest", "push", listed)
    docker("rmi", "--force", *images.values())
    docker("pull", "--platform", "linux/arm64", listed)

    _, index = target.manifest(repository, "1")
    platforms = [child["platform"]["architecture"] for child in index["manifests"]]
    assert (index["mediaType"], sorted(platforms)) == (layouts.DOCKER_LIST, ["amd64", "arm64"])
    assert docker("image", "inspect", "-f", "{{.Id}}", listed).strip() == images["arm64"]


def test_image_in_the_format_of_oci_is_pulled(
    docker: Client, target: Target, image_name: str, repository: str, tmp_path: Path
) -> None:
    """Pushed by another client, since this dockerd pushes its own format only."""
    source = layouts.image(tmp_path / "image")
    target.push(source, repository)

    assert f"Digest: {source.digest}" in docker("pull", f"{image_name}:1")


def test_pulling_what_is_not_there_fails_with_the_reason(
    docker: Client, image_name: str, image_id: str
) -> None:
    docker("tag", image_id, f"{image_name}:1")
    docker("push", f"{image_name}:1")

    assert "manifest unknown" in docker.fails("pull", f"{image_name}:2")
