"""Brings what is in the registry's storage into the API.

Tags are the truth of the storage, and so nothing is passed on that could come in the wrong order:
whatever happened to a tag, the stream is read, then what the storage says now, and the stream is
written only if nobody has written it meanwhile. Who comes last has seen what the storage said last.
The same is done with everything in a volume when the server starts, so what was cut short between
storage and API, or pushed while the API was not served, shows, too.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Sequence

from alauda_imageapi.kinds import tags as stream_tags
from alauda_imageapi.kinds.catalog import Kinds
from alauda_imageapi.kinds.images import prepare_image
from alauda_imageapi.kinds.imagestreammappings import make_image, point_tag
from alauda_imageapi.kinds.names import MANAGED, MANIFEST_BLOB_STORED
from alauda_imageapi.kinds.tag_events import TagEvents
from alauda_imageapi.machinery import aside
from alauda_imageapi.machinery.errors import (
    Forbidden,
    RequestEntityTooLarge,
    ServiceUnavailable,
    StatusError,
)
from alauda_imageapi.machinery.metadata import Surroundings
from alauda_imageapi.machinery.objects import Object
from alauda_imageapi.machinery.resources import Context
from alauda_imageapi.machinery.store import Changed, Key, Missing, ObjectTooLarge, StoreError
from alauda_registry.oci.digest import Digest
from alauda_registry.oci.errors import (
    BlobUnknown,
    DigestInvalid,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    RegistryError,
    StorageUnavailable,
    TagInvalid,
)
from alauda_registry.oci.manifest import Manifest
from alauda_registry.oci.reference import RepositoryName, Tag
from alauda_registry.storage.driver import DriverError
from alauda_registry.storage.manifests import StoredManifest
from alauda_registry.storage.repositories import Registry, Repository

logger = logging.getLogger(__name__)

_LARGEST_CONFIG = 1024 * 1024
_PAGE = 1000
_DEEPEST_INDEX = 4
_TAGS_AT_ONCE = 500
_PAUSE_SECONDS = 0.01
"""Between two repositories of a volume that is read at the start, so that requests go first."""


class StorageRecorder:
    """Keeps the API in step with the storage.

    Args:
        kinds: The kinds.
        registry: The storage.
        address: Where the registry is: HOST:PORT.
        surroundings: Time and chance.
    """

    def __init__(
        self,
        kinds: Kinds,
        registry: Registry,
        address: str,
        surroundings: Surroundings | None = None,
    ) -> None:
        self._kinds = kinds
        self._registry = registry
        self._address = address
        self._surroundings = surroundings or Surroundings()

    async def pushed(self, name: RepositoryName, digest: Digest, tags: Sequence[Tag]) -> None:
        """Record a manifest that was pushed, and tags that were let point to it.

        Raises:
            StorageUnavailable: It could not be recorded; the same push is to be tried again.
        """
        try:
            repository = self._registry.repository(name)
            await self._record_image(repository, digest)
            await self._reflect(repository, tags)
        except (StatusError, StoreError) as error:
            raise _not_recorded(error) from error

    async def deleted(self, name: RepositoryName, reference: Tag | Digest) -> None:
        """Record that a tag, or a manifest with all its tags, is gone, if it is.

        Raises:
            StorageUnavailable: It could not be recorded; the same deletion is to be tried again.
        """
        try:
            repository = self._registry.repository(name)
            if isinstance(reference, Tag):
                await self._reflect(repository, [reference])
            else:
                await self._reflect_removal(repository, reference)
        except (StatusError, StoreError) as error:
            raise _not_recorded(error) from error

    async def reconcile(self) -> None:
        """Bring everything that is in the storage into the API; one repository at a time."""
        count = 0
        async for name in self._registry.names():
            await self._reconcile_one(name)
            count += 1
            await asyncio.sleep(_PAUSE_SECONDS)
        # And take away what is only here, because it was deleted while nobody listened.
        for stored in (await self._kinds.streams.store.snapshot("imagestreams")).items:
            joined = _joined(stored.key.namespace, stored.key.name)
            if joined is not None and self._managed_tags(stored.object()):
                await self._reconcile_one(joined)
                await asyncio.sleep(_PAUSE_SECONDS)
        logger.info("the image API shows %d repositories of the storage", count)

    async def _reconcile_one(self, name: RepositoryName) -> None:
        repository = self._registry.repository(name)
        try:
            tags = set(await _all_tags(repository))
            for tag in sorted(tags):
                try:
                    digest = await repository.tags.resolve(tag)
                except ManifestUnknown:
                    continue
                await self._record_image(repository, digest)
            where = _split(name)
            if where is not None:
                stored = await self._kinds.streams.store.get(Key("imagestreams", *where))
                tags |= self._managed_tags(stored.object()) if stored else set()
                ordered = sorted(tags)
                for start in range(0, len(ordered), _TAGS_AT_ONCE):
                    # Whoever pushes here waits for no more than these.
                    await self._reflect(repository, ordered[start : start + _TAGS_AT_ONCE])
        except (RegistryError, DriverError, StatusError, StoreError) as error:
            # The others must show nevertheless; this one shows with its next push.
            logger.error("the image API does not show %s: %s", name, error)  # noqa: TRY400,RUF100

    def _managed_tags(self, stream: Object) -> set[Tag]:
        """Return the tags that were made by pushes, and so go when the storage's go."""
        prefix = f"{self._kinds.streams.repository(stream)}@"
        wanted = {tag.get("name") for tag in stream_tags.spec_tags(stream)}
        return {
            Tag(named["tag"])
            for named in stream_tags.status_tags(stream)
            if named["tag"] not in wanted
            and (stream_tags.newest_of(named) or {})
            .get("dockerImageReference", "")
            .startswith(prefix)
        }

    async def _reflect(self, repository: Repository, tags: Iterable[Tag]) -> None:
        """Let tags of a stream be what the storage says they are."""
        where = _split(repository.name)
        wanted = list(dict.fromkeys(tags))
        if where is None or not wanted:
            return
        namespace, name = where
        context = self._context(namespace)

        async def reflect(stream: Object) -> bool:
            events, gone, is_news = TagEvents(stream), set[str](), False
            for tag in wanted:
                digest = await _target(repository, tag)
                if digest is not None:
                    is_news |= self._reflect_tag(repository, events, tag, digest)
                elif events.newest(tag) is not None:
                    gone.add(tag)
            return stream_tags.remove(stream, gone) or is_news

        exists = any([await _target(repository, tag) is not None for tag in wanted])
        await self._kinds.streams.edit(context, name, reflect, create=exists)

    def _reflect_tag(
        self, repository: Repository, events: TagEvents, tag: Tag, digest: Digest
    ) -> bool:
        newest = events.newest(tag)
        reference = f"{self._address}/{repository.name}@{digest}"
        now = self._surroundings.timestamp()
        keys = ("image", "dockerImageReference")
        if newest and [newest.get(key) for key in keys] == [str(digest), reference]:
            return False
        return point_tag(events, tag, str(digest), reference, now)

    async def _reflect_removal(self, repository: Repository, digest: Digest) -> None:
        if await _has_manifest(repository, digest):
            return
        where = _split(repository.name)
        if where is not None:
            stored = await self._kinds.streams.store.get(Key("imagestreams", *where))
            stream = stored.object() if stored else {}
            pointing = [
                Tag(named["tag"])
                for named in stream_tags.status_tags(stream)
                if (stream_tags.newest_of(named) or {}).get("image") == str(digest)
            ]
            await self._reflect(repository, pointing)

            async def forget(document: Object) -> bool:
                return stream_tags.forget_image(document, str(digest))

            await self._kinds.streams.edit(self._context(where[0]), where[1], forget)
        if await self._find_elsewhere(digest) is None:
            await self._drop_image(digest)
            # Who pushed it elsewhere at the same time may have found the Image that is gone now.
            pushed = await self._find_elsewhere(digest)
            if pushed is not None:
                await self._record_image(pushed, digest)

    async def _find_elsewhere(self, digest: Digest) -> Repository | None:
        async for name in self._registry.names():
            repository = self._registry.repository(name)
            if await _has_manifest(repository, digest):
                return repository
        return None

    async def _drop_image(self, digest: Digest) -> None:
        key = Key("images", "", str(digest))
        stored = await self._kinds.images.store.get(key)
        if stored is None:
            return
        try:
            await self._kinds.images.store.delete(key, expected=stored.revision)
        except (Changed, Missing):
            logger.info("an image that is gone from the storage was changed meanwhile: %s", digest)

    async def _record_image(self, repository: Repository, digest: Digest, depth: int = 0) -> None:
        """Make the Image of a manifest, and those of the images of an index."""
        if await self._kinds.images.store.get(Key("images", "", str(digest))) is not None:
            return
        try:
            stored = await repository.manifests.get(digest)
        except ManifestUnknown:
            return
        try:
            manifest = Manifest.parse(stored.content, stored.media_type)
        except ManifestInvalid:
            manifest = Manifest(stored.content, stored.media_type)
        if depth < _DEEPEST_INDEX:
            for child in manifest.manifests:
                await self._record_image(repository, child.digest, depth + 1)
        config = await _read_config(repository, manifest)
        image = self._image(repository.name, stored, digest, config)
        now = self._surroundings.timestamp()
        await aside.run(aside.weigh(image), prepare_image, image, now)
        try:
            await make_image(self._kinds.streams, self._context(""), image)
        except (ObjectTooLarge, RequestEntityTooLarge) as error:
            logger.warning("an image is shown without its layers: %s: %s", digest, error)
            for field in ("dockerImageLayers", "dockerImageManifests", "dockerImageMetadata"):
                image.pop(field, None)
            await make_image(self._kinds.streams, self._context(""), image)

    def _image(
        self, name: RepositoryName, stored: StoredManifest, digest: Digest, config: str
    ) -> Object:
        return {
            "metadata": {
                "name": str(digest),
                "annotations": {MANAGED: "true", MANIFEST_BLOB_STORED: "true"},
            },
            "dockerImageReference": f"{self._address}/{name}@{digest}",
            "dockerImageManifest": stored.content.decode(errors="replace"),
            "dockerImageManifestMediaType": stored.media_type,
            **({"dockerImageConfig": config} if config else {}),
        }

    def _context(self, namespace: str) -> Context:
        return Context(
            resource="imagestreammappings",
            namespace=namespace,
            manager="image-registry",
            surroundings=self._surroundings,
        )


class StorageContent:
    """The storage as the kinds see it: what tags point to.

    Args:
        registry: The storage.
        may_untag: Whether tags may be deleted.
    """

    def __init__(self, registry: Registry, *, may_untag: bool) -> None:
        self._registry = registry
        self._may_untag = may_untag

    async def untag(self, namespace: str, name: str, tags: Sequence[str]) -> None:
        """Take tags away; those that are gone are fine."""
        for tag in tags:
            if not await self.has_tag(namespace, name, tag):
                continue
            if not self._may_untag:
                raise Forbidden("deleting tags is switched off in the registry's configuration")
            repository = self._registry.repository(RepositoryName.parse(f"{namespace}/{name}"))
            try:
                with contextlib.suppress(ManifestUnknown):
                    await repository.tags.delete(Tag.parse(tag))
            except (RegistryError, DriverError) as error:
                raise _unavailable(error) from error

    async def point(self, namespace: str, name: str, tag: str, digest: str) -> None:
        """Let a tag point to a manifest, if that is in the repository."""
        try:
            repository = self._registry.repository(RepositoryName.parse(f"{namespace}/{name}"))
            wanted, target = Digest.parse(digest), Tag.parse(tag)
            stored = await repository.manifests.get(wanted)
            manifest = Manifest.parse(stored.content, stored.media_type)
            await repository.manifests.put(manifest, wanted, [target])
        except (NameInvalid, TagInvalid, DigestInvalid, ManifestUnknown, ManifestInvalid):
            # A tag of something else, which only the API knows.
            return
        except (RegistryError, DriverError) as error:
            raise _unavailable(error) from error

    async def has_tag(self, namespace: str, name: str, tag: str) -> bool:
        """Tell whether there is such a tag."""
        try:
            repository = self._registry.repository(RepositoryName.parse(f"{namespace}/{name}"))
            return await _target(repository, Tag.parse(tag)) is not None
        except (NameInvalid, TagInvalid):
            return False
        except (RegistryError, DriverError) as error:
            raise _unavailable(error) from error


def _unavailable(error: Exception) -> ServiceUnavailable:
    logger.error("the storage does not answer the image API: %s", error)
    return ServiceUnavailable(
        "the registry's storage does not answer: the log says how", details={"retryAfterSeconds": 1}
    )


def _split(name: RepositoryName) -> tuple[str, str] | None:
    """Return namespace and stream of a repository; None when it has another number of parts."""
    namespace, slash, stream = name.partition("/")
    return (namespace, stream) if slash and "/" not in stream else None


def _joined(namespace: str, stream: str) -> RepositoryName | None:
    try:
        return RepositoryName.parse(f"{namespace}/{stream}")
    except RegistryError:
        return None


async def _target(repository: Repository, tag: Tag) -> Digest | None:
    try:
        return await repository.tags.resolve(tag)
    except ManifestUnknown:
        return None


async def _has_manifest(repository: Repository, digest: Digest) -> bool:
    try:
        await repository.manifests.get(digest)
    except ManifestUnknown:
        return False
    return True


async def _all_tags(repository: Repository) -> list[Tag]:
    found: list[Tag] = []
    after = ""
    while True:
        try:
            page = await repository.tags.page(after=after, limit=_PAGE)
        except NameUnknown:
            return found
        found += [Tag(name) for name in page.names]
        if not page.more or not page.names:
            return found
        after = page.names[-1]


async def _read_config(repository: Repository, manifest: Manifest) -> str:
    """Return an image's configuration; nothing when it is none, or too large to be looked at."""
    descriptor = manifest.config
    if descriptor is None or descriptor.size > _LARGEST_CONFIG:
        return ""
    try:
        blob = await repository.blobs.open(descriptor.digest)
    except BlobUnknown:
        return ""
    try:
        if blob.size > _LARGEST_CONFIG:
            return ""
        content = b"".join([chunk async for chunk in blob.stream()])
    finally:
        blob.close()
    return content.decode(errors="replace")


def _not_recorded(error: Exception) -> StorageUnavailable:
    logger.error("what is in the storage is not shown by the image API: %s", error)
    return StorageUnavailable("the image API could not record this: try again")
