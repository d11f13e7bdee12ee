"""The socket that a server listens on, and why there may be none."""

import socket

import pytest

from alauda_registry.serving.listening import bind_socket, describe_address
from alauda_registry.serving.starting import CannotStart


def test_a_taken_port_is_explained() -> None:
    with bind_socket("127.0.0.1:0") as first:
        first.listen()
        with pytest.raises(CannotStart, match=r"another program listens there; .* --listen"):
            bind_socket(describe_address(first))


def test_an_unknown_host_is_explained() -> None:
    with pytest.raises(CannotStart, match="no such host"):
        bind_socket("name.invalid:0")


def test_an_address_of_another_machine_is_explained() -> None:
    with pytest.raises(CannotStart, match="no such address"):
        bind_socket("192.0.2.1:0")


def test_an_empty_host_can_be_reached_by_every_family() -> None:
    with bind_socket(":0") as sock:
        sock.listen()
        port = sock.getsockname()[1]

        assert describe_address(sock) == f"localhost:{port}"
        with socket.create_connection(("127.0.0.1", port)) as connection:
            assert connection.getpeername()[1] == port
