"""An image API over a file of its own, asked through its front door."""

import asyncio
import itertools
import json
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from starlette.types import Message, Scope

from alauda_imageapi.cluster.records.store import RecordStore
from alauda_imageapi.cluster.records.watch_cache import RecordLimits
from alauda_imageapi.kinds.catalog import Kinds, build_kinds
from alauda_imageapi.kinds.content import Content
from alauda_imageapi.kinds.names import GROUP
from alauda_imageapi.kinds.pull_secrets import PullSecrets
from alauda_imageapi.machinery.application import USER, ApiServer, Guard, Version
from alauda_imageapi.machinery.metadata import Surroundings
from alauda_imageapi.machinery.resources import (
    Permission,
    Reservation,
    allow_all,
    reserve_nothing,
)
from alauda_imageapi.machinery.sqlite import SQLiteStore
from alauda_imageapi.machinery.sqlite_file import StoreLimits
from alauda_imageapi.machinery.store import ObjectStore
from alauda_imageapi.machinery.watch_limits import WatchLimits
from alauda_registry.kube.client import UserInfo
from alauda_registry.kube.inmemory_resources import InMemoryResources
from alauda_registry.serving.exchange import ABORT

REGISTRY = "localhost:5000"
BASE = "/apis/image.alauda.io/v1"
DIGEST = "sha256:" + "a" * 64
LIMITS = StoreLimits(poll_seconds=0.01, reach_seconds=0.05, log_rows=50)

TABLE = "application/json;as=Table;g=meta.k8s.io;v=v1"
METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"


@dataclass
class Clock:
    """Time that goes on when it is told to, and names that are the same each time."""

    moment: datetime = field(default_factory=lambda: datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))

    def advance(self, **step: float) -> None:
        self.moment += timedelta(**step)

    def surroundings(self) -> Surroundings:
        uids, suffixes = itertools.count(1), itertools.count(1)
        return Surroundings(
            lambda: self.moment, lambda: f"uid-{next(uids)}", lambda: f"{next(suffixes):05}"
        )


@dataclass
class Api:
    """An API that is open."""

    server: ApiServer
    client: httpx.AsyncClient
    kinds: Kinds
    store: ObjectStore
    clock: Clock
    forget: Callable[[], None]

    async def call(
        self, method: str, path: str, body: Any = None, *, kind: str = "", **headers: str
    ) -> httpx.Response:
        """Ask for a path below the group's, or an absolute one."""
        if body is not None:
            headers["Content-Type"] = kind or "application/json"
        content = body if isinstance(body, bytes) else None if body is None else json.dumps(body)
        url = path if path.startswith("/") else f"{BASE}/{path}"
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = await self.client.request(method, url, content=content, headers=named)
        # What holds for every answer there is.
        assert not answer.is_redirect
        assert answer.headers["content-type"].startswith("application/json")
        if answer.content:
            check_answer(answer.json(), answer.status_code)
        return answer

    async def get(self, path: str, **headers: str) -> Any:
        answer = await self.call("GET", path, **headers)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def make(self, path: str, body: Any, status: int = 201) -> Any:
        answer = await self.call("POST", path, body)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def patch(self, path: str, body: Any, kind: str, status: int = 200, **more: str) -> Any:
        answer = await self.call("PATCH", path, body, kind=kind, **more)
        assert answer.status_code == status, answer.text
        return answer.json()

    @asynccontextmanager
    async def watch(
        self,
        path: str,
        *,
        lines: "Lines | None" = None,
        user: str = "",
        groups: tuple[str, ...] = (),
        **headers: str,
    ) -> "AsyncGenerator[Lines]":
        """Follow a path for the length of a block.

        Args:
            path: Below the group's.
            lines: Take what is sent.
            user: Who asks; by default nobody that is known.
            groups: Of the user.
            headers: Of the request.
        """
        lines = lines or Lines()
        url, _, query = f"{BASE}/{path}".partition("?")
        scope: Scope = {
            "type": "http",
            "method": "GET",
            "path": url,
            "raw_path": url.encode(),
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "extensions": {ABORT: {}},
        }
        if user:
            scope[USER] = UserInfo(user, groups=groups)
        task = asyncio.ensure_future(self.server(scope, lines.receive, lines.send))
        try:
            yield lines
        finally:
            lines.hang_up()
            await asyncio.wait_for(task, 30)


class Lines:
    """What a watch sends."""

    def __init__(self) -> None:
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self._lines: deque[bytes] = deque()
        self._rest = b""
        self._gone = asyncio.Event()
        self.headers: dict[bytes, bytes] = {}

    async def receive(self) -> Message:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        await self._messages.put(message)

    def hang_up(self) -> None:
        self._gone.set()

    async def started(self) -> int:
        message = await self._next()
        self.headers = dict(message["headers"])
        status: int = message["status"]
        return status

    async def next(self) -> Any:
        """Return the next event; None at the end."""
        while not self._lines:
            message = await self._next()
            if message["type"] == "http.response.start":
                continue
            *ended, self._rest = (self._rest + message["body"]).split(b"\n")
            self._lines += ended
            if not message.get("more_body"):
                return json.loads(self._rest) if self._rest else None
        return json.loads(self._lines.popleft())

    async def take(self, count: int) -> list[tuple[str, str]]:
        """Return type and name of the next events."""
        events = [await self.next() for _ in range(count)]
        return [(event["type"], event["object"]["metadata"].get("name", "")) for event in events]

    async def _next(self) -> Message:
        return await asyncio.wait_for(self._messages.get(), 30)


def check_answer(document: Any, status: int) -> None:
    """Check what every client relies on."""
    if status >= 400:
        assert (document["kind"], document["apiVersion"]) == ("Status", "v1")
        assert (document["status"], document["code"]) == ("Failure", status)
        assert document["message"]
        assert document["reason"]
    if str(document.get("kind", "")).endswith("List") and "items" in document:
        assert isinstance(document["items"], list)


@asynccontextmanager
async def open_sqlite(path: Path) -> AsyncIterator[tuple[ObjectStore, Callable[[], None]]]:
    """Open a store, and give what makes it forget what was."""
    async with SQLiteStore.opened(path / "objects.db", LIMITS) as store:
        # It does so by itself.
        yield store, lambda: None


@asynccontextmanager
async def open_records(
    path: Path, cluster: InMemoryResources | None = None, limits: RecordLimits | None = None
) -> AsyncIterator[tuple[ObjectStore, Callable[[], None]]]:
    """Open what is a store in a cluster but for the cluster."""
    del path
    cluster = cluster or InMemoryResources()
    limits = limits or RecordLimits(ring_rows=50, reach_seconds=0.05, snapshots=1)
    async with RecordStore.opened(cluster, limits) as store:
        yield store, cluster.compact


OpenStore = Callable[[Path], AbstractAsyncContextManager[tuple[ObjectStore, Callable[[], None]]]]


@asynccontextmanager
async def opened(
    path: Path,
    *,
    content: Content | None = None,
    guard: Guard = lambda _request: None,
    read_only: bool = False,
    watch_limits: WatchLimits | None = None,
    open_store: OpenStore = open_sqlite,
    allows: Permission = allow_all,
    secrets: PullSecrets | None = None,
    reserve: Reservation = reserve_nothing,
    public_registry: str = "",
) -> AsyncIterator[Api]:
    clock = Clock()
    async with open_store(path) as (store, forget):
        kinds = build_kinds(
            store,
            registry=REGISTRY,
            public_registry=public_registry,
            content=content,
            secrets=secrets,
        )
        server = ApiServer(
            GROUP,
            kinds.resources,
            Version("1", "34", "v1.34.0"),
            clock.surroundings(),
            guard,
            reserve=reserve,
            read_only=read_only,
            watch_limits=watch_limits,
            allows=allows,
        )
        transport = httpx.ASGITransport(server, raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            yield Api(server, client, kinds, store, clock, forget)


def stream(name: str = "app", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "image.alauda.io/v1",
        "kind": "ImageStream",
        "metadata": {"name": name},
        "spec": spec,
    }


def source(name: str, pull_spec: str = "quay.io/acme/base:9", **more: Any) -> dict[str, Any]:
    return {"name": name, "from": {"kind": "DockerImage", "name": pull_spec}, **more}


def image(digest: str = DIGEST, **more: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": digest},
        "dockerImageReference": f"quay.io/acme/base@{digest}",
        **more,
    }


def mapping(name: str, tag: str, digest: str = DIGEST, **more: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "tag": tag, "image": image(digest), **more}
