"""The token service: makes tokens of ours, and reads them.

A token says who somebody is and, unless permissions are asked for with every request anyway, what
it is limited to: what the client asked for and its user may. It is signed, so that every replica
with the keys believes it, and short-lived. It stops being good at once when its user is removed or
the password is changed, in the modes that can tell.
"""

import asyncio
import hashlib
import math
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Protocol

from typing_extensions import override

from alauda_registry.auth import tokens
from alauda_registry.auth.authenticator import (
    ANONYMOUS,
    Authenticator,
    Basic,
    Bearer,
    Caller,
    Certificate,
    Credentials,
    Identity,
)
from alauda_registry.auth.authorizer import Authorizer
from alauda_registry.auth.caches import Kept
from alauda_registry.auth.files import Watched
from alauda_registry.auth.keys import KeyRing
from alauda_registry.auth.scopes import REPOSITORY, Access, Grants, Scope, is_of_many
from alauda_registry.auth.tokens import TokenInvalid
from alauda_registry.oci.errors import NameInvalid, RequestInvalid, Unauthorized
from alauda_registry.oci.reference import RepositoryName

SHORTEST_LIFETIME = 60
"""Seconds; clients take a token to live as long, whatever they are told."""

LONGEST_ISSUED = 7 * 1024
"""Characters. nginx and others pass on fields of 8 KiB, and we take tokens of
:data:`~alauda_registry.auth.tokens.LONGEST_TOKEN`."""

KEPT_TOKENS = 4096
"""Tokens that need not be verified again; each takes about a kilobyte."""

REFRESH_TYPE = "refresh+jwt"


class Accounts(Protocol):
    """Knows whether somebody still exists, and has the same password as before."""

    def mark(self, name: str) -> str | None:
        """Return what changes with the password; None if there is nobody of the name."""
        ...

    @property
    def marks_known_until(self) -> float:
        """When marks may be others than now, in seconds of the monotonic clock."""
        ...


@dataclass(frozen=True, slots=True)
class Terms:
    """What tokens of ours are like.

    Args:
        issuer: Their ``iss``.
        service: Their ``aud`` for this registry.
        audiences: Other services that may have tokens from us.
        lifetime: Seconds, at least `SHORTEST_LIFETIME`.
        refresh_lifetime: Seconds that a refresh token is good; None for no such tokens.
        carry_access: Whether they say what they are limited to. They needn't where permissions may
            change from one request to the next.
        passwords_are_tokens: Whether what is shown as a password is a token that is good without
            ours. It is handed back where ours would be too long for its user's groups.
    """

    issuer: str
    service: str
    audiences: frozenset[str] = frozenset()
    lifetime: int = 300
    refresh_lifetime: int | None = None
    carry_access: bool = True
    passwords_are_tokens: bool = False


@dataclass(frozen=True, slots=True)
class Issued:
    """A token, and what its client is told about it."""

    token: str = field(repr=False)
    expires_in: int
    issued_at: datetime
    scope: str
    refresh_token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class _Verified:
    """A token that was good, and until when it is."""

    caller: Caller
    expires: float
    generation: int
    mark: str | None


class TokenService(Authenticator):
    """Makes tokens and reads them; as an authenticator it stands before the mode's own.

    Args:
        authenticator: Knows who shows a name and a password, or a token that is not ours.
        authorizer: Knows what they may.
        keys: Sign and verify.
        terms: Of the tokens.
        accounts: Knows whose tokens are not good any more; None when nobody does.
        now: The clock, in seconds since the epoch.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        authorizer: Authorizer,
        keys: Watched[KeyRing],
        terms: Terms,
        accounts: Accounts | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._authenticator = authenticator
        self._authorizer = authorizer
        self._keys = keys
        self._terms = terms
        self._accounts = accounts
        self._now = now
        self._verified: Kept[bytes, _Verified] = Kept(KEPT_TOKENS)

    def jwks(self) -> Mapping[str, Any]:
        """Return the public keys, for whoever verifies our tokens (RFC 7517)."""
        return self._keys.current.jwks()

    async def issue(
        self,
        credentials: Basic | Certificate | None,
        address: str,
        scopes: Iterable[Scope],
        *,
        service: str | None = None,
        offline: bool = False,
    ) -> Issued:
        """Return a token for somebody; None is nobody in particular.

        Args:
            credentials: A name and a password, or a certificate.
            address: Where from.
            scopes: What is asked for. What may not be had is left out.
            service: Whom the token is for; None for this registry.
            offline: Whether a refresh token is asked for, too.

        Raises:
            RequestInvalid: The service is not one that we make tokens for, or the token would be
                too long to be shown.
            Unauthorized: The credentials are not good.
            TooManyRequests: Too many were not, lately.
            AuthorityUnavailable: Nobody can tell at the moment.
        """
        audience = self._audience(service)
        identity, mark = ANONYMOUS, None
        if credentials is not None:
            # Before the password is looked at: if it is changed meanwhile, the token is no good.
            mark = self._mark_of(credentials)
            caller = await self._authenticator.authenticate(credentials, address)
            identity = caller.identity
        issued = await self._issue(identity, mark, audience, scopes, offline=offline)
        return self._fit(issued, credentials)

    async def refresh(
        self, refresh_token: str, scopes: Iterable[Scope], *, service: str | None = None
    ) -> Issued:
        """Return a token for whoever was given a refresh token.

        Raises:
            RequestInvalid: The service is not one that we make tokens for, or the token would be
                too long to be shown.
            Unauthorized: The refresh token is not good, or not any more.
        """
        audience = self._audience(service)
        try:
            if self._terms.refresh_lifetime is None:
                # One of another mode with the same keys knows somebody of the same name only.
                raise TokenInvalid("there are none here")
            claims = self._verify(refresh_token, REFRESH_TYPE, self._refresh_audience)
        except TokenInvalid as error:
            raise Unauthorized(
                f"the refresh token is not good, {error}: log in again", error="invalid_token"
            ) from error
        issued = await self._issue(_identity(claims), claims.get("mark"), audience, scopes)
        return self._fit(replace(issued, refresh_token=refresh_token))

    @override
    async def authenticate(self, credentials: Credentials, address: str) -> Caller:
        """Return who shows a token of ours, or what the mode's authenticator knows."""
        if not isinstance(credentials, Bearer):
            return await self._authenticator.authenticate(credentials, address)
        key = hashlib.sha256(credentials.token.encode()).digest()
        known = self._verified.get(key)
        if known is not None and self._is_still_good(known):
            return replace(known.caller, known_until=self._known_until(known))
        try:
            unverified = tokens.read(credentials.token)
        except TokenInvalid:
            return await self._authenticator.authenticate(credentials, address)
        kid = unverified.header.get("kid")
        if not isinstance(kid, str) or kid not in self._keys.current.verifying:
            if unverified.claims.get("iss") == self._terms.issuer:
                # Nobody else has to look at it, and it is no guess: its key was replaced.
                raise Unauthorized(
                    "the token is not good, its key is not known here: get a new one",
                    error="invalid_token",
                )
            return await self._authenticator.authenticate(credentials, address)
        try:
            claims = self._verify(credentials.token, tokens.ACCESS_TYPE, self._terms.service)
            if not self._terms.carry_access and "access" in claims:
                raise TokenInvalid("it is of another mode")
            grants = Grants(claims.get("access")) if self._terms.carry_access else None
        except (TokenInvalid, ValueError) as error:
            raise Unauthorized(
                f"the token is not good, {error}: get a new one", error="invalid_token"
            ) from error
        caller = Caller(_identity(claims), grants)
        generation = self._keys.generation
        self._verified.put(
            key, _Verified(caller, float(claims["exp"]), generation, claims.get("mark"))
        )
        return caller

    async def _issue(
        self,
        identity: Identity,
        mark: str | None,
        audience: str,
        scopes: Iterable[Scope],
        *,
        offline: bool = False,
    ) -> Issued:
        now = self._now()
        until = now + self._terms.lifetime
        if identity.expires is not None:
            until = min(until, identity.expires)
        granted = await self._granted(identity, scopes) if self._terms.carry_access else []
        claims = {
            **self._claims(identity, mark, now, until),
            "aud": audience,
            # Clocks of other machines may be a little behind.
            "nbf": int(now) - 30,
            "jti": secrets.token_urlsafe(16),
        }
        if self._terms.carry_access:
            claims["access"] = [scope.claim() for scope in granted]
        key = self._keys.current.signing
        refresh = None
        if offline and not identity.is_anonymous and self._terms.refresh_lifetime is not None:
            until_then = now + self._terms.refresh_lifetime
            kept = {
                **self._claims(identity, mark, now, until_then),
                "aud": self._refresh_audience,
                "jti": secrets.token_urlsafe(16),
            }
            refresh = tokens.sign(kept, key, REFRESH_TYPE)
        return Issued(
            token=tokens.sign(claims, key),
            expires_in=max(SHORTEST_LIFETIME, int(until - now)),
            issued_at=datetime.fromtimestamp(int(now), UTC),
            scope=" ".join(map(str, granted)),
            refresh_token=refresh,
        )

    def _fit(self, issued: Issued, credentials: Basic | Certificate | None = None) -> Issued:
        """Return a token, or what can be shown in its place if it is long.

        Raises:
            RequestInvalid: There is nothing.
        """
        if len(issued.token) <= LONGEST_ISSUED:
            return issued
        if self._terms.passwords_are_tokens and isinstance(credentials, Basic):
            # As OpenShift's registry always does.
            return min(issued, replace(issued, token=credentials.password), key=_length)
        if len(issued.token) <= tokens.LONGEST_TOKEN:
            return issued
        raise RequestInvalid(
            f"the token would be longer than {tokens.LONGEST_TOKEN} characters: "
            + (
                "ask for fewer scopes at once"
                if self._terms.carry_access
                else "show the client certificate with every request, and no token"
            )
        )

    def _claims(
        self, identity: Identity, mark: str | None, now: float, until: float
    ) -> dict[str, Any]:
        claims: dict[str, Any] = {
            "iss": self._terms.issuer,
            "sub": identity.name,
            "iat": int(now),
            "exp": int(until),
        }
        more = {
            "uid": identity.uid,
            "groups": sorted(identity.groups),
            "extra": {name: list(values) for name, values in identity.extra.items()},
        }
        if said := {name: value for name, value in more.items() if value}:
            claims["identity"] = said
        if self._accounts is not None and not identity.is_anonymous:
            claims["mark"] = mark
        return claims

    async def _granted(self, identity: Identity, scopes: Iterable[Scope]) -> list[Scope]:
        granted = []
        for scope in scopes:
            # One request may ask for a hundred of them; others get on meanwhile.
            await asyncio.sleep(0)
            actions = [
                access.action
                for access in scope.accesses()
                if await self._is_allowed(identity, access)
            ]
            if actions:
                granted.append(replace(scope, actions=tuple(actions)))
        return granted

    async def _is_allowed(self, identity: Identity, access: Access) -> bool:
        try:
            if access.type == REPOSITORY and not is_of_many(access.name):
                RepositoryName.parse(access.name)
            return await self._authorizer.allows(identity, access)
        except NameInvalid:
            return False

    def _verify(self, token: str, kind: str, audience: str) -> Mapping[str, Any]:
        header = tokens.read(token).header
        key = self._keys.current.verifying.get(str(header.get("kid")))
        if key is None or header.get("typ") != kind:
            raise TokenInvalid("it is not ours")
        claims = tokens.verify(
            token, key.key, key.algorithms, issuer=self._terms.issuer, audiences=[audience]
        )
        if not self._has_mark(str(claims.get("sub", "")), claims.get("mark")):
            raise TokenInvalid("its user has another password now, or is gone")
        return claims

    def _is_still_good(self, known: _Verified) -> bool:
        # The files are looked at first: what they hold now decides.
        current, generation = self._keys.current, self._keys.generation
        return (
            known.generation == generation
            and bool(current.verifying)
            and known.expires > self._now()
            and self._has_mark(known.caller.identity.name, known.mark)
        )

    def _known_until(self, known: _Verified) -> float:
        """When a token that is good has to be looked at again."""
        return min(
            self._keys.known_until,
            math.inf if self._accounts is None else self._accounts.marks_known_until,
            time.monotonic() + known.expires - self._now(),
        )

    def _has_mark(self, name: str, mark: object) -> bool:
        if self._accounts is None or not name:
            return True
        # Nobody has no mark: else tokens of a user removed meanwhile would be good for ever.
        return mark is not None and self._accounts.mark(name) == mark

    def _mark_of(self, credentials: Basic | Certificate) -> str | None:
        if self._accounts is None or not isinstance(credentials, Basic):
            return None
        return self._accounts.mark(credentials.username)

    def _audience(self, service: str | None) -> str:
        if not service or service == self._terms.service:
            return self._terms.service
        if service in self._terms.audiences:
            return service
        raise RequestInvalid(
            "tokens for this service are not to be had here: it must be listed in "
            "auth.tokenservice.audiences",
            service=service,
        )

    @property
    def _refresh_audience(self) -> str:
        return f"{self._terms.issuer}#refresh"


def _length(issued: Issued) -> int:
    return len(issued.token)


def _identity(claims: Mapping[str, Any]) -> Identity:
    more = claims.get("identity", {})
    return Identity(
        name=str(claims.get("sub", "")),
        groups=frozenset(more.get("groups", ())),
        uid=more.get("uid", ""),
        extra={name: tuple(values) for name, values in more.get("extra", {}).items()},
        expires=float(claims["exp"]),
    )
