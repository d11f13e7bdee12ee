"""Whether we are ready to serve, asked of storage in the background.

Probes come every few seconds from every load balancer and must answer at once, also while a disk
hangs: so they are told the last result, and no result counts for longer than ten seconds. A check
that hangs cannot be stopped, as a thread that waits for a disk cannot be: it is left alone, counts
as a failure for as long as it lasts, and no other is begun beside it.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum

from alauda_registry.storage.driver import Capacity
from alauda_registry.storage.repositories import Health

logger = logging.getLogger(__name__)

FRESH_SECONDS = 10.0


class State(StrEnum):
    """What /readyz says."""

    READY = "ready"
    DEGRADED = "degraded"
    NOT_READY = "not ready"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class Readiness:
    """A state and its reason.

    Attributes:
        state: What we are.
        reason: Why we are not, or not quite, ready.
        capacity: How much room the storage had at the time, where that is known. It changes all
            the time, and so is no part of what two of these differ by.
    """

    state: State
    reason: str = ""
    capacity: Capacity | None = field(default=None, compare=False)

    @property
    def is_ready(self) -> bool:
        """Whether requests should come here; also when only part of them can be served."""
        return self.state in (State.READY, State.DEGRADED)


_UNKNOWN = Readiness(State.NOT_READY, "storage has not been checked yet")


class HealthMonitor:
    """Asks storage how it is, regularly.

    Args:
        interval: Seconds between two checks; at most half of what a result is good for.
        threshold: Failures in a row until we are not ready.
        patience: Seconds until a check that has not ended counts as failed.
        is_checked: Whether storage is asked at all.
        clock: Seconds that only go forward.
    """

    def __init__(
        self,
        *,
        interval: float = FRESH_SECONDS / 2,
        threshold: int = 1,
        patience: float = FRESH_SECONDS / 2,
        is_checked: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._interval = min(interval, FRESH_SECONDS / 2)
        self._threshold = threshold
        self._patience = patience
        self._is_checked = is_checked
        self._clock = clock
        self._failures = 0
        self._checked_at = clock()
        self._latest = _UNKNOWN
        self._asking: asyncio.Future[Health] | None = None
        self._is_draining = False
        if not is_checked:
            self._latest = Readiness(State.READY)

    @property
    def readiness(self) -> Readiness:
        """The latest result; not ready when that is too old."""
        if self._is_draining:
            return Readiness(State.DRAINING, "the server is stopping")
        age = self._clock() - self._checked_at
        if self._is_checked and age > FRESH_SECONDS:
            return Readiness(State.NOT_READY, f"storage has not answered for {age:.0f} s")
        return self._latest

    def drain(self) -> None:
        """Say from now on that requests should go elsewhere."""
        self._is_draining = True

    async def watch(self, check: Callable[[], Awaitable[Health]]) -> None:
        """Check until cancelled."""
        try:
            while self._is_checked:
                await self.check_once(check)
                await asyncio.sleep(self._interval)
        finally:
            if self._asking is not None:
                self._asking.cancel()
                self._asking = None

    async def check_once(self, check: Callable[[], Awaitable[Health]]) -> None:
        """Ask storage now, unless it still owes the answer to the last question."""
        if not self._is_checked:
            return
        if self._asking is None or self._asking.done():
            self._asking = asyncio.ensure_future(check())
        await asyncio.wait({self._asking}, timeout=self._patience)
        if self._asking.done():
            found = _judge(self._asking)
        else:
            reason = f"storage has not answered a check within {self._patience:g} s"
            found = Readiness(State.NOT_READY, reason)
        self._checked_at = self._clock()
        if found.is_ready:
            self._failures = 0
        else:
            self._failures += 1
            if self._failures < self._threshold and self._latest.is_ready:
                return
        if found != self._latest:
            level = logging.INFO if found.state is State.READY else logging.WARNING
            if self._latest is _UNKNOWN and found.state is State.READY:
                level = logging.DEBUG
            reason = f": {found.reason}" if found.reason else ""
            logger.log(level, "storage is %s%s", found.state, reason)
        self._latest = found


def _judge(answer: "asyncio.Future[Health]") -> Readiness:
    try:
        health = answer.result()
    except Exception:
        # Whatever it is, the probe must tell; the log has the rest.
        logger.exception("the check of storage failed")
        return Readiness(State.NOT_READY, "the check of storage failed; see the log")
    if not health.ready:
        return Readiness(State.NOT_READY, health.message)
    if health.degraded:
        return Readiness(State.DEGRADED, health.message, health.capacity)
    return Readiness(State.READY, capacity=health.capacity)
