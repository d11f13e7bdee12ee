"""Who gets in, who waits, who is refused, and that no place is ever lost."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from alauda_registry.server.middleware.limits import Limit, RequestLimits, Turnstile

pytestmark = pytest.mark.anyio


class SlowApp:
    """Serves each request until it is told to finish."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.finish = asyncio.Event()
        self.received: list[Message] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.started.append(scope["path"])
        await self.finish.wait()
        self.received.append(await receive())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


class Watched(Turnstile):
    """Remembers how many run and how many wait."""

    def __init__(self, limit: Limit) -> None:
        self.state = (0, 0)
        super().__init__(limit, self._note)

    def _note(self, running: int, waiting: int) -> None:
        self.state = (running, waiting)


class Client:
    """One request, and what came of it."""

    def __init__(
        self, app: RequestLimits, path: str = "/", method: str = "GET", kind: str = "http"
    ) -> None:
        self.messages: list[Message] = []
        self.gone = asyncio.Event()
        self.received = 0
        self.task = asyncio.ensure_future(
            app({"type": kind, "method": method, "path": path}, self._receive, self._send)
        )

    @property
    def status(self) -> int | None:
        return self.messages[0]["status"] if self.messages else None

    async def _receive(self) -> Message:
        self.received += 1
        if self.received == 1:
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        self.messages.append(message)


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


@asynccontextmanager
async def cleaned_up(*clients: Client) -> AsyncIterator[None]:
    yield
    for client in clients:
        client.task.cancel()
    await asyncio.gather(*(client.task for client in clients), return_exceptions=True)


async def test_requests_over_the_limit_wait_and_go_in_the_order_they_came() -> None:
    app = SlowApp()
    turnstile = Watched(Limit(1, waiting=2))
    limits = RequestLimits(app, turnstile, None)

    clients = [Client(limits, path) for path in "abc"]
    await settle()
    waiting = (list(app.started), turnstile.state)
    app.finish.set()
    await asyncio.gather(*(client.task for client in clients))

    assert waiting == (["a"], (1, 2))
    assert app.started == ["a", "b", "c"]
    assert [client.status for client in clients] == [200, 200, 200]
    assert turnstile.state == (0, 0)


async def test_a_full_queue_refuses_with_429_and_says_when_to_come_back() -> None:
    app = SlowApp()
    rejected: list[str] = []
    limits = RequestLimits(app, Turnstile(Limit(1)), None, rejected.append)
    first = Client(limits)
    await settle()

    second = Client(limits)
    await second.task

    start, body = second.messages
    assert start["status"] == 429
    assert dict(start["headers"])[b"retry-after"] == b"1"
    assert b'"TOOMANYREQUESTS"' in body["body"]
    assert rejected == ["read"]
    async with cleaned_up(first):
        pass


async def test_a_refusal_has_the_headers_of_every_answer() -> None:
    limits = RequestLimits(SlowApp(), Turnstile(Limit(1)), None, headers={"X-A": ["b"]})
    first, second = Client(limits), Client(limits)

    await second.task

    headers = dict(second.messages[0]["headers"])
    assert headers[b"docker-distribution-api-version"] == b"registry/2.0"
    assert headers[b"x-a"] == b"b"
    async with cleaned_up(first):
        pass


async def test_a_long_wait_ends_in_a_refusal() -> None:
    turnstile = Watched(Limit(1, waiting=1, seconds=0.01))
    limits = RequestLimits(SlowApp(), turnstile, None)
    first, second = Client(limits), Client(limits)

    await second.task

    assert second.status == 429
    assert turnstile.state == (1, 0)
    async with cleaned_up(first):
        pass


async def test_uploads_and_downloads_do_not_wait_for_one_another() -> None:
    app = SlowApp()
    limits = RequestLimits(app, Turnstile(Limit(1)), Turnstile(Limit(1)))
    clients = [Client(limits, "down"), Client(limits, "up", "PATCH")]

    await settle()

    async with cleaned_up(*clients):
        assert app.started == ["down", "up"]


async def test_a_client_that_goes_away_gives_up_its_place() -> None:
    app = SlowApp()
    turnstile = Watched(Limit(1, waiting=1))
    limits = RequestLimits(app, turnstile, None)
    first, second = Client(limits, "first"), Client(limits, "second")
    await settle()

    second.gone.set()
    await second.task
    third = Client(limits, "third")
    app.finish.set()
    await asyncio.gather(first.task, third.task)

    assert app.started == ["first", "third"]
    assert turnstile.state == (0, 0)


async def test_a_cancelled_request_gives_up_its_place() -> None:
    turnstile = Watched(Limit(1, waiting=1))
    limits = RequestLimits(SlowApp(), turnstile, Turnstile(Limit(1)))
    clients = [Client(limits), Client(limits)]
    await settle()

    async with cleaned_up(*clients):
        pass

    assert turnstile.state == (0, 0)


async def test_a_request_cancelled_in_the_moment_it_is_called_in_passes_its_place_on() -> None:
    turnstile = Watched(Limit(1, waiting=2))
    assert turnstile.try_enter()
    second, third = (asyncio.ensure_future(turnstile.wait()) for _ in range(2))
    await settle()

    turnstile.leave()
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)

    assert await third is True
    assert turnstile.state == (1, 0)


async def test_what_was_received_while_waiting_is_not_lost() -> None:
    app = SlowApp()
    limits = RequestLimits(app, Turnstile(Limit(1, waiting=1)), None)
    clients = [Client(limits), Client(limits)]
    await settle()

    app.finish.set()
    await asyncio.gather(*(client.task for client in clients))

    assert app.received == [{"type": "http.request", "body": b"", "more_body": False}] * 2


async def test_an_upload_that_waits_is_not_asked_for_its_body() -> None:
    limits = RequestLimits(SlowApp(), None, Turnstile(Limit(1, waiting=1)))
    clients = [Client(limits, method="PUT"), Client(limits, method="PUT")]

    await settle()

    async with cleaned_up(*clients):
        assert clients[1].received == 0


async def test_an_application_that_fails_leaves_its_place() -> None:
    async def fail(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise RuntimeError

    turnstile = Watched(Limit(1))
    client = Client(RequestLimits(fail, turnstile, None))

    with pytest.raises(RuntimeError):
        await client.task
    assert turnstile.state == (0, 0)


async def test_observers_see_every_change() -> None:
    seen: list[tuple[int, int]] = []
    turnstile = Turnstile(
        Limit(1, waiting=1), lambda running, waiting: seen.append((running, waiting))
    )

    turnstile.try_enter()
    waiting = asyncio.ensure_future(turnstile.wait())
    await settle()
    turnstile.leave()
    await waiting
    turnstile.leave()

    assert seen == [(1, 0), (1, 1), (1, 0), (0, 0)]


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_the_shares_of_all_workers_are_the_whole(workers: int) -> None:
    limit = Limit(10, waiting=5, seconds=2.0)

    shares = [limit.share(index, workers) for index in range(workers)]

    assert sum(share.running for share in shares) == 10
    assert sum(share.waiting for share in shares) == 5
    assert {share.seconds for share in shares} == {2.0}


def test_every_worker_may_serve_one_request() -> None:
    assert [Limit(1).share(index, 3) for index in range(3)] == [Limit(1)] * 3


async def test_a_lifespan_is_passed_on() -> None:
    seen: list[Any] = []

    async def app(scope: Scope, _receive: Receive, _send: Send) -> None:
        seen.append(scope["type"])

    client = Client(RequestLimits(app, Turnstile(Limit(1)), None), kind="lifespan")
    await client.task

    assert seen == ["lifespan"]
