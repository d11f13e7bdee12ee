"""The way in: gives the stores of a name, enumerates names, and looks after the whole."""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from alauda_registry.oci.errors import NameInvalid
from alauda_registry.oci.reference import RepositoryName
from alauda_registry.storage import paths
from alauda_registry.storage.blobs import BlobCache, BlobStore
from alauda_registry.storage.bucket.catalog import BucketCatalog
from alauda_registry.storage.bucket.tags import BucketTagStore
from alauda_registry.storage.bucket.uploads import BucketUploadStore
from alauda_registry.storage.driver import (
    Busy,
    Capacity,
    DriverError,
    OutOfSpace,
    PathNotFound,
    ReadOnlyFileSystem,
    StorageDriver,
    Write,
)
from alauda_registry.storage.hashing import HashProgressCache
from alauda_registry.storage.manifests import ManifestCache, ManifestStore
from alauda_registry.storage.pages import Page
from alauda_registry.storage.referrers import ReferrerStore, ScanCache
from alauda_registry.storage.tags import TagStore
from alauda_registry.storage.uploads import UploadStore

logger = logging.getLogger(__name__)

_SECRET_BYTES = 32
_REPOSITORIES_KEPT = 4096


@dataclass(frozen=True, slots=True)
class StorageOptions:
    """How the stores behave, whatever keeps the bytes.

    Attributes:
        upload_age: How long an upload may be idle before it is removed.
        allow_sparse: Whether manifests may refer to layers that are not here.
        read_only: Whether nothing is to be written; the storage is then not tried.
        cache_bytes: How much small content each process keeps, of manifests and of blobs.
    """

    upload_age: timedelta = timedelta(hours=24)
    allow_sparse: bool = False
    read_only: bool = False
    cache_bytes: int = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Health:
    """Whether the storage can serve.

    Attributes:
        ready: Whether anything can be served.
        degraded: What can't be done though it is ready: ``full`` or ``read-only``.
        message: What is wrong and what to do, or "" when nothing is.
        capacity: How much room there is, where that is known.
    """

    ready: bool
    degraded: str | None = None
    message: str = ""
    capacity: Capacity | None = None


class Repository:
    """The stores of one repository, whether or not anything was pushed to it."""

    def __init__(
        self,
        name: RepositoryName,
        blobs: BlobStore,
        uploads: UploadStore,
        tags: TagStore,
        referrers: ReferrerStore,
        manifests: ManifestStore,
    ) -> None:
        self.name = name
        self.blobs = blobs
        self.uploads = uploads
        self.tags = tags
        self.referrers = referrers
        self.manifests = manifests


class Registry:
    """All repositories of one storage.

    Args:
        driver: Keeps the bytes; closed by :meth:`aclose`.
        options: How the stores behave.
    """

    def __init__(self, driver: StorageDriver, options: StorageOptions | None = None) -> None:
        self._driver = driver
        self._bucket_catalog = BucketCatalog(driver.objects) if driver.objects else None
        self._options = options or StorageOptions()
        self._blob_cache: BlobCache = BlobCache(self._options.cache_bytes)
        self._manifest_cache: ManifestCache = ManifestCache(self._options.cache_bytes)
        self._progress = HashProgressCache()
        self._scans = ScanCache()
        self._repositories: dict[RepositoryName, Repository] = {}

    def repository(self, name: RepositoryName) -> Repository:
        """Return the stores of a repository."""
        known = self._repositories.get(name)
        if known is None:
            if len(self._repositories) >= _REPOSITORIES_KEPT:
                self._repositories.clear()
            known = self._repositories[name] = self._open(name)
        return known

    async def catalog(self, *, after: str = "", limit: int) -> Page:
        """Return a page of the names of repositories that manifests were pushed to.

        Names are ordered as distribution does it, with ``/`` before every other character.
        Only folders up to the end of the page are looked at.
        """
        if self._bucket_catalog is not None:
            return await self._bucket_catalog.page(after=after, limit=limit)
        names: list[str] = []
        async with contextlib.aclosing(self.names(after=after)) as found:
            async for name in found:
                if len(names) == limit:
                    return Page(names, more=True)
                names.append(name)
        return Page(names, more=False)

    async def names(self, *, after: str = "") -> AsyncGenerator[RepositoryName, None]:
        """Yield the names of repositories that manifests were pushed to, in catalog order."""
        if self._bucket_catalog is not None:
            page = await self._bucket_catalog.page(after=after, limit=None)
            for found in page.names:
                yield RepositoryName.parse(found)
            return
        async for name, marks in self._folders("", tuple(after.split("/")) if after else ()):
            if "_manifests" in marks and name != after:
                yield name

    async def expire_uploads(self) -> int:
        """Remove idle upload sessions, and return how many; one process at a time does it."""
        expired = 0
        objects = self._driver.objects
        try:
            async with self._driver.lock("expire-uploads", exclusive=True, wait=0):
                if objects is not None:
                    # The name of a folder is not needed for what lies at the blobs' keys.
                    try:
                        age = self._options.upload_age
                        expired += await objects.drop_unfinished(paths.ROOT, age)
                    except DriverError as error:
                        logger.error("multipart uploads are not expired: %s", error)
                async for name in self._uploading():
                    uploads = self.repository(name).uploads
                    try:
                        expired += await uploads.expire(self._options.upload_age)
                    except DriverError as error:
                        logger.error("uploads of %s are not expired: %s", name, error)
        except Busy:
            return 0
        return expired

    async def _uploading(self) -> AsyncGenerator[RepositoryName, None]:
        """Yield the names that uploads are under way to."""
        if self._bucket_catalog is not None:
            for name in await self._bucket_catalog.uploading():
                yield name
            return
        async for name, marks in self._folders("", ()):
            if "_uploads" in marks:
                yield name

    async def secret(self) -> bytes:
        """Return the secret that all processes on this storage sign upload locations with."""
        objects = self._driver.objects
        if objects is not None:
            # Without a lock, which whoever held it might have lost while he wrote.
            with contextlib.suppress(PathNotFound):
                secret = await self._driver.read(paths.SECRET)
                if len(secret) == _SECRET_BYTES:
                    return secret
                await self._driver.delete(paths.SECRET)
            await objects.write_new(paths.SECRET, secrets.token_bytes(_SECRET_BYTES))
            return await self._driver.read(paths.SECRET)
        async with self._driver.lock("secret", exclusive=True, wait=10):
            try:
                secret = await self._driver.read(paths.SECRET)
            except PathNotFound:
                secret = b""
            if len(secret) != _SECRET_BYTES:
                secret = secrets.token_bytes(_SECRET_BYTES)
                await self._driver.publish(Write(paths.SECRET, secret))
            return secret

    async def health(self) -> Health:
        """Try the storage, and say what works and how much room there is."""
        try:
            await self._driver.check(write=not self._options.read_only)
        except OutOfSpace as full:
            message = full.advice or "the storage is full: free space or add some"
            message = f"pulls and deletes go on, pushes fail: {message}"
            return Health(True, "full", message, await self._capacity())
        except ReadOnlyFileSystem:
            return Health(
                False, None, "the storage has become read-only: look at the disk, then remount it"
            )
        except DriverError as error:
            logger.error("the storage does not answer: %s", error)
            message = error.advice or "the storage does not answer: the log says how"
            return Health(False, None, message)
        if self._options.read_only:
            message = "pushes and deletions are switched off"
            return Health(True, "read-only", message, await self._capacity())
        return Health(True, capacity=await self._capacity())

    async def aclose(self) -> None:
        """Release the storage."""
        await self._driver.aclose()

    async def _capacity(self) -> Capacity | None:
        try:
            return await self._driver.capacity()
        except DriverError as error:
            logger.warning("the storage does not say how much room there is: %s", error)
            return None

    def _open(self, name: RepositoryName) -> Repository:
        driver = self._driver
        blobs = BlobStore(driver, name, self._blob_cache)
        objects = driver.objects
        tags = TagStore(driver, name) if objects is None else BucketTagStore(driver, objects, name)
        referrers = ReferrerStore(driver, name, self._scans, read_only=self._options.read_only)
        manifests = ManifestStore(
            driver,
            name,
            self._manifest_cache,
            blobs,
            tags,
            referrers,
            allow_sparse=self._options.allow_sparse,
        )
        uploads = (
            UploadStore(driver, name, blobs, self._progress)
            if objects is None
            else BucketUploadStore(driver, objects, name, blobs, self._progress)
        )
        return Repository(name, blobs, uploads, tags, referrers, manifests)

    async def _folders(
        self, prefix: str, after: tuple[str, ...], children: Sequence[str] | None = None
    ) -> AsyncGenerator[tuple[RepositoryName, frozenset[str]], None]:
        """Yield the folders below a prefix, each before those in it, and their marks.

        Args:
            prefix: The name of a folder with a slash behind it, or "".
            after: Where to begin: the components below the prefix of a name that, like
                everything before it, may be left out. The name itself is not.
            children: The names below the prefix, when they are known already.
        """
        if children is None:
            try:
                children = await self._driver.names(paths.REPOSITORIES)
            except PathNotFound:
                return
        start = after[0] if after else ""
        for child in children:
            if child < start or child.startswith("_"):
                continue
            rest = after[1:] if child == start else ()
            try:
                name = RepositoryName.parse(f"{prefix}{child}")
                below = await self._driver.names(paths.repository(name))
            except (NameInvalid, PathNotFound):
                # A stray file or folder of somebody else.
                continue
            except DriverError as error:
                logger.error("a folder of repositories is left out: %s", error)
                continue
            if not rest:
                yield name, frozenset(mark for mark in below if mark.startswith("_"))
            if any(not entry.startswith("_") for entry in below):
                async for found in self._folders(f"{name}/", rest, below):
                    yield found
            await asyncio.sleep(0)
