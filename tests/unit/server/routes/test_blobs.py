"""Pulling, checking and deleting blobs, from the outside."""

import os
from contextlib import nullcontext
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from alauda_registry.oci.digest import Algorithm, Digest
from alauda_registry.server.app import create_app
from alauda_registry.server.state import ServerOptions
from alauda_registry.storage.drivers.filesystem import FilesystemDriver
from alauda_registry.storage.repositories import Registry
from tests.unit.server.asgi import RawClient
from tests.unit.server.conftest import MakeApp, MakeClient
from tests.unit.server.pushing import push_blob

SMALL = bytes(range(256)) * 8
LARGE = os.urandom(700_000)


def push_raw(client: RawClient, content: bytes) -> None:
    client.request(
        "POST",
        b"/v2/a/blobs/uploads/",
        query=f"digest={Digest.of(content)}".encode(),
        headers=[(b"transfer-encoding", b"chunked")],
        body=[content],
    )


@pytest.mark.parametrize("content", [SMALL, LARGE, b""], ids=["small", "large", "empty"])
@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_blob_is_served_whole_with_its_headers(
    client: TestClient, content: bytes, algorithm: Algorithm
) -> None:
    digest = push_blob(client, content, algorithm=algorithm)

    answer = client.get(f"/v2/team/app/blobs/{digest}", headers={"Accept-Encoding": "gzip"})

    assert (answer.status_code, answer.content) == (200, content)
    assert dict(answer.headers) == {
        "content-type": "application/octet-stream",
        "content-length": str(len(content)),
        "accept-ranges": "bytes",
        "x-content-type-options": "nosniff",
        "docker-content-digest": str(digest),
        "etag": f'"{digest}"',
        "cache-control": "max-age=31536000",
        "docker-distribution-api-version": "registry/2.0",
    }


@pytest.mark.parametrize("content", [SMALL, LARGE, b""], ids=["small", "large", "empty"])
def test_head_has_the_headers_of_get_and_no_body(client: TestClient, content: bytes) -> None:
    digest = push_blob(client, content)
    url = f"/v2/team/app/blobs/{digest}"

    answer = client.head(url)

    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers == client.get(url).headers


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=500-1499", 500, 1499),
        ("bytes=500-", 500, None),
        ("bytes=-500", -500, None),
        ("bytes=2000-999999999", 2000, None),
        ("bytes=0-0", 0, 0),
        ("bytes=-999999999", 0, None),
    ],
)
def test_single_range_is_served(
    client: TestClient, content: bytes, asked: str, first: int, last: int | None
) -> None:
    digest = push_blob(client, content)
    size = len(content)
    first = first if first >= 0 else size + first
    last = size - 1 if last is None else last

    answer = client.get(f"/v2/team/app/blobs/{digest}", headers={"Range": asked})

    assert (answer.status_code, answer.content) == (206, content[first : last + 1])
    assert answer.headers["Content-Range"] == f"bytes {first}-{last}/{size}"
    assert answer.headers["Content-Length"] == str(last - first + 1)
    assert answer.headers["Docker-Content-Digest"] == str(digest)


@pytest.mark.parametrize("asked", ["bytes=500-0", "bytes=5000-10000", "bytes=-0", "bytes=2048-"])
def test_range_outside_the_blob_is_refused_with_its_size(client: TestClient, asked: str) -> None:
    digest = push_blob(client, SMALL)

    answer = client.get(f"/v2/team/app/blobs/{digest}", headers={"Range": asked})

    assert answer.status_code == 416
    assert answer.headers["Content-Range"] == "bytes */2048"
    assert answer.json()["errors"][0]["code"] == "SIZE_INVALID"


@pytest.mark.parametrize("asked", ["bytes=0-1,5-6", "lines=0-1", "bytes=a-b", "bytes=-", "all"])
def test_what_is_no_single_range_gets_the_whole_blob(client: TestClient, asked: str) -> None:
    digest = push_blob(client, SMALL)

    answer = client.get(f"/v2/team/app/blobs/{digest}", headers={"Range": asked})

    assert (answer.status_code, answer.content) == (200, SMALL)


@pytest.mark.parametrize("asked", ["bytes=0-", "bytes=0-0", "bytes=-1"])
def test_empty_blob_has_no_ranges(client: TestClient, asked: str) -> None:
    digest = push_blob(client, b"")

    answer = client.get(f"/v2/team/app/blobs/{digest}", headers={"Range": asked})

    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize(
    ("condition", "status"),
    [('"{digest}"', 206), ('W/"{digest}"', 200), ('"other"', 200), ("Tue, 1 Jan 2030 GMT", 200)],
    ids=["same", "weak", "other", "date"],
)
def test_if_range_decides_between_part_and_whole(
    client: TestClient, condition: str, status: int
) -> None:
    digest = push_blob(client, SMALL)

    answer = client.get(
        f"/v2/team/app/blobs/{digest}",
        headers={"Range": "bytes=0-9", "If-Range": condition.format(digest=digest)},
    )

    assert answer.status_code == status


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "condition",
    ['"{digest}"', 'W/"{digest}"', "{digest}", "*", '"x", W/"y" , "{digest}"'],
    ids=["strong", "weak", "unquoted", "any", "list"],
)
def test_known_content_is_not_sent_again(client: TestClient, method: str, condition: str) -> None:
    digest = push_blob(client, SMALL)

    answer = client.request(
        method,
        f"/v2/team/app/blobs/{digest}",
        headers={"If-None-Match": condition.format(digest=digest)},
    )

    assert (answer.status_code, answer.content) == (304, b"")
    assert answer.headers["ETag"] == f'"{digest}"'


def test_if_none_match_does_not_make_a_missing_blob_known(client: TestClient) -> None:
    digest = Digest.of(b"never pushed")

    answer = client.get(f"/v2/team/app/blobs/{digest}", headers={"If-None-Match": f'"{digest}"'})

    assert answer.status_code == 404


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_blob_of_another_repository_is_unknown(client: TestClient, algorithm: Algorithm) -> None:
    digest = push_blob(client, SMALL, "team/app", algorithm)

    answer = client.get(f"/v2/team/other/blobs/{digest}")

    assert answer.status_code == 404
    error = answer.json()["errors"][0]
    assert (error["code"], error["detail"]) == ("BLOB_UNKNOWN", {"digest": str(digest)})


def test_deleted_blob_is_gone_at_once(client: TestClient) -> None:
    url = f"/v2/team/app/blobs/{push_blob(client, SMALL)}"

    assert client.delete(url).status_code == 202
    assert client.head(url).status_code == 404
    assert client.delete(url).status_code == 404


@pytest.mark.parametrize(
    "options",
    [ServerOptions(delete_enabled=False), ServerOptions(delete_blobs=False)],
    ids=["all", "blobs"],
)
def test_deleting_blobs_can_be_disabled(make_client: MakeClient, options: ServerOptions) -> None:
    client = make_client(options)
    url = f"/v2/team/app/blobs/{push_blob(client, SMALL)}"

    answer = client.delete(url)

    assert answer.status_code == 405
    assert answer.headers["Allow"] == "GET, HEAD"
    assert client.head(url).status_code == 200


def test_small_part_of_a_large_blob_is_sent_from_memory(tmp_path: Path) -> None:
    registry = Registry(FilesystemDriver(tmp_path))
    digest = Digest.of(LARGE)
    with RawClient(create_app(lambda: nullcontext(registry))) as client:
        push_raw(client, LARGE)

        answer = client.request(
            "GET",
            f"/v2/a/blobs/{digest}".encode(),
            headers=[(b"range", b"bytes=1000-1999")],
            extensions={"http.response.zerocopysend": {}},
        )

    assert (answer.status, answer.body) == (206, LARGE[1000:2000])


def test_large_blob_is_handed_to_a_server_that_sends_files(tmp_path: Path) -> None:
    registry = Registry(FilesystemDriver(tmp_path))
    digest = Digest.of(LARGE)
    with RawClient(create_app(lambda: nullcontext(registry))) as client:
        push_raw(client, LARGE)

        answer = client.request(
            "GET",
            f"/v2/a/blobs/{digest}".encode(),
            headers=[(b"range", b"bytes=1000-200999")],
            extensions={"http.response.zerocopysend": {}},
        )

    start, body = answer.messages
    assert (start["status"], answer.headers["content-length"]) == (206, "200000")
    file = body.pop("file")
    assert body == {
        "type": "http.response.zerocopysend",
        "offset": 1000,
        "count": 200_000,
        "more_body": False,
    }
    # The file was open while it was being sent, and is closed now.
    with pytest.raises((OSError, ValueError)):
        os.fstat(file.fileno())


def test_reading_stops_when_the_client_goes_away(make_app: MakeApp) -> None:
    content = os.urandom(8 * 2**20)
    digest = Digest.of(content)
    with RawClient(make_app(ServerOptions())) as client:
        push_raw(client, content)

        answer = client.request("GET", f"/v2/a/blobs/{digest}".encode(), is_cut_off=True)

    assert len(answer.body) < len(content)
