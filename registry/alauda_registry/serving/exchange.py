"""One request and its answer: what the ASGI application calls ``receive`` and ``send``.

uvicorn's cycle keeps the state and runs the application. This one hands bodies over without copying
them when the application keeps up, writes small answers at once, sends files through the kernel
(ASGI extension ``http.response.zerocopysend``) and what comes on sockets, too (``RELAY``), and
thinks of the client that is still sending when the answer is out: closing at once would reset the
connection, and the client lose the answer.
uvicorn's access log is not written.
"""

import asyncio
import os
from collections import deque
from collections.abc import AsyncGenerator, Iterable
from typing import TYPE_CHECKING, Any

from typing_extensions import override
from uvicorn._types import ASGIReceiveEvent, HTTPScope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from alauda_registry.serving.sendfile import RELAY, ZERO_COPY_SEND
from alauda_registry.storage.driver import Inflow

if TYPE_CHECKING:
    from alauda_registry.serving.protocol import HttpProtocol

# Each piece of a body costs memory of its own, which matters when a client sends them tiny.
MAX_PENDING_PIECES = 1000

LARGE_PIECE = 32 * 1024

ABORT = "alauda.response.abort"
"""Extension: hang up at once, with whatever the client has not read."""

# Copying less than this behind the head costs less than handing over two buffers.
SMALL = 64 * 1024


class Exchange(RequestResponseCycle):
    """A request on a connection, and the answer to it."""

    def __init__(
        self,
        connection: "HttpProtocol",
        scope: HTTPScope,
        *,
        expects_continue: bool,
        keep_alive: bool,
    ) -> None:
        super().__init__(
            scope=scope,
            transport=connection.transport,
            flow=connection.flow,
            logger=connection.logger,
            access_logger=connection.access_logger,
            access_log=connection.access_log,
            default_headers=connection.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=expects_continue,
            keep_alive=keep_alive,
            on_response=connection.on_response_complete,
        )
        self.messages = 0
        """Calls of receive and send: another one is progress of the application."""
        self.is_receiving = False
        """Whether the application waits for the client."""
        self._connection = connection
        self._pieces: deque[bytes] = deque()
        self._pending = 0
        self._head = b""

    @property
    def is_over(self) -> bool:
        """Whether nothing more will be written for this request."""
        return self.response_complete or self.disconnected

    @property
    def is_answering(self) -> bool:
        """Whether the client has got a part of the answer, and can't be given another."""
        return self.response_started and not self._head

    def disconnect(self) -> None:
        """Let the application see that the client is gone, and drop what it still sends."""
        if not self.response_complete:
            self.disconnected = True
        self.message_event.set()

    def feed(self, piece: bytes) -> None:
        """Take a piece of the body, and stop the client if the application does not keep up."""
        self._pieces.append(piece)
        self._pending += len(piece)
        if (
            self._pending >= self._connection.limits.body_buffer
            or len(self._pieces) > MAX_PENDING_PIECES
        ):
            self.flow.pause_reading()
        self.message_event.set()

    def end(self) -> None:
        """Take note that the request has arrived whole."""
        self.more_body = False
        # The client did not wait for our consent.
        self.waiting_for_100_continue = False
        self.message_event.set()

    @override
    async def receive(self) -> ASGIReceiveEvent:
        # Replaced: uvicorn's collects the body in a bytearray, which copies every byte twice.
        if self.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.waiting_for_100_continue = False
        if not self.is_over:
            self.messages += 1
            self.is_receiving = True
            if self._pending < self._connection.limits.body_buffer:
                self.flow.resume_reading()
            try:
                await self.message_event.wait()
            finally:
                self.is_receiving = False
            self.message_event.clear()
        if self.is_over:
            return {"type": "http.disconnect"}
        body = self._take()
        more_body = self.more_body or bool(self._pieces)
        if self._pieces:
            self.message_event.set()
        return {"type": "http.request", "body": body, "more_body": more_body}

    def _take(self) -> bytes:
        """Return what has arrived: small pieces together, a large one as it is."""
        if self._pieces and len(self._pieces[0]) >= LARGE_PIECE:
            body = self._pieces.popleft()
        else:
            body = b"".join(self._pieces)
            self._pieces.clear()
        self._pending -= len(body)
        return body

    @override
    async def send(self, message: Any) -> None:
        # Replaced: uvicorn's writes the head at once, and so takes two system calls and two packets
        # for the smallest answer. The ASGI specification wants it kept until there is a body.
        if message["type"] == ABORT:
            self.disconnect()
            self.transport.abort()
            return
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.transport.is_closing():
            # A write has failed; the connection is told so only later.
            self.disconnect()
        if self.disconnected:
            return
        self.messages += 1
        kind = message["type"]
        if not self.response_started and kind == "http.response.start":
            self._start(message["status"], message.get("headers", ()))
        elif not self.response_started or self.response_complete:
            raise RuntimeError(f"unexpected ASGI message {kind!r}")
        elif kind == "http.response.body":
            self._write(message.get("body", b""), is_last=not message.get("more_body", False))
        elif kind == ZERO_COPY_SEND:
            await self._send_file(message)
        elif kind == RELAY:
            await self._relay(message["inflows"])
        else:
            raise RuntimeError(f"unexpected ASGI message {kind!r}")

    def _start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self.response_started = True
        # A client that was not told to continue may send the body all the same or leave it out:
        # what comes next on this connection could be either (RFC 9110, section 10.1.1).
        if self.waiting_for_100_continue or (
            self.more_body and self._connection.has_much_to_come()
        ):
            self.keep_alive = False
        self.waiting_for_100_continue = False
        length = 0 if status in (204, 304) or self.scope["method"] == "HEAD" else None
        lines = [STATUS_LINE[status]]
        for name, value in (*self.default_headers, *headers):
            lowered = name.lower()
            if lowered == b"connection" or lowered == b"transfer-encoding":
                # Ours to say; but whether to go on is a thing to be asked.
                if b"close" in value.lower():
                    self.keep_alive = False
                continue
            if lowered == b"content-length" and length is None:
                length = int(value)
            lines.append(b"%b: %b\r\n" % (name, value))
        self.chunked_encoding = length is None
        self.expected_content_length = length or 0
        if self.chunked_encoding:
            lines.append(b"transfer-encoding: chunked\r\n")
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        head = b"".join(lines)
        if not head.count(b"\r") == head.count(b"\n") == len(lines) or b"\0" in head:
            raise RuntimeError("a header has a line end or a NUL in it")
        self._head = head + b"\r\n"

    def _write(self, content: bytes, *, is_last: bool) -> None:
        if self.scope["method"] == "HEAD":
            content = b""
        elif self.chunked_encoding:
            end = b"0\r\n\r\n" if is_last else b""
            content = b"%x\r\n%b\r\n%b" % (len(content), content, end) if content else end
        else:
            self._account(len(content))
        head, self._head = self._head, b""
        if len(content) < SMALL:
            self.transport.write(head + content)
        else:
            self.transport.writelines([head, content] if head else [content])
        if is_last:
            self._finish()

    def _account(self, size: int) -> None:
        if size > self.expected_content_length:
            raise RuntimeError("more was to be sent than Content-Length says")
        self.expected_content_length -= size

    def _finish(self) -> None:
        if self.expected_content_length:
            raise RuntimeError("less was sent than Content-Length says")
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            if self.more_body or self._connection.is_deaf:
                self._connection.linger()
            else:
                self.transport.close()
        self.on_response()

    async def _send_file(self, message: dict[str, Any]) -> None:
        file = message["file"].fileno()
        offset = message.get("offset")
        if offset is None:
            offset = os.lseek(file, 0, os.SEEK_CUR)
        count = message.get("count")
        if count is None:
            count = max(os.fstat(file).st_size - offset, 0)
        if count and self.scope["method"] != "HEAD":
            await self._copy_file(file, offset, count)
        if not self.disconnected:
            self._write(b"", is_last=not message.get("more_body", False))

    async def _relay(self, inflows: AsyncGenerator[bytes | Inflow, None]) -> None:
        """Send all that comes, which is all that Content-Length says."""
        if self.chunked_encoding:
            raise RuntimeError("what is relayed needs a Content-Length")
        head, self._head = self._head, b""
        self.transport.write(head)
        try:
            async for part in inflows:
                if self.disconnected:
                    return
                if isinstance(part, Inflow):
                    self._account(part.count)
                    await self._connection.files.relay(part)
                    self.expected_content_length += part.count - part.taken
                else:
                    self._account(len(part))
                    self.transport.write(part)
                    await self.flow.drain()
        except ConnectionError:
            self.disconnect()
            self.transport.abort()
        if not self.disconnected:
            self._write(b"", is_last=True)

    async def _copy_file(self, file: int, offset: int, count: int) -> None:
        head, self._head = self._head, b""
        if self.chunked_encoding:
            head += b"%x\r\n" % count
        else:
            self._account(count)
        self.transport.write(head)
        try:
            await self._connection.files.send(file, offset, count)
        except ConnectionError:
            self.disconnect()
            self.transport.abort()
            return
        if self.chunked_encoding:
            self.transport.write(b"\r\n")
