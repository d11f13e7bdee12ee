"""Upload sessions: ``/v2/<name>/blobs/uploads/`` and the locations it hands out.

Everything a request can be refused for is looked at before its body, and a refusal leaves
the session as it was, so a client that was told 416 asks for the status and goes on.
A chunk's ``Content-Type`` is not looked at: clients send all sorts of types, and the digest
tells whether the right bytes have arrived.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from http import HTTPStatus

from starlette.responses import Response

from alauda_registry.oci.digest import Algorithm, Digest
from alauda_registry.oci.errors import (
    DigestInvalid,
    NameInvalid,
    SizeInvalid,
)
from alauda_registry.oci.reference import RepositoryName
from alauda_registry.server.bodies import content_length, stream_body
from alauda_registry.server.links import blob_url, upload_url
from alauda_registry.server.middleware.guard import may_pull
from alauda_registry.server.ranges import parse_content_range
from alauda_registry.server.routing import Kind, Target, V2Route
from alauda_registry.server.state import RegistryRequest, find_repository
from alauda_registry.server.upload_state import UploadState
from alauda_registry.storage.repositories import Repository
from alauda_registry.storage.uploads import Piece, UploadSession


async def start_upload(request: RegistryRequest, target: Target) -> Response:
    """Mount a blob, take it whole, or open a session for it (end-4a, end-4b, end-4c, end-11).

    Raises:
        DigestInvalid: A digest or an algorithm is malformed, or the content is not the digest's.
        NameInvalid: The name is malformed.
    """
    query = request.query_params
    repository = find_repository(request, target.name)
    mount = Digest.parse(query["mount"]) if "mount" in query else None
    digest = Digest.parse(query["digest"]) if "digest" in query else None
    algorithm = _algorithm(query["digest-algorithm"]) if "digest-algorithm" in query else None
    if mount is not None and await _mount(request, repository, mount):
        return _created(request, target, mount)
    if digest is not None:
        await _upload_whole(request, repository, digest)
        return _created(request, target, digest)
    session = await repository.uploads.start(algorithm=algorithm)
    return await _session_response(request, target, session, HTTPStatus.ACCEPTED)


async def get_upload(request: RegistryRequest, target: Target) -> Response:
    """Say how much has arrived (end-13). Needs no ``_state``, so that a lost one is found again.

    Raises:
        BlobUploadUnknown: There is no such session.
        NameInvalid: The name is malformed.
    """
    session = await find_repository(request, target.name).uploads.resume(target.reference)
    return await _session_response(request, target, session, HTTPStatus.NO_CONTENT)


async def append_to_upload(request: RegistryRequest, target: Target) -> Response:
    """Take the next chunk, or all the bytes in one stream (end-5).

    Raises:
        BlobUploadInvalid: The URL is not one we handed out, or a header is malformed.
        BlobUploadOutOfOrder: The chunk does not start where the last one ended.
        BlobUploadUnknown: There is no such session.
        NameInvalid: The name is malformed.
        SizeInvalid: The chunk has not the length its headers say.
    """
    session = await find_repository(request, target.name).uploads.resume(target.reference)
    state = await _verified_state(request, target)
    async with _piece(request, state) as piece:
        await session.append(piece)
    return await _session_response(request, target, session, HTTPStatus.ACCEPTED)


async def finish_upload(request: RegistryRequest, target: Target) -> Response:
    """Take the last bytes, if there are any, and make a blob of the session (end-6).

    Raises:
        BlobUploadInvalid: The URL is not one we handed out, or a header is malformed.
        BlobUploadOutOfOrder: The last chunk does not start where the one before ended.
        BlobUploadUnknown: There is no such session.
        DigestInvalid: The digest is missing, malformed, or not that of the content.
        NameInvalid: The name is malformed.
        SizeInvalid: The last chunk has not the length its headers say.
    """
    session = await find_repository(request, target.name).uploads.resume(target.reference)
    state = await _verified_state(request, target)
    digest = _required_digest(request)
    async with _piece(request, state) as piece:
        await session.commit(digest, piece)
    return _created(request, target, digest)


async def cancel_upload(request: RegistryRequest, target: Target) -> Response:
    """Forget the session and what it has received (end-14).

    Raises:
        BlobUploadInvalid: The URL is not one we handed out.
        BlobUploadUnknown: There is no such session.
        NameInvalid: The name is malformed.
    """
    session = await find_repository(request, target.name).uploads.resume(target.reference)
    await _verified_state(request, target)
    await session.cancel()
    return Response(
        status_code=HTTPStatus.NO_CONTENT, headers={"Docker-Upload-UUID": target.reference}
    )


routes = [
    V2Route(Kind.UPLOADS, {"POST": start_upload}),
    V2Route(
        Kind.UPLOAD,
        {
            "GET": get_upload,
            "HEAD": get_upload,
            "PATCH": append_to_upload,
            "PUT": finish_upload,
            "DELETE": cancel_upload,
        },
    ),
]


def _algorithm(text: str) -> Algorithm:
    try:
        return Algorithm(text)
    except ValueError as error:
        raise DigestInvalid(
            "unsupported digest algorithm: use sha256 or sha512", algorithm=text
        ) from error


def _required_digest(request: RegistryRequest) -> Digest:
    text = request.query_params.get("digest")
    if text is None:
        raise DigestInvalid("digest missing: add ?digest=<digest> to the URL of the upload")
    return Digest.parse(text)


async def _mount(request: RegistryRequest, repository: Repository, digest: Digest) -> bool:
    """Try to take a blob over from another repository; what is in the way means no, not why."""
    source = request.query_params.get("from")
    if not source:
        if not request.state["options"].anonymous_mount:
            return False
        return await repository.blobs.mount(digest, None)
    try:
        name = RepositoryName.parse(source)
    except NameInvalid:
        return False
    # Who may not pull there learns nothing: the upload begins as if the blob were not there.
    return await may_pull(request, name) and await repository.blobs.mount(digest, name)


async def _upload_whole(request: RegistryRequest, repository: Repository, digest: Digest) -> None:
    """Take a blob that is sent with the very request that starts its upload."""
    async with aclosing(stream_body(request)) as chunks:
        piece = Piece(chunks, start=0, length=content_length(request))
        await repository.uploads.take(digest, piece)


@asynccontextmanager
async def _piece(request: RegistryRequest, state: UploadState) -> AsyncGenerator[Piece]:
    """Give the request's body, of which nothing is read yet, and where it belongs.

    Without ``Content-Range`` that is where the client was when it got the URL it uses.
    """
    chunk = parse_content_range(request.headers.get("content-range"))
    length = content_length(request)
    start = state.offset if chunk is None else chunk.first
    if chunk is not None:
        if length not in (None, chunk.length):
            raise SizeInvalid(range=str(chunk.length), length=str(length))
        length = chunk.length
    async with aclosing(stream_body(request)) as chunks:
        yield Piece(chunks, start=start, length=length)


async def _verified_state(request: RegistryRequest, target: Target) -> UploadState:
    return await request.state["upload_states"].verify(
        request.query_params.get("_state", ""), name=target.name, upload_id=target.reference
    )


def _created(request: RegistryRequest, target: Target, digest: Digest) -> Response:
    headers = {
        "Location": blob_url(request, target.name, digest),
        "Docker-Content-Digest": str(digest),
    }
    return Response(status_code=HTTPStatus.CREATED, headers=headers)


async def _session_response(
    request: RegistryRequest, target: Target, session: UploadSession, status: HTTPStatus
) -> Response:
    headers = {
        "Location": await upload_url(request, UploadState(target.name, session.id, session.size)),
        # An empty session says 0-0 like everybody's: docker refuses to read 0--1.
        "Range": f"0-{max(session.size - 1, 0)}",
        "Docker-Upload-UUID": session.id,
    }
    return Response(status_code=status, headers=headers)
