"""Pushing manifests, from the outside."""

import json
from collections.abc import Callable

import pytest
from starlette.testclient import TestClient

from alauda_registry.oci.digest import Algorithm, Digest
from alauda_registry.oci.media_types import OCI_EMPTY, OCI_INDEX, OCI_MANIFEST
from alauda_registry.server.state import ServerOptions
from tests.unit.server.asgi import RawClient
from tests.unit.server.conftest import MakeApp, MakeClient
from tests.unit.server.pushing import EMPTY, artifact, descriptor, index, push_blob, push_manifest

MANIFESTS = "/v2/team/app/manifests/"
TYPE = {"Content-Type": OCI_MANIFEST}


@pytest.mark.parametrize(
    "media_type", [OCI_MANIFEST, f"{OCI_MANIFEST.upper()} ; charset=utf-8", ""]
)
def test_push_answers_with_location_and_digest(client: TestClient, media_type: str) -> None:
    content = artifact()
    push_blob(client, EMPTY)

    headers = {"Content-Type": media_type} if media_type else {}
    answer = client.put(f"{MANIFESTS}v1", content=content, headers=headers)

    digest = Digest.of(content)
    assert (answer.status_code, answer.content) == (201, b"")
    assert answer.headers["Location"] == f"{MANIFESTS}{digest}"
    assert answer.headers["Docker-Content-Digest"] == str(digest)
    assert "OCI-Subject" not in answer.headers
    assert client.get(answer.headers["Location"]).headers["Content-Type"] == OCI_MANIFEST


@pytest.mark.parametrize("make", [artifact, index])
def test_subject_is_acknowledged_though_it_is_missing(
    client: TestClient, make: Callable[..., bytes]
) -> None:
    subject = descriptor(b"never pushed", OCI_MANIFEST)
    content = make(subject=subject)
    push_blob(client, EMPTY)

    answer = client.put(
        f"{MANIFESTS}{Digest.of(content)}",
        content=content,
        headers={"Content-Type": json.loads(content)["mediaType"]},
    )

    assert answer.status_code == 201
    assert answer.headers["OCI-Subject"] == subject["digest"]


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_tags_are_pushed_with_the_manifest(client: TestClient, algorithm: Algorithm) -> None:
    content = artifact()
    digest = Digest.of(content, algorithm)
    tags = [f"t{number}" for number in range(20)]
    push_blob(client, EMPTY)

    answer = client.put(
        f"{MANIFESTS}{digest}", params={"tag": [*tags, "t0"]}, content=content, headers=TYPE
    )

    assert answer.status_code == 201
    assert answer.headers.get_list("OCI-Tag") == tags
    for tag in tags:
        pulled = client.get(MANIFESTS + tag)
        assert (pulled.content, pulled.headers["Docker-Content-Digest"]) == (content, str(digest))


@pytest.mark.parametrize(
    "query",
    [b"&".join(b"tag=t%d" % number for number in range(10_000)), b"tag=a&tag=b+c", b"tag="],
    ids=["many", "malformed", "empty"],
)
def test_bad_tags_are_refused_unread(make_app: MakeApp, query: bytes) -> None:
    path = f"{MANIFESTS}{Digest.of(artifact())}".encode()

    with RawClient(make_app(ServerOptions())) as client:
        answer = client.request("PUT", path, query=query, body=[artifact()])

    assert (answer.status, answer.reads) == (400, 0)
    assert json.loads(answer.body)["errors"][0]["code"] == "MANIFEST_INVALID"


def test_more_tags_than_the_limit_are_refused(make_client: MakeClient) -> None:
    client = make_client(ServerOptions(max_tags_in_push=2))
    content = artifact()
    push_blob(client, EMPTY)
    path = f"{MANIFESTS}{Digest.of(content)}"

    answers = [
        client.put(path, params={"tag": tags}, content=content, headers=TYPE)
        for tags in (["a", "b", "a"], ["a", "b", "c"])
    ]

    assert [answer.status_code for answer in answers] == [201, 400]
    assert "at most 2" in answers[1].json()["errors"][0]["message"]
    assert client.get(f"{MANIFESTS}c").status_code == 404


def test_every_missing_blob_is_named(client: TestClient) -> None:
    layers = [descriptor(content, "application/x") for content in (b"one", b"two")]
    content = artifact(layers=layers)

    answer = client.put(f"{MANIFESTS}v1", content=content, headers=TYPE)

    assert answer.status_code == 400
    errors = answer.json()["errors"]
    assert {error["code"] for error in errors} == {"MANIFEST_BLOB_UNKNOWN"}
    assert {error["detail"]["digest"] for error in errors} == {
        str(Digest.of(EMPTY)),
        *(layer["digest"] for layer in layers),
    }


def test_content_that_is_not_the_digests_is_refused(client: TestClient) -> None:
    push_blob(client, EMPTY)

    answer = client.put(
        f"{MANIFESTS}{Digest.of(artifact())}", content=artifact() + b" ", headers=TYPE
    )

    assert answer.status_code == 400
    assert answer.json()["errors"][0]["code"] == "DIGEST_INVALID"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"schemaVersion":' + b"9" * 100_000 + b"}",
        b'{"schemaVersion":2,"config":{"digest":7}}',
        b'{"schemaVersion":2,"annotations":{"a":"\\ud800"}}',
    ],
    ids=["nothing", "cut", "null", "array", "binary", "deep", "number", "types", "surrogate"],
)
def test_hostile_content_is_an_invalid_manifest(client: TestClient, content: bytes) -> None:
    answer = client.put(f"{MANIFESTS}v1", content=content, headers=TYPE)

    assert answer.status_code == 400
    assert answer.json()["errors"][0]["code"] == "MANIFEST_INVALID"


def test_manifest_of_another_type_than_announced_is_refused(client: TestClient) -> None:
    answer = client.put(
        f"{MANIFESTS}v1", content=index(), headers={"Content-Type": "application/json"}
    )

    assert answer.status_code == 400
    assert answer.json()["errors"][0]["code"] == "MANIFEST_INVALID"
    assert (
        client.put(
            f"{MANIFESTS}v1", content=index(), headers={"Content-Type": OCI_INDEX}
        ).status_code
        == 201
    )


def test_too_large_manifest_is_refused_unread(make_app: MakeApp) -> None:
    with RawClient(make_app(ServerOptions(max_manifest_size=1000))) as client:
        announced = client.request(
            "PUT",
            f"{MANIFESTS}v1".encode(),
            headers=[(b"content-length", b"1001")],
            body=[b" " * 1001],
        )
        streamed = client.request(
            "PUT",
            f"{MANIFESTS}v1".encode(),
            headers=[(b"transfer-encoding", b"chunked")],
            body=[b" " * 400] * 100,
        )

    assert (announced.status, announced.reads) == (413, 0)
    assert (streamed.status, streamed.reads) == (413, 3)
    assert json.loads(streamed.body)["errors"][0]["code"] == "MANIFEST_INVALID"


def test_manifest_of_four_megabytes_is_taken(client: TestClient) -> None:
    content = artifact(annotations={str(key): "x" * 10_000 for key in range(400)})

    assert push_manifest(client, content, "big") == Digest.of(content)


def test_aborted_push_keeps_nothing(make_app: MakeApp) -> None:
    with RawClient(make_app(ServerOptions())) as client:
        client.request("PUT", f"{MANIFESTS}v1".encode(), body=[index()], is_cut_off=True)

        assert client.request("GET", f"{MANIFESTS}v1".encode()).status == 404


def test_manifest_that_names_its_empty_blob_twice_is_taken(client: TestClient) -> None:
    content = artifact(layers=[descriptor(EMPTY, OCI_EMPTY)])

    assert push_manifest(client, content) == Digest.of(content)
