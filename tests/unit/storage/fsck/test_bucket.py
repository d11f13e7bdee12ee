"""A tree in a bucket is read by pages, and what links hold is told from them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from typing_extensions import override

from alauda_registry.oci.digest import Digest
from alauda_registry.oci.reference import RepositoryName, Tag
from alauda_registry.storage import paths
from alauda_registry.storage.driver import FileReader, Unreachable
from alauda_registry.storage.drivers.s3.client import S3Client
from alauda_registry.storage.drivers.s3.credentials import GivenKeys
from alauda_registry.storage.drivers.s3.driver import S3Driver
from alauda_registry.storage.drivers.s3.signing import Keys
from alauda_registry.storage.fsck import tree
from alauda_registry.storage.fsck.bucket import BucketTree
from alauda_registry.storage.fsck.files import ODD, File
from alauda_registry.storage.fsck.findings import Kind
from tests.contract.conftest import open_fake_bucket
from tests.parts.fake_bucket import BUCKET, FakeBucket, FakeTransport
from tests.unit.storage.fsck.checking import APP as FILLED, IMAGE, NO_AGE, check, fill as fill_all

pytestmark = pytest.mark.anyio

APP = RepositoryName("team/app")
OTHER = RepositoryName("team/other")
MANIFESTS = [Digest.of(bytes((number,))) for number in range(2)]
FOR_PARTS = 3
"""Requests that it takes to list more than a page in parts: where these may begin, the page in
which they do, and what is behind the last one."""

KMS = '"0123456789abcdef0123456789abcdef"'


async def read(bucket: FakeBucket) -> tuple[list[File], int]:
    """Read everything, and count the requests."""
    driver = open_fake_bucket(bucket)
    bucket.requests = 0
    files: list[File] = []
    async for batch in BucketTree(driver, driver, jobs=1).walk(paths.ROOT):
        files += batch
    return files, bucket.requests


def put(bucket: FakeBucket, path: str, content: object, etag: str | None = None) -> None:
    bucket.put(path[1:], str(content).encode(), etag)


def fill(bucket: FakeBucket, *, tags: int, etag: str | None = None) -> None:
    for digest in MANIFESTS:
        put(bucket, paths.revision_link(APP, digest), digest, etag)
        put(bucket, paths.blob_link(APP, digest), digest, etag)
        put(bucket, paths.tag_history(APP, Tag("v0"), digest), digest, etag)
    for number in range(tags):
        put(bucket, paths.tag_current(APP, Tag(f"v{number}")), MANIFESTS[number % 2], etag)


def contents(files: Sequence[File]) -> dict[str, bytes | None]:
    return {file.path: file.content for file in files}


async def test_links_that_hold_what_is_expected_are_not_read() -> None:
    bucket = FakeBucket(time.time)
    fill(bucket, tags=2500)

    files, requests = await read(bucket)

    assert len(files) == 2506
    assert requests == 3 + FOR_PARTS
    for path, content in contents(files).items():
        assert content == bucket.objects[path[1:]].content


@pytest.mark.parametrize("page_size", [1000, 3])
async def test_others_are_read_and_told_in_their_order(page_size: int) -> None:
    bucket = FakeBucket(time.time, page_size=page_size)
    fill(bucket, tags=5, etag=KMS)
    # A manifest of another repository says nothing of this one's tags.
    put(bucket, paths.tag_current(OTHER, Tag("v1")), MANIFESTS[0])
    put(bucket, paths.blob_link(APP, MANIFESTS[0]), MANIFESTS[1])
    put(bucket, paths.blob_link(APP, Digest.of(b"empty")), "")

    files, requests = await read(bucket)

    assert [file.path[1:] for file in files] == sorted(bucket.objects)
    for path, content in contents(files).items():
        assert content == bucket.objects[path[1:]].content
    pages = -(-len(bucket.objects) // page_size)
    assert requests == len(bucket.objects) + pages + (FOR_PARTS if pages > 1 else 0)


async def test_what_is_no_path_is_told_and_pieces_of_an_upload_are_its() -> None:
    bucket = FakeBucket(time.time)
    piece = f"{paths.uploads(APP)}/an-id/data~1-2"
    for path in (piece, f"{paths.ROOT}/a b", f"{paths.ROOT}/\x1b[31m", f"{paths.ROOT}/folder/"):
        put(bucket, path, "content")

    files, _ = await read(bucket)

    assert {file.path: file.trouble for file in files} == {
        piece: "",
        f"{paths.ROOT}/a b": ODD,
        f"{paths.ROOT}/\\x1b[31m": ODD,
        f"{paths.ROOT}/folder/": ODD,
    }


class Failing(S3Driver):
    """Can't read some objects, and, when it can't be reached, answers nothing else either."""

    def __init__(self, bucket: FakeBucket, fails: Callable[[str], bool], *, is_away: bool) -> None:
        super().__init__(S3Client(FakeTransport(bucket), BUCKET, GivenKeys(Keys("key", "secret"))))
        self._fails = fails
        self._is_away = is_away

    @override
    async def open(self, path: str) -> FileReader:
        if self._fails(path):
            raise Unreachable("503 SlowDownRead", driver=self.name, path=path)
        return await super().open(path)

    @override
    async def check(self, *, write: bool) -> None:
        if self._is_away:
            raise Unreachable("does not answer", driver=self.name, path="/")


async def test_an_object_that_can_not_be_read_is_broken() -> None:
    bucket = FakeBucket(time.time)
    await fill_all(open_fake_bucket(bucket))
    path = paths.blob_data(Digest.of(b"first layer"))
    driver = Failing(bucket, path.__eq__, is_away=False)

    found = await check(driver, rules=NO_AGE, locking=False)

    assert [(finding.kind, finding.path) for finding in found.findings if finding.path == path] == [
        (Kind.UNREADABLE, path)
    ]


@pytest.mark.parametrize("hashing", [True, False])
async def test_nothing_is_broken_because_the_server_went_away(hashing: bool) -> None:
    bucket = FakeBucket(time.time)
    await fill_all(open_fake_bucket(bucket))
    driver = Failing(bucket, lambda path: path.endswith("/data"), is_away=True)

    with pytest.raises(Unreachable, match="does not answer"):
        await check(driver, rules=replace(NO_AGE, hashing=hashing), locking=False)


async def test_no_more_is_read_of_what_is_too_large_for_a_manifest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bucket = FakeBucket(time.time)
    await fill_all(open_fake_bucket(bucket))
    monkeypatch.setattr(tree, "MANIFEST_MAXIMUM", len(IMAGE) - 1)

    found = await check(open_fake_bucket(bucket), locking=False)

    path = paths.revision_link(FILLED, Digest.of(IMAGE))
    assert [finding.kind for finding in found.findings if finding.path == path] == [
        Kind.MANIFEST_INVALID
    ]
