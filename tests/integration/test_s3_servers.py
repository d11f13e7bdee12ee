"""The S3 servers of the tests are what the tests take them for."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.parts import s3
from tests.parts.certificates import Authority
from tests.parts.tools import require

pytestmark = pytest.mark.integration


def test_a_bucket_keeps_what_is_written(bucket: s3.Bucket) -> None:
    bucket.write("a/b/c", b"content")
    bucket.write("a/empty", b"")

    assert bucket.read("a/b/c") == b"content"
    assert bucket.sizes("a/") == {"a/b/c": 7, "a/empty": 0}

    bucket.delete("a/empty", "a/absent")

    assert bucket.keys() == ["a/b/c"]


def test_keys_are_listed_in_byte_order(bucket: s3.Bucket) -> None:
    for key in ("a/b/c", "a/b-c", "a/b.c", "a/b0"):
        bucket.write(key, b"")

    assert bucket.keys() == ["a/b-c", "a/b.c", "a/b/c", "a/b0"]
    assert bucket.keys("a/b/") == ["a/b/c"]


def test_an_upload_that_is_left_shows_until_it_is_aborted(bucket: s3.Bucket) -> None:
    uploads = [bucket.start_upload("a/b"), bucket.start_upload("c")]

    assert sorted(bucket.uploads(), key=str) == sorted(uploads, key=str)
    assert bucket.keys() == []

    for upload in uploads:
        bucket.abort(upload)

    assert bucket.uploads() == []


@pytest.mark.parametrize("kind", s3.KINDS)
def test_a_server_speaks_tls_with_a_certificate_of_ours(kind: s3.Kind, tmp_path: Path) -> None:
    require(kind)
    with s3.running(kind, tmp_path, tls=Authority().issue(tmp_path / "tls")) as server:
        bucket = server.create_bucket()
        bucket.write("a", b"content")

        assert server.endpoint.startswith("https://")
        assert bucket.read("a") == b"content"


def test_a_server_runs_until_the_last_test(
    start_s3: Callable[[s3.Kind], s3.S3Server], s3_server: s3.S3Server
) -> None:
    assert start_s3(s3_server.kind) is s3_server
