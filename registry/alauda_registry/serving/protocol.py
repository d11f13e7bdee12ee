"""HTTP/1.1 between sockets and the ASGI application: uvicorn's protocol with the edges made safe.

uvicorn parses well and answers fast, but it trusts its clients: it takes headers of any size for
any time, waits for ever for a body or for a reader, answers what it cannot parse with plain text,
and hangs up on a client that is still sending. This module adds what is missing, and only that:

* *Limits.* Bytes and header fields are counted while they arrive (``request_head.py``).
* *Time.* Every connection has one timer, which ticks and asks: what does the client owe us, and has
  that moved since? Nothing on the path of a request starts a timer or reads a clock for it.
* *Refusals* are JSON in the server's form, and end the connection. A request is answered once:
  when its answer has begun, we just hang up; what is wrong behind a request that is
  being answered makes that answer the last. Whoever wants to know of refusals is told, and says
  which headers they carry.
* *Lingering.* When an answer is out before its request is in, a little more is read and dropped
  before the connection is closed, so that the client, who sees a reset otherwise, can read it.
* *Bodies and files* are moved with fewer copies (``exchange.py``, ``sendfile.py``).

It must never log a traceback for what a client did. Facts about the connection, such as a client's
certificate, belong into the scope and :meth:`HttpProtocol.on_headers_complete` builds it.
``tests/integration/test_protocol.py`` speaks to all this through sockets.
"""

import asyncio
import contextlib
import logging
import ssl
import sys
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from functools import cached_property
from http import HTTPStatus
from typing import Any, ClassVar, Self, TypeAlias, cast
from urllib.parse import unquote

import httptools
from typing_extensions import override
from uvicorn._types import ASGI3Application, HTTPScope
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from alauda_registry.serving.exchange import ABORT, Exchange
from alauda_registry.serving.request_head import Refused, RequestHead
from alauda_registry.serving.sendfile import RELAY, ZERO_COPY_SEND, FileSender
from alauda_registry.serving.tls import verified_chain

logger = logging.getLogger(__name__)

RawHeader: TypeAlias = tuple[bytes, bytes]

# Requests that may wait while an earlier one is answered. The clients we know send none ahead.
PIPELINE_DEPTH = 32

CERTIFICATE = "alauda.certificate"
"""Where the scope has the client's certificate (DER), if it has shown one that is good."""

CHAIN = "alauda.chain"
"""Likewise the chain by which it was found good (DER), from the certificate to the authority."""

SENDS_FILES: dict[str, dict[object, object]] = {ZERO_COPY_SEND: {}}
RELAYS: dict[str, dict[object, object]] = {RELAY: {}}

# From this length on, bodies do not go through the parser.
LARGE_BODY = 256 * 1024


@dataclass(frozen=True)
class ProtocolLimits:
    """What a client may ask of a connection. Sizes in bytes, times in seconds."""

    header_bytes: int = 64 * 1024
    """Request line and header fields together; more is answered with 431."""

    header_fields: int = 1000
    """Number of header fields; more is answered with 431."""

    target_bytes: int = 32 * 1024
    """Path and query; more is answered with 414."""

    header_timeout: float = 10.0
    """From the first byte of a request to the end of its header fields; then 408."""

    body_timeout: float = 60.0
    """Without a byte of the body while the application waits for it; then 408."""

    send_timeout: float = 60.0
    """Without the client taking a byte of the answer; then the connection is cut."""

    drain_bytes: int = 1024 * 1024
    """Read and dropped of a body that nobody wants, before the connection is closed."""

    drain_timeout: float = 5.0
    """How long that may take."""

    body_buffer: int = 512 * 1024
    """Received ahead of the application, give or take one read; then the client has to wait."""

    send_buffer: int | None = None
    """Taken from the application ahead of the client; then the application has to wait. By default
    what asyncio's transports take, which over TLS is 512 KiB."""

    @cached_property
    def tick(self) -> float:
        """How often a connection looks at its deadlines, which are two ticks late at most."""
        times = self.header_timeout, self.body_timeout, self.send_timeout, self.drain_timeout
        return min(1.0, min(times) / 4)


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that the application did not give."""

    status: int
    size: int
    """Bytes of its body."""

    reason: str
    client: tuple[str, int] | None
    method: str = "-"
    """``-`` when it did not arrive."""

    path: str = "-"
    """Without the query; ``-`` when it did not arrive."""

    scope: HTTPScope | None = None
    """Of a request that the application was given; it sees its client go."""


class HttpProtocol(HttpToolsProtocol):
    """One connection; for ``uvicorn.Config(http=HttpProtocol)``.

    uvicorn's ``limit_concurrency``, WebSockets and its access log are left out.
    """

    limits: ClassVar[ProtocolLimits] = ProtocolLimits()
    render_refusal: ClassVar[Callable[[Refused], bytes]]

    cycle: Exchange

    @classmethod
    def configured(
        cls,
        limits: ProtocolLimits,
        render_refusal: Callable[[Refused], bytes],
        observe_refusal: Callable[[Refusal], list[RawHeader]] | None = None,
        still_vouch: Callable[[ssl.SSLContext], bool] | None = None,
    ) -> type[Self]:
        """Return the same protocol with settings: uvicorn constructs it and knows of none.

        Args:
            limits: For each connection.
            render_refusal: Writes a refusal as JSON.
            observe_refusal: Takes note of one, and returns headers for it.
            still_vouch: Tells whether clients are verified now as in the context of a handshake.
        """
        settings: dict[str, Any] = {
            "limits": limits,
            "render_refusal": staticmethod(render_refusal),
        }
        if observe_refusal is not None:
            settings["observe_refusal"] = staticmethod(observe_refusal)
        if still_vouch is not None:
            settings["still_vouch"] = staticmethod(still_vouch)
        return type(cls.__name__, (cls,), settings)

    @staticmethod
    def observe_refusal(_refusal: Refusal) -> list[RawHeader]:
        """Take note of a refusal, and return headers for it; :meth:`configured` replaces it."""
        return []

    @staticmethod
    def still_vouch(_context: ssl.SSLContext) -> bool:
        """Tell whether clients are verified now as then; :meth:`configured` replaces it.

        Otherwise a connection on which one was shown ends: its authority may be trusted no more.
        """
        return True

    # The connection. The newest request is self.cycle, which may have to wait for self._running.

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # -- as uvicorn's
        super().connection_made(transport)
        if self.limits.send_buffer is not None:
            transport.set_write_buffer_limits(self.limits.send_buffer)
        self.files = FileSender(self.loop, transport, self.flow)
        self.is_deaf = False
        """Whether this connection is only kept until the client has read the last answer."""
        self._running: Exchange | None = None
        self._head = RequestHead(self.limits)
        self._in_head = False
        self._in_body = False
        self._requests = 0
        self._body_received = 0
        self._dropped = 0
        self._mark: Hashable = None
        self._mark_time = 0.0
        self._timer = self.loop.call_later(self.limits.tick, self._tick)
        connection = transport.get_extra_info("ssl_object")
        # The context asks for one, and has verified it, where http.tls.clientcas is set.
        self._certificate: bytes | None = connection and connection.getpeercert(binary_form=True)
        # The one of its handshake, which may have begun before the authorities changed.
        self._context: ssl.SSLContext | None = connection and connection.context
        self._chain = verified_chain(connection)
        self._extensions: dict[str, dict[object, object]] = {ABORT: {}}
        if transport.get_extra_info("socket") is not None and sys.platform == "linux":
            self._extensions |= RELAYS
            # TLS has to see the bytes.
            if connection is None:
                self._extensions |= SENDS_FILES

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        self.files.connection_lost()
        # uvicorn tells only the newest request, and leaves the one before it waiting for ever.
        waiting = [cast("Exchange", cycle) for cycle, _ in self.pipeline]
        for exchange in (self._running, self.cycle, *waiting):
            if exchange is not None:
                exchange.disconnect()
        super().connection_lost(exc)
        # They refer to the connection and it to them: left to the garbage collector they would
        # keep what a busy server needs back soon.
        self.pipeline.clear()
        self._running = self.cycle = None  # type: ignore[assignment]  # -- as uvicorn starts

    @override
    def eof_received(self) -> bool:  # type: ignore[override]  # -- uvicorn's always closes
        """Stay for a client that has said all it wanted to, and may still listen."""
        running, newest = self._running, self.cycle
        # Over TLS there is no way to.
        if self.scheme != "http" or running is None or newest.is_over or newest.more_body:
            return False
        if running.is_receiving and not running.message_event.is_set():
            # It has the whole request, so it waits for nothing but the client's going.
            return False
        newest.keep_alive = False
        return True

    @override
    def data_received(self, data: bytes) -> None:
        # Replaced: uvicorn's logs a warning for every mistake of a client and answers plain text.
        if self.is_deaf:
            self._drop(len(data))
            return
        if self._in_body and self._head.content_length >= LARGE_BODY:
            self._receive_large(data)
            return
        is_continued = self._in_head
        # Also for the line ends before a request line, of which the parser says nothing.
        self._in_head = not self._in_body
        try:
            self.parser.feed_data(data)
            if is_continued and self._in_head:
                self._head.count_unparsed(len(data))
        except httptools.HttpParserUpgrade as upgrade:
            # We stay with HTTP/1.1, as a server may. The parser has stopped behind the head.
            rest = data[upgrade.args[0] :]
            if rest:
                self.data_received(rest)
        except Refused as refused:
            self._refuse(refused)
        except httptools.HttpParserCallbackError as error:
            if not isinstance(error.__context__, Refused):
                raise
            self._refuse(error.__context__)
        except httptools.HttpParserError as error:
            message = "this is not a valid HTTP/1.1 request: send one that follows RFC 9112"
            self._refuse(Refused(HTTPStatus.BAD_REQUEST, message, reason=str(error)))

    def _receive_large(self, data: bytes) -> None:
        """Take a part of a body whose length is known, which the parser would only copy."""
        left = self._head.content_length - self._body_received
        self.on_body(data if len(data) <= left else data[:left])
        if len(data) >= left:
            self.on_message_complete()
            # The one before waits for the body it has not seen.
            self.parser = httptools.HttpRequestParser(self)
            if len(data) > left:
                self.data_received(data[left:])

    # The parser's callbacks. All are replaced: uvicorn's name its own classes, check nothing, and
    # support WebSockets throughout.

    @override
    def on_message_begin(self) -> None:
        self._head = RequestHead(self.limits)
        self._in_head = True
        self._requests += 1

    @override
    def on_url(self, url: bytes) -> None:
        self._head.add_target(url)

    @override
    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:
            self._head.add_field(name, value)
        else:
            self._head.count_trailer(name, value)

    @override
    def on_headers_complete(self) -> None:
        head = self._head
        version = self.parser.get_http_version()
        head.check(version)
        target = head.parse_target()
        if self._is_outdated:
            message = "others vouch for client certificates now: connect again"
            raise Refused(HTTPStatus.MISDIRECTED_REQUEST, message)
        if self.parser.should_upgrade() and head.has_body:
            # The parser takes it to have none, and would read the body as the next request.
            raise Refused(HTTPStatus.BAD_REQUEST, "ask for no upgrade in a request with a body")
        if len(self.pipeline) >= PIPELINE_DEPTH:
            raise Refused(
                HTTPStatus.TOO_MANY_REQUESTS,
                "wait for answers before asking for more",
            )
        self._in_head = False
        self._in_body = True
        self._body_received = self._dropped = 0
        path = target.path.decode("ascii")
        scope: HTTPScope = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": version,
            "server": self.server,
            "client": self.client,
            "scheme": cast("Any", self.scheme),
            "method": self.parser.get_method().decode("ascii"),
            "root_path": self.root_path,
            "path": self.root_path + (unquote(path) if "%" in path else path),
            "raw_path": self.root_path.encode("ascii") + target.path,
            "query_string": target.query or b"",
            "headers": head.fields,
            "state": self.app_state.copy(),
            "extensions": dict(self._extensions),
        }
        if self._certificate is not None:
            given = cast("dict[str, Any]", scope)
            given[CERTIFICATE], given[CHAIN] = self._certificate, self._chain
        self.cycle = Exchange(
            self,
            scope,
            expects_continue=head.expects_continue,
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
        )
        if self._running is None or self._running.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    @override
    def on_body(self, body: bytes) -> None:
        exchange = self.cycle
        self._body_received += len(body)
        if exchange.is_over:
            self._drop(len(body))
        else:
            exchange.feed(body)

    @override
    def on_message_complete(self) -> None:
        self._in_body = False
        # What comes next has no target yet.
        self._head.target = b""
        self.cycle.end()

    # Beginning and end of answers.

    @override
    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cast("Exchange", cycle)
        super()._start_asgi_task(cycle, app)

    @override
    def on_response_complete(self) -> None:
        # Replaced: uvicorn's sets a timer for the next request, which is ours to wait for.
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())

    def has_much_to_come(self) -> bool:
        """Tell whether more of the newest body is announced than is worth reading in vain."""
        return self._head.content_length - self._body_received > self.limits.drain_bytes

    def linger(self) -> None:
        """Hang up in a way that lets a client who is still sending read the last answer."""
        self.is_deaf = True
        if self.transport.is_closing():
            return
        if self.transport.can_write_eof():
            # Whoever is gone by now needs no hanging up, and reading on finds out.
            with contextlib.suppress(OSError):
                self.transport.write_eof()
        self.flow.resume_reading()

    def _drop(self, size: int) -> None:
        self._dropped += size
        if self._dropped > self.limits.drain_bytes:
            self.is_deaf = True
            self.transport.close()

    def _refuse(self, refused: Refused) -> None:
        running = self._running
        scope = None
        if running is not None and not running.is_over:
            if running is not self.cycle or not running.more_body:
                # The trouble is behind a good request, whose answer must not be mistaken for ours.
                self.is_deaf = True
                self.pipeline.clear()
                running.keep_alive = False
                logger.info("hanging up on %s: %d %s", self.client, refused.status, refused)
                return
            running.disconnect()
            if running.is_answering:
                logger.info("hanging up on %s: %d %s", self.client, refused.status, refused)
                self.transport.close()
                return
            scope = running.scope
        self.transport.write(self._render(refused, scope))
        self.linger()

    def _render(self, refused: Refused, scope: HTTPScope | None) -> bytes:
        content = type(self).render_refusal(refused)
        refusal = Refusal(refused.status, len(content), str(refused), self.client, scope=scope)
        if target := self._head.target:
            # The method has no line ends or quotes in it: the parser has passed it.
            refusal = replace(
                refusal,
                method=self.parser.get_method().decode("ascii"),
                path=target.partition(b"?")[0].decode("latin-1"),
            )
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(content)),
            (b"connection", b"close"),
        ]
        names = {name for name, _ in headers}
        headers += [added for added in self.observe_refusal(refusal) if added[0] not in names]
        lines = [b"%s: %s\r\n" % header for header in headers]
        return b"".join([STATUS_LINE[refused.status], *lines, b"\r\n", content])

    # Deadlines.

    def _tick(self) -> None:
        self._timer = self.loop.call_later(self.limits.tick, self._tick)
        if self._is_outdated:
            self._end_outdated()
        mark, timeout, act = self._debt()
        now = self.loop.time()
        if mark != self._mark:
            self._mark, self._mark_time = mark, now
        elif mark is not None and now - self._mark_time >= timeout:
            act()

    def _debt(self) -> tuple[Hashable, float, Callable[[], None]]:
        """Return what the client owes us: a mark that changes with progress, the time, the end."""
        limits = self.limits
        running = self._running
        unsent = self.transport.get_write_buffer_size()
        if unsent or self.files.active:
            messages = running.messages if running is not None else 0
            mark = "take the answer", self._requests, messages, unsent, self.files.sent
            return mark, limits.send_timeout, self.transport.abort
        if running is not None and not running.is_over:
            if running.is_receiving and running.more_body:
                body = "send the body", self._requests, running.messages, self._body_received
                return body, limits.body_timeout, self._end_late_body
        elif self.is_deaf:
            return "hang up", limits.drain_timeout, self.transport.close
        elif self._in_head:
            return ("send the head", self._requests), limits.header_timeout, self._end_late_head
        elif self._in_body:
            return ("finish the body", self._requests), limits.drain_timeout, self.transport.close
        else:
            return ("ask", self._requests), self.timeout_keep_alive, self.transport.close
        return None, 0.0, self.transport.close

    @property
    def _is_outdated(self) -> bool:
        if self._certificate is None or self._context is None:
            return False
        return not self.still_vouch(self._context)

    def _end_outdated(self) -> None:
        running = self._running
        if running is None or running.is_over:
            self.transport.close()
        else:
            # It was good when this request began.
            running.keep_alive = False

    def _end_late_head(self) -> None:
        self._end_late("the header fields took longer", self.limits.header_timeout)

    def _end_late_body(self) -> None:
        self._end_late("nothing of the body came for longer", self.limits.body_timeout)

    def _end_late(self, what: str, timeout: float) -> None:
        message = f"{what} than {timeout:g} seconds: try again"
        self._refuse(Refused(HTTPStatus.REQUEST_TIMEOUT, message))
