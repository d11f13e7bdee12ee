"""What a directory on a disk has to do beyond the contract of all drivers.

Nothing that somebody left in the directory leads out of it, and what survives a power cut
is decided by what is synced and when.
"""

import errno
import os
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from alauda_registry.storage.driver import (
    Ensure,
    Move,
    OutOfSpace,
    PathNotFound,
    Unreachable,
    Write,
)
from alauda_registry.storage.drivers.filesystem import FilesystemDriver
from tests.contract.conftest import assert_nothing_is_left
from tests.contract.test_drivers import OPERATIONS, walked

pytestmark = pytest.mark.anyio


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture(params=[True, False], ids=["openat2", "stepwise"])
async def driver(root: Path, request: pytest.FixtureRequest) -> AsyncIterator[FilesystemDriver]:
    driver = FilesystemDriver(root, openat2=request.param)
    yield driver
    await driver.aclose()
    assert_nothing_is_left(root)


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A directory beside the root that has to stay as it is."""
    outside = tmp_path / "outside"
    (outside / "deep").mkdir(parents=True)
    (outside / "secret").write_bytes(b"secret")
    yield outside
    assert sorted(path.name for path in outside.rglob("*")) == ["deep", "secret"]
    assert (outside / "secret").read_bytes() == b"secret"


@pytest.mark.parametrize(
    "target",
    ["{outside}", "../outside", "d/../../outside", "hop", "/proc/self/cwd/{outside}"],
    ids=["absolute", "relative", "through a directory", "through a link", "through proc"],
)
@pytest.mark.parametrize("operation", sorted(OPERATIONS))
async def test_no_link_to_a_directory_leads_out_of_the_root(
    driver: FilesystemDriver, root: Path, outside: Path, operation: str, target: str
) -> None:
    await driver.publish(Write("/a", b"x"), Write("/d/file", b"x"))
    (root / "hop").symlink_to(outside)
    (root / "link").symlink_to(target.format(outside=outside))

    for path in ("/link/secret", "/link/new", "/link/deep", "/link/deep/new"):
        if operation == "walk":
            assert await walked(driver, path) == []
        else:
            with pytest.raises((PathNotFound, Unreachable)):
                await OPERATIONS[operation](driver, path)


@pytest.mark.parametrize(
    "operation", ["stat", "read", "open", "ensure", "append", "append or create", "names"]
)
@pytest.mark.parametrize("name", ["secret", "new"])
async def test_no_link_to_a_file_leads_out_of_the_root(
    driver: FilesystemDriver, root: Path, outside: Path, operation: str, name: str
) -> None:
    (root / "link").symlink_to(outside / name)

    with pytest.raises((PathNotFound, Unreachable)):
        await OPERATIONS[operation](driver, "/link")


async def test_a_link_is_replaced_and_not_written_through(
    driver: FilesystemDriver, root: Path, outside: Path
) -> None:
    (root / "link").symlink_to(outside / "secret")
    (root / "other").symlink_to(outside / "secret")
    await driver.publish(Write("/new", b"moved"))

    await driver.publish(Write("/link", b"written"), Move("/new", "/other"))

    assert (await driver.read("/link"), await driver.read("/other")) == (b"written", b"moved")


@pytest.mark.parametrize("path", ["/d", "/d/directory", "/d/file"])
async def test_deleting_a_link_spares_what_it_leads_to(
    driver: FilesystemDriver, root: Path, outside: Path, path: str
) -> None:
    (root / "d").mkdir()
    (root / "d/directory").symlink_to(outside)
    (root / "d/file").symlink_to(outside / "secret")

    await driver.delete(path)

    assert path.rpartition("/")[2] not in os.listdir(f"{root}{path}".rpartition("/")[0])


async def test_a_walk_passes_links_by(driver: FilesystemDriver, root: Path, outside: Path) -> None:
    await driver.publish(Write("/d/a/1", b"x"), Write("/d/z", b"x"))
    (root / "d/directory").symlink_to(outside)
    (root / "d/file").symlink_to(outside / "secret")
    (root / "d/loop").symlink_to(root)

    assert await walked(driver, "/d") == ["/d/a/1", "/d/z"]


async def test_a_loop_of_links_is_not_found(driver: FilesystemDriver, root: Path) -> None:
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")

    with pytest.raises(PathNotFound):
        await driver.read("/a/file")


async def test_names_that_no_driver_makes_are_passed_by(
    driver: FilesystemDriver, root: Path
) -> None:
    await driver.publish(Write("/d/file", b"x"))
    for name in ("with space", "with:colon", "\u00e4", "new\nline", "\udcff"):
        (root / "d" / name).write_bytes(b"x")
        (root / "d" / f"{name} directory").mkdir()

    assert await driver.names("/d") == ["file"]
    assert await walked(driver, "/d") == ["/d/file"]


@pytest.mark.parametrize("operation", ["stat", "open"])
async def test_what_is_neither_file_nor_directory_is_not_found(
    driver: FilesystemDriver, root: Path, operation: str
) -> None:
    os.mkfifo(root / "pipe")

    with pytest.raises(PathNotFound):
        await OPERATIONS[operation](driver, "/pipe")


async def test_files_that_were_there_before_are_served(tmp_path: Path) -> None:
    (tmp_path / "docker/registry").mkdir(parents=True)
    (tmp_path / "docker/registry/file").write_bytes(b"old")

    driver = FilesystemDriver(tmp_path)

    assert await driver.read("/docker/registry/file") == b"old"
    await driver.aclose()


async def test_a_root_that_was_replaced_fails_the_check(
    driver: FilesystemDriver, root: Path
) -> None:
    os.rename(root, root.with_name("elsewhere"))
    os.mkdir(root)

    with pytest.raises(Unreachable):
        await driver.check(write=False)


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch, root: Path) -> Callable[[], list[str]]:
    """Returns the paths that were synced since the last call, in their order."""
    paths: list[str] = []
    fsync, fdatasync = os.fsync, os.fdatasync

    def record(descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}").removeprefix(str(root)) or "/"
        paths.append("scratch" if path.startswith("/_driver/scratch/") else path)

    def recorded_fsync(descriptor: int) -> None:
        record(descriptor)
        fsync(descriptor)

    def recorded_fdatasync(descriptor: int) -> None:
        record(descriptor)
        fdatasync(descriptor)

    def take() -> list[str]:
        taken = paths.copy()
        paths.clear()
        return taken

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "fdatasync", recorded_fdatasync)
    return take


async def test_a_published_file_and_the_whole_way_to_it_are_synced(
    driver: FilesystemDriver, synced: Callable[[], list[str]]
) -> None:
    await driver.publish(Write("/a/b/c", b"x"))

    order = synced()
    assert order[0] == "scratch"
    assert set(order[1:]) == {"/", "/a", "/a/b"}


async def test_a_moved_file_and_the_whole_way_to_it_are_synced(
    driver: FilesystemDriver, synced: Callable[[], list[str]]
) -> None:
    writer = await driver.append("/upload/data", create=True, wait=0)
    await writer.write([b"x"])
    await driver.publish(Move("/upload/data", "/a/b/c"))
    await writer.close()

    order = synced()
    assert order[0] == "/upload/data"
    assert set(order[1:]) == {"/", "/a", "/a/b"}


async def test_a_stage_is_durable_before_the_next_one_shows(
    driver: FilesystemDriver, synced: Callable[[], list[str]], root: Path
) -> None:
    await driver.publish(Write("/a/old", b"x"), Write("/b/old", b"x"))
    synced()

    await driver.publish((Write("/a/1", b"x"), Write("/a/2", b"x")), Write("/b/3", b"x"))

    assert synced() == ["scratch", "scratch", "scratch", "/a", "/b"]


async def test_a_directory_that_was_made_again_is_synced_again(
    driver: FilesystemDriver, synced: Callable[[], list[str]]
) -> None:
    for _ in range(5):
        await driver.publish(Write("/a/b/c", b"x"))
        await driver.delete("/a/b")
        synced()

    # File systems give the number of a deleted directory to the next one that is made.
    await driver.publish(Write("/a/b/c", b"x"))

    assert {"/a", "/a/b"} <= set(synced())


async def test_ensuring_a_file_syncs_the_way_to_it(
    driver: FilesystemDriver, synced: Callable[[], list[str]], root: Path
) -> None:
    (root / "a/b").mkdir(parents=True)
    (root / "a/b/c").write_bytes(b"made by another process")

    await driver.publish(Ensure("/a/b/c"))

    assert set(synced()) == {"/", "/a", "/a/b"}


@pytest.mark.parametrize(("path", "parent"), [("/a/b/c", "/a/b"), ("/a/b", "/a"), ("/a", "/")])
async def test_a_deletion_is_synced(
    driver: FilesystemDriver, synced: Callable[[], list[str]], path: str, parent: str
) -> None:
    await driver.publish(Write("/a/b/c", b"x"))
    synced()

    await driver.delete(path)

    assert synced() == [parent]


async def test_links_that_lead_round_in_circles_are_not_followed(
    driver: FilesystemDriver, root: Path
) -> None:
    await driver.publish(Write("/d/file", b"x"))
    (root / "d" / "round").symlink_to(".")

    with pytest.raises(PathNotFound):
        await driver.names("/d/round")
    with pytest.raises(PathNotFound):
        await driver.read("/d/round/file")


@pytest.mark.parametrize("way", ["/d/nowhere/new", "/d/nowhere/deep/new", "/d/file/new"])
async def test_what_is_in_the_way_of_a_new_file_is_not_absence(
    driver: FilesystemDriver, root: Path, way: str
) -> None:
    await driver.publish(Write("/d/file", b"x"), Write("/d/move", b"x"))
    (root / "d" / "nowhere").symlink_to("absent")

    for attempt in (
        driver.publish(Write(way, b"x")),
        driver.publish(Move("/d/move", way)),
        driver.append(way, create=True, wait=0),
    ):
        with pytest.raises(Unreachable, match="in its way"):
            await attempt


async def test_nothing_is_absent_when_the_root_is_gone(
    driver: FilesystemDriver, root: Path, tmp_path: Path
) -> None:
    await driver.publish(Write("/a", b"x"))
    os.rename(root, tmp_path / "elsewhere")

    for attempt in (driver.read("/b"), driver.stat("/b"), driver.names("/b")):
        with pytest.raises(Unreachable):
            await attempt

    os.rename(tmp_path / "elsewhere", root)
    with pytest.raises(PathNotFound):
        await driver.read("/b")


async def test_a_folder_on_another_file_system_is_refused_at_the_start(
    tmp_path: Path,
) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "docker").symlink_to(tmp_path)

    with pytest.raises(OSError, match="mount the root"):
        FilesystemDriver(tmp_path / "root")


async def test_a_name_that_a_power_cut_kept_is_not_written_through(tmp_path: Path) -> None:
    """On some file systems a rename may end as two names of one file."""
    driver = FilesystemDriver(tmp_path)
    await driver.publish(Write("/blobs/data", b"content"))
    (tmp_path / "uploads").mkdir()
    (tmp_path / "uploads/data").hardlink_to(tmp_path / "blobs/data")

    with pytest.raises(PathNotFound):
        await driver.append("/uploads/data", create=False, wait=0)

    assert await driver.read("/blobs/data") == b"content"
    assert not (tmp_path / "uploads/data").exists()
    await driver.aclose()


async def test_a_new_folder_shows_with_the_file_in_it(
    driver: FilesystemDriver, synced: Callable[[], list[str]], root: Path
) -> None:
    await driver.publish(Write("/tags/old/current/link", b"x"))
    synced()

    write = Write("/tags/new/current/link", b"1", folder="/tags/new")
    await driver.publish(write)
    assert synced() == ["scratch", "scratch", "scratch", "/tags"]
    assert await driver.read("/tags/new/current/link") == b"1"

    await driver.publish(Ensure("/tags/new/current/link"))
    assert synced() == []

    await driver.publish(replace(write, content=b"2"))
    assert synced() == ["scratch", "/tags/new/current"]
    assert await driver.read("/tags/new/current/link") == b"2"
    assert os.listdir(root / "_driver/scratch") == []


async def test_a_folder_that_somebody_makes_meanwhile_gets_the_file(
    driver: FilesystemDriver, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two pushes of a new tag: the one that comes second finds the folder in its place."""
    rename, others = os.rename, iter([b"other"])

    def beaten(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        for content in others:
            (root / "tags/new/current").mkdir(parents=True)
            (root / "tags/new/current/link").write_bytes(content)
        rename(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "rename", beaten)
    await driver.publish(Write("/tags/new/current/link", b"ours", folder="/tags/new"))

    assert await driver.read("/tags/new/current/link") == b"ours"
    assert os.listdir(root / "_driver/scratch") == []


async def test_a_folder_that_was_left_empty_is_filled(driver: FilesystemDriver, root: Path) -> None:
    (root / "tags/new").mkdir(parents=True)
    (root / "tags/newer/current").mkdir(parents=True)

    for name in ("new", "newer"):
        folder = f"/tags/{name}"
        await driver.publish(Write(f"{folder}/current/link", b"x", folder=folder))
        assert await driver.read(f"{folder}/current/link") == b"x"


async def test_a_folder_that_does_not_fit_leaves_nothing(
    driver: FilesystemDriver, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutOfSpace):
        await driver.publish(Write("/tags/new/current/link", b"x", folder="/tags/new"))

    assert os.listdir(root / "_driver/scratch") == []
    assert not (root / "tags").exists()
