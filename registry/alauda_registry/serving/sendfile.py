"""Files and other sockets into sockets without a detour through this process.

``sendfile(2)`` lets the kernel copy from the page cache to the socket, which costs a fraction of
reading into Python and writing out again. It has two ways to stall an event loop, and this module
exists to avoid both:

* *The client reads slowly.* The socket never blocks: when it is full the sender waits for the event
  loop to call it writable. No thread is held for a slow client.
* *The disk reads slowly.* ``sendfile`` blocks while a page that is not in the cache comes from the
  disk. A probe (``preadv2`` with ``RWF_NOWAIT``) finds out first; only a cold piece goes through a
  thread, and only for as long as the disk takes.

What another server sends us goes through a pipe (``pipe.py``), and no end of it blocks. TLS has to
see the bytes, so to a client that speaks it they are read and written, by one and the same memory:
a new piece for each read costs the kernel more than copying does.

The socket belongs to a transport of the event loop. So nothing may be sent here while bytes wait in
the transport's buffer, which would be overtaken; and as the event loop refuses to watch the
transport's own descriptor, the sender works on a duplicate.
"""

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Protocol

from alauda_registry.serving.pipe import Pipe
from alauda_registry.storage.driver import Inflow
from alauda_registry.storage.threads import run_blocking

ZERO_COPY_SEND = "http.response.zerocopysend"
"""The extension of ASGI by which a server offers to send a file."""

RELAY = "alauda.response.relay"
"""Ours, by which it offers to send what comes on sockets."""

# A piece is what one call may send before other connections get their turn. Socket buffers rarely
# take more at once.
PIECE = 1024 * 1024

_COPIED = 256 * 1024
"""Likewise of what is encrypted here, which takes longer."""


class Flow(Protocol):
    """Tells when the transport's buffer has been written out."""

    async def drain(self) -> None:
        """Wait until the transport has told its protocol to go on writing."""


class FileSender:
    """Sends ranges of files, and what comes on sockets, on one connection, one at a time.

    Args:
        loop: The event loop of the connection.
        transport: Of the connection; over TLS it is no way for files.
        flow: The flow control of the transport's protocol.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, flow: Flow
    ) -> None:
        self.sent = 0
        """Bytes handed to the kernel so far, over all files: who watches it sees progress."""
        self.active = False
        """Whether the client has to take something."""
        self._loop = loop
        self._transport = transport
        self._flow = flow
        self._lost = False
        self._waiting: asyncio.Future[None] | None = None

    async def send(self, file: int, offset: int, count: int) -> None:
        """Send ``count`` bytes of ``file`` from ``offset`` on, behind all that was written before.

        Raises:
            ConnectionError: The client is gone.
            EOFError: The file ends before the range does.
        """
        self.active = True
        try:
            await self._flush()
            with self._socket() as socket:
                await self._send(socket, file, offset, count)
        finally:
            self.active = False

    async def relay(self, inflow: Inflow) -> None:
        """Move what comes on another socket, behind all that was written before.

        When no more comes, ``inflow`` says so; what was taken from it is with the client's kernel,
        or over TLS with the transport.

        Raises:
            ConnectionError: The client is gone.
            OSError: There is no descriptor left.
        """
        if self._transport.get_extra_info("ssl_object") is None:
            await self._splice(inflow)
        else:
            await self._copy(inflow)

    def connection_lost(self) -> None:
        """Wake up a sender that waits for a client who will never read again."""
        self._lost = True
        self._wake()

    async def _splice(self, inflow: Inflow) -> None:
        self.active = True
        try:
            await self._flush()
        finally:
            self.active = False
        with self._socket() as socket, closing(Pipe()) as pipe:
            while inflow.taken < inflow.count:
                if not await self._take(inflow, pipe.fill):
                    return
                self.active = True
                try:
                    await self._empty(pipe, socket)
                finally:
                    self.active = False
                # As below, and for a server that sends as fast as the client reads.
                await asyncio.sleep(0)

    async def _copy(self, inflow: Inflow) -> None:
        memory = memoryview(bytearray(_COPIED))

        def read(socket: int, count: int) -> int:
            return os.readv(socket, [memory[:count]])

        while inflow.taken < inflow.count:
            if self._lost or self._transport.is_closing():
                raise ConnectionResetError
            taken = await self._take(inflow, read)
            if not taken:
                return
            self._transport.write(memory[:taken])
            self.sent += taken
            if self._transport.get_write_buffer_size():
                # It may be the very memory that waits there.
                memory = memoryview(bytearray(_COPIED))
                self.active = True
                try:
                    await self._flow.drain()
                finally:
                    self.active = False
            await asyncio.sleep(0)

    async def _flush(self) -> None:
        if not self._transport.get_write_buffer_size():
            return
        low, high = self._transport.get_write_buffer_limits()
        self._transport.set_write_buffer_limits(high=0)
        try:
            await self._flow.drain()
        finally:
            self._transport.set_write_buffer_limits(high, low)

    async def _send(self, socket: int, file: int, offset: int, count: int) -> None:
        end = offset + count
        while offset < end:
            piece = min(PIECE, end - offset)
            try:
                if _is_cached(file, offset, piece):
                    sent = os.sendfile(socket, file, offset, piece)
                else:
                    # Whoever cancels us closes both descriptors, which this thread works on.
                    sent = await run_blocking(None, os.sendfile, socket, file, offset, piece)
            except BlockingIOError:
                await self._wait(socket, self._loop.add_writer, self._loop.remove_writer)
            else:
                if not sent:
                    raise EOFError("the file ends before the range that was to be sent")
                offset += sent
                self.sent += sent
                # A client that reads as fast as we send would otherwise never let go of the loop.
                await asyncio.sleep(0)
            if self._lost:
                raise ConnectionResetError

    async def _take(self, inflow: Inflow, take: Callable[[int, int], int]) -> int:
        """Wait for bytes and take them; return how many, which is none when no more will come."""
        while True:
            try:
                taken = take(inflow.socket, min(PIECE, inflow.count - inflow.taken))
            except BlockingIOError:
                try:
                    async with asyncio.timeout(inflow.silence):
                        await self._wait(
                            inflow.socket, self._loop.add_reader, self._loop.remove_reader
                        )
                except TimeoutError as error:
                    inflow.trouble = error
                    return 0
            except OSError as error:
                inflow.trouble = error
                return 0
            else:
                inflow.taken += taken
                return taken
            if self._lost:
                raise ConnectionResetError

    async def _empty(self, pipe: Pipe, socket: int) -> None:
        """Give the client all that is in the pipe."""
        while pipe.held:
            try:
                self.sent += pipe.empty(socket)
            except BlockingIOError:
                await self._wait(socket, self._loop.add_writer, self._loop.remove_writer)
            if self._lost:
                raise ConnectionResetError

    @contextmanager
    def _socket(self) -> Iterator[int]:
        """Have a duplicate of the client's socket for the length of a block."""
        if self._lost or self._transport.is_closing():
            raise ConnectionResetError
        socket = os.dup(self._transport.get_extra_info("socket").fileno())
        try:
            yield socket
        finally:
            os.close(socket)

    async def _wait(
        self,
        socket: int,
        watch: Callable[[int, Callable[[], None]], object],
        unwatch: Callable[[int], object],
    ) -> None:
        self._waiting = self._loop.create_future()
        watch(socket, self._wake)
        try:
            await self._waiting
        finally:
            self._waiting = None
            # Before the duplicate is closed: epoll would go on reporting the socket below it.
            unwatch(socket)

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


def _is_cached(file: int, offset: int, count: int) -> bool:
    """Tell whether the last byte of a range can be had without waiting for a disk.

    The kernel reads ahead in order, so the last byte stands for the range well enough. A file
    system that cannot tell counts as slow.
    """
    try:
        return os.preadv(file, [bytearray(1)], offset + count - 1, os.RWF_NOWAIT) == 1
    except OSError:
        return False
