"""What a directory on a claim has to do beyond a directory on a disk.

The claims are folders that a list of mounts of the tests' own calls mounted; real mounts are
for tests/integration/test_claims.py.
"""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from typing_extensions import override

from alauda_registry.storage.directory.claims import Claim, NotMounted
from alauda_registry.storage.driver import (
    Capacity,
    Ensure,
    Move,
    OutOfSpace,
    StorageDriver,
    Unreachable,
    Write,
)
from alauda_registry.storage.drivers.pvc import PVCDriver
from tests.contract.conftest import assert_nothing_is_left, files_being_made
from tests.unit.storage.directory.claiming import claimed, line

pytestmark = pytest.mark.anyio

GIB = 1 << 30


class Disk:
    """Says how full the disk is; what else it says is true.

    Attributes:
        size: Bytes of it.
        free: Bytes that are free.
        inodes: How many there are in all.
        free_inodes: How many more files fit.
        asked: How often somebody wanted to know.
        step: Seconds that go by whenever somebody looks at the clock.
    """

    def __init__(self) -> None:
        self.size = 100 * GIB
        self.free = 50 * GIB
        self.inodes = 1000
        self.free_inodes = 500
        self.asked = 0
        self.step = 1.0
        self._now = 0.0

    def clock(self) -> float:
        self._now += self.step
        return self._now

    def statvfs(self, fd: int) -> os.statvfs_result:
        self.asked += 1
        blocks = self.size // 4096, self.free // 4096, self.free // 4096
        inodes = self.inodes, self.free_inodes, self.free_inodes
        return os.statvfs_result((4096, 4096, *blocks, *inodes, 0, 255))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "registry"


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    monkeypatch.setattr(os, "statvfs", disk.statvfs)
    return disk


@pytest.fixture
async def driver(root: Path, disk: Disk) -> AsyncIterator[PVCDriver]:
    driver = PVCDriver(root, claimed(root), reserve=lambda size: GIB, clock=disk.clock)
    yield driver
    await driver.aclose()
    assert_nothing_is_left(root)


async def append(driver: StorageDriver, path: str, content: bytes) -> None:
    writer = await driver.append(path, create=True, wait=0)
    try:
        await writer.write([content])
    finally:
        await writer.close()


WRITES: dict[str, Callable[[StorageDriver], Awaitable[None]]] = {
    "write": lambda driver: driver.publish(Write("/new", b"x")),
    "write beside a move": lambda driver: driver.publish(Move("/a", "/b"), Write("/new", b"x")),
    "write that need not last": lambda driver: driver.publish(Write("/new", b"", durable=False)),
    "append": lambda driver: append(driver, "/a", b"x"),
    "append a lot": lambda driver: append(driver, "/a", bytes(1 << 20)),
    "begin": lambda driver: append(driver, "/d/new", b""),
}


@pytest.mark.parametrize("write", sorted(WRITES))
async def test_what_writes_may_not_use_the_reserve(
    driver: PVCDriver, root: Path, disk: Disk, write: str
) -> None:
    await driver.publish(Write("/a", b"a"))
    disk.free = GIB - 4096

    with pytest.raises(OutOfSpace) as refused:
        await WRITES[write](driver)

    assert refused.value.driver == "pvc"
    assert refused.value.advice == (
        "the registry's storage is full (the claim image-registry has no room left): enlarge the "
        "claim or remove other files from it, then push again"
    )
    assert files_being_made(root) == []
    assert sorted(os.listdir(root)) == ["_driver", "a"]
    assert (root / "a").read_bytes() == b"a"


@pytest.mark.parametrize("write", sorted(WRITES))
async def test_what_writes_goes_on_when_there_is_room_again(
    driver: PVCDriver, disk: Disk, write: str
) -> None:
    await driver.publish(Write("/a", b"a"))
    disk.free = 0
    with pytest.raises(OutOfSpace):
        await WRITES[write](driver)
    disk.free = 2 * GIB

    await WRITES[write](driver)


async def test_deletes_may_use_the_reserve_and_so_may_what_is_there_already(
    driver: PVCDriver, disk: Disk
) -> None:
    await driver.publish(*(Write(path, b"x") for path in ("/a", "/b", "/d/c")))
    writer = await driver.append("/b", create=False, wait=0)
    disk.free = 0

    await driver.publish(Ensure("/a"), Move("/a", "/e"))
    await writer.truncate(0)
    await writer.close()
    await driver.delete("/e")
    await driver.delete("/d")
    async with driver.lock("lock", exclusive=True, wait=0):
        assert await driver.read("/b") == b""


async def test_only_what_would_not_fit_beside_the_reserve_is_refused(
    driver: PVCDriver, root: Path, disk: Disk
) -> None:
    disk.free = GIB + 8192

    await driver.publish(Write("/a", bytes(8192)))
    with pytest.raises(OutOfSpace):
        await driver.publish(Write("/b", bytes(4096)), Write("/c", bytes(4097)))

    assert sorted(os.listdir(root)) == ["_driver", "a"]


async def test_a_disk_that_is_really_full_is_told_of_in_the_same_words(
    driver: PVCDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwritev", full)
        with pytest.raises(OutOfSpace, match="pvc: no space left: /a") as refused:
            await driver.publish(Write("/a", b"x"))

    assert "image-registry" in str(refused.value.advice)


async def test_no_inodes_are_as_bad_as_no_bytes(driver: PVCDriver, disk: Disk) -> None:
    disk.free_inodes = 0

    with pytest.raises(OutOfSpace):
        await driver.publish(Write("/a", b"x"))
    with pytest.raises(OutOfSpace):
        await driver.check(write=True)


@pytest.mark.parametrize(
    ("inodes", "free_inodes"),
    [(0, 0), (1000, -1)],
    ids=["counts none", "has as many as one likes"],
)
async def test_a_file_system_that_counts_no_inodes_is_not_full(
    driver: PVCDriver, disk: Disk, inodes: int, free_inodes: int
) -> None:
    disk.inodes, disk.free_inodes = inodes, free_inodes

    await driver.publish(Write("/a", b"x"))
    await driver.check(write=True)


async def test_a_file_system_that_does_not_tell_its_size_has_no_reserve(
    driver: PVCDriver, disk: Disk
) -> None:
    disk.size = disk.free = 0

    await driver.publish(Write("/a", b"x"))
    await driver.check(write=True)

    assert await driver.capacity() is None


async def test_with_plenty_of_room_the_file_server_is_not_asked_each_time(
    driver: PVCDriver, disk: Disk
) -> None:
    disk.step = 0.001
    for _ in range(20):
        await append(driver, "/a", b"x")
    asked = disk.asked
    disk.step = 0.2
    await append(driver, "/a", b"x")

    assert (asked, disk.asked) == (1, 3)


async def test_close_to_the_reserve_each_write_asks(driver: PVCDriver, disk: Disk) -> None:
    disk.step = 0
    disk.free = 2 * GIB - 4096
    await append(driver, "/a", b"x")
    disk.free = GIB
    with pytest.raises(OutOfSpace):
        await append(driver, "/a", b"x")


async def test_what_is_written_meanwhile_counts_against_the_answer(
    driver: PVCDriver, disk: Disk
) -> None:
    disk.step = 0
    disk.free = 2 * GIB + (1 << 20)
    writer = await driver.append("/a", create=True, wait=0)

    asked = []
    for _ in range(4):
        await writer.write([bytes(1 << 19)])
        asked.append(disk.asked)
    await writer.close()

    assert asked == [1, 1, 2, 2]


async def test_the_room_that_there_is_is_told(driver: PVCDriver, disk: Disk) -> None:
    assert await driver.capacity() == Capacity(100 * GIB, 50 * GIB, GIB)


async def test_the_reserve_grows_with_the_claim(root: Path, disk: Disk) -> None:
    driver = PVCDriver(root, claimed(root))
    before = await driver.capacity()
    disk.size *= 2
    after = await driver.capacity()
    await driver.aclose()

    assert before is not None
    assert after is not None
    assert (before.reserved, after.reserved) == (GIB, 2 * GIB)


async def test_the_check_says_that_only_the_reserve_is_left_and_that_it_is_not(
    driver: PVCDriver, disk: Disk
) -> None:
    await driver.check(write=True)
    disk.free = GIB
    with pytest.raises(OutOfSpace):
        await driver.check(write=True)
    # What is only read from needs no room.
    await driver.check(write=False)
    disk.free = 2 * GIB
    await driver.check(write=True)


async def test_the_check_says_that_the_claim_is_not_mounted_any_more(
    driver: PVCDriver, root: Path
) -> None:
    claim = claimed(root, line(root, at=Path("/"), file_system="overlay", source="overlay"))

    for write in (False, True):
        with pytest.raises(Unreachable, match="the claim image-registry is not mounted at"):
            await driver.check(write=write)
    claimed(root)
    await driver.check(write=True)

    assert claim.mountinfo.exists()


async def test_a_storage_that_does_not_tell_its_room_cannot_be_reached(
    driver: PVCDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stale(fd: int) -> os.statvfs_result:
        raise OSError(116, "Stale file handle")

    with monkeypatch.context() as patched:
        patched.setattr(os, "statvfs", stale)
        with pytest.raises(Unreachable):
            await driver.publish(Write("/a", b"x"))
        with pytest.raises(Unreachable):
            await driver.capacity()


def test_nothing_is_made_where_the_claim_is_missing(root: Path) -> None:
    text = line(root.parent, at=Path("/"))

    for folder in (root, root / "below"):
        with pytest.raises(NotMounted):
            PVCDriver(folder, claimed(root, text))

    assert list(root.iterdir()) == []


async def test_a_folder_below_the_mount_is_made(root: Path) -> None:
    driver = PVCDriver(root / "a" / "b", claimed(root))
    await driver.publish(Write("/file", b"x"))
    await driver.aclose()

    assert (root / "a" / "b" / "file").read_bytes() == b"x"


def test_a_folder_that_turns_out_to_be_elsewhere_is_not_used(root: Path, tmp_path: Path) -> None:
    class Overmounted(Claim):
        """Whose folder is on another mount by the time it is opened."""

        @override
        def require_mounted(self, fd: int) -> None:
            super().require_mounted(fd)
            claimed(root, line(root, at=tmp_path))

    claim = Overmounted(root, "image-registry", mountinfo=claimed(root).mountinfo)

    with pytest.raises(NotMounted, match="a plain folder of the mount"):
        PVCDriver(root, claim)
