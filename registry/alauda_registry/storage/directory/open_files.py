"""Files of a directory that are open for reading or appending, and what their errors mean.

Small reads and writes are done on the event loop, where a thread hop would cost more than
they do.
"""

import errno
import os
import stat
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar, TypeVarTuple

from typing_extensions import override

from alauda_registry.storage.directory.attachment import Hold
from alauda_registry.storage.directory.durability import SyncFailed, start_writeback, sync
from alauda_registry.storage.directory.publishing import write_all
from alauda_registry.storage.directory.rooted import UNANSWERED
from alauda_registry.storage.driver import (
    AccessRefused,
    DriverError,
    FileReader,
    FileWriter,
    InvalidPath,
    OutOfSpace,
    PathNotFound,
    ReadOnlyFileSystem,
    Unreachable,
)
from alauda_registry.storage.threads import begin_blocking, run_blocking

INLINE_BYTES = 64 * 1024
"""Up to this size a read or write from the page cache is cheaper than a thread hop."""

STREAM_CHUNK = 512 * 1024
WRITEBACK_BYTES = 4 * 1024 * 1024

Ts = TypeVarTuple("Ts")
T = TypeVar("T")

ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO})
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_REFUSED = frozenset({errno.EACCES, errno.EPERM})
_GONE = UNANSWERED | {errno.EBUSY, errno.EAGAIN, errno.ENOMEM, errno.EUCLEAN, errno.EBADMSG}
_EXHAUSTED = "too many open files: raise the limit of the process (ulimit -n)"
WITHOUT_LOCKS = "the file system has no locks: on NFS, mount without nolock and see to its lockd"
_UNREACHABLE = {
    errno.EMFILE: _EXHAUSTED,
    errno.ENFILE: "too many open files on this host: raise fs.file-max",
    errno.EXDEV: "another file system is mounted below the root: unmount it",
    errno.ENOLCK: WITHOUT_LOCKS,
    errno.EOPNOTSUPP: WITHOUT_LOCKS,
}


@dataclass(frozen=True, slots=True)
class Translator:
    """Turns the operating system's errors into those of a driver.

    Attributes:
        driver: The driver's name.
        advice: What clients are told when the storage is full; see :class:`OutOfSpace`.
    """

    driver: str
    advice: str | None = None

    def __call__(self, error: OSError, path: object) -> DriverError:
        """Return the driver's error for one of the operating system's.

        Symbolic links read as absent. What was mounted below the root (``EXDEV``) does not: it
        hides what is there.
        """
        translated = self._translate(error, str(path))
        translated.loses_bytes = isinstance(error, SyncFailed)
        return translated

    def _translate(self, error: OSError, path: str) -> DriverError:
        code = error.errno
        if code in ABSENT:
            return PathNotFound(driver=self.driver, path=path)
        if code in FULL:
            return OutOfSpace(driver=self.driver, path=path, advice=self.advice)
        if code == errno.EROFS:
            return ReadOnlyFileSystem(driver=self.driver, path=path)
        if code == errno.ENAMETOOLONG:
            return InvalidPath(driver=self.driver, path=path)
        if code in _REFUSED:
            return AccessRefused(driver=self.driver, path=path)
        if code in _UNREACHABLE:
            return Unreachable(_UNREACHABLE[code], driver=self.driver, path=path)
        if code in _GONE:
            return Unreachable(error.strerror or "no answer", driver=self.driver, path=path)
        return DriverError(os.strerror(code or 0), driver=self.driver, path=path)


class OpenReader(FileReader):
    """A file that is open for reading.

    Args:
        fd: The file, which from now on is the reader's.
        path: Where it is.
        executor: Runs what is large.
        as_driver_error: Says what its errors mean.
        reopen: Opens what is at the path by now.
    """

    def __init__(
        self,
        fd: int,
        path: str,
        executor: ThreadPoolExecutor,
        as_driver_error: Translator,
        reopen: Callable[[], int],
    ) -> None:
        self._fd = fd
        self._path = path
        self._executor = executor
        self._as_driver_error = as_driver_error
        self._reopen = reopen
        self._is_begun = False
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise PathNotFound(driver=as_driver_error.driver, path=path)
        self._size = status.st_size

    @property
    @override
    def size(self) -> int:
        return self._size

    @override
    def fileno(self) -> int | None:
        self._is_begun = True
        return self._fd

    @override
    async def stream(
        self, offset: int = 0, length: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        end = self._size if length is None else min(self._size, offset + length)
        while offset < end:
            count = min(STREAM_CHUNK, end - offset)
            try:
                if count <= INLINE_BYTES:
                    chunk = os.pread(self._fd, count, offset)
                else:
                    chunk = await run_blocking(self._executor, os.pread, self._fd, count, offset)
            except OSError as error:
                if error.errno == errno.ESTALE and self._begin_anew():
                    continue
                raise self._as_driver_error(error, self._path) from error
            if not chunk:
                raise Unreachable(
                    "the file is shorter than it was",
                    driver=self._as_driver_error.driver,
                    path=self._path,
                )
            self._is_begun = True
            yield chunk
            offset += len(chunk)

    def _begin_anew(self) -> bool:
        """Take what is at the path now, if nobody has seen anything of what was there before.

        A file server forgets a file that was replaced, though it is open here.
        """
        if self._is_begun:
            return False
        self._is_begun = True
        try:
            fd = self._reopen()
        except OSError:
            return False
        os.close(self._fd)
        self._fd = fd
        return os.fstat(fd).st_size == self._size

    @override
    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class OpenWriter(FileWriter):
    """A file that is open for appending.

    Args:
        fd: The file, which from now on is the writer's.
        path: Where it is.
        executor: Runs what is large.
        as_driver_error: Says what its errors mean.
        require_room: Refuses to write more bytes to the path.
        hold: What was begun by opening the file; see :class:`Hold`.
    """

    def __init__(
        self,
        fd: int,
        path: str,
        executor: ThreadPoolExecutor,
        as_driver_error: Translator,
        require_room: Callable[[str, int], None],
        hold: Hold,
    ) -> None:
        self._fd = fd
        self._path = path
        self._executor = executor
        self._as_driver_error = as_driver_error
        self._require_room = require_room
        self._hold = hold
        self._offset = self._on_its_way = os.fstat(fd).st_size

    @property
    @override
    def offset(self) -> int:
        return self._offset

    @override
    def write(
        self, chunks: Sequence[bytes], alongside: Callable[[Sequence[bytes]], None] | None = None
    ) -> Coroutine[Any, Any, None]:
        end = self._offset + sum(map(len, chunks))
        if end - self._offset <= INLINE_BYTES:
            return self._finish_write(None, chunks, end, alongside)
        thread = begin_blocking(self._executor, self._write, chunks, end, alongside)
        return self._finish_write(thread, chunks, end, alongside)

    async def _finish_write(
        self,
        thread: Coroutine[Any, Any, None] | None,
        chunks: Sequence[bytes],
        end: int,
        alongside: Callable[[Sequence[bytes]], None] | None,
    ) -> None:
        try:
            if thread is None:
                self._write(chunks, end, alongside)
            else:
                await thread
        except OSError as error:
            raise self._as_driver_error(error, self._path) from error
        finally:
            # Part of it may have been written when this failed or was cancelled.
            self._measure()

    @override
    async def read(self, offset: int, length: int) -> bytes:
        return await self._call(os.pread, self._fd, length, offset)

    @override
    async def truncate(self, size: int) -> None:
        try:
            await self._call(os.ftruncate, self._fd, size)
        finally:
            self._measure()

    @override
    async def sync(self, note: bytes = b"") -> None:
        self._hold.require()
        await self._call(self._sync)

    def _sync(self) -> None:
        try:
            sync(self._fd)
        except OSError:
            # Here, as nobody hears of it when the request was cancelled meanwhile.
            self._hold.spoil()
            raise

    @override
    async def close(self) -> None:
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        self._hold.end()
        try:
            os.close(fd)
        except OSError as error:
            # A file server may tell only now that what was written does not fit.
            raise self._as_driver_error(error, self._path) from error

    def _write(
        self,
        chunks: Sequence[bytes],
        end: int,
        alongside: Callable[[Sequence[bytes]], None] | None,
    ) -> None:
        self._hold.require()
        self._require_room(self._path, end - self._offset)
        write_all(self._fd, chunks, self._offset)
        if end - self._on_its_way >= WRITEBACK_BYTES:
            # The disk works while the rest arrives, and the sync at the end has little to do.
            start_writeback(self._fd, self._on_its_way, end - self._on_its_way)
            self._on_its_way = end
        if alongside is not None:
            alongside(chunks)

    def _measure(self) -> None:
        try:
            self._offset = os.fstat(self._fd).st_size
        except OSError as error:
            raise self._as_driver_error(error, self._path) from error

    async def _call(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        try:
            return await run_blocking(self._executor, function, *args)
        except OSError as error:
            raise self._as_driver_error(error, self._path) from error
