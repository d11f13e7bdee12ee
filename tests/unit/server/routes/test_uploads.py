"""Upload sessions and single-request uploads, from the outside."""

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from alauda_registry.oci.digest import Algorithm, Digest
from tests.unit.server.uploading import CONTENT, DIGEST, UPLOADS, code, patch, start, with_digest


@pytest.mark.parametrize("path", [UPLOADS, UPLOADS.removesuffix("/")])
def test_post_opens_an_empty_session(client: TestClient, path: str) -> None:
    answer = client.post(path)

    assert (answer.status_code, answer.content) == (202, b"")
    upload_id = answer.headers["Docker-Upload-UUID"]
    assert answer.headers["Location"].startswith(f"{UPLOADS}{upload_id}?_state=")
    assert answer.headers["Range"] == "0-0"
    assert answer.headers["Content-Length"] == "0"
    assert "OCI-Chunk-Min-Length" not in answer.headers


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_session_closed_with_the_whole_blob(client: TestClient, algorithm: Algorithm) -> None:
    digest = Digest.of(CONTENT, algorithm)

    answer = client.put(with_digest(start(client), digest), content=CONTENT)

    assert (answer.status_code, answer.content) == (201, b"")
    assert answer.headers["Docker-Content-Digest"] == str(digest)
    assert answer.headers["Location"] == f"/v2/team/app/blobs/{digest}"
    assert client.get(answer.headers["Location"]).content == CONTENT


@pytest.mark.parametrize("has_range", [True, False])
def test_chunks_in_order_make_the_blob(client: TestClient, has_range: bool) -> None:
    location = start(client)
    for first in range(0, 900, 300):
        headers = {"Content-Range": f"{first}-{first + 299}"} if has_range else {}
        answer = client.patch(location, content=CONTENT[first : first + 300], headers=headers)
        assert answer.status_code == 202
        assert answer.headers["Range"] == f"0-{first + 299}"
        assert answer.headers["Docker-Upload-UUID"] in answer.headers["Location"]
        location = answer.headers["Location"]

    answer = client.put(
        with_digest(location), content=CONTENT[900:], headers={"Content-Range": "900-999"}
    )

    assert answer.status_code == 201
    assert client.get(f"/v2/team/app/blobs/{DIGEST}").content == CONTENT


def test_stream_of_unknown_length_is_taken(client: TestClient) -> None:
    def pieces() -> Iterator[bytes]:
        yield CONTENT[:333]
        yield CONTENT[333:]

    answer = client.patch(
        start(client), content=pieces(), headers={"Content-Type": "multipart/whatever"}
    )

    assert answer.status_code == 202
    assert client.put(with_digest(answer.headers["Location"])).status_code == 201


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_single_post_takes_the_blob(client: TestClient, algorithm: Algorithm) -> None:
    digest = Digest.of(CONTENT, algorithm)

    answer = client.post(f"{UPLOADS}?digest={digest}", content=CONTENT)

    assert answer.status_code == 201
    assert answer.headers["Docker-Content-Digest"] == str(digest)
    assert client.get(answer.headers["Location"]).content == CONTENT


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_announced_algorithm_is_accepted(client: TestClient, algorithm: Algorithm) -> None:
    location = client.post(f"{UPLOADS}?digest-algorithm={algorithm}").headers["Location"]
    location = client.patch(location, content=CONTENT).headers["Location"]

    answer = client.put(with_digest(location, Digest.of(CONTENT, algorithm)))

    assert answer.status_code == 201


@pytest.mark.parametrize(
    "query",
    [
        "digest-algorithm=md5",
        "digest=sha256:short",
        "digest=md5:d41d8cd98f00b204e9800998ecf8427e",
        "mount=sha256:short&from=team/other",
    ],
)
def test_malformed_digest_is_refused_before_a_session_is_made(
    client: TestClient, query: str
) -> None:
    answer = client.post(f"{UPLOADS}?{query}")

    assert (answer.status_code, code(answer)) == (400, "DIGEST_INVALID")


@pytest.mark.parametrize("way", ["post", "put", "chunk"])
def test_content_that_is_not_the_digests_is_refused(client: TestClient, way: str) -> None:
    wrong = b"something else"
    match way:
        case "post":
            answer = client.post(f"{UPLOADS}?digest={DIGEST}", content=wrong)
        case "put":
            answer = client.put(with_digest(start(client)), content=wrong)
        case _:
            location = client.patch(start(client), content=wrong).headers["Location"]
            answer = client.put(with_digest(location))

    assert (answer.status_code, code(answer)) == (400, "DIGEST_INVALID")
    assert client.head(f"/v2/team/app/blobs/{DIGEST}").status_code == 404


def test_cancelled_session_is_gone(client: TestClient) -> None:
    location = start(client)

    answer = client.delete(location)

    assert (answer.status_code, answer.content) == (204, b"")
    assert (client.get(location).status_code, client.delete(location).status_code) == (404, 404)


def test_finished_session_is_gone(client: TestClient) -> None:
    location = start(client)
    client.put(with_digest(location), content=CONTENT)

    assert client.get(location).status_code == 404


@pytest.mark.parametrize("query", ["", "&digest=", "&digest=sha256:x", "&digest=..%2f.."])
def test_closing_without_a_good_digest_keeps_the_session(client: TestClient, query: str) -> None:
    location = patch(client, start(client), 0, 1000)

    answer = client.put(location + query)

    assert (answer.status_code, code(answer)) == (400, "DIGEST_INVALID")
    assert client.put(with_digest(location)).status_code == 201
