"""Storages to hold to the contract, and what every test has to leave behind: nothing."""

import os
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from alauda_registry.storage.driver import StorageDriver
from alauda_registry.storage.drivers.filesystem import FilesystemDriver
from alauda_registry.storage.drivers.inmemory import InMemoryDriver
from alauda_registry.storage.drivers.pvc import PVCDriver
from alauda_registry.storage.drivers.s3.client import S3Client
from alauda_registry.storage.drivers.s3.credentials import GivenKeys
from alauda_registry.storage.drivers.s3.driver import S3Driver, S3Options
from alauda_registry.storage.drivers.s3.opening import BucketAddress, Opening, open_s3
from alauda_registry.storage.drivers.s3.parts import MIB
from alauda_registry.storage.drivers.s3.signing import Keys
from alauda_registry.storage.timed import TimedDriver
from tests.parts import s3
from tests.parts.fake_bucket import BUCKET, FakeBucket, FakeTransport
from tests.parts.tools import require
from tests.unit.storage.directory.claiming import claimed

FAKE = "fake bucket"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out for buckets what the marker ``not_of_buckets`` says they can't do, and why."""
    left_out = [
        item for item in items if item.get_closest_marker("not_of_buckets") and is_of_s3(item)
    ]
    if left_out:
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


def is_of_s3(item: pytest.Item) -> bool:
    callspec = getattr(item, "callspec", None)
    return callspec is not None and callspec.params.get("storage") in (*s3.KINDS, FAKE)


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


def open_bucket(bucket: s3.Bucket, root: str = "some/where") -> S3Driver:
    """Return a driver over a bucket, as one replica would have it."""
    opening = Opening(
        BucketAddress(bucket.name, s3.REGION, bucket.server.endpoint, root=root),
        options=S3Options(part_size=5 * MIB),
    )
    return open_s3(opening, GivenKeys(Keys(s3.ACCESS_KEY, s3.SECRET_KEY)))


def open_fake_bucket(bucket: FakeBucket) -> S3Driver:
    client = S3Client(FakeTransport(bucket), BUCKET, GivenKeys(Keys("key", "secret")))
    return S3Driver(client, S3Options(part_size=5 * MIB))


@pytest.fixture(params=["filesystem", "inmemory", "pvc", "stepwise", "timed", FAKE, *s3.KINDS])
async def storage(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    start_s3: Callable[[s3.Kind], s3.S3Server],
) -> AsyncIterator[Storage]:
    if request.param in s3.KINDS:
        require(request.param)
        bucket = start_s3(request.param).create_bucket()
        driver, other = open_bucket(bucket), open_bucket(bucket)
        yield Storage(driver, other, None)
        await driver.aclose()
        await other.aclose()
        assert_no_parts_are_left(bucket)
        bucket.remove()
        return
    if request.param == FAKE:
        fake = FakeBucket(time.time)
        yield Storage(open_fake_bucket(fake), open_fake_bucket(fake), None)
        assert fake.uploads == {}
        return
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


def assert_no_parts_are_left(bucket: s3.Bucket) -> None:
    """See that what is in the bucket belongs to a file, and that nothing else is being made."""
    assert bucket.uploads() == []
    keys = bucket.keys()
    pieces = {key for key in keys if "~" in key}
    assert {key.partition("~")[0] for key in pieces} <= set(keys)


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
