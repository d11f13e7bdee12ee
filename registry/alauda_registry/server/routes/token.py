"""The token endpoint (``/token``), and the public keys of its tokens (``/.well-known/jwks.json``).

Distribution's protocol (its ``docs/content/spec/auth/token.md`` and ``oauth.md``): GET with Basic
credentials or none, or POST of a form with a password or a refresh token. ``/auth/token`` and
``/openshift/token`` are the same, under the names that other registries give it.
"""

import json
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from alauda_registry.auth.authenticator import Basic, Bearer
from alauda_registry.auth.scopes import parse_scopes
from alauda_registry.auth.service import Issued, TokenService
from alauda_registry.oci.errors import RegistryError, RequestInvalid, Unauthorized, Unsupported
from alauda_registry.server.errors import error_response
from alauda_registry.server.middleware.envelope import Envelope
from alauda_registry.server.middleware.guard import read_credentials
from alauda_registry.server.proxies import Proxies

PATHS = ("/token", "/auth/token", "/openshift/token")
KEYS_PATH = "/.well-known/jwks.json"

LONGEST_FORM = 64 * 1024
"""Bytes."""

_FORM = "application/x-www-form-urlencoded"
_MOST_FIELDS = 200
_NOT_KEPT = {"Cache-Control": "no-store"}


class TokenEndpoint:
    """Answers these paths and passes everything else on; pure ASGI.

    Args:
        app: What serves everything else.
        service: Makes the tokens.
        proxies: Whose word about clients is taken.
        prefix: The path below which all of it is served.
        takes_certificates: Whether tokens are made for whom a client certificate names.
        headers: Added to each answer that does not have a header of that name.
    """

    def __init__(
        self,
        app: ASGIApp,
        service: TokenService,
        *,
        proxies: Proxies,
        prefix: str = "/",
        takes_certificates: bool = False,
        headers: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._app = app
        self._service = service
        self._proxies = proxies
        self._takes_certificates = takes_certificates
        self._headers = headers or {}
        below = prefix.rstrip("/")
        self._token_paths = frozenset(below + path for path in PATHS)
        self._keys_path = below + KEYS_PATH

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one request."""
        path = scope["path"] if scope["type"] == "http" else None
        if path in self._token_paths or path == self._keys_path:
            return self._answer(scope, receive, send)
        # Not through a coroutine of ours, which every request would pay for.
        return self._app(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == self._keys_path:
            response = self._keys_response(scope["method"])
        else:
            response = await self._token_response(Request(scope, receive))
        await Envelope(response, self._headers)(scope, receive, send)

    async def _token_response(self, request: Request) -> Response:
        try:
            match request.method:
                case "GET":
                    return await self._get(request)
                case "POST":
                    return await self._post(request)
                case _:
                    raise Unsupported("ask for a token with GET or POST")
        except Unauthorized as refusal:
            # What to show here is a password, and no token of this very endpoint.
            return error_response(refusal, {"WWW-Authenticate": 'Basic realm="token"', **_NOT_KEPT})
        except Unsupported as refusal:
            return error_response(refusal, {"Allow": "GET, POST"})
        except RegistryError as refusal:
            return error_response(refusal, _NOT_KEPT)

    async def _get(self, request: Request) -> Response:
        """Answer as the token specification has it."""
        query = _fields(request.scope["query_string"])
        credentials = read_credentials(
            request.scope, self._proxies, takes_certificates=self._takes_certificates
        )
        if isinstance(credentials, Bearer):
            raise Unauthorized("ask for a token with a name and a password")
        issued = await self._service.issue(
            credentials,
            self._proxies.address(request.scope),
            parse_scopes(_all(query, "scope")),
            service=_one(query, "service"),
            offline=_one(query, "offline_token") == "true",
        )
        return _answer(issued, {"token": issued.token})

    async def _post(self, request: Request) -> Response:
        """Answer as the OAuth2 specification has it (RFC 6749, sections 4.3 and 6)."""
        form = _fields(await _read_form(request))
        scopes = parse_scopes(_all(form, "scope"))
        service = _one(form, "service")
        match _one(form, "grant_type"):
            case "password":
                credentials = Basic(_required(form, "username"), _required(form, "password"))
                issued = await self._service.issue(
                    credentials,
                    self._proxies.address(request.scope),
                    scopes,
                    service=service,
                    offline=_one(form, "access_type") == "offline",
                )
            case "refresh_token":
                issued = await self._service.refresh(
                    _required(form, "refresh_token"), scopes, service=service
                )
            case _:
                raise RequestInvalid("send grant_type=password or grant_type=refresh_token")
        return _answer(issued, {"scope": issued.scope})

    def _keys_response(self, method: str) -> Response:
        if method not in ("GET", "HEAD"):
            return error_response(Unsupported("this is for GET and HEAD"))
        content = json.dumps(self._service.jwks()).encode()
        # New keys are there for a while before they sign.
        return Response(
            content, headers={"Cache-Control": "max-age=60"}, media_type="application/json"
        )


def _answer(issued: Issued, more: Mapping[str, Any]) -> Response:
    content = {
        **more,
        "access_token": issued.token,
        "expires_in": issued.expires_in,
        "issued_at": issued.issued_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    if issued.refresh_token is not None:
        content["refresh_token"] = issued.refresh_token
    return Response(json.dumps(content).encode(), 200, _NOT_KEPT, "application/json")


async def _read_form(request: Request) -> bytes:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        raise RequestInvalid(f"send a form of the type {_FORM}")
    content = b""
    async for chunk in request.stream():
        content += chunk
        if len(content) > LONGEST_FORM:
            raise RequestInvalid(f"the form is longer than {LONGEST_FORM} bytes")
    return content


def _fields(encoded: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(
            encoded.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=_MOST_FIELDS,
        )
    except ValueError as error:
        raise RequestInvalid("the parameters cannot be decoded, or are too many") from error


def _all(fields: Sequence[tuple[str, str]], wanted: str) -> list[str]:
    return [value for name, value in fields if name == wanted]


def _one(fields: Sequence[tuple[str, str]], wanted: str) -> str | None:
    found = _all(fields, wanted)
    if len(found) > 1:
        raise RequestInvalid(f"send {wanted} once")
    return found[0] if found else None


def _required(fields: Sequence[tuple[str, str]], wanted: str) -> str:
    found = _one(fields, wanted)
    if not found:
        raise RequestInvalid(f"send {wanted}")
    return found
