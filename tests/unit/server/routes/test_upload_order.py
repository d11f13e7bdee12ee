"""Chunks that come in the wrong order, with the wrong length, or not at all."""

import asyncio
from contextlib import nullcontext
from datetime import timedelta

import pytest
from starlette.testclient import TestClient

from alauda_registry.server.app import create_app
from alauda_registry.server.state import ServerOptions
from alauda_registry.storage.drivers.inmemory import InMemoryDriver
from alauda_registry.storage.repositories import Registry, StorageOptions
from tests.unit.server.asgi import RawClient
from tests.unit.server.conftest import MakeApp
from tests.unit.server.uploading import CONTENT, DIGEST, UPLOADS, code, patch, start, with_digest


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
@pytest.mark.parametrize("content_range", ["0-99", "301-400", "5-4"])
def test_chunk_out_of_order_is_refused_unread_and_the_session_lives(
    client: TestClient, method: str, content_range: str
) -> None:
    location = patch(client, start(client), 0, 300)

    answer = client.request(
        method,
        with_digest(location),
        content=CONTENT[:100],
        headers={"Content-Range": content_range},
    )

    assert (answer.status_code, code(answer)) == (416, "BLOB_UPLOAD_INVALID")
    status = client.get(with_digest(location))
    assert (status.status_code, status.headers["Range"]) == (204, "0-299")
    location = patch(client, status.headers["Location"], 300, 1000)
    assert client.put(with_digest(location)).status_code == 201


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_out_of_order_chunk_is_refused_before_its_body_is_read(
    make_app: MakeApp, method: str
) -> None:
    with RawClient(make_app(ServerOptions())) as client:
        location = client.request("POST", UPLOADS.encode()).headers["location"]
        path, _, query = with_digest(location).encode().partition(b"?")

        answer = client.request(
            method,
            path,
            query=query,
            headers=[(b"content-range", b"7-16"), (b"content-length", b"10")],
            body=[b"x" * 10],
        )

    assert (answer.status, answer.reads) == (416, 0)


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_stale_location_is_refused_unless_the_range_fits(client: TestClient, method: str) -> None:
    stale = start(client)
    patch(client, stale, 0, 300)

    refused = client.request(method, with_digest(stale), content=CONTENT[300:])
    accepted = client.request(
        method, with_digest(stale), content=CONTENT[300:], headers={"Content-Range": "300-999"}
    )

    assert (refused.status_code, code(refused)) == (416, "BLOB_UPLOAD_INVALID")
    assert accepted.status_code == (202 if method == "PATCH" else 201)


def test_stale_location_without_a_body_does_not_finish_the_upload(client: TestClient) -> None:
    stale = start(client)
    location = patch(client, stale, 0, 1000)

    assert client.put(with_digest(stale)).status_code == 416
    assert client.put(with_digest(location)).status_code == 201


@pytest.mark.parametrize("content_range", ["bytes 0-9/10", "0-", "a-b", "-9", "0-9,10-19"])
def test_malformed_content_range_is_refused(client: TestClient, content_range: str) -> None:
    answer = client.patch(
        start(client), content=b"x" * 10, headers={"Content-Range": content_range}
    )

    assert (answer.status_code, code(answer)) == (400, "BLOB_UPLOAD_INVALID")


@pytest.mark.parametrize("content", [b"x" * 9, b"x" * 11, b""], ids=["short", "long", "none"])
def test_chunk_of_another_length_than_its_range_is_refused(
    client: TestClient, content: bytes
) -> None:
    location = start(client)

    answer = client.patch(location, content=content, headers={"Content-Range": "0-9"})

    assert (answer.status_code, code(answer)) == (400, "SIZE_INVALID")
    assert client.get(location).headers["Range"] == "0-0"


def test_streamed_chunk_of_another_length_than_its_range_leaves_nothing(
    client: TestClient,
) -> None:
    location = start(client)

    answer = client.patch(location, content=iter([b"x" * 9]), headers={"Content-Range": "0-9"})

    assert (answer.status_code, code(answer)) == (400, "SIZE_INVALID")
    assert client.put(with_digest(location), content=CONTENT).status_code == 201


def test_empty_chunk_changes_nothing(client: TestClient) -> None:
    location = patch(client, start(client), 0, 300)

    answer = client.patch(location)

    assert (answer.status_code, answer.headers["Range"]) == (202, "0-299")


def test_upload_whose_client_went_away_can_be_gone_on_with(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    with RawClient(make_app(ServerOptions())) as client:
        location = client.request("POST", UPLOADS.encode()).headers["location"]
        path, _, query = location.encode().partition(b"?")
        client.request(
            "PATCH",
            path,
            query=query,
            headers=[(b"content-length", b"1000")],
            body=[CONTENT[:300]],
            is_cut_off=True,
        )

        status = client.request("GET", path)
        first = int(status.headers["range"].partition("-")[2]) + 1
        first = 0 if first == 1 else first
        _, _, query = status.headers["location"].encode().partition(b"?")
        answer = client.request(
            "PUT",
            path,
            query=query + f"&digest={DIGEST}".encode(),
            headers=[(b"transfer-encoding", b"chunked")],
            body=[CONTENT[first:]],
        )

    assert answer.status == 201
    assert caplog.records == []


def test_single_post_whose_client_went_away_leaves_no_session() -> None:
    registry = Registry(InMemoryDriver(), StorageOptions(upload_age=timedelta(0)))
    with RawClient(create_app(lambda: nullcontext(registry))) as client:
        client.request(
            "POST",
            UPLOADS.encode(),
            query=f"digest={DIGEST}".encode(),
            headers=[(b"content-length", b"1000")],
            body=[CONTENT[:300]],
            is_cut_off=True,
        )

    assert asyncio.run(registry.expire_uploads()) == 0
