"""What every request passes before the application: probes, who, how many at once, and whether.

Every answer is a Status or what the application says, whatever goes wrong here. Requests that
kube-apiserver passed on are in its audit log; those that came directly are in ours.
"""

import logging
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from starlette.datastructures import QueryParams
from starlette.responses import Response
from starlette.routing import Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from alauda_imageapi.cluster.authentication import Authentication, Caller, strip
from alauda_imageapi.cluster.authorization import Authorization
from alauda_imageapi.cluster.front_proxy import Trust
from alauda_imageapi.cluster.health import PATHS, Health
from alauda_imageapi.cluster.in_flight import InFlight
from alauda_imageapi.cluster.metrics import Metrics
from alauda_imageapi.machinery.application import USER, error_answer
from alauda_imageapi.machinery.errors import (
    InternalError,
    ServiceUnavailable,
    StatusError,
)
from alauda_imageapi.machinery.request_info import attributes_of
from alauda_imageapi.machinery.targets import parse_segments
from alauda_registry.kube.client import Attributes
from alauda_registry.serving.lifespan import live

logger = logging.getLogger(__name__)
audit = logging.getLogger("audit")

_LONGEST_PATH = 1024
_READS = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(slots=True)
class Opened:
    """What there is while the server runs."""

    app: ASGIApp
    authentication: Authentication
    authorization: Authorization
    metrics: Metrics
    trust: Callable[[], Trust]


class Front:
    """The ASGI application that is served.

    Args:
        lifespan: Opens the rest.
        health: Answers probes.
        in_flight: Says how many requests there may be at once.
    """

    def __init__(
        self,
        lifespan: Callable[["Front"], AbstractAsyncContextManager[None]],
        health: Health,
        in_flight: InFlight | None = None,
    ) -> None:
        self.opened: Opened | None = None
        self._router = Router(lifespan=lambda _app: lifespan(self))
        self._health = health
        self._in_flight = in_flight or InFlight()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or open and close."""
        if scope["type"] != "http":
            await live(self._router, scope, receive, send)
            return
        answer = _Answer(send, closes=lambda: self._health.is_ending)
        request = _Request(scope, time.monotonic())
        try:
            try:
                await self._serve(request, receive, answer)
            except StatusError as error:
                await error_answer(error)(scope, receive, answer)
            except Exception:
                if answer.status:
                    raise
                logger.exception("cannot answer %s: unforeseen trouble", scope["method"])
                opaque = InternalError("Internal error occurred: the log says which")
                await error_answer(opaque)(scope, receive, answer)
        finally:
            self._note(request, answer)

    async def _serve(self, request: "_Request", receive: Receive, answer: "_Answer") -> None:
        scope, opened = request.scope, self.opened
        segments = parse_segments(scope["raw_path"])
        query = QueryParams(scope["query_string"])
        if segments[0] in PATHS and len(segments) <= 2 and scope["method"] in ("GET", "HEAD"):
            part = segments[1] if len(segments) > 1 else ""
            probed = self._health.answer(segments[0], part, is_verbose="verbose" in query)
            if probed is not None:
                request.is_probe = True
                await probed(scope, receive, answer)
                return
        values = dict(reversed(query.multi_items()))
        request.attributes = attributes = attributes_of(scope["method"], segments, values)
        if opened is None:
            raise ServiceUnavailable("the server is starting, or stopping")
        request.caller = caller = await opened.authentication.authenticate(scope)
        answer.is_proxied = caller.is_proxied
        strip(scope, opened.trust())
        if segments == ["metrics"] and scope["method"] == "GET":
            # Without a place: it is during a flood that somebody wants to see it. Whether they may
            # is asked once for all who ask at the same time.
            await opened.authorization.require(caller.user, attributes)
            shown = Response(opened.metrics.render(), media_type="text/plain; version=0.0.4")
            await shown(scope, receive, answer)
            return
        place = self._in_flight.enter(caller.user, reads=scope["method"] in _READS)
        opened.metrics.show_running(*self._in_flight.running)

        def leave() -> None:
            place.leave()
            opened.metrics.show_running(*self._in_flight.running)

        try:
            await opened.authorization.require(caller.user, attributes)
            scope[USER] = caller.user
            if attributes.verb == "watch" and scope["method"] == "GET":
                await _watch(scope, opened, attributes, leave, receive, answer)
            else:
                # Also a HEAD, which is answered like a list, whatever its query says.
                await opened.app(scope, receive, answer)
        finally:
            leave()

    def _note(self, request: "_Request", answer: "_Answer") -> None:
        opened = self.opened
        if request.is_probe or opened is None:
            return
        seconds = time.monotonic() - request.begun
        if request.attributes is not None:
            opened.metrics.answered(
                opened.metrics.labels(request.attributes), answer.status, seconds
            )
        caller = request.caller
        if caller is not None and caller.is_proxied:
            return
        scope = request.scope
        client = scope.get("client")
        audit.info(
            "direct request: %s %s by %s from %s: %d in %.3f s, audit id %s",
            scope["method"],
            scope["path"][:_LONGEST_PATH],
            caller.user.username if caller is not None else "(unknown)",
            client[0] if client else "-",
            answer.status,
            seconds,
            answer.audit_id,
        )


async def _watch(
    scope: Scope,
    opened: Opened,
    attributes: Attributes,
    leave: Callable[[], None],
    receive: Receive,
    answer: "_Answer",
) -> None:
    """Let the application answer; once that has begun, it is none of the others' any more."""
    labels = opened.metrics.labels(attributes)

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            leave()
        await answer(message)

    opened.metrics.watch(labels, 1)
    try:
        await opened.app(scope, receive, send)
    finally:
        opened.metrics.watch(labels, -1)


@dataclass(slots=True)
class _Request:
    """What is found out about a request on its way."""

    scope: Scope
    begun: float
    attributes: Attributes | None = None
    caller: Caller | None = None
    is_probe: bool = False


class _Answer:
    """Sees an answer go out, and puts right what depends on the way it takes.

    kube-apiserver has given requests it passes on an audit id and returns that; a second one would
    only confuse. A server that is about to stop lets go of its connections one by one, each with
    an answer, so that nobody sends a request into a connection that is being closed.
    """

    def __init__(self, send: Send, closes: Callable[[], bool]) -> None:
        self._send = send
        self._closes = closes
        self.status = 0
        self.is_proxied = False

    @cached_property
    def audit_id(self) -> str:
        """Of a request that came directly."""
        return str(uuid.uuid4())

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers: list[Any] = [
                header for header in message.get("headers", ()) if header[0] != b"audit-id"
            ]
            if not self.is_proxied:
                headers.append((b"audit-id", self.audit_id.encode()))
            if self._closes():
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        await self._send(message)
