"""Probes: what they answer, and how old an answer may be."""

import asyncio
import json
import logging
import threading
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from alauda_registry.server.health import HealthMonitor, Readiness, State
from alauda_registry.server.metrics.metrics import Metrics
from alauda_registry.server.routes.health import Probes
from alauda_registry.storage.driver import Capacity
from alauda_registry.storage.repositories import Health
from alauda_registry.storage.threads import run_blocking

pytestmark = pytest.mark.anyio

GOOD = Health(ready=True)
FULL = Health(ready=True, degraded="full", message="the disk is full")
BROKEN = Health(ready=False, message="the disk is gone")


class Clock:
    """Goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Storage:
    """Is as well as it is told to be."""

    def __init__(self, health: Health | Exception = GOOD) -> None:
        self.health = health
        self.checks = 0
        self.third = asyncio.Event()

    async def check(self) -> Health:
        self.checks += 1
        if self.checks == 3:
            self.third.set()
        if isinstance(self.health, Exception):
            raise self.health
        return self.health


async def ask(
    monitor: HealthMonitor, path: str, method: str = "GET"
) -> tuple[int, dict[str, str], bytes]:
    messages: list[Message] = []

    async def pass_on(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 418, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        messages.append(message)

    scope: Scope = {"type": "http", "method": method, "path": path, "headers": []}
    await Probes(pass_on, monitor, Metrics(), {"X-A": ["b"]})(scope, receive, send)
    headers = {name.decode(): value.decode() for name, value in messages[0]["headers"]}
    return messages[0]["status"], headers, messages[1]["body"]


async def readiness_after(health: Health | Exception) -> Readiness:
    monitor = HealthMonitor()
    await monitor.check_once(Storage(health).check)
    return monitor.readiness


@pytest.mark.parametrize("path", ["/", "/healthz"])
async def test_the_process_is_alive_whatever_storage_does(path: str) -> None:
    monitor = HealthMonitor()
    await monitor.check_once(Storage(BROKEN).check)

    status, headers, body = await ask(monitor, path)

    assert (status, body) == (200, b"")
    assert headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    ("health", "status", "content"),
    [
        (GOOD, 200, {"status": "ready", "reason": ""}),
        (FULL, 200, {"status": "degraded", "reason": "the disk is full"}),
        (BROKEN, 503, {"status": "not ready", "reason": "the disk is gone"}),
    ],
    ids=["good", "full", "broken"],
)
async def test_readiness_is_that_of_storage(
    health: Health, status: int, content: dict[str, Any]
) -> None:
    monitor = HealthMonitor()
    await monitor.check_once(Storage(health).check)

    answered, _headers, body = await ask(monitor, "/readyz")

    assert (answered, json.loads(body)) == (status, content)


@pytest.mark.parametrize("degraded", [None, "full"])
async def test_the_probe_and_the_counts_say_how_much_room_there_is(degraded: str | None) -> None:
    monitor = HealthMonitor()
    health = Health(True, degraded, capacity=Capacity(1000, 300, 100))
    await monitor.check_once(Storage(health).check)

    _status, _headers, body = await ask(monitor, "/readyz")
    _status, _headers, counts = await ask(monitor, "/metrics")

    assert json.loads(body)["storage"] == {"size": 1000, "free": 300, "reserved": 100}
    assert b"imageregistry_storage_free_bytes 300.0" in counts


async def test_room_that_is_used_up_little_by_little_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    monitor = HealthMonitor()
    with caplog.at_level(logging.INFO):
        for free in (300, 299, 298):
            health = Health(True, capacity=Capacity(1000, free))
            await monitor.check_once(Storage(health).check)

    assert caplog.messages == []
    assert monitor.readiness.capacity == Capacity(1000, 298)


async def test_room_that_was_seen_too_long_ago_is_not_told() -> None:
    clock = Clock()
    monitor = HealthMonitor(clock=clock)
    await monitor.check_once(Storage(Health(True, capacity=Capacity(1000, 300))).check)
    clock.now += 11

    _status, _headers, body = await ask(monitor, "/readyz")

    assert "storage" not in json.loads(body)


async def test_nobody_is_ready_before_the_first_check() -> None:
    assert (await ask(HealthMonitor(), "/readyz"))[0] == 503


async def test_a_draining_server_is_not_ready_though_storage_is() -> None:
    monitor = HealthMonitor()
    await monitor.check_once(Storage().check)

    monitor.drain()

    assert (await ask(monitor, "/readyz"))[0] == 503
    assert (await ask(monitor, "/healthz"))[0] == 200


async def test_a_result_counts_for_ten_seconds() -> None:
    clock = Clock()
    monitor = HealthMonitor(clock=clock)
    await monitor.check_once(Storage().check)

    clock.now += 10
    still = monitor.readiness.is_ready
    clock.now += 1

    assert still
    assert monitor.readiness == Readiness(State.NOT_READY, "storage has not answered for 11 s")


async def test_a_check_that_fails_means_not_ready(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        found = await readiness_after(RuntimeError("boom"))

    assert found.state is State.NOT_READY
    assert "boom" not in found.reason
    assert "boom" in caplog.text


class HangingStorage:
    """Answers when it is told to, from a thread that cannot be cancelled."""

    def __init__(self) -> None:
        self.checks = 0
        self.answers = threading.Event()

    async def check(self) -> Health:
        self.checks += 1
        await run_blocking(None, self.answers.wait, 30)
        return GOOD


async def test_a_check_that_hangs_counts_as_failed_and_is_not_begun_again() -> None:
    storage = HangingStorage()
    monitor = HealthMonitor(patience=0.01)

    await monitor.check_once(storage.check)
    await monitor.check_once(storage.check)
    hanging = (storage.checks, monitor.readiness)
    storage.answers.set()
    while not monitor.readiness.is_ready:
        await monitor.check_once(storage.check)

    reason = "storage has not answered a check within 0.01 s"
    assert hanging == (1, Readiness(State.NOT_READY, reason))
    assert monitor.readiness.is_ready


async def test_watching_ends_though_a_check_hangs() -> None:
    storage = HangingStorage()
    watching = asyncio.ensure_future(HealthMonitor().watch(storage.check))
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)

    assert (storage.checks, storage.answers.is_set()) == (1, False)
    storage.answers.set()


async def test_only_failures_in_a_row_make_it_not_ready() -> None:
    storage = Storage()
    monitor = HealthMonitor(threshold=2)
    await monitor.check_once(storage.check)
    ready = []

    for health in (BROKEN, GOOD, BROKEN, BROKEN):
        storage.health = health
        await monitor.check_once(storage.check)
        ready.append(monitor.readiness.is_ready)

    assert ready == [True, True, True, False]


async def test_it_checks_again_and_again() -> None:
    storage = Storage()
    monitor = HealthMonitor(interval=0.001)

    watching = asyncio.ensure_future(monitor.watch(storage.check))
    async with asyncio.timeout(10):
        await storage.third.wait()
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)

    assert monitor.readiness.is_ready


async def test_without_checks_storage_is_not_asked() -> None:
    storage = Storage(BROKEN)
    monitor = HealthMonitor(is_checked=False)

    await monitor.check_once(storage.check)
    await monitor.watch(storage.check)

    assert monitor.readiness.is_ready
    assert storage.checks == 0


async def test_metrics_are_text_for_prometheus() -> None:
    status, headers, body = await ask(HealthMonitor(), "/metrics")

    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    assert b"imageregistry_http_in_flight_requests" in body


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/metrics"])
async def test_probes_have_the_headers_of_every_answer(path: str) -> None:
    _status, headers, _body = await ask(HealthMonitor(), path)

    assert headers["docker-distribution-api-version"] == "registry/2.0"
    assert headers["x-a"] == "b"


async def test_head_has_no_body() -> None:
    assert (await ask(HealthMonitor(), "/readyz", "HEAD"))[2] == b""


async def test_other_methods_are_refused() -> None:
    status, headers, body = await ask(HealthMonitor(), "/healthz", "POST")

    assert status == 405
    assert headers["allow"] == "GET, HEAD"
    assert b"UNSUPPORTED" in body


@pytest.mark.parametrize("path", ["/v2/", "/healthz/", "/metricsx", ""])
async def test_everything_else_is_passed_on(path: str) -> None:
    assert (await ask(HealthMonitor(), path))[0] == 418
