"""How many requests run at once: the rest wait in a short queue, and what is over that gets 429.

Downloads and uploads are counted apart, so that a flood of the one does not stop the other. Waiting
is first come, first served. Whoever goes away while waiting gives up its place; with an upload that
shows only when its turn comes, because looking for it earlier would ask for the body.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from alauda_registry.oci.errors import TooManyRequests
from alauda_registry.server.errors import error_response
from alauda_registry.server.middleware.envelope import Envelope

Observer = Callable[[int, int], None]
"""Told how many run and how many wait, whenever that changes."""

_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_RETRY_AFTER_SECONDS = 1


@dataclass(frozen=True, slots=True)
class Limit:
    """What may be done at once.

    Args:
        running: Requests that are served.
        waiting: Requests that may wait.
        seconds: How long they wait; None for ever.
    """

    running: int
    waiting: int = 0
    seconds: float | None = None

    def share(self, worker: int, workers: int) -> Self:
        """One worker's share, which is at least one request, or it could never serve."""
        return replace(
            self,
            running=max(1, _part(self.running, worker, workers)),
            waiting=_part(self.waiting, worker, workers),
        )


class Turnstile:
    """Lets a limited number in at once, in the order in which they came."""

    def __init__(self, limit: Limit, observe: Observer = lambda _running, _waiting: None) -> None:
        self._limit = limit
        self._observe = observe
        self._running = 0
        self._queue: deque[asyncio.Future[None]] = deque()

    def try_enter(self) -> bool:
        """Go in if nobody has to wait."""
        if self._running >= self._limit.running:
            return False
        self._running += 1
        self._observe(self._running, len(self._queue))
        return True

    async def wait(self, gone: "asyncio.Future[None] | None" = None) -> bool:
        """Wait for a turn.

        Args:
            gone: Done when it is no use any more.

        Returns:
            Whether we are in; not so when the queue is full or the wait was too long.
        """
        if len(self._queue) >= self._limit.waiting:
            return False
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        self._observe(self._running, len(self._queue))
        is_in = False
        try:
            awaited = {turn} if gone is None else {turn, gone}
            await asyncio.wait(
                awaited, timeout=self._limit.seconds, return_when=asyncio.FIRST_COMPLETED
            )
            is_in = turn.done()
        finally:
            if not is_in:
                self._give_up(turn)
        return is_in

    def leave(self) -> None:
        """Hand the place to whoever waits the longest."""
        if self._queue:
            self._queue.popleft().set_result(None)
        else:
            self._running -= 1
        self._observe(self._running, len(self._queue))

    def _give_up(self, turn: "asyncio.Future[None]") -> None:
        if turn.done():
            # Cancelled in the moment of being called in.
            self.leave()
        else:
            self._queue.remove(turn)
            self._observe(self._running, len(self._queue))


class RequestLimits:
    """Holds requests back; pure ASGI.

    Args:
        app: What serves them.
        read: For GET, HEAD and OPTIONS; None for any number.
        write: For everything else.
        on_rejected: Told the kind (read, write) of each request that is refused.
        headers: Added to each refusal, as the application adds them to its answers.
    """

    def __init__(
        self,
        app: ASGIApp,
        read: Turnstile | None,
        write: Turnstile | None,
        on_rejected: Callable[[str], None] = lambda _kind: None,
        headers: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._app = app
        refusal = error_response(TooManyRequests(retry_after=_RETRY_AFTER_SECONDS))
        self._refuse = Envelope(refusal, headers or {})
        self._read = read
        self._write = write
        self._on_rejected = on_rejected

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request when its turn has come."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_read = scope["method"] in _READS
        turnstile = self._read if is_read else self._write
        if turnstile is None:
            await self._app(scope, receive, send)
            return
        if not turnstile.try_enter():
            watched = _WatchedReceive(receive) if is_read else None
            is_in = await (watched.wait_at(turnstile) if watched else turnstile.wait())
            if not is_in:
                self._on_rejected("read" if is_read else "write")
                await self._refuse(scope, receive, send)
                return
            if watched:
                receive = watched
        try:
            await self._app(scope, receive, send)
        finally:
            turnstile.leave()


class _WatchedReceive:
    """Notices that the client of a download has gone, and gives back what it had to receive."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._held: deque[Message] = deque()

    async def wait_at(self, turnstile: Turnstile) -> bool:
        gone = asyncio.ensure_future(self._watch())
        try:
            return await turnstile.wait(gone)
        finally:
            gone.cancel()
            await asyncio.wait({gone})

    async def __call__(self) -> Message:
        return self._held.popleft() if self._held else await self._receive()

    async def _watch(self) -> None:
        while True:
            message = await self._receive()
            self._held.append(message)
            if message["type"] == "http.disconnect":
                return
            if message.get("more_body", False):
                # A download with a body: reading on would hold all of it in memory.
                await asyncio.get_running_loop().create_future()


def _part(total: int, worker: int, workers: int) -> int:
    return total // workers + (worker < total % workers)
