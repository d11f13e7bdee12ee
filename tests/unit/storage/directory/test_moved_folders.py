"""Folders and volumes that are taken away in the middle of something."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from alauda_registry.storage.directory import publishing, shared_syncs
from alauda_registry.storage.directory.publishing import Publisher
from alauda_registry.storage.directory.rooted import RootedDirectory
from alauda_registry.storage.driver import Ensure, Move, Unreachable, Write
from alauda_registry.storage.drivers.filesystem import FilesystemDriver

pytestmark = pytest.mark.anyio


class System:
    """The system's calls: remembers what was synced, and takes a folder away before a rename."""

    def __init__(self, doomed: Path) -> None:
        self._doomed = doomed
        self._is_over = False
        self.synced: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def rename(self, source: str, target: str, **folders: int) -> None:
        if target == "link" and not self._is_over:
            self._is_over = True
            shutil.rmtree(self._doomed)
        os.rename(source, target, **folders)

    def fsync(self, fd: int) -> None:
        self.synced.append(os.fstat(fd).st_ino)
        os.fsync(fd)


def test_what_went_into_a_folder_made_anew_is_durable_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = RootedDirectory(tmp_path)
    root.prepare()
    publisher = Publisher(root)
    publisher.publish([Write("/a/b/link", b"one")])
    system = System(tmp_path / "a/b")
    monkeypatch.setattr(publishing, "os", system)
    monkeypatch.setattr(shared_syncs, "os", system)

    publisher.publish([Write("/a/b/link", b"two")])
    root.close()

    assert (tmp_path / "a/b/link").read_bytes() == b"two"
    assert {(tmp_path / "a/b").stat().st_ino, (tmp_path / "a").stat().st_ino} <= {*system.synced}


def test_what_is_only_relied_on_does_not_hold_its_folders_open(tmp_path: Path) -> None:
    root = RootedDirectory(tmp_path)
    root.prepare()
    links = [f"/{number}/link" for number in range(100)]
    Publisher(root).publish([tuple(Write(link, b"") for link in links)])
    before = len(os.listdir("/proc/self/fd"))
    most = 0

    class Counting(Publisher):
        @override
        def _look_at(self, path: str) -> bytes | None:
            nonlocal most
            most = max(most, len(os.listdir("/proc/self/fd")))
            return super()._look_at(path)

    # Another process, which does not know that these are durable.
    Counting(root).publish([tuple(Ensure(link) for link in links)])
    root.close()

    assert most - before < 5


async def test_a_request_of_before_the_root_moved_commits_nothing_that_came_later(
    tmp_path: Path,
) -> None:
    root = tmp_path / "root"
    driver = FilesystemDriver(root)
    first = await driver.append("/u/data", create=True, wait=0)
    await first.write([b"part"])
    shutil.copytree(root, tmp_path / "copy")
    (tmp_path / "copy/u/data").write_bytes(b"")
    root.rename(tmp_path / "old")
    (tmp_path / "copy").rename(root)
    await driver.check(write=True)
    second = await driver.append("/u/data", create=False, wait=0)

    with pytest.raises(Unreachable):
        await driver.publish(Move("/u/data", "/blob"))

    await first.close()
    await driver.publish(Move("/u/data", "/blob"))
    await second.close()
    await driver.aclose()


def test_a_root_that_is_made_is_durable_in_its_parents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def watched(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", watched)

    RootedDirectory(tmp_path / "made/root").close()

    assert {str(tmp_path), str(tmp_path / "made")} <= {*synced}
