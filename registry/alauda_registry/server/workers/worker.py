"""One process that serves: the application, and what surrounds it. Here the pieces meet."""

import asyncio
import logging
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import uvicorn
from starlette.types import ASGIApp

from alauda_registry.server.app import create_app
from alauda_registry.server.configuration.settings import RequestLimit, Settings
from alauda_registry.server.errors import render_refusal
from alauda_registry.server.extensions import ExtensionSlot, Surroundings
from alauda_registry.server.health import HealthMonitor
from alauda_registry.server.metrics.metrics import Metrics
from alauda_registry.server.middleware.envelope import API_VERSION, encode_headers
from alauda_registry.server.middleware.guard import Guard
from alauda_registry.server.middleware.limits import Limit, RequestLimits, Turnstile
from alauda_registry.server.middleware.observed import Observed
from alauda_registry.server.middleware.short_cut import ShortCut
from alauda_registry.server.opening.authentication import open_authentication
from alauda_registry.server.opening.certificates import open_certificates
from alauda_registry.server.opening.drivers import open_driver
from alauda_registry.server.proxies import Proxies
from alauda_registry.server.routes.health import Probes
from alauda_registry.server.routes.token import TokenEndpoint
from alauda_registry.server.state import ServerOptions
from alauda_registry.server.workers.siblings import Siblings, WorkerServer
from alauda_registry.serving.addresses import split_address
from alauda_registry.serving.background import running_in_background
from alauda_registry.serving.listening import describe_address
from alauda_registry.serving.logs import AccessLog, configure_logging
from alauda_registry.serving.process import configure
from alauda_registry.serving.protocol import HttpProtocol, ProtocolLimits
from alauda_registry.storage.driver import StorageDriver
from alauda_registry.storage.drivers.filesystem import FilesystemDriver
from alauda_registry.storage.repositories import Health, Registry, StorageOptions
from alauda_registry.storage.timed import TimedDriver

logger = logging.getLogger(__name__)


class Worker:
    """Everything one process holds.

    Args:
        settings: Of the whole server.
        siblings: The other workers; None for the only one.
        extension: Where to find what is served beside the registry, if anything is.
    """

    def __init__(
        self, settings: Settings, siblings: Siblings | None = None, extension: str | None = None
    ) -> None:
        self._settings = settings
        self._siblings = siblings
        is_json = configure_logging(settings.log.level, settings.log.formatter, settings.log.fields)
        self._access_log = (
            None
            if settings.log.access_log.disabled
            else AccessLog(is_json=is_json, fields=settings.log.fields)
        )
        check = settings.health.storage_driver
        self._health = HealthMonitor(
            interval=check.interval.total_seconds(),
            threshold=check.threshold,
            is_checked=check.enabled,
        )
        self._metrics = Metrics(
            settings.storage.driver,
            siblings.counts if siblings else None,
            self._index,
            settings.workers,
        )
        tls = settings.http.tls
        self._certificates = open_certificates(tls) if tls.certificate else None
        self._authentication = open_authentication(
            settings, siblings.failures if siblings else None
        )
        self._extension = ExtensionSlot(extension) if extension else None
        self._door: Guard | None = None
        self._address = ""

    def serve(self, sock: socket.socket, on_started: Callable[[], None]) -> None:
        """Serve until told to stop.

        Raises:
            CannotStart: Storage cannot be used.
            SystemExit: The application could not start; the log says why.
        """
        driver = TimedDriver(self._open_driver(), self._metrics.observe_storage)
        registry = Registry(driver, storage_options(self._settings))
        http = self._settings.http
        self._address = describe_address(sock)
        server = WorkerServer(
            self._uvicorn_config(self._build_app(registry)),
            siblings=self._siblings,
            drain_delay=http.drain_delay.total_seconds(),
            drain_timeout=http.drain_timeout.total_seconds(),
            on_started=on_started,
            on_drain=self._drain,
            on_hangup=self._certificates.reload if self._certificates else lambda: None,
        )
        try:
            server.run(sockets=[sock])
        finally:
            if self._authentication is not None:
                self._authentication.close()
            if self._access_log is not None:
                self._access_log.flush()

    def _open_driver(self) -> StorageDriver:
        """Open the volume that the other workers have opened, and no other."""
        shared = self._siblings.volume if self._siblings else None
        driver = open_driver(self._settings, shared.value.decode() if shared else None)
        if shared and isinstance(driver, FilesystemDriver):
            shared.value = (driver.volume or "").encode()
        return driver

    def _build_app(self, registry: Registry) -> Observed:
        """The application with everything around it, outermost last."""
        options = server_options(self._settings)
        app: ASGIApp = create_app(lambda: self._opened(registry), options, self._extension)
        app = ShortCut(app, prefix=options.prefix, headers=options.headers)
        guard = self._door = self._guard(app, options)
        app = self._with_tokens(guard or app, options)
        app = RequestLimits(
            app,
            self._turnstile("read", self._settings.read_limit),
            self._turnstile("write", self._settings.write_limit),
            self._metrics.observe_rejected,
            options.headers,
        )
        if self._extension is not None:
            # Outside the limits: a watch would hold its place for ever.
            app = self._extension.beside(app)
        authentication = self._authentication
        is_guarded = authentication is not None and authentication.guards_metrics
        app = Probes(
            app, self._health, self._metrics, options.headers, guard if is_guarded else None
        )
        return Observed(app, self._metrics, self._access_log, options.headers)

    def _guard(self, app: ASGIApp, options: ServerOptions) -> Guard | None:
        """What stands before it, if anything does."""
        if self._authentication is None:
            return None
        return Guard(
            app,
            self._authentication.gate,
            self._authentication.realm,
            proxies=options.proxies,
            prefix=options.prefix,
            headers=options.headers,
        )

    def _with_tokens(self, app: ASGIApp, options: ServerOptions) -> ASGIApp:
        """The token endpoint beside it, if tokens are made here."""
        if self._authentication is None or self._authentication.service is None:
            return app
        return TokenEndpoint(
            app,
            self._authentication.service,
            proxies=options.proxies,
            prefix=options.prefix,
            takes_certificates=self._authentication.gate.takes_certificates,
            headers=options.headers,
        )

    @property
    def _index(self) -> int:
        return self._siblings.index if self._siblings else 0

    def _uvicorn_config(self, app: Observed) -> uvicorn.Config:
        limits, http = self._settings.limits, self._settings.http
        headers = encode_headers(http.headers)
        return configure(
            app,
            HttpProtocol.configured(
                ProtocolLimits(
                    header_bytes=limits.header_size,
                    header_timeout=limits.header_timeout.total_seconds(),
                    body_timeout=limits.body_timeout.total_seconds(),
                    send_timeout=limits.body_timeout.total_seconds(),
                ),
                render_refusal,
                lambda refusal: [API_VERSION, app.refused(refusal), *headers],
                self._certificates.still_vouch if self._certificates else None,
            ),
            keep_alive=limits.keep_alive.total_seconds(),
            drain_timeout=http.drain_timeout.total_seconds(),
            certificates=self._certificates,
        )

    def _turnstile(self, kind: str, limit: RequestLimit) -> Turnstile | None:
        whole = limit_of_requests(limit)
        if whole is None:
            return None
        share = whole.share(self._index, self._settings.workers)
        return Turnstile(
            share, lambda running, waiting: self._metrics.observe_queue(kind, running, waiting)
        )

    @asynccontextmanager
    async def _opened(self, registry: Registry) -> AsyncGenerator[Registry]:
        """Run what goes on in the background while the registry is open, then close it."""
        authentication = self._authentication
        try:
            async with self._extended(registry):
                await self._health.check_once(lambda: self._check(registry))
                async with (
                    authentication.running() if authentication else nullcontext(),
                    running_in_background(*self._duties(registry)),
                ):
                    yield registry
        finally:
            await registry.aclose()

    def _extended(self, registry: Registry) -> AbstractAsyncContextManager[None]:
        """Have the extension open, if there is one."""
        if self._extension is None:
            return nullcontext()
        settings, options = self._settings, server_options(self._settings)
        root, database = settings.storage.root, settings.image_api.database
        if database is None and root is not None:
            database = f"{root}/_imageapi/objects.db"
        external = urlsplit(options.external_url or "")
        bound, _ = split_address(settings.http.addr)
        surroundings = Surroundings(
            registry=registry,
            address=external.netloc or self._address,
            hosts=frozenset(filter(None, (external.hostname, bound.lower()))),
            database=Path(database) if database else None,
            is_first=self._index == 0,
            read_only=options.read_only,
            may_untag=options.delete_enabled and options.delete_tags,
            door=self._door,
        )
        return self._extension.opened(surroundings)

    async def _check(self, registry: Registry) -> Health:
        health = await registry.health()
        trouble = self._extension.check() if self._extension else ""
        return replace(health, ready=False, message=trouble) if trouble else health

    def _drain(self) -> None:
        self._health.drain()
        if self._extension is not None:
            self._extension.drain()

    def _duties(self, registry: Registry) -> list[Callable[[], Awaitable[None]]]:
        duties: list[Callable[[], Awaitable[None]]] = [
            lambda: self._health.watch(lambda: self._check(registry)),
            self._metrics.flush_regularly,
        ]
        if self._certificates is not None:
            duties.append(self._certificates.watch)
        maintenance = self._settings.storage.maintenance
        if (
            self._index == 0
            and maintenance.upload_purging.enabled
            and not maintenance.read_only.enabled
        ):
            interval = maintenance.upload_purging.interval.total_seconds()
            duties.append(lambda: _expire_uploads(registry, interval))
        return duties


def server_options(settings: Settings) -> ServerOptions:
    """What the handlers need to know."""
    http, delete = settings.http, settings.storage.delete
    return ServerOptions(
        prefix=http.prefix,
        external_url=http.host,
        relative_urls=http.relative_urls,
        proxies=Proxies(http.trusted_proxies),
        headers=http.headers,
        secret=http.secret.get_secret_value().encode() if http.secret else None,
        read_only=settings.storage.maintenance.read_only.enabled,
        delete_enabled=delete.enabled,
        delete_tags=delete.tags,
        delete_manifests=delete.manifests,
        delete_blobs=delete.blobs,
        anonymous_mount=settings.auth.is_none,
        max_manifest_size=settings.limits.manifest_size,
        tags_max=settings.tags.max_tags,
        catalog_max_entries=settings.catalog.max_entries,
    )


def storage_options(settings: Settings) -> StorageOptions:
    """What the stores need to know."""
    maintenance = settings.storage.maintenance
    return StorageOptions(
        upload_age=maintenance.upload_purging.age,
        allow_sparse=settings.validation.allow_sparse,
        read_only=maintenance.read_only.enabled,
    )


def limit_of_requests(limit: RequestLimit) -> Limit | None:
    """What all workers together may do at once; None for anything."""
    if not limit.max_running:
        return None
    seconds = limit.max_wait_in_queue.total_seconds() or None
    return Limit(limit.max_running, limit.max_in_queue, seconds)


async def _expire_uploads(registry: Registry, interval: float) -> None:
    while True:
        await asyncio.sleep(interval)
        removed = await registry.expire_uploads()
        if removed:
            logger.info("removed %d upload sessions that nobody went on with", removed)
