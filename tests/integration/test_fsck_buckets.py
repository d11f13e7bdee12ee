"""A check of buckets that a real server wrote: what it finds in a folder, by pages of listings."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from conformance.s3proxy import proxy
from tests.integration.volumes import Pusher, connected, digest_of
from tests.parts import registry, s3
from tests.parts.processes import run

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

TREE = "docker/registry/v2"
Json = dict[str, Any]
Fill = Callable[[s3.S3Server], s3.Bucket]
BLOB = b"a layer of its own" * 1000
NEW = digest_of(b"new").partition(":")[2]


def fsck(
    where: dict[str, str], *arguments: str | Path, code: int = 0
) -> tuple[list[Json], dict[str, Any]]:
    """Check what variables or arguments name, and return the findings and the summary."""
    command = [sys.executable, "-m", "alauda_registry", "fsck", "--age", "0s", "--format", "json"]
    done = run([*command, *arguments], environment=where, check=False, seconds=200)
    assert (done.returncode, done.stderr) == (code, ""), done.stdout + done.stderr
    *findings, summary = map(json.loads, done.stdout.splitlines())
    return findings, summary["summary"]


def refused(where: dict[str, str], *arguments: str) -> str:
    """Ask for a check that does not begin, and return why."""
    command = [sys.executable, "-m", "alauda_registry", "fsck", *arguments]
    done = run(command, environment=where, check=False)
    assert (done.returncode, done.stdout) == (3, ""), done.stdout
    assert "Traceback" not in done.stderr
    return done.stderr


def told(findings: Sequence[Json]) -> list[tuple[str, str]]:
    return sorted((str(finding["kind"]), str(finding["path"])) for finding in findings)


def copy(bucket: s3.Bucket, folder: Path) -> Path:
    """Copy a bucket into a folder, as one had to in order to check it."""
    for key in bucket.sizes():
        file = folder / key
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bucket.read(key))
    return folder


@pytest.fixture(scope="module")
def fill(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fill]:
    """Fills a bucket of a server when it is first asked for."""
    buckets: dict[s3.Kind, s3.Bucket] = {}

    def fill(server: s3.S3Server) -> s3.Bucket:
        if server.kind not in buckets:
            buckets[server.kind] = bucket = server.create_bucket()
            directory = tmp_path_factory.mktemp("us")
            with (
                registry.running(directory, storage=bucket.variables()) as running,
                connected(running.url) as client,
            ):
                pusher = Pusher(client)
                pusher.everything()
                pusher.referrers("referrers")
                pusher.blob("a", BLOB)
        return buckets[server.kind]

    yield fill
    for bucket in buckets.values():
        bucket.remove()


@pytest.fixture
def filled(bucket: s3.Bucket, fill: Fill) -> s3.Bucket:
    """A bucket with all sorts of content that a registry pushed."""
    bucket.copy(fill(bucket.server))
    return bucket


def test_a_bucket_is_checked_as_a_folder_is_and_by_pages(filled: s3.Bucket, tmp_path: Path) -> None:
    with proxy.before(filled.server.address) as counting:
        findings, summary = fsck(filled.variables(counting.endpoint), "--no-hash")
        counts = counting.counts()
    # What was deleted leaves its bytes.
    assert {finding["kind"] for finding in findings} <= {"blob-unlinked"}
    links = [key for key in filled.keys(TREE) if key.endswith("/link")]
    entries = [key for key in filled.keys(TREE) if "/by-subject/" in key]
    revisions = [key for key in links if "/revisions/" in key]
    assert len(links) > 2 * len(revisions)
    # Manifests are looked into, and entries of the referrers index; links are not.
    assert counts["GetObject"] <= len(revisions) + len(entries)
    assert counts["ListObjectsV2"] <= 5
    # What looks wrong is looked at again, twice.
    assert counts["HeadObject"] <= 2 * len(findings)
    assert counts.keys() <= {"GetObject", "HeadObject", "ListObjectsV2"}

    assert fsck(filled.variables()) == fsck({}, "--root", copy(filled, tmp_path / "copy"))
    assert summary["blobs"] > 20


def test_what_is_broken_in_a_bucket_is_what_is_broken_in_its_copy(
    filled: s3.Bucket, tmp_path: Path
) -> None:
    digest = digest_of(BLOB).partition(":")[2]
    filled.write(f"{TREE}/blobs/sha256/{digest[:2]}/{digest}/data", b"rot")
    manifests = f"{TREE}/repositories/a/_manifests"
    filled.write(f"{manifests}/tags/lost/current/link", digest_of(b"gone").encode())
    filled.write(f"{manifests}/tags/odd/current/link", b"no digest")
    filled.write(f"{manifests}/revisions/sha256/{NEW}/link", f"sha256:{NEW}".encode())
    filled.write(f"{TREE}/repositories/a/_layers/sha256/{NEW}/link", b"")
    filled.write(f"{TREE}/blobs/sha256/{NEW[:2]}/{NEW}/data", b"new")
    filled.write(f"{TREE}/stray.tmp", b"")
    filled.write(f"{TREE}/repositories/a/with space", b"")

    findings, summary = fsck(filled.variables(), code=1)

    assert {
        *("blob-corrupt", "tag-to-nothing", "link-invalid", "manifest-invalid", "stray"),
    } <= {finding["kind"] for finding in findings}
    of_copy, summary_of_copy = fsck({}, "--root", copy(filled, tmp_path / "copy"), code=1)
    assert told(findings) == told(of_copy)
    assert summary == summary_of_copy
    assert not [key for key in filled.sizes() if key.startswith(("_driver/locks/fsck", "_fsck"))]


def test_a_check_of_a_bucket_goes_on_where_it_was(filled: s3.Bucket, tmp_path: Path) -> None:
    digest = sorted(key for key in filled.keys(f"{TREE}/blobs/sha256"))[-1].split("/")[-2]
    state = tmp_path / "state"

    whole = fsck(filled.variables(), "--state", state)
    assert not state.exists()
    findings, summary = fsck(filled.variables(), "--after", f"sha256:{digest}")
    rest = {"hashed": False, "hashed_after": f"sha256:{digest}"}
    assert (findings, summary) == (whole[0], whole[1] | rest)


def test_what_can_not_be_checked_is_told_with_what_to_do(bucket: s3.Bucket, tmp_path: Path) -> None:
    assert "there is no registry in s3://" in refused(bucket.variables())
    assert "changes folders" in refused(bucket.variables(), "--repair")
    wrong = bucket.variables(secretkey="wrong")
    assert "storage.s3.secretkey" in refused(wrong)
    away = bucket.variables("http://127.0.0.1:9")
    assert "cannot go on" in refused(away)
