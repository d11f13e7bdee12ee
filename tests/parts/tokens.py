"""Token servers of others, as far as a registry sees of them: keys, certificates and tokens."""

import base64
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeAlias

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.x509.oid import NameOID

ISSUER = "tokens.example"
SERVICE = "registry.example"

Key: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True)
class Certified:
    """A key and its certificate."""

    key: Key
    certificate: x509.Certificate

    @property
    def pem(self) -> bytes:
        """The certificate, as it goes into a bundle."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def der(self) -> str:
        """The certificate, as it goes into a token."""
        return base64.b64encode(self.certificate.public_bytes(serialization.Encoding.DER)).decode()


def certified(
    key: Key | None = None,
    *,
    signer: Certified | None = None,
    is_authority: bool = False,
    name: str = "tokens",
    days: int = 1,
    public: dsa.DSAPublicKey | rsa.RSAPublicKey | None = None,
    usage: x509.KeyUsage | None = None,
) -> Certified:
    """Return a key with a certificate, signed by itself or by an authority.

    Args:
        key: Is certified; a new one by default.
        signer: Signs; the key itself by default.
        is_authority: Whether it may sign others.
        name: Of its owner.
        days: How long it is good; it is too late with less than none.
        public: What the certificate has in the place of the key's.
        usage: What the key may be used for; nothing is said of it by default.
    """
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer = signer.certificate.subject if signer else subject
    now = datetime.now(UTC)
    end = now + timedelta(days=days)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public or key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, end) - timedelta(hours=1))
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
    )
    if usage is not None:
        builder = builder.add_extension(usage, critical=True)
    signing = signer.key if signer else key
    algorithm = None if isinstance(signing, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return Certified(key, builder.sign(signing, algorithm))


def claims(*access: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """Return what a good token says, with changes; None leaves something out."""
    now = int(time.time())
    usual = {
        "iss": ISSUER,
        "sub": "alice",
        "aud": SERVICE,
        "exp": now + 300,
        "nbf": now - 10,
        "iat": now,
        "jti": "1",
        "access": list(access) or [pull("team/app")],
    }
    return {name: value for name, value in (usual | changes).items() if value is not None}


def pull(name: str, *actions: str) -> dict[str, Any]:
    """Return the entry of a token that allows pulling from a repository, or other actions."""
    return {"type": "repository", "name": name, "actions": [*actions] or ["pull"]}


def sign(said: Mapping[str, Any], key: Any, algorithm: str, **header: Any) -> str:
    """Return a token."""
    return jwt.encode(dict(said), key, algorithm=algorithm, headers=header)


def raw(header: Mapping[str, Any] | str, said: Mapping[str, Any] | str, signature: bytes) -> str:
    """Return a token that no library would make; text goes in as it is."""
    parts = [part if isinstance(part, str) else json.dumps(part) for part in (header, said)]
    encoded = [part.encode() for part in parts]
    return ".".join(
        base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in (*encoded, signature)
    )


def write_bundle(path: Path, *certificates: Certified) -> Path:
    """Write a ``rootcertbundle``."""
    path.write_bytes(b"".join(found.pem for found in certificates))
    return path
