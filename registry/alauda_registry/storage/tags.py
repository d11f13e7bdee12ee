"""The tags of one repository.

A tag points to a digest, exactly the one that was pushed, algorithm and all. A tag whose
manifest is gone reads as absent.
"""

import asyncio

from alauda_registry.oci.digest import Digest
from alauda_registry.oci.errors import ManifestUnknown, NameUnknown
from alauda_registry.oci.reference import RepositoryName, Tag, is_tag
from alauda_registry.storage import locks, paths
from alauda_registry.storage.content import logger, read_link
from alauda_registry.storage.driver import (
    AccessRefused,
    Ensure,
    PathNotFound,
    Step,
    StorageDriver,
    Write,
)
from alauda_registry.storage.pages import Page

_READS_BETWEEN_BREAKS = 256


class TagStore:
    """Resolves, lists, moves and deletes the tags of one repository."""

    def __init__(self, driver: StorageDriver, name: RepositoryName) -> None:
        self._driver = driver
        self._name = name

    async def target(self, tag: Tag) -> Digest:
        """Return what a tag points to, whether or not the manifest is there.

        Raises:
            ManifestUnknown: There is no such tag.
        """
        digest = await read_link(self._driver, paths.tag_current(self._name, tag))
        if digest is None:
            raise ManifestUnknown(tag=tag)
        return digest

    async def resolve(self, tag: Tag) -> Digest:
        """Return the digest of the manifest a tag points to.

        Raises:
            ManifestUnknown: There is no such tag, or its manifest is gone.
        """
        digest = await self.target(tag)
        while await read_link(self._driver, paths.revision_link(self._name, digest)) is None:
            # Moved since, perhaps, and what it pointed to before was deleted.
            now = await self.target(tag)
            if now == digest:
                raise ManifestUnknown(tag=tag)
            digest = now
        return digest

    async def page(self, *, after: str = "", limit: int | None) -> Page:
        """Return a page of the tags in byte order; only their names are read.

        Raises:
            NameUnknown: Nothing was ever pushed to the repository.
        """
        return Page.cut(await self._names(), after=after, limit=limit, is_valid=is_tag)

    async def delete(self, tag: Tag) -> None:
        """Delete a tag; its manifest stays.

        Raises:
            Busy: The pushes under way in this repository took too long.
            ManifestUnknown: There is no such tag.
        """
        async with locks.deleting(self._driver, self._name):
            await self.remove(tag)

    async def remove(self, tag: Tag) -> None:
        """Delete a tag for a caller who holds the repository's lock.

        Raises:
            ManifestUnknown: There is no such tag.
        """
        try:
            await self._driver.delete(paths.tag(self._name, tag))
        except PathNotFound as missing:
            raise ManifestUnknown(tag=tag) from missing

    async def pointing_to(self, digest: Digest) -> list[Tag]:
        """Return the tags that point to a digest."""
        found: list[Tag] = []
        try:
            names = await self._names()
        except NameUnknown:
            return found
        for count, tag in enumerate(Tag(name) for name in filter(is_tag, names)):
            try:
                if await read_link(self._driver, paths.tag_current(self._name, tag)) == digest:
                    found.append(tag)
            except AccessRefused as error:
                # One file of somebody else's must not keep a repository from being cleaned up.
                # Any other trouble may pass, and a tag that was not seen would be left behind.
                logger.error("a tag is left out: %s", error)
            if count % _READS_BETWEEN_BREAKS == 0:
                await asyncio.sleep(0)
        return found

    def pointer(self, tag: Tag, digest: Digest) -> Write:
        """Return the step that lets a tag in a bucket point to a digest.

        It has no history there: to read what it was would cost a request, and a history without
        its tag would be listed as one.
        """
        return Write(paths.tag_current(self._name, tag), str(digest).encode())

    async def put_steps(self, tag: Tag, digest: Digest) -> list[Step]:
        """Return the steps that let a tag point to a digest; their order does not matter.

        What it pointed to before goes into the tag's history. distribution writes what it
        points to there, too, but nothing reads it, and ``current`` says it already.
        """
        current = paths.tag_current(self._name, tag)
        before = await read_link(self._driver, current)
        if before == digest:
            return [Ensure(current)]
        # A folder alone would be listed as a tag, and answered with 404.
        folder = paths.tag(self._name, tag)
        steps: list[Step] = [Write(current, str(digest).encode(), folder=folder)]
        if before is not None:
            history = paths.tag_history(self._name, tag, before)
            steps.append(Write(history, str(before).encode()))
        return steps

    async def _names(self) -> list[str]:
        try:
            names = await self._driver.names(paths.tags(self._name))
        except PathNotFound as missing:
            try:
                await self._driver.names(paths.manifests(self._name))
            except PathNotFound:
                raise NameUnknown(name=self._name) from missing
            return []
        return names
