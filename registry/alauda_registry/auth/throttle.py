"""Slows down guessing, and whoever guesses only.

What counts are failures from one address with one user name, and failures from one address. The
first few are free; then each doubles the time until the next try is looked at. A name alone is
never counted, or anybody could lock anybody out. Whoever has logged in lately is recognised before
this is asked. Each process counts for itself: with several workers there are as many more tries.
"""

import ipaddress
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from alauda_registry.auth.caches import Kept
from alauda_registry.oci.errors import TooManyRequests

FREE_WITH_NAME = 5
"""Failures of a name from one address. People try their three passwords, and then one again."""

FREE_FROM_ADDRESS = 30
"""Failures from one address: there may be many people or nodes behind it."""

LONGEST_WAIT = 30.0
"""Seconds. As many guesses a day as there are half minutes find no password, and whoever shares the
guesser's address does not wait longer."""

FORGOTTEN_AFTER = 900.0
"""Seconds without a failure."""

KEPT = 10_000
"""Names and addresses that are counted; of more the oldest are forgotten."""


@dataclass(slots=True)
class _Record:
    failures: int = 0
    last: float = 0.0
    open_at: float = 0.0


class Throttle:
    """Counts failures in this process.

    Args:
        now: The clock, in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._names: Kept[tuple[str, str], _Record] = Kept(KEPT)
        self._addresses: Kept[str, _Record] = Kept(KEPT)

    def begin(self, address: str, name: str) -> None:
        """Count a try as a failure until it is known to be none.

        Several at once could otherwise be made before the first has failed.

        Raises:
            TooManyRequests: It is too early for another one.
        """
        address = network_of(address)
        now = self._now()
        wait = max(
            record.open_at - now
            for record in (
                self._names.get((address, name)) or _Record(),
                self._addresses.get(address) or _Record(),
            )
        )
        if wait > 0:
            raise TooManyRequests(
                "too many failed logins: wait as long as Retry-After says, then try again",
                retry_after=math.ceil(wait),
            )
        self._count(self._names, (address, name), FREE_WITH_NAME)

    def failed(self, address: str) -> None:
        """Note that the try was a failure."""
        self._count(self._addresses, network_of(address), FREE_FROM_ADDRESS)

    def succeeded(self, address: str, name: str) -> None:
        """Note that it was none. The address stays what it is: guessers may have accounts."""
        self._names.drop((network_of(address), name))

    def _count(self, records: Kept, key: object, free: int) -> None:  # type: ignore[type-arg]
        now = self._now()
        record = records.get(key)
        if record is None or now - record.last > FORGOTTEN_AFTER:
            record = _Record()
        record.failures += 1
        record.last = now
        over = record.failures - free
        if over >= 0:
            record.open_at = now + min(LONGEST_WAIT, 2.0 ** min(over, 10))
        records.put(key, record)


def network_of(address: str) -> str:
    """Return what counts as one address.

    That is the address, or of IPv6 the network of a customer: who has one there has them all.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return address
