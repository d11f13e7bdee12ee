"""Slows down guessing, and whoever guesses only.

What counts are failures from one address with one user name, and failures from one address. The
first few are free; then each doubles the time until the next try is looked at. A name alone is
never counted, or anybody could lock anybody out. What was shown before, and turned out to be right
or wrong, is no guess. The workers of a server count together, replicas each for itself.
"""

import ipaddress
import math
import time
from collections.abc import Callable

from alauda_registry.auth.failures import Failures, Record
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

REMEMBERED_FOR = 600.0
"""Seconds for which it is known whether what was shown was right."""

MOST_REFUSED = 100
"""Tries with a name from one address that were refused, until whoever is known there has to wait as
well: that they are let in and others are not tells a guesser which password is right."""


_TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")


class Throttle:
    """Counts failures.

    Args:
        failures: Where they are counted; in a table of its own by default.
        now: The clock, in seconds; the same for all processes.
    """

    def __init__(
        self, failures: Failures | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._failures = Failures() if failures is None else failures
        self._now = now

    def begin(self, address: str, name: str) -> None:
        """Count a try as a failure until it is known to be none.

        Several at once could otherwise be made before the first has failed.

        Raises:
            TooManyRequests: It is too early for another one.
        """
        with self._failures.locked():
            self._require_open(address, name)
            self._count(self._of_name(address, name), FREE_WITH_NAME)

    def require_open(self, address: str, name: str) -> None:
        """See that a try would be looked at, without making one.

        Raises:
            TooManyRequests: It is too early for one.
        """
        with self._failures.locked():
            self._require_open(address, name)

    def knows(self, address: str, name: str, mark: bytes) -> bool:
        """Tell whether something was right the last time, and is let in whoever else guesses."""
        with self._failures.locked():
            known = self._failures.get(self._of_known(address, name))
        has_room = known.failures < MOST_REFUSED or self._is_over(known)
        return known != Record() and has_room and self.outcome(mark) is True

    def let_in(self, address: str, name: str, mark: bytes) -> None:
        """Note what somebody was let in with, who is known at this address from now on."""
        self.remember(mark, is_right=True)
        key = self._of_known(address, name)
        with self._failures.locked():
            known = self._failures.get(key)
            if not known.failures or self._is_over(known):
                self._failures.put(key, Record(0, self._now()))

    def failed(self, address: str) -> None:
        """Note that the try was a failure."""
        with self._failures.locked():
            self._count(self._of_address(address), FREE_FROM_ADDRESS)

    def succeeded(self, address: str, name: str) -> None:
        """Note that it was none. The address stays what it is: guessers may have accounts."""
        with self._failures.locked():
            self._failures.put(self._of_name(address, name), Record())

    def mark(self, *shown: bytes) -> bytes:
        """Return what stands for what somebody has shown, and cannot be logged in with."""
        return self._failures.key(b"shown", *shown)

    def outcome(self, mark: bytes) -> bool | None:
        """Tell whether it was right the last time; None when that is not known, or long ago."""
        with self._failures.locked():
            record = self._failures.get(mark)
        return record.failures == 0 if self._now() < record.until else None

    def remember(self, mark: bytes, *, is_right: bool) -> None:
        """Note whether it was right: who shows it again does not guess."""
        now = self._now()
        with self._failures.locked():
            self._failures.put(mark, Record(0 if is_right else 1, now, now + REMEMBERED_FOR))

    def _of_name(self, address: str, name: str) -> bytes:
        encoded = name.encode("utf-8", "surrogatepass")
        return self._failures.key(b"name", network_of(address).encode(), encoded)

    def _of_address(self, address: str) -> bytes:
        return self._failures.key(b"address", network_of(address).encode())

    def _of_known(self, address: str, name: str) -> bytes:
        return self._failures.key(b"known", self._of_name(address, name))

    def _is_over(self, record: Record) -> bool:
        return self._now() - record.last > FORGOTTEN_AFTER

    def _require_open(self, address: str, name: str) -> None:
        keys = (self._of_name(address, name), self._of_address(address))
        wait = max(self._failures.get(key).until for key in keys) - self._now()
        if wait > 0:
            known = self._of_known(address, name)
            # Names are made up for nothing: with a record of each, whoever is refused would soon
            # have displaced those that say so.
            if self._failures.get(known) != Record():
                self._count(known, MOST_REFUSED)
            raise TooManyRequests(
                "too many failed logins: wait as long as Retry-After says, then try again",
                retry_after=math.ceil(wait),
            )

    def _count(self, key: bytes, free: int) -> None:
        now = self._now()
        record = self._failures.get(key)
        failures = 1 if self._is_over(record) else record.failures + 1
        over = failures - free
        until = now + min(LONGEST_WAIT, 2.0 ** min(over, 10)) if over >= 0 else 0.0
        self._failures.put(key, Record(failures, now, until))


def network_of(address: str) -> str:
    """Return what counts as one address.

    That is the address, or of IPv6 the network of a customer: who has one there has them all. An
    IPv4 address that is written as one of IPv6 (RFC 4291, section 2.5.5.2; RFC 6052) is itself.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        if parsed in _TRANSLATED:
            return str(ipaddress.IPv4Address(parsed.packed[-4:]))
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return address
