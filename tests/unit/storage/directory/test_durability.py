"""What a power cut would leave: all that was acknowledged, and nothing that dangles.

The calls that sync, rename and make directories are watched on their way to the kernel.
A name survives from when its directory was synced, and bytes from when their file was.
"""

import asyncio
import errno
import os
import shutil
import stat
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typing_extensions import override

from alauda_registry.oci.digest import Digest
from alauda_registry.oci.media_types import OCI_MANIFEST
from alauda_registry.oci.reference import RepositoryName, Tag
from alauda_registry.storage import paths
from alauda_registry.storage.directory import durability, shared_syncs
from alauda_registry.storage.directory.rooted import RootedDirectory
from alauda_registry.storage.driver import Ensure, Move, Unreachable, Write
from alauda_registry.storage.drivers.filesystem import FilesystemDriver
from alauda_registry.storage.repositories import Registry, Repository
from tests.unit.storage.pushing import EMPTY, NAME, descriptor, image, piece, push_blob, put

pytestmark = pytest.mark.anyio

BLOB = b"layer" * 50_000
DIGEST = Digest.of(BLOB)


RELIANCE = [("_layers", "blobs"), ("revisions", "blobs"), ("tags", "revisions")]
"""What may only become visible when what it relies on is durable, and what that is."""


class Disk:
    """Knows which names and bytes below a directory would survive a power cut.

    Attributes:
        lies: While it is true, syncing has no effect, as for a writer that was stopped
            right before it synced.
        published: The files that were renamed into the registry's tree, in their order.
        complaints: What was published too early.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._unsynced: dict[Path, set[str]] = {}
        self._synced: dict[int, tuple[int, int]] = {}
        self.lies = False
        self.published: list[Path] = []
        self.complaints: list[str] = []

    def synced(self, descriptor: int) -> None:
        if self.lies:
            return
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            self._unsynced.pop(_path_of(descriptor), None)
        else:
            self._synced[status.st_ino] = (status.st_size, status.st_mtime_ns)

    def changed(self, directory: Path, name: str) -> None:
        self._unsynced.setdefault(directory, set()).add(name)

    def renamed(self, source: Path, target: Path) -> None:
        """Take note before it happens."""
        self.changed(source.parent, source.name)
        if not self._is_acknowledged(target) or self.lies:
            return
        files = [path for path in source.rglob("*") if path.is_file()] or [source]
        if not all(map(self._has_synced_bytes, files)):
            self.complaints.append(f"bytes not synced before their name: {target}")
        if any(folder.is_relative_to(source) for folder in self._unsynced):
            self.complaints.append(f"folder not synced before its name: {target}")
        for earlier in self.published:
            is_relied_on = any(
                later in target.parts and before in earlier.parts for later, before in RELIANCE
            )
            if is_relied_on and earlier.exists() and not self.survives(earlier):
                self.complaints.append(f"published before {earlier} was durable: {target}")
        self.published += [target / file.relative_to(source) for file in files]

    def survives(self, path: Path) -> bool:
        names = [path, *path.parents]
        names = names[: names.index(self._root)]
        known = all(name.name not in self._unsynced.get(name.parent, set()) for name in names)
        return path.exists() and known and self._has_synced_bytes(path)

    def unsynced(self) -> dict[Path, set[str]]:
        """Return the changes of the registry's tree that would be lost."""
        changes = self._unsynced.items()
        return {path: names for path, names in changes if self._is_acknowledged(path)}

    def _is_acknowledged(self, path: Path) -> bool:
        # What is in the folder of an upload was never promised to anybody.
        return path.is_relative_to(self._root / "docker") and "_uploads" not in path.parts

    def _has_synced_bytes(self, path: Path) -> bool:
        status = path.stat()
        return self._synced.get(status.st_ino) == (status.st_size, status.st_mtime_ns)


def _path_of(descriptor: int) -> Path:
    return Path(os.readlink(f"/proc/self/fd/{descriptor}"))


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk(tmp_path)
    fsync, fdatasync, rename, mkdir = os.fsync, os.fdatasync, os.rename, os.mkdir

    def watched_fsync(descriptor: int) -> None:
        fsync(descriptor)
        disk.synced(descriptor)

    def watched_fdatasync(descriptor: int) -> None:
        fdatasync(descriptor)
        disk.synced(descriptor)

    def watched_rename(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        source_path, target_path = _path_of(src_dir_fd) / source, _path_of(dst_dir_fd) / target
        disk.renamed(source_path, target_path)
        rename(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
        disk.changed(target_path.parent, target)

    def watched_mkdir(name: str, *args: Any, dir_fd: int | None = None) -> None:
        mkdir(name, *args, dir_fd=dir_fd)
        path = Path(name) if dir_fd is None else _path_of(dir_fd) / name
        disk.changed(path.parent, path.name)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "fdatasync", watched_fdatasync)
    monkeypatch.setattr(os, "rename", watched_rename)
    monkeypatch.setattr(os, "mkdir", watched_mkdir)
    yield disk
    assert disk.complaints == []


@pytest.fixture
async def processes(disk: Disk, tmp_path: Path) -> AsyncIterator[list[Repository]]:
    """The same repository in two processes."""
    drivers = [FilesystemDriver(tmp_path) for _ in range(2)]
    yield [Registry(driver).repository(NAME) for driver in drivers]
    for driver in drivers:
        await driver.aclose()


def assert_survive(disk: Disk, root: Path, *stored: str) -> None:
    lost = [path for path in stored if not disk.survives(root / path[1:])]
    assert lost == []


async def test_a_pushed_blob_survives_bytes_before_link(
    processes: list[Repository], disk: Disk, tmp_path: Path
) -> None:
    await push_blob(processes[0], BLOB)

    data, link = paths.blob_data(DIGEST), paths.blob_link(NAME, DIGEST)
    assert disk.published == [tmp_path / data[1:], tmp_path / link[1:]]
    assert_survive(disk, tmp_path, data, link)


async def test_a_blob_that_arrived_in_pieces_survives(
    processes: list[Repository], disk: Disk, tmp_path: Path
) -> None:
    session = await processes[0].uploads.start()
    await session.append(piece(BLOB[:1000]))
    await (await processes[1].uploads.resume(session.id)).append(piece(BLOB[1000:]))

    await (await processes[0].uploads.resume(session.id)).commit(DIGEST)

    assert_survive(disk, tmp_path, paths.blob_data(DIGEST), paths.blob_link(NAME, DIGEST))


async def test_a_pushed_manifest_survives_with_its_tags_and_its_entry_in_the_index(
    processes: list[Repository], disk: Disk, tmp_path: Path
) -> None:
    await push_blob(processes[0], EMPTY)
    disk.published.clear()
    content = image(subject=descriptor(b"subject", OCI_MANIFEST))

    digest = await put(processes[0], content, "a", "b")

    folder = tmp_path / paths.referrers(NAME, Digest.of(b"subject"))[1:]
    stored = [
        paths.blob_data(digest),
        *(f"/{entry.relative_to(tmp_path)}" for entry in folder.iterdir()),
        paths.revision_link(NAME, digest),
        paths.tag_current(NAME, Tag("a")),
        paths.tag_current(NAME, Tag("b")),
    ]
    assert [f"/{path.relative_to(tmp_path)}" for path in disk.published] == stored
    assert_survive(disk, tmp_path, *stored)


async def test_a_moved_tag_survives(
    processes: list[Repository], disk: Disk, tmp_path: Path
) -> None:
    await push_blob(processes[0], EMPTY)
    await put(processes[0], image(), "latest")

    await put(processes[1], image(annotations={"which": "second"}), "latest")

    assert_survive(disk, tmp_path, paths.tag_current(NAME, Tag("latest")))


async def test_what_another_writer_did_not_sync_is_synced_before_it_is_relied_on(
    processes: list[Repository], disk: Disk, tmp_path: Path
) -> None:
    content = image(BLOB)
    digest = Digest.of(content)
    stored = [paths.blob_data(DIGEST), paths.blob_link(NAME, DIGEST)]
    disk.lies = True
    await push_blob(processes[0], EMPTY)
    await push_blob(processes[0], BLOB)
    await put(processes[0], content, "latest")
    disk.lies = False
    sync_bytes(disk, tmp_path)
    assert [disk.survives(tmp_path / path[1:]) for path in stored] == [False, False]

    await push_blob(processes[1], BLOB)
    assert_survive(disk, tmp_path, *stored)
    await put(processes[1], content, "latest")

    stored += [
        paths.blob_data(Digest.of(EMPTY)),
        paths.blob_link(NAME, Digest.of(EMPTY)),
        paths.blob_data(digest),
        paths.revision_link(NAME, digest),
        paths.tag_current(NAME, Tag("latest")),
    ]
    assert_survive(disk, tmp_path, *stored)


async def test_a_mounted_blob_survives(
    processes: list[Repository], disk: Disk, tmp_path: Path
) -> None:
    disk.lies = True
    await push_blob(processes[0], BLOB)
    disk.lies = False
    sync_bytes(disk, tmp_path)
    driver = FilesystemDriver(tmp_path)
    target = RepositoryName("target")

    assert await Registry(driver).repository(target).blobs.mount(DIGEST, NAME)

    assert_survive(disk, tmp_path, paths.blob_data(DIGEST), paths.blob_link(target, DIGEST))
    await driver.aclose()


async def test_a_deletion_survives(processes: list[Repository], disk: Disk) -> None:
    repository = processes[0]
    await push_blob(repository, EMPTY)
    digest = await put(repository, image(), "a", "b")

    await repository.tags.delete(Tag("a"))
    assert disk.unsynced() == {}
    await repository.manifests.delete(digest)
    assert disk.unsynced() == {}
    await repository.blobs.delete(Digest.of(EMPTY))
    assert disk.unsynced() == {}


class Syncs:
    """Notes which paths below a directory are synced, and may hold one of them up.

    Attributes:
        paths: What was synced, in its order.
        on_sync: Called with each path before it is synced.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._fsync = os.fsync
        self.paths: list[str] = []
        self.on_sync: Callable[[str], None] = lambda path: None

    def fsync(self, descriptor: int) -> None:
        path = str(_path_of(descriptor)).removeprefix(str(self._root)) or "/"
        self.paths.append("scratch" if path.startswith("/_driver/scratch/") else path)
        self.on_sync(path)
        self._fsync(descriptor)

    def take(self) -> list[str]:
        taken, self.paths = self.paths, []
        return taken


@pytest.fixture
def syncs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Syncs:
    syncs = Syncs(tmp_path)
    monkeypatch.setattr(os, "fsync", syncs.fsync)
    return syncs


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[FilesystemDriver]:
    driver = FilesystemDriver(tmp_path)
    yield driver
    await driver.aclose()


async def test_publishes_into_one_directory_share_its_syncs(
    driver: FilesystemDriver, syncs: Syncs, monkeypatch: pytest.MonkeyPatch
) -> None:
    await driver.publish(Write("/d/old", b"x"))
    syncs.take()
    all_are_there = threading.Semaphore(0)

    class CountedEvent(threading.Event):
        @override
        def wait(self, timeout: float | None = None) -> bool:
            all_are_there.release()
            return super().wait(timeout)

    def hold_the_first_up(path: str) -> None:
        if path == "/d" and syncs.paths.count("/d") == 1:
            for _ in range(7):
                assert all_are_there.acquire(timeout=10)

    seen = SimpleNamespace(Event=CountedEvent, Lock=threading.Lock)
    monkeypatch.setattr(shared_syncs, "threading", seen)
    syncs.on_sync = hold_the_first_up

    await asyncio.gather(*(driver.publish(Write(f"/d/{number}", b"x")) for number in range(8)))

    assert sorted(syncs.take()) == ["/d"] * 2 + ["scratch"] * 8


async def test_what_was_published_before_is_relied_on_as_it_is(
    driver: FilesystemDriver, syncs: Syncs
) -> None:
    await driver.publish(Write("/a/b/c", b"x"))
    await driver.publish(Write("/a/b/d", b"x"))
    syncs.take()

    await driver.publish(Ensure("/a/b/c"), Ensure("/a/b/d"))

    assert syncs.take() == []


async def test_what_was_found_once_is_relied_on_as_it_is(
    driver: FilesystemDriver, syncs: Syncs, tmp_path: Path
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b").write_bytes(b"made by another process")
    await driver.publish(Ensure("/a/b"))
    assert syncs.take() == ["/a", "/"]

    await driver.publish(Ensure("/a/b"))

    assert syncs.take() == []


@pytest.mark.parametrize(
    ("moved", "synced"),
    [("a/b/c", ["/a/b"]), ("a/b", ["/a/b", "/a"]), ("a", ["/a/b", "/a", "/"])],
)
async def test_what_another_put_in_its_place_is_synced_again(
    driver: FilesystemDriver, syncs: Syncs, tmp_path: Path, moved: str, synced: list[str]
) -> None:
    await driver.publish(Write("/a/b/c", b"x"))
    shutil.copytree(tmp_path / "a", tmp_path / "other/a")
    os.rename(tmp_path / moved, tmp_path / "moved")
    os.rename(tmp_path / "other" / moved, tmp_path / moved)
    syncs.take()

    await driver.publish(Ensure("/a/b/c"))

    assert syncs.take() == synced


async def test_a_file_that_was_taken_away_and_brought_back_is_synced_again(
    driver: FilesystemDriver, syncs: Syncs, tmp_path: Path
) -> None:
    await driver.publish(Write("/a/b", b"x"))
    syncs.take()
    # Time stamps move in ticks.
    await asyncio.sleep(0.02)
    os.rename(tmp_path / "a/b", tmp_path / "moved")
    os.rename(tmp_path / "moved", tmp_path / "a/b")

    await driver.publish(Ensure("/a/b"))

    assert syncs.take() == ["/a"]


async def test_what_could_not_be_synced_is_not_relied_on(
    driver: FilesystemDriver, syncs: Syncs
) -> None:
    def fail(path: str) -> None:
        if path == "/a":
            raise OSError(errno.EIO, "lost")

    syncs.on_sync = fail
    with pytest.raises(Unreachable, match="/a"):
        await driver.publish(Write("/a/b", b"x"))
    syncs.on_sync = lambda path: None
    syncs.take()

    await driver.publish(Ensure("/a/b"))

    assert syncs.take() == ["/a", "/"]


async def test_a_folder_that_could_not_be_synced_is_synced_until_it_can_be(
    driver: FilesystemDriver, syncs: Syncs, tmp_path: Path
) -> None:
    """By everybody who relies on it, in whichever process, before anything is acknowledged."""
    other = FilesystemDriver(tmp_path)

    def fail(path: str) -> None:
        if path == "/a":
            raise OSError(errno.EIO, "lost")

    syncs.on_sync = fail
    for process in (driver, other, driver):
        for step in (Write("/a/b/c", b"x"), Write("/a/b/d", b"x"), Ensure("/a/b/c")):
            with pytest.raises(Unreachable, match="/a"):
                await process.publish(step)
    syncs.on_sync = lambda path: None

    for process in (driver, other):
        syncs.take()
        await process.publish(Write("/a/b/e", b"x"))
        assert "/a" in syncs.take()
        await process.publish(Write("/a/b/f", b"x"))
        assert "/a" not in syncs.take()
    await other.aclose()


async def test_little_is_remembered_and_what_is_asked_for_longest(
    driver: FilesystemDriver, syncs: Syncs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durability, "_REMEMBERED_MAXIMUM", 4)
    await driver.publish(Write("/often", b"x"), Write("/seldom", b"x"))
    for number in range(8):
        await driver.publish(Write(f"/{number}", b"x"))
        syncs.take()
        await driver.publish(Ensure("/often"))
        assert syncs.take() == []

    await driver.publish(Ensure("/seldom"))
    assert syncs.take() == ["/"]


async def test_what_need_not_survive_is_not_synced(driver: FilesystemDriver, syncs: Syncs) -> None:
    await driver.publish(Write("/a/b", b"x", durable=False))

    assert syncs.take() == []


async def test_a_folder_goes_with_the_last_file_that_is_moved_out_of_it(
    driver: FilesystemDriver, tmp_path: Path
) -> None:
    for name in ("one", "other"):
        await driver.publish(Write(f"/uploads/id/{name}", b"x"))

    await driver.publish(Move("/uploads/id/one", "/one"))
    assert (tmp_path / "uploads/id/other").exists()
    await driver.publish(Move("/uploads/id/other", "/other"))

    assert os.listdir(tmp_path / "uploads") == []


def test_nothing_is_remembered_of_a_volume_that_was_away(tmp_path: Path) -> None:
    directories = durability.DurableDirectories(RootedDirectory(tmp_path))
    directories.remember({"/a": b"identity"})

    directories.forget()

    assert not directories.is_durable("/a", b"identity")


def sync_bytes(disk: Disk, root: Path) -> None:
    """Sync what is in the files: only their names are in danger then."""
    for path in (root / "docker").rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            disk.synced(descriptor)
            os.close(descriptor)
