"""HTTPS as `http.tls` asks for it."""

import ssl
from collections.abc import Sequence
from pathlib import Path

from alauda_registry.server.configuration.settings import TLS, ClientAuth, TLSVersion
from alauda_registry.serving.starting import CannotStart
from alauda_registry.serving.tls import Certificates, ask_clients, server_context

_VERSIONS = {
    TLSVersion.TLS12: ssl.TLSVersion.TLSv1_2,
    TLSVersion.TLS13: ssl.TLSVersion.TLSv1_3,
}
_VERIFY = {
    ClientAuth.REQUIRE: ssl.CERT_REQUIRED,
    ClientAuth.IF_GIVEN: ssl.CERT_OPTIONAL,
}
_CIPHERS = {
    "TLS_RSA_WITH_AES_128_CBC_SHA": "AES128-SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA": "AES256-SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256": "AES128-SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256": "AES128-GCM-SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384": "AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256": "ECDHE-ECDSA-AES128-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256": "ECDHE-RSA-AES128-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
}
_TLS13 = {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"}


def open_certificates(tls: TLS) -> Certificates:
    """Return the server's certificate and key, as the files have them.

    Args:
        tls: With a certificate and a key.

    Raises:
        CannotStart: The files cannot be read or do not fit together.
    """
    names = [name for name in (tls.certificate, tls.key, *tls.client_cas) if name]

    def build(files: Sequence[bytes]) -> ssl.SSLContext:
        certificate, key, *client_cas = files
        context = server_context(certificate, key)
        context.minimum_version = _VERSIONS[tls.minimum_tls]
        if ciphers := _cipher_list(tls.cipher_suites):
            context.set_ciphers(ciphers)
        if client_cas:
            ask_clients(context, client_cas, _VERIFY[tls.client_auth])
        return context

    return Certificates(
        str(tls.certificate), lambda: [Path(name).read_bytes() for name in names], build
    )


def _cipher_list(suites: tuple[str, ...]) -> str:
    """OpenSSL's names of Go's; those of TLS 1.3 cannot be chosen, in Go neither."""
    names = [suite for suite in suites if suite not in _TLS13]
    for name in names:
        if name not in _CIPHERS and name not in _CIPHERS.values():
            raise CannotStart(f"http.tls.ciphersuites: {name} is unknown; known are {[*_CIPHERS]}")
    return ":".join(_CIPHERS.get(name, name) for name in names)
