"""Request bodies, read as they come.

Nothing is read until a handler iterates: a client that waits for ``100 Continue`` is told
to go on by the first read, so whatever a request can be refused for is looked at before.
A client that goes away in the middle shows as ``ClientDisconnect`` and never as the end.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.requests import ClientDisconnect

from alauda_registry.oci.errors import ManifestTooLarge
from alauda_registry.server.state import RegistryRequest


def content_length(request: RegistryRequest) -> int | None:
    """Return the length of the body, or None when it is sent in chunks and not known yet."""
    if "transfer-encoding" in request.headers:
        return None
    value = request.headers.get("content-length", "0")
    # The server has refused what is no number; one too long to be true ends with the body.
    return int(value) if value.isascii() and value.isdigit() and len(value) < 20 else None


async def stream_body(request: RegistryRequest) -> AsyncGenerator[bytes, None]:
    """Yield the body in the pieces the server received it in, none of them empty.

    Raises:
        ClientDisconnect: The client went away before the end.
    """
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        more = message.get("more_body", False)
        if message.get("body"):
            yield message["body"]


async def read_manifest(request: RegistryRequest, limit: int) -> bytes:
    """Return the whole body, unless it is too large for a manifest.

    Raises:
        ClientDisconnect: The client went away before the end.
        ManifestTooLarge: It has more than ``limit`` bytes; no more than that was read.
    """
    error = ManifestTooLarge(limit=str(limit))
    if (content_length(request) or 0) > limit:
        raise error
    pieces: list[bytes] = []
    size = 0
    async with aclosing(stream_body(request)) as body:
        async for piece in body:
            size += len(piece)
            if size > limit:
                raise error
            pieces.append(piece)
    return b"".join(pieces)
