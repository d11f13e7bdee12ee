"""How a process that serves begins, listens to signals, and ends.

The end goes like this: on SIGTERM ``/readyz`` fails at once while connections are still accepted
for the drain delay, then nothing new is accepted and what runs may finish within the drain timeout;
a second signal does not wait. What has not ended a little later, because a disk hangs, is ended by
force.
"""

import asyncio
import gc
import signal
import socket
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp
from typing_extensions import override

from alauda_registry.serving.listening import BACKLOG
from alauda_registry.serving.protocol import HttpProtocol
from alauda_registry.serving.signals import GRACE_SECONDS, REPEAT_SECONDS, end_within
from alauda_registry.serving.tls import Certificates

_COLLECTIONS = (10_000, 20, 50)
"""How many more objects there have to be before the collector looks through the youngest, and how
often it does until it looks through older ones. All it finds are errors and the like that refer to
themselves, and meanwhile it holds up everything else: for a fifth of a second with a thousand
watches."""


def configure(
    app: ASGIApp,
    protocol: type[HttpProtocol],
    *,
    keep_alive: float,
    drain_timeout: float,
    certificates: Certificates | None,
) -> uvicorn.Config:
    """Return uvicorn's configuration for an application of ours.

    Args:
        app: Is told of the beginning and the end, too.
        protocol: Of connections, with its settings.
        keep_alive: Seconds that a connection may be idle.
        drain_timeout: Seconds that what runs has at the end.
        certificates: For TLS; None for plain HTTP.
    """
    return uvicorn.Config(
        app,
        loop="uvloop",
        http=protocol,
        ws="none",
        lifespan="on",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=max(1, int(keep_alive)),
        timeout_graceful_shutdown=int(drain_timeout),
        ssl_context_factory=(lambda *_: certificates.context) if certificates else None,
    )


class Server(uvicorn.Server):
    """uvicorn's server with our signals: its own would end by the one that stopped it.

    Args:
        config: uvicorn's.
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
        drain_delay: float,
        drain_timeout: float,
        on_started: Callable[[], None],
        on_drain: Callable[[], None],
        on_hangup: Callable[[], object],
    ) -> None:
        super().__init__(config)
        self._drain_delay = drain_delay
        self._drain_timeout = drain_timeout
        self._on_started = on_started
        self._on_drain = on_drain
        self._on_hangup = on_hangup
        self.is_stopping = False
        """Whether the end has begun."""
        self._is_hurried = False
        self._stopping_since = 0.0

    @override
    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        loop = asyncio.get_running_loop()
        self.listen_to_signals(loop)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        try:
            yield
        finally:
            # The process ends now, and with success: a late signal must not change that.
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)
                signal.signal(number, signal.SIG_IGN)

    def listen_to_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        """Hear what ends this process."""
        loop.add_signal_handler(signal.SIGTERM, self._on_signal)
        loop.add_signal_handler(signal.SIGINT, self._on_signal)

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.open(sockets)
        if self.started:
            _spare_the_garbage_collector()
            self._on_started()

    async def open(self, sockets: list[socket.socket] | None) -> None:
        """Open the application, and accept connections."""
        await super().startup(sockets)

    @override
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._is_hurried:
            self.config.timeout_graceful_shutdown = 1
        await super().shutdown(sockets)

    def _on_signal(self) -> None:
        """Somebody who repeats himself does not want to wait."""
        if not self.is_stopping:
            self.stop()
        elif time.monotonic() > self._stopping_since + REPEAT_SECONDS:
            self.hurry()

    def stop(self) -> None:
        """Begin the end."""
        if not self.is_stopping:
            self.is_stopping = True
            self._stopping_since = time.monotonic()
            self._on_drain()
            end_within(self._drain_delay + self._drain_timeout + GRACE_SECONDS)
            asyncio.get_running_loop().call_later(self._drain_delay, self._refuse)

    def _refuse(self) -> None:
        self.should_exit = True

    def hurry(self) -> None:
        """Cut off what runs. The application is still closed in order."""
        self._is_hurried = self.should_exit = True
        end_within(GRACE_SECONDS)
        for task in self.server_state.tasks:
            task.cancel()
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def _spare_the_garbage_collector() -> None:
    """Leave out what lives as long as the process, and look less often for what does not."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECTIONS)
