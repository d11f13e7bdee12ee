"""What it takes for files and directories to survive a power cut.

A file survives when its bytes, its directory and every directory that was just made above it
have been synced. All functions block.
"""

import contextlib
import ctypes
import errno
import os
import stat
import struct
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from alauda_registry.storage.directory.rooted import RootedDirectory
from alauda_registry.storage.directory.shared_syncs import Change, SharedSyncs

_REMEMBERED_MAXIMUM = 8192

_AT_EMPTY_PATH = 0x1000
_STATX_TYPE = 0x01
_STATX_CTIME = 0x80
_STATX_INO = 0x100
_STATX_BTIME = 0x800
_STATX_WANTED = _STATX_TYPE | _STATX_CTIME | _STATX_INO | _STATX_BTIME
_SYNC_FILE_RANGE_WRITE = 2

_libc = ctypes.CDLL(None, use_errno=True)
_libc.sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
_Statx = ctypes.c_char * 256

Identity = bytes
"""What no other file or directory of this machine has, has had or will have."""


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


def identify(fd: int) -> Identity | None:
    """Return what tells a file or directory from all others, or None where nothing does.

    A number is given to the next file when its owner is deleted, so the time of birth, which
    ``os.stat`` does not know, belongs to it. With a file goes the time of its last change, too,
    and being renamed is one: a name that leads to what it led to before was not taken
    away meanwhile.
    """
    buffer = _Statx()
    if _libc.statx(fd, b"", _AT_EMPTY_PATH, _STATX_WANTED, buffer) != 0:
        return None
    status = buffer.raw
    mask, mode = struct.unpack_from("=I24xH", status)
    if mask & _STATX_WANTED != _STATX_WANTED:
        return None
    number, device, birth, change = status[32:40], status[136:144], status[80:92], status[96:108]
    return number + device + birth + (b"" if stat.S_ISDIR(mode) else change)


class DurableDirectories:
    """Makes the entries of directories below a root durable, and remembers what is."""

    def __init__(self, root: RootedDirectory) -> None:
        self._root = root
        self._syncs = SharedSyncs()
        self._durable: dict[str, Identity] = {}
        self._durable_before: dict[str, Identity] = {}
        self._guard = threading.Lock()

    def forget(self) -> None:
        """Take nothing for durable any more, as another volume may be at the root."""
        with self._guard:
            self._durable, self._durable_before = {}, {}

    @contextlib.contextmanager
    def changing(self) -> Iterator["Changes"]:
        """Change directories in the block, and leave none of them open after it."""
        changes = Changes(self, self._root, self._syncs)
        try:
            yield changes
        finally:
            changes.close()

    def is_durable(self, path: str, identity: Identity) -> bool:
        """Tell whether a path that leads there will do so after a power cut, too."""
        known = self._durable.get(path)
        if known is None:
            known = self._durable_before.get(path)
            if known == identity:
                self.remember({path: identity})
        return known == identity

    def remember(self, paths: Mapping[str, Identity]) -> None:
        """Take paths for durable, each as long as it leads there.

        What nobody asked for during the last thousands of paths is forgotten.
        """
        with self._guard:
            if len(self._durable) >= _REMEMBERED_MAXIMUM:
                self._durable, self._durable_before = {}, self._durable
            self._durable.update(paths)


@dataclass(slots=True)
class _Opened:
    """A directory that is open to be changed."""

    fd: int
    identity: Identity | None
    change: Change


class Changes:
    """What one writer changes in directories until it makes all of it durable at once.

    What it changes stays open from before the change. So what is synced is what was changed,
    whoever has put another directory in its place since.
    """

    def __init__(
        self, directories: DurableDirectories, root: RootedDirectory, syncs: SharedSyncs
    ) -> None:
        self._directories = directories
        self._root = root
        self._syncs = syncs
        self._opened: dict[str, _Opened] = {}

    def directory(self, path: str) -> int:
        """Return the descriptor of a directory, which is made when it is missing.

        Raises:
            OSError: It can't be opened, or something is in its way.
        """
        opened = self._opened.get(path)
        if opened is None:
            try:
                opened = self._open(path)
            except FileNotFoundError:
                above, name = split(path)
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, dir_fd=self.directory(above))
                opened = self._open(path)
        return opened.fd

    def look_anew(self, path: str) -> None:
        """Let go of a directory, and of those above it, that are in their places no more."""
        while path != "/":
            opened = self._opened.get(path)
            if opened is not None and not self._root.is_at(path, opened.fd):
                self._let_go(path)
            path = split(path)[0]

    def make_durable(self, files: Mapping[str, Identity | None]) -> None:
        """Make durable that paths lead to files, and the way to each of them.

        The way to a directory that is known to be durable is left alone, as long as it is the
        same one: another process may have replaced it.

        Args:
            files: What lies at each path.

        Raises:
            OSError: They may not survive a power cut.
        """
        wanted, arrived = self._find(files)
        for path in sorted(wanted, key=len, reverse=True):
            try:
                self._sync(path, arrived.get(path))
            except OSError as error:
                raise OSError(error.errno, error.strerror, path) from error
        # Only now: who finds one of these known does not look at what is above it.
        self._directories.remember(arrived)

    def close(self) -> None:
        """Close the directories."""
        for path in tuple(self._opened):
            self._let_go(path)

    def _find(self, files: Mapping[str, Identity | None]) -> tuple[set[str], dict[str, Identity]]:
        """Return the directories to sync, and what will be durable then."""
        wanted: set[str] = set()
        arrived = {path: identity for path, identity in files.items() if identity is not None}
        for file in files:
            path = file
            while path != "/" and (path := split(path)[0]) not in wanted:
                try:
                    identity = self._identify(path)
                except FileNotFoundError:
                    # Deleted since, and with it what was to be made durable.
                    continue
                wanted.add(path)
                if identity is not None:
                    if self._directories.is_durable(path, identity):
                        break
                    arrived[path] = identity
        return wanted, arrived

    def _identify(self, path: str) -> Identity | None:
        opened = self._opened.get(path)
        if opened is not None:
            return opened.identity
        fd = self._root.open(path, os.O_PATH | os.O_DIRECTORY)
        try:
            return identify(fd)
        finally:
            os.close(fd)

    def _sync(self, path: str, identity: Identity | None) -> None:
        opened = self._opened.get(path)
        if opened is not None:
            self._syncs.sync(opened.change, opened.fd)
            return
        # One that nothing was changed in is open only now: there may be hundreds of them.
        opened = self._open(path)
        try:
            if identity not in (None, opened.identity):
                raise OSError(errno.ESTALE, "replaced while it was relied on")
            self._syncs.sync(opened.change, opened.fd)
        finally:
            self._let_go(path)

    def _let_go(self, path: str) -> None:
        opened = self._opened.pop(path)
        self._syncs.leave(opened.change)
        os.close(opened.fd)

    def _open(self, path: str) -> _Opened:
        fd = self._root.open(path, os.O_RDONLY | os.O_DIRECTORY)
        identity = identify(fd)
        opened = _Opened(fd, identity, self._syncs.enter(identity or _number(fd)))
        self._opened[path] = opened
        return opened


def split(path: str) -> tuple[str, str]:
    """Return the directory that a path is in, and its name there."""
    parent, _, name = path.rpartition("/")
    return parent or "/", name


def _number(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino
