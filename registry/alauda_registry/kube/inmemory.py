"""A cluster that is a few sets: for tests that need no API server.

Held to ``tests/contract/test_kube_clients.py`` like the real client.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from alauda_registry.kube.client import Attributes, ResourceAttributes, UserInfo
from alauda_registry.kube.errors import KubeError

Question: TypeAlias = str | tuple[UserInfo, Attributes]


@dataclass(frozen=True, slots=True)
class Grant:
    """What RBAC would call a rule and its binding: one subject may do one thing."""

    subject: str
    """A user's name, or a group's."""

    attributes: Attributes
    """Without a namespace it holds in all of them, without a name for every object."""


@dataclass
class InMemoryKubeClient:
    """Answers from what the test has put in.

    Args:
        tokens: Whom each belongs to, and whom it is meant for.
        grants: Who may do what.
        trouble: Raised instead of an answer, if set.
        asked: The questions so far: a token, or who wants what.
    """

    tokens: dict[str, tuple[UserInfo, frozenset[str]]] = field(default_factory=dict)
    grants: set[Grant] = field(default_factory=set)
    trouble: KubeError | None = None
    asked: list[Question] = field(default_factory=list)

    async def review_token(self, token: str, audiences: Sequence[str] = ()) -> UserInfo | None:
        """Return whom a token belongs to, or None when it is nobody's."""
        self._ask(token)
        user, meant_for = self.tokens.get(token, (None, frozenset()))
        # One that is meant for nobody in particular is meant for the API server.
        fits = meant_for & set(audiences) if audiences else not meant_for
        return user if fits else None

    async def review_access(self, user: UserInfo, attributes: Attributes) -> bool:
        """Return whether a user, or a group of theirs, was granted it."""
        self._ask((user, attributes))
        subjects = {user.username, *user.groups}
        return any(
            grant.subject in subjects and _covers(grant.attributes, attributes)
            for grant in self.grants
        )

    def _ask(self, question: Question) -> None:
        self.asked.append(question)
        if self.trouble is not None:
            raise self.trouble


def _covers(granted: Attributes, wanted: Attributes) -> bool:
    if not isinstance(granted, ResourceAttributes) or not isinstance(wanted, ResourceAttributes):
        return granted == wanted
    return (
        (granted.verb, granted.group, granted.resource, granted.subresource)
        == (wanted.verb, wanted.group, wanted.resource, wanted.subresource)
        and granted.namespace in ("", wanted.namespace)
        and granted.name in ("", wanted.name)
    )
