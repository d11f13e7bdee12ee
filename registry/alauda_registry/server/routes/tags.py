"""The tags of a repository: ``/v2/<name>/tags/list``."""

from starlette.responses import JSONResponse, Response

from alauda_registry.server.links import next_page
from alauda_registry.server.paging import page_size, page_start
from alauda_registry.server.routing import Kind, Target, V2Route
from alauda_registry.server.state import RegistryRequest, find_repository


async def list_tags(request: RegistryRequest, target: Target) -> Response:
    """List tags in ASCII order, all of them or in pages (end-8a, end-8b).

    Raises:
        NameInvalid: The name is malformed.
        NameUnknown: There is no such repository.
        PaginationNumberInvalid: ``n`` is no number, or negative.
    """
    repository = find_repository(request, target.name)
    size = page_size(request)
    longest = request.state["options"].tags_max
    if size is not None and longest is not None:
        size = min(size, longest)
    page = await repository.tags.page(after=page_start(request), limit=size)
    response = JSONResponse({"name": target.name, "tags": page.names})
    if size and page.more:
        link = next_page(request, f"{target.name}/tags/list", last=page.names[-1], n=size)
        response.headers["Link"] = link
    return response


routes = [V2Route(Kind.TAGS, {"GET": list_tags, "HEAD": list_tags})]
