"""Answers every small request at once: the ceiling of ``wrk`` and of the HEAD loop.

It looks for the end of the headers and writes an answer made beforehand; it never
parses, so that nothing but sockets and the load generator is measured. Run as
``python -m conformance.benchmarks.baselines.instant PORT``.
"""

import asyncio
import os
import signal
import socket
import sys
from typing import cast

import uvloop
from typing_extensions import override

WORKERS = 2
HEAD_END = b"\r\n\r\n"
_TYPE = b"Content-Type: application/octet-stream\r\n"


def render_answer(size: int, *, body: bool) -> bytes:
    """Write a whole answer whose body has that size, or only announces it."""
    head = b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n" % (_TYPE, size)
    return head + b"x" * size if body else head


MANIFEST = render_answer(1400, body=True)
BLOB = render_answer(4096, body=True)
HEAD = render_answer(1400, body=False)


class Instant(asyncio.Protocol):
    """Counts the ends of headers and answers each."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of its own classes.
        self._transport = cast(asyncio.Transport, transport)

    @override
    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        answer = HEAD if data.startswith(b"HEAD") else BLOB if b"/blobs/" in data else MANIFEST
        self._transport.write(answer * data.count(HEAD_END))


async def serve(listener: socket.socket) -> None:
    """Answer on the socket until told to stop."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Instant, sock=listener)
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    server.close()


def main(port: int) -> None:
    """Share one listening socket between the workers, as uvicorn does."""
    listener = socket.create_server(("127.0.0.1", port), backlog=1024)
    children = [child for _ in range(WORKERS - 1) if (child := os.fork())]
    uvloop.run(serve(listener))
    for child in children:
        os.kill(child, signal.SIGTERM)


if __name__ == "__main__":
    main(int(sys.argv[1]))
