"""What is asked for and what is granted: ``repository:team/app:pull,push``.

The grammar is distribution's (its ``docs/content/spec/auth/scope.md``): a type with an optional
class, a name that may contain colons (``host:5000/app``), and actions. Tokens carry the same as
JSON in their claim ``access``.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from typing_extensions import override

REPOSITORY = "repository"
PULL, PUSH, DELETE = "pull", "push", "delete"
EVERYTHING = "*"
"""As an action: all there are."""

REPOSITORY_ACTIONS = (PULL, PUSH, DELETE)

EVERY_REPOSITORY = "**"
"""As a name: all repositories there are or will be. ``team/*`` is every ``team/app``."""

MOST_SCOPES = 100
"""Scopes of one request for a token; more are not looked at. Clients ask for one to three."""

_LONGEST_SCOPE = 1024
"""Characters of one; a longer one asks for nothing that there is."""

_TYPE = re.compile(r"(?P<type>[a-z0-9]+)(?:\((?P<kind>[a-z0-9]+)\))?")
_MANY = re.compile(r"\*\*|[a-z0-9._-]+/\*")
_ACTION = re.compile(r"[a-z]+|\*")


@dataclass(frozen=True, slots=True)
class Access:
    """One thing that is done to one resource.

    Args:
        type: ``repository`` or ``registry``.
        name: Such as ``team/app``, or ``catalog``.
        action: ``pull``, ``push``, ``delete``; ``*`` of the catalog, ``get`` of the metrics.
        tag: The only one that it is about, when that makes a difference to the authorizer.
    """

    type: str
    name: str
    action: str
    tag: str = ""

    def detail(self) -> dict[str, str]:
        """Return it as distribution's errors show it."""
        return {"Type": self.type, "Name": self.name, "Action": self.action}


CATALOG = Access("registry", "catalog", EVERYTHING)
METRICS = Access("registry", "metrics", "get")


def is_of_many(name: str) -> bool:
    """Tell whether a name stands for all repositories, or all of a namespace.

    Only what shows or takes all of them at once asks for it; no repository has such a name.
    """
    return _MANY.fullmatch(name) is not None


def of_repository(name: str, *actions: str, tag: str = "") -> tuple[Access, ...]:
    """Return what is done to a repository, or to one tag of it, one entry for each action."""
    return tuple(Access(REPOSITORY, name, action, tag) for action in actions)


@dataclass(frozen=True, slots=True)
class Scope:
    """Actions on one resource, as they are asked for.

    Args:
        type: ``repository`` or ``registry``.
        name: Of the resource.
        actions: In the order in which they were given, without repetition.
        kind: What distribution calls the class, such as ``plugin``; it makes no difference.
    """

    type: str
    name: str
    actions: tuple[str, ...]
    kind: str = ""

    @override
    def __str__(self) -> str:
        """Return it as it is written in a request."""
        kind = f"({self.kind})" if self.kind else ""
        return f"{self.type}{kind}:{self.name}:{','.join(self.actions)}"

    def accesses(self) -> tuple[Access, ...]:
        """Return what it asks for; ``*`` of a repository is every action there is."""
        actions = self.actions
        if EVERYTHING in actions and self.type == REPOSITORY:
            actions = REPOSITORY_ACTIONS
        return tuple(Access(self.type, self.name, action) for action in actions)

    def claim(self) -> dict[str, Any]:
        """Return it as a token has it."""
        entry: dict[str, Any] = {"type": self.type, "name": self.name, "actions": [*self.actions]}
        return {**entry, "class": self.kind} if self.kind else entry


def parse_scopes(texts: Iterable[str]) -> tuple[Scope, ...]:
    """Read what a client asks for; each text may hold several, separated by spaces.

    What does not follow the grammar asks for nothing that exists, and is left out: a token is
    granted for the rest. Scopes of one resource are put together.
    """
    found: dict[tuple[str, str, str], tuple[str, ...]] = {}
    words = [word for text in texts for word in text.split(" ") if word][:MOST_SCOPES]
    for word in words:
        scope = _parse(word)
        if scope is not None:
            key = scope.type, scope.name, scope.kind
            found[key] = tuple(dict.fromkeys((*found.get(key, ()), *scope.actions)))
    return tuple(
        Scope(type_, name, actions, kind) for (type_, name, kind), actions in found.items()
    )


def scope_text(needed: Iterable[Access]) -> str:
    """Return what a client has to ask for to do all of this, as a challenge names it."""
    actions: dict[tuple[str, str], list[str]] = {}
    for access in needed:
        actions.setdefault((access.type, access.name), []).append(access.action)
    return " ".join(str(Scope(*resource, tuple(of))) for resource, of in actions.items())


class Grants:
    """What a token allows.

    Args:
        claim: Its claim ``access``.

    Raises:
        ValueError: It is not a list of resources with actions.
    """

    __slots__ = ("_actions",)

    def __init__(self, claim: object = None) -> None:
        self._actions: dict[tuple[str, str], frozenset[str]] = {}
        if claim is None:
            return
        if not isinstance(claim, list):
            raise ValueError("access is no list")
        for entry in claim:
            resource, actions = _read(entry)
            self._actions[resource] = self._actions.get(resource, frozenset()) | actions

    def cover(self, access: Access) -> bool:
        """Tell whether this is among them."""
        actions = self._actions.get((access.type, access.name))
        return actions is not None and (access.action in actions or EVERYTHING in actions)


def _parse(word: str) -> Scope | None:
    if len(word) > _LONGEST_SCOPE:
        return None
    # The name may contain colons, so it is what is left between the first and the last.
    head, _, rest = word.partition(":")
    name, colon, tail = rest.rpartition(":")
    found = _TYPE.fullmatch(head)
    actions = tuple(dict.fromkeys(tail.split(",")))
    if found is None or not colon or not name or not all(map(_ACTION.fullmatch, actions)):
        return None
    if not name.isprintable():
        return None
    return Scope(found["type"], name, actions, found["kind"] or "")


def _read(entry: object) -> tuple[tuple[str, str], frozenset[str]]:
    match entry:
        case {"type": str(type_), "name": str(name), **rest}:
            # Servers in Go write null where there are none.
            actions = [] if rest.get("actions") is None else rest["actions"]
            if isinstance(actions, list) and all(isinstance(action, str) for action in actions):
                return (type_, name), frozenset(actions)
        case _:
            pass
    raise ValueError("an entry of access has no type, name and actions")
