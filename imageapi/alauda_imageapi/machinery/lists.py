"""Lists: which state they show, which objects, and how they go on (facts/apiserver.md 2.6)."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from alauda_imageapi.machinery import objects
from alauda_imageapi.machinery.errors import BadRequest, Expired, too_large_revision
from alauda_imageapi.machinery.objects import Object
from alauda_imageapi.machinery.options import ListOptions, Token
from alauda_imageapi.machinery.representations import Form, Representation, render_list
from alauda_imageapi.machinery.resources import Context, Entry, Listing, Resource
from alauda_imageapi.machinery.store import Compacted, TokenInvalid, TooNew

_GONE = (
    "The provided continue parameter is too old to display a consistent list result. You can start "
    "a new list without the continue parameter, or use the continue token in this response to "
    "retrieve the remainder of the results."
)


_PART = 500
"""Objects that are asked for at once when a selector leaves out some of them."""


@dataclass(frozen=True, slots=True)
class Page:
    """What a client gets.

    Attributes:
        token: Where it goes on; None when this is all.
        left: How many come then, selected or not; None when that is not known.
    """

    revision: int
    entries: list[Entry]
    token: Token | None
    left: int | None

    def metadata(self, options: ListOptions) -> Object:
        """Return the metadata of the list that it is."""
        metadata: Object = {"resourceVersion": str(self.revision)}
        if self.token is not None:
            metadata["continue"] = self.token.encode()
            is_selected = options.labels.requirements or options.fields.requirements
            if self.left is not None and not is_selected:
                metadata["remainingItemCount"] = self.left
        return metadata


async def render(
    resource: Resource, context: Context, options: ListOptions, shown: Representation
) -> bytes:
    """Return a page of a list as it is sent.

    Raises:
        BadRequest: There is no such page.
        Expired: The state it is of is not known any more.
        Timeout: It has not come to that yet.
    """
    page = await turn_to(resource, context, options)
    metadata = page.metadata(options)
    if shown.form is not Form.PLAIN:
        # One after the other: decoded, a page of images takes ten times what is shown of it.
        return objects.encode(shown.many((entry.load() for entry in page.entries), metadata))
    bodies = [
        entry.body() if entry.body is not None else objects.encode(entry.load())
        for entry in page.entries
    ]
    return render_list(resource, bodies, metadata)


async def turn_to(resource: Resource, context: Context, options: ListOptions) -> Page:
    """Return a page of a list, as `render` does.

    Raises:
        BadRequest: There is no such page.
        Expired: The state it is of is not known any more.
        Timeout: It has not come to that yet.
    """
    token = None
    if options.token:
        token = Token.decode(options.token, resource.position_length)
    with _told(options, token):
        page = await _by_part(resource, context, options, token)
        if page is not None:
            return page
        return _cut(await _listing(resource, context, options, token), options, token)


def select(entries: Iterable[Entry], options: ListOptions) -> Iterable[Entry]:
    """Yield what the selectors let through."""
    labels, fields = options.labels, options.fields
    for entry in entries:
        if labels.requirements and not labels.matches(entry.labels()):
            continue
        if fields.requirements and not fields.matches(entry.fields()):
            continue
        yield entry


async def _by_part(
    resource: Resource, context: Context, options: ListOptions, token: Token | None
) -> Page | None:
    """Return a page without looking at all objects; None where that is not to be had."""
    limit, name = options.limit, options.fields.exactly("metadata.name") or ""
    revision, asked, skipped = None, "", 0
    if token is not None:
        if token.skipped is None:
            return None
        revision, asked, skipped = token.revision, token.page, token.skipped
    elif options.revision is not None or not (limit or name):
        return None
    is_selected = options.labels.requirements or options.fields.requirements
    size = max(limit, _PART) if is_selected or not limit else limit
    found: list[Entry] = []
    last: Entry | None = None
    while True:
        part = await resource.part(context, size, revision, asked, name)
        if part is None:
            return None
        revision = part.revision
        fresh = part.entries[skipped:]
        for index, entry in enumerate(fresh):
            if limit and len(found) >= limit:
                left = None if part.left is None else part.left + len(fresh) - index
                seen = len(part.entries) - len(fresh) + index
                goes_on = Token(revision, _behind(last, token), asked, seen)
                return Page(revision, found, goes_on, left)
            last = entry
            found += select([entry], options)
        skipped = max(0, skipped - len(part.entries))
        if not part.token:
            return Page(revision, found, None, None)
        asked = part.token
        if limit and len(found) >= limit:
            goes_on = Token(revision, _behind(last, token), asked, skipped)
            return Page(revision, found, goes_on, part.left)


def _behind(last: Entry | None, token: Token | None) -> tuple[str, ...]:
    if last is not None:
        return last.position()
    return token.position if token is not None else ()


@contextmanager
def _told(options: ListOptions, token: Token | None) -> Iterator[None]:
    """Turn what a store says into what clients are told."""
    try:
        yield
    except TokenInvalid as error:
        raise BadRequest("continue key is not valid: it is of another list") from error
    except Compacted:
        if token is None:
            raise Expired(
                f"The resourceVersion for the provided list is too old: {options.revision}"
            ) from None
        raise Expired(_GONE, token=Token(-1, token.position).encode()) from None
    except TooNew as error:
        raise too_large_revision(error.asked, error.current) from None


async def _listing(
    resource: Resource, context: Context, options: ListOptions, token: Token | None
) -> Listing:
    revision = options.revision or None
    exact = options.match == "Exact" or (options.match == "" and revision and options.limit)
    if token is not None and token.revision > 0:
        return await resource.listing(context, token.revision)
    if revision and exact:
        return await resource.listing(context, revision)
    if revision:
        await resource.reach(revision)
    # 0 asks for any state, and what is known is the cheapest.
    return await resource.listing(context, 0 if options.revision == 0 and not token else None)


def _cut(listing: Listing, options: ListOptions, token: Token | None) -> Page:
    """Return a page of a list that is known whole."""
    found: list[Entry] = []
    left = 0
    entries = select(listing.entries, options)
    if not listing.is_as_pages and (options.limit or token is not None):
        entries = sorted(entries, key=_position)
    for entry in entries:
        if token is not None and entry.position() <= token.position:
            continue
        if options.limit and len(found) >= options.limit:
            left += 1
        else:
            found.append(entry)
    goes_on = Token(listing.revision, found[-1].position()) if left else None
    return Page(listing.revision, found, goes_on, left)


def _position(entry: Entry) -> tuple[str, ...]:
    return entry.position()
