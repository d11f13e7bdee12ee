"""A directory on a disk: write to scratch, sync, rename, sync the directory.

Small reads are done on the event loop, where a thread hop would cost more than the
read; whatever syncs, lists or moves many bytes runs in the driver's own threads. Paths
are confined to the root by :class:`~alauda_registry.storage.rooted.RootedDirectory`.
"""

import asyncio
import errno
import fcntl
import hashlib
import logging
import os
import stat
import struct
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple

from typing_extensions import override

from alauda_registry.storage import publishing
from alauda_registry.storage.driver import (
    AccessRefused,
    Busy,
    DriverError,
    FileInfo,
    FileReader,
    FileWriter,
    InvalidPath,
    Move,
    OutOfSpace,
    PathNotFound,
    ReadOnlyFileSystem,
    Stage,
    StorageDriver,
    Unreachable,
    flatten,
    is_component,
    require_valid,
)
from alauda_registry.storage.rooted import LOCKS, RootedDirectory, SyncFailed, start_writeback, sync
from alauda_registry.storage.threads import begin_blocking, run_blocking

logger = logging.getLogger(__name__)

NAME = "filesystem"
INLINE_BYTES = 64 * 1024
"""Up to this size a read or write from the page cache is cheaper than a thread hop."""

INLINE_DIRECTORY_BYTES = 32 * 1024
"""Up to this size a directory's names are read faster than a thread is found for it."""

STREAM_CHUNK = 512 * 1024
WRITEBACK_BYTES = 4 * 1024 * 1024
SMALL_FILE_MAXIMUM = 64 * 1024 * 1024
_FINGERPRINT_AGE_NS = 2_000_000_000
_LOCK_POLL_SECONDS = (0.001, 0.05)

Ts = TypeVarTuple("Ts")
T = TypeVar("T")

_ABSENT = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EXDEV, errno.ENXIO}
)
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_REFUSED = frozenset({errno.EACCES, errno.EPERM})
_GONE = frozenset({errno.EIO, errno.ESTALE, errno.ENODEV, errno.EMFILE, errno.ENFILE, errno.EBUSY})


def translate(error: OSError, path: object) -> DriverError:
    """Return the driver's error for one of the operating system's.

    A symbolic link that leads out of the root (``EXDEV``) reads as absent.
    """
    translated = _translate(error, str(path))
    translated.loses_bytes = isinstance(error, SyncFailed)
    return translated


def _translate(error: OSError, path: str) -> DriverError:
    code = error.errno
    if code in _ABSENT:
        return PathNotFound(driver=NAME, path=path)
    if code in _FULL:
        return OutOfSpace(driver=NAME, path=path)
    if code == errno.EROFS:
        return ReadOnlyFileSystem(driver=NAME, path=path)
    if code == errno.ENAMETOOLONG:
        return InvalidPath(driver=NAME, path=path)
    if code in _REFUSED:
        return AccessRefused(driver=NAME, path=path)
    if code in _GONE:
        return Unreachable(error.strerror or "no answer", driver=NAME, path=path)
    return DriverError(os.strerror(code or 0), driver=NAME, path=path)


class FilesystemDriver(StorageDriver):
    """Keeps files in a directory.

    Args:
        root: The directory, made when it is missing.
        threads: How many blocking calls may be under way at once.
        read_only: Whether nothing may be written, not even the driver's own files.
        openat2: Whether to use the system call of that name where the kernel has it.

    Raises:
        OSError: The directory can't be made or opened, or is not fit to be written to. One that
            is full or mounted read-only is: what it holds can be served.
    """

    def __init__(
        self, root: Path, *, threads: int = 16, read_only: bool = False, openat2: bool = True
    ) -> None:
        self._root = RootedDirectory(root, openat2=openat2)
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="storage")
        # Whether the storage answers must not depend on how busy it is.
        self._checker = ThreadPoolExecutor(1, thread_name_prefix="storage-check")
        if read_only:
            return
        try:
            self._root.prepare()
        except OSError as error:
            if error.errno not in _FULL and error.errno != errno.EROFS:
                self._root.close()
                raise

    @property
    @override
    def name(self) -> str:
        return NAME

    @override
    async def stat(self, path: str) -> FileInfo:
        require_valid(path, driver=NAME)
        try:
            fd = self._root.open(path, os.O_PATH)
        except OSError as error:
            raise self._translate(error, path) from error
        try:
            return _file_info(path, os.fstat(fd))
        finally:
            os.close(fd)

    @override
    async def read(self, path: str) -> bytes:
        require_valid(path, driver=NAME)
        try:
            fd = self._root.open(path, os.O_RDONLY | os.O_NONBLOCK)
            try:
                content = os.read(fd, 4096)
                if 0 < len(content) < 4096:
                    return content
                # Nothing, or without an end, is also what a pipe or a device gives.
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise PathNotFound(driver=NAME, path=path)
                if not content:
                    return content
                return content + await run_blocking(self._executor, _read_rest, fd, path)
            finally:
                os.close(fd)
        except BlockingIOError as pipe:
            raise PathNotFound(driver=NAME, path=path) from pipe
        except OSError as error:
            raise self._translate(error, path) from error

    @override
    async def open(self, path: str) -> FileReader:
        require_valid(path, driver=NAME)
        try:
            fd = self._root.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            raise self._translate(error, path) from error
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            raise PathNotFound(driver=NAME, path=path)
        return _Reader(fd, status.st_size, path, self._executor)

    @override
    async def publish(self, *stages: Stage) -> None:
        for step in flatten(stages):
            for path in (step.source, step.target) if isinstance(step, Move) else (step.path,):
                require_valid(path, driver=NAME)
        await self._run(publishing.publish, self._root, stages)

    @override
    async def append(self, path: str, *, create: bool, wait: float) -> FileWriter:
        require_valid(path, driver=NAME)
        flags = os.O_RDWR | (os.O_CREAT if create else 0)
        while True:
            try:
                fd = self._root.open_file(path, flags)
            except OSError as error:
                raise self._translate(error, path) from error
            try:
                await _acquire(fd, path, exclusive=True, wait=wait)
                status = os.fstat(fd)
                if status.st_nlink and self._is_at(path, status):
                    return _Writer(fd, status.st_size, path, self._executor)
            except BaseException:
                os.close(fd)
                raise
            # Committed or cancelled by whoever held it; without `create` it is gone.
            os.close(fd)

    @override
    async def delete(self, path: str, *, durable: bool = True) -> None:
        require_valid(path, driver=NAME)
        await self._run(lambda: self._root.remove(path, durable=durable), path=path)

    @override
    async def names(self, path: str) -> list[str]:
        require_valid(path, driver=NAME)
        try:
            with self._root.directory(path) as fd:
                # A directory's size tells roughly how many names it has.
                if os.fstat(fd).st_size <= INLINE_DIRECTORY_BYTES:
                    return _names(fd)
                return await run_blocking(self._executor, _names, fd)
        except OSError as error:
            raise self._translate(error, path) from error

    @override
    async def walk(self, path: str, *, start_after: str = "") -> AsyncGenerator[FileInfo, None]:
        require_valid(path, driver=NAME)
        try:
            entries = await self._run(self._scan, path, start_after, path=path)
        except PathNotFound:
            return
        stack = [entries]
        while stack:
            if not stack[-1]:
                stack.pop()
                continue
            entry_path, status = stack[-1].pop()
            if not stat.S_ISDIR(status.st_mode):
                yield _file_info(entry_path, status)
                continue
            with suppress(PathNotFound):
                below = await self._run(self._scan, entry_path, start_after, path=entry_path)
                stack.append(below)

    @override
    @asynccontextmanager
    async def lock(self, name: str, *, exclusive: bool, wait: float) -> AsyncGenerator[None, None]:
        if not is_component(name):
            raise InvalidPath(driver=NAME, path=name)
        try:
            fd = self._root.open_file(LOCKS, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise self._translate(error, name) from error
        try:
            await _acquire(fd, name, exclusive=exclusive, wait=wait, byte=_lock_byte(name))
            yield
        finally:
            os.close(fd)

    @override
    async def fingerprint(self, path: str) -> str | None:
        require_valid(path, driver=NAME)
        try:
            with self._root.directory(path) as fd:
                status = os.fstat(fd)
        except OSError as error:
            raise self._translate(error, path) from error
        # Time stamps move in ticks: what changed in the same tick would not show.
        if time.time_ns() - status.st_mtime_ns < _FINGERPRINT_AGE_NS:
            return None
        return f"{status.st_ino}-{status.st_mtime_ns}-{status.st_nlink}"

    @override
    async def check(self, *, write: bool) -> None:
        try:
            await run_blocking(self._checker, self._check, write)
        except OSError as error:
            raise self._translate(error, error.filename) from error

    @override
    async def aclose(self) -> None:
        self._executor.shutdown(wait=True)
        self._checker.shutdown(wait=False)
        self._root.close()

    async def _run(self, function: Callable[[*Ts], T], *args: *Ts, path: str | None = None) -> T:
        try:
            return await run_blocking(self._executor, function, *args)
        except OSError as error:
            raise self._translate(error, error.filename if path is None else path) from error

    def _translate(self, error: OSError, path: object) -> DriverError:
        """Return the driver's error; what a root that is gone does not have is not absent."""
        translated = translate(error, path)
        if isinstance(translated, PathNotFound) and not self._root.is_same():
            return Unreachable("the root directory is gone", driver=NAME, path=str(path))
        return translated

    def _is_at(self, path: str, status: os.stat_result) -> bool:
        """Tell whether the path still leads to the file with this status."""
        try:
            fd = self._root.open(path, os.O_PATH)
        except OSError:
            return False
        try:
            return os.path.samestat(os.fstat(fd), status)
        finally:
            os.close(fd)

    def _scan(self, path: str, start_after: str) -> list[tuple[str, os.stat_result]]:
        """Return a directory's entries that may hold what comes after, last one first."""
        found = []
        with self._root.directory(path) as fd, os.scandir(fd) as entries:
            for entry in entries:
                if not is_component(entry.name):
                    continue
                entry_path = f"{path}/{entry.name}"
                with suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(status.st_mode):
                        below = f"{entry_path}/"
                        if below > start_after or start_after.startswith(below):
                            found.append((below, entry_path, status))
                    elif stat.S_ISREG(status.st_mode) and entry_path > start_after:
                        found.append((entry_path, entry_path, status))
        found.sort(key=lambda item: item[0], reverse=True)
        return [(entry_path, status) for _, entry_path, status in found]

    def _check(self, write: bool) -> None:
        if not self._root.is_same():
            raise Unreachable(
                "the root directory was replaced or unmounted; restart when it is back",
                driver=NAME,
                path=str(self._root.path),
            )
        with self._root.directory("/") as fd:
            os.listdir(fd)
        if not write:
            return
        temporary = self._root.scratch_path()
        fd = self._root.open_file(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            publishing.write_all(fd, [bytes(4096)], 0)
            os.fsync(fd)
        finally:
            os.close(fd)
            self._root.remove(temporary, durable=False)


class _Reader(FileReader):
    def __init__(self, fd: int, size: int, path: str, executor: ThreadPoolExecutor) -> None:
        self._fd = fd
        self._size = size
        self._path = path
        self._executor = executor

    @property
    @override
    def size(self) -> int:
        return self._size

    @override
    def fileno(self) -> int | None:
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
                raise translate(error, self._path) from error
            if not chunk:
                raise Unreachable("the file is shorter than it was", driver=NAME, path=self._path)
            yield chunk
            offset += len(chunk)

    @override
    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class _Writer(FileWriter):
    def __init__(self, fd: int, size: int, path: str, executor: ThreadPoolExecutor) -> None:
        self._fd = fd
        self._offset = size
        self._on_its_way = size
        self._path = path
        self._executor = executor

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
            raise translate(error, self._path) from error
        finally:
            # Part of it may have been written when this failed or was cancelled.
            self._offset = os.fstat(self._fd).st_size

    @override
    async def read(self, offset: int, length: int) -> bytes:
        return await self._call(os.pread, self._fd, length, offset)

    @override
    async def truncate(self, size: int) -> None:
        try:
            await self._call(os.ftruncate, self._fd, size)
        finally:
            self._offset = os.fstat(self._fd).st_size

    @override
    async def sync(self) -> None:
        await self._call(sync, self._fd)

    @override
    async def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write(
        self,
        chunks: Sequence[bytes],
        end: int,
        alongside: Callable[[Sequence[bytes]], None] | None,
    ) -> None:
        publishing.write_all(self._fd, chunks, self._offset)
        if end - self._on_its_way >= WRITEBACK_BYTES:
            # The disk works while the rest arrives, and the sync at the end has little to do.
            start_writeback(self._fd, self._on_its_way, end - self._on_its_way)
            self._on_its_way = end
        if alongside is not None:
            alongside(chunks)

    async def _call(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        try:
            return await run_blocking(self._executor, function, *args)
        except OSError as error:
            raise translate(error, self._path) from error


def _lock_byte(name: str) -> int:
    """Return the byte of the file of locks that stands for a name.

    One file for all: none has to be made when the disk is full, or cleaned up.
    """
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 2


async def _acquire(fd: int, path: str, *, exclusive: bool, wait: float, byte: int = 0) -> None:
    """Take an open-file-description lock, which ends with the descriptor, whatever happens.

    Such locks also work between two requests of one process and over NFS.
    """
    kind = fcntl.F_WRLCK if exclusive else fcntl.F_RDLCK
    request = struct.pack("hhqqi4x", kind, os.SEEK_SET, byte, 1, 0)
    deadline = time.monotonic() + wait
    pause, longest = _LOCK_POLL_SECONDS
    while True:
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, request)
        except (BlockingIOError, PermissionError) as error:
            if time.monotonic() >= deadline:
                raise Busy(driver=NAME, path=path) from error
        except OSError as error:
            raise translate(error, path) from error
        else:
            return
        await asyncio.sleep(pause)
        pause = min(pause * 2, longest)


def _names(fd: int) -> list[str]:
    return sorted(filter(is_component, os.listdir(fd)))


def _read_rest(fd: int, path: str) -> bytes:
    parts = []
    size = 0
    while part := os.read(fd, 1 << 20):
        parts.append(part)
        size += len(part)
        if size > SMALL_FILE_MAXIMUM:
            logger.error("a file is too large for what it should be, and not read: %s", path)
            raise PathNotFound(driver=NAME, path=path)
    return b"".join(parts)


def _file_info(path: str, status: os.stat_result) -> FileInfo:
    if not stat.S_ISREG(status.st_mode):
        raise PathNotFound(driver=NAME, path=path)
    modified_at = datetime.fromtimestamp(status.st_mtime, UTC)
    return FileInfo(path, status.st_size, modified_at)
