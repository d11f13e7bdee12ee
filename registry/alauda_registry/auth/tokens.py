"""JSON Web Tokens: read strictly, signed and verified by pyjwt.

What is here besides is what pyjwt leaves open: members that are there twice, extensions that nobody
knows (``crit``), sizes, and that a key is never used with an algorithm that is not its own.
"""

import base64
import binascii
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jwt

from alauda_registry.auth.keys import SigningKey

LONGEST_TOKEN = 16 * 1024
"""Characters."""

ACCESS_TYPE = "JWT"


class TokenInvalid(Exception):
    """A token is not good; the message says why, and nothing that is in it."""


@dataclass(frozen=True, slots=True)
class Unverified:
    """What a token says, before anybody has looked at its signature."""

    header: Mapping[str, Any]
    claims: Mapping[str, Any]


def read(token: str) -> Unverified:
    """Take a token apart.

    Raises:
        TokenInvalid: It has not the form of one that is signed.
    """
    if len(token) > LONGEST_TOKEN:
        raise TokenInvalid("it is too long")
    parts = token.split(".")
    if len(parts) != 3:
        raise TokenInvalid("it has not three parts")
    header, claims = (_read_part(part) for part in parts[:2])
    if header.keys() & {"crit", "b64", "zip"}:
        raise TokenInvalid("it has extensions that are not supported")
    if not isinstance(header.get("alg"), str):
        raise TokenInvalid("it names no algorithm")
    return Unverified(header, claims)


def sign(claims: Mapping[str, Any], key: SigningKey, kind: str = ACCESS_TYPE) -> str:
    """Return a token.

    Args:
        claims: What it says.
        key: Signs it.
        kind: Its header ``typ``.
    """
    return jwt.encode(
        dict(claims), key.key, algorithm=key.algorithm, headers={"typ": kind, "kid": key.kid}
    )


def verify(
    token: str,
    key: Any,
    algorithms: Collection[str],
    *,
    issuer: str,
    audiences: Iterable[str],
    leeway: float = 0,
) -> Mapping[str, Any]:
    """Return what a token says, if it is good.

    Args:
        token: Has been :func:`read`.
        key: Must have signed it.
        algorithms: In one of these ways.
        issuer: Must have issued it.
        audiences: It must be for one of these.
        leeway: Seconds by which clocks may differ.

    Raises:
        TokenInvalid: It is not.
    """
    try:
        found: Mapping[str, Any] = jwt.decode(
            token,
            key,
            algorithms=list(algorithms),
            audience=list(audiences),
            issuer=issuer,
            leeway=leeway,
            # When a token was made is no reason to refuse it; nbf is there for that.
            options={"require": ["exp", "iss", "aud"], "verify_iat": False, "verify_sub": False},
        )
    except jwt.InvalidTokenError as error:
        raise TokenInvalid(_REASONS.get(type(error), "it is not valid")) from error
    except (TypeError, ValueError, OverflowError) as error:
        # Claims of types that nobody expects.
        raise TokenInvalid("it is not valid") from error
    return found


_REASONS: Mapping[type[Exception], str] = {
    jwt.ExpiredSignatureError: "it has expired",
    jwt.ImmatureSignatureError: "it is not valid yet",
    jwt.InvalidAlgorithmError: "it is signed in a way that is not accepted",
    jwt.InvalidAudienceError: "it is for another service",
    jwt.InvalidIssuerError: "it is of another issuer",
    jwt.InvalidSignatureError: "its signature is not right",
}


def _read_part(part: str) -> dict[str, Any]:
    try:
        padded = part.encode("ascii") + b"=" * (-len(part) % 4)
        content = base64.b64decode(padded, altchars=b"-_", validate=True)
        found = json.loads(content, object_pairs_hook=_once)
    except (binascii.Error, UnicodeError, ValueError, RecursionError) as error:
        raise TokenInvalid("it cannot be read") from error
    if not isinstance(found, dict):
        raise TokenInvalid("it cannot be read")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Members that are there twice mean one thing to one reader and another to the next."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member is there twice")
    return found
