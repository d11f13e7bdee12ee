"""A client's certificate says who it is only where that is asked for, and nothing else is shown."""

import ipaddress

from starlette.types import Scope

from alauda_registry.auth.authenticator import Bearer, Certificate
from alauda_registry.server.middleware.guard import read_credentials
from alauda_registry.server.proxies import Proxies
from alauda_registry.serving.protocol import CERTIFICATE


def scope_of(*headers: tuple[bytes, bytes]) -> Scope:
    return {"headers": list(headers), CERTIFICATE: b"der"}


def test_certificate_is_taken_where_the_mode_takes_certificates() -> None:
    assert read_credentials(scope_of(), Proxies(), takes_certificates=True) == Certificate(b"der")


def test_certificate_is_nothing_elsewhere() -> None:
    assert read_credentials(scope_of(), Proxies()) is None


def test_shown_token_goes_before_the_certificate() -> None:
    scope = scope_of((b"authorization", b"Bearer token"))

    assert read_credentials(scope, Proxies(), takes_certificates=True) == Bearer("token")


def test_certificate_of_a_proxy_is_not_the_clients() -> None:
    proxies = Proxies((ipaddress.ip_network("192.0.2.0/24"),))

    for peer, shown in (("192.0.2.1", None), ("198.51.100.1", Certificate(b"der"))):
        scope = {**scope_of(), "client": (peer, 1)}
        assert read_credentials(scope, proxies, takes_certificates=True) == shown


def test_field_of_that_name_is_no_certificate() -> None:
    scope: Scope = {"headers": [(CERTIFICATE.encode(), b"der"), (b"x-remote-user", b"admin")]}

    assert read_credentials(scope, Proxies(), takes_certificates=True) is None
