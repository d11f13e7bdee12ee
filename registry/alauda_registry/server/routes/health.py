"""What machines ask us: alive (``/healthz``, ``/``), ready (``/readyz``), counted (``/metrics``).

They lie outside the application, so that neither limits nor trouble inside it keep them from being
answered.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from http import HTTPStatus

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from alauda_registry.oci.errors import Unsupported
from alauda_registry.server.errors import error_response
from alauda_registry.server.health import HealthMonitor
from alauda_registry.server.metrics.metrics import Metrics
from alauda_registry.server.middleware.envelope import Envelope
from alauda_registry.server.middleware.guard import Guard
from alauda_registry.server.middleware.needs import OTHER_NEEDS, Open

_NO_CACHE = {"Cache-Control": "no-cache"}


class Probes:
    """Answers these four paths and passes everything else on; pure ASGI.

    Args:
        app: What serves everything else.
        health: Knows whether we are ready.
        metrics: What is counted.
        headers: Added to each answer that does not have a header of that name.
        guard: Stands before the counts; None when everybody may read them.
    """

    def __init__(
        self,
        app: ASGIApp,
        health: HealthMonitor,
        metrics: Metrics,
        headers: Mapping[str, Sequence[str]] | None = None,
        guard: Guard | None = None,
    ) -> None:
        self._app = app
        self._headers = headers or {}
        self._health = health
        self._metrics = metrics
        self._guard = guard
        self._endpoints: dict[str, Callable[[], Awaitable[Response]]] = {
            "/": self._alive,
            "/healthz": self._alive,
            "/readyz": self._ready,
            "/metrics": self._counts,
            # Where OpenShift's registry has them.
            "/extensions/v2/metrics": self._counts,
        }

    @property
    def paths(self) -> Collection[str]:
        """What is answered here."""
        return self._endpoints.keys()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        endpoint = self._endpoints.get(scope["path"]) if scope["type"] == "http" else None
        if endpoint is None:
            await self._app(scope, receive, send)
            return
        if scope["method"] in ("GET", "HEAD"):
            response = await self._refusal(scope) or await endpoint()
        else:
            response = error_response(Unsupported("this is for GET and HEAD"))
        await Envelope(response, self._headers)(scope, receive, send)

    async def _refusal(self, scope: Scope) -> Response | None:
        needed = OTHER_NEEDS[scope["path"]]
        if self._guard is None or isinstance(needed, Open):
            return None
        return await self._guard.refusal(scope, needed)

    async def _alive(self) -> Response:
        return Response(headers=_NO_CACHE)

    async def _ready(self) -> Response:
        readiness = self._health.readiness
        status = HTTPStatus.OK if readiness.is_ready else HTTPStatus.SERVICE_UNAVAILABLE
        content: dict[str, object] = {"status": readiness.state, "reason": readiness.reason}
        if readiness.capacity is not None:
            content["storage"] = asdict(readiness.capacity)
        return JSONResponse(content, status, _NO_CACHE)

    async def _counts(self) -> Response:
        self._metrics.flush()
        # Adding up the counts of many workers takes a while.
        content = await asyncio.to_thread(self._metrics.render, self._health.readiness.capacity)
        return Response(content, headers=_NO_CACHE, media_type=CONTENT_TYPE_LATEST)
