"""Sends a blob too large to be kept in memory, and closes it whatever happens.

Where the server can, the kernel sends the file, or what comes on a socket from a bucket, and the
bytes never enter this process; to a client that speaks TLS the server copies what comes on a
socket. Otherwise they are read and sent in pieces, and reading ends when the client goes away.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from alauda_registry.serving.sendfile import RELAY, ZERO_COPY_SEND
from alauda_registry.storage.blobs import Blob
from alauda_registry.storage.driver import Inflow

SMALLEST_ZERO_COPY = 64 * 2**10
"""Below this, handing a file to the kernel costs more than copying it."""


class BlobResponse(StreamingResponse):
    """A blob or a part of it. Owns the blob from its making on.

    Args:
        blob: An open blob.
        status: 200 or 206.
        headers: All of them, ``Content-Length`` included.
        offset: The first byte to send.
        length: How many bytes to send.
    """

    def __init__(
        self, blob: Blob, status: int, headers: Mapping[str, str], *, offset: int, length: int
    ) -> None:
        self._blob = blob
        self._offset = offset
        self._length = length
        self._chunks = blob.stream(offset, length)
        super().__init__(self._chunks, status, headers)

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with aclosing(self._chunks):
                if self._can(ZERO_COPY_SEND, scope) and self._blob.fileno() is not None:
                    await self._send_file(send)
                elif self._can(RELAY, scope) and (inflows := self._inflows()) is not None:
                    async with aclosing(inflows):
                        await self._relay(inflows, receive, send)
                else:
                    await super().__call__(scope, receive, send)
        finally:
            self._blob.close()

    def _can(self, extension: str, scope: Scope) -> bool:
        return self._length >= SMALLEST_ZERO_COPY and extension in (scope.get("extensions") or {})

    def _inflows(self) -> AsyncGenerator[bytes | Inflow, None] | None:
        return self._blob.inflow(self._offset, self._length)

    async def _relay(
        self, inflows: AsyncGenerator[bytes | Inflow, None], receive: Receive, send: Send
    ) -> None:
        """Send until all is sent or the client goes, which nothing else tells while we wait."""

        async def relay() -> None:
            await self._start(send)
            await send({"type": RELAY, "inflows": inflows})

        sending = asyncio.ensure_future(relay())
        leaving = asyncio.ensure_future(self.listen_for_disconnect(receive))
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            sending.cancel()
            leaving.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)
        if not sending.cancelled():
            sending.result()

    async def _start(self, send: Send) -> None:
        start = {
            "type": "http.response.start",
            "status": self.status_code,
            "headers": self.raw_headers,
        }
        await send(start)

    async def _send_file(self, send: Send) -> None:
        await self._start(send)
        body = {
            "type": ZERO_COPY_SEND,
            "file": self._blob,
            "offset": self._offset,
            "count": self._length,
            "more_body": False,
        }
        await send(body)
