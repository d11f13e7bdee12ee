"""One sync for all who changed a directory before it began, and its failure for all of them."""

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from typing_extensions import override

from alauda_registry.storage.directory import shared_syncs
from alauda_registry.storage.directory.shared_syncs import Change, SharedSyncs

DIRECTORY = 3
PATIENCE = 10.0


class Disk:
    """Holds syncs up until a test lets each of them end.

    Attributes:
        begun: The descriptors whose syncs have begun.
        waiting: How many wait for somebody else's.
    """

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.waiting = 0
        self._guard = threading.Lock()
        self._ends: dict[int, Future[None]] = {}

    def fsync(self, descriptor: int) -> None:
        with self._guard:
            end = self._ends.setdefault(len(self.begun), Future())
            self.begun.append(descriptor)
        end.result(PATIENCE)

    def end(self, number: int, error: BaseException | None = None) -> None:
        """Let the sync with this number end, now or when it begins."""
        with self._guard:
            end = self._ends.setdefault(number, Future())
        if error is None:
            end.set_result(None)
        else:
            end.set_exception(error)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, (self.begun, self.waiting)
            time.sleep(0.001)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()

    class CountedEvent(threading.Event):
        @override
        def wait(self, timeout: float | None = None) -> bool:
            disk.waiting += 1
            return super().wait(timeout)

    monkeypatch.setattr(os, "fsync", disk.fsync)
    seen = SimpleNamespace(Event=CountedEvent, Lock=threading.Lock)
    monkeypatch.setattr(shared_syncs, "threading", seen)
    return disk


@pytest.fixture
def writers() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as writers:
        yield writers


class Directory:
    """A directory that writers change and sync."""

    def __init__(self, disk: Disk, writers: ThreadPoolExecutor) -> None:
        self.syncs = SharedSyncs()
        self._disk = disk
        self._writers = writers

    def enter(self, key: str = "directory") -> Change:
        return self.syncs.enter(key)

    def sync(self, change: Change, descriptor: int = DIRECTORY) -> "Future[None]":
        """Begin to sync, and return when that has begun or waits for another one."""
        before = len(self._disk.begun) + self._disk.waiting
        future = self._writers.submit(self.syncs.sync, change, descriptor)
        self._disk.wait_until(lambda: len(self._disk.begun) + self._disk.waiting > before)
        return future


@pytest.fixture
def directory(disk: Disk, writers: ThreadPoolExecutor) -> Directory:
    return Directory(disk, writers)


def failure(future: "Future[None]") -> int | None:
    error = future.exception(PATIENCE)
    assert error is None or isinstance(error, OSError)
    return None if error is None else error.errno


def test_who_is_alone_waits_for_nobody(disk: Disk, directory: Directory) -> None:
    for number in range(3):
        disk.end(number)

        assert failure(directory.sync(directory.enter())) is None

    assert (disk.begun, disk.waiting) == ([DIRECTORY] * 3, 0)


def test_those_who_come_during_a_sync_share_the_next_one(disk: Disk, directory: Directory) -> None:
    first = directory.sync(directory.enter())
    others = [directory.sync(directory.enter()) for _ in range(5)]
    disk.end(0)
    disk.wait_until(lambda: len(disk.begun) == 2)
    assert first.result(PATIENCE) is None
    assert not any(other.done() for other in others)
    disk.end(1)

    assert [failure(other) for other in others] == [None] * 5
    assert disk.begun == [DIRECTORY] * 2


def test_who_comes_during_the_shared_sync_has_one_after_it(
    disk: Disk, directory: Directory
) -> None:
    first, second = (directory.sync(directory.enter()) for _ in range(2))
    disk.end(0)
    disk.wait_until(lambda: len(disk.begun) == 2)
    third = directory.sync(directory.enter())
    disk.end(1)
    disk.wait_until(lambda: len(disk.begun) == 3)
    assert [failure(first), failure(second)] == [None, None]
    assert not third.done()
    disk.end(2)

    assert failure(third) is None


def test_directories_do_not_wait_for_one_another(disk: Disk, directory: Directory) -> None:
    one = directory.sync(directory.enter("one"), 11)
    other = directory.sync(directory.enter("other"), 12)
    disk.end(1)

    assert failure(other) is None
    assert not one.done()
    disk.end(0)
    assert failure(one) is None
    assert disk.begun == [11, 12]


def test_a_failure_reaches_all_who_share_it(disk: Disk, directory: Directory) -> None:
    first = directory.sync(directory.enter())
    others = [directory.sync(directory.enter()) for _ in range(3)]
    disk.end(0)
    disk.end(1, OSError(errno.EIO, "lost"))

    assert [failure(other) for other in others] == [errno.EIO] * 3
    assert failure(first) is None


def test_a_failure_reaches_those_whose_changes_it_may_have_met(
    disk: Disk, directory: Directory
) -> None:
    changes = [directory.enter() for _ in range(4)]
    first, *waiting = (directory.sync(change) for change in changes[:3])
    disk.end(0, OSError(errno.ENOSPC, "full"))
    for number in range(1, 4):
        # The system has told of it, and says that all is well from now on.
        disk.end(number)
    assert [failure(one) for one in (first, *waiting)] == [errno.ENOSPC] * 3

    late = directory.sync(changes[3])
    new = directory.sync(directory.enter())

    assert failure(late) == errno.ENOSPC
    assert failure(new) is None


def test_a_sync_that_is_broken_off_has_not_succeeded(disk: Disk, directory: Directory) -> None:
    first, second = (directory.sync(directory.enter()) for _ in range(2))
    third = directory.sync(directory.enter())
    disk.end(0)
    disk.end(1, MemoryError())

    assert failure(first) is None
    assert isinstance(second.exception(PATIENCE), MemoryError)
    assert failure(third) == errno.EIO


def test_a_directory_that_nobody_changes_any_more_is_forgotten(
    disk: Disk, directory: Directory
) -> None:
    changes = [directory.enter() for _ in range(2)]
    disk.end(0, OSError(errno.EIO, "lost"))
    assert failure(directory.sync(changes[0])) == errno.EIO
    for change in changes:
        directory.syncs.leave(change)

    assert directory.enter().directory is not changes[0].directory
