"""The manifests of one repository.

A manifest's bytes lie among the blobs; what a repository owns is the link to its
revision. Everything a push writes is published in one go, in the order that leaves only
garbage when it is cut short: bytes, referrers entry, revision link, tags.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from alauda_registry.oci.digest import Digest
from alauda_registry.oci.errors import (
    BlobUnknown,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
)
from alauda_registry.oci.manifest import Manifest, media_type_of
from alauda_registry.oci.reference import RepositoryName, Tag
from alauda_registry.storage import locks, paths
from alauda_registry.storage.blobs import BlobStore
from alauda_registry.storage.content import ContentCache, is_intact, logger, read_link
from alauda_registry.storage.driver import Ensure, PathNotFound, Step, StorageDriver, Write
from alauda_registry.storage.referrers import ReferrerStore
from alauda_registry.storage.tags import TagStore


@dataclass(frozen=True, slots=True)
class StoredManifest:
    """A manifest as it is served: exact bytes, and the type they were pushed with."""

    digest: Digest
    content: bytes
    media_type: str

    def __len__(self) -> int:
        return len(self.content)


ManifestCache = ContentCache[StoredManifest]

_BLOBS_BETWEEN_BREAKS = 64


class ManifestStore:
    """Reads, publishes and deletes the manifests of one repository."""

    def __init__(
        self,
        driver: StorageDriver,
        name: RepositoryName,
        cache: ManifestCache,
        blobs: BlobStore,
        tags: TagStore,
        referrers: ReferrerStore,
        *,
        allow_sparse: bool,
    ) -> None:
        self._driver = driver
        self._name = name
        self._cache = cache
        self._blobs = blobs
        self._tags = tags
        self._referrers = referrers
        self._allow_sparse = allow_sparse

    async def get(self, digest: Digest) -> StoredManifest:
        """Return a manifest.

        Raises:
            ManifestUnknown: The repository does not have it, or its bytes are corrupt.
        """
        target = await read_link(self._driver, paths.revision_link(self._name, digest))
        if target is None:
            raise ManifestUnknown(digest=str(digest))
        stored = self._cache.get(target)
        if stored is None:
            stored = await self._load(target)
            if stored is None:
                raise ManifestUnknown(digest=str(digest))
            self._cache.put(target, stored)
        return stored

    async def put(self, manifest: Manifest, digest: Digest, tags: Sequence[Tag] = ()) -> None:
        """Publish a manifest under its digest, and let the tags point to it.

        Args:
            manifest: The manifest; its bytes must hash to the digest.
            digest: What it is known by.
            tags: The tags that shall point to it, on top of those that do.

        Raises:
            Busy: A deletion in this repository took too long.
            ManifestBlobUnknown: It refers to configs or layers that are not here.
        """
        async with locks.pushing(self._driver, self._name):
            content = (
                *await self._blob_steps(manifest),
                await self._data_step(manifest, digest),
                *self._referrers.put_steps(manifest, digest),
                *await self._layers_steps(manifest),
            )
            pointers = [step for tag in tags for step in await self._tags.put_steps(tag, digest)]
            try:
                await self._driver.publish(
                    content, await self._revision_step(digest), tuple(pointers)
                )
            except PathNotFound:
                # A blob was collected between the check and the push: the check says which.
                await self._blob_steps(manifest)
                raise
        self._referrers.note(digest)
        self._cache.put(digest, StoredManifest(digest, manifest.content, manifest.media_type))

    async def delete(self, digest: Digest) -> None:
        """Delete a manifest, and first the tags that point to it.

        Raises:
            Busy: The pushes under way in this repository took too long.
            ManifestUnknown: The repository does not have it.
        """
        async with locks.deleting(self._driver, self._name):
            target = await read_link(self._driver, paths.revision_link(self._name, digest))
            if target is None:
                raise ManifestUnknown(digest=str(digest))
            for tag in await self._tags.pointing_to(digest):
                await self._tags.remove(tag)
            await self._driver.delete(paths.revision(self._name, digest))

    async def _load(self, digest: Digest) -> StoredManifest | None:
        """Read a manifest's bytes, or report why they can't be served."""
        try:
            content = await self._driver.read(paths.blob_data(digest))
        except PathNotFound:
            logger.error("a manifest's bytes are missing: %s of %s", digest, self._name)
            return None
        if not is_intact(content, digest):
            return None
        try:
            return StoredManifest(digest, content, media_type_of(content))
        except ManifestInvalid as invalid:
            logger.error("a stored manifest can't be parsed: %s: %s", digest, invalid.message)
            return None

    async def _blob_steps(self, manifest: Manifest) -> list[Step]:
        """Check that what the manifest needs is here, and will be after a power cut."""
        missing = []
        steps: list[Step] = []
        for count, blob in enumerate(manifest.required_blobs()):
            if count % _BLOBS_BETWEEN_BREAKS == 0:
                await asyncio.sleep(0)
            try:
                steps += await self._blobs.rely_on(blob.digest)
            except BlobUnknown:
                if blob == manifest.config or not self._allow_sparse:
                    missing.append(blob.digest)
        if missing:
            raise ManifestBlobUnknown(missing)
        return steps

    async def _layers_steps(self, manifest: Manifest) -> list[Step]:
        """Return the step that makes the folder of blob links when no blob does.

        distribution's garbage collection gives up on a volume in which a repository has
        manifests and no such folder.
        """
        if manifest.required_blobs():
            return []
        try:
            await self._driver.names(paths.layers(self._name))
        except PathNotFound:
            return [Write(f"{paths.layers(self._name)}/empty", b"")]
        return []

    async def _data_step(self, manifest: Manifest, digest: Digest) -> Step:
        path = paths.blob_data(digest)
        try:
            if await self._driver.read(path) == manifest.content:
                return Ensure(path)
            logger.error("a stored manifest was corrupt and is replaced: %s", digest)
        except PathNotFound:
            pass
        return Write(path, manifest.content)

    async def _revision_step(self, digest: Digest) -> Step:
        path = paths.revision_link(self._name, digest)
        if await read_link(self._driver, path) == digest:
            return Ensure(path)
        return Write(path, str(digest).encode())
