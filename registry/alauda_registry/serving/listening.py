"""The one socket on which every process of a server accepts."""

import errno
import socket

from alauda_registry.serving.addresses import split_address
from alauda_registry.serving.starting import CannotStart

BACKLOG = 2048
"""Connections that wait to be accepted; the kernel allows no more than net.core.somaxconn."""


def bind_socket(address: str) -> socket.socket:
    """Bind the socket, without listening on it yet.

    SO_REUSEPORT stays off: with it a second server could share the port unnoticed.

    Raises:
        CannotStart: The address is taken, forbidden, or not of this machine.
    """
    host, port = split_address(address)
    try:
        if host:
            return _bind(host, port)
        try:
            return _bind("::", port)
        except OSError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                raise
            return _bind("0.0.0.0", port)  # noqa: S104 -- that is what an empty host means
    except socket.gaierror as error:
        raise CannotStart(f"cannot listen on {address}: no such host: {error.strerror}") from error
    except OSError as error:
        raise CannotStart(f"cannot listen on {address}: {_advice(error)}") from error


def describe_address(sock: socket.socket) -> str:
    """The address as it is written in a URL; every address is shown as localhost."""
    host, port = sock.getsockname()[:2]
    if host in ("::", "0.0.0.0"):  # noqa: S104 -- compared, not bound
        host = "localhost"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _bind(host: str, port: int) -> socket.socket:
    family, kind, protocol, _name, where = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if host == "::":
            # One socket for both families, as Go's empty host has it.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(where)
    except OSError:
        sock.close()
        raise
    return sock


def _advice(error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return "another program listens there; stop it, or choose another port with --listen"
        case errno.EACCES:
            return "permission denied; ports below 1024 are reserved, choose one above"
        case errno.EADDRNOTAVAIL:
            return "this machine has no such address"
        case _:
            return error.strerror or str(error)
