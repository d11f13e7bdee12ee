"""What clients are told when something goes wrong, and what only the log is told."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator
from contextlib import nullcontext
from datetime import timedelta

import pytest
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from alauda_registry.oci.digest import Digest
from alauda_registry.oci.errors import (
    RangeNotSatisfiable,
    RegistryError,
    StorageUnavailable,
    TooManyRequests,
)
from alauda_registry.server.app import create_app
from alauda_registry.server.errors import STATUS, error_response
from alauda_registry.server.middleware.envelope import Envelope
from alauda_registry.storage.driver import (
    Busy,
    DriverError,
    InvalidPath,
    OutOfSpace,
    ReadOnlyFileSystem,
    Stage,
    Unreachable,
)
from alauda_registry.storage.drivers.inmemory import InMemoryDriver
from alauda_registry.storage.repositories import Registry, StorageOptions
from tests.unit.server.asgi import RawClient

PLACE = {"driver": "broken", "path": "/secret/path"}


class BrokenDriver(InMemoryDriver):
    """A driver that can't read."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    @override
    async def read(self, path: str) -> bytes:
        raise self._error


class FullDriver(InMemoryDriver):
    """A driver with no room for anything that is to last."""

    @override
    async def publish(self, *stages: Stage) -> None:
        raise OutOfSpace(**PLACE)


def make_app(error: Exception) -> Starlette:
    registry = Registry(BrokenDriver(error))
    return create_app(lambda: nullcontext(registry))


def test_every_registry_error_has_a_status() -> None:
    assert STATUS.keys() == set(RegistryError.__subclasses__())


@pytest.mark.parametrize(
    ("error", "status", "code", "headers"),
    [
        (OutOfSpace(**PLACE), 507, "UNAVAILABLE", {}),
        (ReadOnlyFileSystem(**PLACE), 405, "UNSUPPORTED", {"allow": "GET, HEAD"}),
        (Busy(**PLACE), 503, "UNAVAILABLE", {"retry-after": "5"}),
        (Unreachable("gone", **PLACE), 503, "UNAVAILABLE", {"retry-after": "5"}),
    ],
    ids=["full", "read-only", "busy", "unreachable"],
)
def test_storage_trouble_has_its_own_answer(
    error: DriverError, status: int, code: str, headers: dict[str, str]
) -> None:
    with TestClient(make_app(error)) as client:
        answer = client.get("/v2/a/manifests/latest")

    assert answer.status_code == status
    assert answer.json()["errors"][0]["code"] == code
    assert headers.items() <= dict(answer.headers).items()
    assert "secret" not in answer.text


@pytest.mark.parametrize(
    ("advice", "message"),
    [
        (None, "the registry's storage is full: free space or enlarge it, then push again"),
        ("the claim a is full: enlarge it", "the claim a is full: enlarge it"),
    ],
)
def test_a_client_is_told_what_is_full_and_what_to_do(advice: str | None, message: str) -> None:
    with TestClient(make_app(OutOfSpace(**PLACE, advice=advice))) as client:
        answer = client.get("/v2/a/manifests/latest")

    assert answer.status_code == 507
    assert answer.json()["errors"][0]["message"] == message


@pytest.mark.parametrize(
    "error", [InvalidPath(**PLACE), ZeroDivisionError("secret")], ids=["driver", "bug"]
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_unforeseen_trouble_is_opaque_and_logged(
    error: Exception, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    with TestClient(make_app(error)) as client:
        answer = client.request(method, "/v2/a/manifests/latest")

    assert answer.status_code == 500
    assert answer.headers["Docker-Distribution-API-Version"] == "registry/2.0"
    if method == "GET":
        assert answer.json()["errors"][0]["code"] == "UNKNOWN"
    assert "secret" not in answer.text
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert record.exc_info[1] is error


def test_full_storage_keeps_nothing_of_a_single_post() -> None:
    registry = Registry(FullDriver(), StorageOptions(upload_age=timedelta(0)))
    with TestClient(create_app(lambda: nullcontext(registry))) as client:
        answer = client.post(f"/v2/a/blobs/uploads/?digest={Digest.of(b'x')}", content=b"x")

    assert answer.status_code == 507
    assert asyncio.run(registry.expire_uploads()) == 0


def test_error_has_no_body_for_head_but_its_length() -> None:
    registry = Registry(InMemoryDriver())
    with RawClient(create_app(lambda: nullcontext(registry))) as client:
        answers = [client.request(method, b"/v2/a/manifests/v1") for method in ("GET", "HEAD")]

    assert [answer.status for answer in answers] == [404, 404]
    assert answers[0].headers == answers[1].headers
    assert len(answers[0].body) == int(answers[0].headers["content-length"])
    assert answers[1].body == b""


def test_unforeseen_trouble_names_the_request(caplog: pytest.LogCaptureFixture) -> None:
    app = make_app(ZeroDivisionError())

    async def with_id(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["alauda.request_id"] = "abc123"
        await app(scope, receive, send)

    with TestClient(with_id) as client:
        answer = client.get("/v2/a/manifests/latest")

    assert answer.json()["errors"][0]["detail"] == {"requestId": "abc123"}
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "error", [TooManyRequests(retry_after=7), StorageUnavailable(retry_after=7)]
)
def test_waiting_time_is_told(error: RegistryError) -> None:
    assert error_response(error).headers["Retry-After"] == "7"


def test_size_is_told_with_an_unsatisfiable_range() -> None:
    answer = error_response(RangeNotSatisfiable(size=7))

    assert (answer.status_code, answer.headers["Content-Range"]) == (416, "bytes */7")
    assert json.loads(bytes(answer.body))["errors"][0]["code"] == "SIZE_INVALID"


def test_answer_that_breaks_in_the_middle_is_not_ended_as_if_it_were_whole() -> None:
    async def half() -> AsyncGenerator[bytes]:
        yield b"half"
        raise ZeroDivisionError

    client = TestClient(Envelope(StreamingResponse(half()), {}))

    with pytest.raises(ZeroDivisionError):
        client.get("/broken")
