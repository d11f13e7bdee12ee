"""Connections of our own for what is read as it comes, over plain HTTP.

aiohttp hands bodies over in pieces that were copied several times before a client gets them. A body
that comes on a socket of ours can be moved on by the kernel, and never enters this process.
"""

import asyncio
import socket
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from urllib.parse import urlsplit

import aiohttp
import httptools
from typing_extensions import override

from alauda_registry.storage.driver import Inflow
from alauda_registry.storage.drivers.s3.credentials import Credentials
from alauda_registry.storage.drivers.s3.transport import (
    CONNECT_SECONDS,
    IDLE_SECONDS,
    SILENCE_SECONDS,
    Endpoint,
    HttpTransport,
    OpenAnswer,
    Request,
)

_IDLE_AT_MOST = 16
_HEAD_BYTES = 64 * 1024
_HEAD_PIECE = 16 * 1024
"""What comes with the head of an answer is copied, so this is little."""

_BODY_PIECE = 256 * 1024

GiveBack = Callable[[socket.socket, bool], None]


class PlainTransport(HttpTransport):
    """Carries requests over plain HTTP, and bodies that are read as they come on its own sockets.

    Args:
        endpoint: Where they go.
        public: Where the URLs lead that clients are sent to.
        region: The bucket's.
        credentials: Who we are.
        connections: How many may be open at once, of each kind.
        user_agent: What the server's log says of us.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        public: Endpoint,
        region: str,
        credentials: Credentials,
        *,
        connections: int,
        user_agent: str,
    ) -> None:
        super().__init__(
            endpoint,
            public,
            region,
            credentials,
            tls=None,
            connections=connections,
            user_agent=user_agent,
        )
        parts = urlsplit(endpoint.origin)
        self._bodies = BodyConnections(parts.hostname or "", parts.port or 80, at_once=connections)

    @override
    async def open(self, request: Request) -> OpenAnswer:
        if request.body:
            return await super().open(request)
        target, headers = await self._sign(request)
        headers["user-agent"] = self._user_agent
        fields = [f"{name}: {value}" for name, value in headers.items()]
        lines = [f"{request.method} {target} HTTP/1.1", *fields]
        head = "\r\n".join([*lines, "", ""])
        if not head.count("\r") == head.count("\n") == len(lines) + 1:
            raise ValueError("a header has a line end in it")
        return await self._bodies.ask(head.encode())

    @override
    async def aclose(self) -> None:
        self._bodies.close()
        await super().aclose()


class BodyConnections:
    """Connections to one server, each for one answer at a time, and kept for the next.

    Args:
        host: The server's name or address.
        port: Where it listens.
        at_once: How many may be in use.
    """

    def __init__(self, host: str, port: int, *, at_once: int) -> None:
        self._host = host
        self._port = port
        self._room = asyncio.Semaphore(at_once)
        self._idle: deque[tuple[float, socket.socket]] = deque()

    async def ask(self, head: bytes) -> "SocketAnswer":
        """Send a request that has no body, and return the answer as soon as it begins.

        Raises:
            aiohttp.ClientError: What came is no answer.
            OSError: There is no connection, or it broke; TimeoutError among them.
        """
        await self._room.acquire()
        try:
            connection = self._take_idle() or await self._connect()
        except BaseException:
            self._room.release()
            raise
        answer = SocketAnswer(connection, self._give_back)
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                await asyncio.get_running_loop().sock_sendall(connection, head)
            await answer.begin()
        except BaseException:
            answer.close()
            raise
        return answer

    def close(self) -> None:
        """Close those that nobody uses."""
        while self._idle:
            self._idle.pop()[1].close()

    def _take_idle(self) -> socket.socket | None:
        self._drop_old()
        while self._idle:
            _, connection = self._idle.pop()
            try:
                # Either the server has hung up, or it says what nobody asked for.
                connection.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                return connection
            except OSError:
                pass
            connection.close()
        return None

    async def _connect(self) -> socket.socket:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_SECONDS):
            found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        trouble = OSError("the server's name has no address")
        for family, kind, protocol, _, address in found:
            connection = socket.socket(family, kind, protocol)
            try:
                connection.setblocking(False)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                async with asyncio.timeout(CONNECT_SECONDS):
                    await loop.sock_connect(connection, address)
            except OSError as error:
                connection.close()
                trouble = error
            except BaseException:
                connection.close()
                raise
            else:
                return connection
        raise trouble

    def _give_back(self, connection: socket.socket, is_usable: bool) -> None:
        self._room.release()
        if not is_usable or len(self._idle) >= _IDLE_AT_MOST:
            connection.close()
            return
        loop = asyncio.get_running_loop()
        self._idle.append((loop.time(), connection))
        loop.call_later(IDLE_SECONDS, self._drop_old)

    def _drop_old(self) -> None:
        horizon = asyncio.get_running_loop().time() - IDLE_SECONDS
        while self._idle and self._idle[0][0] <= horizon:
            self._idle.popleft()[1].close()


class SocketAnswer(OpenAnswer):
    """An answer that comes on a socket of ours.

    Args:
        connection: The socket, on which nothing else is under way.
        give_back: Called with it once, and with whether another request may follow on it.
    """

    def __init__(self, connection: socket.socket, give_back: GiveBack) -> None:
        self._connection: socket.socket | None = connection
        self._give_back = give_back
        self._parser = httptools.HttpResponseParser(self)
        self._status = 0
        self._headers: dict[str, str] = {}
        self._parts: list[bytes] = []
        self._is_begun = False
        self._is_complete = False
        self._keeps_alive = False
        self._left: int | None = None
        """Bytes of the body that are still to come; None when the parser has to find its end."""
        self._inflow: Inflow | None = None

    @property
    @override
    def status(self) -> int:
        return self._status

    @property
    @override
    def headers(self) -> Mapping[str, str]:
        return self._headers

    async def begin(self) -> None:
        """Read the head."""
        received = 0
        while not self._is_begun:
            data = await self._receive(_HEAD_PIECE)
            if not data:
                raise aiohttp.ServerDisconnectedError
            received += len(data)
            if received > _HEAD_BYTES:
                raise aiohttp.ClientPayloadError("the head of the answer does not end")
            self._feed(data)
        length = self._headers.get("content-length")
        if length is not None and "transfer-encoding" not in self._headers:
            # The parser has refused what is no number.
            self._left = int(length) - sum(map(len, self._parts))

    @override
    async def read(self) -> bytes:
        return b"".join([chunk async for chunk in self.chunks()])

    @override
    async def chunks(self) -> AsyncGenerator[bytes, None]:
        while True:
            parts, self._parts = self._parts, []
            for part in parts:
                yield part
            if self._is_over:
                return
            data = await self._receive(
                _BODY_PIECE if self._left is None else min(_BODY_PIECE, self._left)
            )
            if not data:
                if self._left is None and "transfer-encoding" not in self._headers:
                    return
                raise aiohttp.ClientPayloadError("the body ends early")
            if self._left is None:
                self._feed(data)
            else:
                self._left -= len(data)
                yield data

    @property
    @override
    def has_socket(self) -> bool:
        return self._left is not None

    @override
    def inflow(self) -> tuple[bytes, Inflow] | None:
        if self._left is None or self._connection is None:
            return None
        came, self._parts = b"".join(self._parts), []
        self._inflow = Inflow(self._connection.fileno(), self._left, SILENCE_SECONDS)
        return came, self._inflow

    @override
    def close(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            self._give_back(connection, self._is_over and self._keeps_alive)

    @property
    def _is_over(self) -> bool:
        if self._left is None:
            return self._is_complete
        return self._left == (self._inflow.taken if self._inflow else 0)

    async def _receive(self, size: int) -> bytes:
        if self._connection is None:
            raise ConnectionResetError("the answer was closed")
        async with asyncio.timeout(SILENCE_SECONDS):
            return await asyncio.get_running_loop().sock_recv(self._connection, size)

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            raise aiohttp.ClientPayloadError(f"this is no HTTP: {error}") from error

    # The parser's callbacks.

    def on_message_begin(self) -> None:
        """Begin with the head of an answer."""
        if self._is_complete:
            raise aiohttp.ClientPayloadError("more than one answer")
        self._headers = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header field."""
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Take note that the head is here, unless it only says that one will come."""
        self._status = self._parser.get_status_code()
        self._is_begun = self._status >= 200
        self._keeps_alive = self._parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._parts.append(body)

    def on_message_complete(self) -> None:
        """Take note that all is here."""
        self._is_complete = self._is_begun
