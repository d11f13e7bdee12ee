"""From the settings of `auth` to what stands before the registry.

The one list of modes: who says who is asking, and who says whether they may. A mode that is not
here cannot be configured.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from alauda_registry.auth.access_rules import HtpasswdAuthorizer, read_rules
from alauda_registry.auth.authorizer import TokenDecides
from alauda_registry.auth.failures import Failures
from alauda_registry.auth.files import FileInvalid, Watched
from alauda_registry.auth.gate import Gate
from alauda_registry.auth.htpasswd import HtpasswdAuthenticator, read_passwords
from alauda_registry.auth.keys import KeyRing, ensure_key_file, make_key, read_keys
from alauda_registry.auth.kubernetes import KubernetesAuthenticator, KubernetesAuthorizer
from alauda_registry.auth.service import SHORTEST_LIFETIME, Terms, TokenService
from alauda_registry.auth.throttle import Throttle
from alauda_registry.auth.trusted_tokens import (
    TokenServer,
    TrustedKeys,
    TrustedTokens,
    read_certificates,
    read_jwks,
)
from alauda_registry.kube.errors import KubeError
from alauda_registry.server.configuration.auth_settings import Htpasswd, Kubernetes, Token
from alauda_registry.server.configuration.documents import parse_yaml
from alauda_registry.server.configuration.settings import Settings
from alauda_registry.server.middleware.guard import Realm
from alauda_registry.serving.starting import CannotStart
from alauda_registry.storage import paths

KEY_FILE = "token-key.pem"


@dataclass(frozen=True, slots=True)
class Authentication:
    """What stands before the registry.

    Args:
        gate: Decides.
        realm: Where clients get tokens.
        service: Makes them; None when somebody else does.
        guards_metrics: Whether the counts are for some only.
        close: Ends what goes on in it.
        running: Opened while requests are served.
    """

    gate: Gate
    realm: Realm
    service: TokenService | None = None
    guards_metrics: bool = False
    close: Callable[[], None] = lambda: None
    running: Callable[[], AbstractAsyncContextManager[object]] = nullcontext


def prepare_authentication(settings: Settings) -> None:
    """Make the key of the tokens, where one is to be made, before there are several processes.

    Raises:
        CannotStart: It cannot be made.
    """
    path = _own_key_file(settings)
    if path is None or not (settings.auth.htpasswd or settings.auth.kubernetes):
        return
    try:
        ensure_key_file(path, settings.auth.token_service.algorithm)
    except FileInvalid as error:
        raise CannotStart(str(error)) from error


def open_authentication(
    settings: Settings, failures: Failures | None = None, *, is_check: bool = False
) -> Authentication | None:
    """Return what stands before the registry; None for nothing.

    Args:
        settings: Of the whole server.
        failures: Of logins, where processes count them together.
        is_check: Whether nothing is served by it, so that a key needn't be there yet.

    Raises:
        CannotStart: A file cannot be used; the message says which and why.
    """
    auth = settings.auth
    try:
        if auth.htpasswd is not None:
            return _open_htpasswd(settings, auth.htpasswd, failures, is_check=is_check)
        if auth.token is not None:
            return _open_token(settings, auth.token)
        if auth.kubernetes is not None:
            return _open_kubernetes(settings, auth.kubernetes, failures, is_check=is_check)
    except FileInvalid as error:
        raise CannotStart(f"auth: {error}") from error
    return None


def _open_htpasswd(
    settings: Settings, htpasswd: Htpasswd, failures: Failures | None, *, is_check: bool
) -> Authentication:
    rules = None
    if htpasswd.access_file is not None:
        rules = Watched([Path(htpasswd.access_file)], read_rules(parse_yaml))
    authorizer = HtpasswdAuthorizer(rules)
    # Where even that cannot be told, whoever reads it says why.
    with suppress(OSError):
        if not Path(htpasswd.path).exists():
            raise FileInvalid(
                f"{htpasswd.path} is not there: make it with image-registry htpasswd add "
                f"{htpasswd.path} USER"
            )
    authenticator = HtpasswdAuthenticator(
        Watched([Path(htpasswd.path)], read_passwords), Throttle(failures)
    )
    own = settings.auth.token_service
    service = TokenService(
        authenticator,
        authorizer,
        _open_keys(settings, is_check=is_check),
        Terms(
            issuer=own.issuer,
            service=own.service,
            audiences=frozenset(own.audiences),
            lifetime=int(own.lifetime.total_seconds()),
            refresh_lifetime=int(own.refresh_lifetime.total_seconds()),
        ),
        authenticator,
    )
    return Authentication(
        Gate(service, authorizer), _own_realm(settings), service, close=authenticator.close
    )


def _open_token(settings: Settings, token: Token) -> Authentication:
    sources: list[Watched[TrustedKeys]] = []
    if token.root_cert_bundle is not None:
        sources.append(Watched([Path(token.root_cert_bundle)], read_certificates))
    if token.jwks is not None:
        sources.append(Watched([Path(token.jwks)], read_jwks))
    server = TokenServer(token.issuer, token.service, token.signing_algorithms)
    prefix = settings.http.prefix.rstrip("/")
    realm = Realm(
        token.service,
        # As in distribution, the address that the client used, with this path at its end.
        None if token.auto_redirect else token.realm,
        prefix + token.auto_redirect_path,
    )
    return Authentication(
        Gate(TrustedTokens(server, sources), TokenDecides(), admits_strangers=False), realm
    )


def _open_kubernetes(
    settings: Settings, kubernetes: Kubernetes, failures: Failures | None, *, is_check: bool
) -> Authentication:
    # Not above: it takes a third of a second and 40 MB, and most registries are in no cluster.
    from alauda_registry.kube.apiserver import ApiServerClient

    kubeconfig = kubernetes.kubeconfig
    client = ApiServerClient(None if kubeconfig is None else Path(kubeconfig))
    if is_check:
        asyncio.run(_try(client))
    authorizer = KubernetesAuthorizer(client)
    own = settings.auth.token_service
    service = TokenService(
        KubernetesAuthenticator(client, Throttle(failures), kubernetes.audiences),
        authorizer,
        _open_keys(settings, is_check=is_check),
        # They say who, and for a minute only: what somebody may is asked with every request.
        Terms(
            own.issuer,
            own.service,
            lifetime=SHORTEST_LIFETIME,
            carry_access=False,
            passwords_are_tokens=True,
        ),
    )
    gate = Gate(
        service,
        authorizer,
        takes_certificates=True,
        tells_denied=not kubernetes.challenge_denied,
    )
    return Authentication(
        gate, _own_realm(settings), service, guards_metrics=True, running=lambda: client
    )


async def _try(client: AbstractAsyncContextManager[object]) -> None:
    """Look whether the API server can be asked, as far as that shows without asking.

    Raises:
        CannotStart: It cannot.
    """
    try:
        async with client:
            pass
    except KubeError as error:
        raise CannotStart(f"auth.kubernetes: {error}") from error


def _own_realm(settings: Settings) -> Realm:
    path = settings.http.prefix.rstrip("/") + "/token"
    host = settings.http.host
    return Realm(
        settings.auth.token_service.service, None if host is None else host.rstrip("/") + path, path
    )


def _open_keys(settings: Settings, *, is_check: bool) -> Watched[KeyRing]:
    own = settings.auth.token_service
    path = _own_key_file(settings)
    if own.keys:
        return Watched([Path(name) for name in own.keys], read_keys)
    if path is None and settings.storage.in_memory is None:
        raise FileInvalid(
            "tokens have to be signed: give a file with a private key in auth.tokenservice.keys, "
            "the same in all replicas"
        )
    if path is None or (is_check and not path.exists()):
        # One process, whose images go with it as well.
        made = make_key(own.algorithm)
        return Watched([], lambda _: read_keys([made]))
    return Watched([path], read_keys)


def _own_key_file(settings: Settings) -> Path | None:
    """Where a key is made when none is given: in the folder of the images."""
    root = settings.storage.root
    if settings.auth.token_service.keys or root is None:
        return None
    return Path(root) / paths.SECRET.lstrip("/").rpartition("/")[0] / KEY_FILE


def warnings(settings: Settings) -> Sequence[str]:
    """Return what the writer of the settings should know."""
    htpasswd = settings.auth.htpasswd
    if htpasswd is not None and htpasswd.access_file is None:
        return ["auth.htpasswd.accessfile is not set: every user may push, pull and delete"]
    return []
