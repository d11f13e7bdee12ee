"""Who points at a subject: signatures, SBOMs and other artifacts of a repository.

The index holds a file for each referrer with the whole descriptor in it, so a page reads
only what it shows. The file's name begins with the referrer's digest and ends with a key
of its artifact type, so that a filter opens only what it is after.

An entry outlives its manifest: it is shown only while the manifest is there, and is right
again when somebody pushes the manifest again.

distribution keeps no such index. A repository that it wrote to is scanned: the ``scanned``
file says what the folder of revisions looked like when all of it was indexed, and when that
has changed, the revisions that were not seen before are looked at. Which ones were is known
to the process, and now and then written to the file ``seen`` for those that come after it.
"""

import asyncio
import contextlib
import hashlib
import json
import time
from collections import OrderedDict
from dataclasses import dataclass

from alauda_registry.oci.descriptor import Descriptor
from alauda_registry.oci.digest import Algorithm, Digest
from alauda_registry.oci.errors import DigestInvalid, ManifestInvalid
from alauda_registry.oci.manifest import Manifest
from alauda_registry.oci.reference import RepositoryName, tag_schema
from alauda_registry.storage import paths
from alauda_registry.storage.content import is_intact, logger, read_link
from alauda_registry.storage.driver import (
    DriverError,
    OutOfSpace,
    PathNotFound,
    ReadOnlyFileSystem,
    Step,
    StorageDriver,
    Write,
)
from alauda_registry.storage.pages import Page
from alauda_registry.storage.together import AT_ONCE, together

PAGE_BYTES = 4 * 1024 * 1024
"""A page ends when its descriptors are this large, since clients limit what they read."""

_SCANS_KEPT = 1_000
_DIGESTS_KEPT = 50_000
_UNSAVED_MINIMUM = 200
_UNSAVED_SHARE = 10
_ABSENT = "none"
_LOOK_SECONDS = 60.0
"""How long it may take until what another registry pushed to a bucket shows. A folder on a disk
tells that it changed; to find that out in a bucket takes a listing of all revisions."""

_NO_REVISIONS = " ".join(_ABSENT for _ in Algorithm)


@dataclass(frozen=True, slots=True)
class ReferrersPage:
    """Some referrers of a subject in byte order of their digests.

    Attributes:
        descriptors: The referrers.
        next: What to pass as ``after`` for the page behind this one, or None at the end.
    """

    descriptors: list[Descriptor]
    next: str | None


class Scan:
    """What this process knows of the revisions of one repository.

    Attributes:
        lock: Held while scanning, so that requests which come together scan once.
        seen: The revisions that are in the index, or have no place there.
        unsaved: How many of them the file ``seen`` lacks; None when it has not been read.
        looked_at: When all of a bucket's were last looked at, in seconds that only go forward.
    """

    def __init__(self) -> None:
        self.looked_at = float("-inf")
        self.lock = asyncio.Lock()
        self.seen: set[Digest] = set()
        self.unsaved: int | None = None


class ScanCache:
    """The scans of the most recently used repositories."""

    def __init__(self) -> None:
        self._scans: OrderedDict[str, Scan] = OrderedDict()

    def scan(self, name: RepositoryName) -> Scan:
        """Return what is known of a repository, for the caller to add to."""
        scan = self._scans.setdefault(name, Scan())
        self._scans.move_to_end(name)
        while len(self._scans) > 1 and (
            len(self._scans) > _SCANS_KEPT
            or sum(len(known.seen) for known in self._scans.values()) > _DIGESTS_KEPT
        ):
            self._scans.popitem(last=False)
        return scan


def index_entry(name: RepositoryName, manifest: Manifest, digest: Digest) -> Write | None:
    """Return what puts a manifest among the referrers of its subject, if it has one."""
    if manifest.subject is None:
        return None
    descriptor = manifest.as_referrer(digest)
    folder = paths.referrers(name, manifest.subject.digest)
    content = json.dumps(descriptor.to_json(), ensure_ascii=False).encode()
    return Write(f"{folder}/{_entry_name(descriptor)}", content)


class ReferrerStore:
    """Indexes and lists the referrers of one repository."""

    def __init__(
        self, driver: StorageDriver, name: RepositoryName, scans: ScanCache, *, read_only: bool
    ) -> None:
        self._driver = driver
        self._name = name
        self._scans = scans
        self._read_only = read_only
        # Reading from a disk waits for nothing that could be done meanwhile.
        self._at_once = 1 if driver.objects is None else AT_ONCE

    async def page(
        self, subject: Digest, *, artifact_type: str | None, after: str = "", limit: int
    ) -> ReferrersPage:
        """Return a page of the manifests that point at a subject, known or not.

        Args:
            subject: What they point at.
            artifact_type: Only those of this type; None for all.
            after: :attr:`ReferrersPage.next` of the page before.
            limit: How many referrers a page holds.
        """
        left_out = await self._catch_up(subject)
        entries = await self._entries(subject)
        known = {key.partition(".")[0] for key in entries}
        for descriptor in [*left_out, *await self._tag_schema_entries(subject)]:
            key = _entry_name(descriptor)
            if key.partition(".")[0] not in known:
                known.add(key.partition(".")[0])
                entries[key] = descriptor
        suffix = "" if artifact_type is None else _type_key(artifact_type)
        keys = sorted(key for key in entries if key.endswith(suffix))
        page = Page.cut(keys, after=after, limit=limit)
        descriptors: list[Descriptor] = []
        size = 0
        for first in range(0, len(page.names), self._at_once):
            some = page.names[first : first + self._at_once]
            reads = (self._descriptor(subject, key, entries[key]) for key in some)
            for count, found in enumerate(await together(reads, self._at_once), first):
                if found is None or artifact_type not in (None, found.artifact_type):
                    continue
                descriptors.append(found)
                size += len(json.dumps(found.to_json()))
                if size > PAGE_BYTES and count + 1 < len(page.names):
                    return ReferrersPage(descriptors, page.names[count])
        return ReferrersPage(descriptors, page.names[-1] if page.more and page.names else None)

    def put_steps(self, manifest: Manifest, digest: Digest) -> list[Step]:
        """Return the steps that put a manifest among the referrers of its subject."""
        entry = index_entry(self._name, manifest, digest)
        return [] if entry is None else [entry]

    async def claims(self, digest: Digest) -> bool:
        """Tell whether the index says that it has a revision, so that no scan looks at it again."""
        if digest in await self._saved():
            return True
        token = await self._fingerprint()
        return token is not None and token == await self._scanned()

    def note(self, digest: Digest) -> None:
        """Take note that a manifest was pushed, and its entry with it."""
        scan = self._scans.scan(self._name)
        if digest not in scan.seen:
            scan.seen.add(digest)
            if scan.unsaved is not None:
                scan.unsaved += 1

    async def _entries(self, subject: Digest) -> dict[str, Descriptor | None]:
        try:
            names = await self._driver.names(paths.referrers(self._name, subject))
        except PathNotFound:
            return {}
        return dict.fromkeys(names)

    async def _descriptor(
        self, subject: Digest, key: str, known: Descriptor | None
    ) -> Descriptor | None:
        """Return a referrer, or None when its manifest is gone or its entry can't be read."""
        descriptor = known
        if descriptor is None:
            path = f"{paths.referrers(self._name, subject)}/{key}"
            try:
                descriptor = Descriptor.from_json(json.loads(await self._driver.read(path)))
            except PathNotFound:
                return None
            except (ValueError, RecursionError, ManifestInvalid):
                logger.warning("an entry of the referrers index can't be read: %s", path)
                return None
        link = paths.revision_link(self._name, descriptor.digest)
        return descriptor if await read_link(self._driver, link) is not None else None

    async def _tag_schema_entries(self, subject: Digest) -> list[Descriptor]:
        """Return what clients listed under the tag that stood in for this index."""
        tag = tag_schema(subject)
        digest = await read_link(self._driver, paths.tag_current(self._name, tag))
        if digest is None:
            return []
        manifest = await self._manifest(digest)
        return list(manifest.manifests) if manifest is not None else []

    async def _catch_up(self, subject: Digest) -> list[Descriptor]:
        """Index what other registries pushed since this one last looked.

        Returns:
            The referrers of the subject that can't be put into the index now.
        """
        scan = self._scans.scan(self._name)
        async with scan.lock:
            now = time.monotonic()
            is_in_bucket = self._driver.objects is not None
            if is_in_bucket and now - scan.looked_at < _LOOK_SECONDS:
                return []
            token = None if is_in_bucket else await self._fingerprint()
            if token == _NO_REVISIONS or (token is not None and token == await self._scanned()):
                return []
            if scan.unsaved is None:
                saved = await self._saved()
                scan.unsaved = len(scan.seen - saved)
                scan.seen |= saved
            left_out, is_complete = await self._look_at_new(scan, subject)
            await self._save(scan)
            if token is not None and is_complete:
                path = paths.referrers_scanned(self._name)
                await self._publish(Write(path, token.encode(), durable=False))
            if is_complete:
                scan.looked_at = now
            return left_out

    async def _look_at_new(self, scan: Scan, subject: Digest) -> tuple[list[Descriptor], bool]:
        """Index the revisions that were not seen before, and tell whether that was all of them."""
        left_out: list[Descriptor] = []
        is_complete = True

        async def look_at(digest: Digest) -> None:
            nonlocal is_complete
            await asyncio.sleep(0)
            if await read_link(self._driver, paths.revision_link(self._name, digest)) is None:
                # The link may come back without a change of the folder the token is made of.
                is_complete = False
                return
            manifest = await self._manifest(digest)
            if manifest is None or await self._publish(*self.put_steps(manifest, digest)):
                scan.seen.add(digest)
                scan.unsaved = (scan.unsaved or 0) + 1
                return
            is_complete = False
            if manifest.subject is not None and manifest.subject.digest == subject:
                left_out.append(manifest.as_referrer(digest))

        unseen = [digest for digest in await self._revisions() if digest not in scan.seen]
        await together((look_at(digest) for digest in unseen), self._at_once)
        return left_out, is_complete

    async def _saved(self) -> set[Digest]:
        """Return the revisions that an earlier process has seen."""
        saved: set[Digest] = set()
        try:
            content = await self._driver.read(paths.referrers_seen(self._name))
        except PathNotFound:
            return saved
        for line in content.decode("ascii", "replace").split("\n"):
            # A line that a power cut tore is one that was not seen.
            with contextlib.suppress(DigestInvalid):
                saved.add(Digest.parse(line))
        return saved

    async def _save(self, scan: Scan) -> None:
        """Write down what was seen when it is worth it: the file is written as a whole."""
        if (scan.unsaved or 0) < max(_UNSAVED_MINIMUM, len(scan.seen) // _UNSAVED_SHARE):
            return
        content = "\n".join(str(digest) for digest in scan.seen).encode()
        path = paths.referrers_seen(self._name)
        if await self._publish(Write(path, content, durable=False)):
            scan.unsaved = 0

    async def _revisions(self) -> list[Digest]:
        """Return the digests of the manifests that are here, or once were."""
        found: list[Digest] = []
        for algorithm in Algorithm:
            try:
                names = await self._driver.names(f"{paths.revisions(self._name)}/{algorithm}")
            except PathNotFound:
                continue
            for encoded in names:
                with contextlib.suppress(DigestInvalid):
                    found.append(Digest.parse(f"{algorithm}:{encoded}"))
        return found

    async def _publish(self, *steps: Step) -> bool:
        """Write to the index, and tell whether that was possible: who only asks must not fail."""
        if not steps:
            return True
        if self._read_only:
            return False
        try:
            await self._driver.publish(*steps)
        except (OutOfSpace, ReadOnlyFileSystem):
            return False
        except DriverError as error:
            logger.warning("the referrers index of %s can't be written: %s", self._name, error)
            return False
        return True

    async def _manifest(self, digest: Digest) -> Manifest | None:
        if await read_link(self._driver, paths.revision_link(self._name, digest)) is None:
            return None
        try:
            content = await self._driver.read(paths.blob_data(digest))
            return Manifest.parse(content, None) if is_intact(content, digest) else None
        except (PathNotFound, ManifestInvalid):
            return None

    async def _fingerprint(self) -> str | None:
        """Return a token for the set of revisions, or None when it just changed."""
        tokens = []
        for algorithm in Algorithm:
            folder = f"{paths.revisions(self._name)}/{algorithm}"
            try:
                token = await self._driver.fingerprint(folder)
            except PathNotFound:
                token = _ABSENT
            if token is None:
                return None
            tokens.append(token)
        return " ".join(tokens)

    async def _scanned(self) -> str | None:
        try:
            return (await self._driver.read(paths.referrers_scanned(self._name))).decode("ascii")
        except (PathNotFound, UnicodeDecodeError):
            return None


def _entry_name(descriptor: Descriptor) -> str:
    digest = descriptor.digest
    return f"{digest.algorithm}-{digest.encoded}{_type_key(descriptor.artifact_type)}"


def _type_key(artifact_type: str | None) -> str:
    return "." + hashlib.sha256((artifact_type or "").encode()).hexdigest()[:16]
