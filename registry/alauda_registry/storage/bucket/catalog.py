"""Finds repositories in a bucket, where a listing has keys and no folders.

A page of a listing has up to a thousand keys, which is many small repositories, or a part of a
large one. After a page that is all from one folder of a repository, the rest of that is passed
over, so that no more pages are spent on the thousands of links of one.

Keys come in byte order, where ``a-b/`` and ``a.b/`` are before ``a/``, and ``a/1/`` before
``a/_manifests/``; in the catalog ``a`` is before ``a/1`` and that before ``a-b``. So before ``a-b``
is given away, ``a/`` is looked up, and before ``a/1`` what tells of ``a``, unless the listing is
past it or it was given away before.
"""

import re
from bisect import bisect_right
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import chain, repeat, takewhile

from alauda_registry.oci.errors import NameInvalid
from alauda_registry.oci.reference import LONGEST_NAME, RepositoryName
from alauda_registry.storage import paths
from alauda_registry.storage.bucket import listing
from alauda_registry.storage.bucket.listing import BEHIND_SLASH
from alauda_registry.storage.driver import FileInfo, ObjectStore, is_component, is_path
from alauda_registry.storage.pages import Page
from alauda_registry.storage.together import together

_BELOW = f"{paths.REPOSITORIES}/"
_BEHIND_ALL = "~"
_LARGE_KEPT = 1000

_MANIFESTS = "_manifests"
_UPLOADS = "_uploads"
_NAME_CHARACTERS = re.compile(r"[A-Za-z0-9._-]*+(?:/[A-Za-z0-9._-]++)*+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Span:
    """Keys that follow one another, without what they all begin with.

    Attributes:
        start: They are behind it.
        end: They are before it; "" where they go on to the end.
        last: No name in them is behind this one in the list; "" where that is not known.
        listed: What begins all of their names, and was listed with what is below it.
    """

    start: str
    end: str
    last: str = ""
    listed: str = ""


@dataclass(frozen=True, slots=True)
class _Kept:
    """A page of what is in a folder behind a key."""

    folder: str
    start: str
    files: list[FileInfo]
    more: bool

    def covers(self, start: str) -> bool:
        """Tell whether the page has what is behind another key."""
        if start < self.start or not f"{_BELOW}{start}".startswith(f"{self.folder}/"):
            return False
        return self.reaches(start)

    def reaches(self, key: str) -> bool:
        """Tell whether the page goes beyond a key."""
        return not self.more or f"{_BELOW}{key}" < self.files[-1].path


class _Listing:
    """Lists what is below the folder of repositories, and keeps the pages that were read last."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self._kept: deque[_Kept] = deque(maxlen=2)

    async def begin(self, start: str) -> _Kept:
        """Return the page behind a key, and keep it."""
        async with aclosing(self._read(start)) as pages:
            return await anext(pages)

    async def pages(self, start: str) -> AsyncGenerator[tuple[list[FileInfo], bool], None]:
        """Yield what is behind a key in its folder, and whether more follows there."""
        behind = f"{_BELOW}{start}"
        kept = next((kept for kept in self._kept if kept.covers(start)), None)
        if kept is not None:
            found = [info for info in kept.files if info.path > behind]
            inside = [info for info in found if info.path.startswith(f"{_folder_of(start)}/")]
            more = kept.more and len(inside) == len(found)
            yield inside, more
            if not more:
                return
            behind = found[-1].path
        async with aclosing(self._read(start)) as pages:
            async for page in pages:
                found = [info for info in page.files if info.path > behind]
                if found or not page.more:
                    yield found, page.more

    async def _read(self, start: str) -> AsyncGenerator[_Kept, None]:
        folder, name = _folder_of(start), start.rpartition("/")[2]
        after = f"{folder}/{name}" if name else ""
        async with aclosing(self._objects.pages(folder, start_after=after)) as pages:
            async for files, more in pages:
                kept = _Kept(folder, start, files, more)
                self._kept.append(kept)
                yield kept
                start = files[-1].path.removeprefix(_BELOW) if files else start


class BucketCatalog:
    """The repositories of a bucket.

    Args:
        objects: The bucket.
    """

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        # Only to ask for the right page first: nothing depends on whether it is still so.
        self._large: set[str] = set()

    async def page(self, *, after: str, limit: int | None) -> Page:
        """Return a page of the names of repositories that manifests were pushed to.

        Args:
            after: The last name of the page before; it need not be there.
            limit: How many names a page holds; None for all.
        """
        if limit is None and not after:
            return Page(sorted(await self._all(_MANIFESTS), key=_order), more=False)
        found: list[str] = []
        listing = await self._begun(after)
        for span in _spans(after):
            wanted = None if limit is None else limit + 1 - len(found)
            found += await _find(listing, span, after, wanted)
            if limit is not None and len(found) > limit:
                return Page(found[:limit], more=True)
        return Page(found, more=False)

    async def uploading(self) -> list[RepositoryName]:
        """Return the names of repositories that uploads are under way to."""
        return [RepositoryName(name) for name in await self._all(_UPLOADS)]

    async def _begun(self, after: str) -> _Listing:
        """Return a listing that has read the page that most likely has all that is asked for.

        What follows ``a/b`` is in several places, of which what begins with ``a-`` is the first.
        Unless ``a`` is large, a page that begins there goes through all of them.
        """
        listing = _Listing(self._objects)
        components = _components(after)
        for count in range(1, len(components)):
            above = "/".join(components[:count])
            if above in self._large:
                continue
            if not (await listing.begin(f"{above}-")).reaches(after):
                if len(self._large) >= _LARGE_KEPT:
                    self._large.clear()
                self._large.add(above)
            break
        return listing

    async def _all(self, mark: str) -> list[str]:
        """Return all names that have a folder; where there are many, some parts are asked at once.

        A part begins at a first component of the names, and is as large as the first page shows.
        """
        first = _Listing(self._objects)
        begun = await first.begin("")
        starts = [""]
        if begun.more:
            landmarks = await listing.folders(self._objects)
            passed = bisect_right(landmarks, begun.files[-1].path)
            starts += [path.removeprefix(_BELOW) for path in landmarks[passed :: max(1, passed)]]
        spans = map(Span, starts, [*starts[1:], ""])
        listings = chain([first], (_Listing(self._objects) for _ in starts[1:]))
        found = await together(
            map(_in_span, listings, repeat(mark), spans), at_once=listing.PARTS_AT_ONCE
        )
        return sorted({name for names in found for name in names})


def heads(name: str) -> Iterator[str]:
    """Yield the names that come before this one, though with a slash behind them they do not."""
    return (name[:index] for index, character in enumerate(name) if character in "-.")


def _spans(after: str) -> Iterator[Span]:
    """Yield where in the bucket what follows a name is, in the order of the list.

    That is what begins with the same components, then what follows these: ``a/b`` is followed by
    the rest of ``a/``, by ``a-…`` and ``a.…``, which are before it in the bucket, and by the rest.
    """
    components = _components(after)
    start = "/".join(components)
    for count in range(len(components) - 1, -1, -1):
        above = "/".join(components[:count])
        yield Span(start, f"{above}{BEHIND_SLASH}" if above else "")
        if above:
            yield Span(f"{above}-", f"{above}/", listed=above)
            start = f"{above}{BEHIND_SLASH}"


async def _in_span(listing: _Listing, mark: str, span: Span) -> list[str]:
    async with aclosing(_names(listing, mark, span)) as names:
        return [name async for name, _ in names if name is not None]


def _components(after: str) -> list[str]:
    """Return the components of what may be no name, as far as folders may have such names."""
    # What no name has in it need not be sent to a server; it would not know what to do with it.
    text = _NAME_CHARACTERS.match(after)[0]  # type: ignore[index]
    components = text[:LONGEST_NAME].split("/")
    valid = list(takewhile(is_component, components))
    return components[: len(valid) + 1]


async def _find(listing: _Listing, span: Span, after: str, wanted: int | None) -> list[str]:
    """Return the first names in a span that follow a name, in the order of the list."""
    found: set[str] = set()
    looked_up = {_below(span.listed)}
    async with aclosing(_names(listing, _MANIFESTS, span)) as names:
        async for name, reached in names:
            if name is not None:
                if _order(name) > _order(after):
                    found.add(name)
                continue
            while wanted is not None and len(found) >= wanted:
                first = sorted(found, key=_order)[:wanted]
                # All of them are what the name begins with that the listing has come to.
                missing = {
                    other
                    for name in first
                    for other in _before(name)
                    if other not in looked_up and _is_ahead(other, reached, after)
                }
                if not missing:
                    return first
                for other in missing:
                    found.update(await _find(listing, other, after, wanted))
                looked_up |= missing
    return sorted(found, key=_order)[:wanted]


async def _names(
    listing: _Listing, mark: str, span: Span
) -> AsyncGenerator[tuple[str | None, str], None]:
    """Yield the names of repositories that have a folder, and how far the listing has come.

    Args:
        listing: Of the bucket.
        mark: The folder's name, such as ``_manifests``.
        span: Where to look.
    """
    last_name = ""
    # Where to go on, the next one last: a listing begins directly in a folder and ends with it.
    starts = [span.start]
    while starts:
        start = starts.pop()
        async with aclosing(listing.pages(start)) as pages:
            async for files, more in pages:
                for info in files:
                    reached = info.path.removeprefix(_BELOW)
                    if span.end and reached >= span.end:
                        yield None, reached
                        return
                    name, found = _split(info)
                    if found == mark and name != last_name and _is_name(name):
                        last_name = name
                        yield name, reached
                if not more:
                    break
                yield None, files[-1].path.removeprefix(_BELOW)
                if jump := _jump(files, mark):
                    starts += [*_climb(jump, _behind(start)), jump]
                    break
        yield None, starts[-1] if starts else span.end or _BEHIND_ALL


def _folder_of(start: str) -> str:
    return f"{_BELOW}{start}".rpartition("/")[0]


def _behind(start: str) -> str:
    """Return what is behind the folder that a key is in."""
    above = start.rpartition("/")[0]
    return f"{above}{BEHIND_SLASH}" if above else ""


def _climb(start: str, end: str) -> list[str]:
    """Return where a listing goes on behind the folders that a key is in, up to an end."""
    components = start.split("/")
    behind = (
        f"{'/'.join(components[:count])}{BEHIND_SLASH}" for count in range(1, len(components))
    )
    return [key for key in behind if not end or key < end]


def _split(info: FileInfo) -> tuple[str, str]:
    """Return the repository that a file belongs to, and in which of its folders it is."""
    components = info.path.removeprefix(_BELOW).split("/")
    for index, component in enumerate(components):
        if component.startswith("_"):
            return "/".join(components[:index]), component
    return "", ""


def _jump(files: Sequence[FileInfo], mark: str) -> str:
    """Return what passes over the rest of a folder that a whole page is from, or ""."""
    name, found = _split(files[0])
    if not found or _split(files[-1]) != (name, found) or not is_path(f"{_BELOW}{name}"):
        return ""
    # Nothing is lost: no key ends with a folder's name, and none has a tilde there.
    return f"{name}/{mark}" if found < mark else f"{name}/_~"


def _before(name: str) -> Iterator[Span]:
    """Yield where names are that come before this one, though their keys may be behind its."""
    yield from map(_below, heads(name))
    for index, character in enumerate(name):
        if character == "/":
            manifests = f"{name[:index]}/{_MANIFESTS}"
            yield Span(f"{manifests}/", f"{manifests}{BEHIND_SLASH}", last=name[:index])


def _below(name: str) -> Span:
    """Return where a name and those below it are."""
    return Span(f"{name}/", f"{name}{BEHIND_SLASH}", last=f"{name}/~")


def _is_ahead(span: Span, reached: str, after: str) -> bool:
    """Tell whether a span has not been listed, and may have names that belong behind another."""
    return reached < span.end and _order(after) < _order(span.last)


def _order(name: str) -> str:
    """Return what names are sorted by: a slash is before every other character."""
    return name.replace("/", "\0")


def _is_name(name: str) -> bool:
    try:
        RepositoryName.parse(name)
    except NameInvalid:
        return False
    return True
