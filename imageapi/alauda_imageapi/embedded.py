"""The image API beside the standalone registry: ``image-registry serve --image-api``.

Found as an entry point and known to the server by the protocols of
``alauda_registry.server.extensions`` alone, which this module fits without importing them.
Where the registry asks who somebody is, so does this, by the registry's own door. Of whoever does
not say it, or need not, requests that a browser could be tricked into are refused: those for a host
that is not ours (rebinding), and writes without a JSON content type (posts from other sites).
"""

import asyncio
import ipaddress
import logging
import tempfile
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from starlette.requests import Request
from starlette.types import ASGIApp

from alauda_imageapi.access import Door, Doorstep
from alauda_imageapi.kinds.catalog import build_kinds
from alauda_imageapi.kinds.names import GROUP
from alauda_imageapi.machinery import bodies
from alauda_imageapi.machinery.application import USER, ApiServer
from alauda_imageapi.machinery.errors import Forbidden
from alauda_imageapi.machinery.openapi import PATCH_TYPES
from alauda_imageapi.machinery.sqlite import SQLiteStore
from alauda_imageapi.machinery.store import StoreError, StoreUnavailable
from alauda_imageapi.machinery.watch_limits import WatchLimits
from alauda_imageapi.recorder import StorageContent, StorageRecorder
from alauda_imageapi.version import server_version
from alauda_registry.storage.repositories import Registry

logger = logging.getLogger(__name__)

_RETRY_SECONDS = 30.0
_WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_TYPES = ("application/json", "application/yaml", *PATCH_TYPES)


class Surroundings(Protocol):
    """What the server gives; its `Surroundings` has the meanings."""

    @property
    def registry(self) -> Registry: ...  # noqa: D102
    @property
    def address(self) -> str: ...  # noqa: D102
    @property
    def hosts(self) -> frozenset[str]: ...  # noqa: D102
    @property
    def database(self) -> Path | None: ...  # noqa: D102
    @property
    def is_first(self) -> bool: ...  # noqa: D102
    @property
    def read_only(self) -> bool: ...  # noqa: D102
    @property
    def may_untag(self) -> bool: ...  # noqa: D102
    @property
    def door(self) -> Door | None: ...  # noqa: D102


class ImageApi:
    """The image API while it is open."""

    def __init__(
        self, app: ASGIApp, server: ApiServer, recorder: StorageRecorder, store: SQLiteStore
    ) -> None:
        self.app = app
        self.recorder = recorder
        self._server = server
        self._store = store

    def check(self) -> str:
        """Say why it cannot serve; nothing when it can."""
        return self._store.trouble

    def drain(self) -> None:
        """End the watches, as the server stops."""
        self._server.stop()


@asynccontextmanager
async def open_image_api(surroundings: Surroundings) -> AsyncGenerator[ImageApi]:
    """Have the image API open for the length of an ``async with`` block.

    Raises:
        OSError: Its database cannot be used.
    """
    registry = surroundings.registry
    async with AsyncExitStack() as stack:
        database = surroundings.database
        if database is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="image-api-"))
            database = Path(folder, "objects.db")
        try:
            store = await stack.enter_async_context(SQLiteStore.opened(database))
        except StoreUnavailable as error:
            advice = "set imageapi.database to a file on a local disk, or move this one away"
            raise OSError(f"{error}: {advice}") from error
        content = StorageContent(registry, may_untag=surroundings.may_untag)
        kinds = build_kinds(store, registry=surroundings.address, content=content)
        server = ApiServer(
            GROUP,
            kinds.resources,
            server_version(),
            guard=Guard(surroundings.hosts),
            read_only=surroundings.read_only,
            implicit_namespaces=True,
            # Without a door everybody is the same user.
            watch_limits=WatchLimits() if surroundings.door else WatchLimits(per_user=0),
        )
        recorder = StorageRecorder(kinds, registry, surroundings.address)
        if surroundings.is_first:
            reconciling = asyncio.ensure_future(_reconcile(recorder))
            stack.push_async_callback(_cancel, reconciling)
        door = surroundings.door
        app = server if door is None else Doorstep(server, door)
        yield ImageApi(app, server, recorder, store)


class Guard:
    """Refuses what a browser could be tricked into sending in the name of nobody in particular.

    Args:
        hosts: Names under which the server may be asked, besides IP addresses and localhost.
    """

    def __init__(self, hosts: frozenset[str]) -> None:
        self._hosts = hosts | {"localhost"}

    def __call__(self, request: Request[Any]) -> None:
        """Let a request pass.

        Raises:
            Forbidden: It is for another host.
            UnsupportedMediaType: It changes something, and does not say that it has JSON.
        """
        if USER in request.scope:
            # What they have shown no other page's script has.
            return
        host = _host(request.headers.get("host", ""))
        if host not in self._hosts and not _is_address(host):
            # A name that leads here today may have led to a page's own server before.
            raise Forbidden(
                f"this server is not known as {host[:64]!r}: set http.host to the URL under which "
                "clients reach it"
            )
        is_write = request.method in _WRITES and _has_body(request)
        is_ours = request.url.path.startswith(f"/apis/{GROUP.name}/")
        if is_write and is_ours and bodies.content_type(request) not in _TYPES:
            # Pages of other sites can send forms and plain text without being asked back.
            raise bodies.unsupported(_TYPES)


async def _reconcile(recorder: StorageRecorder) -> None:
    while True:
        try:
            await recorder.reconcile()
        except (StoreError, OSError) as error:
            logger.error("the image API may not show all: %s", error)  # noqa: TRY400,RUF100
            await asyncio.sleep(_RETRY_SECONDS)
        else:
            return


async def _cancel(task: "asyncio.Future[None]") -> None:
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled() and task.exception() is not None:
        logger.error("the storage was not read to its end", exc_info=task.exception())


def _has_body(request: Request[Any]) -> bool:
    length = request.headers.get("content-length", "0")
    return "transfer-encoding" in request.headers or length.strip("0") != ""


def _host(header: str) -> str:
    host, _, port = header.rpartition(":")
    if header.endswith("]") or not port.isdecimal():
        host = header
    return host.strip("[]").lower().rstrip(".")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
