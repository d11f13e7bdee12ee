"""The tags of one repository in a bucket, where a listing costs a request for each thousand.

Names come in byte order with a slash behind them, where ``1-a/`` and ``1.a/`` are before ``1/``; in
a list of tags ``1`` is first.
"""

import re
from contextlib import aclosing

from typing_extensions import override

from alauda_registry.oci.digest import Digest
from alauda_registry.oci.errors import NameUnknown
from alauda_registry.oci.reference import RepositoryName, Tag, is_tag
from alauda_registry.storage import paths
from alauda_registry.storage.bucket import listing
from alauda_registry.storage.bucket.catalog import heads
from alauda_registry.storage.content import read_link
from alauda_registry.storage.driver import ObjectStore, PathNotFound, StorageDriver, etag_of
from alauda_registry.storage.pages import Page
from alauda_registry.storage.tags import TagStore
from alauda_registry.storage.together import together

_TAG_CHARACTERS = re.compile(r"[A-Za-z0-9._-]*+", re.ASCII)


class BucketTagStore(TagStore):
    """Lists the tags of one repository a page at a time."""

    def __init__(self, driver: StorageDriver, objects: ObjectStore, name: RepositoryName) -> None:
        super().__init__(driver, name)
        self._objects = objects

    @override
    async def page(self, *, after: str = "", limit: int | None) -> Page:
        if limit is None:
            return await super().page(after=after, limit=None)
        # What no tag has in it need not be sent to a server; it would not know what to do with it.
        start = _TAG_CHARACTERS.match(after)[0]  # type: ignore[index]
        found: set[str] = set()
        folders = self._objects.folders(paths.tags(self._name), start_after=start)
        async with aclosing(folders) as pages:
            async for names, more in pages:
                found.update(name for name in names if name > after and is_tag(name))
                if more and len(found) > limit:
                    found |= await self._heads(sorted(found)[: limit + 1], after, names[-1])
                    break
        if not found and not (after and await self._has(paths.tags(self._name))):
            return await super().page(after=after, limit=limit)
        return Page.cut(sorted(found), after=after, limit=limit)

    @override
    async def pointing_to(self, digest: Digest) -> list[Tag]:
        """Return the tags that point to a digest.

        The listing says what they hold, where the server's ETags are what S3's usually are: a link
        is read only if its ETag is not that of a manifest of this repository.
        """
        wanted = etag_of(str(digest).encode())
        others: set[str] = set()
        async for info in listing.files(self._objects, paths.revisions(self._name)):
            *_, algorithm, encoded, _ = info.path.split("/")
            others.add(etag_of(f"{algorithm}:{encoded}".encode()))
        others.discard(wanted)
        found: list[Tag] = []
        unknown: list[Tag] = []
        folder = paths.tags(self._name)
        async for info in listing.files(self._objects, folder):
            name, _, rest = info.path.removeprefix(f"{folder}/").partition("/")
            if rest == "current/link" and is_tag(name) and info.etag not in others:
                (found if info.etag == wanted else unknown).append(Tag(name))
        links = (read_link(self._driver, paths.tag_current(self._name, tag)) for tag in unknown)
        targets = await together(links)
        found += [tag for tag, target in zip(unknown, targets, strict=True) if target == digest]
        return sorted(found)

    async def _heads(self, names: list[str], after: str, reached: str) -> set[str]:
        """Return the tags that belong before some others and that the listing has not come to."""
        missing = {
            head
            for name in names
            for head in heads(name)
            if head > after and f"{head}/" > f"{reached}/" and is_tag(head)
        }
        there = await together(self._has(paths.tag(self._name, Tag(head))) for head in missing)
        return {head for head, is_there in zip(missing, there, strict=True) if is_there}

    @override
    async def _names(self) -> list[str]:
        try:
            return await self._driver.names(paths.tags(self._name))
        except PathNotFound as missing:
            if await self._is_known():
                return []
            raise NameUnknown(name=self._name) from missing

    async def _is_known(self) -> bool:
        """Tell whether there is something of the repository, where no folder stays empty.

        Its own folders come before those of repositories below it, and uploads are the last one.
        """
        folder = paths.repository(self._name)
        found, _ = await self._objects.page(folder, start_after=f"{folder}/_")
        first = found[0].path.removeprefix(f"{folder}/") if found else ""
        return first.startswith("_") and not first.startswith("_uploads/")

    async def _has(self, folder: str) -> bool:
        files, _ = await self._objects.page(folder)
        return bool(files)
