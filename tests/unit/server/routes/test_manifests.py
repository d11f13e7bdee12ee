"""Pulling and deleting manifests, and what is no name of one, from the outside."""

import json

import pytest
from starlette.testclient import TestClient

from alauda_registry.oci.digest import Algorithm, Digest
from alauda_registry.oci.media_types import DOCKER_LIST, OCI_MANIFEST
from alauda_registry.server.state import ServerOptions
from tests.unit.server.asgi import RawClient
from tests.unit.server.conftest import MakeApp, MakeClient
from tests.unit.server.pushing import artifact, push_manifest

MANIFESTS = "/v2/team/app/manifests/"
TYPE = {"Content-Type": OCI_MANIFEST}


@pytest.mark.parametrize("reference", ["v1", None], ids=["tag", "digest"])
@pytest.mark.parametrize("accept", ["*/*", "application/json", DOCKER_LIST])
def test_manifest_is_served_as_it_was_pushed(
    client: TestClient, reference: str | None, accept: str
) -> None:
    content = artifact(**{"x-unknown": [1, 2.50, "ü"]}) + b"\n "
    digest = push_manifest(client, content, reference)

    answer = client.get(f"{MANIFESTS}{reference or digest}", headers={"Accept": accept})

    assert (answer.status_code, answer.content) == (200, content)
    assert dict(answer.headers) == {
        "content-type": OCI_MANIFEST,
        "content-length": str(len(content)),
        "docker-content-digest": str(digest),
        "etag": f'"{digest}"',
        "x-content-type-options": "nosniff",
        "docker-distribution-api-version": "registry/2.0",
    }


@pytest.mark.parametrize("reference", ["v1", None], ids=["tag", "digest"])
def test_head_has_the_headers_of_get_and_no_body(client: TestClient, reference: str | None) -> None:
    url = f"{MANIFESTS}{reference or push_manifest(client, artifact())}"
    push_manifest(client, artifact(), reference)

    answer = client.head(url)

    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers == client.get(url).headers


def test_known_manifest_is_not_sent_again(client: TestClient) -> None:
    digest = push_manifest(client, artifact(), "v1")

    answer = client.get(f"{MANIFESTS}v1", headers={"If-None-Match": f'"{digest}"'})

    assert (answer.status_code, answer.content) == (304, b"")
    assert answer.headers["Docker-Content-Digest"] == str(digest)
    assert client.get(f"{MANIFESTS}v1", headers={"If-None-Match": '"x"'}).status_code == 200


@pytest.mark.parametrize(
    "reference",
    [
        "sha256:baddigeststring",
        "sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709",
        "sha256:" + "A" * 64,
    ],
)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_malformed_digest_is_refused(client: TestClient, method: str, reference: str) -> None:
    answer = client.request(method, MANIFESTS + reference, content=b"{}")

    assert answer.status_code == 400
    assert answer.json()["errors"][0]["code"] == "DIGEST_INVALID"


@pytest.mark.parametrize(
    "reference", ["-x", ".x", "a" * 129, "a%20b", "a%2Fb", "a%00", "%ff", "v%"]
)
def test_malformed_tag_is_refused(make_app: MakeApp, reference: str) -> None:
    with RawClient(make_app(ServerOptions())) as client:
        for method in ("GET", "PUT", "DELETE"):
            answer = client.request(method, (MANIFESTS + reference).encode())

            assert answer.status == 400
            assert json.loads(answer.body)["errors"][0]["code"] == "MANIFEST_INVALID"


@pytest.mark.parametrize(
    "name",
    ["UPPER", "a//b", "a/../b", "%2e%2e", "a%2Fb", "a%00", "a%0a", "_a", "a" * 256, "%FF", "a%"],
)
def test_malformed_name_is_refused(make_app: MakeApp, name: str) -> None:
    with RawClient(make_app(ServerOptions())) as client:
        for path in ("manifests/v1", "tags/list", f"blobs/{Digest.of(b'')}"):
            answer = client.request("GET", f"/v2/{name}/{path}".encode())

            assert answer.status == 400
            assert json.loads(answer.body)["errors"][0]["code"] == "NAME_INVALID"


def test_name_is_decoded_once(client: TestClient) -> None:
    push_manifest(client, artifact(), "v1", "team/app")

    assert client.get("/v2/te%61m/app/manifests/v%31").status_code == 200


@pytest.mark.parametrize(
    "name", ["blobs/uploads", "a/manifests/b", "tags/list", "a/blobs/uploads/b"]
)
def test_names_may_contain_the_words_of_the_endpoints(client: TestClient, name: str) -> None:
    push_manifest(client, artifact(), "v1", name)

    assert client.get(f"/v2/{name}/manifests/v1").content == artifact()
    assert client.get(f"/v2/{name}/tags/list").json() == {"name": name, "tags": ["v1"]}


def test_deleted_tag_leaves_the_manifest(client: TestClient) -> None:
    digest = push_manifest(client, artifact(), "v1")

    assert client.delete(f"{MANIFESTS}v1").status_code == 202
    assert client.head(f"{MANIFESTS}v1").status_code == 404
    assert client.delete(f"{MANIFESTS}v1").status_code == 404
    assert client.head(f"{MANIFESTS}{digest}").status_code == 200


def test_deleted_manifest_takes_its_tags_along(client: TestClient) -> None:
    digest = push_manifest(client, artifact(), "v1")

    assert client.delete(f"{MANIFESTS}{digest}").status_code == 202
    assert client.head(f"{MANIFESTS}{digest}").status_code == 404
    assert client.head(f"{MANIFESTS}v1").status_code == 404
    assert client.delete(f"{MANIFESTS}{digest}").status_code == 404


@pytest.mark.parametrize(
    ("options", "tag", "manifest"),
    [
        (ServerOptions(delete_enabled=False), 405, 405),
        (ServerOptions(delete_tags=False), 405, 202),
        (ServerOptions(delete_manifests=False), 202, 405),
    ],
    ids=["all", "tags", "manifests"],
)
def test_each_deletion_can_be_disabled(
    make_client: MakeClient, options: ServerOptions, tag: int, manifest: int
) -> None:
    client = make_client(options)
    digest = push_manifest(client, artifact(), "v1")

    assert client.delete(f"{MANIFESTS}v1").status_code == tag
    assert client.delete(f"{MANIFESTS}{digest}").status_code == manifest


def test_unknown_tag_and_digest_are_unknown(client: TestClient) -> None:
    for reference in ("absent", Digest.of(b"absent"), Digest.of(b"absent", Algorithm.SHA512)):
        answer = client.get(f"{MANIFESTS}{reference}")

        assert answer.status_code == 404
        assert answer.json()["errors"][0]["code"] == "MANIFEST_UNKNOWN"
