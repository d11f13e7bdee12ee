"""The keys that tokens are signed with, and those that tokens of ours may have been signed with.

All are in PEM files: the first private key of the first file signs, every other key verifies. So
keys change without a token being refused: add the new one behind the old, then let them change
places, and take the old one away when its tokens are gone. A key's id is its thumbprint (RFC 7638),
which distribution computes from certificates in the same way.
"""

import base64
import hashlib
import json
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from alauda_registry.auth.files import FileInvalid, sync_directory

PublicKey: TypeAlias = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey
PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

SMALLEST_RSA = 2048
"""Bits."""

_BLOCK = re.compile(
    rb"-----BEGIN ((?:EC |RSA |ENCRYPTED )?PRIVATE KEY|PUBLIC KEY)-----.*?-----END \1-----",
    re.DOTALL,
)
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_THUMBPRINT_MEMBERS = {
    "EC": ("crv", "kty", "x", "y"),
    "OKP": ("crv", "kty", "x"),
    "RSA": ("e", "kty", "n"),
}


class Algorithm(StrEnum):
    """How new keys sign (RFC 7518, RFC 8037)."""

    ES256 = "ES256"
    RS256 = "RS256"
    EDDSA = "EdDSA"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key."""

    key: PrivateKey = field(repr=False)
    kid: str
    algorithm: str


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """A public key.

    Args:
        key: It.
        algorithms: Those that signatures by it may have.
        kid: Its thumbprint.
    """

    key: PublicKey = field(repr=False)
    algorithms: tuple[str, ...]
    kid: str


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The keys of the token service.

    Args:
        signing: Signs.
        verifying: Verify, by their ids; the signing one is among them.
    """

    signing: SigningKey
    verifying: Mapping[str, VerifyingKey]

    def jwks(self) -> dict[str, Any]:
        """Return the public keys as a JSON Web Key Set (RFC 7517)."""
        return {
            "keys": [
                {**public_jwk(found.key), "kid": kid, "use": "sig", "alg": found.algorithms[0]}
                for kid, found in self.verifying.items()
            ]
        }


def read_keys(contents: Sequence[bytes]) -> KeyRing:
    """Read PEM files.

    Raises:
        FileInvalid: One cannot be understood, or there is no private key.
    """
    blocks = [found[0] for content in contents for found in _BLOCK.finditer(content)]
    keys = [_load(block) for block in blocks]
    private = next((key for key in keys if _is_private(key)), None)
    if private is None:
        raise FileInvalid(
            "there is no private key for tokens in the files of auth.tokenservice.keys: make one "
            "with openssl ecparam -genkey -name prime256v1 -noout"
        )
    publics = [key.public_key() if _is_private(key) else key for key in keys]
    verifying = {found.kid: found for found in map(verifying_key, publics)}
    signing = verifying_key(private.public_key())
    return KeyRing(SigningKey(private, signing.kid, signing.algorithms[0]), verifying)


def verifying_key(key: object) -> VerifyingKey:
    """Return a public key with the algorithms that fit it.

    Raises:
        FileInvalid: It is of a kind, or as short, as is not to be used.
    """
    match key:
        case ec.EllipticCurvePublicKey() if key.curve.name in _CURVES:
            algorithms: tuple[str, ...] = (_CURVES[key.curve.name],)
        case rsa.RSAPublicKey() if key.key_size >= SMALLEST_RSA:
            algorithms = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
        case ed25519.Ed25519PublicKey():
            algorithms = ("EdDSA",)
        case _:
            raise FileInvalid(
                f"a key is of a kind that is not used for tokens: take EC (P-256, P-384, P-521), "
                f"Ed25519, or RSA with {SMALLEST_RSA} bits and more"
            )
    return VerifyingKey(key, algorithms, thumbprint(public_jwk(key)))


def public_jwk(key: PublicKey) -> dict[str, Any]:
    """Return a public key as a JSON Web Key, without an id."""
    match key:
        case ec.EllipticCurvePublicKey():
            jwk = ECAlgorithm.to_jwk(key, as_dict=True)
        case rsa.RSAPublicKey():
            jwk = RSAAlgorithm.to_jwk(key, as_dict=True)
        case _:
            jwk = OKPAlgorithm.to_jwk(key, as_dict=True)
    return {name: jwk[name] for name in _THUMBPRINT_MEMBERS[jwk["kty"]]}


def thumbprint(jwk: Mapping[str, Any]) -> str:
    """Return the id of a public key (RFC 7638).

    Raises:
        KeyError: It is not a key that we know, or not a whole one.
    """
    members = {name: jwk[name] for name in _THUMBPRINT_MEMBERS[jwk["kty"]]}
    canonical = json.dumps(members, sort_keys=True, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(hashlib.sha256(canonical).digest()).rstrip(b"=").decode()


def libtrust_id(key: PublicKey) -> str:
    """Return the id that registry:2 gives a public key: 240 bits in twelve groups."""
    der = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    text = base64.b32encode(hashlib.sha256(der).digest()[:30]).decode()
    return ":".join(text[at : at + 4] for at in range(0, len(text), 4))


def make_key(algorithm: Algorithm) -> bytes:
    """Return a new private key as PEM."""
    key: PrivateKey
    match algorithm:
        case Algorithm.ES256:
            key = ec.generate_private_key(ec.SECP256R1())
        case Algorithm.RS256:
            key = rsa.generate_private_key(65537, 3072)
        case Algorithm.EDDSA:
            key = ed25519.Ed25519PrivateKey.generate()
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def ensure_key_file(path: Path, algorithm: Algorithm) -> bool:
    """Make a key if there is no file, readable for its owner only; whether one was made.

    Of several that do so at once one succeeds, and the others use what it made.

    Raises:
        FileInvalid: It cannot be made.
    """
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        if path.exists():
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(scratch, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.write(make_key(algorithm))
                file.flush()
                os.fsync(descriptor)
            is_first = _link(scratch, path)
        finally:
            scratch.unlink()
        sync_directory(path.parent)
    except OSError as error:
        raise FileInvalid(
            f"cannot make {path}, the key that tokens are signed with: {error.strerror}; name a "
            "file that is there in auth.tokenservice.keys"
        ) from error
    return is_first


def _link(scratch: Path, path: Path) -> bool:
    """Give a file its name, unless there is one of the name: nobody sees half a key, or two."""
    try:
        os.link(scratch, path)
    except FileExistsError:
        return False
    return True


def _load(block: bytes) -> Any:
    try:
        if b"PUBLIC KEY" in block[:30]:
            return serialization.load_pem_public_key(block)
        return serialization.load_pem_private_key(block, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise FileInvalid(
            "a key in the files of auth.tokenservice.keys cannot be used: it must be PEM, without "
            "a pass phrase"
        ) from error


def _is_private(key: object) -> bool:
    return hasattr(key, "private_bytes")
