"""Stands before everything that serves content: reads what a client shows, and asks the gate.

Before the short cut, the router and whatever sends files, so that nothing gets past. Fields such as
``X-Remote-User`` mean nothing to it: a client is who its credentials say.
"""

import base64
import binascii
import hashlib
import time
from collections.abc import Awaitable, Mapping, Sequence
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
from alauda_registry.auth.caches import Kept
from alauda_registry.auth.challenge import bearer_challenge
from alauda_registry.auth.gate import Gate, insufficient_scope
from alauda_registry.auth.scopes import PULL, Access, of_repository, scope_text
from alauda_registry.oci.errors import NameInvalid, RegistryError, Unauthorized, Unsupported
from alauda_registry.oci.reference import RepositoryName
from alauda_registry.server.errors import error_response
from alauda_registry.server.middleware.envelope import Envelope
from alauda_registry.server.middleware.needs import methods, needs_of
from alauda_registry.server.proxies import Proxies
from alauda_registry.server.routing import parse_target
from alauda_registry.server.state import RegistryRequest
from alauda_registry.serving.protocol import CERTIFICATE

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
        key: Says the same in one word.
        refusal: Why even they are refused; they are not told before they have said who they are.
        allow: The methods that the endpoint knows, where it does not know this one.
    """

    needed: tuple[Access, ...] = ()
    key: str = ""
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
        self._admitted: Kept[tuple[bytes, str], Admission] = Kept(_KEPT)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one request, or refuse it."""
        if scope["type"] != "http":
            return self._app(scope, receive, send)
        method, raw_path = scope["method"], scope["raw_path"]
        # Nothing longer can be a path of ours, and what is remembered must not fill the memory.
        understand = self._remembered if len(raw_path) <= _LONGEST_PATH else self._understand
        asked = understand(method, raw_path)
        # Most have just been let in with the same credentials for the same thing.
        shown = _digest_of_credentials(scope, self._proxies)
        if shown is not None and asked.refusal is None and not _is_mount(scope):
            admission = self._admitted.get((shown, asked.key))
            if admission is not None and time.monotonic() < admission.caller.known_until:
                scope[_ADMISSION] = admission
                return self._app(scope, receive, send)
        return self._ask(scope, receive, send, asked, shown)

    async def _ask(
        self, scope: Scope, receive: Receive, send: Send, asked: _Asked, shown: bytes | None
    ) -> None:
        """Serve a request if the gate lets it in.

        Args:
            scope: The request's.
            receive: ASGI's.
            send: ASGI's.
            asked: What follows from method and path.
            shown: Stands for what is shown, where it may be remembered.
        """
        # Who is to mount a blob gets the token for both repositories at once.
        wanted = _mounted_from(scope) if _is_mount(scope) else ()
        refusal = await self.refusal(scope, asked.needed, wanted)
        if refusal is None:
            refusal = await self._way_to_more(scope, asked.needed, wanted)
        if refusal is None and asked.refusal is not None:
            refusal = error_response(asked.refusal, {"Allow": asked.allow} if asked.allow else None)
        if refusal is None:
            if shown is not None:
                self._admitted.put((shown, asked.key), scope[_ADMISSION])
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
            caller = await self.admit(scope, needed)
        except RegistryError as error:
            return self.answer(error, scope, (*needed, *wanted))
        scope[_ADMISSION] = Admission(self._gate, caller)
        return None

    async def _way_to_more(
        self, scope: Scope, needed: Sequence[Access], wanted: Sequence[Access]
    ) -> Response | None:
        """Return the way to a token for what is wanted, too; None for whoever has it or may not.

        Without it they would send what is there already. Whether it is there is not looked at, and
        who may not pull it does not get here.
        """
        admission: Admission = scope[_ADMISSION]
        for access in wanted:
            if await admission.gate.lacks_scope_only(admission.caller, access):
                return self.answer(insufficient_scope([access]), scope, (*needed, *wanted))
        return None

    async def identify(self, scope: Scope) -> Caller:
        """Return who sends a request.

        Raises:
            Unauthorized: What they show is not good.
            TooManyRequests: Too many guesses.
            AuthorityUnavailable: Nobody can tell at the moment.
        """
        return await self._gate.identify(self._shown(scope), self._proxies.address(scope))

    async def admit(self, scope: Scope, needed: Sequence[Access]) -> Caller:
        """Return who sends a request, if they may do all of this; raises what the gate raises."""
        return await self._gate.admit(self._shown(scope), self._proxies.address(scope), needed)

    def answer(self, error: RegistryError, scope: Scope, needed: Sequence[Access] = ()) -> Response:
        """Return the answer to a refusal, with the way to a token where one helps."""
        if not isinstance(error, Unauthorized):
            return error_response(error)
        return error_response(error, {"WWW-Authenticate": self.challenge(scope, error, needed)})

    def challenge(self, scope: Scope, error: Unauthorized, needed: Sequence[Access]) -> str:
        """Return the way to a token that allows this."""
        url = self._realm.url or self._proxies.origin(scope).url + self._realm.path
        return bearer_challenge(
            url, service=self._realm.service, scope=scope_text(needed), error=error.error
        )

    def _shown(self, scope: Scope) -> Credentials | None:
        return read_credentials(
            scope, self._proxies, takes_certificates=self._gate.takes_certificates
        )

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
        return _Asked(needed, repr(needed))


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


def _digest_of_credentials(scope: Scope, proxies: Proxies) -> bytes | None:
    """Return what stands for the field ``Authorization``, and cannot be logged in with.

    None where there is more than that to be looked at, or less.
    """
    shown = None
    for name, value in scope["headers"]:
        if name == b"authorization":
            if shown is not None:
                return None
            shown = value
    if shown is None:
        return None
    hashed = hashlib.sha256(shown)
    if shown[:7].lower() != b"bearer ":
        # Passwords can be guessed, and who guesses from elsewhere must not learn which one lets in.
        hashed.update(b"\0" + proxies.address(scope).encode())
    return hashed.digest()


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


def _is_mount(scope: Scope) -> bool:
    return scope["method"] == "POST" and b"mount=" in scope["query_string"]


def _mounted_from(scope: Scope) -> tuple[Access, ...]:
    try:
        query = parse_qs(scope["query_string"].decode("latin-1"), max_num_fields=_MOST_FIELDS)
        return of_repository(RepositoryName.parse(query["from"][0]), PULL)
    except (KeyError, ValueError, NameInvalid):
        return ()
