"""What every request passes, from the outside: requests in, answers out."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from alauda_imageapi.cluster import authorization
from alauda_imageapi.cluster.authentication import Authentication, FewTokenReviews
from alauda_imageapi.cluster.authorization import Authorization
from alauda_imageapi.cluster.front import Front, Opened
from alauda_imageapi.cluster.front_proxy import RequestHeaders, Trust
from alauda_imageapi.cluster.health import Health
from alauda_imageapi.cluster.in_flight import InFlight
from alauda_imageapi.cluster.metrics import Metrics
from alauda_imageapi.machinery.application import USER
from alauda_registry.auth.kubernetes import KubernetesAuthenticator
from alauda_registry.auth.throttle import Throttle
from alauda_registry.kube.client import (
    Attributes,
    NonResourceAttributes,
    ResourceAttributes,
    UserInfo,
)
from alauda_registry.kube.inmemory import Grant, InMemoryKubeClient
from alauda_registry.serving.protocol import CHAIN
from tests.parts.certificates import Authority

pytestmark = pytest.mark.anyio

IMAGES = "/apis/image.alauda.io/v1/images"
TOKEN = {"Authorization": "Bearer good"}
ALICE = UserInfo("alice", "1", ("people",), (("scopes", ("a",)),))


class Setting:
    """A front before an application that notes what it is given."""

    def __init__(self, in_flight: InFlight | None = None) -> None:
        self.health = Health({})
        self.scopes: list[Scope] = []
        self.entered, self.may_leave = asyncio.Event(), asyncio.Event()
        self.may_leave.set()
        self.trouble: Exception | None = None
        self.trust = Trust()
        grants = {
            Grant("alice", ResourceAttributes(verb, "image.alauda.io", "images"))
            for verb in ("list", "watch", "create")
        }
        masters = UserInfo("root", groups=("system:masters",))
        self.kube = kube = Patient(
            tokens={"good": (ALICE, frozenset()), "root": (masters, frozenset())}, grants=grants
        )
        self.front = Front(_nothing, self.health, in_flight)
        self.front.opened = Opened(
            self._answer,
            Authentication(
                lambda: self.trust, KubernetesAuthenticator(FewTokenReviews(kube, 3), Throttle())
            ),
            Authorization(kube),
            Metrics([]),
            lambda: self.trust,
        )

    async def ask(
        self,
        method: str = "GET",
        url: str = IMAGES,
        headers: dict[str, str] | None = None,
        chain: tuple[bytes, ...] = (),
        address: str = "127.0.0.1",
    ) -> httpx.Response:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await self.front({**scope, CHAIN: chain}, receive, send)

        transport = httpx.ASGITransport(app, client=(address, 123))
        async with httpx.AsyncClient(transport=transport, base_url="https://localhost") as client:
            return await client.request(method, url, headers=headers)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        self.entered.set()
        await self.may_leave.wait()
        if self.trouble is not None:
            raise self.trouble
        headers = {"Audit-Id": "the application's"}
        await JSONResponse({"kind": "ImageList", "items": []}, headers=headers)(
            scope, receive, send
        )


class Patient(InMemoryKubeClient):
    """A cluster that answers when it is told to, and counts who waits."""

    def __init__(self, **known: Any) -> None:
        super().__init__(**known)
        self.answers = asyncio.Event()
        self.answers.set()
        self.waiting: Counter[str] = Counter()

    @override
    async def review_token(self, token: str, audiences: Sequence[str] = ()) -> UserInfo | None:
        await self._wait("tokens")
        return await super().review_token(token, audiences)

    @override
    async def review_access(self, user: UserInfo, attributes: Attributes) -> bool:
        await self._wait(user.username)
        return await super().review_access(user, attributes)

    async def _wait(self, what: str) -> None:
        self.waiting[what] += 1
        await self.answers.wait()


@asynccontextmanager
async def _nothing(_front: Front) -> AsyncGenerator[None]:
    yield


async def test_the_application_is_told_who_asks_and_nothing_that_could_tell_otherwise() -> None:
    setting = Setting()

    answer = await setting.ask(headers={**TOKEN, "X-Remote-User": "root", "Accept": "a/b"})

    assert answer.status_code == 200
    (scope,) = setting.scopes
    assert scope[USER] == UserInfo("alice", "1", ("people", "system:authenticated"), ALICE.extra)
    names = {name for name, _ in scope["headers"]}
    assert names.isdisjoint({b"authorization", b"x-remote-user"})
    assert b"accept" in names


@pytest.mark.parametrize(
    ("method", "url", "headers", "status"),
    [
        ("GET", IMAGES, {}, 403),
        ("GET", IMAGES, {"Authorization": "Bearer bad"}, 401),
        ("DELETE", IMAGES, TOKEN, 403),
        ("GET", "/metrics", TOKEN, 403),
        ("GET", "/readyz/nonsense", TOKEN, 403),
        ("POST", "/readyz", TOKEN, 403),
        ("GET", f"{IMAGES}/%2E%2E/x", TOKEN, 400),
    ],
)
async def test_nothing_else_gets_to_the_application(
    method: str, url: str, headers: dict[str, str], status: int
) -> None:
    setting = Setting()

    answer = await setting.ask(method, url, headers)

    assert (answer.status_code, answer.json()["code"]) == (status, status)
    assert setting.scopes == []


async def test_what_came_directly_is_in_our_log_and_what_was_passed_on_in_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    setting = Setting()
    chain = proxied(setting, tmp_path)

    with caplog.at_level(logging.INFO, logger="audit"):
        direct = await setting.ask(headers=TOKEN)
        passed_on = await setting.ask(headers={"X-Remote-User": "alice"}, chain=chain)

    assert passed_on.status_code == 200
    assert "audit-id" not in passed_on.headers
    (line,) = caplog.messages
    assert line.startswith(f"direct request: GET {IMAGES} by alice from 127.0.0.1: 200 in ")
    assert line.endswith(f"audit id {direct.headers['audit-id']}")


def _der(path: Path) -> bytes:
    return x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER)


async def test_trouble_is_told_to_the_log_and_not_to_the_client(
    caplog: pytest.LogCaptureFixture,
) -> None:
    setting = Setting()
    setting.trouble = RuntimeError("the secret is 42")

    answer = await setting.ask(headers=TOKEN)

    assert (answer.status_code, answer.json()["reason"]) == (500, "InternalError")
    assert "42" not in answer.text
    assert "the secret is 42" in caplog.text


async def test_who_is_about_to_stop_lets_go_of_its_connections() -> None:
    setting = Setting()
    assert "connection" not in (await setting.ask(headers=TOKEN)).headers

    setting.health.is_ending = True

    for headers in (TOKEN, {}):
        assert (await setting.ask(headers=headers)).headers["connection"] == "close"


async def test_too_many_at_once_are_sent_away_but_masters_are_not() -> None:
    setting = Setting(InFlight(1, 1))
    setting.may_leave.clear()
    running = asyncio.ensure_future(setting.ask(headers=TOKEN))
    await setting.entered.wait()

    refused = await setting.ask(headers=TOKEN)

    assert (refused.status_code, refused.json()["reason"]) == (429, "TooManyRequests")
    assert refused.headers["retry-after"] == "1"
    for method in ("GET", "HEAD"):
        # One that has not begun is a request like others.
        assert (await setting.ask(method, f"{IMAGES}?watch=true", TOKEN)).status_code == 429
    others = [
        asyncio.ensure_future(setting.ask(method, url, headers))
        for method, url, headers in (
            ("POST", IMAGES, TOKEN),
            ("GET", IMAGES, {"Authorization": "Bearer root"}),
        )
    ]
    setting.may_leave.set()
    answers = await asyncio.gather(running, *others)
    assert [answer.status_code for answer in answers] == [200] * 3
    assert (await setting.ask(headers=TOKEN)).status_code == 200


async def test_a_flood_does_not_keep_metrics_from_who_may_read_them() -> None:
    setting = Setting(InFlight(1, 1))
    setting.kube.grants.add(Grant("alice", NonResourceAttributes("get", "/metrics")))
    setting.may_leave.clear()
    running = asyncio.ensure_future(setting.ask(headers=TOKEN))
    await setting.entered.wait()

    shown = await setting.ask(url="/metrics", headers=TOKEN)
    flood = [asyncio.ensure_future(setting.ask(url=f"/metrics?{n}")) for n in range(100)]
    refused = await asyncio.gather(*flood)
    setting.may_leave.set()

    assert (await running).status_code == shown.status_code == 200
    assert 'apiserver_current_inflight_requests{request_kind="readOnly"} 1.0' in shown.text
    assert {answer.status_code for answer in refused} == {403}
    assert setting.kube.waiting["system:anonymous"] == 1


async def settle() -> None:
    """Let everybody get as far as they get."""
    for _ in range(20):
        await asyncio.sleep(0)


def proxied(setting: Setting, tmp_path: Path) -> tuple[bytes, ...]:
    """Return how kube-apiserver shows who it is."""
    pair = Authority().issue_to_user(tmp_path, name="front-proxy-client")
    chain = (_der(pair.certificate), _der(pair.authority))
    headers = RequestHeaders((b"x-remote-user",))
    setting.trust = Trust(proxy_authorities=frozenset([chain[1]]), headers=headers)
    return chain


@pytest.fixture
def long_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known stays so: the machine may be so busy that two seconds are soon over."""
    monkeypatch.setattr(authorization, "REVIEW_SECONDS", 3600.0)


@pytest.mark.usefixtures("long_memory")
async def test_a_flood_of_tokens_is_a_few_questions_and_others_are_served(tmp_path: Path) -> None:
    setting = Setting()
    chain = proxied(setting, tmp_path)
    # Known when the flood begins.
    assert (await setting.ask(headers={"X-Remote-User": "alice"}, chain=chain)).is_success
    setting.kube.answers.clear()
    flood = [
        asyncio.ensure_future(
            setting.ask(headers={"Authorization": f"Bearer bad{n}"}, address=f"10.0.0.{n}")
        )
        for n in range(100)
    ]
    await settle()

    assert setting.kube.waiting["tokens"] == 3
    served = await setting.ask(headers={"X-Remote-User": "alice"}, chain=chain)
    setting.kube.answers.set()
    answers = await asyncio.gather(*flood)

    assert served.status_code == 200
    assert Counter(answer.status_code for answer in answers) == {401: 3, 429: 97}
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert (refused.headers["retry-after"], refused.json()["reason"]) == ("1", "TooManyRequests")
    assert setting.kube.waiting["tokens"] == 3


@pytest.mark.usefixtures("long_memory")
async def test_a_flood_without_credentials_is_a_few_questions_and_others_are_served() -> None:
    setting = Setting(InFlight(20, 10))
    assert (await setting.ask(headers=TOKEN)).is_success
    setting.kube.answers.clear()
    flood = [
        asyncio.ensure_future(setting.ask(method, f"{IMAGES}/{number}{query}"))
        for number in range(100)
        for method, query in (("GET", ""), ("DELETE", ""))
    ]
    watch = f"{IMAGES}?watch=1&fieldSelector=metadata.name="
    flood += [asyncio.ensure_future(setting.ask("GET", f"{watch}{n}")) for n in range(100)]
    await settle()

    # A tenth of those that may read, and of those that may change something.
    assert setting.kube.waiting["system:anonymous"] == 2 + 1
    served = await setting.ask(headers=TOKEN)
    setting.kube.answers.set()
    answers = await asyncio.gather(*flood)

    assert served.status_code == 200
    assert Counter(answer.status_code for answer in answers) == {403: 3, 429: 297}


async def test_nobody_asks_about_more_than_are_served_at_once() -> None:
    setting = Setting(InFlight(5, 5))
    assert (await setting.ask(headers=TOKEN)).is_success
    setting.kube.waiting.clear()
    setting.kube.answers.clear()
    asked = [
        asyncio.ensure_future(setting.ask("GET", f"{IMAGES}/{number}", TOKEN))
        for number in range(50)
    ]
    await settle()
    setting.kube.answers.set()
    answers = await asyncio.gather(*asked)

    assert setting.kube.waiting["alice"] == 5
    assert Counter(answer.status_code for answer in answers) == {403: 5, 429: 45}


async def test_a_watch_that_has_begun_takes_nobodys_place() -> None:
    setting = Setting(InFlight(1, 1))
    begun = asyncio.Event()

    async def watch(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        begun.set()
        await asyncio.Event().wait()

    opened = setting.front.opened
    assert opened is not None
    setting.front.opened = replace(opened, app=watch)
    watching = asyncio.ensure_future(setting.ask(url=f"{IMAGES}?watch=true", headers=TOKEN))
    await begun.wait()
    setting.front.opened = opened

    shown = opened.metrics.render().decode()
    assert 'apiserver_current_inflight_requests{request_kind="readOnly"} 0.0' in shown
    assert (await setting.ask(headers=TOKEN)).status_code == 200
    watching.cancel()
    await asyncio.wait([watching])
    assert (await setting.ask(headers=TOKEN)).status_code == 200
