"""Addresses to listen on, as Go programs write them: ``:5000``, ``[::1]:5000``."""

import ipaddress


def split_address(address: str) -> tuple[str, int]:
    """Split ``HOST:PORT``; the host is empty for every address, and has no brackets.

    Raises:
        ValueError: There is no port, or it is out of range.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{address!r} is not HOST:PORT, such as 127.0.0.1:5000 or :5000")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{address!r}: write an IPv6 address in brackets, such as [::1]:5000")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
