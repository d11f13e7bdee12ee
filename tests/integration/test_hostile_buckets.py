"""Buckets in which others keep things, too, and listings that are larger than anybody likes."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from conformance.s3proxy import proxy
from conformance.s3proxy.proxy import Proxy
from tests.integration.volumes import Pusher, assert_served, connected, digest_of
from tests.parts import registry, s3

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

TREE = "docker/registry/v2"
TAGS = 2100

FOREIGN = [
    "README.md",
    "docker-compose.yml",
    f"{TREE}-old/blobs/sha256/ab/data",
    f"{TREE}/blobs/sha256/zz/not-a-digest/data",
    f"{TREE}/repositories/with space/_manifests/tags/1/current/link",
    f"{TREE}/repositories/Upper/_manifests/tags/1/current/link",
    f"{TREE}/repositories/app/_manifests/tags/tab\tin it/current/link",
    f"{TREE}/repositories/app/_manifests/tags/ünïcode/current/link",
    f"{TREE}/repositories/app/_manifests/tags/a b+c%20d/current/link",
    f"{TREE}/repositories/{'long/' * 150}_manifests/tags/1/current/link",
    f"{TREE}/repositories/app/_manifests/tags/latest/current/link.tmp",
    f"{TREE}/repositories/app/_layers/sha256/short/link",
    f"{TREE}/repositories/app/_uploads/not-an-id/startedat",
    f"{TREE}/repositories/app/notes.txt",
    "_driver/whatever/else",
    "a/" * 120 + "deep",
    "<&>\"'",
]
UNWRITABLE = [
    f"{TREE}/repositories/\x01/_manifests/tags/1/current/link",
    f"{TREE}/repositories/app/_manifests/tags/v1.0/\x02",
    f"{TREE}/repositories/app/_manifests/tags/\x02/current/link",
    f"{TREE}/repositories/app/_uploads/\x1f/data",
    f"{TREE}/repositories/app/_manifests/tags/\ufffe/current/link",
]
"""Keys that XML can't carry. AWS and MinIO encode them when they are asked to; versitygw has other
keys in its listings then, so that they can't be told there."""


@contextmanager
def served(bucket: s3.Bucket, directory: Path) -> Iterator[tuple[httpx.Client, Proxy]]:
    through = {"REGISTRY_STORAGE_REDIRECT_DISABLE": "true"}
    with proxy.before(bucket.server.address) as counting:
        variables = bucket.variables(counting.endpoint) | through
        with (
            registry.running(directory, storage=variables) as server,
            connected(server.url) as client,
        ):
            yield client, counting
            assert "Traceback" not in server.log.read_text()


@contextmanager
def aborted(bucket: s3.Bucket, upload: s3.Upload) -> Iterator[None]:
    """Abort an upload of somebody else's behind a block, come what may."""
    try:
        yield
    finally:
        bucket.abort(upload)


def test_what_others_keep_in_the_bucket_is_left_alone_and_in_nobodys_way(
    bucket: s3.Bucket, tmp_path: Path
) -> None:
    for key in FOREIGN:
        bucket.write(key, b"of somebody else")
    left = bucket.start_upload("of/somebody/else")

    with aborted(bucket, left), served(bucket, tmp_path) as (client, _):
        pusher = Pusher(client)
        for name in ("app", "a/b", "a-b"):
            pusher.image(name, "latest", "v1.0")
        assert_served(client, pusher.volume)
        assert client.get("/readyz").status_code == 200
        pusher.delete("/v2/app/manifests/v1.0")
        assert client.get("/v2/app/tags/list").json()["tags"] == ["latest"]

        keys = bucket.keys()
        assert [key for key in FOREIGN if key not in keys] == []
        assert left in bucket.uploads()


def test_keys_that_can_not_be_written_down_are_in_nobodys_way(
    bucket: s3.Bucket, tmp_path: Path
) -> None:
    try:
        with served(bucket, tmp_path) as (client, _):
            pusher = Pusher(client)
            for name in ("app", "a/b"):
                pusher.image(name, "latest", "v1.0")
            for key in UNWRITABLE:
                bucket.write(key, b"of somebody else")

            assert_served(client, pusher.volume)
            assert client.get("/v2/_catalog").json()["repositories"] == ["a/b", "app"]
            assert client.get("/v2/app/tags/list").json()["tags"] == ["latest", "v1.0"]
            assert client.get("/v2/app/tags/list?n=1").json()["tags"] == ["latest"]
            if bucket.server.kind == "minio":
                # With what somebody else keeps in the folder of the tag.
                pusher.delete("/v2/app/manifests/v1.0")
                assert client.get("/v2/app/tags/list").json()["tags"] == ["latest"]
    finally:
        for key in UNWRITABLE:
            bucket.client.delete_object(Bucket=bucket.name, Key=key)


def test_a_listing_of_many_pages_is_whole_and_asks_for_each_page_once(
    bucket: s3.Bucket, tmp_path: Path
) -> None:
    with served(bucket, tmp_path) as (client, counting):
        digest = Pusher(client).image("app", "a")
        tags = [f"v{number:05d}" for number in range(TAGS)]
        base = f"{TREE}/repositories/app/_manifests/tags"
        with ThreadPoolExecutor(16) as pool:
            list(
                pool.map(
                    lambda tag: bucket.write(f"{base}/{tag}/current/link", digest.encode()), tags
                )
            )
        counting.forget()

        assert client.get("/v2/app/tags/list").json()["tags"] == ["a", *tags]
        listings = counting.counts()["ListObjectsV2"]
        page = client.get("/v2/app/tags/list?n=10&last=v01233").json()["tags"]

    assert listings <= TAGS // 1000 + 1
    assert page == tags[1234:1244]


def test_links_that_are_no_digests_are_not_followed(bucket: s3.Bucket, tmp_path: Path) -> None:
    with served(bucket, tmp_path) as (client, _):
        Pusher(client).image("app", "latest")
        links = [key for key in bucket.keys(TREE) if key.endswith("/link")]
        for content in (b"", b"sha256:../../../x", b"x" * 2**20, digest_of(b"gone").encode()):
            for key in links:
                bucket.write(key, content)
            for path in ("/v2/app/manifests/latest", f"/v2/app/blobs/{digest_of(b'gone')}"):
                assert client.get(path).status_code in {404, 503}, (content[:20], path)
        assert client.get("/v2/app/tags/list").status_code == 200
