"""The section `auth`: one mode, under distribution's names, and nothing passed over."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest

from alauda_registry.auth.htpasswd import hash_password
from alauda_registry.auth.keys import Algorithm, make_key
from alauda_registry.auth.trusted_tokens import ASYMMETRIC
from alauda_registry.server.authentication import (
    KEY_FILE,
    open_authentication,
    prepare_authentication,
    warnings,
)
from alauda_registry.server.cli import main
from alauda_registry.server.settings import MODES, CannotStart, Settings
from alauda_registry.server.sources import load_settings


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


@pytest.mark.parametrize("mode", sorted(set(MODES) - {"none"}))
@pytest.mark.parametrize("command", ["serve", "check-config"])
def test_the_image_api_is_no_way_around_any_mode(
    mode: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yml"
    path.write_text(ASKING[mode])

    assert not load(ASKING[mode], tmp_path).auth.is_none
    assert main([command, "--config", str(path), "--image-api"]) == 1
    assert capsys.readouterr().err.endswith(
        ": imageapi does not ask yet who is there, and would be a way around auth: "
        "leave out --image-api (imageapi.enabled), or the section auth\n"
    )


@pytest.fixture
def users(tmp_path: Path) -> Path:
    path = tmp_path / "htpasswd"
    path.write_text(f"alice:{hash_password('secret', 4)}\n")
    return path


def with_users(users: Path, storage: str, **environ: str) -> Settings:
    settings: Mapping[str, str] = {"REGISTRY_AUTH_HTPASSWD_PATH": str(users), **environ}
    return variables(REGISTRY_STORAGE=storage, **settings)


def test_without_a_mode_there_is_nothing_before_the_registry() -> None:
    assert open_authentication(variables()) is None


def test_a_check_makes_no_key(users: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    settings = with_users(users, "filesystem", REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY=str(root))

    found = open_authentication(settings, is_check=True)

    assert found is not None
    found.close()
    assert not root.exists()
    prepare_authentication(settings)
    (made,) = root.rglob(KEY_FILE)
    found = open_authentication(settings)
    assert found is not None
    found.close()
    prepare_authentication(settings)
    assert [*root.rglob("*.pem")] == [made]


def test_keys_that_are_given_are_used_and_none_is_made(users: Path, tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_bytes(make_key(Algorithm.RS256))
    root = tmp_path / "root"
    settings = with_users(
        users,
        "filesystem",
        REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY=str(root),
        REGISTRY_AUTH_TOKENSERVICE_KEYS=str(key),
    )

    prepare_authentication(settings)
    found = open_authentication(settings)

    assert found is not None
    assert found.service is not None
    assert found.service.jwks()["keys"][0]["alg"] == "RS256"
    found.close()
    assert not root.exists()


def test_a_registry_in_memory_has_its_key_there(users: Path) -> None:
    settings = with_users(users, "inmemory")
    prepare_authentication(settings)

    found = open_authentication(settings)

    assert found is not None
    found.close()


@pytest.mark.parametrize(
    ("environ", "reason"),
    [
        ({"REGISTRY_AUTH_HTPASSWD_PATH": "/nowhere/users"}, "image-registry htpasswd add"),
        ({"REGISTRY_AUTH_HTPASSWD_ACCESSFILE": "/nowhere/rules"}, "cannot read /nowhere/rules"),
        ({"REGISTRY_AUTH_TOKENSERVICE_KEYS": "/nowhere/key"}, "cannot read /nowhere/key"),
    ],
)
def test_a_file_that_is_missing_is_told_at_the_start(
    environ: dict[str, str], reason: str, users: Path
) -> None:
    settings = variables(
        **{"REGISTRY_STORAGE": "inmemory", "REGISTRY_AUTH_HTPASSWD_PATH": str(users), **environ}
    )

    with pytest.raises(CannotStart, match=reason):
        open_authentication(settings)


def test_that_everybody_may_do_everything_is_said(users: Path, tmp_path: Path) -> None:
    rules = str(tmp_path / "access.yml")

    assert "accessfile" in warnings(with_users(users, "inmemory"))[0]
    assert not warnings(with_users(users, "inmemory", REGISTRY_AUTH_HTPASSWD_ACCESSFILE=rules))
    assert not warnings(variables())
