"""A proxy before an S3 server that spoils what passes through it, and counts it.

It understands just enough HTTP/1.1 to know where a request and its answer begin and end, so
that a rule can say which request it is about: the second ``UploadPart`` of a key, every
``CompleteMultipartUpload``, whatever comes. What a rule does to it is a :class:`Toxic`; the
benchmarks have none, as they only count. The proxy runs in a thread of its own, so that
whoever asks may be a coroutine or not.
"""

import asyncio
import contextlib
import re
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from conformance.s3proxy import operations
from conformance.s3proxy.operations import Request
from conformance.s3proxy.wire import Change, Connection, pass_on

_LARGEST_HEAD = 1 << 20
_EXPECTS = re.compile(rb"\r\nexpect:[^\r]*", re.IGNORECASE)
_CLOSES = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


class Ended(Exception):
    """The connection of the client is over."""


@dataclass(slots=True)
class Seen:
    """A request that came, and how it was answered: 0 while it is not."""

    request: Request
    spoiled_by: "Toxic | None"
    status: int = 0


class Exchange:
    """One request on its way to the server, and its answer on the way back."""

    def __init__(
        self,
        seen: Seen,
        head: bytes,
        client: Connection,
        upstream: Callable[[], asyncio.Future[Connection]],
    ) -> None:
        self.request = seen.request
        self._seen = seen
        self._head = head
        self._client = client
        self._connect = upstream
        self._server: Connection | None = None
        self._answer = b""

    async def forward(self, rate: float | None = None) -> None:
        """Pass the request on, and its answer back, at so many bytes a second."""
        await self.send_request(rate=rate)
        await self.send_answer(rate=rate)

    async def send_request(self, *, limit: int | None = None, rate: float | None = None) -> None:
        """Pass the request on, but no more than so many bytes of its body."""
        self._server = await self._connect()
        # Nobody waits for the server's leave: it would have to be passed on as well.
        if _EXPECTS.search(self._head):
            self._client.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._server.write(_EXPECTS.sub(b"", self._head))
        body = self._client.body(self._head)
        await pass_on(body, self._server, limit=limit, rate=rate)

    async def read_request(self) -> None:
        """Take the request and pass nothing on."""
        if _EXPECTS.search(self._head):
            self._client.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        async for _ in self._client.body(self._head):
            pass

    async def read_answer_head(self) -> bytes:
        """Return the head of the server's answer."""
        assert self._server is not None
        while True:
            head = await self._server.head()
            if head is None:
                raise Ended
            if not head.startswith(b"HTTP/1.1 100"):
                break
        self._answer = head
        self._seen.status = int(head.split(b" ", 2)[1])
        return head

    async def send_answer(
        self,
        *,
        limit: int | None = None,
        rate: float | None = None,
        change: Change | None = None,
        change_head: Change | None = None,
    ) -> None:
        """Pass the answer back, but no more than so many bytes of its body, changed or not."""
        head = await self.read_answer_head()
        self._client.write(change_head(head) if change_head else head)
        await pass_on(self._answer_body(), self._client, limit=limit, rate=rate, change=change)
        if _CLOSES.search(head):
            raise Ended

    async def drop_answer(self) -> None:
        """Wait for the whole answer, and pass nothing back."""
        await self.read_answer_head()
        async for _ in self._answer_body():
            pass

    async def answer(self, content: bytes) -> None:
        """Answer in the server's place, with head and body."""
        self._seen.status = int(content.split(b" ", 2)[1])
        self._client.write(content)
        await self._client.drain()

    async def say(self, content: bytes) -> None:
        """Send what is no answer at all."""
        self._client.write(content)
        await self._client.drain()

    async def outlast_client(self) -> None:
        """Say nothing more until the client is gone."""
        await self._client.head()
        raise Ended

    def hang_up(self) -> None:
        """Close the connection, as if all had been said."""
        raise Ended

    def reset(self) -> None:
        """Break the connection off, so that the client gets a reset."""
        self._client.break_off()
        raise Ended

    def _answer_body(self) -> AsyncIterator[bytes]:
        assert self._server is not None
        is_empty = self.request.method == "HEAD" or self._seen.status in {204, 304}
        return self._server.body(b"" if is_empty else self._answer)


class Toxic(Protocol):
    """What is done to a request or to its answer."""

    async def act(self, exchange: Exchange) -> None:
        """Do it."""


@dataclass
class Rule:
    """Which requests a toxic acts on.

    Attributes:
        toxic: What is done.
        operation: S3's name of what they ask for; a regular expression for the whole of it.
        key: A regular expression that is found in the key.
        skip: How many of them pass unspoiled before.
        times: How many are spoiled; None for all that follow.
        hits: How many were spoiled so far.
    """

    toxic: Toxic
    operation: str = ".*"
    key: str = ""
    skip: int = 0
    times: int | None = None
    hits: int = 0
    _seen: int = 0

    def takes(self, request: Request) -> bool:
        """Whether it acts on this request; counts it when it is one of its kind."""
        if not re.fullmatch(self.operation, request.operation) or not re.search(
            self.key, request.key
        ):
            return False
        self._seen += 1
        if self._seen <= self.skip or (self.times is not None and self.hits >= self.times):
            return False
        self.hits += 1
        return True


class Proxy:
    """The running proxy.

    Attributes:
        address: Where it listens.
        seen: The requests that came, in that order.
    """

    def __init__(self, upstream: str) -> None:
        self._host, _, port = upstream.rpartition(":")
        self._port = int(port)
        self._rules: list[Rule] = []
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.seen: list[Seen] = []
        self.address = ""

    @property
    def endpoint(self) -> str:
        """Where clients find it."""
        return f"http://{self.address}"

    def add(
        self,
        toxic: Toxic,
        operation: str = ".*",
        *,
        key: str = "",
        skip: int = 0,
        times: int | None = None,
    ) -> Rule:
        """Spoil what passes from now on; the first rule that takes a request decides."""
        rule = Rule(toxic, operation, key, skip, times)
        self._rules.append(rule)
        return rule

    def clear(self) -> None:
        """Let everything pass again."""
        self._rules.clear()

    def forget(self) -> None:
        """Start counting again."""
        self.seen.clear()

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._tasks)

    def counts(self) -> Counter[str]:
        """Return how many requests there were of each operation since counting began."""
        return Counter(seen.request.operation for seen in list(self.seen))

    @contextmanager
    def away(self) -> Iterator[None]:
        """Refuse and break off all connections for the length of a block."""
        self._run(self._close())
        try:
            yield
        finally:
            self._run(self._open())

    @contextmanager
    def running(self) -> Iterator["Proxy"]:
        """Have it for the length of a block."""
        thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        thread.start()
        try:
            self._run(self._open())
            try:
                yield self
            finally:
                self._run(self._close())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join()
            self._loop.close()

    def _run(self, work: Any) -> None:
        done: Future[None] = asyncio.run_coroutine_threadsafe(work, self._loop)
        done.result(20)

    async def _open(self) -> None:
        host, _, port = self.address.partition(":")
        self._server = await asyncio.start_server(
            self._accept, host or "127.0.0.1", int(port or 0), limit=_LARGEST_HEAD
        )
        host, port_number = self._server.sockets[0].getsockname()
        self.address = f"{host}:{port_number}"

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        client = Connection(reader, writer)
        try:
            # A connection that is closed with the proxy ends like one that a server closes.
            with contextlib.suppress(asyncio.CancelledError):
                await self._serve(client)
        finally:
            client.close()
            self._tasks.discard(task)

    async def _serve(self, client: Connection) -> None:
        upstream: list[Connection] = []

        async def connect() -> Connection:
            # A server closes idle connections, and its proxy has to notice by itself.
            if not upstream or upstream[0].is_over():
                for old in upstream:
                    old.close()
                opened = await asyncio.open_connection(self._host, self._port, limit=_LARGEST_HEAD)
                upstream[:] = [Connection(*opened)]
            return upstream[0]

        try:
            while (head := await client.head()) is not None:
                request = operations.parse(head)
                rule = next((rule for rule in self._rules if rule.takes(request)), None)
                seen = Seen(request, rule.toxic if rule else None)
                # At once: whoever has the answer may count.
                self.seen.append(seen)
                exchange = Exchange(seen, head, client, lambda: asyncio.ensure_future(connect()))
                await (seen.spoiled_by.act(exchange) if seen.spoiled_by else exchange.forward())
                if _CLOSES.search(head):
                    break
        except (Ended, OSError, EOFError):
            pass
        finally:
            for one in upstream:
                one.close()


@contextmanager
def before(upstream: str) -> Iterator[Proxy]:
    """Have a proxy before a server at ``HOST:PORT`` for the length of a block."""
    with Proxy(upstream).running() as proxy:
        yield proxy
