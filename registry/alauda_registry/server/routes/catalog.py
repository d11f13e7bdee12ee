"""The repositories: ``/v2/_catalog``. Not of the specification, but of its ancestor."""

from starlette.responses import JSONResponse, Response

from alauda_registry.oci.errors import PaginationNumberInvalid
from alauda_registry.server.links import next_page
from alauda_registry.server.paging import page_size, page_start
from alauda_registry.server.routing import Kind, Target, V2Route
from alauda_registry.server.state import RegistryRequest


async def list_repositories(request: RegistryRequest, _target: Target) -> Response:
    """List repositories in pages.

    Raises:
        PaginationNumberInvalid: ``n`` is no number, negative, or over the limit.
    """
    options = request.state["options"]
    size = page_size(request)
    if size is None:
        size = min(options.catalog_default, options.catalog_max_entries)
    if size > options.catalog_max_entries:
        raise PaginationNumberInvalid(n=str(size), limit=str(options.catalog_max_entries))
    page = await request.state["registry"].catalog(after=page_start(request), limit=size)
    response = JSONResponse({"repositories": page.names})
    if size and page.more:
        link = next_page(request, "_catalog", last=page.names[-1], n=size)
        response.headers["Link"] = link
    return response


routes = [V2Route(Kind.CATALOG, {"GET": list_repositories, "HEAD": list_repositories})]
