"""A dictionary; for tests and trials. Everything is gone when the process ends.

It keeps the same contract as the drivers that keep bytes for good, except that there
is nothing to survive and nobody else to share with.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from typing_extensions import override

from alauda_registry.storage.driver import (
    Busy,
    Capacity,
    Ensure,
    FileInfo,
    FileReader,
    FileWriter,
    InvalidPath,
    Move,
    PathNotFound,
    Stage,
    StorageDriver,
    Write,
    flatten,
    is_component,
    require_valid,
)

NAME = "inmemory"
STREAM_CHUNK = 512 * 1024


class _Lock:
    """A lock with shared and exclusive holders; waiters poll, as they do on a disk."""

    def __init__(self) -> None:
        self.shared = 0
        self.exclusive = False

    def try_acquire(self, *, exclusive: bool) -> bool:
        if self.exclusive or (exclusive and self.shared):
            return False
        if exclusive:
            self.exclusive = True
        else:
            self.shared += 1
        return True

    def release(self, *, exclusive: bool) -> None:
        if exclusive:
            self.exclusive = False
        else:
            self.shared -= 1


@dataclass(eq=False)
class _File:
    content: bytearray = field(default_factory=bytearray)
    modified_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    lock: _Lock = field(default_factory=_Lock)


class InMemoryDriver(StorageDriver):
    """Keeps files in a dictionary from path to content."""

    def __init__(self) -> None:
        self._files: dict[str, _File] = {}
        self._locks: dict[str, _Lock] = {}
        self._changes = 0

    @property
    @override
    def name(self) -> str:
        return NAME

    @override
    async def stat(self, path: str) -> FileInfo:
        file = self._file(path)
        return FileInfo(path, len(file.content), file.modified_at)

    @override
    async def read(self, path: str) -> bytes:
        return bytes(self._file(path).content)

    @override
    async def open(self, path: str) -> FileReader:
        return _Reader(self._file(path).content)

    @override
    async def publish(self, *stages: Stage) -> None:
        steps = flatten(stages)
        for step in steps:
            if isinstance(step, Move):
                self._file(step.source)
        for step in steps:
            match step:
                case Write(path, content):
                    self._put(path, _File(bytearray(content)))
                case Move(source, target):
                    require_valid(target, driver=NAME)
                    file = self._file(source)
                    del self._files[source]
                    self._put(target, file)
                case Ensure(path):
                    self._file(path)

    @override
    async def append(self, path: str, *, create: bool, wait: float) -> FileWriter:
        while True:
            if create and path not in self._files:
                self._put(path, _File())
            file = self._file(path)
            await _acquire(file.lock, path, exclusive=True, wait=wait)
            if self._files.get(path) is file:
                return _Writer(file)
            file.lock.release(exclusive=True)

    @override
    async def delete(self, path: str, *, durable: bool = True) -> None:
        require_valid(path, driver=NAME)
        below = f"{path}/"
        doomed = [known for known in self._files if known == path or known.startswith(below)]
        if not doomed:
            raise PathNotFound(driver=NAME, path=path)
        for known in doomed:
            del self._files[known]
        self._changes += 1

    @override
    async def names(self, path: str) -> list[str]:
        require_valid(path, driver=NAME)
        below = f"{path}/"
        found = {
            known[len(below) :].partition("/")[0]
            for known in self._files
            if known.startswith(below)
        }
        if not found:
            raise PathNotFound(driver=NAME, path=path)
        return sorted(found)

    @override
    async def walk(self, path: str, *, start_after: str = "") -> AsyncGenerator[FileInfo, None]:
        require_valid(path, driver=NAME)
        below = f"{path}/"
        paths = (known for known in self._files if known.startswith(below) and known > start_after)
        for known in sorted(paths):
            if known in self._files:
                yield await self.stat(known)

    @override
    @asynccontextmanager
    async def lock(self, name: str, *, exclusive: bool, wait: float) -> AsyncGenerator[None, None]:
        if not is_component(name):
            raise InvalidPath(driver=NAME, path=name)
        lock = self._locks.setdefault(name, _Lock())
        await _acquire(lock, name, exclusive=exclusive, wait=wait)
        try:
            yield
        finally:
            lock.release(exclusive=exclusive)

    @override
    async def fingerprint(self, path: str) -> str | None:
        await self.names(path)
        return str(self._changes)

    @override
    async def check(self, *, write: bool) -> None:
        return

    @override
    async def capacity(self) -> Capacity | None:
        return None

    @override
    async def aclose(self) -> None:
        return

    def _file(self, path: str) -> _File:
        require_valid(path, driver=NAME)
        try:
            return self._files[path]
        except KeyError:
            raise PathNotFound(driver=NAME, path=path) from None

    def _put(self, path: str, file: _File) -> None:
        require_valid(path, driver=NAME)
        self._files[path] = file
        self._changes += 1


class _Reader(FileReader):
    def __init__(self, content: bytearray) -> None:
        self._content = content
        self._size = len(content)

    @property
    @override
    def size(self) -> int:
        return self._size

    @override
    def fileno(self) -> int | None:
        return None

    @override
    async def stream(
        self, offset: int = 0, length: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        end = self._size if length is None else min(self._size, offset + length)
        for start in range(offset, end, STREAM_CHUNK):
            yield bytes(self._content[start : min(start + STREAM_CHUNK, end)])

    @override
    def close(self) -> None:
        return


class _Writer(FileWriter):
    def __init__(self, file: _File) -> None:
        self._file = file
        self._open = True

    @property
    @override
    def offset(self) -> int:
        return len(self._file.content)

    @override
    async def write(
        self, chunks: Sequence[bytes], alongside: Callable[[Sequence[bytes]], None] | None = None
    ) -> None:
        for chunk in chunks:
            self._file.content += chunk
        if alongside is not None:
            alongside(chunks)
        self._file.modified_at = datetime.now(UTC)

    @override
    async def read(self, offset: int, length: int) -> bytes:
        return bytes(self._file.content[offset : offset + length])

    @override
    async def truncate(self, size: int) -> None:
        del self._file.content[size:]

    @override
    async def sync(self, note: bytes = b"") -> None:
        return

    @override
    async def close(self) -> None:
        if self._open:
            self._open = False
            self._file.lock.release(exclusive=True)


async def _acquire(lock: _Lock, path: str, *, exclusive: bool, wait: float) -> None:
    deadline = asyncio.get_running_loop().time() + wait
    while not lock.try_acquire(exclusive=exclusive):
        if asyncio.get_running_loop().time() >= deadline:
            raise Busy(driver=NAME, path=path)
        await asyncio.sleep(0.002)
