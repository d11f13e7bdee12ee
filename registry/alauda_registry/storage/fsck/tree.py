"""Reading a whole tree: many files at a time, and contents along with names.

The driver contract has what requests need, one file at a time. A check reads everything there
is, so it has its own way in, with two sides: one over any driver, and one straight to a directory
(:mod:`~alauda_registry.storage.fsck.directory`), which is many times as fast. The same tests
hold both to the same answers.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing
from typing import Any, Protocol, TypeVar

from typing_extensions import override

from alauda_registry.oci.digest import Digest
from alauda_registry.storage import paths
from alauda_registry.storage.driver import DriverError, FileInfo, PathNotFound, StorageDriver
from alauda_registry.storage.fsck.files import BATCH, LINK_MAXIMUM, File, Outcome, is_read
from alauda_registry.storage.threads import run_blocking

MANIFEST_MAXIMUM = 64 * 1024 * 1024
"""More is read of nothing that has to be in memory at once."""

_READS_AT_ONCE = 32
_INLINE_BYTES = 256 * 1024

S = TypeVar("S")
T = TypeVar("T")


class Tree(Protocol):
    """Everything below the root of a storage.

    Attributes:
        jobs: How many calls of :meth:`verify` get further at the same time.
    """

    jobs: int = 1

    def walk(self, folder: str) -> AsyncGenerator[Sequence[File], None]:
        """Yield the files below a folder in batches, and those that can't be looked at.

        Folders are walked in byte order, so that the files of a repository come together; what
        is within ``_layers`` and its like may come in any order. Links and entries of
        the referrers index come with what they hold.
        """
        ...

    async def examine(
        self, digests: Sequence[Digest], look: Callable[[Digest, bytes | None], T]
    ) -> list[T]:
        """Call a function with the content of each manifest, and return what it says.

        Args:
            digests: Which manifests.
            look: Takes a digest and its content: None when there is none. It may be called in
                several threads at once.
        """
        ...

    async def verify(
        self, digests: Sequence[Digest], advance: Callable[[int], None]
    ) -> list[tuple[Digest, Outcome]]:
        """Hash blobs, and return those that do not match their digests.

        Args:
            digests: Which blobs.
            advance: Told how many bytes were read, again and again; in any thread.
        """
        ...

    def interrupt(self) -> None:
        """Let what is under way end as soon as it can. Nothing can be asked for after that."""
        ...


class DriverTree(Tree):
    """Reads a tree through its driver."""

    def __init__(self, driver: StorageDriver) -> None:
        self._driver = driver

    @override
    async def walk(self, folder: str) -> AsyncGenerator[Sequence[File], None]:
        batch: list[FileInfo] = []
        async with aclosing(self._driver.walk(folder)) as found:
            async for info in found:
                batch.append(info)
                if len(batch) == BATCH:
                    yield await self._read_all(batch)
                    batch = []
        yield await self._read_all(batch)

    @override
    async def examine(
        self, digests: Sequence[Digest], look: Callable[[Digest, bytes | None], T]
    ) -> list[T]:
        async def examine_one(digest: Digest) -> T:
            try:
                content = await read_manifest(self._driver, digest)
            except DriverError:
                content = None
            return look(digest, content)

        return await _at_once(examine_one, digests)

    @override
    async def verify(
        self, digests: Sequence[Digest], advance: Callable[[int], None]
    ) -> list[tuple[Digest, Outcome]]:
        found: list[tuple[Digest, Outcome]] = []
        for digest in digests:
            outcome = await self._verify(digest, advance)
            if outcome is not Outcome.INTACT:
                found.append((digest, outcome))
        return found

    @override
    def interrupt(self) -> None:
        """Nothing: what is cancelled ends between two pieces."""

    async def _verify(self, digest: Digest, advance: Callable[[int], None]) -> Outcome:
        try:
            return await verify(self._driver, paths.blob_data(digest), digest, advance)
        except PathNotFound:
            return Outcome.GONE
        except DriverError:
            return Outcome.UNREADABLE

    async def _read_all(self, batch: Sequence[FileInfo]) -> list[File]:
        files = await _at_once(self._read, batch)
        return [file for file in files if file is not None]

    async def _read(self, info: FileInfo) -> File | None:
        modified = info.modified_at.timestamp()
        if not is_read(info.path):
            return File(info.path, info.size, modified)
        try:
            return File(
                info.path, info.size, modified, await read_beginning(self._driver, info.path)
            )
        except PathNotFound:
            return None
        except DriverError as error:
            return File(info.path, info.size, modified, None, str(error))


async def read_beginning(driver: StorageDriver, path: str) -> bytes:
    """Return what a link holds, or the beginning of what is too long to be one.

    Raises:
        PathNotFound: There is no such file.
        DriverError: It can't be read.
    """
    reader = await driver.open(path)
    try:
        async with aclosing(reader.stream(0, LINK_MAXIMUM)) as chunks:
            return b"".join([chunk async for chunk in chunks])
    finally:
        reader.close()


async def read_manifest(driver: StorageDriver, digest: Digest) -> bytes | None:
    """Return a manifest's bytes, or None where they are more than any manifest has.

    Raises:
        PathNotFound: They are not there.
        DriverError: They can't be read.
    """
    reader = await driver.open(paths.blob_data(digest))
    try:
        if reader.size > MANIFEST_MAXIMUM:
            return None
        async with aclosing(reader.stream()) as chunks:
            return b"".join([chunk async for chunk in chunks])
    finally:
        reader.close()


async def verify(
    driver: StorageDriver, path: str, digest: Digest, advance: Callable[[int], None]
) -> Outcome:
    """Hash a file, and compare it with a digest.

    Raises:
        PathNotFound: There is no such file.
        DriverError: It can't be read.
    """
    hasher = digest.algorithm.hasher()
    reader = await driver.open(path)
    try:
        async with aclosing(reader.stream()) as chunks:
            async for chunk in chunks:
                if len(chunk) > _INLINE_BYTES:
                    await run_blocking(None, hasher.update, chunk)
                else:
                    hasher.update(chunk)
                advance(len(chunk))
    finally:
        reader.close()
    return Outcome.INTACT if hasher.hexdigest() == digest.encoded else Outcome.CORRUPT


async def _at_once(call: Callable[[S], Coroutine[Any, Any, T]], items: Sequence[S]) -> list[T]:
    """Call a function for each of the items, for some at a time, and return what it returns."""
    results: list[T] = []
    for start in range(0, len(items), _READS_AT_ONCE):
        results += await asyncio.gather(*map(call, items[start : start + _READS_AT_ONCE]))
    return results
