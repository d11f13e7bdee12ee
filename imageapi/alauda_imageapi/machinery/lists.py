"""Lists: which state they show, which objects, and how they go on (facts/apiserver.md 2.6)."""

from collections.abc import Iterable

from alauda_imageapi.machinery import objects
from alauda_imageapi.machinery.errors import Expired, too_large_revision
from alauda_imageapi.machinery.objects import Object
from alauda_imageapi.machinery.options import ListOptions, Token
from alauda_imageapi.machinery.representations import Form, Representation, render_list
from alauda_imageapi.machinery.resources import Context, Entry, Listing, Resource
from alauda_imageapi.machinery.store import Compacted, TooNew

_GONE = (
    "The provided continue parameter is too old to display a consistent list result. You can start "
    "a new list without the continue parameter, or use the continue token in this response to "
    "retrieve the remainder of the results."
)


async def render(
    resource: Resource, context: Context, options: ListOptions, shown: Representation
) -> bytes:
    """Return a page of a list.

    Raises:
        Expired: The state it is of is not known any more.
        Timeout: It has not come to that yet.
    """
    token = None
    if options.token:
        token = Token.decode(options.token, resource.position_length)
    listing = await _listing(resource, context, options, token)
    page, last, left = _page(select(listing.entries, options), token, options.limit)
    metadata: Object = {"resourceVersion": str(listing.revision)}
    if left:
        metadata["continue"] = Token(listing.revision, last).encode()
        if not options.labels.requirements and not options.fields.requirements:
            metadata["remainingItemCount"] = left
    if shown.form is not Form.PLAIN:
        return objects.encode(shown.many([entry.load() for entry in page], metadata))
    bodies = [entry.body or objects.encode(entry.load()) for entry in page]
    return render_list(resource, bodies, metadata)


def select(entries: Iterable[Entry], options: ListOptions) -> Iterable[Entry]:
    """Yield what the selectors let through."""
    labels, fields = options.labels, options.fields
    for entry in entries:
        if labels.requirements and not labels.matches(entry.labels()):
            continue
        if fields.requirements and not fields.matches(entry.fields()):
            continue
        yield entry


async def _listing(
    resource: Resource, context: Context, options: ListOptions, token: Token | None
) -> Listing:
    revision = options.revision or None
    exact = options.match == "Exact" or (options.match == "" and revision and options.limit)
    try:
        if token is not None and token.revision > 0:
            return await resource.listing(context, token.revision)
        if revision and exact:
            return await resource.listing(context, revision)
        if revision:
            await resource.reach(revision)
        return await resource.listing(context, None)
    except Compacted:
        if token is None:
            raise Expired(
                f"The resourceVersion for the provided list is too old: {revision}"
            ) from None
        raise Expired(_GONE, token=Token(-1, token.position).encode()) from None
    except TooNew as error:
        raise too_large_revision(error.asked, error.current) from None


def _page(
    entries: Iterable[Entry], token: Token | None, limit: int
) -> tuple[list[Entry], tuple[str, ...], int]:
    """Return a page, the position it ends at, and how many are left."""
    page: list[Entry] = []
    left = 0
    for entry in entries:
        if token is not None and entry.position <= token.position:
            continue
        if limit and len(page) >= limit:
            left += 1
        else:
            page.append(entry)
    return page, page[-1].position if page else (), left
