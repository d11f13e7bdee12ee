"""HTTP/1.1 as bytes: heads and bodies of a connection, for what passes them on."""

import asyncio
import re
import socket
import struct
from collections.abc import AsyncIterator, Callable

_CHUNK = 256 * 1024
_STEP_SECONDS = 0.02
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)

Change = Callable[[bytes], bytes]


class Connection:
    """One side's connection, as heads and bodies of HTTP."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.write = writer.write
        self.drain = writer.drain

    async def head(self) -> bytes | None:
        """Return the next head, its empty line included; None when there is none any more."""
        try:
            return await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return None

    async def body(self, head: bytes) -> AsyncIterator[bytes]:
        """Yield the body that belongs to a head, with the framing that it has on the wire."""
        if _CHUNKED.search(head):
            while True:
                line = await self._reader.readuntil(b"\r\n")
                size = int(line.partition(b";")[0], 16)
                yield line
                if not size:
                    break
                async for chunk in self._exactly(size + 2):
                    yield chunk
            while True:
                line = await self._reader.readuntil(b"\r\n")
                yield line
                if line == b"\r\n":
                    return
        length = _LENGTH.search(head)
        if length:
            async for chunk in self._exactly(int(length[1])):
                yield chunk

    async def _exactly(self, size: int) -> AsyncIterator[bytes]:
        while size:
            chunk = await self._reader.read(min(size, _CHUNK))
            if not chunk:
                raise EOFError
            size -= len(chunk)
            yield chunk

    def is_over(self) -> bool:
        """Whether the other side has closed it."""
        return self._reader.at_eof() or self._writer.is_closing()

    def break_off(self) -> None:
        """Close it with a reset."""
        plug: socket.socket = self._writer.get_extra_info("socket")
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    def close(self) -> None:
        """Close it."""
        self._writer.close()


async def pass_on(
    body: AsyncIterator[bytes],
    target: Connection,
    *,
    limit: int | None = None,
    rate: float | None = None,
    change: Change | None = None,
) -> None:
    """Write a body to a connection.

    Args:
        body: What is to be passed on.
        target: Where to.
        limit: How many bytes of it at most.
        rate: How many bytes a second.
        change: What each piece of it becomes.
    """
    left = limit
    async for piece in body:
        chunk = change(piece) if change else piece
        if left is not None:
            chunk = chunk[:left]
            left -= len(chunk)
        if rate is None:
            target.write(chunk)
            await target.drain()
        else:
            await _trickle(chunk, target, rate)
        if left == 0:
            break
    await target.drain()


async def _trickle(chunk: bytes, target: Connection, rate: float) -> None:
    step = max(1, int(rate * _STEP_SECONDS))
    for start in range(0, len(chunk), step):
        target.write(chunk[start : start + step])
        await target.drain()
        await asyncio.sleep(_STEP_SECONDS)
