"""The access file: rules that add up."""

from pathlib import Path

import pytest
import yaml

from alauda_registry.auth.access_rules import HtpasswdAuthorizer, read_rules
from alauda_registry.auth.authenticator import ANONYMOUS, Identity
from alauda_registry.auth.files import FileInvalid, Watched
from alauda_registry.auth.scopes import CATALOG, Access

pytestmark = pytest.mark.anyio

FILE = """\
groups:
  developers: [alice, bob]
rules:
  - users: ["*"]
    repositories: ["**"]
    actions: [pull]
  - groups: [developers]
    repositories: ["team/*", "lib-?"]
    actions: [push]
  - users: [alice]
    repositories: ["team/**"]
    actions: [delete]
  - anonymous: true
    repositories: ["public/**"]
    actions: [pull]
  - users: [root]
    repositories: ["**"]
    actions: ["*"]
    catalog: true
"""


def authorizer(text: str = FILE) -> HtpasswdAuthorizer:
    rules = read_rules(yaml.safe_load)([text.encode()])
    return HtpasswdAuthorizer(Watched([], lambda _: rules))


@pytest.mark.parametrize(
    ("name", "repository", "actions"),
    [
        ("", "public/app", "pull"),
        ("", "public/a/b", "pull"),
        ("", "public", ""),
        ("", "publicity/app", ""),
        ("", "team/app", ""),
        ("carol", "team/app", "pull"),
        ("carol", "public/app", "pull"),
        ("bob", "team/app", "pull push"),
        ("bob", "team/app/part", "pull"),
        ("bob", "lib-a", "pull push"),
        ("bob", "lib-ab", "pull"),
        ("bob", "my/team/app", "pull"),
        ("alice", "team/app", "pull push delete"),
        ("alice", "team/app/part", "pull delete"),
        ("root", "any/thing", "pull push delete"),
        ("*", "team/app", "pull"),
        ("developers", "team/app", "pull"),
    ],
)
async def test_rules_decide(name: str, repository: str, actions: str) -> None:
    found = [
        action
        for action in ("pull", "push", "delete")
        if await authorizer().allows(Identity(name), Access("repository", repository, action))
    ]

    assert found == actions.split()


@pytest.mark.parametrize(
    ("globs", "names"),
    [
        (["**"], "** team/* te-am/*"),
        (["*"], ""),
        (["*/*"], "team/* te-am/*"),
        (["*/**"], "team/* te-am/*"),
        (["team/*"], "team/*"),
        (["team/**"], "team/*"),
        (["t*/*", "x"], "team/* te-am/*"),
        (["team/app", "team/a*", "team/*a", "team/**/*a", "team"], ""),
        # Names of other lengths are not meant by these, though they let a star pass.
        (["team/?", "????/?*", "?/*", "??"], ""),
        (["team/?", "team/*"], "team/*"),
        (["team/*/*", "**/*", "**a"], "team/* te-am/*"),
    ],
)
async def test_all_that_a_name_stands_for_must_be_allowed(globs: list[str], names: str) -> None:
    rule = {"users": ["alice"], "repositories": globs, "actions": ["pull"]}
    rules = authorizer(yaml.safe_dump({"rules": [rule]}))

    async def allows(name: str, action: str = "pull") -> bool:
        return await rules.allows(Identity("alice"), Access("repository", name, action))

    asked = ("**", "team/*", "te-am/*", "te*am/**", "other**/*")
    assert [name for name in asked if await allows(name)] == names.split()
    assert not any([await allows(name, "delete") for name in asked])


@pytest.mark.parametrize(("name", "is_allowed"), [("", False), ("alice", False), ("root", True)])
async def test_the_catalog_is_for_whom_a_rule_says(name: str, is_allowed: bool) -> None:
    assert await authorizer().allows(Identity(name), CATALOG) is is_allowed


async def test_who_may_push_may_pull() -> None:
    rules = "rules: [{users: [ci], repositories: [a], actions: [push]}]"

    assert await authorizer(rules).allows(Identity("ci"), Access("repository", "a", "pull"))


async def test_an_empty_file_lets_nobody_do_anything() -> None:
    assert not await authorizer("").allows(Identity("root"), CATALOG)


async def test_without_a_file_whoever_has_logged_in_may_do_everything() -> None:
    everybody = HtpasswdAuthorizer()

    assert await everybody.allows(Identity("carol"), Access("repository", "a", "delete"))
    assert not await everybody.allows(ANONYMOUS, Access("repository", "a", "pull"))


async def test_another_kind_of_resource_is_not_a_repository() -> None:
    assert not await authorizer().allows(Identity("root"), Access("plugin", "any", "pull"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("rules: [", "not YAML"),
        ("[]", "accessfile is no file of rules"),
        ("garbage", "accessfile is no file of rules"),
        (
            "rules: [{users: [a], repositories: ['**/**a/**a/**a/x'], actions: [pull]}]",
            r"too many \*\*",
        ),
        ("roules: []", "roules"),
        ("rules: [{users: [a]}]", "allows nothing"),
        ("rules: [{repositories: [a], actions: [pull]}]", "for nobody"),
        ("rules: [{users: [a], repositories: [a]}]", "belong together"),
        ("rules: [{users: [a], repositories: [a], actions: [read]}]", "rules.0.actions.0"),
        ("rules: [{users: [a], repositories: [A], actions: [pull]}]", "no repository"),
        ("rules: [{users: [a], repositories: ['*a*b*c*'], actions: [pull]}]", "too many"),
        ("rules: [{groups: [x], catalog: true}]", "no group 'x'"),
        ("\xff", "accessfile"),
    ],
)
async def test_a_slip_of_the_pen_is_explained(text: str, reason: str) -> None:
    with pytest.raises(FileInvalid, match=reason):
        read_rules(yaml.safe_load)([text.encode("latin-1")])


async def test_a_change_has_an_effect(tmp_path: Path) -> None:
    clock = [0.0]
    path = tmp_path / "access.yml"
    path.write_text(FILE)
    rules = Watched([path], read_rules(yaml.safe_load), lambda: clock[0])
    found = HtpasswdAuthorizer(rules)
    push = Access("repository", "team/app", "push")
    assert await found.allows(Identity("bob"), push)

    path.write_text(FILE.replace("[alice, bob]", "[alice]"))
    clock[0] += 1

    assert not await found.allows(Identity("bob"), push)
