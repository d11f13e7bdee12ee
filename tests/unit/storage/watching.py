"""A driver that says what it is asked for, and those built on it."""

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager

from typing_extensions import override

from alauda_registry.storage.driver import (
    Capacity,
    FileInfo,
    FileReader,
    FileWriter,
    Move,
    Stage,
    StorageDriver,
    flatten,
)

Call = tuple[str, str]
"""An operation and the path, or the name, it was asked for."""


class WatchedDriver(StorageDriver):
    """Passes every call on to another driver and remembers it.

    Attributes:
        calls: What was asked for, in its order.
    """

    def __init__(self, driver: StorageDriver) -> None:
        self.inner = driver
        self.calls: list[Call] = []

    def take(self) -> list[Call]:
        """Return the calls since the last time."""
        taken, self.calls = self.calls, []
        return taken

    async def meet(self, operation: str, path: str) -> None:
        """Remember a call before it is passed on; subclasses do more."""
        self.calls.append((operation, path))

    @property
    @override
    def name(self) -> str:
        return self.inner.name

    @override
    async def stat(self, path: str) -> FileInfo:
        await self.meet("stat", path)
        return await self.inner.stat(path)

    @override
    async def read(self, path: str) -> bytes:
        await self.meet("read", path)
        return await self.inner.read(path)

    @override
    async def open(self, path: str) -> FileReader:
        await self.meet("open", path)
        return await self.inner.open(path)

    @override
    async def publish(self, *stages: Stage) -> None:
        # The contract promises no more than one step after the other.
        for step in flatten(stages):
            path = step.target if isinstance(step, Move) else step.path
            await self.meet(type(step).__name__.lower(), path)
            await self.inner.publish(step)

    @override
    async def append(self, path: str, *, create: bool, wait: float) -> FileWriter:
        await self.meet("append", path)
        return WatchedWriter(await self.inner.append(path, create=create, wait=wait), self, path)

    @override
    async def delete(self, path: str, *, durable: bool = True) -> None:
        await self.meet("delete", path)
        await self.inner.delete(path, durable=durable)

    @override
    async def names(self, path: str) -> list[str]:
        await self.meet("names", path)
        return await self.inner.names(path)

    @override
    async def walk(self, path: str, *, start_after: str = "") -> AsyncGenerator[FileInfo, None]:
        await self.meet("walk", path)
        async for info in self.inner.walk(path, start_after=start_after):
            yield info

    @override
    @asynccontextmanager
    async def lock(self, name: str, *, exclusive: bool, wait: float) -> AsyncGenerator[None, None]:
        await self.meet("lock", name)
        async with self.inner.lock(name, exclusive=exclusive, wait=wait):
            yield

    @override
    async def fingerprint(self, path: str) -> str | None:
        await self.meet("fingerprint", path)
        return await self.inner.fingerprint(path)

    @override
    async def check(self, *, write: bool) -> None:
        await self.meet("check", "write" if write else "read")
        await self.inner.check(write=write)

    @override
    async def capacity(self) -> Capacity | None:
        await self.meet("capacity", "/")
        return await self.inner.capacity()

    @override
    async def aclose(self) -> None:
        await self.inner.aclose()


class WatchedWriter(FileWriter):
    """Passes every call on to another writer and tells the driver it belongs to."""

    def __init__(self, writer: FileWriter, driver: WatchedDriver, path: str) -> None:
        self._writer = writer
        self._driver = driver
        self._path = path

    @property
    @override
    def offset(self) -> int:
        return self._writer.offset

    @override
    async def write(
        self, chunks: Sequence[bytes], alongside: Callable[[Sequence[bytes]], None] | None = None
    ) -> None:
        await self._driver.meet("write to", self._path)
        await self._writer.write(chunks, alongside)

    @override
    async def read(self, offset: int, length: int) -> bytes:
        await self._driver.meet("read back", self._path)
        return await self._writer.read(offset, length)

    @override
    async def truncate(self, size: int) -> None:
        await self._driver.meet("truncate", self._path)
        await self._writer.truncate(size)

    @override
    async def sync(self, note: bytes = b"") -> None:
        await self._driver.meet("sync", self._path)
        await self._writer.sync()

    @override
    async def close(self) -> None:
        await self._writer.close()


class ImpatientDriver(WatchedDriver):
    """Waits for nobody."""

    @override
    async def append(self, path: str, *, create: bool, wait: float) -> FileWriter:
        return await super().append(path, create=create, wait=0)


class FailingDriver(WatchedDriver):
    """Raises an error in place of the calls that a predicate picks.

    Attributes:
        error: What is raised instead of the call it is returned for, or None.
    """

    def __init__(self, driver: StorageDriver) -> None:
        super().__init__(driver)
        self.error: Callable[[str, str], Exception | None] = lambda operation, path: None

    @override
    async def meet(self, operation: str, path: str) -> None:
        await super().meet(operation, path)
        error = self.error(operation, path)
        if error is not None:
            raise error


class DawdlingDriver(WatchedDriver):
    """Lets others go first before each call, as a die says.

    Args:
        driver: What it passes the calls on to.
        die: Decides how many others.
        look: Called after each delay, right before the call is passed on.
    """

    def __init__(
        self, driver: StorageDriver, die: random.Random, look: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(driver)
        self._die = die
        self._look = look

    @override
    async def meet(self, operation: str, path: str) -> None:
        await super().meet(operation, path)
        for _ in range(self._die.choice([0, 0, 1, 2, 5])):
            await asyncio.sleep(0)
        self._look()


def writes(calls: Sequence[Call]) -> list[Call]:
    """Return those of the calls that change anything, apart from locks."""
    changes = {"write", "move", "delete", "append", "write to", "truncate"}
    return [call for call in calls if call[0] in changes]
