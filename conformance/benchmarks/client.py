"""An HTTP client that costs next to nothing.

Bodies go out with ``sendfile`` and come in with ``MSG_TRUNC``, with which the kernel
throws received bytes away instead of copying them. A client that copied or hashed would
take the processor from the server beside it, and the comparison would be about the client.
It speaks only what the benchmarks need and gives up loudly on anything else. Over TLS the
kernel can do neither for it: bodies are encrypted and decrypted here, for both servers alike.
"""

import os
import socket
import ssl
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from conformance.benchmarks.content import Slice

PATIENCE_SECONDS = 120
# Waiting for this much before looking again is what gave a single connection most.
_DISCARDED = bytearray(2**20)


class UnexpectedAnswer(Exception):
    """A server answered something else than the benchmark needs."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said; the body only if it was asked for."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Request:
    """What to ask a server."""

    method: str
    target: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Slice = b""
    chunked: bool = False
    """The body is in HTTP's chunked coding already."""
    host: str = "localhost"

    def head(self) -> bytes:
        """Write the request up to its body."""
        lines = [f"{self.method} {self.target} HTTP/1.1", f"Host: {self.host}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        if self.chunked:
            lines.append("Transfer-Encoding: chunked")
        elif self.method not in {"GET", "HEAD"}:
            size = self.body.size if isinstance(self.body, Slice) else len(self.body)
            lines.append(f"Content-Length: {size}")
        return "\r\n".join([*lines, "", ""]).encode("ascii")


class Connection:
    """One connection, used for one request after the other.

    Args:
        port: Of a server on this machine.
        authority: Of its certificate, over TLS.
    """

    def __init__(self, port: int, authority: Path | None = None) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Python's own time-out would make the socket non-blocking, and a whole body
        # could no longer be one system call.
        patience = struct.pack("ll", PATIENCE_SECONDS, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, patience)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
        self._is_plain = authority is None
        if authority is not None:
            context = ssl.create_default_context(cafile=authority)
            self._socket = context.wrap_socket(self._socket, server_hostname="localhost")
        self._received = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._socket.close()

    def ask(self, request: Request, *expected: int, keep: bool = False) -> Answer:
        """Send a request and wait for the whole answer.

        Args:
            request: What to send.
            expected: The statuses that the answer may have.
            keep: Whether to keep the body of the answer.

        Raises:
            UnexpectedAnswer: Another status, or an answer this client cannot read.
        """
        if isinstance(request.body, Slice):
            self._socket.sendall(request.head(), socket.MSG_MORE if self._is_plain else 0)
            self._send_file(request.body)
        else:
            self._socket.sendall(request.head() + request.body)
        answer = self._read_answer(request.method, keep=keep)
        if answer.status not in expected:
            raise UnexpectedAnswer(
                f"{request.method} {request.target} answered {answer.status} "
                f"instead of {expected[0]}: {answer.body[:500]!r}"
            )
        return answer

    def _send_file(self, body: Slice) -> None:
        if not self._is_plain:
            for piece in body.pieces(len(_DISCARDED)):
                self._socket.sendall(piece.read())
            return
        sent = 0
        while sent < body.size:
            sent += os.sendfile(
                self._socket.fileno(), body.file, body.offset + sent, body.size - sent
            )

    def _read_answer(self, method: str, *, keep: bool) -> Answer:
        head = self._read_until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        status = int(head[0].split(" ", 2)[1])
        pairs = (line.partition(":") for line in head[1:] if line)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        if method == "HEAD" or status in {204, 304}:
            return Answer(status, headers)
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return Answer(status, headers, self._read_chunks())
        size = int(headers.get("content-length", "0"))
        if keep or status >= 400:
            return Answer(status, headers, self._read_exactly(size))
        self._discard(size)
        return Answer(status, headers)

    def _read_until(self, end: bytes) -> bytes:
        while end not in self._received:
            self._receive()
        found, _, self._received = self._received.partition(end)
        return found

    def _read_exactly(self, size: int) -> bytes:
        content = bytearray(size)
        view = memoryview(content)
        filled = min(size, len(self._received))
        view[:filled] = self._received[:filled]
        self._received = self._received[filled:]
        while filled < size:
            got = self._socket.recv_into(view[filled:])
            if not got:
                raise UnexpectedAnswer("the server closed the connection in the middle of a body")
            filled += got
        return bytes(content)

    def _read_chunks(self) -> bytes:
        content = []
        while size := int(self._read_until(b"\r\n").partition(b";")[0], 16):
            content.append(self._read_exactly(size))
            self._read_until(b"\r\n")
        self._read_until(b"\r\n")
        return b"".join(content)

    def _discard(self, size: int) -> None:
        early = min(size, len(self._received))
        self._received = self._received[early:]
        left = size - early
        flags = socket.MSG_TRUNC | socket.MSG_WAITALL if self._is_plain else 0
        while left:
            got = self._socket.recv_into(_DISCARDED, min(left, len(_DISCARDED)), flags)
            if not got:
                raise UnexpectedAnswer("the server closed the connection in the middle of a body")
            left -= got

    def _receive(self) -> None:
        content = self._socket.recv(65536)
        if not content:
            raise UnexpectedAnswer("the server closed the connection before its answer was whole")
        self._received += content
