"""regctl against a registry: images, tags, artifacts and what refers to an image."""

import json
from pathlib import Path

import pytest

from tests.e2e import layouts
from tests.e2e.clients import Client
from tests.e2e.conftest import Target
from tests.parts.tools import find, require

SBOM = "application/vnd.example.sbom"
SIGNATURE = "application/vnd.example.signature"


@pytest.fixture
def regctl(target: Target, home: dict[str, str]) -> Client:
    require("regctl")
    plain = f"reg={target.address},tls=disabled"
    return Client([find("regctl"), "--host", plain], home)


def test_image_goes_to_the_registry_and_back(
    regctl: Client, target: Target, repository: str, image_name: str, tmp_path: Path
) -> None:
    source = layouts.multi_platform(tmp_path / "index")

    regctl("image", "copy", f"ocidir://{source.path}:1", f"{image_name}:1")
    by_digest = f"{image_name}@{source.digest}"
    regctl("image", "copy", by_digest, f"ocidir://{tmp_path / 'back'}:1")

    assert target.manifest(repository, "1")[0] == source.digest
    for child in source.children():
        assert (tmp_path / "back" / "blobs" / child.replace(":", "/")).exists()


def test_copy_between_repositories_mounts_every_blob(
    regctl: Client,
    target: Target,
    repository: str,
    other_repository: str,
    image_name: str,
    tmp_path: Path,
) -> None:
    target.push(layouts.image(tmp_path / "image"), repository)

    copy = f"{target.address}/{other_repository}:1"
    log = regctl.said("--verbosity", "trace", "image", "copy", f"{image_name}:1", copy)

    assert log.count("mount=sha256") >= 3
    assert "Failed to mount blob" not in log
    assert "method=PATCH" not in log
    assert target.manifest(repository, "1") == target.manifest(other_repository, "1")


def test_tags_and_manifests_are_listed_and_deleted(
    regctl: Client, target: Target, repository: str, image_name: str, tmp_path: Path
) -> None:
    source = layouts.image(tmp_path / "image")
    for tag in ("1", "2", "3"):
        regctl("image", "copy", f"ocidir://{source.path}:1", f"{image_name}:{tag}")
    assert regctl("tag", "ls", image_name).split() == ["1", "2", "3"]
    assert repository in regctl("repo", "ls", "--limit", "1000", target.address).split()

    regctl("tag", "rm", f"{image_name}:1")
    assert regctl("tag", "ls", image_name).split() == ["2", "3"]
    regctl("manifest", "delete", "--force-tag-dereference", f"{image_name}:2")

    assert regctl("tag", "ls", image_name).split() == []
    assert "not found" in regctl.fails("manifest", "head", f"{image_name}@{source.digest}")


def test_deleted_blob_is_gone_from_its_repository_only(
    regctl: Client,
    target: Target,
    repository: str,
    other_repository: str,
    image_name: str,
    tmp_path: Path,
) -> None:
    source = layouts.image(tmp_path / "image")
    digest = next(iter(source.blobs()))
    for name in (repository, other_repository):
        target.push(source, name)

    regctl("blob", "delete", image_name, digest)

    assert "not found" in regctl.fails("blob", "head", image_name, digest)
    regctl("blob", "head", f"{target.address}/{other_repository}", digest)


def test_artifacts_are_found_by_their_subject(
    regctl: Client, target: Target, repository: str, image_name: str, tmp_path: Path
) -> None:
    source = layouts.image(tmp_path / "image")
    target.push(source, repository)
    file = tmp_path / "content.json"
    for artifact_type in (SBOM, SIGNATURE):
        file.write_text(json.dumps({"kind": artifact_type}))
        regctl(
            *("artifact", "put", "--artifact-type", artifact_type, "--file", file),
            *("--annotation", f"kind={artifact_type}", "--subject", f"{image_name}:1"),
        )

    everything = json.loads(regctl("artifact", "list", "--format", "body", f"{image_name}:1"))
    signatures = json.loads(
        regctl(
            *("artifact", "list", "--format", "body"),
            *("--filter-artifact-type", SIGNATURE, f"{image_name}:1"),
        )
    )

    found = {child["artifactType"]: child["annotations"] for child in everything["manifests"]}
    assert found == {kind: {"kind": kind} for kind in (SBOM, SIGNATURE)}
    assert [child["artifactType"] for child in signatures["manifests"]] == [SIGNATURE]


def test_content_of_an_artifact_is_read_back(
    regctl: Client, target: Target, repository: str, image_name: str, tmp_path: Path
) -> None:
    file = tmp_path / "content.json"
    file.write_text('{"answer": 42}')

    regctl(*("artifact", "put", "--artifact-type", SBOM, "--file", file), f"{image_name}:sbom")

    assert regctl("artifact", "get", f"{image_name}:sbom") == file.read_text()
    assert target.manifest(repository, "sbom")[1]["artifactType"] == SBOM


def test_referrers_travel_with_the_image(
    regctl: Client,
    target: Target,
    repository: str,
    other_repository: str,
    image_name: str,
    tmp_path: Path,
) -> None:
    target.push(layouts.image(tmp_path / "image"), repository)
    file = tmp_path / "content.json"
    file.write_text("{}")
    subject = ("--subject", f"{image_name}:1")
    regctl("artifact", "put", "--artifact-type", SBOM, "--file", file, *subject)
    copy = f"{target.address}/{other_repository}:1"

    regctl("image", "copy", "--referrers", f"{image_name}:1", copy)

    listed = json.loads(regctl("artifact", "list", "--format", "body", copy))
    assert [child["artifactType"] for child in listed["manifests"]] == [SBOM]
    assert regctl("artifact", "get", "--subject", copy, "--filter-artifact-type", SBOM) == "{}"
