"""Makes a certificate authority and certificates for the loopback address and its clients."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_BOTH_SIDES = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]


@dataclass(frozen=True, slots=True)
class CertificatePair:
    """Files of a certificate, its key and the authority that signed it."""

    certificate: Path
    key: Path
    authority: Path


class Authority:
    """A certificate authority that lives as long as a test."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = _name("Test authority")
        key_id = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        self._certificate = (
            _unsigned(name, name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(key_id, critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def issue(
        self, directory: Path, *, name: str = "localhost", is_here: bool = True
    ) -> CertificatePair:
        """Write a pair for clients, and for servers at ``localhost``, ``name`` and this machine.

        Its addresses are ``127.0.0.1``, and ``0.0.0.0`` as Linux understands it, for clients that
        believe everybody at the first one.

        Args:
            directory: For the files.
            name: Of the server.
            is_here: Whether it is good for more than this name.
        """
        hosts = dict.fromkeys(["localhost", name] if is_here else [name])
        addresses = ("127.0.0.1", "0.0.0.0") if is_here else ()
        names = x509.SubjectAlternativeName(
            [
                *[x509.DNSName(host) for host in hosts],
                *[x509.IPAddress(IPv4Address(text)) for text in addresses],
            ]
        )
        key = ec.generate_private_key(ec.SECP256R1())
        unsigned = self._unsigned(_name(name), key).add_extension(names, critical=False)
        usage = x509.ExtendedKeyUsage(_BOTH_SIDES)
        return self._write(directory, key, unsigned.add_extension(usage, critical=False))

    def issue_to_user(
        self,
        directory: Path,
        *,
        name: str,
        groups: Sequence[str] = (),
        lifetime: timedelta = timedelta(days=1),
    ) -> CertificatePair:
        """Write a pair for a client only, as Kubernetes reads it: CN is the user, O the groups."""
        key = ec.generate_private_key(ec.SECP256R1())
        unsigned = self._unsigned(_name(name, groups), key, lifetime)
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
        return self._write(directory, key, unsigned.add_extension(usage, critical=False))

    def _unsigned(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        lifetime: timedelta = timedelta(days=1),
    ) -> x509.CertificateBuilder:
        signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return (
            _unsigned(subject, self._certificate.subject, key.public_key(), lifetime)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(signer, critical=False)
        )

    def _write(
        self, directory: Path, key: ec.EllipticCurvePrivateKey, unsigned: x509.CertificateBuilder
    ) -> CertificatePair:
        certificate = unsigned.sign(self._key, hashes.SHA256())
        directory.mkdir(parents=True, exist_ok=True)
        pair = CertificatePair(directory / "tls.crt", directory / "tls.key", directory / "ca.crt")
        pair.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        pair.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        pair.authority.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))
        return pair


def _name(common_name: str, organizations: Sequence[str] = ()) -> x509.Name:
    groups = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in organizations]
    # An attribute that is there can't be empty.
    names = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else []
    return x509.Name([*groups, *names])


def _unsigned(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    lifetime: timedelta = timedelta(days=1),
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + lifetime)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
