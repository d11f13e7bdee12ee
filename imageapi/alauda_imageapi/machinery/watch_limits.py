"""How many watches there may be, and how many of them one user may have.

A watch is open for an hour and costs memory all the time, so that a client which opens them in a
loop would leave nothing for the others: for kube-controller-manager least of all, whose garbage
collection and quotas of the whole cluster stand still without.
"""

from collections import Counter
from dataclasses import dataclass

from alauda_imageapi.machinery.errors import TooManyRequests
from alauda_registry.kube.client import MASTERS, UserInfo

_RETRY_SECONDS = 1

_RESERVE = 16
"""The part of all watches that is left for those whom the cluster needs."""

_NEEDED = frozenset({MASTERS, "system:serviceaccounts:kube-system"})
"""kube-controller-manager's controllers have service accounts there, as nearly everywhere."""


@dataclass(frozen=True, slots=True)
class WatchLimits:
    """How many watches one process serves.

    Attributes:
        total: Of everybody.
        per_user: Of one user, by name; 0 for no other limit than that of everybody.
    """

    total: int = 4096
    per_user: int = 1024


class WatchSeats:
    """Counts watches.

    Args:
        limits: How many there may be.
    """

    def __init__(self, limits: WatchLimits) -> None:
        self._limits = limits
        self._taken: Counter[str] = Counter()
        self._total = 0

    def take(self, user: UserInfo) -> None:
        """Have one more.

        Raises:
            TooManyRequests: There are too many.
        """
        limits = self._limits
        if limits.per_user and self._taken[user.username] >= limits.per_user:
            raise _refusal(
                f"you have {limits.per_user} watches here, which is as many as a user may have"
            )
        most = limits.total
        if _NEEDED.isdisjoint(user.groups):
            most -= limits.total // _RESERVE
        if self._total >= most:
            raise _refusal(f"there are {most} watches here, as many as there may be")
        self._taken[user.username] += 1
        self._total += 1

    def leave(self, user: UserInfo) -> None:
        """Have one less."""
        self._total -= 1
        self._taken[user.username] -= 1
        if not self._taken[user.username]:
            del self._taken[user.username]


def _refusal(why: str) -> TooManyRequests:
    return TooManyRequests(
        f"{why}: end some of them, or wait", details={"retryAfterSeconds": _RETRY_SECONDS}
    )
