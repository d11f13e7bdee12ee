"""Registries that ask who is there, and the people who are known to them."""

import base64
import json
import ssl
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import jwt

from alauda_registry.auth.htpasswd import hash_password
from alauda_registry.server.opening.authentication import KEY_FILE
from alauda_registry.storage import paths
from tests.parts import cluster_registry, registry
from tests.parts.certificates import CertificatePair
from tests.parts.cluster_registry import PEOPLE, Binding
from tests.parts.control_plane import ControlPlane
from tests.parts.registry import Server

SERVICE = "alauda-image-registry"
USERS = ("reader", "writer", "admin")
ACCESS = """\
groups:
  writers: [writer]
rules:
  - {users: [reader], repositories: [team/app], actions: [pull]}
  - {groups: [writers], repositories: [team/app], actions: [pull, push]}
  - {users: [admin], repositories: ["**"], actions: ["*"], catalog: true}
  - {anonymous: true, repositories: [public/app], actions: [pull]}
"""
NAMESPACES = ("team", "public", "secret", "conformance")
BINDINGS = (
    Binding("system:image-puller", "reader", namespace="team"),
    Binding("system:image-pusher", "writer", namespace="team"),
    Binding("system:image-pusher", group="writers", namespace="team"),
    Binding("system:image-pusher", "writer", namespace="public"),
    Binding("system:image-pusher", "admin"),
    Binding("system:image-deleter", "admin"),
    Binding("system:image-registry-metrics-reader", "admin"),
    Binding("system:image-puller", group="system:unauthenticated", namespace="public"),
    Binding("system:image-puller", group="system:authenticated", namespace="public"),
)
"""The same in the words of RBAC."""

QUICK = 4
"""bcrypt's lowest cost: tests log in often."""


def password_of(name: str) -> str:
    """Return somebody's password."""
    return f"password of {name}"


def basic(name: str, password: str) -> dict[str, str]:
    """Return the header that shows a name and a password."""
    encoded = base64.b64encode(f"{name}:{password}".encode()).decode()
    return {"Authorization": f"Basic {encoded}"}


def bearer(token: str) -> dict[str, str]:
    """Return the header that shows a token."""
    return {"Authorization": f"Bearer {token}"}


@dataclass(frozen=True)
class Guarded:
    """A registry that asks, and the server of its tokens, which may be the same one."""

    server: Server
    tokens: Server
    service: str = SERVICE
    realm: str = ""
    client: httpx.Client = field(kw_only=True)
    password: Callable[[str], str] = password_of
    """What somebody logs in with."""
    certified: Callable[[str, Sequence[str]], httpx.Client] | None = None
    """Opens connections as a user of some groups who has a client certificate."""
    token_for: Callable[[str, str], str] | None = None
    """Returns a token of a service account that is meant for somebody else than the cluster."""

    @property
    def url(self) -> str:
        """Where its API is."""
        return self.server.url

    def ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        *,
        client: httpx.Client | None = None,
        **more: Any,
    ) -> httpx.Response:
        """Send a request."""
        return (client or self.client).request(method, f"{self.url}{path}", headers=headers, **more)

    def token(self, name: str | None, scope: str = "", **more: str) -> str:
        """Get a token as clients do."""
        headers = basic(name, self.password(name)) if name else {}
        query = urllib.parse.urlencode({"service": self.service, "scope": scope, **more})
        answer = self.client.get(f"{self.tokens.url}/token?{query}", headers=headers)
        answer.raise_for_status()
        return str(answer.json()["token"])

    def expired_token(self, name: str, scope: str = "") -> str:
        """Return what such a token will have become tomorrow."""
        token = self.token(name, scope)
        claims = jwt.decode(token, options={"verify_signature": False})
        day = 24 * 3600
        claims |= {claim: claims[claim] - day for claim in ("iat", "nbf", "exp")}
        assert claims["exp"] < time.time() - day / 2
        made = self.tokens.root / paths.SECRET.lstrip("/")
        key = made.with_name(KEY_FILE).read_text()
        header = jwt.get_unverified_header(token)
        return jwt.encode(claims, key, header["alg"], headers=header)


def htpasswd_settings(directory: Path, access: str | None = ACCESS) -> dict[str, str]:
    """Write the files of the mode, and return its settings."""
    directory.mkdir(parents=True, exist_ok=True)
    users = directory / "htpasswd"
    users.write_text(
        "".join(f"{name}:{hash_password(password_of(name), QUICK)}\n" for name in USERS)
    )
    settings = {
        "REGISTRY_AUTH": "htpasswd",
        "REGISTRY_AUTH_HTPASSWD_REALM": "basic-realm",
        "REGISTRY_AUTH_HTPASSWD_PATH": str(users),
    }
    if access is not None:
        (directory / "access.yml").write_text(access)
        settings["REGISTRY_AUTH_HTPASSWD_ACCESSFILE"] = str(directory / "access.yml")
    return settings


@contextmanager
def open_to_all(directory: Path, *, root: Path | None = None) -> Iterator[Guarded]:
    """Run one in the mode ``none``."""
    with registry.running(directory, root=root) as server, httpx.Client(timeout=30) as client:
        yield Guarded(server, server, client=client)


@contextmanager
def by_password(
    directory: Path,
    *,
    settings: Mapping[str, str] | None = None,
    access: str | None = ACCESS,
    root: Path | None = None,
    workers: int = 1,
    tls: CertificatePair | None = None,
    arguments: tuple[str, ...] = (),
) -> Iterator[Guarded]:
    """Run one in the mode ``htpasswd``."""
    with (
        registry.running(
            directory,
            root=root,
            workers=workers,
            tls=tls,
            arguments=arguments,
            settings=htpasswd_settings(directory, access) | dict(settings or {}),
        ) as server,
        httpx.Client(verify=_verify(tls), timeout=30) as client,
    ):
        yield Guarded(server, server, client=client)


@contextmanager
def by_token(
    directory: Path,
    *,
    settings: Mapping[str, str] | None = None,
    access: str | None = ACCESS,
    root: Path | None = None,
    tls: CertificatePair | None = None,
    arguments: tuple[str, ...] = (),
) -> Iterator[Guarded]:
    """Run one in the mode ``token``, and beside it the server of its tokens, which is ours, too."""
    service = "registry.example"
    with by_password(
        directory / "tokens",
        settings={
            "REGISTRY_AUTH_TOKENSERVICE_AUDIENCES": f"[{service}]",
            "REGISTRY_AUTH_TOKENSERVICE_ISSUER": "tokens.example",
            "REGISTRY_LOG_LEVEL": (settings or {}).get("REGISTRY_LOG_LEVEL", "info"),
        },
        access=access,
        tls=tls,
    ) as tokens:
        realm = f"{tokens.url.replace('127.0.0.1', 'localhost')}/token"
        jwks = directory / "jwks.json"
        keys = tokens.client.get(f"{tokens.url}/.well-known/jwks.json").json()
        jwks.write_text(json.dumps(keys))
        with registry.running(
            directory,
            root=root,
            tls=tls,
            arguments=arguments,
            settings={
                "REGISTRY_AUTH": "token",
                # By its name: crane believes no addresses of private networks here.
                "REGISTRY_AUTH_TOKEN_REALM": realm,
                "REGISTRY_AUTH_TOKEN_SERVICE": service,
                "REGISTRY_AUTH_TOKEN_ISSUER": "tokens.example",
                "REGISTRY_AUTH_TOKEN_JWKS": str(jwks),
                **(settings or {}),
            },
        ) as server:
            yield Guarded(server, tokens.server, service, realm, client=tokens.client)


@contextmanager
def by_cluster(
    plane: ControlPlane,
    directory: Path,
    *,
    root: Path | None = None,
    tls: CertificatePair | None = None,
    arguments: tuple[str, ...] = (),
    settings: Mapping[str, str] | None = None,
) -> Iterator[Guarded]:
    """Run one in the mode ``kubernetes``, always over TLS; the users are service accounts."""
    passwords = cluster_registry.apply_people(plane, NAMESPACES, BINDINGS)
    with (
        cluster_registry.running(
            plane, directory, root=root, tls=tls, arguments=arguments, settings=settings
        ) as server,
        httpx.Client(verify=_verify(server.tls), timeout=30) as client,
        ExitStack() as connections,
    ):

        def certified(name: str, groups: Sequence[str]) -> httpx.Client:
            context = _verify(server.tls)
            assert isinstance(context, ssl.SSLContext)
            folder = plane.user(name, groups).parent
            context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
            return connections.enter_context(httpx.Client(verify=context, timeout=30))

        yield Guarded(
            server,
            server,
            client=client,
            password=passwords.__getitem__,
            certified=certified,
            token_for=lambda name, audience: plane.token(PEOPLE, name, audiences=[audience]),
        )


def _verify(tls: CertificatePair | None) -> ssl.SSLContext | bool:
    return ssl.create_default_context(cafile=tls.authority) if tls else True
