"""A server's certificate, which can be renewed while connections are open.

Every handshake asks :class:`Certificates` for the context of the day. What is new is read once,
tried in a context of its own, and takes the place of the old one whole; what does not fit together
is logged and changes nothing. Watching goes by content, not by time stamps: Kubernetes swaps a
symbolic link, and a copy may keep its old date.

Connections that are open keep what they were opened with. Only where a client has shown a
certificate, and other authorities vouch for clients now, ``protocol.py`` ends them. Their sessions
must not be resumed under these: OpenSSL takes the certificate of a session as verified, by
whomever. So sessions belong to the context of their day, and end with it.
"""

import asyncio
import hashlib
import logging
import os
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self
from weakref import WeakSet

from typing_extensions import override

from alauda_registry.serving.starting import CannotStart

logger = logging.getLogger(__name__)

_DER = 2  # _ssl.ENCODING_DER

POLL_SECONDS = 5.0
"""Time between looks at the files: a renewed certificate is in use this much later."""


class Certificates:
    """The context of the day: certificate, key, and the authorities of clients.

    Args:
        name: Of the certificate, for the log.
        read: Returns what the context is made of: certificate, key, and authorities, all PEM.
        build: Makes it.

    Raises:
        CannotStart: The files cannot be read or do not fit together.
    """

    def __init__(
        self,
        name: str,
        read: Callable[[], Sequence[bytes]],
        build: Callable[[Sequence[bytes]], ssl.SSLContext],
    ) -> None:
        self._name = name
        self._read = read
        self._build = build
        try:
            files = read()
            self._current = build(files)
        except OSError as error:
            raise CannotStart(f"TLS: {_explain(error)}") from error
        self._seen = _fingerprint(files)
        self._seen_authorities = _fingerprint(files[2:])
        self._vouching = WeakSet((self._current,))
        self.context: ssl.SSLContext = _Listening(lambda: self._current)

    def reload(self) -> bool:
        """Take what there is now, if it is new and fits together."""
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
        authorities = _fingerprint(files[2:])
        if authorities != self._seen_authorities:
            self._seen_authorities = authorities
            self._vouching.clear()
            logger.info("TLS: other authorities; who has shown a certificate does again")
        self._vouching.add(self._current)
        logger.info("TLS: what is in %s was renewed", self._name)
        return True

    def still_vouch(self, context: ssl.SSLContext) -> bool:
        """Tell whether the authorities that a context verifies clients by are those of now."""
        return context in self._vouching

    async def watch(self, interval: float = POLL_SECONDS) -> None:
        """Reload whenever the files change, until cancelled."""
        while True:
            await asyncio.sleep(interval)
            self.reload()


class _Listening(ssl.SSLContext):
    """Makes connections with another context, and keeps nothing itself.

    A context that handed them over during the handshake would keep their sessions: OpenSSL looks
    for those of TLS 1.2 where the connection was made.

    Args:
        current: Returns the other context.
    """

    def __new__(cls, _current: Callable[[], ssl.SSLContext]) -> Self:
        """Make a context."""
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)

    def __init__(self, current: Callable[[], ssl.SSLContext]) -> None:
        self._current = current

    @override
    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        return self._current().wrap_bio(*args, **options)


def server_context(certificate: bytes, key: bytes) -> ssl.SSLContext:
    """Return a context for HTTP/1.1 with a certificate and its key, both PEM.

    Raises:
        ssl.SSLError: They cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    # From memory, so that what is used is what was looked at: the files may change meanwhile.
    with _as_path(certificate) as certificate_path, _as_path(key) as key_path:
        # Without a pass phrase OpenSSL would ask the terminal for one, and wait.
        context.load_cert_chain(certificate_path, key_path, password="")
    return context


def verified_chain(connection: ssl.SSLObject | None) -> tuple[bytes, ...]:
    """Return the chain by which a client's certificate was verified, DER, the authority last.

    Empty when it has shown none, and when the session is one that was resumed, of which nothing
    was verified.
    """
    # Public from Python 3.13 on, and the same before.
    inner = getattr(connection, "_sslobj", None)
    chain = inner.get_verified_chain() if inner is not None else None
    return tuple(part.public_bytes(_DER) for part in chain or ())


def ask_clients(
    context: ssl.SSLContext, authorities: Sequence[bytes], mode: ssl.VerifyMode
) -> None:
    """Let a server's context ask clients for certificates.

    There are no tickets then, with which sessions would outlive the context and its authorities.

    Args:
        context: The server's.
        authorities: Those whose certificates are taken, PEM.
        mode: Whether a client may come without one.

    Raises:
        ssl.SSLError: An authority cannot be used.
    """
    for content in authorities:
        context.load_verify_locations(cadata=content.decode("ascii", "replace"))
    context.verify_mode = mode
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0


@contextmanager
def _as_path(content: bytes) -> Iterator[str]:
    """A path to the content that exists in memory only; OpenSSL loads certificates from paths."""
    descriptor = os.memfd_create("pem")
    try:
        os.write(descriptor, content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _fingerprint(files: Sequence[bytes]) -> bytes:
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
