"""One worker among several: it shares their socket, and hears of the end from its parent."""

import asyncio
import logging
import signal
import socket
from collections.abc import MutableSequence
from ctypes import Array, c_char
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import uvicorn
from typing_extensions import override

from alauda_registry.auth.failures import Failures
from alauda_registry.server.metrics.shared_records import SharedRecords
from alauda_registry.server.workers.accepting import Acceptor
from alauda_registry.serving.process import Server

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Siblings:
    """What one worker among several has in common with the others.

    Args:
        index: Its own among them; some duties are the first one's.
        parent: Closed when the parent is gone; a message means to hurry.
        loads: How many connections each worker has, in memory that they share.
        counts: What each worker has counted, in memory that they share, too.
        volume: The identity of the volume that all of them use, once one has opened it: who is
            started while it is away must not take what is in its place for it.
        failures: Of logins, which all of them count together.
    """

    index: int
    parent: Connection
    loads: MutableSequence[int]
    counts: SharedRecords | None = None
    volume: "Array[c_char] | None" = None
    failures: Failures | None = None


class WorkerServer(Server):
    """A server that may have siblings.

    A worker whose parent has vanished ends as if it had been told to.

    Args:
        config: uvicorn's.
        siblings: The other workers; None for the only one.
        settings: Those of every server.
    """

    def __init__(self, config: uvicorn.Config, siblings: Siblings | None, **settings: Any) -> None:
        super().__init__(config, **settings)
        self._siblings = siblings
        self._acceptor: Acceptor | None = None

    @override
    def listen_to_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        siblings = self._siblings
        if siblings is None:
            super().listen_to_signals(loop)
            return
        # It may come twice, from the parent and from whoever stops a whole group.
        loop.add_signal_handler(signal.SIGTERM, self.stop)
        loop.add_reader(siblings.parent.fileno(), self._hear_parent, siblings.parent)

    @override
    async def open(self, sockets: list[socket.socket] | None) -> None:
        siblings = self._siblings
        await super().open([] if siblings else sockets)
        if siblings and sockets and self.started:
            self._acceptor = Acceptor(
                sockets[0],
                self._make_protocol,
                self.config.ssl,
                count_open=lambda: len(self.server_state.connections),
                loads=siblings.loads,
                index=siblings.index,
            )
            self._acceptor.start()

    @override
    async def on_tick(self, counter: int) -> bool:
        if self._acceptor is not None:
            self._acceptor.report()
        return await super().on_tick(counter)

    @override
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._acceptor is not None:
            self._acceptor.stop()
        await super().shutdown(sockets)

    def _make_protocol(self) -> asyncio.Protocol:
        return self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    def _hear_parent(self, parent: Connection) -> None:
        try:
            parent.recv_bytes()
        except (EOFError, OSError):
            asyncio.get_running_loop().remove_reader(parent.fileno())
            if not self.is_stopping:
                logger.error("stopping: the parent process is gone")
            self.stop()
        else:
            self.hurry()
