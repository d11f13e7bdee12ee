"""Makes calls of the storage to the system fail, one after the other.

In the modules of ``alauda_registry.storage`` the names ``os`` and ``fcntl`` are replaced for a
while by objects that pass every call on, but for those that are to fail. A driver has to be told
not to use ``openat2``, which goes past them.
"""

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from tests.torture.covering import storage_modules

WRITES = frozenset({"open to write", "mkdir", "link", "rename", "unlink", "rmdir", "ftruncate"})
GROWTH = frozenset({"create", "mkdir", "link", "rename", "write"})
OPENINGS = frozenset({"open", "open to write", "create", "scandir", "listdir"})
READS = frozenset({"open", "read", "fstat", "stat", "scandir", "listdir"})
EVERYTHING = WRITES | GROWTH | OPENINGS | READS | {"fsync", "close"}

CAN_FAIL = {
    errno.ENOSPC: GROWTH | {"fsync", "close"},
    errno.EDQUOT: GROWTH | {"fsync", "close"},
    errno.EROFS: WRITES | {"create"},
    errno.EMFILE: OPENINGS,
    errno.EIO: EVERYTHING,
    errno.ESTALE: EVERYTHING,
    errno.ENOTCONN: EVERYTHING,
    errno.ENOLCK: frozenset({"lock"}),
}
"""Which calls fail for which reason."""

_KINDS = {
    "fdatasync": "fsync",
    "pwrite": "write",
    "pwritev": "write",
    "pread": "read",
}
_PASSED_ON = frozenset(
    {
        *("open", "read", "pread", "fstat", "stat", "scandir", "listdir", "close"),
        *("mkdir", "rename", "link", "unlink", "rmdir", "pwrite", "pwritev", "ftruncate"),
        *("fsync", "fdatasync"),
    }
)


class Faults:
    """Lets calls fail.

    Args:
        code: With what error.
        first: The number of the first call that fails, counted from one.
        lasting: Whether all that follow fail, too.
        kinds: Which kinds of call count; by default those that can fail with this error.

    Attributes:
        count: How many of those were made.
        struck: The kinds of those that failed.
        lost: The inodes of files whose bytes no disk has, because syncing them failed, and
            that nobody has emptied since.
    """

    def __init__(
        self,
        code: int,
        first: int,
        *,
        lasting: bool = False,
        kinds: frozenset[str] | None = None,
    ) -> None:
        self._code = code
        self._first = first
        self._lasting = lasting
        self._kinds = CAN_FAIL[code] if kinds is None else kinds
        self.count = 0
        self.struck: list[str] = []
        self.lost: set[int] = set()
        self._kept_open: list[int] = []

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in _PASSED_ON:
            return real
        return lambda *args, **more: self._call(name, real, args, more)

    def end(self) -> None:
        """Let nothing fail any more; what becomes of lost bytes is still seen."""
        self._kinds = frozenset()

    def release(self) -> None:
        """Let the numbers of lost files be used again."""
        while self._kept_open:
            os.close(self._kept_open.pop())

    def fcntl(self, *args: Any) -> Any:
        """Stand in for ``fcntl.fcntl``."""
        if self._fails("lock"):
            raise self._error()
        return fcntl.fcntl(*args)

    def _call(
        self,
        name: str,
        real: Callable[..., Any],
        args: tuple[Any, ...],
        more: dict[str, Any],
    ) -> Any:
        kind = _KINDS.get(name, name)
        if name == "open":
            kind = _kind_of_open(args, more)
        elif name == "close" and not _is_open_to_write(args[0]):
            kind = "step"
        if not self._fails(kind):
            if name == "ftruncate" and args[1] == 0:
                self.lost.discard(os.fstat(args[0]).st_ino)
            return real(*args, **more)
        if kind == "close":
            # The descriptor is gone all the same.
            real(*args)
        elif kind == "write":
            self._write_half(args)
        elif kind == "fsync" and stat.S_ISREG(os.fstat(args[0]).st_mode):
            self.lost.add(os.fstat(args[0]).st_ino)
            # Otherwise the number may be given to the next file. This holds no lock.
            self._kept_open.append(os.open(f"/proc/self/fd/{args[0]}", os.O_PATH))
        raise self._error()

    def _fails(self, kind: str) -> bool:
        if kind not in self._kinds:
            return False
        self.count += 1
        if self.count == self._first or (self._lasting and self.count > self._first):
            self.struck.append(kind)
            return True
        return False

    def _error(self) -> OSError:
        return OSError(self._code, os.strerror(self._code))

    def _write_half(self, args: tuple[Any, ...]) -> None:
        fd, content, offset = args
        whole = b"".join(content) if isinstance(content, list) else bytes(content)
        os.pwrite(fd, whole[: len(whole) // 2], offset)


def _kind_of_open(args: tuple[Any, ...], more: dict[str, Any]) -> str:
    path, flags = args[:2]
    if flags & os.O_PATH and flags & os.O_DIRECTORY:
        # Of the way to a file only its end counts.
        return "step"
    if flags & os.O_CREAT:
        exists = os.access(path, os.F_OK, dir_fd=more.get("dir_fd"), follow_symlinks=False)
        return "open to write" if exists else "create"
    if flags & (os.O_WRONLY | os.O_RDWR):
        return "open to write"
    return "open"


def _is_open_to_write(fd: int) -> bool:
    """Tell whether there may be bytes that a file server has not taken yet."""
    is_upload = "/_uploads/" in os.readlink(f"/proc/self/fd/{fd}")
    return is_upload and fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY


class _Locks:
    """Stands in for the module ``fcntl``."""

    def __init__(self, faults: Faults) -> None:
        self.fcntl = faults.fcntl

    def __getattr__(self, name: str) -> Any:
        return getattr(fcntl, name)


@contextmanager
def failing(faults: Faults) -> Iterator[Faults]:
    """Let the calls of the storage fail for as long as the block runs."""
    replacements: dict[ModuleType, object] = {os: faults, fcntl: _Locks(faults)}
    replaced = [
        (module, name, value)
        for module in storage_modules()
        for name, value in vars(module).items()
        if isinstance(value, ModuleType) and value in replacements
    ]
    for module, name, value in replaced:
        setattr(module, name, replacements[value])
    try:
        yield faults
    finally:
        for module, name, value in replaced:
            setattr(module, name, value)
