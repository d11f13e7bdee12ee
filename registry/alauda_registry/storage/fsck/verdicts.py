"""Looks again at what looked wrong, and says whether it is.

Everything is read anew through the driver, and what leads to a thing before the thing. The caller
holds the repository's lock, or asks twice: what somebody was just taking away is gone then.
"""

import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from alauda_registry.oci.digest import Digest
from alauda_registry.oci.errors import ManifestInvalid
from alauda_registry.oci.manifest import Manifest, media_type_of
from alauda_registry.oci.reference import RepositoryName, Tag
from alauda_registry.storage import paths
from alauda_registry.storage.bucket import listing
from alauda_registry.storage.driver import (
    DriverError,
    FileInfo,
    InvalidPath,
    PathNotFound,
    StorageDriver,
    Unreachable,
)
from alauda_registry.storage.fsck.files import NO_FILE, ODD, Outcome, is_link, is_read
from alauda_registry.storage.fsck.findings import Finding, Kind
from alauda_registry.storage.fsck.ledger import Doubt, Suspicion
from alauda_registry.storage.fsck.shapes import fingerprint_of_entry, is_right_link, parse_link
from alauda_registry.storage.fsck.tree import read_beginning, read_manifest, verify
from alauda_registry.storage.referrers import ReferrerStore, ScanCache, index_entry

_SCRATCH = "/_driver/scratch/"


@dataclass(frozen=True, slots=True)
class Rules:
    """What counts as wrong.

    Attributes:
        age: Garbage younger than this is left out: it may be on its way to where it belongs.
        upload_age: Uploads that somebody wrote to within this time are under way.
        allow_sparse: Whether layers that were never pushed are missing on purpose.
        hashing: Whether blobs are compared with their digests, all of them.
    """

    age: timedelta = timedelta(hours=1)
    upload_age: timedelta = timedelta(hours=24)
    allow_sparse: bool = False
    hashing: bool = True


class Judge:
    """Decides about suspicions.

    Args:
        driver: Reads the storage.
        rules: What counts as wrong.
        now: The time, in seconds since 1970.
    """

    def __init__(
        self, driver: StorageDriver, rules: Rules, now: Callable[[], float] = time.time
    ) -> None:
        self._driver = driver
        self._rules = rules
        self._now = now
        self._scans = ScanCache()
        self._of: Mapping[Doubt, Callable[[Suspicion], Coroutine[Any, Any, Finding | None]]] = {
            Doubt.STRAY: self._stray,
            Doubt.TROUBLE: self._trouble,
            Doubt.LINK: self._link,
            Doubt.LAYER: self._layer,
            Doubt.MANIFEST: self._manifest,
            Doubt.NEED: self._need,
            Doubt.CHILD: self._child,
            Doubt.SIZE: self._size,
            Doubt.TAG: self._tag,
            Doubt.HISTORY: self._history,
            Doubt.REFERRER: self._referrer,
            Doubt.SUBJECT: self._subject,
            Doubt.UPLOAD: self._upload,
            Doubt.UNLINKED: self._unlinked,
            Doubt.BYTES: self._bytes,
        }

    async def decide(self, suspicion: Suspicion) -> Finding | None:
        """Return what is wrong, or None when nothing is.

        Raises:
            DriverError: The storage as a whole does not answer.
        """
        try:
            return await self._of[suspicion.doubt](suspicion)
        except PathNotFound:
            # What it is about has gone since.
            return None
        except DriverError as error:
            if isinstance(error, Unreachable):
                # A file that can't be read is broken; all of them at once say nothing of any.
                await self._driver.check(write=False)
            return Finding(Kind.UNREADABLE, error.path, str(error), suspicion.repository or None)

    async def _stray(self, suspicion: Suspicion) -> Finding | None:
        path = suspicion.name
        try:
            info = await self._driver.stat(path)
        except InvalidPath:
            return Finding(Kind.STRAY, path, ODD)
        if self._is_young(info, self._rules.age):
            return None
        if path.startswith(_SCRATCH):
            return Finding(Kind.SCRATCH, path, "left by a write that was cut short", size=info.size)
        return Finding(Kind.STRAY, path, "no registry put this file here", size=info.size)

    async def _trouble(self, suspicion: Suspicion) -> Finding | None:
        path = suspicion.name
        try:
            if is_read(path):
                await read_beginning(self._driver, path)
            else:
                (await self._driver.open(path)).close()
        except InvalidPath:
            return Finding(Kind.STRAY, path, ODD)
        except PathNotFound:
            folder, _, name = path.rpartition("/")
            if name not in await self._driver.names(folder):
                return None
            if is_link(path):
                return Finding(Kind.UNREADABLE, path, NO_FILE)
            try:
                await self._driver.names(path)
            except PathNotFound:
                return Finding(Kind.STRAY, path, NO_FILE)
        return None

    async def _link(self, suspicion: Suspicion) -> Finding | None:
        path = suspicion.name
        content = await read_beginning(self._driver, path)
        if is_right_link(path, content):
            return None
        *_, algorithm, encoded, _ = path.split("/")
        digest = f"{algorithm}:{encoded}"
        held = parse_link(content)
        if held is None:
            kind, message = Kind.LINK_INVALID, f"the link holds no digest, but {_shown(content)}"
        else:
            kind, message = Kind.LINK_MISMATCH, f"the link holds another digest: {held}"
        return Finding(kind, path, message, suspicion.repository, digest)

    async def _layer(self, suspicion: Suspicion) -> Finding | None:
        name, digest = _of_repository(suspicion)
        path = paths.blob_link(name, digest)
        content = await read_beginning(self._driver, path)
        target = parse_link(content)
        if target is None or await self._has_data(target):
            return None
        info = await self._driver.stat(path)
        if suspicion.name == "corrupt":
            kind, message = Kind.BLOB_MISSING, "the data was corrupt, and was put into quarantine"
        elif suspicion.name == "needed":
            kind, message = Kind.BLOB_MISSING, "the data is gone, and a manifest needs it"
        elif self._is_young(info, self._rules.upload_age):
            kind, message = Kind.BLOB_MISSING, "the data is gone, and was pushed not long ago"
        else:
            kind, message = Kind.LINK_WITHOUT_DATA, "the data is gone, and no manifest needs it"
        return Finding(kind, path, message, name, str(digest))

    async def _manifest(self, suspicion: Suspicion) -> Finding | None:
        name, digest = _of_repository(suspicion)
        path = paths.revision_link(name, digest)
        await self._driver.stat(path)
        kind, message = await self._condition(digest)
        return None if kind is None else Finding(kind, path, message, name, str(digest))

    async def _condition(self, digest: Digest) -> tuple[Kind | None, str]:
        try:
            content = await read_manifest(self._driver, digest)
        except PathNotFound:
            return Kind.MANIFEST_MISSING, "the manifest's data is gone"
        if content is None:
            return Kind.MANIFEST_INVALID, "it is too large for a manifest"
        if Digest.of(content, digest.algorithm) != digest:
            return Kind.MANIFEST_CORRUPT, "the manifest's bytes do not match its digest"
        try:
            media_type_of(content)
        except ManifestInvalid as invalid:
            return Kind.MANIFEST_INVALID, invalid.message
        try:
            Manifest.parse(content, None)
        except ManifestInvalid as invalid:
            return Kind.MANIFEST_UNUSUAL, invalid.message
        return None, ""

    async def _need(self, suspicion: Suspicion) -> Finding | None:
        name, digest = _of_repository(suspicion)
        blob = suspicion.other
        path = paths.revision_link(name, digest)
        await self._driver.stat(path)
        manifest = await self._read_manifest(digest)
        if manifest is None or blob is None:
            return None
        what = "config" if manifest.config and manifest.config.digest == blob else "layer"
        kind = Kind.MANIFEST_INCOMPLETE
        try:
            link = await read_beginning(self._driver, paths.blob_link(name, blob))
            target = parse_link(link)
        except PathNotFound:
            message = f"the repository does not have its {what} {blob}"
            if self._rules.allow_sparse and what == "layer":
                kind = Kind.LAYER_ABSENT
        else:
            if target is not None and await self._has_data(target):
                return None
            message = f"the data of its {what} {blob} is gone"
            if target is None:
                message = f"the link to its {what} {blob} holds no digest"
        return Finding(kind, path, message, name, str(digest))

    async def _child(self, suspicion: Suspicion) -> Finding | None:
        name, digest = _of_repository(suspicion)
        child = suspicion.other
        path = paths.revision_link(name, digest)
        await self._driver.stat(path)
        if child is None or await self._has_revision(name, child):
            return None
        return Finding(
            Kind.CHILD_ABSENT, path, f"the repository does not have {child}", name, str(digest)
        )

    async def _size(self, suspicion: Suspicion) -> Finding | None:
        name, digest = _of_repository(suspicion)
        path = paths.blob_data(digest)
        info = await self._driver.stat(path)
        if await verify(self._driver, path, digest, lambda _: None) is Outcome.CORRUPT:
            # When all are hashed, it comes up by itself.
            return None if self._rules.hashing else self._corrupt(digest, info)
        manifest = None if suspicion.other is None else await self._read_manifest(suspicion.other)
        for blob in manifest.required_blobs() if manifest is not None else ():
            if blob.digest == digest and blob.size != info.size:
                message = f"{info.size} bytes, but {suspicion.other} says {blob.size}"
                return Finding(Kind.SIZE_DIFFERS, path, message, name, str(digest))
        return None

    async def _tag(self, suspicion: Suspicion) -> Finding | None:
        name, tag = RepositoryName(suspicion.repository), Tag(suspicion.name)
        path = paths.tag_current(name, tag)
        try:
            content = await read_beginning(self._driver, path)
        except PathNotFound:
            async with aclosing(self._driver.walk(paths.tag(name, tag))) as left:
                async for _ in left:
                    message = "the tag points nowhere; only its history is left"
                    return Finding(Kind.TAG_EMPTY, paths.tag(name, tag), message, name, tag=tag)
            return None
        target = parse_link(content)
        if target is None:
            message = f"the tag holds no digest, but {_shown(content)}"
            return Finding(Kind.LINK_INVALID, path, message, name, tag=tag)
        if await self._has_manifest(name, target):
            return None
        message = f"the tag points to {target}, which is not here"
        return Finding(Kind.TAG_TO_NOTHING, path, message, name, str(target), tag)

    async def _history(self, suspicion: Suspicion) -> Finding | None:
        name, digest = _of_repository(suspicion)
        tag = Tag(suspicion.name)
        path = paths.tag_history(name, tag, digest)
        await self._driver.stat(path)
        if await self._has_manifest(name, digest):
            return None
        message = f"the tag once pointed to {digest}, which is not here"
        return Finding(Kind.HISTORY_TO_NOTHING, path, message, name, str(digest), tag)

    async def _referrer(self, suspicion: Suspicion) -> Finding | None:
        name, digest = _of_repository(suspicion)
        path = f"{paths.referrers_index(name)}/{suspicion.name}"
        await self._driver.stat(path)
        message = f"an entry of {digest}, which is not here"
        if await self._has_manifest(name, digest):
            manifest = await self._read_manifest(digest)
            entry = None if manifest is None else index_entry(name, manifest, digest)
            if manifest is None or (entry is not None and entry.path == path):
                return None
            message = f"an entry of {digest}, which does not say this about itself"
        return Finding(Kind.REFERRER_STALE, path, message, name, str(digest))

    async def _subject(self, suspicion: Suspicion) -> Finding | None:
        name, digest = _of_repository(suspicion)
        await self._driver.stat(paths.revision_link(name, digest))
        manifest = await self._read_manifest(digest)
        entry = None if manifest is None else index_entry(name, manifest, digest)
        if manifest is None or manifest.subject is None or entry is None:
            return None
        of = f"the referrers of {manifest.subject.digest}"
        try:
            content = await self._driver.read(entry.path)
        except PathNotFound:
            index = ReferrerStore(self._driver, name, self._scans, read_only=True)
            claimed = await index.claims(digest)
            kind = Kind.REFERRER_MISSING if claimed else Kind.REFERRER_NOT_INDEXED
            message = f"it is missing among {of}"
        else:
            if fingerprint_of_entry(content) == fingerprint_of_entry(entry.content):
                return None
            kind, message = Kind.REFERRER_MISSING, f"what is said of it among {of} is not so"
        return Finding(kind, entry.path, message, name, str(digest))

    async def _upload(self, suspicion: Suspicion) -> Finding | None:
        name, upload_id = suspicion.repository, suspicion.name
        size, count = 0, 0
        async with aclosing(self._files(paths.upload(name, upload_id))) as files:
            async for info in files:
                if self._is_young(info, self._rules.upload_age):
                    return None
                size, count = size + info.size, count + 1
        if not count:
            return None
        message = "an upload that nobody went on with"
        return Finding(Kind.UPLOAD_LEFT, paths.upload(name, upload_id), message, name, size=size)

    def _files(self, folder: str) -> AsyncGenerator[FileInfo, None]:
        """Yield the files in a folder; in a bucket the pieces of those that grow, too."""
        objects = self._driver.objects
        if objects is None:
            return self._driver.walk(folder)
        return listing.files(objects, folder)

    async def _unlinked(self, suspicion: Suspicion) -> Finding | None:
        digest = _digest(suspicion)
        info = await self._driver.stat(paths.blob_data(digest))
        if self._is_young(info, self._rules.age):
            return None
        message = "no repository links to it"
        return Finding(Kind.BLOB_UNLINKED, info.path, message, digest=str(digest), size=info.size)

    async def _bytes(self, suspicion: Suspicion) -> Finding | None:
        digest = _digest(suspicion)
        path = paths.blob_data(digest)
        while True:
            info = await self._driver.stat(path)
            if await verify(self._driver, path, digest, lambda _: None) is Outcome.INTACT:
                return None
            if await self._driver.stat(path) == info:
                return self._corrupt(digest, info)
            # A push replaced it meanwhile.

    def _corrupt(self, digest: Digest, info: FileInfo) -> Finding:
        message = f"its {info.size} bytes do not match its digest"
        return Finding(
            Kind.BLOB_CORRUPT,
            info.path,
            message,
            digest=str(digest),
            size=info.size,
            modified_at=info.modified_at,
        )

    async def _has_data(self, digest: Digest) -> bool:
        try:
            await self._driver.stat(paths.blob_data(digest))
        except PathNotFound:
            return False
        return True

    async def _has_revision(self, name: RepositoryName, digest: Digest) -> bool:
        try:
            content = await read_beginning(self._driver, paths.revision_link(name, digest))
        except PathNotFound:
            return False
        return parse_link(content) is not None

    async def _has_manifest(self, name: RepositoryName, digest: Digest) -> bool:
        return await self._has_revision(name, digest) and await self._has_data(digest)

    async def _read_manifest(self, digest: Digest) -> Manifest | None:
        """Return a manifest; None when something is wrong with it, which is said elsewhere."""
        content = await read_manifest(self._driver, digest)
        if content is None:
            return None
        try:
            return Manifest.parse(content, None)
        except ManifestInvalid:
            return None

    def _is_young(self, info: FileInfo, age: timedelta) -> bool:
        return info.modified_at > datetime.fromtimestamp(self._now(), UTC) - age


def _of_repository(suspicion: Suspicion) -> tuple[RepositoryName, Digest]:
    return RepositoryName(suspicion.repository), _digest(suspicion)


def _digest(suspicion: Suspicion) -> Digest:
    assert suspicion.digest is not None  # noqa: S101 -- every doubt that asks for one has one
    return suspicion.digest


def _shown(content: bytes) -> str:
    return repr(content[:80].decode("utf-8", "replace")) if content else "nothing"
