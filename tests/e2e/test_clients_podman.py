"""podman against a registry: push, pull, manifest lists and what its search shows."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import layouts
from tests.e2e.clients import Client
from tests.e2e.conftest import Target
from tests.parts.tools import find, require

PLAIN = "--tls-verify=false"


@pytest.fixture
def podman(home: dict[str, str], tmp_path: Path) -> Iterator[Client]:
    require("podman")
    # The path of this one must have 50 characters at most.
    with tempfile.TemporaryDirectory(prefix="podman-") as run:
        yield Client(
            [
                find("podman"),
                *("--root", tmp_path / "storage", "--runroot", run),
                *("--tmpdir", tmp_path / "scratch", "--storage-driver", "vfs"),
                *("--cgroup-manager", "cgroupfs", "--events-backend", "file"),
            ],
            home,
        )


@pytest.fixture
def image_id(podman: Client, tmp_path: Path) -> str:
    """An image that podman holds."""
    source = layouts.image(tmp_path / "image")
    return podman("pull", "--quiet", f"oci:{source.path}:1").strip()


@pytest.mark.parametrize(
    ("manifest_format", "media_type"),
    [("oci", layouts.MANIFEST), ("v2s2", layouts.DOCKER_MANIFEST)],
    ids=["oci", "docker"],
)
def test_pushed_image_is_pulled_by_tag_and_by_digest(
    podman: Client,
    target: Target,
    repository: str,
    image_name: str,
    image_id: str,
    manifest_format: str,
    media_type: str,
) -> None:
    podman("push", PLAIN, "--format", manifest_format, image_id, f"{image_name}:1")
    digest, manifest = target.manifest(repository, "1")

    for reference in (f"{image_name}:1", f"{image_name}@{digest}"):
        podman("rmi", "--all", "--force")
        podman("pull", PLAIN, reference)
        # The identity of an image is the digest of its configuration: Docker's format has another.
        pulled = json.loads(podman("image", "inspect", reference))
        assert pulled[0]["Digest"] == digest
        assert f"sha256:{pulled[0]['Id']}" == manifest["config"]["digest"]

    assert manifest["mediaType"] == media_type


def test_second_push_uploads_no_layer_again(
    podman: Client, target: Target, other_repository: str, image_name: str, image_id: str
) -> None:
    podman("push", PLAIN, image_id, f"{image_name}:1")

    log = podman.said(
        "--log-level=debug", "push", PLAIN, image_id, f"{target.address}/{other_repository}:1"
    )

    assert log.count("... mount OK") == 2


def test_manifest_list_keeps_the_platforms(
    podman: Client, target: Target, repository: str, image_name: str, tmp_path: Path
) -> None:
    images = []
    for architecture in ("amd64", "arm64"):
        source = layouts.image(tmp_path / architecture, architecture=architecture)
        images.append(podman("pull", "--quiet", f"oci:{source.path}:1").strip())
    podman("manifest", "create", "list")
    for image in images:
        podman("manifest", "add", "list", f"containers-storage:{image}")

    podman("manifest", "push", PLAIN, "--all", "--format", "v2s2", "list", f"{image_name}:docker")
    podman("manifest", "push", PLAIN, "--all", "--format", "oci", "list", f"{image_name}:oci")
    podman("rmi", "--all", "--force")
    podman("pull", PLAIN, "--arch", "arm64", f"{image_name}:oci")

    for tag, media_type in (("docker", layouts.DOCKER_LIST), ("oci", layouts.INDEX)):
        _, index = target.manifest(repository, tag)
        platforms = [child["platform"]["architecture"] for child in index["manifests"]]
        assert (index.get("mediaType", media_type), sorted(platforms)) == (
            media_type,
            ["amd64", "arm64"],
        )
    inspected = json.loads(podman("image", "inspect", f"{image_name}:oci"))
    assert inspected[0]["Architecture"] == "arm64"


def test_search_lists_repositories_and_tags(
    podman: Client, target: Target, repository: str, image_name: str, image_id: str
) -> None:
    for tag in ("1", "2"):
        podman("push", PLAIN, image_id, f"{image_name}:{tag}")

    listed = podman("search", PLAIN, "--list-tags", "--format", "json", image_name)
    names = podman("search", PLAIN, "--limit", "100", "--format", "{{.Name}}", image_name)

    assert [entry["Tags"] for entry in json.loads(listed)] == [["1", "2"]]
    assert f"{target.address}/{repository}" in names.split()


def test_pulling_what_is_not_there_fails_with_the_reason(
    podman: Client, image_name: str, image_id: str
) -> None:
    podman("push", PLAIN, image_id, f"{image_name}:1")

    assert "manifest unknown" in podman.fails("pull", PLAIN, f"{image_name}:2")
