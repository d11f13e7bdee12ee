"""How many requests are being authorized and answered at once.

As in kube-apiserver the place is taken when it is known who asks, and before anybody is asked
whether he may: that question is what a flood of requests costs first. Whoever is not known has a
part of the places only, as he has there by the priority level of all who belong to no other.
"""

from collections.abc import Callable

from alauda_imageapi.machinery.errors import TooManyRequests
from alauda_registry.kube.client import MASTERS, UNAUTHENTICATED, UserInfo

MOST_READING, MOST_MUTATING = 400, 200
_PART_OF_THE_UNKNOWN = 10


class InFlight:
    """Counts requests that read, and those that change something.

    Args:
        most_reading: At once; more are refused, but those of ``system:masters``.
        most_mutating: Likewise.
    """

    def __init__(
        self, most_reading: int = MOST_READING, most_mutating: int = MOST_MUTATING
    ) -> None:
        self._most = {True: most_reading, False: most_mutating}
        self._running = {True: 0, False: 0}
        self._unknown = {True: 0, False: 0}

    @property
    def running(self) -> tuple[int, int]:
        """How many there are, reading and mutating."""
        return self._running[True], self._running[False]

    def enter(self, user: UserInfo, *, reads: bool) -> "Slot":
        """Have a slot for a request.

        Raises:
            TooManyRequests: There is none.
        """
        most = self._most[reads]
        is_unknown = UNAUTHENTICATED in user.groups
        is_full = self._running[reads] >= most
        if is_unknown:
            is_full |= self._unknown[reads] >= max(1, most // _PART_OF_THE_UNKNOWN)
        if is_full and MASTERS not in user.groups:
            raise TooManyRequests(
                "Too many requests, please try again later.", details={"retryAfterSeconds": 1}
            )
        self._count(1, reads=reads, is_unknown=is_unknown)
        return Slot(lambda: self._count(-1, reads=reads, is_unknown=is_unknown))

    def _count(self, change: int, *, reads: bool, is_unknown: bool) -> None:
        self._running[reads] += change
        if is_unknown:
            self._unknown[reads] += change


class Slot:
    """What one request holds.

    Args:
        give_back: Called once.
    """

    def __init__(self, give_back: Callable[[], None]) -> None:
        self._give_back: Callable[[], None] | None = give_back

    def leave(self) -> None:
        """Give it back, if that was not done yet."""
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            give_back()
