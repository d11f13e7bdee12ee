"""From an error class to a status and the specification's JSON, in one place.

Statuses are kept by class, as one code may need two. What the client is told is what the
class says; what it is not told (a path, a host, a traceback) is logged with the request's
id, which the client is told. A driver's error is never shown: it is put into one of the
classes that have words for it, or becomes an opaque 500.
"""

import json
import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from alauda_registry.oci import errors
from alauda_registry.oci.errors import ErrorCode, RegistryError
from alauda_registry.serving.request_head import Refused
from alauda_registry.storage.driver import Busy, OutOfSpace, ReadOnlyFileSystem, Unreachable

logger = logging.getLogger(__name__)

STATUS: Mapping[type[RegistryError], HTTPStatus] = {
    errors.AuthorityUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.BlobUnknown: HTTPStatus.NOT_FOUND,
    errors.BlobUploadInvalid: HTTPStatus.BAD_REQUEST,
    errors.BlobUploadOutOfOrder: HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
    errors.BlobUploadUnknown: HTTPStatus.NOT_FOUND,
    errors.Denied: HTTPStatus.FORBIDDEN,
    errors.DigestInvalid: HTTPStatus.BAD_REQUEST,
    errors.ManifestBlobUnknown: HTTPStatus.BAD_REQUEST,
    errors.ManifestInvalid: HTTPStatus.BAD_REQUEST,
    errors.ManifestTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.ManifestUnknown: HTTPStatus.NOT_FOUND,
    errors.NameInvalid: HTTPStatus.BAD_REQUEST,
    errors.NameUnknown: HTTPStatus.NOT_FOUND,
    errors.PaginationNumberInvalid: HTTPStatus.BAD_REQUEST,
    errors.RangeNotSatisfiable: HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
    errors.ReadOnly: HTTPStatus.METHOD_NOT_ALLOWED,
    errors.RequestInvalid: HTTPStatus.BAD_REQUEST,
    errors.SizeInvalid: HTTPStatus.BAD_REQUEST,
    errors.StorageFull: HTTPStatus.INSUFFICIENT_STORAGE,
    errors.StorageUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.TagInvalid: HTTPStatus.BAD_REQUEST,
    errors.TooManyRequests: HTTPStatus.TOO_MANY_REQUESTS,
    errors.Unauthorized: HTTPStatus.UNAUTHORIZED,
    errors.Unsupported: HTTPStatus.METHOD_NOT_ALLOWED,
}

CLIENT_CLOSED_REQUEST = 499
"""Seen in logs and metrics only: nobody is left to be answered."""


def error_response(error: RegistryError, headers: Mapping[str, str] | None = None) -> Response:
    """Return the answer that tells a client of an error."""
    status = STATUS[type(error)]
    all_headers = {**_headers(error), **(headers or {})}
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        # Pulls are what remains when writing is refused.
        all_headers.setdefault("Allow", "GET, HEAD")
    return _render(status, error.errors(), all_headers)


async def render_error(request: Request, error: Exception) -> Response:
    """Return the answer to whatever was raised; what the client is not told is logged."""
    match error:
        case RegistryError():
            return error_response(error)
        case HTTPException():
            return _http_error_response(error)
        case ClientDisconnect():
            # An upload this request was part of stays, and can be gone on with.
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        case _:
            return _trouble_response(request, error)


def render_refusal(refused: Refused) -> bytes:
    """Return what a client is told who broke the protocol."""
    is_much = refused.status is HTTPStatus.TOO_MANY_REQUESTS
    code = ErrorCode.TOOMANYREQUESTS if is_much else ErrorCode.UNSUPPORTED
    return _content([{"code": code, "message": str(refused), "detail": refused.detail}])


def as_registry_error(error: Exception) -> RegistryError | None:
    """Return what storage trouble means to a client; None if there are no words for it."""
    match error:
        case OutOfSpace(advice=advice):
            return errors.StorageFull(advice)
        case ReadOnlyFileSystem():
            return errors.ReadOnly()
        case Busy() | Unreachable():
            return errors.StorageUnavailable()
        case _:
            return None


def _trouble_response(request: Request, error: Exception) -> Response:
    known = as_registry_error(error)
    if known is not None:
        logger.warning("cannot answer %s: %s", request.method, error)
        return error_response(known)
    logger.error("cannot answer %s: unforeseen trouble", request.method, exc_info=error)
    return _unknown_error_response(request)


def _unknown_error_response(request: Request) -> Response:
    entry: dict[str, Any] = {
        "code": str(ErrorCode.UNKNOWN),
        "message": "internal error: try again, and tell whoever runs the registry if it persists",
    }
    request_id = request.scope.get("alauda.request_id")
    if request_id is not None:
        entry["detail"] = {"requestId": request_id}
    return _render(HTTPStatus.INTERNAL_SERVER_ERROR, [entry])


def _http_error_response(error: HTTPException) -> Response:
    status = HTTPStatus(error.status_code)
    message = f"{status.phrase.lower()}: {error.detail}"
    if status is HTTPStatus.NOT_FOUND:
        message = "no such endpoint: see the endpoints of the distribution specification"
    entry = {"code": str(ErrorCode.UNSUPPORTED), "message": message}
    return _render(status, [entry], error.headers)


def _headers(error: RegistryError) -> dict[str, str]:
    match error:
        case errors.TooManyRequests() | errors.StorageUnavailable() | errors.AuthorityUnavailable():
            return {"Retry-After": str(error.retry_after)}
        case errors.RangeNotSatisfiable():
            return {"Content-Range": f"bytes */{error.size}"}
        case _:
            return {}


def _render(
    status: HTTPStatus, entries: list[dict[str, Any]], headers: Mapping[str, str] | None = None
) -> Response:
    return Response(_content(entries), status, headers, "application/json")


def _content(entries: list[dict[str, Any]]) -> bytes:
    return json.dumps({"errors": entries}).encode()
