"""What points at a manifest: ``/v2/<name>/referrers/<digest>``."""

import json

from starlette.responses import Response

from alauda_registry.oci.digest import Digest
from alauda_registry.oci.media_types import OCI_INDEX
from alauda_registry.server.links import next_page
from alauda_registry.server.paging import page_size, page_start
from alauda_registry.server.routing import Kind, Target, V2Route
from alauda_registry.server.state import RegistryRequest, find_repository


async def list_referrers(request: RegistryRequest, target: Target) -> Response:
    """List the manifests whose subject this is, as an index (end-12a, end-12b).

    A subject or a repository that does not exist has no referrers; that is no error, or
    clients would conclude that the registry can't keep any.

    Raises:
        DigestInvalid: The digest is malformed.
        NameInvalid: The name is malformed.
        PaginationNumberInvalid: ``n`` is no number, or negative.
    """
    subject = Digest.parse(target.reference)
    repository = find_repository(request, target.name)
    longest = request.state["options"].referrers_max
    size = min(page_size(request) or longest, longest)
    artifact_type = request.query_params.get("artifactType") or None
    page = await repository.referrers.page(
        subject, artifact_type=artifact_type, after=page_start(request), limit=size
    )
    index = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [descriptor.to_json() for descriptor in page.descriptors],
    }
    response = Response(json.dumps(index).encode(), media_type=OCI_INDEX)
    query: dict[str, str | int] = {"n": size}
    if artifact_type is not None:
        response.headers["OCI-Filters-Applied"] = "artifactType"
        query["artifactType"] = artifact_type
    if page.next is not None:
        link = next_page(request, f"{target.name}/referrers/{subject}", last=page.next, **query)
        response.headers["Link"] = link
    return response


routes = [V2Route(Kind.REFERRERS, {"GET": list_referrers, "HEAD": list_referrers})]
