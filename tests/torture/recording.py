"""What the storage does to the file system, in one order.

A recorder passes every call on to the system, and writes down what it changed: which file or
directory was made where, what was written, renamed, removed, and what was synced.

``fstat`` and ``statx`` tell numbers and times of our own. A number is given away again when
nothing has it any more, and time stamps move in ticks, as they do on real file systems: what the
storage concludes from them is put to the test as well.
"""

import contextlib
import os
import re
import stat
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.torture.effects import (
    Effect,
    Linked,
    Made,
    Removed,
    Renamed,
    Stamp,
    Synced,
    Syncing,
    Truncated,
    Written,
)
from tests.torture.scheduling import Schedule

_STEP = 50e-6
"""How many seconds a change takes: on a fast disk several share a tick of the kernel's clock."""

_JIFFY = 4_000_000
"""The longest step of the times of birth and change, in nanoseconds."""

_STATX_NUMBER, _STATX_BIRTH, _STATX_CHANGE = 32, 80, 96


class Status:
    """A status whose number and time of change are those of our own."""

    __slots__ = ("_status", "st_ino", "st_mtime", "st_mtime_ns")

    def __init__(self, status: os.stat_result, stamp: Stamp) -> None:
        self._status = status
        self.st_ino = stamp.number
        self.st_mtime_ns = stamp.changed_at
        self.st_mtime = stamp.changed_at / 1e9

    def __getattr__(self, name: str) -> Any:
        return getattr(self._status, name)


class Stamps:
    """The stamps of the files below a root, by their real inode numbers."""

    def __init__(self) -> None:
        self.known: dict[int, Stamp] = {}

    def fstat(self, fd: int) -> os.stat_result | Status:
        """Stand in for ``os.fstat``."""
        status = os.fstat(fd)
        stamp = self.known.get(status.st_ino)
        return status if stamp is None else Status(status, stamp)

    def stat(self, path: Any, **more: Any) -> os.stat_result | Status:
        """Stand in for ``os.stat``."""
        status = os.stat(path, **more)
        stamp = self.known.get(status.st_ino)
        return status if stamp is None else Status(status, stamp)


class Recorder(Stamps):
    """Passes calls on to the system and writes down what they change.

    Args:
        root: The directory that the storage is at.
        stamps: Those of each path below it, "" being the root itself.
        schedule: Says who may go on, and what time it is.
        tick: In steps of how many nanoseconds time stamps move.
        slow: A pattern of paths that take long to sync.
        ignores: Tells of a path whether syncing it does nothing: to see that this is noticed.

    Attributes:
        effects: What was done so far, and when, in nanoseconds as time stamps have them.
        schedule: Says who may go on, and what time it is.
    """

    def __init__(
        self,
        root: Path,
        stamps: dict[str, Stamp],
        schedule: Schedule,
        *,
        tick: int = 1,
        slow: str = "",
        ignores: Callable[[str], bool] | None = None,
    ) -> None:
        super().__init__()
        self.effects: list[tuple[Effect, int]] = []
        self.schedule = schedule
        self._root = root
        self._tick = tick
        self._slow = re.compile(slow)
        self._ignores = ignores
        self._lock = threading.RLock()
        self._places: dict[int, tuple[int, str]] = {}
        self._next = max(stamp.inode for stamp in stamps.values()) + 1
        self._freed: list[tuple[int, int]] = []
        self._syncs = 0
        self._times: dict[int, tuple[int, int]] = {}
        for path, stamp in stamps.items():
            self.known[os.stat(f"{root}{path}").st_ino] = stamp
            if path:
                parent, _, name = path.rpartition("/")
                self._places[stamp.inode] = stamps[parent].inode, name

    def path(self, inode: int) -> str:
        """Return where a file or directory was last."""
        names = []
        while inode in self._places:
            inode, name = self._places[inode]
            names.append(name)
        return "/" + "/".join(reversed(names))

    def open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        """Stand in for ``os.open``."""
        if not flags & (os.O_CREAT | os.O_TRUNC):
            if not flags & os.O_PATH:
                self.schedule.pause(0.5)
            return os.open(path, flags, mode, dir_fd=dir_fd)
        self.schedule.pause()
        with self._lock, self._opened(path, dir_fd) as (parent, name):
            was_there = os.access(name, os.F_OK, dir_fd=parent, follow_symlinks=False)
            fd = os.open(name, flags, mode, dir_fd=parent)
            real = os.fstat(fd).st_ino
            if not was_there:
                self._make(parent, name, real, is_directory=False)
            elif flags & os.O_TRUNC:
                self._note(Truncated(self.known[real].inode, 0), real)
            return fd

    def mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        """Stand in for ``os.mkdir``."""
        self.schedule.pause()
        with self._lock, self._opened(path, dir_fd) as (parent, name):
            os.mkdir(name, mode, dir_fd=parent)
            real = os.stat(name, dir_fd=parent).st_ino
            self._make(parent, name, real, is_directory=True)

    def rename(
        self, src: Any, dst: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None
    ) -> None:
        """Stand in for ``os.rename``."""
        self.schedule.pause()
        with (
            self._lock,
            self._opened(src, src_dir_fd) as (parent, name),
            self._opened(dst, dst_dir_fd) as (target_parent, target_name),
        ):
            real = os.stat(name, dir_fd=parent, follow_symlinks=False).st_ino
            replaced = _status(target_name, target_parent)
            os.rename(name, target_name, src_dir_fd=parent, dst_dir_fd=target_parent)
            if os.access(name, os.F_OK, dir_fd=parent, follow_symlinks=False):
                return  # Both were names of one file, and nothing happens then.
            self._let_go(replaced)
            folder, target_folder = self._number(parent), self._number(target_parent)
            effect = Renamed(folder, name, target_folder, target_name)
            self._note(effect, os.fstat(parent).st_ino, os.fstat(target_parent).st_ino)
            self._places[self.known[real].inode] = target_folder, target_name
            self._alter(real)

    replace = rename

    def link(
        self, src: Any, dst: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None
    ) -> None:
        """Stand in for ``os.link``."""
        self.schedule.pause()
        with self._lock, self._opened(dst, dst_dir_fd) as (parent, name):
            os.link(src, name, src_dir_fd=src_dir_fd, dst_dir_fd=parent)
            real = os.stat(name, dir_fd=parent).st_ino
            effect = Linked(self._number(parent), name, self.known[real].inode)
            self._note(effect, os.fstat(parent).st_ino)
            self._alter(real)

    def unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        """Stand in for ``os.unlink``."""
        self.schedule.pause()
        with self._lock, self._opened(path, dir_fd) as (parent, name):
            removed = _status(name, parent)
            os.unlink(name, dir_fd=parent)
            self._note(Removed(self._number(parent), name), os.fstat(parent).st_ino)
            self._let_go(removed)

    def rmdir(self, path: Any, *, dir_fd: int | None = None) -> None:
        """Stand in for ``os.rmdir``."""
        self.schedule.pause()
        with self._lock, self._opened(path, dir_fd) as (parent, name):
            removed = _status(name, parent)
            os.rmdir(name, dir_fd=parent)
            self._note(Removed(self._number(parent), name), os.fstat(parent).st_ino)
            self._let_go(removed)

    def pwrite(self, fd: int, content: Any, offset: int) -> int:
        """Stand in for ``os.pwrite``."""
        return self.pwritev(fd, [content], offset)

    def pwritev(self, fd: int, buffers: Sequence[Any], offset: int, flags: int = 0) -> int:
        """Stand in for ``os.pwritev``."""
        self.schedule.pause()
        with self._lock:
            written = os.pwritev(fd, buffers, offset, flags)
            if written:
                real = os.fstat(fd).st_ino
                content = b"".join(bytes(buffer) for buffer in buffers)[:written]
                self._note(Written(self.known[real].inode, offset, content), real)
            return written

    def ftruncate(self, fd: int, length: int) -> None:
        """Stand in for ``os.ftruncate``."""
        self.schedule.pause()
        with self._lock:
            os.ftruncate(fd, length)
            real = os.fstat(fd).st_ino
            self._note(Truncated(self.known[real].inode, length), real)

    def fsync(self, fd: int) -> None:
        """Stand in for ``os.fsync``, which may take long. The memory below is not synced."""
        with self._lock:
            if not _path_of(fd).is_relative_to(self._root):
                # The folder that the root is in.
                return
            inode = self._number(fd)
            path = self.path(inode)
            if self._ignores is not None and self._ignores(path):
                return
            self._syncs += 1
            number = self._syncs
            self._note(Syncing(inode, number))
        self.schedule.pause(nap=1.0 if self._slow.fullmatch(path) else 0.3)
        with self._lock:
            self._note(Synced(inode, number))

    fdatasync = fsync

    def rmtree(self, path: Any, ignore_errors: bool = False) -> None:
        """Stand in for ``shutil.rmtree``."""
        with contextlib.suppress(OSError) if ignore_errors else contextlib.nullcontext():
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                with os.scandir(fd) as entries:
                    names = sorted((entry.name, entry.is_dir()) for entry in entries)
                for name, is_directory in names:
                    if is_directory:
                        self.rmtree(f"{path}/{name}", ignore_errors)
                    else:
                        self.unlink(name, dir_fd=fd)
            finally:
                os.close(fd)
            self.rmdir(path)

    def restamp(self, status: Any) -> None:
        """Put numbers and times of our own into what ``statx`` wrote."""
        (real,) = struct.unpack_from("=Q", status, _STATX_NUMBER)
        if real in self.known:
            born_at, altered_at = self._times.get(real, (0, 0))
            struct.pack_into("=Q", status, _STATX_NUMBER, self.known[real].number)
            struct.pack_into("=qI", status, _STATX_BIRTH, *divmod(born_at, 10**9))
            struct.pack_into("=qI", status, _STATX_CHANGE, *divmod(altered_at, 10**9))

    def time_ns(self) -> int:
        """Stand in for ``time.time_ns``."""
        return int(self.schedule.now * 1e9)

    def _now(self, tick: int) -> int:
        return self.time_ns() // tick * tick

    def _number(self, fd: int) -> int:
        return self.known[os.fstat(fd).st_ino].inode

    def _make(self, parent: int, name: str, real: int, *, is_directory: bool) -> None:
        inode = self._next
        self._next += 1
        stamp = Stamp(inode, self._free_number(inode), self._now(self._tick))
        folder = self._number(parent)
        self._places[inode] = folder, name
        self.known[real] = stamp
        self._times[real] = (self._now(min(self._tick, _JIFFY)),) * 2
        self._note(Made(folder, name, stamp, is_directory), os.fstat(parent).st_ino)

    def _note(self, effect: Effect, *changed: int) -> None:
        now = self._now(self._tick)
        self.effects.append((effect, now))
        for real in changed:
            stamp = self.known[real]
            self.known[real] = Stamp(stamp.inode, stamp.number, now)
            self._alter(real)
        self.schedule.now += _STEP

    def _alter(self, real: int) -> None:
        born_at, _ = self._times.get(real, (0, 0))
        self._times[real] = born_at, self._now(min(self._tick, _JIFFY))

    def _let_go(self, status: os.stat_result | None) -> None:
        """Take note that a name is gone; the last one of a file frees its number."""
        if status is not None and (status.st_nlink == 1 or stat.S_ISDIR(status.st_mode)):
            self._freed.append((status.st_ino, self.known[status.st_ino].number))

    def _free_number(self, new: int) -> int:
        """Return the number that was freed last of those that nobody has open, or a new one."""
        if self._freed:
            is_open = _open_files()
            for place, (real, number) in reversed(list(enumerate(self._freed))):
                if real not in is_open:
                    del self._freed[place]
                    return number
        return new

    @contextlib.contextmanager
    def _opened(self, path: Any, dir_fd: int | None) -> Iterator[tuple[int, str]]:
        parent, name = self._parent(path, dir_fd)
        try:
            yield parent, name
        finally:
            os.close(parent)

    def _parent(self, path: Any, dir_fd: int | None) -> tuple[int, str]:
        """Open the directory that a name is in, and return it with the name."""
        folder, _, name = os.fspath(path).rpartition("/")
        if dir_fd is not None and not folder:
            return os.dup(dir_fd), name
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY, dir_fd=dir_fd), name


def _status(name: str, parent: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _open_files() -> set[int]:
    """Return the real numbers of what this process has open."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.add(os.fstat(int(name)).st_ino)
    return found


def _path_of(fd: int) -> Path:
    return Path(os.readlink(f"/proc/self/fd/{fd}"))
