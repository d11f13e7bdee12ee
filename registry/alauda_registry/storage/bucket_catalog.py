"""Finds repositories in a bucket, where a listing has keys and no folders.

A page of a listing has up to a thousand keys, which is many small repositories, or a part of a
large one. What is left of a repository is passed over once it is known what it has, so that no page
is spent on the thousands of links of one.

Keys come in byte order, where ``a-b/`` and ``a.b/`` are before ``a/``; in the catalog ``a`` is
before ``a/b`` and that before ``a-b``. So a name that was found can be given away only when the
listing is past everything that belongs before it.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from alauda_registry.oci.errors import NameInvalid
from alauda_registry.oci.reference import RepositoryName
from alauda_registry.storage import paths
from alauda_registry.storage.driver import FileInfo, ObjectStore
from alauda_registry.storage.pages import Page

_BELOW = f"{paths.REPOSITORIES}/"
_BEHIND_SLASH = "0"
"""The character that follows the slash."""

_MANIFESTS = "_manifests"
_UPLOADS = "_uploads"


async def page(objects: ObjectStore, *, after: str, limit: int | None) -> Page:
    """Return a page of the names of repositories that manifests were pushed to.

    Args:
        objects: The bucket.
        after: The last name of the page before; it need not be there.
        limit: How many names a page holds; None for all.
    """
    found: list[str] = []
    # What begins with the same component may come before it in bytes, and behind it in the list.
    start = after.partition("/")[0]
    async with aclosing(_names(objects, _MANIFESTS, start)) as names:
        async for name, reached in names:
            if name is not None and _order(name) > _order(after):
                found.append(name)
            if limit is not None and len(found) > limit:
                first = sorted(found, key=_order)[: limit + 1]
                if all(_is_past(reached, name) for name in first):
                    return Page(list(first[:limit]), more=True)
    found.sort(key=_order)
    if limit is None:
        return Page(found, more=False)
    return Page(found[:limit], more=len(found) > limit)


async def uploading(objects: ObjectStore) -> list[RepositoryName]:
    """Return the names of repositories that uploads are under way to."""
    return [
        RepositoryName(name) async for name, _ in _names(objects, _UPLOADS, "") if name is not None
    ]


async def _names(
    objects: ObjectStore, mark: str, start: str
) -> AsyncGenerator[tuple[str | None, str], None]:
    """Yield the names of repositories that have a folder, and how far the listing has come.

    Args:
        objects: The bucket.
        mark: The folder's name, such as ``_manifests``.
        start: Names below it in byte order may be left out.
    """
    reached, more = start, True
    last_name = ""
    while more:
        files, more = await objects.page(
            paths.REPOSITORIES, start_after=f"{_BELOW}{reached}" if reached else ""
        )
        for info in files:
            reached = info.path.removeprefix(_BELOW)
            name, found = _split(info)
            if found == mark and name != last_name and _is_name(name):
                last_name = name
                yield name, reached
        if more:
            reached = _next(reached, mark)
        yield None, reached


def _split(info: FileInfo) -> tuple[str, str]:
    """Return the repository that a file belongs to, and in which of its folders it is."""
    components = info.path.removeprefix(_BELOW).split("/")
    for index, component in enumerate(components):
        if component.startswith("_"):
            return "/".join(components[:index]), component
    return "", ""


def _next(reached: str, mark: str) -> str:
    """Return where to go on: not with what else is in the folder that the page ended in."""
    components = reached.split("/")
    for index, component in enumerate(components):
        if component.startswith("_"):
            name = "/".join(components[:index])
            # Nothing is lost: no key ends with a folder's name, and none has a tilde there.
            return f"{name}/{mark}" if component < mark else f"{name}/_~"
    return reached


def _is_past(reached: str, name: str) -> bool:
    """Tell whether everything that belongs before a name in the list has been listed."""
    bound = f"{name}/"
    for index, character in enumerate(name):
        if character in "-.":
            bound = max(bound, f"{name[:index]}{_BEHIND_SLASH}")
    return reached >= bound


def _order(name: str) -> str:
    """Return what names are sorted by: a slash is before every other character."""
    return name.replace("/", "\0")


def _is_name(name: str) -> bool:
    try:
        RepositoryName.parse(name)
    except NameInvalid:
        return False
    return True
