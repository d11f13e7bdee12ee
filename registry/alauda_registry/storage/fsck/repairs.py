"""Puts right what can be put right without losing anything.

What leads to nothing is moved out of the tree into a folder of this run, under the path it
had, so that it can be moved back by hand; what can be computed is written anew. Data is never
deleted. Deletions and pushes of manifests are held off by the repository's lock, which the caller
has. Commits of uploads take no such lock, so whatever was moved is looked at once more: when
somebody has just pushed what was missing, it goes back.

While a file is moved and looked at, a mark says which. A run that is killed meanwhile, or can't
look, leaves it, and the next one looks at that file in its place. Whatever was settled before is
left alone: what was pushed and deleted since must not come back.
"""

import hashlib
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

from alauda_registry.oci.digest import Digest
from alauda_registry.oci.errors import DigestInvalid
from alauda_registry.oci.manifest import Manifest
from alauda_registry.oci.reference import RepositoryName, Tag
from alauda_registry.storage import locks, paths
from alauda_registry.storage.driver import (
    Busy,
    DriverError,
    Move,
    PathNotFound,
    StorageDriver,
    Write,
)
from alauda_registry.storage.fsck.files import LINK_MAXIMUM, Outcome
from alauda_registry.storage.fsck.findings import Finding, Kind
from alauda_registry.storage.fsck.shapes import is_right_link, parse_link
from alauda_registry.storage.fsck.tree import read_beginning, verify
from alauda_registry.storage.referrers import index_entry
from alauda_registry.storage.threads import see_through

_UNFINISHED = "unfinished"
"""The folder of marks, one for each file."""

_BLOBS = f"{paths.ROOT}/blobs/"
_REPOSITORIES = f"{paths.REPOSITORIES}/"


class Repairer:
    """Repairs what was found.

    Args:
        driver: The storage.
        run: A name that no other run has; a path component.
    """

    def __init__(self, driver: StorageDriver, run: str) -> None:
        self._driver = driver
        self._place = f"{paths.QUARANTINE}/{run}"
        self._repairs: Mapping[Kind, Callable[[Finding], Coroutine[Any, Any, str | None]]] = {
            Kind.BLOB_CORRUPT: self._take_away_corrupt,
            Kind.BLOB_MISSING: self._take_away,
            Kind.LINK_INVALID: self._repair_link,
            Kind.LINK_MISMATCH: self._repair_link,
            Kind.MANIFEST_MISSING: self._take_away,
            Kind.TAG_TO_NOTHING: self._take_away_tag,
            Kind.REFERRER_MISSING: self._write_entry,
            Kind.LINK_WITHOUT_DATA: self._take_away,
            Kind.HISTORY_TO_NOTHING: self._take_away,
            Kind.TAG_EMPTY: self._take_away_tag,
            Kind.REFERRER_STALE: self._take_away,
            Kind.REFERRER_NOT_INDEXED: self._write_entry,
        }

    async def repair(self, finding: Finding) -> str | None:
        """Do something about a finding, and say what; None when there is nothing to do.

        Raises:
            DriverError: It could not be done.
        """
        repair = self._repairs.get(finding.kind)
        return None if repair is None else await repair(finding)

    async def begin(self) -> list[str]:
        """Give back what runs that were killed had just taken without need, and say what it is.

        What belongs to a repository that is busy is left for the next time.

        Raises:
            DriverError: It could not be done.
        """
        try:
            runs = await self._driver.names(paths.QUARANTINE)
        except PathNotFound:
            return []
        given_back = []
        for run in runs:
            place = f"{paths.QUARANTINE}/{run}"
            for mark in await self._marks(place):
                with suppress(PathNotFound, Busy):
                    path = (await self._driver.read(mark)).decode("ascii", "replace")
                    if await self._settle(place, path):
                        given_back.append(path)
                    await self._driver.delete(mark)
        return given_back

    async def _marks(self, place: str) -> list[str]:
        try:
            names = await self._driver.names(f"{place}/{_UNFINISHED}")
        except PathNotFound:
            return []
        return [f"{place}/{_UNFINISHED}/{name}" for name in names]

    async def _settle(self, place: str, path: str) -> bool:
        """Look at a file whose move was cut short, as nobody may delete what it belongs to."""
        if path.startswith(_BLOBS):
            return await self._give_back(place, path)
        if not path.startswith(_REPOSITORIES):
            return False
        name, _, _ = path.removeprefix(_REPOSITORIES).partition("/_")
        async with locks.deleting(self._driver, name):
            return await self._give_back(place, path)

    async def _take_away(self, finding: Finding) -> str | None:
        if not await self._move(finding.path):
            return None
        if "/_manifests/revisions/" in finding.path:
            await self._drop_folder(finding.path.removesuffix("/link"))
        return f"moved to {self._place}{finding.path}"

    async def _take_away_tag(self, finding: Finding) -> str | None:
        folder = paths.tag(RepositoryName(finding.repository or ""), Tag(finding.tag or ""))
        async with aclosing(self._driver.walk(folder)) as files:
            found = [info.path async for info in files]
        for path in found:
            await self._move(path)
        await self._drop_folder(folder)
        return f"moved to {self._place}{folder}"

    async def _take_away_corrupt(self, finding: Finding) -> str | None:
        if not await self._move(finding.path, finding):
            return None
        return f"moved to {self._place}{finding.path}"

    async def _repair_link(self, finding: Finding) -> str | None:
        """Write a link anew where its path says all there is to say, or else move it."""
        if finding.tag is not None:
            return await self._take_away_tag(finding)
        digest = Digest.parse(finding.digest or "")
        try:
            await self._driver.stat(paths.blob_data(digest))
        except PathNotFound:
            return await self._take_away(finding)
        place, link = f"{self._place}{finding.path}", Write(finding.path, str(digest).encode())
        is_small = (await self._driver.stat(finding.path)).size < LINK_MAXIMUM
        if is_small:
            held = await self._driver.read(finding.path)
            await self._driver.publish(Write(place, held), link)
        else:
            async with self._marked(finding.path) as mark:
                await self._driver.publish(mark, Move(finding.path, place), link)
        return f"written anew; what it held is in {place}"

    async def _write_entry(self, finding: Finding) -> str | None:
        digest = Digest.parse(finding.digest or "")
        content = await self._driver.read(paths.blob_data(digest))
        entry = index_entry(
            RepositoryName(finding.repository or ""), Manifest.parse(content, None), digest
        )
        if entry is None:
            return None
        await self._driver.publish(entry)
        return "written anew"

    async def _move(self, path: str, corrupt: Finding | None = None) -> bool:
        """Move a file into quarantine, and tell whether it stays there.

        Args:
            path: The file.
            corrupt: What was said of it, if it is a blob.
        """
        # Who is asked to stop meanwhile does not leave it half done.
        return await see_through(self._move_and_look(path, corrupt))

    async def _move_and_look(self, path: str, corrupt: Finding | None) -> bool:
        moved = f"{self._place}{path}"
        async with self._marked(path) as mark:
            await self._driver.publish(mark, Move(path, moved))
            if corrupt is not None:
                info = await self._driver.stat(moved)
                # Hashing takes long, and is only needed when it was just replaced.
                if (info.size, info.modified_at) == (corrupt.size, corrupt.modified_at):
                    return True
            return not await self._give_back(self._place, path)

    @asynccontextmanager
    async def _marked(self, path: str) -> AsyncGenerator[Write, None]:
        """Yield the mark to write before a file is moved, and remove it when that is settled."""
        mark = f"{self._place}/{_UNFINISHED}/{hashlib.sha256(path.encode()).hexdigest()}"
        try:
            yield Write(mark, path.encode())
        except DriverError:
            if await self._is_moved(path):
                raise
            with suppress(DriverError):
                await self._driver.delete(mark)
            raise
        with suppress(PathNotFound):
            await self._driver.delete(mark)

    async def _is_moved(self, path: str) -> bool:
        try:
            await self._driver.stat(f"{self._place}{path}")
        except PathNotFound:
            return False
        except DriverError:
            # Perhaps; the next run finds out.
            return True
        return True

    async def _give_back(self, place: str, path: str) -> bool:
        """Move a file back if it is right where it was, and tell whether it is.

        Only links to blobs and manifests, and blobs: they say the same whoever writes them,
        so that nothing newer can be overwritten.
        """
        if not await self._is_right(place, path):
            return False
        try:
            await self._driver.publish(Move(f"{place}{path}", path))
        except PathNotFound:
            return False
        return True

    async def _is_right(self, place: str, path: str) -> bool:
        moved = f"{place}{path}"
        try:
            if path.startswith(_BLOBS):
                *_, algorithm, _, encoded, _ = path.split("/")
                digest = Digest.parse(f"{algorithm}:{encoded}")
                outcome = await verify(self._driver, moved, digest, lambda _: None)
                return outcome is Outcome.INTACT
            if not path.endswith("/link") or "/_manifests/tags/" in path:
                return False
            content = await read_beginning(self._driver, moved)
            target = parse_link(content)
            if target is None or not is_right_link(path, content):
                return False
            await self._driver.stat(paths.blob_data(target))
        except (PathNotFound, DigestInvalid, ValueError):
            return False
        return True

    async def _drop_folder(self, folder: str) -> None:
        """Remove a folder that has no files any more, so that it is not taken for something."""
        async with aclosing(self._driver.walk(folder)) as left:
            async for _ in left:
                return
        try:
            await self._driver.delete(folder)
        except PathNotFound:
            return
