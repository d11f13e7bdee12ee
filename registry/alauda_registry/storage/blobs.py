"""The blobs of one repository.

Blob bytes are shared by all repositories. What a repository owns is the link to them,
and only a linked blob exists as far as the repository's clients can tell. A link may
hold another digest than its name says: distribution stores what was pushed by sha512
under its sha256 digest and links it there.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from alauda_registry.oci.digest import Digest
from alauda_registry.oci.errors import BlobUnknown
from alauda_registry.oci.reference import RepositoryName
from alauda_registry.storage import locks, paths
from alauda_registry.storage.content import ContentCache, is_intact, read_link
from alauda_registry.storage.driver import (
    Ensure,
    FileReader,
    Inflow,
    PathNotFound,
    Step,
    StorageDriver,
    Write,
)

SMALL_BLOB = 64 * 1024
"""Blobs up to this size are read whole, verified and cached: configs, mostly."""

_LARGE_ONES = 10_000


class BlobCache(ContentCache[bytes]):
    """The small blobs that were used last, and which ones are known to be larger."""

    def __init__(self, maximum: int) -> None:
        super().__init__(maximum)
        self._large: OrderedDict[Digest, None] = OrderedDict()

    def note_large(self, digest: Digest) -> None:
        """Remember that a blob is not small, which never changes."""
        self._large[digest] = None
        if len(self._large) > _LARGE_ONES:
            self._large.popitem(last=False)

    def is_large(self, digest: Digest) -> bool:
        """Tell whether a blob is known not to be small."""
        return digest in self._large


@dataclass(slots=True)
class Blob:
    """A blob that is open for reading; whoever opened it closes it.

    Attributes:
        digest: The digest it was asked for by.
        size: Its size in bytes.
        content: All of it when it is small, otherwise None.
    """

    digest: Digest
    size: int
    content: bytes | None
    reader: FileReader | None

    def fileno(self) -> int | None:
        """Return a descriptor that the kernel can send from, or None where there is none."""
        return self.reader.fileno() if self.reader is not None else None

    async def stream(
        self, offset: int = 0, length: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Yield ``length`` bytes from ``offset`` on (to the end when None) in large chunks."""
        if self.reader is None:
            content = self.content or b""
            yield content[offset : None if length is None else offset + length]
            return
        async with aclosing(self.reader.stream(offset, length)) as chunks:
            async for chunk in chunks:
                yield chunk

    def inflow(self, offset: int, length: int) -> AsyncGenerator[bytes | Inflow, None] | None:
        """Yield the same as sockets; None where the bytes come from none."""
        return self.reader.inflow(offset, length) if self.reader is not None else None

    def close(self) -> None:
        """Release the blob. Closing twice is harmless."""
        if self.reader is not None:
            self.reader.close()


class BlobStore:
    """Finds, mounts and unlinks the blobs of one repository."""

    def __init__(self, driver: StorageDriver, name: RepositoryName, cache: BlobCache) -> None:
        self._driver = driver
        self._name = name
        self._cache = cache

    async def stat(self, digest: Digest) -> int:
        """Return the size of a blob in bytes.

        Raises:
            BlobUnknown: The repository does not have it.
        """
        target = await self._target(digest)
        content = self._cache.get(target)
        if content is not None:
            return len(content)
        try:
            size = (await self._driver.stat(paths.blob_data(target))).size
        except PathNotFound as missing:
            raise BlobUnknown(digest=str(digest)) from missing
        if size <= SMALL_BLOB:
            # Whoever hears that a blob is here does not push it, so a corrupt one must not be.
            (await self.open(digest)).close()
        return size

    async def cached(self, digest: Digest) -> bytes | None:
        """Return a blob's content if it is in memory; :meth:`open` brings small ones there.

        Raises:
            BlobUnknown: The repository does not have it.
        """
        if self._driver.objects is not None and self._cache.get(digest) is None:
            # The link would be read for nothing, unless it leads to another digest, and again by
            # whoever opens the blob then.
            return None
        return self._cache.get(await self._target(digest))

    async def url(self, digest: Digest, method: str) -> str | None:
        """Return where a client is to fetch a blob itself; None when it gets the bytes here.

        Small blobs it gets here: that is one way less for it, and the answer has our headers.

        Args:
            digest: The blob. Of one that is known to be large, whether its bytes are there is
                left to the client to find out.
            method: GET or HEAD: the URL is good for that alone.

        Raises:
            BlobUnknown: The repository does not have it.
        """
        objects = self._driver.objects
        if objects is None or not objects.redirects:
            return None
        target = await self._target(digest)
        if self._cache.get(target) is not None:
            return None
        data = paths.blob_data(target)
        if not self._cache.is_large(target):
            try:
                size = (await self._driver.stat(data)).size
            except PathNotFound as missing:
                raise BlobUnknown(digest=str(digest)) from missing
            if size <= SMALL_BLOB:
                return None
            self._cache.note_large(target)
        return await objects.url(data, method)

    async def open(self, digest: Digest) -> Blob:
        """Open a blob for reading.

        Raises:
            BlobUnknown: The repository does not have it, or its stored bytes are corrupt.
        """
        target = await self._target(digest)
        content = self._cache.get(target)
        if content is not None:
            return Blob(digest, len(content), content, None)
        try:
            reader = await self._driver.open(paths.blob_data(target))
        except PathNotFound as missing:
            raise BlobUnknown(digest=str(digest)) from missing
        if reader.size > SMALL_BLOB:
            return Blob(digest, reader.size, None, reader)
        try:
            content = b"".join([chunk async for chunk in reader.stream()])
        finally:
            reader.close()
        if not is_intact(content, target):
            raise BlobUnknown(digest=str(digest))
        self._cache.put(target, content)
        return Blob(digest, len(content), content, None)

    async def mount(self, digest: Digest, source: RepositoryName | None) -> bool:
        """Link a blob that another repository has, and tell whether that was possible.

        Args:
            digest: The blob.
            source: The repository that must have it; None accepts it from any.
        """
        target: Digest | None = digest
        if source is not None:
            target = await read_link(self._driver, paths.blob_link(source, digest))
        if target is None:
            return False
        data = paths.blob_data(target)
        try:
            await self._driver.publish(Ensure(data), await self.link_step(digest, target))
        except PathNotFound:
            return False
        return True

    async def link_step(self, digest: Digest, target: Digest) -> Step:
        """Return the step that lets this repository serve a blob under a digest."""
        path = paths.blob_link(self._name, digest)
        if self._driver.objects is None and await read_link(self._driver, path) == target:
            return Ensure(path)
        return Write(path, str(target).encode())

    async def delete(self, digest: Digest) -> None:
        """Remove the link to a blob; its bytes are left to garbage collection.

        Raises:
            BlobUnknown: The repository does not have it.
        """
        async with locks.deleting(self._driver, self._name):
            await self._target(digest)
            try:
                await self._driver.delete(paths.blob_link(self._name, digest).removesuffix("/link"))
            except PathNotFound as missing:
                raise BlobUnknown(digest=str(digest)) from missing

    async def has(self, digest: Digest) -> bool:
        """Tell whether the repository has a blob, asking for link and bytes at the same time."""
        usual = self._driver.stat(paths.blob_data(digest))
        target, found = await asyncio.gather(
            read_link(self._driver, paths.blob_link(self._name, digest)),
            usual,
            return_exceptions=True,
        )
        for answer in (target, found):
            if isinstance(answer, BaseException) and not isinstance(answer, PathNotFound):
                raise answer
        if not isinstance(target, Digest):
            return False
        if target == digest:
            return not isinstance(found, PathNotFound)
        try:
            await self._driver.stat(paths.blob_data(target))
        except PathNotFound:
            return False
        return True

    async def rely_on(self, digest: Digest) -> list[Step]:
        """Return the steps that make durable what a manifest is about to rely on.

        Raises:
            BlobUnknown: The repository does not have the blob.
        """
        target = await self._target(digest)
        data = paths.blob_data(target)
        try:
            await self._driver.stat(data)
        except PathNotFound as missing:
            raise BlobUnknown(digest=str(digest)) from missing
        return [Ensure(data), Ensure(paths.blob_link(self._name, digest))]

    async def _target(self, digest: Digest) -> Digest:
        """Return the digest the bytes lie under."""
        target = await read_link(self._driver, paths.blob_link(self._name, digest))
        if target is None:
            raise BlobUnknown(digest=str(digest))
        return target
