"""Which endpoint a path means, and which handler answers it.

Repository names contain slashes, and may contain the words ``blobs``, ``manifests``, ``tags``
or ``uploads``. So a path is read from the right, where the words have fixed places, and
whatever is left over is the name. It is read from the bytes that were sent: an escaped slash
is then still told from a real one, and nothing is decoded twice. What a segment means is
decided here; whether a name, tag or digest is a good one is decided by its parser, so that a
bad one is answered with its own error code. ``tests/property/test_routing.py`` is the model.
"""

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias
from urllib.parse import unquote_to_bytes

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from alauda_registry.oci.errors import ReadOnly, Unsupported
from alauda_registry.server.errors import error_response
from alauda_registry.server.state import AppState, RegistryRequest

SAFE_METHODS = frozenset({"GET", "HEAD"})
"""Methods that change nothing, and are answered by a read-only registry."""


class Kind(StrEnum):
    """The endpoints, named after what their paths lead to."""

    BASE = "base"
    CATALOG = "catalog"
    BLOB = "blob"
    UPLOADS = "uploads"
    UPLOAD = "upload"
    MANIFEST = "manifest"
    TAGS = "tags"
    REFERRERS = "referrers"


@dataclass(frozen=True, slots=True)
class Target:
    """What a path leads to.

    Args:
        kind: The endpoint.
        name: The repository's name as it was sent, not yet checked.
        reference: The tag, digest or upload id as it was sent, not yet checked.
    """

    kind: Kind
    name: str = ""
    reference: str = ""


Handler: TypeAlias = Callable[[RegistryRequest, Target], Awaitable[Response]]
"""Answers one method of one endpoint; errors are raised."""


def parse_target(raw_path: bytes) -> Target | None:
    """Return what a path below the prefix, query excluded, leads to; None for no endpoint."""
    if raw_path == b"/v2":
        # A client that forgets the slash after the version finds the registry all the same.
        return Target(Kind.BASE)
    if not raw_path.startswith(b"/v2/"):
        return None
    segments = [_decode(segment) for segment in raw_path[4:].split(b"/")]
    match segments:
        case [""]:
            return Target(Kind.BASE)
        case ["_catalog"]:
            return Target(Kind.CATALOG)
        case [_, *_, "tags", "list"]:
            return Target(Kind.TAGS, "/".join(segments[:-2]))
        case [_, *_, "blobs", "uploads", ""]:
            return Target(Kind.UPLOADS, "/".join(segments[:-3]))
        case [_, *_, "blobs", "uploads", upload_id]:
            return Target(Kind.UPLOAD, "/".join(segments[:-3]), upload_id)
        case [_, *_, "blobs", "uploads"]:
            return Target(Kind.UPLOADS, "/".join(segments[:-2]))
        case [_, *_, ("manifests" | "blobs" | "referrers") as noun, reference]:
            return Target(_NOUNS[noun], "/".join(segments[:-2]), reference)
        case _:
            return None


class V2Route(BaseRoute):
    """Serves one endpoint of the specification.

    Args:
        kind: The endpoint.
        handlers: Who answers which method. What is missing here is a 405.
    """

    def __init__(self, kind: Kind, handlers: Mapping[str, Handler]) -> None:
        self.kind = kind
        self.handlers = handlers

    @override
    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] != "http":
            return Match.NONE, {}
        target = _target(scope)
        if target is None or target.kind is not self.kind:
            return Match.NONE, {}
        return Match.FULL, {}

    @override
    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        request: RegistryRequest = Request[AppState](scope, receive, send)
        try:
            response = await self._handler(request)(request, scope[_TARGET])
        except (Unsupported, ReadOnly) as refusal:
            response = error_response(refusal, {"Allow": self._allowed_methods(request)})
        await response(scope, receive, send)

    def _handler(self, request: RegistryRequest) -> Handler:
        """Return who answers the request's method.

        Raises:
            ReadOnly: Nothing may be changed.
            Unsupported: The endpoint does not know the method.
        """
        handler = self.handlers.get(request.method)
        if handler is None:
            raise Unsupported(
                "the method is not supported here: use one that Allow names", method=request.method
            )
        if request.state["options"].read_only and request.method not in SAFE_METHODS:
            raise ReadOnly()
        return handler

    def _allowed_methods(self, request: RegistryRequest) -> str:
        allowed = set(self.handlers) - {request.method}
        if request.state["options"].read_only:
            allowed &= SAFE_METHODS
        return ", ".join(sorted(allowed))


_TARGET = "alauda.target"
"""Where the scope keeps what its path leads to."""

_NOUNS = {"manifests": Kind.MANIFEST, "blobs": Kind.BLOB, "referrers": Kind.REFERRERS}


def _target(scope: Scope) -> Target | None:
    # Several routes look at the same request; the path is parsed for the first of them.
    if _TARGET not in scope:
        prefix = scope.get("root_path", "").encode()
        raw_path: bytes = scope["raw_path"]
        below = raw_path.startswith(prefix)
        scope[_TARGET] = parse_target(raw_path[len(prefix) :]) if below else None
    target: Target | None = scope[_TARGET]
    return target


def _decode(segment: bytes) -> str:
    r"""Decode one segment, once.

    A segment that is no text or hides a slash is returned as it was sent. It then holds a
    ``%`` or a ``\``, which no grammar accepts, and so does one with a broken escape.
    """
    decoded = unquote_to_bytes(segment) if b"%" in segment else segment
    if b"/" not in decoded:
        with contextlib.suppress(UnicodeDecodeError):
            return decoded.decode()
    return segment.decode("ascii", "backslashreplace")
