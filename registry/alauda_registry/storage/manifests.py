"""The manifests of one repository.

A manifest's bytes lie among the blobs; what a repository owns is the link to its
revision. Everything a push writes is published in one go, in the order that leaves only
garbage when it is cut short: bytes, referrers entry, revision link, tags.
"""

import asyncio
import contextlib
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
from alauda_registry.storage.driver import (
    Ensure,
    ObjectStore,
    PathNotFound,
    Step,
    StorageDriver,
    Write,
)
from alauda_registry.storage.referrers import ReferrerStore
from alauda_registry.storage.tags import TagStore
from alauda_registry.storage.together import together


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
_GUESSES_KEPT = 1024


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
        self._guesses: dict[Tag, Digest] = {}

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

    async def get_tagged(self, tag: Tag) -> tuple[Digest, StoredManifest]:
        """Return the manifest that a tag points to, and its digest.

        Raises:
            ManifestUnknown: There is no such tag, or its manifest is gone or corrupt.
        """
        if self._driver.objects is None:
            digest = await self._tags.target(tag)
            return digest, await self.get(digest)
        # What it pointed to the last time is read along with it: that is right nearly always.
        guess = self._guesses.get(tag)
        if guess is None or (stored := self._cache.get(guess)) is None:
            digest = await self._tags.target(tag)
            stored = await self.get(digest)
        else:
            link = paths.revision_link(self._name, guess)
            digest, target = await asyncio.gather(
                self._tags.target(tag), read_link(self._driver, link)
            )
            if (digest, target) != (guess, guess):
                stored = await self.get(digest)
        if len(self._guesses) >= _GUESSES_KEPT:
            self._guesses.clear()
        self._guesses[tag] = digest
        return digest, stored

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
        if self._driver.objects is not None:
            await self._put_into(self._driver.objects, manifest, digest, tags)
            return
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
        self._remember(manifest, digest)

    async def _put_into(
        self, objects: ObjectStore, manifest: Manifest, digest: Digest, tags: Sequence[Tag]
    ) -> None:
        """Publish a manifest in a bucket, without a lock.

        The deletion of a manifest that goes on at the same time may have removed what was just
        written, or be about to: it decides by what it read before. So the links that are missing
        after it are written again, and whatever else was written meanwhile stays. When none is,
        this was the push's last look: others may delete one manifest after the other for long.
        """
        before, _, layers = await asyncio.gather(
            locks.deletions(objects, self._name),
            self._blob_steps(manifest),
            self._layers_steps(manifest),
        )
        content = (
            Write(paths.blob_data(digest), manifest.content),
            *self._referrers.put_steps(manifest, digest),
            *layers,
        )
        revision = Write(paths.revision_link(self._name, digest), str(digest).encode())
        pointers = tuple(self._tags.pointer(tag, digest) for tag in tags)
        await self._driver.publish(content, revision, pointers)
        while (now := await locks.deletions(objects, self._name)) != before:
            before = now
            was_missing = [await objects.write_new(revision.path, revision.content)]
            was_missing += await together(
                objects.write_new(tag.path, tag.content) for tag in pointers
            )
            if not any(was_missing):
                # Deletions that are under way now have begun after all that was written here.
                break
        self._remember(manifest, digest)

    def _remember(self, manifest: Manifest, digest: Digest) -> None:
        self._referrers.note(digest)
        self._cache.put(digest, StoredManifest(digest, manifest.content, manifest.media_type))

    async def delete(self, digest: Digest) -> None:
        """Delete a manifest, and first the tags that point to it.

        Raises:
            Busy: The pushes under way in this repository took too long.
            ManifestUnknown: The repository does not have it.
        """
        async with locks.deleting_manifest(self._driver, self._name):
            target = await read_link(self._driver, paths.revision_link(self._name, digest))
            if target is None:
                raise ManifestUnknown(digest=str(digest))
            if self._driver.objects is not None:
                await self._delete_from_bucket(digest)
                return
            for tag in await self._tags.pointing_to(digest):
                await self._tags.remove(tag)
            await self._driver.delete(paths.revision(self._name, digest))

    async def _delete_from_bucket(self, digest: Digest) -> None:
        """Delete a manifest that no lock keeps pushes away from.

        One of them may let a tag point here after the tags were looked at, and end before it looks
        for deletions. So they are looked at again when the manifest is gone.
        """
        await self._remove_tags_of(digest)
        await self._driver.delete(paths.revision(self._name, digest))
        await self._remove_tags_of(digest)

    async def _remove_tags_of(self, digest: Digest) -> None:
        async def remove(tag: Tag) -> None:
            # Somebody may be deleting the tag, too, which takes another lock.
            with contextlib.suppress(ManifestUnknown):
                await self._tags.remove(tag)

        await together(remove(tag) for tag in await self._tags.pointing_to(digest))

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
        if self._driver.objects is not None:
            blobs = manifest.required_blobs()
            found = await together(self._blobs.has(blob.digest) for blob in blobs)
            missing = [
                blob.digest
                for blob, is_here in zip(blobs, found, strict=True)
                if not is_here and (blob == manifest.config or not self._allow_sparse)
            ]
            if missing:
                raise ManifestBlobUnknown(missing)
            return steps
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
        folder = paths.layers(self._name)
        if (objects := self._driver.objects) is not None:
            found, _ = await objects.page(folder)
            return [] if found else [Write(f"{folder}/empty", b"")]
        try:
            await self._driver.names(folder)
        except PathNotFound:
            return [Write(f"{folder}/empty", b"")]
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
