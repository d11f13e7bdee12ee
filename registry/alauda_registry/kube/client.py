"""What we ask a Kubernetes API server about people.

``tests/contract/test_kube_clients.py`` is the executable half of this file: a client is right
when it passes, against a real API server or without one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias


@dataclass(frozen=True, slots=True)
class UserInfo:
    """Somebody, as ``authentication.k8s.io/v1`` UserInfo describes them.

    Args:
        username: Such as ``system:serviceaccount:NAMESPACE:NAME``.
        uid: Tells users apart who had the same name one after another; may be empty.
        groups: Such as ``system:authenticated``.
        extra: More facts about them, which authorizers may look at, in order of the keys.
    """

    username: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()


AUTHENTICATED = "system:authenticated"
"""The group of everybody who is known."""

UNAUTHENTICATED = "system:unauthenticated"
"""The group of everybody else."""

MASTERS = "system:masters"
"""The group of those who may do everything."""

ANONYMOUS = UserInfo("system:anonymous", groups=(UNAUTHENTICATED,))
"""Who somebody without credentials is."""


@dataclass(frozen=True, slots=True)
class ResourceAttributes:
    """What somebody wants to do, as ``authorization.k8s.io/v1`` ResourceAttributes.

    Args:
        verb: Such as ``get``.
        group: Of the API.
        resource: In the plural, such as ``imagestreams``.
        subresource: Such as ``layers``; empty for the resource itself.
        namespace: Empty for the whole cluster.
        name: Of one object; empty for all of them.
        version: Of the API; authorizers that come with Kubernetes look at none.
    """

    verb: str
    group: str
    resource: str
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class NonResourceAttributes:
    """What somebody wants to do with a path that belongs to no resource.

    Args:
        verb: The HTTP method in small letters.
        path: As it is when it is decoded.
    """

    verb: str
    path: str


Attributes: TypeAlias = ResourceAttributes | NonResourceAttributes


class KubeClient(Protocol):
    """Asks one API server, with our own credentials."""

    async def review_token(self, token: str, audiences: Sequence[str] = ()) -> UserInfo | None:
        """Return whom a token belongs to (TokenReview), or None when it is nobody's.

        Args:
            token: Of a service account, or of a user.
            audiences: One of which the token must be meant for; none: the API server itself.

        Raises:
            KubeError: The API server did not say.
        """
        ...

    async def review_access(self, user: UserInfo, attributes: Attributes) -> bool:
        """Return whether somebody may do something (SubjectAccessReview).

        Raises:
            KubeError: The API server did not say.
        """
        ...
