"""Reading a tree in a bucket by the pages of its listing.

A page tells of a thousand objects, with the MD5 of each, as their ETags usually are. That says what
a link holds without reading it: most links hold what their path says, and a tag one of the
manifests of its repository, whose links come before it. What a page does not tell is read.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from typing_extensions import override

from alauda_registry.storage import paths
from alauda_registry.storage.bucket import listing
from alauda_registry.storage.driver import (
    PIECE_MARK,
    FileInfo,
    ObjectStore,
    StorageDriver,
    etag_of,
    is_path,
)
from alauda_registry.storage.fsck.files import File, is_read, odd
from alauda_registry.storage.fsck.tree import DriverTree

_MANIFESTS_KEPT = 100_000
_TAGS = "/_manifests/tags/"
_UPLOADS = "/_uploads/"


class BucketTree(DriverTree):
    """Reads a tree in a bucket.

    Args:
        driver: The bucket.
        objects: The same.
        jobs: How many blobs are hashed at once, about.
    """

    def __init__(self, driver: StorageDriver, objects: ObjectStore, *, jobs: int) -> None:
        super().__init__(driver)
        self.jobs = jobs
        self._objects = objects

    @override
    async def walk(self, folder: str) -> AsyncGenerator[Sequence[File], None]:
        links = _Links()
        listed = (
            listing.everything(self._objects)
            if folder == paths.ROOT
            else listing.pages(self._objects, folder)
        )
        async with aclosing(listed) as pages:
            async for page in pages:
                known = {info.path: _known(info, links) for info in page}
                unknown = [info for info in page if known[info.path] is None]
                # In the order of the page.
                known |= {file.path: file for file in await self._read_all(unknown)}
                yield [file for file in known.values() if file is not None]


class _Links:
    """Tells what links hold from their ETags."""

    def __init__(self) -> None:
        self._repository = ""
        self._manifests: dict[str, bytes] = {}

    def content(self, info: FileInfo) -> bytes | None:
        """Return what a link holds, or None where its ETag does not say."""
        repository, is_of_tag, rest = info.path.partition(_TAGS)
        if is_of_tag and rest.endswith("/current/link"):
            return self._manifests.get(info.etag) if repository == self._repository else None
        *_, folder, algorithm, encoded, name = info.path.split("/")
        content = f"{algorithm}:{encoded}".encode()
        if name != "link" or info.etag != etag_of(content):
            return None
        if folder == "revisions":
            repository = info.path.partition("/_manifests/")[0]
            if repository != self._repository or len(self._manifests) >= _MANIFESTS_KEPT:
                self._repository, self._manifests = repository, {}
            self._manifests[info.etag] = content
        return content


def _known(info: FileInfo, links: _Links) -> File | None:
    """Return a file as far as the listing tells of it; None if it has to be read."""
    modified = info.modified_at.timestamp()
    if not is_path(info.path):
        if _UPLOADS in info.path and is_path(info.path.replace(PIECE_MARK, "-")):
            return File(info.path, info.size, modified)
        return odd("", info.path[1:])
    if not is_read(info.path):
        return File(info.path, info.size, modified)
    content = links.content(info)
    return None if content is None else File(info.path, info.size, modified, content)
