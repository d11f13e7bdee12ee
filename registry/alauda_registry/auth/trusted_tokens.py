"""Tokens of a token server that is not ours, as distribution's ``auth.token`` describes it.

The key of a token is found in one of three ways, the first that its header has: a chain of
certificates (``x5c``) that leads to one of ``rootcertbundle``; the key itself (``jwk``), which must
be one that is trusted or have such a chain; an id (``kid``) of a key in ``rootcertbundle``, in the
form of registry:3 (RFC 7638) or of registry:2 (libtrust), or of one in ``jwks``. No key is ever
fetched from where a token says (``jku``, ``x5u``).
"""

import base64
import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, TypeAlias

import jwt
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    Policy,
    PolicyBuilder,
    Store,
    VerificationError,
)
from typing_extensions import override

from alauda_registry.auth import tokens
from alauda_registry.auth.authenticator import Authenticator, Bearer, Caller, Credentials, Identity
from alauda_registry.auth.caches import Kept
from alauda_registry.auth.files import FileInvalid, Watched
from alauda_registry.auth.keys import (
    VerifyingKey,
    libtrust_id,
    thumbprint,
    verifying_key,
)
from alauda_registry.auth.scopes import Grants
from alauda_registry.auth.tokens import TokenInvalid
from alauda_registry.oci.errors import Unauthorized

logger = logging.getLogger(__name__)

LEEWAY_SECONDS = 60
"""By which the clocks of the token server and ours may differ; distribution's."""

KEPT_TOKENS = 4096
"""Tokens that need not be verified again."""

LONGEST_CHAIN = 10
"""Certificates."""

LARGEST_RSA = 8192
"""Bits of keys in the chains of tokens, which anybody may send: larger ones take milliseconds."""

ASYMMETRIC = (
    *("EdDSA", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"),
)
"""Distribution's default: what a public key verifies."""

_NO_KEY = (
    *(ValueError, KeyError, TypeError, AttributeError),
    *(UnsupportedAlgorithm, jwt.PyJWTError),
)
"""What reading something else than a key of a known kind raises."""

SYMMETRIC = ("HS256", "HS384", "HS512")
"""With secrets of the jwks file, and only when they are asked for."""


@dataclass(frozen=True, slots=True)
class _Secret:
    """A key that signs as well as it verifies."""

    key: bytes
    algorithms: tuple[str, ...] = SYMMETRIC


@dataclass(frozen=True, slots=True)
class TrustedKeys:
    """What tokens may be signed with.

    Args:
        roots: Chains of certificates lead to one of these.
        keys: By their ids.
    """

    roots: tuple[x509.Certificate, ...]
    keys: Mapping[str, "VerifyingKey | _Secret"]


def read_certificates(contents: Sequence[bytes]) -> TrustedKeys:
    """Read a ``rootcertbundle``.

    Raises:
        FileInvalid: There is no certificate in it, or one that cannot be used.
    """
    try:
        roots = [
            found for content in contents for found in x509.load_pem_x509_certificates(content)
        ]
    except ValueError as error:
        raise FileInvalid("auth.token.rootcertbundle has no certificates in PEM") from error
    keys: dict[str, VerifyingKey | _Secret] = {}
    for number, root in enumerate(roots, 1):
        try:
            found = verifying_key(root.public_key())
        except (FileInvalid, UnsupportedAlgorithm, ValueError) as error:
            raise FileInvalid(
                f"certificate {number} of auth.token.rootcertbundle has a key of a kind that "
                "tokens are not signed with: take it out"
            ) from error
        keys |= {found.kid: found, libtrust_id(found.key): found}
    return TrustedKeys(tuple(roots), keys)


def read_jwks(contents: Sequence[bytes]) -> TrustedKeys:
    """Read a JSON Web Key Set (RFC 7517), and pass over keys in it that cannot be used (section 5).

    Raises:
        FileInvalid: It is none, or none of the keys in it can be used.
    """
    keys: dict[str, VerifyingKey | _Secret] = {}
    is_empty = True
    for content in contents:
        try:
            entries = [*json.loads(content)["keys"]]
        except (ValueError, KeyError, TypeError) as error:
            raise FileInvalid("auth.token.jwks is no JSON Web Key Set") from error
        is_empty &= not entries
        for number, entry in enumerate(entries, 1):
            try:
                keys[str(entry.get("kid") or thumbprint(entry))] = _read_jwk(entry)
            except FileInvalid as error:
                logger.warning("key %d of auth.token.jwks is passed over: %s", number, error)
            except _NO_KEY:
                logger.warning("key %d of auth.token.jwks is passed over: it is no key", number)
    if not keys and not is_empty:
        raise FileInvalid("auth.token.jwks has no key that is EC, RSA, Ed25519 or oct")
    return TrustedKeys((), keys)


@dataclass(frozen=True, slots=True)
class TokenServer:
    """What is known of the server that makes the tokens.

    Args:
        issuer: Their ``iss``.
        service: Their ``aud``.
        algorithms: How they may be signed.
    """

    issuer: str
    service: str
    algorithms: tuple[str, ...] = ASYMMETRIC


@dataclass(frozen=True, slots=True)
class _Verified:
    caller: Caller
    expires: float
    generation: tuple[int, ...]


class TrustedTokens(Authenticator):
    """Knows whoever has a token of the token server.

    Args:
        server: Whose tokens.
        sources: The files with keys: certificates, key sets or both.
        now: The clock, in seconds since the epoch.
    """

    def __init__(
        self,
        server: TokenServer,
        sources: Sequence[Watched[TrustedKeys]],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._server = server
        self._sources = sources
        self._now = now
        self._verified: Kept[bytes, _Verified] = Kept(KEPT_TOKENS)

    @override
    async def authenticate(self, credentials: Credentials, address: str) -> Caller:
        """Return who shows a token, with what it allows."""
        if not isinstance(credentials, Bearer):
            raise Unauthorized("get a token from the token server: passwords are not taken here")
        token = credentials.token
        digest = hashlib.sha256(token.encode()).digest()
        sources = [source.current for source in self._sources]
        generation = tuple(source.generation for source in self._sources)
        known = self._verified.get(digest)
        if known and known.generation == generation and known.expires > self._now():
            return replace(known.caller, known_until=self._known_until(known))
        try:
            claims, vouched_until = self._verify(token, sources)
            caller = Caller(Identity(str(claims.get("sub", ""))), Grants(claims.get("access")))
            expires = min(_end(claims) + LEEWAY_SECONDS, vouched_until)
        except (TokenInvalid, FileInvalid, ValueError) as error:
            raise Unauthorized(
                f"the token is not good, {error}: get a new one", error="invalid_token"
            ) from error
        self._verified.put(digest, _Verified(caller, expires, generation))
        return caller

    def _known_until(self, known: _Verified) -> float:
        """When a token that is good has to be looked at again."""
        expires = time.monotonic() + known.expires - self._now()
        return min(expires, *(source.known_until for source in self._sources))

    def _verify(
        self, token: str, sources: Sequence[TrustedKeys]
    ) -> tuple[Mapping[str, Any], float]:
        """Return what a token says, and until when certificates vouch for its key."""
        header = tokens.read(token).header
        key, vouched_until = _find_key(header, sources)
        algorithms = [name for name in key.algorithms if name in self._server.algorithms]
        if header["alg"] not in algorithms:
            raise TokenInvalid("it is signed in a way that is not accepted")
        claims = tokens.verify(
            token,
            key.key,
            algorithms,
            issuer=self._server.issuer,
            audiences=[self._server.service],
            leeway=LEEWAY_SECONDS,
        )
        return claims, vouched_until


def _end(claims: Mapping[str, Any]) -> float:
    try:
        return float(claims["exp"])
    except OverflowError as error:
        raise TokenInvalid("it ends at no time that there is") from error


_Found: TypeAlias = tuple[VerifyingKey | _Secret, float]
"""A key, and until when it is good as far as that is known now, in seconds since the epoch."""


def _find_key(header: Mapping[str, Any], sources: Sequence[TrustedKeys]) -> _Found:
    """Return the key that must have signed; never one that only the token vouches for."""
    roots = [root for source in sources for root in source.roots]
    if "x5c" in header:
        return _key_of_chain(header["x5c"], roots)
    if "jwk" in header:
        jwk = header["jwk"]
        if not isinstance(jwk, dict):
            raise TokenInvalid("its key cannot be read")
        if "x5c" in jwk:
            return _key_of_chain(jwk["x5c"], roots)
        return _trusted_twin(jwk, sources), math.inf
    kid = header.get("kid")
    for source in sources:
        if isinstance(kid, str) and (found := source.keys.get(kid)) is not None:
            return found, math.inf
    raise TokenInvalid("its key is not trusted")


def _trusted_twin(jwk: Mapping[str, Any], sources: Sequence[TrustedKeys]) -> VerifyingKey:
    """Return the trusted key that equals the one in a token."""
    try:
        wanted = thumbprint(jwk)
    except (KeyError, TypeError, RecursionError) as error:
        raise TokenInvalid("its key cannot be read") from error
    for source in sources:
        for found in source.keys.values():
            if isinstance(found, VerifyingKey) and found.kid == wanted:
                return found
    raise TokenInvalid("its key is not trusted")


def _key_of_chain(chain: object, roots: Sequence[x509.Certificate]) -> _Found:
    """Return the key of the first certificate of a chain that leads to a trusted one.

    It is good until the first of all these certificates has expired.
    """
    if not isinstance(chain, list) or not 0 < len(chain) <= LONGEST_CHAIN or not roots:
        raise TokenInvalid("its certificates are not trusted")
    try:
        leaf, *others = [
            x509.load_der_x509_certificate(base64.b64decode(entry, validate=True))
            for entry in chain
        ]
        way: Sequence[x509.Certificate] = [leaf]
        if leaf not in roots:
            way = _verifier(roots).verify(leaf, _without_detours(leaf, others)).chain
        elif not leaf.not_valid_before_utc <= datetime.now(UTC) <= leaf.not_valid_after_utc:
            raise TokenInvalid("its certificates are not trusted")
        until = min(certificate.not_valid_after_utc for certificate in way)
        return verifying_key(leaf.public_key()), until.timestamp()
    except _BAD_CERTIFICATE as error:
        raise TokenInvalid("its certificates are not trusted") from error


_BAD_CERTIFICATE = (
    TypeError,
    UnsupportedAlgorithm,
    ValueError,
    VerificationError,
    x509.InvalidVersion,
)


def _without_detours(
    leaf: x509.Certificate, others: Sequence[x509.Certificate]
) -> Sequence[x509.Certificate]:
    """Return what leads on from a certificate: one issuer for each, by their names.

    With several of one name all ways through them would be tried, a hundred signatures for a token
    of two kilobytes.

    Raises:
        ValueError: A key is so large that looking at its signatures takes long.
    """
    by_subject = {other.subject.public_bytes(): other for other in reversed(others)}
    way: list[x509.Certificate] = []
    last = leaf
    while (following := by_subject.pop(last.issuer.public_bytes(), None)) is not None:
        key = following.public_key()
        if isinstance(key, rsa.RSAPublicKey) and key.key_size > LARGEST_RSA:
            raise ValueError("a key is too large")
        way.append(following)
        last = following
    return way


def _verifier(roots: Sequence[x509.Certificate]) -> Any:
    # Certificates of token servers are for signing tokens: names and purposes are not looked at,
    # as distribution does not. That a certificate may sign others is.
    authority = (
        ExtensionPolicy.permit_all()
        .require_present(x509.BasicConstraints, Criticality.AGNOSTIC, None)
        .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _may_sign_others)
    )
    builder = PolicyBuilder().store(Store(list(roots))).max_chain_depth(LONGEST_CHAIN)
    policies = {"ca_policy": authority, "ee_policy": ExtensionPolicy.permit_all()}
    return builder.extension_policies(**policies).build_client_verifier()


def _may_sign_others(_: Policy, __: x509.Certificate, usage: x509.KeyUsage | None) -> None:
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("it is not for signing certificates")


def _read_jwk(entry: Mapping[str, Any]) -> VerifyingKey | _Secret:
    if entry["kty"] == "oct":
        secret: bytes = jwt.PyJWK.from_dict(dict(entry), algorithm="HS256").key
        return _Secret(secret)
    key = public_key_of(entry)
    return verifying_key(key)


def public_key_of(entry: Mapping[str, Any]) -> object:
    """Return the public key of a JSON Web Key."""
    public = {name: entry[name] for name in ("kty", "crv", "x", "y", "e", "n") if name in entry}
    return jwt.PyJWK.from_dict(public, algorithm=_ANY[entry["kty"]]).key


_ANY = {"EC": "ES256", "RSA": "RS256", "OKP": "EdDSA"}
