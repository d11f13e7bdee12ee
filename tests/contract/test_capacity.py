"""How much room a storage has, as far as it knows."""

import os

import pytest

from alauda_registry.storage.driver import StorageDriver
from tests.contract.conftest import Storage

pytestmark = pytest.mark.anyio


async def test_a_storage_on_a_disk_tells_how_much_room_there_is(
    driver: StorageDriver, storage: Storage
) -> None:
    capacity = await driver.capacity()

    if storage.root is None:
        assert capacity is None
        return
    assert capacity is not None
    status = os.statvfs(storage.root)
    assert capacity.size == status.f_blocks * status.f_frsize
    assert 0 < capacity.free < capacity.size
    # Others use the same disk.
    assert abs(capacity.free - status.f_bavail * status.f_frsize) < capacity.size / 10
    assert (capacity.reserved > 0) is (driver.name == "pvc")
