"""Who of the users in an ``htpasswd`` file may do what: a file of rules.

::

    groups:
      developers: [alice, bob]
    rules:
      - users: ["*"]                 # whoever has logged in
        repositories: ["**"]
        actions: [pull]
      - groups: [developers]
        repositories: ["team/*"]     # one level; team/** is all below
        actions: [push, delete]      # whoever may push may pull
      - anonymous: true              # whoever has not logged in
        repositories: ["public/**"]
        actions: [pull]
      - users: [alice]
        catalog: true                # may list all repositories

What no rule allows is not allowed. Rules add up; there is none that takes something away.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from typing_extensions import override

from alauda_registry.auth.authenticator import Identity
from alauda_registry.auth.authorizer import Authorizer
from alauda_registry.auth.files import FileInvalid, Watched
from alauda_registry.auth.scopes import (
    CATALOG,
    EVERYTHING,
    PULL,
    PUSH,
    REPOSITORY,
    REPOSITORY_ACTIONS,
    Access,
)

KEPT_DECISIONS = 4096


def _pattern(glob: str) -> re.Pattern[str]:
    """Translate: ``**`` is anything, ``*`` and ``?`` stay within one part of a name."""
    parts = re.split(r"(\*\*|\*|\?)", glob)
    words = {"**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(words.get(part, re.escape(part)) for part in parts))


def _checked_glob(glob: str) -> str:
    if not re.fullmatch(r"[a-z0-9._/*?-]+", glob):
        raise ValueError(f"{glob!r} is no repository, such as team/app, team/* or **")
    if any(part.count("*") > 3 for part in glob.split("/")):
        raise ValueError(f"{glob!r} has too many * between two slashes: three are allowed")
    return glob


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Rule(_Strict):
    """Lets some do something."""

    users: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    anonymous: bool = False
    repositories: tuple[Annotated[str, AfterValidator(_checked_glob)], ...] = ()
    actions: tuple[Literal["pull", "push", "delete", "*"], ...] = ()
    catalog: bool = False

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not (self.users or self.groups or self.anonymous):
            raise ValueError("it is for nobody: name users, groups or anonymous: true")
        if bool(self.repositories) != bool(self.actions):
            raise ValueError("repositories and actions belong together")
        if not (self.repositories or self.catalog):
            raise ValueError("it allows nothing: name repositories and actions, or catalog: true")
        return self


class Rules(_Strict):
    """The whole file."""

    groups: Mapping[str, tuple[str, ...]] = Field(default={})
    rules: tuple[Rule, ...] = ()

    @model_validator(mode="after")
    def _groups_exist(self) -> Self:
        for rule in self.rules:
            for group in rule.groups:
                if group not in self.groups:
                    raise ValueError(f"there is no group {group!r}: name its users under groups")
        return self


class AccessRules:
    """Decides by rules; remembers what it has decided lately.

    Args:
        rules: The file.
    """

    def __init__(self, rules: Rules) -> None:
        self._groups = rules.groups
        self._rules = [
            (rule, _actions(rule), [_pattern(glob) for glob in rule.repositories])
            for rule in rules.rules
        ]
        self.allow = lru_cache(KEPT_DECISIONS)(self._allow)

    def _allow(self, name: str, access: Access) -> bool:
        for rule, actions, patterns in self._rules:
            if not self._is_meant(rule, name):
                continue
            if access == CATALOG and rule.catalog:
                return True
            if (
                access.type == REPOSITORY
                and access.action in actions
                and any(pattern.fullmatch(access.name) for pattern in patterns)
            ):
                return True
        return False

    def _is_meant(self, rule: Rule, name: str) -> bool:
        if not name:
            return rule.anonymous
        if name in rule.users or EVERYTHING in rule.users or rule.anonymous:
            # What everybody may, who has logged in may as well.
            return True
        return any(name in self._groups[group] for group in rule.groups)


def read_rules(parse: Callable[[str], Any]) -> Callable[[Sequence[bytes]], AccessRules]:
    """Return the reader of a file of rules.

    Args:
        parse: Reads YAML; raises an exception whose text says what is wrong.
    """

    def read(contents: Sequence[bytes]) -> AccessRules:
        try:
            found = parse(b"\n".join(contents).decode())
        except Exception as error:
            raise FileInvalid(f"auth.htpasswd.accessfile is not YAML: {error}") from error
        try:
            return AccessRules(Rules.model_validate({} if found is None else found))
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}".lstrip(": ")
                for problem in error.errors()
            )
            raise FileInvalid(f"auth.htpasswd.accessfile: {problems}") from error

    return read


class HtpasswdAuthorizer(Authorizer):
    """Decides what the users of an ``htpasswd`` file may.

    Args:
        rules: None lets everybody who has logged in do everything, as distribution does.
    """

    def __init__(self, rules: Watched[AccessRules] | None = None) -> None:
        self._rules = rules

    @override
    async def allows(self, identity: Identity, access: Access) -> bool:
        if self._rules is None:
            return not identity.is_anonymous
        return self._rules.current.allow(identity.name, access)


def _actions(rule: Rule) -> frozenset[str]:
    actions: set[str] = set(rule.actions)
    if EVERYTHING in actions:
        actions |= set(REPOSITORY_ACTIONS)
    if PUSH in actions:
        # A push asks what is there already.
        actions.add(PULL)
    return frozenset(actions)
