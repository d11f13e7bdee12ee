"""containerd, through ``ctr``, against a registry."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import layouts
from tests.e2e.clients import Client
from tests.e2e.conftest import Target
from tests.parts.containerd import Containerd
from tests.parts.tools import find


@pytest.fixture
def ctr(containerd_part: Containerd, home: dict[str, str], repository: str) -> Iterator[Client]:
    """``ctr`` with a namespace of its own, so that no content is there before it is pulled."""
    namespace = repository.replace("/", "-")
    client = Client(
        [find("ctr"), "--address", containerd_part.socket, "--namespace", namespace], home
    )
    yield client
    forget_everything(client)


def forget_everything(ctr: Client) -> None:
    """Remove the images, and with them at once the content that only they had."""
    if names := ctr("images", "ls", "--quiet").split():
        ctr("images", "rm", "--sync", *names)


def imported(ctr: Client, source: layouts.Layout, name: str) -> None:
    """Give containerd an image from an archive."""
    arguments = ("--all-platforms", "--no-unpack", "--base-name", name)
    ctr("images", "import", *arguments, source.archive())


def content(ctr: Client) -> set[str]:
    """Return the digests that containerd holds."""
    return set(ctr("content", "ls", "--quiet").split())


def test_pushed_image_is_pulled_by_tag_and_by_digest(
    ctr: Client, target: Target, repository: str, image_name: str, tmp_path: Path
) -> None:
    source = layouts.image(tmp_path / "image")
    imported(ctr, source, image_name)

    ctr("images", "push", "--plain-http", f"{image_name}:1")
    digest, _ = target.manifest(repository, "1")
    for reference in (f"{image_name}:1", f"{image_name}@{digest}"):
        forget_everything(ctr)
        assert source.digest not in content(ctr)
        ctr("images", "pull", "--plain-http", "--snapshotter", "native", reference)
        assert content(ctr) == set(source.blobs())

    assert digest == source.digest


def test_index_arrives_with_all_its_platforms(
    ctr: Client, target: Target, repository: str, image_name: str, tmp_path: Path
) -> None:
    source = layouts.multi_platform(tmp_path / "index")
    imported(ctr, source, image_name)

    ctr("images", "push", "--plain-http", f"{image_name}:1")
    forget_everything(ctr)
    ctr("content", "fetch", "--plain-http", "--all-platforms", f"{image_name}:1")

    assert target.manifest(repository, "1")[0] == source.digest
    assert content(ctr) == set(source.blobs())


def test_blobs_of_another_repository_are_mounted(
    ctr: Client,
    target: Target,
    repository: str,
    other_repository: str,
    image_name: str,
    tmp_path: Path,
) -> None:
    copy = f"{target.address}/{other_repository}:1"
    target.push(layouts.image(tmp_path / "image"), repository)
    # What is pulled remembers where it is from.
    ctr("images", "pull", "--plain-http", "--snapshotter", "native", f"{image_name}:1")
    ctr("images", "tag", f"{image_name}:1", copy)

    log = ctr.said("images", "push", "--plain-http", "--http-dump", copy)

    mounts = [line for line in log.splitlines() if "POST /v2/" in line]
    assert len(mounts) == 3
    assert all(f"from={repository} " in line for line in mounts)
    # Each blob and the manifest; an upload would begin with a 202.
    assert (log.count("201 Created"), log.count("202 Accepted")) == (4, 0)
    assert target.manifest(repository, "1") == target.manifest(other_repository, "1")
