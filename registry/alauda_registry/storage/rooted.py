"""A directory that no path can lead out of, and whose entries can be made durable.

Every file is opened relative to the root's descriptor with ``openat2(2)`` and
``RESOLVE_BENEATH`` and ``RESOLVE_NO_SYMLINKS``: no path leads out, and symbolic links that
somebody left in the tree are not followed at all. Everything else is done relative to the
descriptor of the parent directory. All functions block; the driver
decides which of them it calls in a thread.

Durability: a file survives a power cut when its data, its
directory and every directory that was just made above it have been synced.
"""

import contextlib
import ctypes
import errno
import os
import secrets
import shutil
import stat
import struct
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

_SYS_OPENAT2 = 437
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_BENEATH = 0x08
_RESOLVE = _RESOLVE_NO_MAGICLINKS | _RESOLVE_NO_SYMLINKS | _RESOLVE_BENEATH
_TRIES = 8
_OBSTACLES = frozenset(
    {errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY, errno.ELOOP, errno.EXDEV, errno.ENXIO}
)
_REMEMBERED_MAXIMUM = 8192
_TICK_NANOSECONDS = 2_000_000_000
"""Time stamps of the coarsest file systems move in steps of two seconds."""

_SCRATCH = "/_driver/scratch"
"""Files that nobody shall see yet, and folders that nobody shall see any more."""

LOCKS = "/_driver/locks"
"""The file whose bytes stand for the named locks."""

_SCRATCH_MAXIMUM_AGE = 24 * 3600.0

_AT_SYMLINK_NOFOLLOW = 0x100
_STATX_INO_AND_BTIME = 0x100 | 0x800

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall

Identity = tuple[int, ...]


_SYNC_FILE_RANGE_WRITE = 2
_libc.sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


def start_writeback(fd: int, offset: int = 0, length: int = 0) -> None:
    """Send what was written to a file on its way to the disk, without waiting for it.

    Only a hint, so that it does not matter whether the file system follows it.

    Args:
        fd: The file.
        offset: Where to begin.
        length: How many bytes; 0 for all that follow.
    """
    _libc.sync_file_range(fd, offset, length, _SYNC_FILE_RANGE_WRITE)


class SyncFailed(OSError):
    """What was written may be gone, although it can still be read."""


def sync(fd: int) -> None:
    """Make a file's bytes durable.

    Raises:
        SyncFailed: They may not be, and never will.
    """
    try:
        os.fsync(fd)
    except OSError as error:
        raise SyncFailed(error.errno, error.strerror) from error


class _OpenHow(ctypes.Structure):
    """``struct open_how`` of ``openat2(2)``."""

    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


class RootedDirectory:
    """Opens, renames and deletes below one directory, and never beside it.

    Args:
        root: The directory; it is made, with its parents, when it is missing.
        openat2: Whether to use the system call of that name where the kernel has it.

    Raises:
        OSError: The directory can't be made or opened.
    """

    def __init__(self, root: Path, *, openat2: bool = True) -> None:
        self.path = root
        root.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._how: dict[int, _OpenHow] = {}
        self._has_openat2 = openat2
        try:
            os.close(self.open("/", os.O_RDONLY | os.O_DIRECTORY))
        except OSError:
            # Before Linux 5.6, and in sandboxes that do not know the call.
            self._has_openat2 = False
        self._durable: dict[str, Identity] = {}
        self._synced: dict[str, Identity] = {}
        self._guard = threading.Lock()

    def close(self) -> None:
        """Release the root. Closing twice is harmless."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def is_same(self) -> bool:
        """Tell whether the root's path still leads to the directory that was opened."""
        try:
            there = os.stat(self.path)
        except OSError:
            return False
        here = os.fstat(self._fd)
        return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)

    def open(self, path: str, flags: int) -> int:
        """Open a path below the root and return its descriptor.

        Raises:
            OSError: As ``open(2)``; ``EXDEV`` when the path would leave the root.
        """
        if not self._has_openat2:
            return self._open_stepwise(path, flags)
        how = self._how.get(flags)
        if how is None:
            mode = 0o666 if flags & os.O_CREAT else 0
            how = _OpenHow(flags | os.O_CLOEXEC, mode, _RESOLVE)
            self._how[flags] = how
        relative = os.fsencode(path[1:] or ".")
        while True:
            fd: int = _syscall(_SYS_OPENAT2, self._fd, relative, ctypes.byref(how), 24)
            if fd >= 0:
                return fd
            code = ctypes.get_errno()
            # A rename elsewhere while the kernel resolved the path; it asks to try again.
            if code not in (errno.EAGAIN, errno.EINTR):
                raise OSError(code, os.strerror(code), path)

    def _open_stepwise(self, path: str, flags: int) -> int:
        """Open a path one component at a time, following no symbolic link at all."""
        *folders, name = path[1:].split("/")
        fd = os.dup(self._fd)
        try:
            for folder in folders:
                below = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
                os.close(fd)
                fd = below
            return os.open(name or ".", flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666, dir_fd=fd)
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def directory(self, path: str) -> Iterator[int]:
        """Open a directory below the root for as long as the block runs."""
        fd = self.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield fd
        finally:
            os.close(fd)

    def open_file(self, path: str, flags: int) -> int:
        """Open a file for writing, making its directories when they are missing."""
        if not flags & os.O_CREAT:
            return self.open(path, flags)
        with _telling_what_is_in_the_way(path):
            for _ in range(_TRIES):
                try:
                    return self.open(path, flags)
                except FileNotFoundError:
                    self.make_directory(_parent(path))
            raise _in_the_way(path)

    def make_directory(self, path: str) -> None:
        """Make a directory and those above it, whoever else is making them."""
        parent, name = _split(path)
        for _ in range(_TRIES):
            try:
                with self.directory(parent) as fd:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(name, dir_fd=fd)
                    return
            except FileNotFoundError:
                if parent == "/":
                    raise
                self.make_directory(parent)
        raise _in_the_way(path)

    def rename(self, source: str, target: str) -> None:
        """Rename a file, making the target's directory."""
        source_parent, source_name = _split(source)
        target_parent, target_name = _split(target)
        with self.directory(source_parent) as source_fd, _telling_what_is_in_the_way(target):
            for _ in range(_TRIES):
                try:
                    with self.directory(target_parent) as target_fd:
                        os.rename(
                            source_name, target_name, src_dir_fd=source_fd, dst_dir_fd=target_fd
                        )
                        return
                except FileNotFoundError:
                    os.stat(source_name, dir_fd=source_fd, follow_symlinks=False)
                    self.make_directory(target_parent)
            raise _in_the_way(target_parent)

    def make_durable(self, directories: Iterable[str]) -> None:
        """Make the entries of directories, and the way to each of them, durable.

        What nobody has changed since this process synced it is left alone, and so is the
        way to a directory that this process has synced, as long as it is the same one:
        another process may have replaced it.
        """
        wanted = set(directories)
        arrived: dict[str, Identity] = {}
        for directory in tuple(wanted):
            path = directory
            while path != "/":
                identity = self._identify(path)
                if identity is not None:
                    if self._durable.get(path) == identity:
                        break
                    arrived[path] = identity
                path = _parent(path)
                wanted.add(path)
        for directory in sorted(wanted, key=len, reverse=True):
            # One that is gone was deleted since, and with it what was to be made durable.
            with contextlib.suppress(FileNotFoundError), self.directory(directory) as fd:
                self._sync_entries(directory, fd)
        # Only now: who finds one of these known does not look at what is above it.
        self._remember(self._durable, arrived)

    def _identify(self, path: str) -> Identity | None:
        """Return what no other directory has ever had, or None where nothing tells.

        A number is given to the next directory when its owner is deleted, so the time of
        birth belongs to it. ``os.stat`` does not know that time.
        """
        buffer = ctypes.create_string_buffer(256)
        relative = os.fsencode(path[1:])
        flags = _AT_SYMLINK_NOFOLLOW
        if _libc.statx(self._fd, relative, flags, _STATX_INO_AND_BTIME, buffer) != 0:
            return None
        (mask,) = struct.unpack_from("=I", buffer, 0)
        if mask & _STATX_INO_AND_BTIME != _STATX_INO_AND_BTIME:
            return None
        (inode,) = struct.unpack_from("=Q", buffer, 32)
        seconds, nanoseconds = struct.unpack_from("=qI", buffer, 80)
        major, minor = struct.unpack_from("=II", buffer, 136)
        return major, minor, inode, seconds, nanoseconds

    def _sync_entries(self, path: str, fd: int) -> None:
        # What changes while it is synced must not be taken for synced.
        status = os.fstat(fd)
        state = (status.st_ino, status.st_mtime_ns)
        if self._synced.get(path) == state:
            return
        # Time stamps move in ticks: what changes next in this tick would look the same.
        is_settled = time.time_ns() - status.st_mtime_ns > _TICK_NANOSECONDS
        os.fsync(fd)
        if is_settled:
            self._remember(self._synced, {path: state})

    def _remember(self, known: dict[str, Identity], more: Mapping[str, Identity]) -> None:
        with self._guard:
            if len(known) >= _REMEMBERED_MAXIMUM:
                known.clear()
            known.update(more)

    def remove(self, path: str, *, durable: bool) -> None:
        """Delete a file or a whole directory, which vanishes at once.

        A directory is first renamed out of the tree: nobody sees it half deleted, and
        a crash leaves scratch that :meth:`sweep_scratch` removes.
        """
        parent, name = _split(path)
        with self.directory(parent) as fd:
            try:
                os.unlink(name, dir_fd=fd)
                doomed = None
            except IsADirectoryError:
                doomed = self.scratch_path()
                scratch_parent, scratch_name = _split(doomed)
                # Missing where the volume was read-only when it was opened.
                self.make_directory(scratch_parent)
                with self.directory(scratch_parent) as scratch_fd:
                    os.rename(name, scratch_name, src_dir_fd=fd, dst_dir_fd=scratch_fd)
            if durable:
                os.fsync(fd)
        if doomed is not None:
            shutil.rmtree(f"{self.path}{doomed}", ignore_errors=True)

    def scratch_path(self) -> str:
        """Return a new name in the folder for files that nobody shall see yet."""
        return f"{_SCRATCH}/{secrets.token_hex(12)}"

    def prepare(self) -> None:
        """Make the driver's own files and remove scratch that a crash left behind.

        Raises:
            OSError: They can't be made, or a folder below the root is not on the root's file
                system: files could not be renamed into it.
        """
        with os.scandir(self.path) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    # Snapshots and the like, which belong to the file system.
                    continue
                try:
                    is_elsewhere = entry.stat().st_dev != os.fstat(self._fd).st_dev
                except FileNotFoundError:
                    continue
                if is_elsewhere or entry.is_symlink():
                    reason = "is on another file system or leads out of the root: mount the root"
                    raise OSError(errno.EXDEV, f"{reason} itself there", entry.path)
        self.make_directory(_SCRATCH)
        os.close(self.open_file(LOCKS, os.O_RDWR | os.O_CREAT))
        self.sweep_scratch()

    def sweep_scratch(self) -> None:
        """Remove scratch files and folders that nobody can still be working on."""
        horizon = time.time() - _SCRATCH_MAXIMUM_AGE
        with self.directory(_SCRATCH) as fd, os.scandir(fd) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    if status.st_mtime > horizon:
                        continue
                    if stat.S_ISDIR(status.st_mode):
                        folder = f"{self.path}{_SCRATCH}/{entry.name}"
                        shutil.rmtree(folder, ignore_errors=True)
                    else:
                        os.unlink(entry.name, dir_fd=fd)


@contextlib.contextmanager
def _telling_what_is_in_the_way(path: str) -> Iterator[None]:
    """Let no error about the way to a new file pass for the absence of an old one."""
    try:
        yield
    except OSError as error:
        if error.errno in _OBSTACLES:
            raise _in_the_way(path) from error
        raise


def _in_the_way(path: str) -> OSError:
    """Return the error for a directory that can neither be opened nor made.

    It is a symbolic link to nothing, or deleted again and again.
    """
    return OSError(errno.EBUSY, "no directory can be made here; look what is in its way", path)


def _parent(path: str) -> str:
    return path.rpartition("/")[0] or "/"


def _split(path: str) -> tuple[str, str]:
    parent, _, name = path.rpartition("/")
    return parent or "/", name
