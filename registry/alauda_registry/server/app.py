"""Builds the ASGI application. Nothing happens at import time."""

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeAlias

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Mount, Router

from alauda_registry.oci.errors import RegistryError
from alauda_registry.server.errors import render_error
from alauda_registry.server.extensions import ImageRecorder, NoRecorder
from alauda_registry.server.middleware.envelope import Envelope
from alauda_registry.server.routes import (
    base,
    blobs,
    catalog,
    manifests,
    referrers,
    tags,
    uploads,
)
from alauda_registry.server.state import AppState, ServerOptions
from alauda_registry.server.upload_state import UploadStates
from alauda_registry.storage.driver import DriverError
from alauda_registry.storage.repositories import Registry

RegistryOpener: TypeAlias = Callable[[], AbstractAsyncContextManager[Registry]]


def create_app(
    open_registry: RegistryOpener,
    options: ServerOptions | None = None,
    recorder: ImageRecorder | None = None,
) -> Starlette:
    """Assemble the server around a registry.

    Args:
        open_registry: Opens the registry when the server starts and closes it when the
            server stops. Tests pass one that yields a registry they already hold.
        options: How the endpoints behave.
        recorder: Hears of what is pushed and deleted; nobody does unless given.
    """
    options = options or ServerOptions()

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncGenerator[AppState]:
        async with open_registry() as registry:

            async def open_secret() -> bytes:
                return options.secret or await registry.secret()

            yield {
                "registry": registry,
                "options": options,
                "upload_states": UploadStates(open_secret),
                "recorder": recorder or NoRecorder(),
            }

    app = Starlette(
        routes=_v2_routes(options.prefix),
        middleware=[Middleware(Envelope, headers=options.headers)],
        exception_handlers=dict.fromkeys(
            (RegistryError, DriverError, HTTPException, ClientDisconnect), render_error
        ),
        lifespan=lifespan,
    )
    # A redirect would turn a push into a pull, and no client expects one.
    app.router.redirect_slashes = False
    return app


def _v2_routes(prefix: str) -> list[BaseRoute]:
    # The most frequent first: they are tried in this order.
    modules = (manifests, blobs, uploads, base, tags, referrers, catalog)
    routes: list[BaseRoute] = [route for module in modules for route in module.routes]
    path = prefix.rstrip("/")
    return [Mount(path, Router(routes, redirect_slashes=False))] if path else routes
