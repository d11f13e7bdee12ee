"""File systems that are full: to the last byte, to the last inode, and almost.

Pushes fail as a whole, pulls go on, deletions work, and pushes go on when there is space again.
"""

import contextlib
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from alauda_registry.oci.digest import Digest
from alauda_registry.oci.errors import ManifestUnknown
from alauda_registry.oci.media_types import OCI_MANIFEST
from alauda_registry.oci.reference import Tag
from alauda_registry.storage.driver import OutOfSpace
from alauda_registry.storage.drivers.filesystem import FilesystemDriver
from alauda_registry.storage.repositories import Registry, Repository
from tests.contract.conftest import assert_nothing_is_left
from tests.integration.disks import HASTE, MIB, Disk, mounted
from tests.integration.volumes import Pusher, assert_served, connected
from tests.parts import registry as server_part
from tests.parts.processes import wait_until
from tests.unit.storage.pushing import (
    EMPTY,
    NAME,
    descriptor,
    image,
    piece,
    push,
    push_blob,
    put,
    read_blob,
)

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

BLOB = bytes(range(256)) * 1024
SUBJECT = descriptor(b"subject", OCI_MANIFEST)


@pytest.fixture(params=["tmpfs", "ext4", "xfs"])
def kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    if kind != "tmpfs" and shutil.which(f"mkfs.{kind}") is None:
        pytest.skip(f"mkfs.{kind} is not installed")
    return kind


@pytest.fixture
def disk(tmp_path: Path, kind: str) -> Iterator[Disk]:
    with mounted(tmp_path, kind, (300 if kind == "xfs" else 16) * MIB) as disk:
        yield disk


@pytest.fixture
async def registry(disk: Disk) -> AsyncIterator[Registry]:
    root = disk.path / "root"
    registry = Registry(FilesystemDriver(root))
    yield registry
    await registry.aclose()
    assert_nothing_is_left(root)


@pytest.fixture
def repository(registry: Registry) -> Repository:
    return registry.repository(NAME)


async def test_a_push_that_fits_only_in_part_is_refused_as_a_whole(
    repository: Repository, disk: Disk, *, is_long: bool
) -> None:
    kept = await push(repository, image(BLOB), "kept", blobs=(EMPTY, BLOB))
    outcomes = set()
    layer, content = b"", b""
    for left in range(0, 640, 4 if is_long else 32):
        disk.fill(leave=left * 1024)
        layer = os.urandom(200_000)
        content = image(layer, annotations={"left": str(left)}, subject=SUBJECT)
        try:
            await push(repository, content, "a", "b", blobs=(layer,))
        except OutOfSpace:
            outcomes.add("refused")
            with pytest.raises(ManifestUnknown):
                await repository.manifests.get(Digest.of(content))
        else:
            outcomes.add("done")
            assert await repository.tags.resolve(Tag("b")) == Digest.of(content)
            assert await read_blob(repository, Digest.of(layer)) == layer
            await repository.manifests.delete(Digest.of(content))
        assert (await repository.tags.page(limit=None)).names == ["kept"]
        assert await repository.tags.resolve(Tag("kept")) == kept
        assert await read_blob(repository, Digest.of(BLOB)) == BLOB
    disk.empty()
    await push(repository, content, "a", blobs=(layer,))

    assert outcomes == {"refused", "done"}


async def test_everything_can_be_deleted_on_a_disk_that_is_full_to_the_last_byte(
    registry: Registry, repository: Repository, disk: Disk
) -> None:
    digest = await push(repository, image(BLOB, subject=SUBJECT), "a", "b", blobs=(EMPTY, BLOB))
    other = await push(repository, image(BLOB), "c")
    session = await repository.uploads.start()
    await session.append(piece(b"half"))
    disk.fill()
    crowd(disk.path / "root/_driver/scratch")
    full = await registry.health()

    await repository.tags.delete(Tag("a"))
    await repository.manifests.delete(digest)
    await repository.blobs.delete(Digest.of(BLOB))
    await session.cancel()
    with pytest.raises(OutOfSpace):
        await push_blob(repository, os.urandom(1_000_000))
    for name in (disk.path / "root/_driver/scratch").iterdir():
        name.unlink()
    disk.empty()
    await push_blob(repository, BLOB)

    assert (full.ready, full.degraded) == (True, "full")
    assert (await registry.health()).degraded is None
    assert (await repository.tags.page(limit=None)).names == ["c"]
    assert await repository.tags.resolve(Tag("c")) == other


def crowd(folder: Path) -> None:
    """Put names into a directory until it would need another block, which there is not."""
    for length in (200, 24):
        with contextlib.suppress(OSError):
            for number in range(10_000):
                (folder / f"{number:0{length}}").touch()


@pytest.mark.parametrize(
    ("kind", "options"),
    [("tmpfs", ("nr_inodes=300",)), ("ext4", ("-N", "256"))],
    ids=["tmpfs", "ext4"],
)
async def test_a_disk_without_inodes_is_a_full_disk(
    tmp_path: Path, kind: str, options: tuple[str, ...]
) -> None:
    with mounted(tmp_path, kind, 16 * MIB, *options) as disk:
        registry = Registry(FilesystemDriver(disk.path / "root"))
        repository = registry.repository(NAME)
        kept = await push(repository, image(), "kept")
        await push(repository, image(annotations={"doomed": "yes"}), "doomed")
        files = list(use_up_inodes(disk.path / "ballast"))

        with pytest.raises(OutOfSpace):
            await push_blob(repository, BLOB)
        with pytest.raises(OutOfSpace):
            await put(repository, image(annotations={"new": "yes"}), "new")
        full = await registry.health()
        await repository.manifests.delete(Digest.of(image(annotations={"doomed": "yes"})))
        assert await repository.tags.resolve(Tag("kept")) == kept
        for file in files:
            file.unlink()
        await push_blob(repository, BLOB)
        await put(repository, image(annotations={"new": "yes"}), "new")

        assert (full.ready, full.degraded) == (True, "full")
        assert (await registry.health()).degraded is None
        assert (await repository.tags.page(limit=None)).names == ["kept", "new"]
        await registry.aclose()
        assert_nothing_is_left(disk.path / "root")


def use_up_inodes(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    with contextlib.suppress(OSError):
        for number in range(10_000):
            file = folder / str(number)
            file.touch()
            yield file


def test_64_mebibytes_filled_to_the_last_byte_need_no_restart(tmp_path: Path) -> None:
    with (
        mounted(tmp_path, "ext4", 64 * MIB) as disk,
        server_part.running(
            tmp_path / "log", root=disk.path / "root", workers=2, settings=HASTE
        ) as server,
        connected(server.url) as client,
    ):
        pusher = Pusher(client)
        pusher.image("app", "kept")
        doomed = pusher.artifact("app", "doomed", annotations={"doomed": "yes"})
        disk.fill()
        content, media_type = pusher.volume.manifests["app", doomed]

        statuses = set()
        for number in range(10):
            started = client.post("/v2/app/blobs/uploads/?digest=sha256:" + "0" * 64)
            pushed = client.put(
                f"/v2/app/manifests/new-{number}",
                content=content + b" " * 100_000,
                headers={"Content-Type": media_type},
            )
            statuses |= {started.status_code, pushed.status_code}
        wait_until(lambda: "full" in client.get("/readyz").text, "the probe to say so")
        ready = client.get("/readyz").status_code
        pusher.delete(f"/v2/app/manifests/{doomed}")
        del pusher.volume.manifests["app", doomed], pusher.volume.tags["app"]["doomed"]
        assert_served(client, pusher.volume)
        disk.empty()
        pusher.image("app", "new")
        assert_served(client, pusher.volume)
        wait_until(lambda: "full" not in client.get("/readyz").text, "space to be back")
        log = server.log.read_text()

    assert statuses == {507}
    assert ready == 200
    assert "Traceback" not in log
