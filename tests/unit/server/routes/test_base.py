"""Whether this is a registry, and what is no endpoint of one."""

import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from alauda_registry.server.state import ServerOptions
from tests.unit.server.conftest import MakeClient


@pytest.mark.parametrize("path", ["/v2/", "/v2"])
def test_base_answers_with_an_empty_object(client: TestClient, path: str) -> None:
    answer = client.get(path)

    assert (answer.status_code, answer.json()) == (200, {})
    assert answer.headers["Docker-Distribution-API-Version"] == "registry/2.0"


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1/",
        "/v3/team/app/tags/list",
        "/v2/team/app",
        "/v2/tags/list",
        "/v2/manifests/latest",
        "/v2/_catalog/",
        "/v2/team/app/tags/list/",
    ],
)
def test_other_paths_are_unknown_without_a_redirect(client: TestClient, path: str) -> None:
    answer = client.get(path)

    assert answer.status_code == 404
    assert answer.json()["errors"][0]["code"] == "UNSUPPORTED"
    assert answer.headers["Docker-Distribution-API-Version"] == "registry/2.0"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/v2/", "GET, HEAD"),
        ("GET", "/v2/a/blobs/uploads/", "POST"),
        ("PUT", "/v2/a/tags/list", "GET, HEAD"),
        ("PATCH", "/v2/a/manifests/latest", "DELETE, GET, HEAD, PUT"),
        ("POST", "/v2/a/blobs/uploads/x", "DELETE, GET, HEAD, PATCH, PUT"),
        ("DELETE", "/v2/_catalog", "GET, HEAD"),
    ],
)
def test_wrong_method_is_told_the_right_ones(
    client: TestClient, method: str, path: str, allowed: str
) -> None:
    answer = client.request(method, path)

    assert answer.status_code == 405
    assert answer.headers["Allow"] == allowed
    assert answer.json()["errors"][0]["code"] == "UNSUPPORTED"


def test_prefix_moves_every_endpoint(make_client: MakeClient) -> None:
    client = make_client(ServerOptions(prefix="/registry/"))

    assert client.get("/registry/v2/").status_code == 200
    assert client.get("/v2/").status_code == 404
    location = client.post("/registry/v2/a/blobs/uploads/").headers["Location"]
    assert location.startswith("/registry/v2/a/blobs/uploads/")
    assert client.get(location).status_code == 204


def test_configured_headers_are_on_every_answer(make_client: MakeClient) -> None:
    client = make_client(ServerOptions(headers={"X-One": ["a", "b"], "Content-Type": ["no"]}))

    for path, status in (("/v2/", 200), ("/v2/a/tags/list", 404), ("/nowhere", 404)):
        answer = client.get(path)
        assert answer.status_code == status
        assert answer.headers.get_list("X-One") == ["a", "b"]
        assert answer.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v2/a/blobs/uploads/"),
        ("PUT", "/v2/a/manifests/latest"),
        ("DELETE", "/v2/a/manifests/latest"),
        ("PATCH", "/v2/a/blobs/uploads/x"),
    ],
)
def test_read_only_registry_refuses_writes_and_serves_reads(
    make_client: MakeClient, method: str, path: str
) -> None:
    client = make_client(ServerOptions(read_only=True))

    refused = client.request(method, path)

    assert refused.status_code == 405
    assert refused.json()["errors"][0]["code"] == "UNSUPPORTED"
    assert set(refused.headers["Allow"].split(", ")) <= {"GET", "HEAD", ""}
    assert "read-only" in refused.json()["errors"][0]["message"]
    assert client.get("/v2/_catalog").json() == {"repositories": []}


def test_websockets_are_refused(client: TestClient) -> None:
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/v2/"):
        pass
