"""Tags, repositories and referrers, page by page, from the outside."""

import re

import pytest
from starlette.testclient import TestClient

from alauda_registry.oci.digest import Algorithm, Digest
from alauda_registry.oci.media_types import OCI_EMPTY, OCI_INDEX, OCI_MANIFEST
from alauda_registry.server.state import ServerOptions
from tests.unit.server.conftest import MakeClient
from tests.unit.server.pushing import artifact, descriptor, index, push_manifest

TAGS = ["1.0", "1.0.0", "1.0-a", "B", "a", "a.b", "a0", "a_b", "latest"]
SUBJECT = descriptor(b"the subject", OCI_MANIFEST)
REFERRERS = f"/v2/team/app/referrers/{SUBJECT['digest']}"


def push_tags(client: TestClient) -> None:
    for tag in TAGS:
        push_manifest(client, index(), tag)


def next_url(link: str) -> str:
    match = re.fullmatch(r'<([^>]*)>; rel="next"', link)
    assert match is not None
    return match[1]


def test_tags_are_listed_in_ascii_order(client: TestClient) -> None:
    push_tags(client)

    answer = client.get("/v2/team/app/tags/list")

    assert answer.json() == {"name": "team/app", "tags": sorted(TAGS)}
    assert answer.headers["Content-Type"] == "application/json"
    assert "Link" not in answer.headers


def test_unknown_repository_has_no_tag_list(client: TestClient) -> None:
    answer = client.get("/v2/team/app/tags/list?n=0")

    assert answer.status_code == 404
    assert answer.json()["errors"][0]["code"] == "NAME_UNKNOWN"


@pytest.mark.parametrize(
    ("query", "tags"),
    [
        ("last=1.0", sorted(TAGS)[1:]),
        ("last=1.0!", sorted(TAGS)[1:]),
        ("last=zzz", []),
        ("n=0", []),
        ("n=", sorted(TAGS)),
        (f"n={'0' * 30}", []),
        ("n=99999999999999999999999999", sorted(TAGS)),
        ("n=2&last=latest", []),
        ("last=%ff%00", []),
    ],
)
def test_page_begins_behind_last(client: TestClient, query: str, tags: list[str]) -> None:
    push_tags(client)

    answer = client.get(f"/v2/team/app/tags/list?{query}")

    assert (answer.status_code, answer.json()["tags"]) == (200, tags)
    assert "Link" not in answer.headers


@pytest.mark.parametrize("size", [1, 2, 4, 9])
def test_links_lead_through_all_tags(client: TestClient, size: int) -> None:
    push_tags(client)
    found: list[str] = []
    url = f"/v2/team/app/tags/list?n={size}"

    while url:
        answer = client.get(url)
        page = answer.json()["tags"]
        assert 0 < len(page) <= size
        found += page
        link = answer.headers.get("Link")
        url = next_url(link) if link else ""

    assert found == sorted(TAGS)


def test_tag_page_is_no_longer_than_the_limit(make_client: MakeClient) -> None:
    client = make_client(ServerOptions(tags_max=3))
    push_tags(client)

    answer = client.get("/v2/team/app/tags/list?n=100")

    assert answer.json()["tags"] == sorted(TAGS)[:3]
    assert next_url(answer.headers["Link"]) == "/v2/team/app/tags/list?last=1.0.0&n=3"


@pytest.mark.parametrize("path", ["/v2/a/tags/list", "/v2/_catalog", REFERRERS])
@pytest.mark.parametrize("number", ["-1", "x", "1.5", "+1", "%D9%A3", "1e3", "%20"])
def test_bad_number_is_refused(client: TestClient, path: str, number: str) -> None:
    answer = client.get(f"{path}?n={number}")

    assert answer.status_code == 400
    assert answer.json()["errors"][0]["code"] == "UNSUPPORTED"


def test_catalog_lists_slash_before_everything(client: TestClient) -> None:
    for name in ("a.b", "a/b", "a-b", "a", "b/c/d"):
        push_manifest(client, index(), "v1", name)

    assert client.get("/v2/_catalog").json() == {
        "repositories": ["a", "a/b", "a-b", "a.b", "b/c/d"]
    }


@pytest.mark.parametrize("prefix", ["/", "/reg/"])
def test_links_lead_through_the_catalog(make_client: MakeClient, prefix: str) -> None:
    names = ["a", "a/b", "a/b/c", "a-b", "a.b", "b"]
    for name in names:
        push_manifest(make_client(ServerOptions()), index(), "v1", name)
    client = make_client(ServerOptions(prefix=prefix))
    found: list[str] = []
    url = f"{prefix}v2/_catalog?n=2"

    while url:
        answer = client.get(url)
        found += answer.json()["repositories"]
        link = answer.headers.get("Link")
        url = next_url(link) if link else ""

    assert found == names


def test_catalog_page_has_a_default_and_a_limit(make_client: MakeClient) -> None:
    client = make_client(ServerOptions(catalog_default=2, catalog_max_entries=3))
    for name in "abcd":
        push_manifest(client, index(), "v1", name)

    assert client.get("/v2/_catalog").json() == {"repositories": ["a", "b"]}
    assert client.get("/v2/_catalog?n=3").json() == {"repositories": ["a", "b", "c"]}
    assert client.get("/v2/_catalog?n=0").json() == {"repositories": []}
    refused = client.get("/v2/_catalog?n=4")
    assert refused.status_code == 400
    assert refused.json()["errors"][0]["code"] == "UNSUPPORTED"


@pytest.mark.parametrize("digest", [Digest.of(b""), Digest.of(b"", Algorithm.SHA512)])
def test_unknown_subject_has_no_referrers(client: TestClient, digest: Digest) -> None:
    answer = client.get(f"/v2/never/pushed/referrers/{digest}")

    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == OCI_INDEX
    assert answer.json() == {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}


@pytest.mark.parametrize("digest", ["sha256:short", "latest", "sha384:00"])
def test_referrers_of_a_malformed_digest_are_refused(client: TestClient, digest: str) -> None:
    answer = client.get(f"/v2/team/app/referrers/{digest}")

    assert answer.status_code == 400
    assert answer.json()["errors"][0]["code"] == "DIGEST_INVALID"


def test_referrers_are_filtered_and_say_so(client: TestClient) -> None:
    contents = {
        "application/x.sbom": artifact(
            subject=SUBJECT, artifactType="application/x.sbom", annotations={"a": "b"}
        ),
        OCI_EMPTY: artifact(subject=SUBJECT),
    }
    digests = {kind: str(push_manifest(client, body)) for kind, body in contents.items()}

    everything = client.get(REFERRERS)
    filtered = client.get(REFERRERS, params={"artifactType": "application/x.sbom"})

    assert {entry["digest"] for entry in everything.json()["manifests"]} == set(digests.values())
    assert "OCI-Filters-Applied" not in everything.headers
    assert filtered.json()["manifests"] == [
        {
            "mediaType": OCI_MANIFEST,
            "digest": digests["application/x.sbom"],
            "size": len(contents["application/x.sbom"]),
            "artifactType": "application/x.sbom",
            "annotations": {"a": "b"},
        }
    ]
    assert filtered.headers["OCI-Filters-Applied"] == "artifactType"


@pytest.mark.parametrize("artifact_type", ["", "application/x+y&z"])
def test_links_lead_through_all_referrers(make_client: MakeClient, artifact_type: str) -> None:
    client = make_client(ServerOptions(referrers_max=2))
    fields = {"artifactType": artifact_type} if artifact_type else {}
    pushed = {
        str(push_manifest(client, artifact(subject=SUBJECT, annotations={"n": str(n)}, **fields)))
        for n in range(5)
    }
    if artifact_type:
        push_manifest(client, artifact(subject=SUBJECT, artifactType="application/other"))
    found: list[str] = []
    answer = client.get(REFERRERS, params={"n": "100", "artifactType": artifact_type})

    while True:
        page = answer.json()["manifests"]
        assert len(page) <= 2
        found += [entry["digest"] for entry in page]
        if "Link" not in answer.headers:
            break
        answer = client.get(next_url(answer.headers["Link"]))

    assert sorted(found) == sorted(pushed)
