"""TLS: real handshakes in memory, before and after the files change."""

import logging
import ssl
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from alauda_registry.server.configuration.settings import TLS
from alauda_registry.server.opening.certificates import open_certificates
from alauda_registry.serving.starting import CannotStart
from tests.parts.certificates import Authority, CertificatePair


@pytest.fixture
def pair(tmp_path: Path) -> CertificatePair:
    return Authority().issue(tmp_path)


def settings(pair: CertificatePair, **values: object) -> TLS:
    return TLS.model_validate(
        {"certificate": str(pair.certificate), "key": str(pair.key), **values}
    )


def shake_hands(
    server: ssl.SSLContext,
    client: ssl.SSLContext | None = None,
    session: ssl.SSLSession | None = None,
) -> ssl.SSLObject:
    """Let a client connect, in memory; its side of the connection."""
    if client is None:
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname = False
        client.verify_mode = ssl.CERT_NONE
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    ours = client.wrap_bio(to_client, to_server, server_hostname="localhost", session=session)
    waiting = [ours, theirs]
    for _ in range(10):
        for side in tuple(waiting):
            try:
                side.do_handshake()
                waiting.remove(side)
            except ssl.SSLWantReadError:
                continue
    assert waiting == []
    # Of TLS 1.3 the server's refusal of a client comes after the client's handshake is done.
    theirs.write(b"hello")
    assert ours.read() == b"hello"
    # OpenSSL drops the session of a connection that just breaks off.
    with suppress(ssl.SSLWantReadError):
        theirs.unwrap()
    return ours


def served_by(context: ssl.SSLContext) -> bytes | None:
    return shake_hands(context).getpeercert(binary_form=True)


def der(path: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert(path.read_text())


def write_rsa_pair(pair: CertificatePair) -> None:
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    pair.certificate.write_bytes(certificate.public_bytes(pem))
    pair.key.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def test_new_connections_get_the_renewed_certificate(pair: CertificatePair, tmp_path: Path) -> None:
    certificates = open_certificates(settings(pair))
    before = served_by(certificates.context)
    Authority().issue(tmp_path)

    assert certificates.reload() is True
    assert served_by(certificates.context) == der(pair.certificate) != before


def test_a_pair_of_another_kind_leaves_nothing_of_the_old_one(pair: CertificatePair) -> None:
    certificates = open_certificates(settings(pair))
    write_rsa_pair(pair)

    certificates.reload()

    assert served_by(certificates.context) == der(pair.certificate)


def test_an_open_connection_outlives_a_renewal(pair: CertificatePair, tmp_path: Path) -> None:
    certificates = open_certificates(settings(pair))
    connection = shake_hands(certificates.context)
    Authority().issue(tmp_path)

    certificates.reload()

    assert connection.write(b"still here") == 10


def test_unchanged_files_are_not_loaded_again(pair: CertificatePair) -> None:
    certificates = open_certificates(settings(pair))
    pair.certificate.touch()

    assert certificates.reload() is False


@pytest.mark.parametrize("damage", ["key-of-another", "no-pem", "missing", "empty"])
def test_a_pair_that_does_not_fit_changes_nothing_and_is_reported_once(
    pair: CertificatePair, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    certificates = open_certificates(settings(pair))
    before = served_by(certificates.context)
    match damage:
        case "key-of-another":
            pair.key.write_bytes(Authority().issue(tmp_path / "other").key.read_bytes())
        case "no-pem":
            pair.certificate.write_text("no certificate")
        case "empty":
            pair.key.write_text("")
        case _:
            pair.key.unlink()

    with caplog.at_level(logging.ERROR):
        assert certificates.reload() is False

    assert [record.getMessage().split(":")[1] for record in caplog.records] == [
        " keeping the certificate in use"
    ]
    assert served_by(certificates.context) == before


def test_after_a_pair_that_did_not_fit_a_good_one_is_taken(
    pair: CertificatePair, tmp_path: Path
) -> None:
    certificates = open_certificates(settings(pair))
    pair.key.write_text("half of a")
    certificates.reload()
    Authority().issue(tmp_path)

    assert certificates.reload() is True
    assert served_by(certificates.context) == der(pair.certificate)


def test_a_missing_file_stops_the_start(pair: CertificatePair) -> None:
    pair.key.unlink()

    with pytest.raises(CannotStart, match=r"TLS: cannot read .*tls\.key: No such file"):
        open_certificates(settings(pair))


def test_a_key_with_a_pass_phrase_is_refused_and_not_asked_for(pair: CertificatePair) -> None:
    key = serialization.load_pem_private_key(pair.key.read_bytes(), None)
    pair.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )

    with pytest.raises(CannotStart, match="cannot be used"):
        open_certificates(settings(pair))


def test_older_protocols_than_the_minimum_are_refused(pair: CertificatePair) -> None:
    context = open_certificates(settings(pair, minimumtls="tls1.3")).context
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    client.maximum_version = ssl.TLSVersion.TLSv1_2

    with pytest.raises(ssl.SSLError, match=r"(?i)protocol"):
        shake_hands(context, client)


def test_a_client_must_show_a_certificate_of_the_configured_authority(
    pair: CertificatePair,
) -> None:
    context = open_certificates(settings(pair, clientcas=str(pair.authority))).context
    client = ssl.create_default_context(cafile=pair.authority)

    with pytest.raises(ssl.SSLError, match=r"(?i)certificate"):
        shake_hands(context, client)


@pytest.mark.parametrize("kind", ["require-and-verify-client-cert", "verify-client-cert-if-given"])
def test_a_client_with_a_certificate_of_the_configured_authority_is_let_in(
    tmp_path: Path, kind: str
) -> None:
    authority = Authority()
    pair = authority.issue(tmp_path)
    theirs = authority.issue(tmp_path / "client", name="client")
    context = open_certificates(
        settings(pair, clientcas=str(pair.authority), clientauth=kind)
    ).context
    client = ssl.create_default_context(cafile=pair.authority)
    client.load_cert_chain(theirs.certificate, theirs.key)

    shake_hands(context, client)


def test_a_certificate_of_another_authority_lets_nobody_in(
    pair: CertificatePair, tmp_path: Path
) -> None:
    theirs = Authority().issue(tmp_path / "client")
    context = open_certificates(
        settings(pair, clientcas=str(pair.authority), clientauth="verify-client-cert-if-given")
    ).context
    client = ssl.create_default_context(cafile=pair.authority)
    client.load_cert_chain(theirs.certificate, theirs.key)

    with pytest.raises(ssl.SSLError, match=r"(?i)certificate|unknown.ca"):
        shake_hands(context, client)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_of_a_client_whose_authority_is_gone_is_not_resumed(
    pair: CertificatePair, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    ours = Authority().issue(tmp_path / "clients", name="client")
    kind = "verify-client-cert-if-given"
    certificates = open_certificates(settings(pair, clientcas=str(ours.authority), clientauth=kind))
    client = ssl.create_default_context(cafile=pair.authority)
    client.minimum_version = client.maximum_version = version
    client.load_cert_chain(ours.certificate, ours.key)
    session = shake_hands(certificates.context, client).session
    resumed = shake_hands(certificates.context, client, session)
    assert resumed.session_reused == (version is ssl.TLSVersion.TLSv1_2)

    ours.authority.write_bytes(pair.authority.read_bytes())
    certificates.reload()

    with pytest.raises(ssl.SSLError, match=r"(?i)certificate|unknown.ca"):
        shake_hands(certificates.context, client, session)


def test_connections_from_before_other_authorities_are_told_from_those_after(
    pair: CertificatePair, tmp_path: Path
) -> None:
    authorities = tmp_path / "authorities.pem"
    authorities.write_bytes(pair.authority.read_bytes())
    kind = "verify-client-cert-if-given"
    certificates = open_certificates(settings(pair, clientcas=str(authorities), clientauth=kind))

    def context_of_a_connection() -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        theirs = certificates.context.wrap_bio(to_server, to_client, server_side=True)
        ours = context.wrap_bio(to_client, to_server)
        for side in (ours, theirs):
            with pytest.raises(ssl.SSLWantReadError):
                side.do_handshake()
        # Not done yet, but it is settled who verifies the client.
        return theirs.context

    before = context_of_a_connection()
    write_rsa_pair(pair)
    certificates.reload()
    renewed = context_of_a_connection()
    assert renewed is not before
    assert certificates.still_vouch(before)
    assert certificates.still_vouch(renewed)

    authorities.write_bytes(Authority().issue(tmp_path / "other").authority.read_bytes())
    certificates.reload()

    assert not certificates.still_vouch(before)
    assert not certificates.still_vouch(renewed)
    assert certificates.still_vouch(context_of_a_connection())


def test_a_client_may_come_without_when_certificates_are_optional(pair: CertificatePair) -> None:
    context = open_certificates(
        settings(pair, clientcas=str(pair.authority), clientauth="verify-client-cert-if-given")
    ).context
    client = ssl.create_default_context(cafile=pair.authority)

    assert shake_hands(context, client).version() == "TLSv1.3"


def test_cipher_suites_have_gos_names(pair: CertificatePair) -> None:
    context = open_certificates(
        settings(pair, ciphersuites="TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256")
    ).context
    client = ssl.create_default_context(cafile=pair.authority)
    client.maximum_version = ssl.TLSVersion.TLSv1_2

    assert (shake_hands(context, client).cipher() or ("",))[0] == "ECDHE-ECDSA-AES128-GCM-SHA256"


def test_an_unknown_cipher_suite_stops_the_start(pair: CertificatePair) -> None:
    with pytest.raises(CannotStart, match="NULL is unknown"):
        open_certificates(settings(pair, ciphersuites="NULL"))
