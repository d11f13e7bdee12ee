"""What can be set of `auth`: how it is known who asks, what they may, and what tokens are like."""

from datetime import timedelta
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from alauda_registry.auth.keys import Algorithm as NewKeyAlgorithm
from alauda_registry.auth.service import SHORTEST_LIFETIME
from alauda_registry.auth.trusted_tokens import ASYMMETRIC, SYMMETRIC
from alauda_registry.server.configuration.sections import (
    AbsolutePath,
    Duration,
    Section,
    SomeTime,
    listed,
    split_list,
    split_words,
)

MODES = ("none", "htpasswd", "token", "kubernetes")
"""The keys of `auth` that choose how it is known who may do what."""


def _algorithm(name: str) -> str:
    if name not in (*ASYMMETRIC, *SYMMETRIC):
        raise ValueError(f"must be one of {', '.join((*ASYMMETRIC, *SYMMETRIC))}")
    return name


Algorithm = Annotated[str, AfterValidator(_algorithm)]


class NoAuth(Section):
    """`auth.none`: everybody may do everything."""


class Htpasswd(Section):
    """`auth.htpasswd`: users with passwords in a file."""

    realm: str = ""
    """Has no effect: clients are sent to our token endpoint. Distribution's."""
    path: Annotated[str, Field(min_length=1)]
    """The file, as Apache's htpasswd -B or image-registry htpasswd makes it: bcrypt only. Read
    again when it changes."""
    access_file: str | None = None
    """YAML: which users may do what in which repositories. Unset: everybody in the file may do
    everything, as in distribution. Read again when it changes."""


def _local_path(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError("must be a path such as /auth/token")
    return path


class Token(Section):
    """`auth.token`: a token server makes tokens, and we believe them."""

    realm: str = ""
    """Its URL, where clients get tokens."""
    service: Annotated[str, Field(min_length=1)]
    """What it calls this registry: the audience of the tokens."""
    issuer: Annotated[str, Field(min_length=1)]
    """What it calls itself in tokens."""
    root_cert_bundle: str | None = None
    """PEM file with certificates: their keys, or keys whose certificates they have signed, sign
    tokens. Read again when it changes."""
    jwks: str | None = None
    """JSON Web Key Set with such keys. Read again when it changes."""
    signing_algorithms: Annotated[tuple[Algorithm, ...], BeforeValidator(split_list)] = ASYMMETRIC
    """How tokens may be signed. HS256 and its kin must be named here, and their keys be in jwks."""
    auto_redirect: bool = False
    """The token server is at the address that the client uses for us, behind the same proxy."""
    auto_redirect_path: Annotated[str, AfterValidator(_local_path)] = "/auth/token"
    """Then its path there."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not (self.realm or self.auto_redirect):
            raise ValueError("realm must be the URL of the token server")
        if self.realm and not self.realm.startswith(("http://", "https://")):
            raise ValueError("realm must be a URL such as https://auth.example/token")
        if self.root_cert_bundle is None and self.jwks is None:
            raise ValueError("rootcertbundle or jwks must name a file with the token server's keys")
        return self


class Kubernetes(Section):
    """`auth.kubernetes`: a cluster's users and service accounts, and its RBAC."""

    kubeconfig: AbsolutePath | None = None
    """Where the API server is, and who the registry is there. Unset: the service account of the
    pod. Either needs the ClusterRole system:auth-delegator."""
    audiences: Annotated[tuple[str, ...], BeforeValidator(split_words)] = ()
    """Tokens must be meant for one of these. Unset: for the API server, as those are that pods
    and `kubectl create token` get."""
    challenge_denied: bool = False
    """Answer 401 also to a known user who may not, as OpenShift's registry; otherwise 403."""


def _long_enough(lifetime: timedelta) -> timedelta:
    # Not by pydantic's limits, which are told as Python writes them.
    if lifetime < timedelta(seconds=SHORTEST_LIFETIME):
        raise ValueError(f"must be at least {SHORTEST_LIFETIME}s")
    return lifetime


class TokenService(Section):
    """`auth.tokenservice`: tokens that this registry makes, in every mode but `token`."""

    keys: Annotated[tuple[str, ...], BeforeValidator(listed)] = ()
    """PEM files: the first private key signs, all others verify. The same in all replicas. Unset:
    one is made in the folder of the images. Read again when they change."""
    algorithm: NewKeyAlgorithm = NewKeyAlgorithm.ES256
    """Of the key that is made: ES256, RS256 or EdDSA."""
    issuer: Annotated[str, Field(min_length=1)] = "alauda-image-registry"
    """What the tokens say who made them."""
    service: Annotated[str, Field(min_length=1)] = "alauda-image-registry"
    """Whom the tokens are for. Registries that share keys need one each."""
    audiences: Annotated[tuple[str, ...], BeforeValidator(listed)] = ()
    """Other registries' `auth.token.service`, which may have tokens from us, too."""
    lifetime: Annotated[Duration, AfterValidator(_long_enough)] = timedelta(minutes=5)
    """How long a token is good. Clients take any to be good for a minute, which is what tokens are
    in mode `kubernetes`."""
    refresh_lifetime: SomeTime = timedelta(days=30)
    """How long a client that keeps a token instead of a password need not log in again."""


class Auth(Section):
    """`auth`: exactly one mode, and the tokens."""

    none: NoAuth | None = None
    htpasswd: Htpasswd | None = None
    token: Token | None = None
    kubernetes: Kubernetes | None = None
    token_service: TokenService = TokenService()

    @model_validator(mode="before")
    @classmethod
    def _none_unless_told_otherwise(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.keys().isdisjoint(MODES):
            return {**value, "none": {}}
        return value

    @model_validator(mode="after")
    def _one_mode(self) -> Self:
        modes = (self.none, self.htpasswd, self.token, self.kubernetes)
        chosen = [name for name, mode in zip(MODES, modes, strict=True) if mode is not None]
        if len(chosen) > 1:
            raise ValueError(f"{' and '.join(chosen)} are both configured; keep one of them")
        return self

    @property
    def is_none(self) -> bool:
        """Whether everybody may do everything."""
        return self.none is not None
