"""The URLs that answers contain.

``Location`` is a path unless the registry was told the URL clients know it by, or was told
not to use paths: a path is right behind every proxy, and there is no host in it that a
client might refuse to follow. ``Link`` is always a path. Scheme and host of a whole URL are those
that the client used, as ``proxies.py`` finds them.
"""

from urllib.parse import urlencode

from alauda_registry.oci.digest import Digest
from alauda_registry.server.state import RegistryRequest
from alauda_registry.server.upload_state import UploadState


def blob_url(request: RegistryRequest, name: str, digest: Digest) -> str:
    """Return where a blob is pulled from."""
    return _base(request) + f"{name}/blobs/{digest}"


def manifest_url(request: RegistryRequest, name: str, digest: Digest) -> str:
    """Return where a manifest is pulled from."""
    return _base(request) + f"{name}/manifests/{digest}"


async def upload_url(request: RegistryRequest, state: UploadState) -> str:
    """Return where an upload goes on, with what the client has to show there."""
    token = await request.state["upload_states"].sign(state)
    return _base(request) + f"{state.name}/blobs/uploads/{state.upload_id}?_state={token}"


def next_page(request: RegistryRequest, path: str, **query: str | int) -> str:
    """Return the ``Link`` to the next page of a list.

    Args:
        request: The request for this page.
        path: The list's path below ``/v2/``.
        query: What to ask the next page with.
    """
    return f'<{_path(request)}{path}?{urlencode(query)}>; rel="next"'


def _path(request: RegistryRequest) -> str:
    return request.state["options"].prefix.rstrip("/") + "/v2/"


def _base(request: RegistryRequest) -> str:
    options = request.state["options"]
    is_relative = options.relative_urls
    if is_relative is None:
        is_relative = options.external_url is None
    if is_relative:
        return _path(request)
    origin = options.external_url or options.proxies.origin(request.scope).url
    return origin.rstrip("/") + _path(request)
