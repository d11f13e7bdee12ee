"""Everything below a folder of a bucket, by the pages of its listing.

A listing goes on where its last page ended, so one page is asked for after the other, unless it is
known where else to begin: at the names in a directory, or anywhere among digests, which are spread
evenly. Such landmarks cut a long listing into parts of about a page each, of which some are listed
at once and given away in order. Cutting costs a request for each part at most, and only what was
listed tells how large the next ones are to be.
"""

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from operator import attrgetter

from alauda_registry.storage import paths
from alauda_registry.storage.driver import FileInfo, ObjectStore

PARTS_AT_ONCE = 8
"""How many parts of a listing are under way."""

PAGES_AHEAD = 4
"""How many pages of a part wait at most for whoever reads those before."""

BEHIND_SLASH = "0"
"""The character that follows the slash: what is behind a folder is behind its name with this."""

_BLOBS = f"{paths.ROOT}/blobs"
_DIGESTS = f"{_BLOBS}/sha256"

_FULL = 0.9
"""How much of a page a part is to fill: a little too large, it takes two."""

_GROWTH = 4
"""How many times as many landmarks a part may have as the last one: where there was nothing, there
may be much behind it."""

_path_of = attrgetter("path")

Pages = AsyncGenerator[list[FileInfo], None]


async def pages(objects: ObjectStore, folder: str) -> Pages:
    """Yield the pages of a listing in order; the next one is asked for while somebody has one.

    All keys are on them, also those that are no paths.
    """
    async with aclosing(objects.pages(folder)) as listing:
        coming = asyncio.ensure_future(anext(listing, None))
        try:
            while (found := await coming) is not None:
                coming = asyncio.ensure_future(anext(listing, None))
                yield found[0]
        finally:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)


async def files(objects: ObjectStore, folder: str) -> AsyncGenerator[FileInfo, None]:
    """Yield what is on the pages of a listing."""
    async with aclosing(pages(objects, folder)) as found:
        async for page in found:
            for info in page:
                yield info


async def cut(objects: ObjectStore, folder: str, landmarks: Iterable[str]) -> Pages:
    """Do as :func:`pages`, with several parts of the listing under way where it is long.

    Args:
        objects: The bucket.
        folder: What to list.
        landmarks: Where it may be cut: in order, paths directly in the folder. Nothing need be
            there.
    """
    page, more = await objects.page(folder)
    if not more:
        yield page
        return
    async with aclosing(_in_parts(objects, folder, landmarks, page)) as found:
        async for page in found:
            yield page


async def everything(objects: ObjectStore) -> Pages:
    """Do as :func:`cut` for all that registries keep: blobs by their digests, then repositories."""
    start = ""
    while True:
        inside: str | None = None
        page: list[FileInfo] = []
        async with aclosing(objects.pages(paths.ROOT, start_after=start)) as listing:
            async for page, more in listing:
                if more and (inside := _long_folder(page[-1].path)):
                    break
                yield page
        if inside is None:
            return
        landmarks = digests(inside) if inside == _DIGESTS else await folders(objects)
        async with aclosing(_in_parts(objects, inside, landmarks, page)) as found:
            async for page in found:
                yield page
        start = f"{inside}{BEHIND_SLASH}"
        if inside == _DIGESTS:
            async with aclosing(objects.pages(_BLOBS, start_after=start)) as listing:
                async for page, _ in listing:
                    yield page
            start = f"{_BLOBS}{BEHIND_SLASH}"


def digests(folder: str) -> Iterator[str]:
    """Return landmarks among the digests of a folder."""
    return (f"{folder}/{number:03x}" for number in range(1, 16**3))


async def folders(objects: ObjectStore) -> list[str]:
    """Return landmarks among the repositories: a request for a thousand of their first folders."""
    found: list[str] = []
    async with aclosing(objects.folders(paths.REPOSITORIES)) as names:
        async for some, _ in names:
            found += [f"{paths.REPOSITORIES}/{name}" for name in some]
    return sorted(found)


def _long_folder(path: str) -> str | None:
    """Return which of the folders that can be cut a file is in."""
    for folder in (_DIGESTS, paths.REPOSITORIES):
        if path.startswith(f"{folder}/"):
            return folder
    return None


async def _in_parts(
    objects: ObjectStore, folder: str, landmarks: Iterable[str], page: list[FileInfo]
) -> Pages:
    """Yield a page, and what follows it in a folder."""
    behind = page[-1].path
    parts = _Parts(landmarks, page)
    readings: deque[_Reading] = deque()
    try:
        coming: list[FileInfo] | None = page
        while True:
            while len(readings) < PARTS_AT_ONCE and (part := parts.take()):
                readings.append(_Reading(objects, folder, part, behind))
            if coming:
                yield coming
            if not readings:
                return
            coming = await readings[0].next()
            if coming is None:
                parts.measure(readings.popleft())
    finally:
        for reading in readings:
            reading.task.cancel()
        await asyncio.gather(*(reading.task for reading in readings), return_exceptions=True)


@dataclass(frozen=True, slots=True)
class _Part:
    """Keys that follow one another.

    Attributes:
        start: They are behind this one; "" where the folder begins with them.
        until: They are not behind this one; "" where they go on to the folder's end.
        landmarks: How many they begin at.
    """

    start: str
    until: str
    landmarks: int


class _Parts:
    """Cuts what follows a page into parts of about a page each."""

    def __init__(self, landmarks: Iterable[str], page: Sequence[FileInfo]) -> None:
        ahead = [mark for mark in landmarks if mark > page[0].path]
        passed = bisect_right(ahead, page[-1].path)
        # Where the page ended is no place to begin at, but the landmark before it is.
        self._landmarks = deque(ahead[passed - 1 :] if passed else ["", *ahead])
        self._keys = len(page)
        self._size = max(1, int(_FULL * passed))

    def take(self) -> _Part | None:
        """Return the next part; None where there are no more."""
        count = min(self._size, len(self._landmarks))
        if not count:
            return None
        start, *_ = (self._landmarks.popleft() for _ in range(count))
        return _Part(start, self._landmarks[0] if self._landmarks else "", count)

    def measure(self, reading: "_Reading") -> None:
        """Let the next parts be as large as this one shows that they should be."""
        largest = _GROWTH * self._size
        if reading.keys:
            fitting = int(_FULL * self._keys * reading.part.landmarks / reading.keys)
            largest = min(fitting, largest)
        self._size = max(1, largest)


class _Reading:
    """Lists a part, some pages ahead of whoever takes them.

    Args:
        objects: The bucket.
        folder: What to list.
        part: Which part of it.
        behind: Keys up to this one are left out.

    Attributes:
        part: Which.
        keys: How many keys it has so far.
        task: Lists it.
    """

    def __init__(self, objects: ObjectStore, folder: str, part: _Part, behind: str) -> None:
        self.part = part
        self.keys = 0
        self._behind = behind
        self._pages: asyncio.Queue[list[FileInfo] | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(PAGES_AHEAD)
        self.task = asyncio.ensure_future(self._list(objects, folder))

    async def next(self) -> list[FileInfo] | None:
        """Return the next page; None where there are no more."""
        page = await self._pages.get()
        if page is None:
            await self.task
        self._room.release()
        return page

    async def _list(self, objects: ObjectStore, folder: str) -> None:
        part, is_over = self.part, False
        try:
            async with aclosing(objects.pages(folder, start_after=part.start)) as listing:
                while not is_over:
                    await self._room.acquire()
                    page, more = await anext(listing)
                    is_over = not more
                    if part.until and page and page[-1].path > part.until:
                        page = page[: bisect_right(page, part.until, key=_path_of)]
                        is_over = True
                    self.keys += len(page)
                    if page and page[0].path <= self._behind:
                        page = page[bisect_right(page, self._behind, key=_path_of) :]
                    self._pages.put_nowait(page)
        finally:
            self._pages.put_nowait(None)
