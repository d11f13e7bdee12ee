"""Answers that were right a moment ago.

Asking an authority costs a round trip, and a pull asks the same thing a dozen times at once. So an
answer is good for a moment, counted from when it was asked for, and who wants to know what is just
being asked waits for that answer. Failures are not remembered; they reach all who wait.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from alauda_registry.auth.caches import Kept

Key = TypeVar("Key", bound=Hashable)
Answer = TypeVar("Answer")


class Recent(Generic[Key, Answer]):
    """Remembers answers for a moment; for one event loop.

    Args:
        seconds: How long.
        size: How many; the oldest are forgotten first.
        clock: Seconds that only go forward.
    """

    def __init__(
        self, seconds: float, size: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds = seconds
        self._clock = clock
        self._known: Kept[Key, tuple[float, Answer]] = Kept(size)
        self._asked: dict[Key, asyncio.Future[Answer]] = {}

    def __len__(self) -> int:
        """Return how many are remembered."""
        return len(self._known)

    def known_until(self, key: Key) -> float:
        """Return when something has to be asked again; it may be long ago."""
        known = self._known.get(key)
        return -math.inf if known is None else known[0] + self._seconds

    async def get(self, key: Key, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """Return an answer, and ask for it only if nobody has or does.

        Args:
            key: What is asked.
            ask: Asks. Who is first runs it; what it raises reaches those who wait, too.
        """
        while True:
            known = self._known.get(key)
            if known is not None and self._clock() - known[0] < self._seconds:
                return known[1]
            asked = self._asked.get(key)
            if asked is None:
                return await self._ask(key, ask)
            # Not awaited itself: then whoever stops waiting would end it for the others.
            await asyncio.wait([asked])
            if not asked.cancelled():
                return asked.result()

    async def _ask(self, key: Key, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        future = asyncio.get_running_loop().create_future()
        self._asked[key] = future
        asked_at = self._clock()
        try:
            answer = await ask()
        except asyncio.CancelledError:
            # Only this client has gone: one of those who wait asks in its place.
            future.cancel()
            raise
        except BaseException as error:
            future.set_exception(error)
            # Nobody else may be waiting.
            future.exception()
            raise
        else:
            self._known.put(key, (asked_at, answer))
            future.set_result(answer)
            return answer
        finally:
            del self._asked[key]
