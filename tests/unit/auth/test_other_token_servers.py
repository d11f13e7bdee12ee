"""Tokens as the usual token servers make them, sign them and name their keys.

What each says was read from its source: Harbor's ``makeTokenCore``, GitLab's
``ContainerRegistryAuthenticationService`` and ``JSONWebToken::RSAToken``, docker_auth's
``CreateToken``. Docker Hub's source is not public; its tokens are as they were shown when it began
to limit pulls. Only the keys are ours.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from alauda_registry.auth.authenticator import Bearer, Caller
from alauda_registry.auth.files import Watched
from alauda_registry.auth.keys import libtrust_id
from alauda_registry.auth.scopes import Access
from alauda_registry.auth.trusted_tokens import TokenServer, TrustedTokens, read_certificates
from tests.parts.tokens import SERVICE, Certified, certified, sign, write_bundle

pytestmark = pytest.mark.anyio

REPOSITORY = "team/app"


@dataclass(frozen=True)
class Made:
    """A token of some server.

    Args:
        algorithm: That it signs with.
        issuer: Of its tokens.
        says: The claims, but for times.
        may: What they allow in the repository.
        user: Who they are about.
        ages: Seconds from now to the times in it.
        kid: Whether the key is named; otherwise its certificates come along.
    """

    algorithm: str
    issuer: str
    says: Mapping[str, Any]
    may: frozenset[str]
    user: str = "alice"
    ages: Mapping[str, int] = field(default_factory=lambda: {"nbf": 0, "iat": 0, "exp": 1800})
    kid: bool = True


def entry(*actions: str, **more: object) -> dict[str, object]:
    return {"type": "repository", "name": REPOSITORY, "actions": [*actions], **more}


PROJECT = {"project_path": REPOSITORY, "project_id": 7, "root_namespace_id": 3}
GITLAB = {
    "aud": SERVICE,
    "jti": "0b6f7e7c-98ad-4f0b-8b8c-6a4f0a2a3e11",
    "user": "eyJhbGciOiJSUzI1NiJ9.eyJ1c2VyX2luZm8iOnsidXNlcm5hbWUiOiJhbGljZSJ9fQ.c2ln",
}
GITLAB_AGES = {"iat": 0, "nbf": -5, "exp": 300}

TOKENS = {
    "Harbor, to push": Made(
        "RS256",
        "harbor-token-issuer",
        {
            "aud": SERVICE,
            "sub": "alice",
            "jti": "9FVcVnuVbGbC3vIZ",
            "access": [entry("push", "*", "pull", "scanner-pull")],
        },
        frozenset({"pull", "push", "delete"}),
    ),
    "Harbor, for docker login": Made(
        "RS256",
        "harbor-token-issuer",
        {"aud": SERVICE, "sub": "alice", "jti": "9FVcVnuVbGbC3vIZ", "access": None},
        frozenset(),
    ),
    "Harbor, to somebody who may nothing": Made(
        "RS256",
        "harbor-token-issuer",
        {"aud": SERVICE, "sub": "alice", "jti": "9FVcVnuVbGbC3vIZ", "access": [entry()]},
        frozenset(),
    ),
    "GitLab, to a user": Made(
        "RS256",
        "omnibus-gitlab-issuer",
        {
            **GITLAB,
            "sub": "alice",
            "auth_type": "personal_access_token",
            "access": [entry("push", "pull", meta=PROJECT)],
        },
        frozenset({"pull", "push"}),
        ages=GITLAB_AGES,
    ),
    "GitLab, to a deploy token": Made(
        "RS256",
        "omnibus-gitlab-issuer",
        # There is no user whose name it could be.
        {**GITLAB, "auth_type": "deploy_token", "access": [entry("pull", meta=PROJECT)]},
        frozenset({"pull"}),
        user="",
        ages=GITLAB_AGES,
    ),
    "GitLab, to itself": Made(
        "RS256",
        "omnibus-gitlab-issuer",
        {"aud": SERVICE, "jti": "1f", "access": [entry("*")]},
        frozenset({"pull", "push", "delete"}),
        user="",
        ages=GITLAB_AGES,
    ),
    "docker_auth": Made(
        "ES256",
        "Acme auth server",
        {
            "aud": SERVICE,
            "sub": "alice",
            "jti": "5577006791947779410",
            "access": [entry("pull"), entry("push")],
        },
        frozenset({"pull", "push"}),
        ages={"iat": 0, "nbf": -10, "exp": 900},
    ),
    "Docker Hub": Made(
        "ES256",
        "auth.docker.io",
        {
            "aud": SERVICE,
            "sub": "",
            "jti": "dckr_jti_1",
            "access": [entry("pull", parameters={"pull_limit": "100"})],
        },
        frozenset({"pull"}),
        user="",
        ages={"iat": 0, "nbf": -300, "exp": 300},
        kid=False,
    ),
}


@pytest.fixture(scope="module")
def keys() -> Mapping[str, Certified]:
    authority = certified(is_authority=True, name="authority")
    return {
        "RS256": certified(rsa.generate_private_key(65537, 2048), signer=authority),
        "ES256": certified(ec.generate_private_key(ec.SECP256R1()), signer=authority),
        "authority": authority,
    }


@pytest.mark.parametrize("made", TOKENS.values(), ids=TOKENS)
async def test_its_tokens_are_taken_for_what_they_say(
    made: Made, keys: Mapping[str, Certified], tmp_path: Path
) -> None:
    key = keys[made.algorithm]
    bundle = write_bundle(tmp_path / "bundle.pem", keys["authority"], key)
    now = int(time.time())
    said = {**made.says, "iss": made.issuer, **{of: now + age for of, age in made.ages.items()}}
    header: dict[str, Any] = {"x5c": [key.der]}
    if made.kid:
        header = {"kid": libtrust_id(key.certificate.public_key())}  # type: ignore[arg-type]
    tokens = TrustedTokens(
        TokenServer(made.issuer, SERVICE), [Watched([bundle], read_certificates)]
    )

    caller = await tokens.authenticate(
        Bearer(sign(said, key.key, made.algorithm, typ="JWT", **header)), "192.0.2.1"
    )

    assert caller.identity.name == made.user
    assert _allowed(caller) == made.may


def _allowed(caller: Caller) -> set[str]:
    assert caller.grants is not None
    asked = (Access("repository", REPOSITORY, action) for action in ("pull", "push", "delete"))
    return {access.action for access in asked if caller.grants.cover(access)}
