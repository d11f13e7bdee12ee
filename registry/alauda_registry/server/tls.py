"""HTTPS, with a certificate that can be renewed while connections are open.

Every handshake asks :class:`Certificates` for the context of the day. A renewed pair is read once,
tried in a context of its own, and takes the place of the old one whole; a pair that does not fit is
logged and changes nothing. Connections that are open keep what they were opened with. Watching goes
by content, not by time stamps: Kubernetes swaps a symbolic link, and a copy may keep its old date.
"""

import asyncio
import hashlib
import logging
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alauda_registry.server.settings import TLS, CannotStart, ClientAuth, TLSVersion

logger = logging.getLogger(__name__)

POLL_SECONDS = 5.0
"""Time between looks at the files: a renewed certificate is in use this much later."""

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


class Certificates:
    """The server's certificate and key, as the files have them.

    Args:
        tls: With a certificate and a key.

    Raises:
        CannotStart: The files cannot be read or do not fit together.
    """

    def __init__(self, tls: TLS) -> None:
        self._tls = tls
        try:
            files = self._read()
            self._current = self._build(files)
            # The context that listens only hands out the current one, so that a new pair of
            # another kind (RSA, then ECDSA) leaves nothing of the old one behind.
            self.context = self._build(files)
        except OSError as error:
            raise CannotStart(f"TLS: {_explain(error)}") from error
        self._seen = _fingerprint(files)
        self.context.sni_callback = self._hand_out

    def reload(self) -> bool:
        """Take what the files hold now, if it is new and fits together."""
        try:
            files = self._read()
            fingerprint = _fingerprint(files)
            if fingerprint == self._seen:
                return False
            self._seen = fingerprint
            self._current = self._build(files)
        except (OSError, CannotStart) as error:
            logger.error("TLS: keeping the certificate in use: %s", _explain(error))  # noqa: TRY400,RUF100 -- the reason is enough
            return False
        logger.info("TLS: the certificate in %s was renewed", self._tls.certificate)
        return True

    async def watch(self, interval: float = POLL_SECONDS) -> None:
        """Reload whenever the files change, until cancelled."""
        while True:
            await asyncio.sleep(interval)
            self.reload()

    def _hand_out(
        self, connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _at: ssl.SSLContext
    ) -> None:
        connection.context = self._current

    def _read(self) -> list[bytes]:
        names = (self._tls.certificate, self._tls.key, *self._tls.client_cas)
        return [Path(name).read_bytes() for name in names if name]

    def _build(self, files: list[bytes]) -> ssl.SSLContext:
        certificate, key, *client_cas = files
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = _VERSIONS[self._tls.minimum_tls]
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(["http/1.1"])
        if ciphers := _cipher_list(self._tls.cipher_suites):
            context.set_ciphers(ciphers)
        # From memory, so that what is used is what was looked at: the files may change meanwhile.
        with _as_path(certificate) as certificate_path, _as_path(key) as key_path:
            # Without a pass phrase OpenSSL would ask the terminal for one, and wait.
            context.load_cert_chain(certificate_path, key_path, password="")
        for content in client_cas:
            context.load_verify_locations(cadata=content.decode("ascii", "replace"))
        if client_cas:
            context.verify_mode = _VERIFY[self._tls.client_auth]
        return context


def _cipher_list(suites: tuple[str, ...]) -> str:
    """OpenSSL's names of Go's; those of TLS 1.3 cannot be chosen, in Go neither."""
    names = [suite for suite in suites if suite not in _TLS13]
    for name in names:
        if name not in _CIPHERS and name not in _CIPHERS.values():
            raise CannotStart(f"http.tls.ciphersuites: {name} is unknown; known are {[*_CIPHERS]}")
    return ":".join(_CIPHERS.get(name, name) for name in names)


@contextmanager
def _as_path(content: bytes) -> Iterator[str]:
    """A path to the content that exists in memory only; OpenSSL loads certificates from paths."""
    descriptor = os.memfd_create("pem")
    try:
        os.write(descriptor, content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _fingerprint(files: list[bytes]) -> bytes:
    return b"".join(hashlib.sha256(content).digest() for content in files)


def _explain(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        reason = (error.reason or str(error)).lower().replace("_", " ")
        return (
            f"certificate and key cannot be used ({reason}); both must be PEM and belong together"
        )
    if isinstance(error, OSError):
        return f"cannot read {error.filename}: {error.strerror}"
    return str(error)
