"""The section `auth`: one mode, under distribution's names, and nothing passed over."""

from datetime import timedelta
from pathlib import Path

import pytest

from alauda_registry.auth.trusted_tokens import ASYMMETRIC
from alauda_registry.server.cli import main
from alauda_registry.server.configuration.auth_settings import MODES
from alauda_registry.server.configuration.settings import Settings
from alauda_registry.server.configuration.sources import load_settings
from alauda_registry.serving.starting import CannotStart


def load(text: str, tmp_path: Path, **environ: str) -> Settings:
    path = tmp_path / "config.yml"
    path.write_text(text)
    loaded = load_settings(str(path), environ=environ)
    assert loaded.warnings == []
    return loaded.settings


def variables(**environ: str) -> Settings:
    loaded = load_settings(environ=environ)
    assert loaded.warnings == []
    return loaded.settings


TOKEN = """\
auth:
  token:
    autoredirect: true
    realm: https://auth.example/token
    service: my.registry
    issuer: registry-token-issuer
    rootcertbundle: /root/certs/bundle
"""


def test_nobody_is_asked_unless_it_is_said() -> None:
    assert variables().auth.is_none
    assert variables(REGISTRY_AUTH="none").auth.is_none


def test_the_token_section_of_distributions_documentation_is_understood(tmp_path: Path) -> None:
    token = load(TOKEN, tmp_path).auth.token

    assert token is not None
    assert token.auto_redirect
    assert token.auto_redirect_path == "/auth/token"
    assert token.service == "my.registry"
    assert token.root_cert_bundle == "/root/certs/bundle"
    assert token.signing_algorithms == ASYMMETRIC


@pytest.mark.parametrize("text", ["[EdDSA, HS256]", "EdDSA HS256", '"EdDSA,HS256"'])
def test_algorithms_are_listed(text: str, tmp_path: Path) -> None:
    token = load(f"{TOKEN}    signingalgorithms: {text}\n", tmp_path).auth.token

    assert token is not None
    assert token.signing_algorithms == ("EdDSA", "HS256")


def test_the_variables_of_distributions_documentation_are_understood() -> None:
    auth = variables(
        REGISTRY_AUTH="htpasswd",
        REGISTRY_AUTH_HTPASSWD_REALM="Registry Realm",
        REGISTRY_AUTH_HTPASSWD_PATH="/auth/htpasswd",
        REGISTRY_AUTH_TOKENSERVICE_LIFETIME="90s",
        REGISTRY_AUTH_TOKENSERVICE_KEYS="[/a.pem, /b.pem]",
        REGISTRY_HTTP_TRUSTEDPROXIES="10.0.0.0/8, 192.0.2.1 2001:db8::/32",
    ).auth

    assert auth.htpasswd is not None
    assert auth.htpasswd.path == "/auth/htpasswd"
    assert auth.token_service.lifetime == timedelta(seconds=90)
    assert auth.token_service.keys == ("/a.pem", "/b.pem")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("auth: {htpasswd: {path: /a}, token: {}}", "auth.token.service: must be given"),
        ("auth: {htpasswd: {path: /a}, none: {}}", "none and htpasswd are both configured"),
        ("auth: {htpasswd: }", "auth.htpasswd.path: must be given"),
        ("auth: {htpasswd: {path: ''}}", "auth.htpasswd.path"),
        ("auth: ldap", "there is no auth.ldap: use one of none, htpasswd, token"),
        ("auth: {oidc: {issuer: x}}", "there is no auth.oidc"),
        ("auth: {htpasswd: {path: /a, accesfile: /b}}", "did you mean auth.htpasswd.accessfile?"),
        ("auth: {token: {audience: x}}", "there is no auth.token.audience"),
        ("auth: silly", "auth.silly"),
        ("auth: {silly: {realm: a, service: b}}", "auth.silly"),
        (TOKEN.partition("    rootc")[0], "rootcertbundle or jwks must name a file"),
        (TOKEN.replace("true", "false").replace("realm: h", "#"), "realm must be the URL"),
        (TOKEN.replace("https://", ""), "realm must be a URL such as https://auth.example/token"),
        (TOKEN + "    autoredirectpath: token\n", "must be a path such as /auth/token"),
        (TOKEN + "    signingalgorithms: [none]\n", "must be one of"),
        ("auth: {tokenservice: {lifetime: 59s}}", "lifetime"),
        ("auth: {tokenservice: {algorithm: HS256}}", "must be ES256, RS256 or EdDSA"),
        ("http: {trustedproxies: proxy.example}", "must be an address or a network"),
        ("auth: yes-please", "there is no auth.yes-please"),
        ("auth: [htpasswd]", "auth"),
    ],
)
def test_what_is_wrong_is_explained(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    path.write_text(text)

    with pytest.raises(CannotStart) as caught:
        load_settings(str(path), environ={})
    assert reason in str(caught.value)


ASKING = {
    "htpasswd": "auth: {htpasswd: {path: /a}}\n",
    "token": TOKEN,
    "kubernetes": "auth: {kubernetes: {}}\n",
}
"""Each mode that asks who is there."""


@pytest.mark.parametrize("mode", sorted(set(MODES) - {"none", "htpasswd"}))
@pytest.mark.parametrize("command", ["serve", "check-config"])
def test_the_image_api_is_no_way_around_a_mode_that_it_does_not_know(
    mode: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yml"
    path.write_text(ASKING[mode])

    assert not load(ASKING[mode], tmp_path).auth.is_none
    assert main([command, "--config", str(path), "--image-api"]) == 1
    assert capsys.readouterr().err.endswith(
        ": imageapi is served without auth, or with auth.htpasswd: leave out --image-api "
        "(imageapi.enabled); in a cluster image-api-server serves it\n"
    )
