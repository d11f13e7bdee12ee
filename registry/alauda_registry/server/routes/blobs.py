"""Blobs: ``/v2/<name>/blobs/<digest>``."""

from http import HTTPStatus

from starlette.responses import Response

from alauda_registry.oci.digest import Digest
from alauda_registry.oci.media_types import OCTET_STREAM
from alauda_registry.server.blob_response import BlobResponse
from alauda_registry.server.conditions import entity_tag, is_known, is_range_current
from alauda_registry.server.ranges import ByteRange, parse_range
from alauda_registry.server.routing import Kind, Target, V2Route
from alauda_registry.server.state import RegistryRequest, find_repository, require_deletion
from alauda_registry.storage.blobs import Blob


async def get_blob(request: RegistryRequest, target: Target) -> Response:
    """Serve a blob or a part of it (end-2).

    Raises:
        BlobUnknown: The repository does not hold it.
        DigestInvalid: The digest is malformed.
        NameInvalid: The name is malformed.
        RangeNotSatisfiable: It has no such part.
    """
    digest = Digest.parse(target.reference)
    blobs = find_repository(request, target.name).blobs
    if is_known(request.headers.getlist("if-none-match"), digest):
        await blobs.stat(digest)
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=_validators(digest))
    if (url := await blobs.url(digest, "GET")) is not None:
        return _redirect(url, digest)
    blob = await blobs.open(digest)
    try:
        part = _wanted_part(request, digest, blob.size)
        return _blob_response(blob, digest, part)
    except BaseException:
        blob.close()
        raise


async def head_blob(request: RegistryRequest, target: Target) -> Response:
    """Describe a blob (end-2).

    Raises:
        BlobUnknown: The repository does not hold it.
        DigestInvalid: The digest is malformed.
        NameInvalid: The name is malformed.
    """
    digest = Digest.parse(target.reference)
    blobs = find_repository(request, target.name).blobs
    is_cached = is_known(request.headers.getlist("if-none-match"), digest)
    if not is_cached and (url := await blobs.url(digest, "HEAD")) is not None:
        return _redirect(url, digest)
    size = await blobs.stat(digest)
    if is_cached:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=_validators(digest))
    return Response(headers=blob_headers(digest, size))


async def delete_blob(request: RegistryRequest, target: Target) -> Response:
    """Take a blob out of the repository (end-10).

    Raises:
        BlobUnknown: The repository does not hold it.
        DigestInvalid: The digest is malformed.
        NameInvalid: The name is malformed.
        Unsupported: Deleting blobs is switched off.
    """
    require_deletion(request, request.state["options"].delete_blobs, "blobs")
    digest = Digest.parse(target.reference)
    await find_repository(request, target.name).blobs.delete(digest)
    return Response(status_code=HTTPStatus.ACCEPTED, headers={"Docker-Content-Digest": str(digest)})


def blob_headers(digest: Digest, length: int) -> dict[str, str]:
    """Return the headers that describe a blob.

    Args:
        digest: The digest it was asked for by, which may be one of two it has.
        length: The number of bytes that follow, or would follow.
    """
    return {
        "Content-Type": OCTET_STREAM,
        "Content-Length": str(length),
        "Accept-Ranges": "bytes",
        # The content is anybody's: a browser must not take it for a page of ours.
        "X-Content-Type-Options": "nosniff",
        **_validators(digest),
    }


routes = [V2Route(Kind.BLOB, {"GET": get_blob, "HEAD": head_blob, "DELETE": delete_blob})]


def _validators(digest: Digest) -> dict[str, str]:
    return {
        "Docker-Content-Digest": str(digest),
        "ETag": entity_tag(digest),
        # Content never changes under its digest.
        "Cache-Control": "max-age=31536000",
    }


def _redirect(url: str, digest: Digest) -> Response:
    """Send the client to the bucket, by a URL that is good for a while."""
    headers = {"Location": url, "Docker-Content-Digest": str(digest), "Cache-Control": "no-cache"}
    return Response(status_code=HTTPStatus.TEMPORARY_REDIRECT, headers=headers)


def _wanted_part(request: RegistryRequest, digest: Digest, size: int) -> ByteRange | None:
    if not is_range_current(request.headers.get("if-range"), digest):
        return None
    return parse_range(request.headers.get("range"), size)


def _blob_response(blob: Blob, digest: Digest, part: ByteRange | None) -> Response:
    status, headers = HTTPStatus.OK, blob_headers(digest, blob.size)
    first, length = 0, blob.size
    if part is not None:
        status, first, length = HTTPStatus.PARTIAL_CONTENT, part.first, part.length
        headers |= {"Content-Length": str(length), "Content-Range": part.content_range(blob.size)}
    if blob.content is not None:
        blob.close()
        return Response(blob.content[first : first + length], status, headers)
    return BlobResponse(blob, status, headers, offset=first, length=length)
