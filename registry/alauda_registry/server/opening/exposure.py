"""Who may reach us.

By default nobody but this machine can reach us. Elsewhere we want TLS and authentication, and each
can be waived by its own flag, so that nobody serves the world by accident.
"""

from alauda_registry.server.configuration.auth_settings import Auth
from alauda_registry.server.configuration.settings import HTTP
from alauda_registry.serving.addresses import is_loopback, split_address
from alauda_registry.serving.starting import CannotStart


def check_exposure(http: HTTP, auth: Auth) -> None:
    """Refuse to be reachable by others without TLS or authentication.

    Raises:
        CannotStart: With the flags that waive what is missing.
    """
    host, _port = split_address(http.addr)
    if is_loopback(host):
        return
    reachable = f"others can reach {http.addr}"
    if http.tls.certificate is None and not http.allow_plain_http:
        raise CannotStart(
            f"{reachable}, which wants TLS: give --tls-certificate and --tls-key, or say "
            "--allow-plain-http if something in front of it speaks TLS; or listen on 127.0.0.1"
        )
    if auth.is_none and not http.allow_anonymous:
        raise CannotStart(
            f"{reachable}, which wants authentication: configure auth.htpasswd, auth.token or "
            "auth.kubernetes, or say --allow-anonymous to let everybody push, pull and delete; or "
            "listen on 127.0.0.1"
        )
