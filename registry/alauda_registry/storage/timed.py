"""Tells how long a driver took and how it failed, so that no driver has to.

The operations carry the names of distribution's driver methods, which dashboards and
alerts already know.
"""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from datetime import timedelta
from typing import Any, Protocol, TypeVar

from typing_extensions import override

from alauda_registry.storage.driver import (
    Capacity,
    DriverError,
    FileInfo,
    FileReader,
    FileWriter,
    ObjectStore,
    ObjectWriter,
    PathNotFound,
    Snapshot,
    Stage,
    StorageDriver,
)

T = TypeVar("T")

Observer = Callable[[str, float, str | None], None]
"""Takes the operation, its duration in seconds, and the code of its error if it had one."""


class Timed(Protocol):
    """Waits for a call of the driver's and tells the observer about it."""

    def __call__(self, operation: str, call: Awaitable[T], /) -> Coroutine[Any, Any, T]:
        """Wait for the call, which is one of an operation of distribution's."""
        ...


class TimedDriver(StorageDriver):
    """Passes every call on to another driver and tells an observer about it."""

    def __init__(self, driver: StorageDriver, observe: Observer) -> None:
        self._driver = driver
        self._observe = observe
        objects = driver.objects
        self._objects = None if objects is None else _TimedObjects(objects, self._timed)

    @property
    @override
    def name(self) -> str:
        return self._driver.name

    @property
    @override
    def objects(self) -> ObjectStore | None:
        return self._objects

    @override
    async def stat(self, path: str) -> FileInfo:
        return await self._timed("StorageDriver.Stat", self._driver.stat(path))

    @override
    async def read(self, path: str) -> bytes:
        return await self._timed("StorageDriver.GetContent", self._driver.read(path))

    @override
    async def open(self, path: str) -> FileReader:
        return await self._timed("StorageDriver.Reader", self._driver.open(path))

    @override
    async def publish(self, *stages: Stage) -> None:
        await self._timed("StorageDriver.PutContent", self._driver.publish(*stages))

    @override
    async def append(self, path: str, *, create: bool, wait: float) -> FileWriter:
        call = self._driver.append(path, create=create, wait=wait)
        return _TimedWriter(await self._timed("StorageDriver.Writer", call), self._timed)

    @override
    async def delete(self, path: str, *, durable: bool = True) -> None:
        call = self._driver.delete(path, durable=durable)
        await self._timed("StorageDriver.Delete", call)

    @override
    async def names(self, path: str) -> list[str]:
        return await self._timed("StorageDriver.List", self._driver.names(path))

    @override
    def walk(self, path: str, *, start_after: str = "") -> AsyncGenerator[FileInfo, None]:
        return self._driver.walk(path, start_after=start_after)

    @override
    def lock(self, name: str, *, exclusive: bool, wait: float) -> AbstractAsyncContextManager[None]:
        return self._driver.lock(name, exclusive=exclusive, wait=wait)

    @override
    async def fingerprint(self, path: str) -> str | None:
        return await self._driver.fingerprint(path)

    @override
    async def check(self, *, write: bool) -> None:
        await self._timed("StorageDriver.Check", self._driver.check(write=write))

    @override
    async def capacity(self) -> Capacity | None:
        return await self._driver.capacity()

    @override
    async def aclose(self) -> None:
        await self._driver.aclose()

    async def _timed(self, operation: str, call: Awaitable[T]) -> T:
        start = time.perf_counter()
        try:
            result = await call
        except PathNotFound:
            # An ordinary answer: most of what is asked for is not there.
            self._observe(operation, time.perf_counter() - start, None)
            raise
        except DriverError as error:
            self._observe(operation, time.perf_counter() - start, error.code)
            raise
        self._observe(operation, time.perf_counter() - start, None)
        return result


class _TimedWriter(FileWriter):
    """Times what a writer does: it is there that most of the trouble of a full disk shows."""

    def __init__(self, writer: FileWriter, timed: Timed) -> None:
        self._writer = writer
        self._timed = timed

    @property
    @override
    def offset(self) -> int:
        return self._writer.offset

    @override
    def write(
        self, chunks: Sequence[bytes], alongside: Callable[[Sequence[bytes]], None] | None = None
    ) -> Coroutine[Any, Any, None]:
        return self._timed("StorageDriver.Writer", self._writer.write(chunks, alongside))

    @override
    async def read(self, offset: int, length: int) -> bytes:
        return await self._timed("StorageDriver.Reader", self._writer.read(offset, length))

    @override
    async def truncate(self, size: int) -> None:
        await self._timed("StorageDriver.Writer", self._writer.truncate(size))

    @override
    async def sync(self, note: bytes = b"") -> None:
        await self._timed("StorageDriver.Writer", self._writer.sync(note))

    @override
    async def close(self) -> None:
        await self._writer.close()


class _TimedObjects(ObjectStore):
    """Times what goes straight to the objects of a bucket, as what comes closest to it elsewhere.

    Waiting for a lock to be let go is left out, as it is for all drivers.
    """

    def __init__(self, objects: ObjectStore, timed: Timed) -> None:
        self._objects = objects
        self._timed = timed

    @property
    @override
    def redirects(self) -> bool:
        return self._objects.redirects

    @override
    async def create(self, path: str) -> ObjectWriter:
        call = self._objects.create(path)
        return _TimedObjectWriter(await self._timed("StorageDriver.Writer", call), self._timed)

    @override
    async def write_new(self, path: str, content: bytes) -> bool:
        call = self._objects.write_new(path, content)
        return await self._timed("StorageDriver.PutContent", call)

    @override
    async def discard(self, path: str) -> None:
        await self._timed("StorageDriver.Delete", self._objects.discard(path))

    @override
    async def snapshot(self, path: str) -> Snapshot:
        call = self._objects.snapshot(path)
        return _TimedSnapshot(await self._timed("StorageDriver.Reader", call), self._timed)

    @override
    async def page(self, path: str, *, start_after: str = "") -> tuple[list[FileInfo], bool]:
        call = self._objects.page(path, start_after=start_after)
        return await self._timed("StorageDriver.List", call)

    @override
    async def pages(
        self, path: str, *, start_after: str = ""
    ) -> AsyncGenerator[tuple[list[FileInfo], bool], None]:
        async with aclosing(self._objects.pages(path, start_after=start_after)) as pages:
            while (page := await self._timed("StorageDriver.List", anext(pages, None))) is not None:
                yield page

    @override
    async def folders(
        self, path: str, *, start_after: str = ""
    ) -> AsyncGenerator[tuple[list[str], bool], None]:
        async with aclosing(self._objects.folders(path, start_after=start_after)) as pages:
            while (page := await self._timed("StorageDriver.List", anext(pages, None))) is not None:
                yield page

    @override
    async def url(self, path: str, method: str) -> str:
        return await self._timed("StorageDriver.URLFor", self._objects.url(path, method))

    @override
    async def settled(self, name: str, *, wait: float) -> str:
        return await self._objects.settled(name, wait=wait)

    @override
    async def drop_unfinished(self, path: str, maximum_age: timedelta) -> int:
        call = self._objects.drop_unfinished(path, maximum_age)
        return await self._timed("StorageDriver.Delete", call)


class _TimedObjectWriter(ObjectWriter):
    """Times what a writer of an object does."""

    def __init__(self, writer: ObjectWriter, timed: Timed) -> None:
        self._writer = writer
        self._timed = timed

    @property
    @override
    def offset(self) -> int:
        return self._writer.offset

    @override
    def write(
        self, chunks: Sequence[bytes], alongside: Callable[[Sequence[bytes]], None] | None = None
    ) -> Coroutine[Any, Any, None]:
        return self._timed("StorageDriver.Writer", self._writer.write(chunks, alongside))

    @override
    async def commit(self) -> None:
        await self._timed("StorageDriver.Writer", self._writer.commit())

    @override
    async def abort(self) -> None:
        await self._writer.abort()


class _TimedSnapshot(Snapshot):
    """Times what is done with an upload that has ended."""

    def __init__(self, snapshot: Snapshot, timed: Timed) -> None:
        self._snapshot = snapshot
        self._timed = timed

    @property
    @override
    def size(self) -> int:
        return self._snapshot.size

    @property
    @override
    def note(self) -> bytes:
        return self._snapshot.note

    @override
    def stream(self) -> AsyncGenerator[bytes, None]:
        return self._snapshot.stream()

    @override
    async def copy(self, target: str) -> None:
        await self._timed("StorageDriver.Move", self._snapshot.copy(target))

    @override
    async def delete(self, *others: str) -> None:
        await self._timed("StorageDriver.Delete", self._snapshot.delete(*others))
