"""What is opened for a mode of `auth`: keys that are made once, files that have to be there."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from alauda_registry.auth.htpasswd import hash_password
from alauda_registry.auth.keys import Algorithm, make_key
from alauda_registry.server.configuration.settings import Settings
from alauda_registry.server.configuration.sources import load_settings
from alauda_registry.server.opening.authentication import (
    KEY_FILE,
    open_authentication,
    prepare_authentication,
    warnings,
)
from alauda_registry.serving.starting import CannotStart


def variables(**environ: str) -> Settings:
    loaded = load_settings(environ=environ)
    assert loaded.warnings == []
    return loaded.settings


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
        ({"REGISTRY_AUTH_HTPASSWD_PATH": f"/{'x' * 300}"}, "cannot read /x+: File name too long"),
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
