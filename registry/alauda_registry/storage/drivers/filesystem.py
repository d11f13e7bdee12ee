"""A directory on a disk: write to scratch, sync, rename, sync the directory.

Small reads are done on the event loop, where a thread hop would cost more than the
read; whatever syncs, lists or moves many bytes runs in the driver's own threads. Paths
are confined to the root by :class:`~alauda_registry.storage.directory.rooted.RootedDirectory`.
"""

import asyncio
import errno
import fcntl
import hashlib
import logging
import os
import re
import stat
import struct
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar, TypeVarTuple

from typing_extensions import override

from alauda_registry.storage.directory import publishing
from alauda_registry.storage.directory.attachment import Attachment
from alauda_registry.storage.directory.durability import SyncFailed
from alauda_registry.storage.directory.open_files import (
    FULL,
    WITHOUT_LOCKS,
    OpenReader,
    OpenWriter,
    Translator,
)
from alauda_registry.storage.directory.publishing import Publisher
from alauda_registry.storage.directory.rooted import LOCKS, RootedDirectory
from alauda_registry.storage.driver import (
    Busy,
    Capacity,
    DriverError,
    FileInfo,
    FileReader,
    FileWriter,
    InvalidPath,
    Move,
    PathNotFound,
    Stage,
    StorageDriver,
    Unreachable,
    Write,
    flatten,
    is_component,
    require_valid,
)
from alauda_registry.storage.threads import run_blocking

logger = logging.getLogger(__name__)

NAME = "filesystem"
INLINE_DIRECTORY_BYTES = 32 * 1024
"""Up to this size a directory's names are read faster than a thread is found for it."""

SMALL_FILE_MAXIMUM = 64 * 1024 * 1024
_FINGERPRINT_AGE_NS = 2_000_000_000
_IS_SUPERUSER = os.geteuid() == 0
_LOCK_POLL_SECONDS = (0.001, 0.05)
_SWEEP_SECONDS = 3600.0
_TRIES = 2
"""How often what failed to be read is read again, where that may help."""

_SILLY_NAME = re.compile(r"\.nfs[0-9A-Fa-f]{8,}")

Ts = TypeVarTuple("Ts")
T = TypeVar("T")


def capacity_of(
    status: os.statvfs_result, reserve: Callable[[int], int] = lambda size: 0
) -> Capacity | None:
    """Return what a file system says of itself; None where that is nothing.

    These are the numbers that the kubelet's metrics of a volume show, too. What only the
    superuser may use does not count as free.

    Args:
        status: What it says.
        reserve: From the size to what is kept for deletes.
    """
    size = status.f_blocks * status.f_frsize
    if size == 0:
        return None
    return Capacity(size, status.f_bavail * status.f_frsize, reserve(size))


class FilesystemDriver(StorageDriver):
    """Keeps files in a directory.

    Args:
        root: The directory, made when it is missing.
        threads: How many blocking calls may be under way at once.
        read_only: Whether nothing may be written, not even the driver's own files.
        openat2: Whether to use the system call of that name where the kernel has it.
        name: The driver's name.
        advice: What clients are told when the storage is full; see :class:`OutOfSpace`.
        volume: The identity that the volume must have; the directory is not made then.

    Raises:
        OSError: The directory can't be made or opened, or is not fit to be written to. One that
            is full or mounted read-only is: what it holds can be served.
    """

    def __init__(
        self,
        root: Path,
        *,
        threads: int = 16,
        read_only: bool = False,
        openat2: bool = True,
        name: str = NAME,
        advice: str | None = None,
        volume: str | None = None,
    ) -> None:
        self._name = name
        self._as_driver_error = Translator(name, advice)
        self._root = RootedDirectory(root, openat2=openat2, volume=volume, accept=self._accept)
        self._publisher = Publisher(self._root)
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="storage")
        # Whether the storage answers must not depend on how busy it is.
        self._checker = ThreadPoolExecutor(1, thread_name_prefix="storage-check")
        self._attachment = Attachment(self._root, name, self._checker, self._publisher.forget)
        self._swept_at = time.monotonic()
        self._lag_ns = 0
        if read_only:
            return
        try:
            self._root.prepare()
            self._require_locks()
        except OSError as error:
            if error.errno not in FULL and error.errno != errno.EROFS:
                self._root.close()
                raise

    @property
    @override
    def name(self) -> str:
        return self._name

    @property
    def volume(self) -> str | None:
        """The volume's identity; None where none could be written down."""
        return self._root.volume

    @override
    async def stat(self, path: str) -> FileInfo:
        require_valid(path, driver=self._name)
        if self._attachment.spoilt:
            await self._drop_spoilt(path)
        failures = 0
        while True:
            try:
                fd = self._root.open(path, os.O_PATH)
                try:
                    return self._file_info(path, os.fstat(fd))
                finally:
                    os.close(fd)
            except OSError as error:
                failures = await self._try_again(error, path, failures)

    @override
    async def read(self, path: str) -> bytes:
        require_valid(path, driver=self._name)
        failures = 0
        while True:
            try:
                fd = self._root.open(path, os.O_RDONLY | os.O_NONBLOCK)
                try:
                    content = os.read(fd, 4096)
                    if 0 < len(content) < 4096:
                        return content
                    # Nothing, or without an end, is also what a pipe or a device gives.
                    if not stat.S_ISREG(os.fstat(fd).st_mode):
                        raise PathNotFound(driver=self._name, path=path)
                    if not content:
                        return content
                    rest = await run_blocking(self._executor, self._read_rest, fd, path)
                    return content + rest
                except BlockingIOError as pipe:
                    raise PathNotFound(driver=self._name, path=path) from pipe
                finally:
                    os.close(fd)
            except OSError as error:
                failures = await self._try_again(error, path, failures)

    @override
    async def open(self, path: str) -> FileReader:
        require_valid(path, driver=self._name)
        flags = os.O_RDONLY | os.O_NONBLOCK
        failures = 0
        while True:
            try:
                fd = self._root.open(path, flags)
                try:
                    return OpenReader(
                        fd,
                        path,
                        self._executor,
                        self._as_driver_error,
                        lambda: self._root.open(path, flags),
                    )
                except BaseException:
                    os.close(fd)
                    raise
            except OSError as error:
                failures = await self._try_again(error, path, failures)

    @override
    async def publish(self, *stages: Stage) -> None:
        steps = flatten(stages)
        for step in steps:
            for path in (step.source, step.target) if isinstance(step, Move) else (step.path,):
                require_valid(path, driver=self._name)
        await self._attachment.require("/")
        sources = [step.source for step in steps if isinstance(step, Move)]
        for source in sources:
            self._attachment.require_written_here(source)
            if await self._drop_spoilt(source):
                lost = Unreachable("syncing it failed", driver=self._name, path=source)
                lost.loses_bytes = True
                raise lost
        writes = [step for step in steps if isinstance(step, Write)]
        if writes:
            self._require_room(writes[0].path, sum(len(write.content) for write in writes))
        with self._attachment.unbroken("/"):
            await self._run(self._publish, stages, sources)

    def _publish(self, stages: Sequence[Stage], sources: Sequence[str]) -> None:
        try:
            self._publisher.publish(stages)
        except SyncFailed:
            # Here, as nobody hears of it when the request was cancelled meanwhile.
            self._attachment.spoilt.update(sources)
            raise

    @override
    async def append(self, path: str, *, create: bool, wait: float) -> FileWriter:
        require_valid(path, driver=self._name)
        flags = os.O_RDWR | (os.O_CREAT if create else 0)
        await self._attachment.require(path)
        await self._drop_spoilt(path)
        if create:
            self._require_room(path, 0)
        while True:
            generation = self._root.generation
            try:
                fd = self._root.open_file(path, flags)
            except OSError as error:
                raise await self._after(error, path) from error
            with ExitStack() as opened:
                opened.callback(_let_go, fd)
                await self._acquire(fd, path, exclusive=True, wait=wait)
                try:
                    if os.fstat(fd).st_nlink > 1:
                        # A power cut kept a name that a rename had taken away, or somebody made
                        # a copy of links: the bytes belong to another file, too.
                        await self._run(lambda: self._root.remove(path, durable=False))
                        continue
                    if self._root.is_at(path, fd):
                        hold = self._attachment.begin_writing(path, generation)
                        writer = OpenWriter(
                            fd,
                            path,
                            self._executor,
                            self._as_driver_error,
                            self._require_room,
                            hold,
                        )
                        opened.pop_all()
                        return writer
                except OSError as error:
                    raise await self._after(error, path) from error
            # Committed or cancelled by whoever held it; without `create` it is gone.

    @override
    async def delete(self, path: str, *, durable: bool = True) -> None:
        require_valid(path, driver=self._name)
        await self._attachment.require(path)
        with self._attachment.unbroken(path):
            await self._run(lambda: self._root.remove(path, durable=durable), path=path)
        self._attachment.forget_spoilt(path)

    @override
    async def names(self, path: str) -> list[str]:
        require_valid(path, driver=self._name)
        failures = 0
        while True:
            try:
                with self._root.directory(path) as fd:
                    # A directory's size tells roughly how many names it has.
                    if os.fstat(fd).st_size <= INLINE_DIRECTORY_BYTES:
                        return _names(fd)
                    return await run_blocking(self._executor, _names, fd)
            except OSError as error:
                failures = await self._try_again(error, path, failures)

    @override
    async def walk(self, path: str, *, start_after: str = "") -> AsyncGenerator[FileInfo, None]:
        require_valid(path, driver=self._name)
        try:
            entries = await self._scan(path, start_after)
        except PathNotFound:
            return
        stack = [entries]
        while stack:
            if not stack[-1]:
                stack.pop()
                continue
            entry_path, status = stack[-1].pop()
            if not stat.S_ISDIR(status.st_mode):
                yield self._file_info(entry_path, status)
                continue
            with suppress(PathNotFound):
                stack.append(await self._scan(entry_path, start_after))

    @override
    @asynccontextmanager
    async def lock(self, name: str, *, exclusive: bool, wait: float) -> AsyncGenerator[None, None]:
        if not is_component(name):
            raise InvalidPath(driver=self._name, path=name)
        await self._attachment.require(name)
        generation = self._root.generation
        try:
            fd = self._root.open_file(LOCKS, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise await self._after(error, name) from error
        try:
            await self._acquire(fd, name, exclusive=exclusive, wait=wait, byte=_lock_byte(name))
            with self._attachment.held(generation):
                yield
        finally:
            os.close(fd)

    @override
    async def fingerprint(self, path: str) -> str | None:
        require_valid(path, driver=self._name)
        status = await self._directory_status(path)
        # Time stamps move in ticks: what changed in the same tick would not show.
        if time.time_ns() - self._lag_ns - status.st_mtime_ns < _FINGERPRINT_AGE_NS:
            return None
        return f"{status.st_ino}-{status.st_mtime_ns}-{status.st_nlink}"

    async def _directory_status(self, path: str) -> os.stat_result:
        failures = 0
        while True:
            try:
                with self._root.directory(path) as fd:
                    return os.fstat(fd)
            except OSError as error:
                failures = await self._try_again(error, path, failures)

    @override
    async def check(self, *, write: bool) -> None:
        try:
            await run_blocking(self._checker, self._check, write)
        except OSError as error:
            raise self._translate(error, error.filename) from error

    @override
    async def capacity(self) -> Capacity | None:
        try:
            return await run_blocking(self._checker, self._measure)
        except OSError as error:
            raise self._translate(error, "/") from error

    @override
    async def aclose(self) -> None:
        self._executor.shutdown(wait=True)
        self._checker.shutdown(wait=False)
        self._root.close()

    async def _run(self, function: Callable[[*Ts], T], *args: *Ts, path: str | None = None) -> T:
        try:
            return await run_blocking(self._executor, function, *args)
        except OSError as error:
            where = str(error.filename if path is None else path)
            raise await self._after(error, where) from error

    async def _after(self, error: OSError, path: str) -> DriverError:
        """Return the driver's error, after a look whether the root is still there."""
        translated = self._as_driver_error(error, path)
        try:
            await self._attachment.notice(error, path)
        except Unreachable as away:
            away.loses_bytes = translated.loses_bytes
            return away
        return translated

    async def _try_again(self, error: OSError, path: str, failures: int) -> int:
        """Count a failure to read that may not come again; raise what any other means."""
        was_followed = await self._attachment.notice(error, path)
        if failures < _TRIES and (was_followed or error.errno == errno.ESTALE):
            return failures + 1
        raise self._as_driver_error(error, path) from error

    def _translate(self, error: OSError, path: object) -> DriverError:
        """Return the driver's error; what a root that is gone does not have is not absent."""
        translated = self._as_driver_error(error, path)
        if isinstance(translated, PathNotFound) and not self._root.is_same():
            return Unreachable("the root directory is gone", driver=self._name, path=str(path))
        return translated

    async def _drop_spoilt(self, path: str) -> bool:
        """Drop bytes that no disk may have, and tell whether there were any.

        The system has told of it once, and shows them as if nothing had happened. Whoever
        wrote them has deleted them, unless the disk refused that, too.
        """
        if path not in self._attachment.spoilt:
            return False
        try:
            await run_blocking(self._executor, self._truncate, path)
        except FileNotFoundError:
            pass
        except OSError as error:
            translated = await self._after(error, path)
            translated.loses_bytes = True
            raise translated from error
        self._attachment.spoilt.discard(path)
        return True

    def _truncate(self, path: str) -> None:
        fd = self._root.open(path, os.O_WRONLY)
        try:
            os.ftruncate(fd, 0)
        finally:
            os.close(fd)

    def _accept(self, root: int) -> None:
        """Refuse a directory that must not be used. Here any will do."""

    def _require_room(self, path: str, length: int) -> None:
        """Refuse to write where only deletes may. Here nothing is kept for them.

        But what has no bytes yet is refused on a full disk: they would come for nothing.
        """
        if length > 0:
            return
        try:
            status = self._root.statvfs()
            free = status.f_bfree if _IS_SUPERUSER else status.f_bavail
            if free == 0 and status.f_blocks > 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise self._as_driver_error(error, path) from error

    def _measure(self) -> Capacity | None:
        return capacity_of(self._root.statvfs())

    async def _scan(self, path: str, start_after: str) -> list[tuple[str, os.stat_result]]:
        """Return a directory's entries that may hold what comes after, last one first."""
        failures = 0
        while True:
            try:
                return await run_blocking(self._executor, self._scan_once, path, start_after)
            except OSError as error:
                failures = await self._try_again(error, path, failures)

    def _scan_once(self, path: str, start_after: str) -> list[tuple[str, os.stat_result]]:
        found = []
        with self._root.directory(path) as fd, os.scandir(fd) as entries:
            for entry in entries:
                if not _is_shown(entry.name):
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
        self._attachment.look()
        with self._root.directory("/") as fd:
            os.listdir(fd)
        if not write:
            return
        temporary = self._root.scratch_path()
        fd = self._root.open_file(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            publishing.write_all(fd, [bytes(4096)], 0)
            os.fsync(fd)
            # A file server has a clock of its own.
            self._lag_ns = max(0, time.time_ns() - os.fstat(fd).st_mtime_ns)
        finally:
            os.close(fd)
            self._root.remove(temporary, durable=False)
        # Impossible so far, where the disk was full or read-only at the start.
        self._root.identify()
        if time.monotonic() - self._swept_at > _SWEEP_SECONDS:
            self._root.sweep_scratch()
            self._swept_at = time.monotonic()

    def _require_locks(self) -> None:
        """Find out at the start whether there are locks: without them nothing is safe."""
        fd = self._root.open_file(LOCKS, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _lock_request(fcntl.F_WRLCK, 0))
        except OSError as error:
            raise OSError(error.errno, WITHOUT_LOCKS, str(self._root.path)) from error
        finally:
            os.close(fd)

    async def _acquire(
        self, fd: int, path: str, *, exclusive: bool, wait: float, byte: int = 0
    ) -> None:
        """Take an open-file-description lock, which ends with the descriptor, whatever happens.

        Such locks also work between two requests of one process and over NFS.
        """
        kind = fcntl.F_WRLCK if exclusive else fcntl.F_RDLCK
        request = _lock_request(kind, byte)
        deadline = time.monotonic() + wait
        pause, longest = _LOCK_POLL_SECONDS
        while True:
            try:
                fcntl.fcntl(fd, fcntl.F_OFD_SETLK, request)
            except (BlockingIOError, PermissionError) as error:
                if time.monotonic() >= deadline:
                    raise Busy(driver=self._name, path=path) from error
            except OSError as error:
                raise self._as_driver_error(error, path) from error
            else:
                return
            await asyncio.sleep(pause)
            pause = min(pause * 2, longest)

    def _read_rest(self, fd: int, path: str) -> bytes:
        parts = []
        size = 0
        while part := os.read(fd, 1 << 20):
            parts.append(part)
            size += len(part)
            if size > SMALL_FILE_MAXIMUM:
                logger.error("a file is too large for what it should be, and not read: %s", path)
                raise PathNotFound(driver=self._name, path=path)
        return b"".join(parts)

    def _file_info(self, path: str, status: os.stat_result) -> FileInfo:
        if not stat.S_ISREG(status.st_mode):
            raise PathNotFound(driver=self._name, path=path)
        modified_at = datetime.fromtimestamp(status.st_mtime, UTC)
        return FileInfo(path, status.st_size, modified_at)


def _let_go(fd: int) -> None:
    """Close a file that nothing was written to."""
    with suppress(OSError):
        os.close(fd)


def _lock_request(kind: int, byte: int) -> bytes:
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, byte, 1, 0)


def _lock_byte(name: str) -> int:
    """Return the byte of the file of locks that stands for a name.

    One file for all: none has to be made when the disk is full, or cleaned up.
    """
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 2


def _names(fd: int) -> list[str]:
    return sorted(filter(_is_shown, os.listdir(fd)))


def _is_shown(name: str) -> bool:
    """Tell whether a name is a file's or a directory's, and not what NFS makes of a deleted one.

    Its client renames what is deleted while it is open, and deletes it when it is closed.
    """
    return is_component(name) and _SILLY_NAME.fullmatch(name) is None
