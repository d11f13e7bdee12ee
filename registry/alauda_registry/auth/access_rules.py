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

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
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
KEPT_USERS = 256

_MOST_ANYTHING = 3


def _pattern(globs: Iterable[str]) -> re.Pattern[str]:
    """Translate: ``**`` is anything, ``*`` and ``?`` stay within one part of a name."""
    words = {"**": ".*", "*": "[^/]*", "?": "[^/]"}
    translated = [
        "".join(words.get(part, re.escape(part)) for part in re.split(r"(\*\*|\*|\?)", glob))
        for glob in globs
    ]
    # Nothing has the empty name.
    return re.compile("|".join(translated))


def _checked_glob(glob: str) -> str:
    if not re.fullmatch(r"[a-z0-9._/*?-]+", glob):
        raise ValueError(f"{glob!r} is no repository, such as team/app, team/* or **")
    if any(part.count("*") > 3 for part in glob.split("/")):
        raise ValueError(f"{glob!r} has too many * between two slashes: three are allowed")
    # Each may have to be tried at every place of a name, for each place of those before it.
    if glob.count("**") > _MOST_ANYTHING:
        raise ValueError(f"{glob!r} has too many **: {_MOST_ANYTHING} are allowed")
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


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a rule holds, and what it allows there.

    Args:
        globs: Of repositories.
        pattern: The same, translated.
        for_many: Those of them that may cover many repositories that are meant at once.
        actions: On these.
    """

    globs: Sequence[str]
    pattern: re.Pattern[str]
    for_many: re.Pattern[str]
    actions: frozenset[str]

    def covers(self, repository: str) -> bool:
        """Tell whether a repository, or all that are meant, are there."""
        if "**" in repository:
            return repository in self.globs
        pattern = self.for_many if "*" in repository else self.pattern
        return pattern.fullmatch(repository) is not None


class AccessRules:
    """Decides by rules; remembers what it has decided lately.

    Args:
        rules: The file.
    """

    def __init__(self, rules: Rules) -> None:
        self._groups = rules.groups
        self._rules = [(rule, _place(rule)) for rule in rules.rules]
        self._known_places = lru_cache(KEPT_USERS)(self._places)
        self._known_actions = lru_cache(KEPT_DECISIONS)(self._actions)
        self._known_listers = lru_cache(KEPT_USERS)(self._may_list)

    def allow(self, name: str, access: Access) -> bool:
        """Tell whether a user, or with an empty name whoever has not logged in, may do this."""
        if access == CATALOG:
            return self._known_listers(name)
        return access.type == REPOSITORY and access.action in self._known_actions(name, access.name)

    def _actions(self, name: str, repository: str) -> frozenset[str]:
        """Return what somebody may do to a repository, or to all that are meant."""
        places = self._known_places(name)
        covering = (place.actions for place in places if place.covers(repository))
        return frozenset[str]().union(*covering)

    def _places(self, name: str) -> Sequence[_Place]:
        return [place for rule, place in self._rules if place.globs and self._is_meant(rule, name)]

    def _may_list(self, name: str) -> bool:
        return any(rule.catalog and self._is_meant(rule, name) for rule, _ in self._rules)

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
        if found is not None and not isinstance(found, dict):
            raise FileInvalid(
                "auth.htpasswd.accessfile is no file of rules: it begins with groups: or rules:"
            )
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

    @override
    def known_until(self, identity: Identity, access: Access) -> float:
        return math.inf if self._rules is None else self._rules.known_until


def _place(rule: Rule) -> _Place:
    globs = rule.repositories
    # No glob has a * that stands for itself. One that lets a * pass has something for it that lets
    # pass whatever else could be there, unless that is a ?, which wants one character.
    for_many = [glob for glob in globs if "?" not in glob]
    return _Place(globs, _pattern(globs), _pattern(for_many), _actions(rule))


def _actions(rule: Rule) -> frozenset[str]:
    actions: set[str] = set(rule.actions)
    if EVERYTHING in actions:
        actions |= set(REPOSITORY_ACTIONS)
    if PUSH in actions:
        # A push asks what is there already.
        actions.add(PULL)
    return frozenset(actions)
