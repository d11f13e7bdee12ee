"""One process that serves: the application, and what surrounds it.

This is where the pieces meet, and the only module that knows both settings and storage.
"""

import asyncio
import gc
import logging
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import uvicorn
from starlette.types import ASGIApp

from alauda_registry.server.addresses import split_address
from alauda_registry.server.app import create_app
from alauda_registry.server.authentication import open_authentication
from alauda_registry.server.background import running_in_background
from alauda_registry.server.clients import Proxies
from alauda_registry.server.envelope import encode_headers
from alauda_registry.server.extensions import ExtensionSlot, Surroundings
from alauda_registry.server.guard import Guard
from alauda_registry.server.health import HealthMonitor
from alauda_registry.server.limits import Gate, Limit, RequestLimits
from alauda_registry.server.listening import BACKLOG, describe_address
from alauda_registry.server.logs import AccessLog, configure_logging
from alauda_registry.server.metrics import Metrics
from alauda_registry.server.middleware import Observed
from alauda_registry.server.protocol import ProtocolLimits, RegistryHttpProtocol
from alauda_registry.server.roots import claim_of
from alauda_registry.server.routes.health import Probes
from alauda_registry.server.routes.token import TokenEndpoint
from alauda_registry.server.serving import Place, Server
from alauda_registry.server.settings import CannotStart, RequestLimit, Settings
from alauda_registry.server.short_cut import ShortCut
from alauda_registry.server.state import ServerOptions
from alauda_registry.server.tls import Certificates
from alauda_registry.storage.claims import NotMounted, default_reserve
from alauda_registry.storage.driver import DriverError, StorageDriver
from alauda_registry.storage.drivers.filesystem import FilesystemDriver
from alauda_registry.storage.drivers.inmemory import InMemoryDriver
from alauda_registry.storage.drivers.pvc import PVCDriver
from alauda_registry.storage.repositories import Health, Registry, StorageOptions
from alauda_registry.storage.timed import TimedDriver

logger = logging.getLogger(__name__)

_OBJECTS_BETWEEN_COLLECTIONS = 20_000


class Worker:
    """Everything one process holds.

    Args:
        settings: Of the whole server.
        place: Among the other workers; None for the only one.
        extension: Where to find what is served beside the registry, if anything is.
    """

    def __init__(
        self, settings: Settings, place: Place | None = None, extension: str | None = None
    ) -> None:
        self._settings = settings
        self._place = place
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
            place.counts if place else None,
            self._index,
            settings.workers,
        )
        tls = settings.http.tls
        self._certificates = Certificates(tls) if tls.certificate else None
        self._authentication = open_authentication(settings)
        self._extension = ExtensionSlot(extension) if extension else None
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
        server = Server(
            self._uvicorn_config(self._build_app(registry)),
            place=self._place,
            drain_delay=http.drain_delay.total_seconds(),
            drain_timeout=http.drain_timeout.total_seconds(),
            on_started=on_started,
            on_drain=self._drain,
            on_hangup=self._certificates.reload if self._certificates else lambda: None,
        )
        _spare_the_garbage_collector()
        try:
            server.run(sockets=[sock])
        finally:
            if self._authentication is not None:
                self._authentication.close()
            if self._access_log is not None:
                self._access_log.flush()

    def _open_driver(self) -> StorageDriver:
        """Open the volume that the other workers have opened, and no other."""
        shared = self._place.volume if self._place else None
        driver = open_driver(self._settings, shared.value.decode() if shared else None)
        if shared and isinstance(driver, FilesystemDriver):
            shared.value = (driver.volume or "").encode()
        return driver

    def _build_app(self, registry: Registry) -> Observed:
        """The application with everything around it, outermost last."""
        options = server_options(self._settings)
        app: ASGIApp = create_app(lambda: self._opened(registry), options, self._extension)
        app = ShortCut(app, prefix=options.prefix, headers=options.headers)
        guard = self._guard(app, options)
        app = self._with_tokens(guard or app, options)
        app = RequestLimits(
            app,
            self._gate("read", self._settings.read_limit),
            self._gate("write", self._settings.write_limit),
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
            proxies=Proxies(self._settings.http.trusted_proxies),
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
            proxies=Proxies(self._settings.http.trusted_proxies),
            prefix=options.prefix,
            takes_certificates=self._authentication.gate.takes_certificates,
            headers=options.headers,
        )

    @property
    def _index(self) -> int:
        return self._place.index if self._place else 0

    def _uvicorn_config(self, app: Observed) -> uvicorn.Config:
        limits, http = self._settings.limits, self._settings.http
        certificates = self._certificates
        headers = encode_headers(http.headers)
        return uvicorn.Config(
            app,
            loop="uvloop",
            http=RegistryHttpProtocol.configured(
                ProtocolLimits(
                    header_bytes=limits.header_size,
                    header_timeout=limits.header_timeout.total_seconds(),
                    body_timeout=limits.body_timeout.total_seconds(),
                    send_timeout=limits.body_timeout.total_seconds(),
                ),
                lambda refusal: [app.refused(refusal), *headers],
            ),
            ws="none",
            lifespan="on",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=max(1, int(limits.keep_alive.total_seconds())),
            timeout_graceful_shutdown=int(http.drain_timeout.total_seconds()),
            ssl_context_factory=(lambda *_: certificates.context) if certificates else None,
        )

    def _gate(self, kind: str, limit: RequestLimit) -> Gate | None:
        share = Limit.share(limit, self._index, self._settings.workers)
        if share is None:
            return None
        return Gate(
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


def _spare_the_garbage_collector() -> None:
    """Leave out what lives as long as the process, and look less often for what does not.

    Requests make little that refers to itself, and the collector would look through everything
    that was imported, again and again, to find it.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)


def open_driver(settings: Settings, volume: str | None = None) -> StorageDriver:
    """The one list of storage drivers.

    Args:
        settings: Say which it is to be.
        volume: The identity that a directory must have; None or "" for any.

    Raises:
        CannotStart: The driver cannot use what it is to keep bytes in.
    """
    storage = settings.storage
    root = storage.root
    if storage.s3 is not None:
        # botocore takes a while to import, and memory.
        from alauda_registry.server.buckets import open_bucket

        return open_bucket(settings, storage.s3)
    try:
        if root is None:
            return InMemoryDriver()
        if storage.pvc is None:
            return FilesystemDriver(Path(root), volume=volume or None)
        reserve = storage.pvc.reserve
        return PVCDriver(
            Path(root),
            claim_of(storage.pvc),
            reserve=reserve.of if reserve else default_reserve,
            volume=volume or None,
        )
    except NotMounted as error:
        raise CannotStart(error.reason) from error
    except OSError as error:
        where, advice = str(error.filename), ""
        if where.startswith("/_driver"):
            advice = "; remove it, or let this user write to it: it holds no images"
        raise CannotStart(f"cannot use {root}: {where}: {error.strerror}{advice}") from error
    except DriverError as error:
        raise CannotStart(f"cannot use {root}: {error}") from error


def server_options(settings: Settings) -> ServerOptions:
    """What the handlers need to know."""
    http, delete = settings.http, settings.storage.delete
    return ServerOptions(
        prefix=http.prefix,
        external_url=http.host,
        relative_urls=http.relative_urls,
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


async def _expire_uploads(registry: Registry, interval: float) -> None:
    while True:
        await asyncio.sleep(interval)
        removed = await registry.expire_uploads()
        if removed:
            logger.info("removed %d upload sessions that nobody went on with", removed)
