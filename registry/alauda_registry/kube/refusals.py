"""What an API server's answers that are no good mean, from status code and Status object."""

import json
from http import HTTPStatus
from typing import Any

from alauda_registry.kube.errors import (
    AlreadyExists,
    Conflict,
    Expired,
    Forbidden,
    KubeError,
    NamespaceTerminating,
    NotFound,
    NotServed,
    Rejected,
    StorageFull,
    TooLarge,
    Unreachable,
)

_LONGEST_REASON = 256

# As etcd and its client word it, behind a 500 that is none.
_TOO_LARGE = ("request is too large", "message larger than max")
_FULL = "database space exceeded"


def refusal(status: int, doing: str, content: bytes) -> KubeError:
    """Return the error that an answer means.

    Args:
        status: Of HTTP.
        doing: What was asked for, such as ``creating tokenreviews``.
        content: The body; it may come from whoever answered in the API server's place.
    """
    document = _status(content)
    said = str(document.get("message", ""))[:_LONGEST_REASON] if document else "no Status object"
    message = f"the API server answers {status} to {doing}: {said}"
    details = document.get("details")
    details = details if isinstance(details, dict) else {}
    match status:
        case HTTPStatus.UNAUTHORIZED:
            return Forbidden(message)
        case HTTPStatus.FORBIDDEN:
            is_ending = "NamespaceTerminating" in _reasons(details.get("causes"))
            return NamespaceTerminating(message) if is_ending else Forbidden(message)
        case HTTPStatus.NOT_FOUND:
            # Of a kind that it does not know it says 404 as well, but not what was not found.
            found = details.get("name") and details.get("kind")
            return NotFound(message, str(found)) if found else NotServed(message)
        case HTTPStatus.CONFLICT:
            exists = document.get("reason") == "AlreadyExists"
            return AlreadyExists(message) if exists else Conflict(message)
        case HTTPStatus.GONE:
            return Expired(message)
        case HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return TooLarge(message)
        case HTTPStatus.TOO_MANY_REQUESTS | HTTPStatus.REQUEST_TIMEOUT:
            return Unreachable(message)
        case _ if status < HTTPStatus.INTERNAL_SERVER_ERROR:
            return Rejected(message)
        case _ if any(words in said for words in _TOO_LARGE):
            return TooLarge(message)
        case _ if _FULL in said:
            return StorageFull(message)
        case _:
            return Unreachable(message)


def _reasons(causes: object) -> list[object]:
    found = causes if isinstance(causes, list) else []
    return [cause.get("reason") for cause in found if isinstance(cause, dict)]


def _status(content: bytes) -> dict[str, Any]:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    is_status = isinstance(document, dict) and document.get("kind") == "Status"
    return document if is_status else {}
