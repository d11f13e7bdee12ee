"""The location of an upload: what it looks like, and who may go on with it."""

from ipaddress import ip_network

import pytest
from starlette.testclient import TestClient

from alauda_registry.server.proxies import Proxies
from alauda_registry.server.state import ServerOptions
from tests.unit.server.asgi import RawClient
from tests.unit.server.conftest import MakeApp, MakeClient
from tests.unit.server.uploading import CONTENT, DIGEST, UPLOADS, code, patch, start, with_digest

FORWARDED = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "cr.example:8443, inner"}
BEHIND = ServerOptions(relative_urls=False, proxies=Proxies((ip_network("192.0.2.0/24"),)))


@pytest.mark.parametrize(
    "state", [None, "", "AAAA", "ü", "=", "x" * 5000], ids=lambda state: repr(state)[:8]
)
@pytest.mark.parametrize("method", ["PATCH", "PUT", "DELETE"])
def test_location_that_is_not_ours_is_refused(
    client: TestClient, method: str, state: str | None
) -> None:
    location = start(client)
    params = {"digest": str(DIGEST)} | ({} if state is None else {"_state": state})

    answer = client.request(method, location.partition("?")[0], params=params)

    assert (answer.status_code, code(answer)) == (400, "BLOB_UPLOAD_INVALID")
    assert client.get(location).status_code == 204


def test_state_of_another_session_is_refused(client: TestClient) -> None:
    path = start(client).partition("?")[0]
    query = start(client).partition("?")[2]

    assert client.patch(f"{path}?{query}", content=b"x").status_code == 400


def test_replicas_with_one_secret_go_on_with_each_others_sessions(make_client: MakeClient) -> None:
    first, second = (make_client(ServerOptions(secret=b"shared")) for _ in range(2))
    stranger = make_client(ServerOptions(secret=b"other"))
    location = patch(first, start(first), 0, 300)

    assert stranger.patch(location, content=CONTENT[300:]).status_code == 400
    assert second.put(with_digest(location), content=CONTENT[300:]).status_code == 201


def test_replicas_without_a_secret_share_one_in_storage(make_client: MakeClient) -> None:
    first, second = make_client(ServerOptions()), make_client(ServerOptions())

    assert second.put(with_digest(start(first)), content=CONTENT).status_code == 201


@pytest.mark.parametrize(
    ("options", "headers", "expected"),
    [
        (ServerOptions(), {}, "/v2/"),
        (ServerOptions(external_url="https://cr.example/"), {}, "https://cr.example/v2/"),
        (ServerOptions(external_url="https://cr.example", relative_urls=True), {}, "/v2/"),
        (ServerOptions(relative_urls=False), {}, "http://testserver/v2/"),
        (BEHIND, FORWARDED, "https://cr.example:8443/v2/"),
        (BEHIND, {"Forwarded": "proto=https;host=cr.example"}, "https://cr.example/v2/"),
        (BEHIND, {"X-Forwarded-Host": "evil/path"}, "http://testserver/v2/"),
        (ServerOptions(relative_urls=False), FORWARDED, "http://testserver/v2/"),
        (
            ServerOptions(relative_urls=False),
            {"Forwarded": "proto=https;host=evil.example"},
            "http://testserver/v2/",
        ),
        (
            ServerOptions(external_url="https://cr.example", prefix="/reg/"),
            {},
            "https://cr.example/reg/v2/",
        ),
    ],
    ids=[
        *("path", "url", "path-despite-url", "request", "proxy", "forwarded", "no-host"),
        *("nobody's-proxy", "nobody's-forwarded", "url-and-prefix"),
    ],
)
def test_location_is_a_path_or_a_url(
    make_app: MakeApp, options: ServerOptions, headers: dict[str, str], expected: str
) -> None:
    path = options.prefix.rstrip("/") + UPLOADS

    with TestClient(make_app(options), client=("192.0.2.1", 1)) as client:
        answer = client.post(path, headers=headers)

    assert answer.headers["Location"].startswith(f"{expected}team/app/blobs/uploads/")


def test_status_needs_no_state(client: TestClient) -> None:
    location = patch(client, start(client), 0, 300)

    answer = client.get(location.partition("?")[0])

    assert (answer.status_code, answer.headers["Range"]) == (204, "0-299")
    assert (
        client.put(with_digest(answer.headers["Location"]), content=CONTENT[300:]).status_code
        == 201
    )


def test_session_of_another_repository_is_unknown(client: TestClient) -> None:
    location = start(client).replace("/team/app/", "/team/other/")

    assert client.get(location).status_code == 404


@pytest.mark.parametrize("upload_id", ["00000000-0000-4000-8000-000000000000", "..", "x", "%2e"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "PATCH", "PUT", "DELETE"])
def test_unknown_session_is_unknown(make_app: MakeApp, method: str, upload_id: str) -> None:
    with RawClient(make_app(ServerOptions())) as client:
        answer = client.request(method, f"{UPLOADS}{upload_id}".encode())

    assert answer.status == 404
