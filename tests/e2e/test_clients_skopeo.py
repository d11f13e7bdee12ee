"""skopeo against a registry: copies in both formats, indexes, mounts, deletes, and a huge layer."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import layouts
from tests.e2e.clients import Client
from tests.e2e.conftest import Target
from tests.parts.tools import find, require

TWO_GIB = 2 * 2**30
PLAIN = ["--src-tls-verify=false", "--dest-tls-verify=false"]


@pytest.fixture
def skopeo(home: dict[str, str]) -> Client:
    require("skopeo")
    return Client([find("skopeo")], home)


@pytest.mark.parametrize(
    ("manifest_format", "media_type"),
    [("oci", layouts.MANIFEST), ("v2s2", layouts.DOCKER_MANIFEST)],
    ids=["oci", "docker"],
)
def test_pushed_image_comes_back_by_tag_and_by_digest(
    skopeo: Client,
    target: Target,
    repository: str,
    tmp_path: Path,
    manifest_format: str,
    media_type: str,
) -> None:
    source = layouts.image(tmp_path / "image")
    remote = f"docker://{target.address}/{repository}"

    skopeo("copy", *PLAIN, "-f", manifest_format, f"oci:{source.path}:1", f"{remote}:1")
    digest, manifest = target.manifest(repository, "1")
    skopeo("copy", *PLAIN, f"{remote}:1", f"dir:{tmp_path / 'by-tag'}")
    skopeo("copy", *PLAIN, f"{remote}@{digest}", f"dir:{tmp_path / 'by-digest'}")

    assert manifest["mediaType"] == media_type
    assert len(manifest["layers"]) == 2
    for pulled in (tmp_path / "by-tag", tmp_path / "by-digest"):
        assert layouts.digest_of(pulled / "manifest.json") == digest
        for layer in manifest["layers"]:
            stored = pulled / layer["digest"].removeprefix("sha256:")
            assert layouts.digest_of(stored) == layer["digest"]


def test_index_arrives_with_all_its_platforms(
    skopeo: Client, target: Target, repository: str, tmp_path: Path
) -> None:
    source = layouts.multi_platform(tmp_path / "index")
    remote = f"docker://{target.address}/{repository}:1"

    everything = ["copy", *PLAIN, "--all", "--preserve-digests"]
    skopeo(*everything, f"oci:{source.path}:1", remote)
    skopeo(*everything, remote, f"oci:{tmp_path / 'back'}:1")

    digest, _ = target.manifest(repository, "1")
    assert digest == source.digest
    for child in source.children():
        assert (tmp_path / "back" / "blobs" / child.replace(":", "/")).exists()


def test_blobs_of_another_repository_are_mounted(
    skopeo: Client, target: Target, repository: str, other_repository: str, tmp_path: Path
) -> None:
    source = layouts.image(tmp_path / "image")
    first, second = (
        f"docker://{target.address}/{name}:1" for name in (repository, other_repository)
    )
    skopeo("copy", *PLAIN, f"oci:{source.path}:1", first)

    log = skopeo.said("--debug", "copy", *PLAIN, first, second)

    # Both layers; a configuration is small, so skopeo always uploads it.
    assert log.count("... mount OK") == 2
    assert log.count("PATCH http") == 1
    assert target.manifest(repository, "1") == target.manifest(other_repository, "1")


def test_deleted_image_is_gone_and_other_tags_stay(
    skopeo: Client, target: Target, repository: str, tmp_path: Path
) -> None:
    remote = f"docker://{target.address}/{repository}"
    for tag in ("1", "2"):
        source = layouts.image(tmp_path / tag)
        skopeo("copy", *PLAIN, f"oci:{source.path}:1", f"{remote}:{tag}")
    assert json.loads(skopeo("list-tags", "--tls-verify=false", remote))["Tags"] == ["1", "2"]

    skopeo("delete", "--tls-verify=false", f"{remote}:1")

    assert json.loads(skopeo("list-tags", "--tls-verify=false", remote))["Tags"] == ["2"]
    assert "manifest unknown" in skopeo.fails("inspect", "--tls-verify=false", f"{remote}:1")
    assert json.loads(skopeo("inspect", "--tls-verify=false", f"{remote}:2"))["Architecture"]


@pytest.fixture
def roomy(tmp_path: Path) -> Iterator[Path]:
    """A folder that takes gigabytes and gives them back at once."""
    folder = tmp_path / "roomy"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.mark.timeout(500)
def test_layer_of_two_gib_comes_back_unchanged(
    skopeo: Client, target: Target, repository: str, roomy: Path
) -> None:
    layer = layouts.sparse_tarball(roomy / "layer.tar", TWO_GIB)
    source = layouts.image(roomy / "image", layer=layer)
    remote = f"docker://{target.address}/{repository}:1"

    # Otherwise skopeo would compress the layer, and next to nothing of it would travel.
    exactly = ["copy", *PLAIN, "--preserve-digests"]
    skopeo(*exactly, f"oci:{source.path}:1", remote, seconds=200)
    shutil.rmtree(source.path)
    skopeo(*exactly, remote, f"dir:{roomy / 'back'}", seconds=200)

    digest, manifest = target.manifest(repository, "1")
    (descriptor,) = manifest["layers"]
    pulled = roomy / "back" / descriptor["digest"].removeprefix("sha256:")
    assert digest == source.digest
    assert pulled.stat().st_size == descriptor["size"] > TWO_GIB
    assert layouts.digest_of(pulled) == descriptor["digest"]
