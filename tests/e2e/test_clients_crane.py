"""crane against a registry."""

from pathlib import Path

import pytest

from tests.e2e import layouts
from tests.e2e.clients import Client
from tests.e2e.conftest import Target
from tests.parts.tools import find, require


@pytest.fixture
def crane(home: dict[str, str]) -> Client:
    require("crane")
    return Client([find("crane")], home)


def test_image_grows_layer_by_layer_in_the_registry(
    crane: Client, target: Target, repository: str, image_name: str, tmp_path: Path
) -> None:
    archive = tmp_path / "layer.tar"
    archive.write_bytes(layouts.tarball("one"))
    crane("append", "--new_layer", archive, "--new_tag", f"{image_name}:1")
    archive.write_bytes(layouts.tarball("two"))
    crane(*("append", "--base", f"{image_name}:1"), *("-f", archive, "-t", f"{image_name}:2"))

    crane("validate", "--remote", f"{image_name}:2")
    crane("pull", f"{image_name}:2", tmp_path / "pulled.tar")

    assert len(target.manifest(repository, "1")[1]["layers"]) == 1
    assert len(target.manifest(repository, "2")[1]["layers"]) == 2
    assert (tmp_path / "pulled.tar").stat().st_size > 0


def test_layout_comes_back_byte_for_byte_by_tag_and_by_digest(
    crane: Client, image_name: str, tmp_path: Path
) -> None:
    source = layouts.image(tmp_path / "image")
    crane("push", source.path, f"{image_name}:1")

    assert crane("digest", f"{image_name}:1").strip() == source.digest
    for reference in (f"{image_name}:1", f"{image_name}@{source.digest}"):
        back = tmp_path / "back" / reference.rpartition("/")[2]
        crane("pull", "--format", "oci", reference, back)
        assert {file.name for file in (back / "blobs/sha256").iterdir()} == {
            file.name for file in (source.path / "blobs/sha256").iterdir()
        }


def test_index_keeps_its_platforms(
    crane: Client, target: Target, repository: str, image_name: str, tmp_path: Path
) -> None:
    source = layouts.multi_platform(tmp_path / "index")
    crane("push", "--index", source.path, f"{image_name}:whole")
    parts = [
        argument for child in source.children() for argument in ("-m", f"{image_name}@{child}")
    ]

    crane("index", "append", *parts, "--tag", f"{image_name}:made")
    crane("validate", "--remote", f"{image_name}:made")

    _, index = target.manifest(repository, "made")
    assert index["mediaType"] == layouts.INDEX
    assert [child["digest"] for child in index["manifests"]] == source.children()
    arm = crane("digest", "--platform", "linux/arm64", f"{image_name}:made").strip()
    assert arm == source.children()[1]


def test_copy_between_repositories_mounts_every_blob(
    crane: Client,
    target: Target,
    repository: str,
    other_repository: str,
    image_name: str,
    tmp_path: Path,
) -> None:
    crane("push", layouts.image(tmp_path / "image").path, f"{image_name}:1")

    log = crane.said(
        "--verbose", "copy", f"{image_name}:1", f"{target.address}/{other_repository}:1"
    )

    assert log.count("mounted blob") == 3
    assert "PATCH" not in log
    assert target.manifest(repository, "1") == target.manifest(other_repository, "1")


def test_lists_show_what_was_pushed_and_not_what_was_deleted(
    crane: Client, target: Target, repository: str, image_name: str, tmp_path: Path
) -> None:
    for tag in ("1", "2"):
        crane("push", layouts.image(tmp_path / tag).path, f"{image_name}:{tag}")
    crane("tag", f"{image_name}:1", "latest")
    assert crane("ls", image_name).split() == ["1", "2", "latest"]
    assert repository in crane("catalog", target.address).split()

    crane("delete", f"{image_name}@{crane('digest', f'{image_name}:1').strip()}")

    assert crane("ls", image_name).split() == ["2"]
    assert "MANIFEST_UNKNOWN" in crane.fails("manifest", f"{image_name}:1")
