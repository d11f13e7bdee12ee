"""The outermost layer: ids, counts and log lines for every request, whatever becomes of it."""

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from alauda_registry.server.metrics.metrics import Metrics
from alauda_registry.server.middleware.observed import REQUEST_ID, Observed
from alauda_registry.serving.log_sink import LogSink
from alauda_registry.serving.logs import AccessLog, request_id
from alauda_registry.serving.protocol import Refusal
from alauda_registry.serving.starting import CannotStart

pytestmark = pytest.mark.anyio

START: Message = {"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]}


async def answer(scope: Scope, _receive: Receive, send: Send) -> None:
    await send(START)
    await send({"type": "http.response.body", "body": b"12", "more_body": True})
    await send({"type": "http.response.zerocopysend", "file": None, "count": 5, "more_body": True})
    await send({"type": "http.response.body", "body": scope[REQUEST_ID].encode()[:1]})


async def fail(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise RuntimeError("boom")


async def ask(
    app: ASGIApp, headers: Sequence[tuple[bytes, bytes]] = (), **scope: Any
) -> list[Message]:
    messages: list[Message] = []

    async def send(message: Message) -> None:
        messages.append(message)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    given = {
        "type": "http",
        "method": "GET",
        "path": "/v2/a/manifests/b",
        "headers": list(headers),
        "client": ("::ffff:10.0.0.9", 1),
    }
    await app({**given, **scope}, receive, send)
    return messages


async def waiting() -> Message:
    return {"type": "lifespan.startup"}


async def unused(_message: Message) -> None:
    raise AssertionError


def id_of(messages: list[Message]) -> bytes:
    headers: dict[bytes, bytes] = dict(messages[0]["headers"])
    return headers[b"x-request-id"]


async def test_every_request_has_an_id_of_its_own() -> None:
    app = Observed(answer, Metrics(), None)

    ids = {id_of(await ask(app)) for _ in range(3)}

    assert len(ids) == 3


async def test_an_id_of_the_client_is_kept() -> None:
    messages = await ask(Observed(answer, Metrics(), None), [(b"x-request-id", b"Trace_1.2-3")])

    assert id_of(messages) == b"Trace_1.2-3"


@pytest.mark.parametrize("given", [b"", b"a b", b"a\r\nb", b"\xff", b"a" * 129, b'"'])
async def test_an_id_that_could_do_harm_is_replaced(given: bytes) -> None:
    messages = await ask(Observed(answer, Metrics(), None), [(b"x-request-id", given)])

    assert id_of(messages) != given


async def test_a_message_that_is_used_again_stays_as_it_is() -> None:
    await ask(Observed(answer, Metrics(), None))

    assert START["headers"] == [(b"a", b"b")]


async def test_handlers_and_log_lines_see_the_id() -> None:
    seen: list[str] = []

    async def look(scope: Scope, _receive: Receive, _send: Send) -> None:
        seen.extend((scope[REQUEST_ID], request_id.get()))

    # In a task of its own, as every request is.
    await asyncio.create_task(ask(Observed(look, Metrics(), None), [(b"x-request-id", b"id")]))

    assert seen == ["id", "id"]


async def test_an_answer_is_counted_with_all_its_bytes(tmp_path: Path) -> None:
    line, metrics = await logged(tmp_path, answer, [(b"user-agent", b"x/1")])

    assert line["status"] == 200
    assert line["bytes"] == 8
    assert line["client"] == "10.0.0.9"
    assert line["user_agent"] == "x/1"
    assert line["path"] == "/v2/a/manifests/b"
    assert b"imageregistry_http_response_size_bytes_sum 8.0" in metrics.render()
    assert metrics.in_flight == 0


@pytest.mark.parametrize("field", [b"content-length", b"transfer-encoding"])
async def test_what_was_received_is_counted_whatever_was_announced(field: bytes) -> None:
    metrics = Metrics()
    pieces = [b"123", b"4567", None]

    async def receive() -> Message:
        piece = pieces.pop(0)
        return (
            {"type": "http.disconnect"}
            if piece is None
            else {"type": "http.request", "body": piece}
        )

    async def read(_scope: Scope, receive: Receive, _send: Send) -> None:
        while (await receive())["type"] == "http.request":
            continue

    scope = {"type": "http", "method": "PUT", "path": "/v2/", "headers": [(field, b"9" * 18)]}
    await Observed(read, metrics, None)(scope, receive, unused)

    metrics.flush()
    assert b"imageregistry_http_request_size_bytes_sum 7.0" in metrics.render()


async def test_a_request_that_failed_is_logged_and_counted_as_500(tmp_path: Path) -> None:
    line, metrics = await logged(tmp_path, fail)

    assert line["status"] == 500
    assert metrics.in_flight == 0
    assert b'imageregistry_http_requests_total{code="500",method="GET"} 1.0' in metrics.render()


async def test_a_request_that_failed_is_answered_as_every_error_is() -> None:
    messages = await ask(Observed(fail, Metrics(), None, {"X-A": ["b"]}))

    assert messages[0]["status"] == 500
    assert (b"x-a", b"b") in messages[0]["headers"]
    assert json.loads(messages[1]["body"])["errors"][0]["code"] == "UNKNOWN"


async def test_a_request_whose_time_is_up_is_told_to_come_again() -> None:
    async def hang(_scope: Scope, _receive: Receive, _send: Send) -> None:
        await asyncio.Event().wait()

    asking = asyncio.create_task(ask(Observed(hang, Metrics(), None)))
    await asyncio.sleep(0)
    asking.cancel()
    messages = await asking

    assert messages[0]["status"] == 503
    assert json.loads(messages[1]["body"])["errors"][0]["code"] == "UNAVAILABLE"


async def test_an_answer_that_has_begun_is_not_answered_again() -> None:
    async def begin(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send(START)
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError):
        await ask(Observed(begin, Metrics(), None))


async def test_probes_are_counted_but_not_logged(tmp_path: Path) -> None:
    line, metrics = await logged(tmp_path, answer, path="/readyz")

    assert line == {}
    assert b'imageregistry_http_requests_total{code="200",method="GET"} 1.0' in metrics.render()


async def test_a_client_without_an_address_is_no_trouble(tmp_path: Path) -> None:
    line, _metrics = await logged(tmp_path, answer, client=None)

    assert line["client"] == ""


async def test_a_refusal_of_the_protocol_is_counted_logged_and_given_an_id(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    log, metrics = tmp_path / "log", Metrics()
    descriptor = os.open(log, os.O_CREAT | os.O_WRONLY)
    access_log = AccessLog(is_json=True, fields={}, sink=LogSink(descriptor))
    observed = Observed(answer, metrics, access_log)

    header = observed.refused(Refusal(431, 99, "too much", ("::ffff:10.0.0.9", 1), "GET", "/v2/"))
    observed.refused(Refusal(400, 1, "nonsense", None))
    access_log.flush()
    os.close(descriptor)
    metrics.flush()

    first, second = map(json.loads, log.read_text().splitlines())
    assert header == (b"x-request-id", first["request_id"].encode())
    assert (first["method"], first["path"], first["status"]) == ("GET", "/v2/", 431)
    assert (first["bytes"], first["client"]) == (99, "10.0.0.9")
    assert (second["method"], second["path"], second["client"]) == ("-", "-", "")
    assert first["request_id"] != second["request_id"]
    assert caplog.messages == ["refused: 431 too much", "refused: 400 nonsense"]
    counts = metrics.render()
    assert b'imageregistry_http_requests_total{code="431",method="GET"} 1.0' in counts
    assert b'imageregistry_http_requests_total{code="400",method="OTHER"} 1.0' in counts


@pytest.mark.parametrize("is_begun", [True, False])
async def test_a_request_that_the_protocol_refuses_halfway_is_noted_once_as_what_was_answered(
    tmp_path: Path, is_begun: bool
) -> None:
    refused: list[tuple[bytes, bytes]] = []

    def refuse(scope: Scope) -> None:
        # The protocol's own type of a scope is narrower than Starlette's.
        given: Any = scope
        refused.append(observed.refused(Refusal(408, 5, "late", None, "GET", "/", given)))

    async def hang_up(scope: Scope, _receive: Receive, _send: Send) -> None:
        if is_begun:
            refuse(scope)

    log, metrics = tmp_path / "log", Metrics()
    descriptor = os.open(log, os.O_CREAT | os.O_WRONLY)
    access_log = AccessLog(is_json=True, fields={}, sink=LogSink(descriptor))
    observed = Observed(hang_up, metrics, access_log)
    scope: Scope = {"type": "http", "method": "GET", "path": "/v2/", "headers": []}

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(_message: Message) -> None:
        raise AssertionError

    if not is_begun:
        refuse(scope)
    await observed(scope, receive, send)
    access_log.flush()
    os.close(descriptor)
    metrics.flush()

    (line,) = map(json.loads, log.read_text().splitlines())
    assert line["status"] == 408
    assert refused == [(b"x-request-id", line["request_id"].encode())]
    assert b'imageregistry_http_requests_total{code="408",method="GET"} 1.0' in metrics.render()


async def test_a_lifespan_is_passed_on() -> None:
    seen: list[str] = []

    async def app(scope: Scope, _receive: Receive, _send: Send) -> None:
        seen.append(scope["type"])

    await ask(Observed(app, Metrics(), None), type="lifespan")

    assert seen == ["lifespan"]


@pytest.mark.parametrize(
    ("error", "message"),
    [(CannotStart("mend this"), "mend this"), (RuntimeError("ours"), "Traceback")],
    ids=["of the user", "ours"],
)
async def test_what_the_user_has_to_mend_is_told_without_a_traceback(
    error: Exception, message: str
) -> None:
    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncGenerator[None]:
        raise error
        yield

    told: list[Message] = []

    async def send(message: Message) -> None:
        told.append(message)

    with contextlib.suppress(RuntimeError):
        app = Observed(Starlette(lifespan=lifespan), Metrics(), None)
        await app({"type": "lifespan", "state": {}}, waiting, send)

    (failed,) = told
    assert failed["type"] == "lifespan.startup.failed"
    assert failed["message"].startswith(message)


async def logged(
    tmp_path: Path, app: ASGIApp, headers: Sequence[tuple[bytes, bytes]] = (), **scope: Any
) -> tuple[dict[str, Any], Metrics]:
    """The log line and the counts of one request."""
    path = tmp_path / "log"
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY)
    metrics = Metrics()
    log = AccessLog(is_json=True, fields={}, sink=LogSink(descriptor))
    with contextlib.suppress(RuntimeError):
        await ask(Observed(app, metrics, log), headers, **scope)
    log.flush()
    os.close(descriptor)
    metrics.flush()
    content = path.read_text()
    return (json.loads(content) if content else {}), metrics
