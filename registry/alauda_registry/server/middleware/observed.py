"""The outermost layer: an id for each request, its line in the log, its place in the counts.

Every answer passes here, so this is written for speed: one small object a request, one pass over
the headers, no copies of anything that streams.
"""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from itertools import count
from typing import cast

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from alauda_registry.oci.errors import StorageUnavailable
from alauda_registry.server.errors import error_response, render_error
from alauda_registry.server.metrics.metrics import Metrics
from alauda_registry.server.middleware.envelope import Envelope
from alauda_registry.server.middleware.handler_names import classify
from alauda_registry.serving.lifespan import live
from alauda_registry.serving.logs import AccessLog, request_id
from alauda_registry.serving.protocol import RawHeader, Refusal

logger = logging.getLogger(__name__)

REQUEST_ID = "alauda.request_id"
"""Where a handler finds the id in the scope."""

_REFUSED = "alauda.refused"
"""Where the scope has the status that the protocol answered with, as the client broke it."""

_ACCEPTABLE = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_QUIET = frozenset({"/", "/healthz", "/readyz", "/metrics"})
"""Asked for every few seconds by machines; in the log they would hide everything else."""


class Observed:
    """Wraps the whole application; pure ASGI.

    Args:
        app: What serves the requests.
        metrics: Counts them.
        access_log: Writes a line for each; None for no lines.
        headers: Added to each answer that is given here.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        access_log: AccessLog | None,
        headers: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._app = app
        self._headers = headers or {}
        self._metrics = metrics
        self._access_log = access_log
        # Unique across processes and restarts, and cheap.
        self._prefix = secrets.token_hex(8)
        self._numbers = count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await live(self._app, scope, receive, send)
            return
        started = time.perf_counter()
        found = user_agent = b""
        has_body = False
        # The protocol was faster when head and broken body came together.
        request = scope.get(REQUEST_ID, "")
        for name, value in scope["headers"]:
            if name == b"user-agent":
                user_agent = value
            elif name == b"x-request-id":
                found = value
            elif name == b"content-length" or name == b"transfer-encoding":
                has_body = True
        if not request:
            is_acceptable = found and _ACCEPTABLE.fullmatch(found)
            request = found.decode("ascii") if is_acceptable else self._make_id()
            scope[REQUEST_ID] = request
        # The task ends with the request, so there is nothing to put back.
        request_id.set(request)
        body = _Body(receive)
        if has_body:
            receive = body
        answer = _Answer(send, (b"x-request-id", request.encode("ascii")))
        metrics = self._metrics
        metrics.in_flight += 1
        try:
            await self._app(scope, receive, answer)
        except (asyncio.CancelledError, Exception) as error:
            if answer.is_started:
                raise
            await self._answer_trouble(error, scope, receive, answer)
        finally:
            seconds = time.perf_counter() - started
            path: str = scope["path"]
            status = scope.get(_REFUSED, answer.status)
            metrics.in_flight -= 1
            metrics.observe_request(
                classify(path),
                scope["method"],
                status,
                seconds,
                body.size,
                answer.size,
            )
            if self._access_log is not None and path not in _QUIET:
                self._access_log.write(
                    scope["method"],
                    path,
                    status,
                    answer.size,
                    seconds,
                    _host(scope.get("client")),
                    user_agent,
                    request,
                )

    def refused(self, refusal: Refusal) -> RawHeader:
        """Note an answer that the protocol gave, and return the header with its id.

        A request that the application has been given is noted when the application is done.
        """
        if refusal.scope is not None:
            scope = cast("Scope", refusal.scope)
            scope[_REFUSED] = refusal.status
            request = scope.setdefault(REQUEST_ID, self._make_id())
        else:
            request = self._make_id()
            handler = classify(refusal.path)
            self._metrics.observe_request(
                handler, refusal.method, refusal.status, 0.0, 0, refusal.size
            )
            if self._access_log is not None:
                self._access_log.write(
                    refusal.method,
                    refusal.path,
                    refusal.status,
                    refusal.size,
                    0.0,
                    _host(refusal.client),
                    b"",
                    request,
                )
        token = request_id.set(request)
        logger.info("refused: %d %s", refusal.status, refusal.reason)
        request_id.reset(token)
        return b"x-request-id", request.encode("ascii")

    async def _answer_trouble(
        self, error: BaseException, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Say what became of a request that nothing inside has answered."""
        if isinstance(error, Exception):
            response = await render_error(Request(scope), error)
        else:
            response = error_response(StorageUnavailable("the server is stopping: try again"))
        await Envelope(response, self._headers)(scope, receive, send)

    def _make_id(self) -> str:
        return f"{self._prefix}-{next(self._numbers):x}"


class _Body:
    """Passes the body of a request on, and notes its size."""

    __slots__ = ("_receive", "size")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.size = 0

    async def __call__(self) -> Message:
        message = await self._receive()
        self.size += len(message.get("body", b""))
        return message


class _Answer:
    """Passes an answer on, and notes its status and size."""

    __slots__ = ("_header", "_send", "is_started", "size", "status")

    def __init__(self, send: Send, header: tuple[bytes, bytes]) -> None:
        self._send = send
        self._header = header
        self.is_started = False
        self.status = 500
        self.size = 0

    async def __call__(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.body":
            self.size += len(message.get("body", b""))
        elif kind == "http.response.start":
            self.is_started = True
            self.status = message["status"]
            # A copy: short-cuts may use one message for many answers.
            message = {**message, "headers": [*message.get("headers", ()), self._header]}
        elif kind == "http.response.zerocopysend":
            self.size += message.get("count") or 0
        await self._send(message)


def _host(client: tuple[str, int] | None) -> str:
    # An IPv4 client on the socket for both families.
    return client[0].removeprefix("::ffff:") if client else ""
