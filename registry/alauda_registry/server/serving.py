"""How a process that serves begins, listens to signals, and ends.

The end goes like this: on SIGTERM ``/readyz`` fails at once while connections are still accepted
for the drain delay, then nothing new is accepted and what runs may finish within the drain timeout;
a second signal does not wait. What has not ended a little later, because a disk hangs, is ended by
force. A worker whose parent has vanished does the same.
"""

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Callable, Generator, MutableSequence
from contextlib import contextmanager
from ctypes import Array, c_char
from dataclasses import dataclass
from multiprocessing.connection import Connection

import uvicorn
from typing_extensions import override

from alauda_registry.server.accepting import Acceptor
from alauda_registry.server.shared_records import SharedRecords
from alauda_registry.server.signals import GRACE_SECONDS, REPEAT_SECONDS, end_within

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """One worker's place among several.

    Args:
        index: Some duties are the first one's.
        parent: Closed when the parent is gone; a message means to hurry.
        loads: How many connections each worker has, in memory that they share.
        counts: What each worker has counted, in memory that they share, too.
        volume: The identity of the volume that all of them use, once one has opened it: who is
            started while it is away must not take what is in its place for it.
    """

    index: int
    parent: Connection
    loads: MutableSequence[int]
    counts: SharedRecords | None = None
    volume: "Array[c_char] | None" = None


class Server(uvicorn.Server):
    """uvicorn's server with our signals: its own would end by the one that stopped it.

    Args:
        config: uvicorn's.
        place: Among several workers; None for the only one.
        drain_delay: Seconds between `on_drain` and refusing connections.
        drain_timeout: Seconds that what runs then has to finish.
        on_started: Called when connections are accepted.
        on_drain: Called when the end begins.
        on_hangup: Called on SIGHUP.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        place: Place | None,
        drain_delay: float,
        drain_timeout: float,
        on_started: Callable[[], None],
        on_drain: Callable[[], None],
        on_hangup: Callable[[], object],
    ) -> None:
        super().__init__(config)
        self._place = place
        self._drain_delay = drain_delay
        self._drain_timeout = drain_timeout
        self._on_started = on_started
        self._on_drain = on_drain
        self._on_hangup = on_hangup
        self._is_stopping = False
        self._is_hurried = False
        self._stopping_since = 0.0
        self._acceptor: Acceptor | None = None

    @override
    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        loop = asyncio.get_running_loop()
        place = self._place
        if place is None:
            loop.add_signal_handler(signal.SIGTERM, self._on_signal)
            loop.add_signal_handler(signal.SIGINT, self._on_signal)
        else:
            # It may come twice, from the parent and from whoever stops a whole group.
            loop.add_signal_handler(signal.SIGTERM, self._stop)
            loop.add_reader(place.parent.fileno(), self._hear_parent, place.parent)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        try:
            yield
        finally:
            # The process ends now, and with success: a late signal must not change that.
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)
                signal.signal(number, signal.SIG_IGN)

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        place = self._place
        await super().startup([] if place else sockets)
        if place and sockets and self.started:
            self._acceptor = Acceptor(
                sockets[0],
                self._make_protocol,
                self.config.ssl,
                count_open=lambda: len(self.server_state.connections),
                loads=place.loads,
                index=place.index,
            )
            self._acceptor.start()
        if self.started:
            self._on_started()

    @override
    async def on_tick(self, counter: int) -> bool:
        if self._acceptor is not None:
            self._acceptor.report()
        return await super().on_tick(counter)

    @override
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._acceptor is not None:
            self._acceptor.stop()
        if self._is_hurried:
            self.config.timeout_graceful_shutdown = 1
        await super().shutdown(sockets)

    def _make_protocol(self) -> asyncio.Protocol:
        return self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    def _on_signal(self) -> None:
        """Somebody who repeats himself does not want to wait."""
        if not self._is_stopping:
            self._stop()
        elif time.monotonic() > self._stopping_since + REPEAT_SECONDS:
            self._hurry()

    def _stop(self) -> None:
        if not self._is_stopping:
            self._is_stopping = True
            self._stopping_since = time.monotonic()
            self._on_drain()
            end_within(self._drain_delay + self._drain_timeout + GRACE_SECONDS)
            asyncio.get_running_loop().call_later(self._drain_delay, self._refuse)

    def _refuse(self) -> None:
        self.should_exit = True

    def _hurry(self) -> None:
        """Cut off what runs. The application is still closed in order."""
        self._is_hurried = self.should_exit = True
        end_within(GRACE_SECONDS)
        for task in self.server_state.tasks:
            task.cancel()
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    def _hear_parent(self, parent: Connection) -> None:
        try:
            parent.recv_bytes()
        except (EOFError, OSError):
            asyncio.get_running_loop().remove_reader(parent.fileno())
            if not self._is_stopping:
                logger.error("stopping: the parent process is gone")
            self._stop()
        else:
            self._hurry()
