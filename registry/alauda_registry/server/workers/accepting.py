"""Sharing one listening socket fairly among several workers.

An event loop that is woken by a connection accepts all that wait, so of a client's sixteen
connections one worker often gets fourteen, and one core does the work of two. Here a worker accepts
one connection at a time, and when another worker has fewer, leaves it a moment to take the next. It
is only a moment: when the other one is busy or gone, nobody waits for it.
"""

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable, MutableSequence

logger = logging.getLogger(__name__)

_PAUSE_SECONDS = 1.0
_YIELD_SECONDS = 0.003
_HANDSHAKE_SECONDS = 10.0
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Acceptor:
    """Takes connections from a socket that other processes listen on, too.

    Args:
        sock: Listens already; it is left to its owner to close it.
        make_protocol: For each connection.
        context: For TLS.
        count_open: How many connections this worker has.
        loads: How many each worker has, in memory that they share.
        index: Which of them is ours.
        pause: Seconds to wait when this process can open no more connections.
    """

    def __init__(
        self,
        sock: socket.socket,
        make_protocol: Callable[[], asyncio.Protocol],
        context: ssl.SSLContext | None,
        *,
        count_open: Callable[[], int],
        loads: MutableSequence[int],
        index: int,
        pause: float = _PAUSE_SECONDS,
    ) -> None:
        self._count_open = count_open
        self._loads = loads
        self._index = index
        self._has_yielded = False
        self._pause_seconds = pause
        self._socket = sock
        self._make_protocol = make_protocol
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._openings: set[asyncio.Task[None]] = set()
        self._resumption: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Accept from now on."""
        self._socket.setblocking(False)
        self._resume()

    def stop(self) -> None:
        """Accept no more; what was accepted goes on."""
        self._loop.remove_reader(self._socket.fileno())
        if self._resumption is not None:
            self._resumption.cancel()

    def _resume(self) -> None:
        self._loop.add_reader(self._socket.fileno(), self._accept)

    def report(self) -> int:
        """Tell the others how many connections we have."""
        load = self._count_open() + len(self._openings)
        self._loads[self._index] = load
        return load

    def _yield(self) -> bool:
        """Leave the next connection to a worker that has fewer, unless we just did."""
        load = self.report()
        self._has_yielded = not self._has_yielded and min(self._loads) < load
        return self._has_yielded

    def _pause(self, seconds: float) -> None:
        self._loop.remove_reader(self._socket.fileno())
        self._resumption = self._loop.call_later(seconds, self._resume)

    def _accept(self) -> None:
        if self._yield():
            self._pause(_YIELD_SECONDS)
            return
        try:
            connection, _address = self._socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            # Another worker was faster, or the client has thought better of it.
            return
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                raise
            # The socket stays readable: without a pause we would do nothing but fail.
            logger.error("cannot accept connections: %s; pausing", error.strerror)  # noqa: TRY400,RUF100 -- no traceback needed
            self._pause(self._pause_seconds)
            return
        connection.setblocking(False)
        opening = self._loop.create_task(self._open(connection))
        self._openings.add(opening)
        opening.add_done_callback(self._openings.discard)

    async def _open(self, connection: socket.socket) -> None:
        timeout = _HANDSHAKE_SECONDS if self._context else None
        try:
            await self._loop.connect_accepted_socket(
                self._make_protocol,
                connection,
                ssl=self._context,
                ssl_handshake_timeout=timeout,
            )
        except (OSError, TimeoutError) as error:
            # A port scanner, or a client that does not trust us: its affair.
            logger.debug("a connection was not opened: %s", error)
            connection.close()
