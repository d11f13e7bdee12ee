"""Stands before everything that serves content: reads what a client shows, and asks the gate.

Before the short cut, the router and whatever sends files, so that nothing gets past. Fields such as
``X-Remote-User`` mean nothing to it: a client is who its credentials say.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import parse_qs

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from alauda_registry.auth.authenticator import (
    Basic,
    Bearer,
    Caller,
    Certificate,
    Credentials,
)
from alauda_registry.auth.challenge import bearer_challenge
from alauda_registry.auth.gate import Gate
from alauda_registry.auth.scopes import PULL, Access, of_repository, scope_text
from alauda_registry.oci.errors import NameInvalid, RegistryError, Unauthorized, Unsupported
from alauda_registry.oci.reference import RepositoryName
from alauda_registry.server.clients import Proxies
from alauda_registry.server.envelope import Envelope
from alauda_registry.server.errors import error_response
from alauda_registry.server.needs import methods, needs_of
from alauda_registry.server.protocol import CERTIFICATE
from alauda_registry.server.routing import parse_target
from alauda_registry.server.state import RegistryRequest

LONGEST_CREDENTIALS = 16 * 1024
"""Characters of the field ``Authorization``. Tokens of clusters have one or two thousand."""

_ADMISSION = "alauda.admission"
"""Where the scope has who was let in."""

_KEPT = 4096
"""Paths whose needs are remembered. They follow from what is asked alone."""

_LONGEST_PATH = 1024

_MOST_FIELDS = 100
"""Parameters of a query that are looked at."""


@dataclass(frozen=True, slots=True)
class Realm:
    """Where clients get their tokens.

    Args:
        service: Whom the tokens are for.
        url: The token server; None when it is at the address that the client used for us.
        path: Then its path there.
    """

    service: str
    url: str | None = None
    path: str = "/token"


@dataclass(frozen=True, slots=True)
class Admission:
    """Who was let in, and the gate that knows what else they may."""

    gate: Gate
    caller: Caller


@dataclass(frozen=True, slots=True)
class _Asked:
    """What follows from method and path.

    Args:
        needed: What whoever asks has to be allowed.
        refusal: Why even they are refused; they are not told before they have said who they are.
        allow: The methods that the endpoint knows, where it does not know this one.
    """

    needed: tuple[Access, ...] = ()
    refusal: RegistryError | None = None
    allow: str = ""


class Guard:
    """Lets requests pass that may, and answers the others; pure ASGI.

    Args:
        app: What serves those that may.
        gate: Decides.
        realm: Where tokens are to be had.
        proxies: Whose word about clients is taken.
        prefix: The path below which ``/v2/`` is served.
        headers: Added to each refusal, as the application adds them to its answers.
    """

    def __init__(
        self,
        app: ASGIApp,
        gate: Gate,
        realm: Realm,
        *,
        proxies: Proxies,
        prefix: str = "/",
        headers: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._app = app
        self._gate = gate
        self._realm = realm
        self._proxies = proxies
        self._headers = headers or {}
        self._prefix = prefix.rstrip("/").encode()
        self._remembered = lru_cache(_KEPT)(self._understand)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method, raw_path = scope["method"], scope["raw_path"]
        # Nothing longer can be a path of ours, and what is remembered must not fill the memory.
        understand = self._remembered if len(raw_path) <= _LONGEST_PATH else self._understand
        asked = understand(method, raw_path)
        # Who is to mount a blob gets the token for both repositories at once.
        wanted = _mounted_from(scope) if method == "POST" else ()
        refusal = await self.refusal(scope, asked.needed, wanted)
        if refusal is None and asked.refusal is not None:
            refusal = error_response(asked.refusal, {"Allow": asked.allow} if asked.allow else None)
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await Envelope(refusal, self._headers)(scope, receive, send)

    async def refusal(
        self, scope: Scope, needed: Sequence[Access], wanted: Sequence[Access] = ()
    ) -> Response | None:
        """Return the answer to a request that may not do this; None if it may.

        Args:
            scope: The request's.
            needed: Without all of this it is refused.
            wanted: This, too, should be in the token that a client is sent for.
        """
        try:
            credentials = read_credentials(
                scope, self._proxies, takes_certificates=self._gate.takes_certificates
            )
            caller = await self._gate.admit(credentials, self._proxies.address(scope), needed)
        except RegistryError as error:
            return self.answer(error, scope, (*needed, *wanted))
        scope[_ADMISSION] = Admission(self._gate, caller)
        return None

    def answer(self, error: RegistryError, scope: Scope, needed: Sequence[Access] = ()) -> Response:
        """Return the answer to a refusal, with the way to a token where one helps."""
        if not isinstance(error, Unauthorized):
            return error_response(error)
        url = self._realm.url or self._proxies.origin(scope).url + self._realm.path
        challenge = bearer_challenge(
            url, service=self._realm.service, scope=scope_text(needed), error=error.error
        )
        return error_response(error, {"WWW-Authenticate": challenge})

    def _understand(self, method: str, raw_path: bytes) -> _Asked:
        target = None
        if raw_path.startswith(self._prefix):
            target = parse_target(raw_path[len(self._prefix) :])
        if target is None:
            # The application says that there is no such endpoint, to whoever may know.
            return _Asked()
        needed = needs_of(target, method)
        if needed is None:
            text = "the method is not supported here: use one that Allow names"
            allow = ", ".join(sorted(methods(target.kind)))
            return _Asked(refusal=Unsupported(text, method=method), allow=allow)
        if target.name:
            try:
                RepositoryName.parse(target.name)
            except NameInvalid as invalid:
                return _Asked(refusal=invalid)
        return _Asked(needed)


def read_credentials(
    scope: Scope, proxies: Proxies, *, takes_certificates: bool = False
) -> Credentials | None:
    """Return what a client shows; None for nothing.

    Args:
        scope: The request's.
        proxies: Show certificates of their own, which say nothing about the client.
        takes_certificates: Whether its certificate counts, when it shows nothing else.

    Raises:
        Unauthorized: It cannot be understood, or in two ways.
    """
    fields = [value for name, value in scope["headers"] if name == b"authorization"]
    if not fields:
        der = scope.get(CERTIFICATE) if takes_certificates else None
        return None if der is None or proxies.are_before(scope) else Certificate(der)
    if len(fields) > 1:
        raise Unauthorized("send the field Authorization once")
    scheme, _, rest = fields[0].decode("latin-1").strip().partition(" ")
    rest = rest.strip()
    if len(rest) > LONGEST_CREDENTIALS:
        raise Unauthorized(
            f"the credentials are longer than {LONGEST_CREDENTIALS} characters",
            error="invalid_token",
        )
    match scheme.lower():
        case "bearer" if rest == "anonymous":
            # What OpenShift's registry hands out to whoever has no credentials.
            return None
        case "bearer" if rest:
            return Bearer(rest)
        case "basic":
            return _read_basic(rest)
        case _:
            raise Unauthorized("send credentials as Bearer or Basic")


def _read_basic(encoded: str) -> Basic:
    try:
        text = base64.b64decode(encoded.encode("ascii"), validate=True).decode()
    except (binascii.Error, UnicodeError) as error:
        raise Unauthorized("the Basic credentials cannot be decoded: log in again") from error
    username, colon, password = text.partition(":")
    if not colon:
        raise Unauthorized("the Basic credentials have no password: log in again")
    return Basic(username, password)


async def may_pull(request: RegistryRequest, name: RepositoryName) -> bool:
    """Tell whether whoever asks may pull from another repository, too."""
    admission: Admission | None = request.scope.get(_ADMISSION)
    if admission is None:
        # Nobody stands before a registry without authentication.
        return True
    (access,) = of_repository(name, PULL)
    return await admission.gate.may(admission.caller, access)


def _mounted_from(scope: Scope) -> tuple[Access, ...]:
    try:
        query = parse_qs(scope["query_string"].decode("latin-1"), max_num_fields=_MOST_FIELDS)
        return of_repository(RepositoryName.parse(query["from"][0]), PULL)
    except (KeyError, ValueError, NameInvalid):
        return ()
