"""Who may be let in where, and the socket."""

import socket

import pytest

from alauda_registry.server.listening import bind_socket, check_listening, describe_address
from alauda_registry.server.settings import HTTP, Auth, CannotStart

NOBODY_IS_ASKED = Auth.model_validate({})
PAIR = {"certificate": "c", "key": "k"}


@pytest.mark.parametrize(
    "values",
    [
        {"addr": "127.0.0.1:5000"},
        {"addr": "localhost:5000"},
        {"addr": "[::1]:5000"},
        {"addr": ":5000", "allowplainhttp": True, "allowanonymous": True},
        {"addr": ":5000", "tls": PAIR, "allowanonymous": True},
    ],
)
def test_this_is_allowed(values: dict[str, object]) -> None:
    check_listening(HTTP.model_validate(values), NOBODY_IS_ASKED)


def test_whoever_asks_who_is_there_needs_no_flag_for_it() -> None:
    auth = Auth.model_validate({"htpasswd": {"path": "/etc/registry/htpasswd"}})

    check_listening(HTTP.model_validate({"addr": ":5000", "tls": PAIR}), auth)


@pytest.mark.parametrize(
    ("values", "flag"),
    [
        ({"addr": ":5000"}, "--allow-plain-http"),
        ({"addr": "0.0.0.0:5000", "allowanonymous": True}, "--allow-plain-http"),
        ({"addr": "registry.example:5000", "allowplainhttp": True}, "--allow-anonymous"),
        ({"addr": "[::]:5000", "tls": PAIR}, "--allow-anonymous"),
    ],
)
def test_others_are_let_in_only_by_the_flag_that_is_named(
    values: dict[str, object], flag: str
) -> None:
    with pytest.raises(CannotStart, match=flag):
        check_listening(HTTP.model_validate(values), NOBODY_IS_ASKED)


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
