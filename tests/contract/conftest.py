"""Storages to hold to the contract, and what every test has to leave behind: nothing."""

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from alauda_registry.storage.driver import StorageDriver
from alauda_registry.storage.drivers.filesystem import FilesystemDriver
from alauda_registry.storage.drivers.inmemory import InMemoryDriver
from alauda_registry.storage.drivers.pvc import PVCDriver
from alauda_registry.storage.timed import TimedDriver
from tests.unit.storage.claiming import claimed


@dataclass(frozen=True)
class Storage:
    """Two drivers over the same bytes, as two processes would have them.

    Attributes:
        driver: The one to test.
        other: Another one; the same one where only one process can have the storage.
        root: The directory that holds the files, if one does.
    """

    driver: StorageDriver
    other: StorageDriver
    root: Path | None


def open_storage(kind: str, root: Path) -> Storage:
    match kind:
        case "filesystem":
            return Storage(FilesystemDriver(root), FilesystemDriver(root), root)
        case "inmemory":
            driver = InMemoryDriver()
            return Storage(driver, driver, None)
        case "stepwise":
            # As on a kernel without openat2.
            stepwise = FilesystemDriver(root, openat2=False)
            return Storage(stepwise, FilesystemDriver(root), root)
        case "pvc":
            claim = claimed(root)
            return Storage(PVCDriver(root, claim), PVCDriver(root, claim), root)
        case "timed":
            timed = TimedDriver(FilesystemDriver(root), lambda operation, seconds, code: None)
            return Storage(timed, FilesystemDriver(root), root)
        case _:
            raise AssertionError(kind)


@pytest.fixture(params=["filesystem", "inmemory", "pvc", "stepwise", "timed"])
async def storage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Storage]:
    root = tmp_path / "root"
    storage = open_storage(request.param, root)
    yield storage
    await storage.driver.aclose()
    if storage.other is not storage.driver:
        await storage.other.aclose()
    assert_nothing_is_left(root)


@pytest.fixture
def driver(storage: Storage) -> StorageDriver:
    return storage.driver


def assert_nothing_is_left(root: Path) -> None:
    assert files_being_made(root) == []
    assert open_files_below(root) == []


def files_being_made(root: Path) -> list[str]:
    """Return the files that nobody was meant to see and nobody removed."""
    return [str(path) for path in root.glob("_*/*/*") if path.parent.name != "locks"]


def open_files_below(root: Path) -> list[str]:
    """Return what this process still has open below a directory."""
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
        except FileNotFoundError:
            continue
        if target == str(root) or target.startswith(f"{root}/"):
            found.append(target)
    return found
