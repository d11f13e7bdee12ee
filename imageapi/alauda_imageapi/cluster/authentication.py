"""Who asks: in turn the front proxy, a client certificate, a token, and else nobody.

The first that knows somebody decides. One that finds something wrong does not stop the others, but
when none of them knows anybody, a request with something wrong is 401 and not anonymous
(facts/apiserver.md 1.5).
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache

from cryptography import x509
from cryptography.x509.oid import NameOID
from starlette.types import Scope

from alauda_imageapi.cluster.front_proxy import Header, HeadersInvalid, Trust
from alauda_imageapi.machinery.errors import (
    Forbidden,
    ServiceUnavailable,
    StatusError,
    TooManyRequests,
    Unauthorized,
)
from alauda_registry.auth.authenticator import Authenticator, Bearer, Certificate, Identity
from alauda_registry.kube.client import (
    ANONYMOUS,
    AUTHENTICATED,
    UNAUTHENTICATED,
    Attributes,
    KubeClient,
    UserInfo,
)
from alauda_registry.oci import errors as oci_errors
from alauda_registry.serving.protocol import CHAIN

logger = logging.getLogger(__name__)

_CERTIFICATES_KEPT = 1024
_NEVER = datetime.fromtimestamp(0, UTC)

MOST_REVIEWS = 50
"""Tokens that kube-apiserver is asked about at once. Half of the connections to it are left for
other questions, whatever anybody sends who reaches this server."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and whether kube-apiserver passed the request on."""

    user: UserInfo
    is_proxied: bool = False


class FewTokenReviews:
    """Implements :class:`~alauda_registry.kube.client.KubeClient`: asks about few tokens at once.

    Anybody may show any number of them, from any number of addresses.

    Args:
        client: Asks the API server.
        most: Questions at once.
    """

    def __init__(self, client: KubeClient, most: int = MOST_REVIEWS) -> None:
        self._client = client
        self._most = most
        self._running = 0

    async def review_token(self, token: str, audiences: Sequence[str] = ()) -> UserInfo | None:
        """Return whom a token belongs to.

        Raises:
            TooManyRequests: It is not known, and too many others are being asked about.
        """
        if self._running >= self._most:
            raise oci_errors.TooManyRequests(
                "too many tokens are being looked at: try again in a moment", retry_after=1
            )
        self._running += 1
        try:
            return await self._client.review_token(token, audiences)
        finally:
            self._running -= 1

    async def review_access(self, user: UserInfo, attributes: Attributes) -> bool:
        """Return whether somebody may do something."""
        return await self._client.review_access(user, attributes)


class Authentication:
    """Says who asks.

    Args:
        trust: Returns which certificates count now: connections outlive them.
        authenticator: Knows tokens, and whom a user's certificate names.
    """

    def __init__(self, trust: Callable[[], Trust], authenticator: Authenticator) -> None:
        self._trust = trust
        self._authenticator = authenticator

    async def authenticate(self, scope: Scope) -> Caller:
        """Return who asks.

        Raises:
            Unauthorized: What was shown is not good.
            Forbidden: It is asked in the name of somebody else.
            TooManyRequests: Too many bad tokens came from there, or too many tokens at once.
            ServiceUnavailable: Whoever knows cannot be asked.
        """
        trust, headers = self._trust(), list(scope["headers"])
        if any(name.startswith(b"impersonate-") for name, _ in headers):
            # kube-apiserver takes these off whatever it passes on.
            raise Forbidden("impersonation is kube-apiserver's: send the request there")
        problems: list[StatusError] = []
        user = None
        chain: Sequence[bytes] = scope.get(CHAIN, ())
        if chain:
            try:
                if _is_of_front_proxy(trust, chain):
                    if (user := trust.headers.user_in(headers)) is not None:
                        return Caller(_with_group(user), is_proxied=True)
                elif trust.is_user(chain):
                    return Caller(await self._ask(Certificate(chain[0]), scope))
            except HeadersInvalid as error:
                problems.append(Unauthorized(str(error)))
            except Unauthorized as error:
                problems.append(error)
        if token := _token_in(headers):
            try:
                return Caller(await self._ask(Bearer(token), scope))
            except Unauthorized as error:
                problems.append(error)
        if problems:
            raise problems[0]
        return Caller(ANONYMOUS)

    async def _ask(self, shown: Certificate | Bearer, scope: Scope) -> UserInfo:
        client = scope.get("client")
        try:
            caller = await self._authenticator.authenticate(shown, client[0] if client else "")
        except oci_errors.Unauthorized as error:
            logger.info("not authenticated: %s", error)
            raise Unauthorized("Unauthorized") from error
        except oci_errors.TooManyRequests as error:
            raise TooManyRequests(
                str(error), details={"retryAfterSeconds": error.retry_after}
            ) from error
        except oci_errors.AuthorityUnavailable as error:
            raise ServiceUnavailable(str(error), details={"retryAfterSeconds": 1}) from error
        return _with_group(_user(caller.identity))


def strip(scope: Scope, trust: Trust) -> None:
    """Take away what says who asks, once that is known: nothing behind may believe it."""
    scope["headers"] = [
        (name, value)
        for name, value in scope["headers"]
        if name != b"authorization" and not trust.headers.is_one(name)
    ]


def _is_of_front_proxy(trust: Trust, chain: Sequence[bytes]) -> bool:
    shown = _read(chain[0])
    now = datetime.now(UTC)
    return shown.begins <= now < shown.ends and trust.is_front_proxy(chain, shown.name)


@dataclass(frozen=True, slots=True)
class _Shown:
    name: str
    begins: datetime
    ends: datetime


@lru_cache(_CERTIFICATES_KEPT)
def _read(der: bytes) -> _Shown:
    try:
        certificate = x509.load_der_x509_certificate(der)
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except (ValueError, x509.InvalidVersion):
        # Of kinds of text that nobody uses any more.
        return _Shown("", _NEVER, _NEVER)
    # Of several the last, as Go's library reads them.
    name = str(names[-1].value) if names else ""
    return _Shown(name, certificate.not_valid_before_utc, certificate.not_valid_after_utc)


def _token_in(headers: Sequence[Header]) -> str:
    value = next((value for name, value in headers if name == b"authorization"), b"")
    scheme, _, token = value.decode("latin-1").strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _user(identity: Identity) -> UserInfo:
    extra = tuple(sorted(identity.extra.items()))
    return UserInfo(identity.name, identity.uid, tuple(sorted(identity.groups)), extra)


def _with_group(user: UserInfo) -> UserInfo:
    """Everybody but nobody is in the group of the authenticated."""
    is_told = {AUTHENTICATED, UNAUTHENTICATED} & set(user.groups)
    if user.username == ANONYMOUS.username or is_told:
        return user
    return replace(user, groups=(*user.groups, AUTHENTICATED))
