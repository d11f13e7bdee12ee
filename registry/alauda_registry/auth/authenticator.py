"""Who is asking.

Every mode has one :class:`Authenticator`. It is given what a client shows and says who that is, or
raises. What the registry's own tokens say is read by :mod:`alauda_registry.auth.service`, which
stands before the mode's authenticator.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from alauda_registry.auth.scopes import Grants


@dataclass(frozen=True, slots=True)
class Basic:
    """A name and a password (RFC 7617)."""

    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Bearer:
    """A token (RFC 6750)."""

    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate of the client's, which TLS has verified.

    Args:
        der: As it was shown.
    """

    der: bytes = field(repr=False)


Credentials: TypeAlias = Basic | Bearer | Certificate
"""What a client shows."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Somebody, as the mode knows them.

    Args:
        name: Empty for nobody in particular.
        groups: They belong to.
        uid: What tells them from an earlier one of the same name.
        extra: More that the authority says about them, as in Kubernetes' ``UserInfo``.
        expires: When what they have shown stops being good, in seconds since the epoch; None when
            it has no end. No token of ours outlives it.
    """

    name: str = ""
    groups: frozenset[str] = frozenset()
    uid: str = ""
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    expires: float | None = None

    @property
    def is_anonymous(self) -> bool:
        """Whether this is nobody in particular."""
        return not self.name


ANONYMOUS = Identity()


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is asking, and what the token they have shown is limited to.

    Args:
        identity: Who.
        grants: What the token allows; None when what was shown has no such limits.
        known_until: When it has to be asked again, in seconds of the monotonic clock. Whoever says
            nothing about it is asked every time.
    """

    identity: Identity
    grants: Grants | None = None
    known_until: float = field(default=-math.inf, compare=False)


NOBODY = Caller(ANONYMOUS, known_until=math.inf)
"""Without credentials."""


class Authenticator(Protocol):
    """Says who is asking."""

    async def authenticate(self, credentials: Credentials, address: str) -> Caller:
        """Return who shows these credentials.

        Args:
            credentials: What is shown.
            address: Where from, for whoever slows down guessing.

        Raises:
            Unauthorized: They are not good.
            TooManyRequests: Too many were not good lately, or too many are being looked at.
            AuthorityUnavailable: Whoever knows cannot be reached.
        """
        ...
