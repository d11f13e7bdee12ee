"""Whatever others call their objects: listings of ours go on, and lose nothing of ours."""

import time
from itertools import pairwise
from urllib.parse import quote

import pytest
from typing_extensions import override

from alauda_registry.oci.digest import Digest
from alauda_registry.oci.reference import RepositoryName, Tag
from alauda_registry.storage import paths
from alauda_registry.storage.drivers.s3.client import S3Client
from alauda_registry.storage.drivers.s3.credentials import GivenKeys
from alauda_registry.storage.drivers.s3.driver import S3Driver
from alauda_registry.storage.drivers.s3.signing import Keys
from alauda_registry.storage.drivers.s3.transport import Answer, Request
from alauda_registry.storage.repositories import Registry
from tests.parts.fake_bucket import BUCKET, FakeBucket, FakeTransport

pytestmark = pytest.mark.anyio

NAME = RepositoryName("team/app")
DIGEST = Digest.of(b"manifest")
NAMES = ["team/a", NAME, "team/b", "team/b-1", "team/b0", "team/c", "team/z"]
TAGS = ["a", "b", "b-1", "b0", "c", "z"]
FOREIGN = [
    *(chr(code) for code in range(0x20)),
    *(
        "\x7f",
        "\ufffd",
        "\ufffe",
        "\uffff",
        "ü",
        "\U0001f40b",
        "<&>\"'",
        "a+b",
        "a b",
        "a%20b",
        "~",
    ),
    "b\x01",
    "b\x01-",
    "l" * 1000,
]


# A page of nothing but such keys can't be gone on from where they are not encoded.
@pytest.mark.parametrize(
    ("encodes", "page_size"),
    [(True, 1000), (True, 7), (True, 1), (False, 1000), (False, 83), (False, 74)],
)
async def test_listings_go_on_past_keys_that_nobody_can_write_down(
    encodes: bool, page_size: int
) -> None:
    bucket = FakeBucket(time.time, page_size=page_size, encodes=encodes)
    client = S3Client(FakeTransport(bucket), BUCKET, GivenKeys(Keys("key", "secret")))
    driver = S3Driver(client)
    for tag in TAGS:
        bucket.put(paths.tag_current(NAME, Tag(tag))[1:], str(DIGEST).encode())
        bucket.put(paths.revision_link(RepositoryName(f"team/{tag}"), DIGEST)[1:], b"")
    for name in FOREIGN:
        for folder in (paths.tags(NAME), paths.tag(NAME, Tag("b")), paths.REPOSITORIES):
            bucket.put(f"{folder}/{name}"[1:], b"of somebody else")
        bucket.put(f"{paths.tags(NAME)}/{name}/current/link"[1:], b"of somebody else")
        bucket.put(f"{paths.REPOSITORIES}/team/{name}/_manifests/x"[1:], b"of somebody else")
    registry = Registry(driver)
    tags = registry.repository(NAME).tags

    walked = [info.path async for info in driver.walk(paths.ROOT)]
    listed = [info.path async for info in driver.walk(paths.tag(NAME, Tag("b")))]

    assert set(TAGS) <= set((await tags.page(limit=None)).names)
    for tag, following in pairwise(TAGS):
        assert (await tags.page(after=tag, limit=1)).names == [following]
    assert await tags.pointing_to(DIGEST) == TAGS
    assert [name async for name in registry.names()] == NAMES
    assert {paths.tag_current(NAME, Tag(tag)) for tag in TAGS} <= set(walked)
    assert len(walked) == len(set(walked))
    assert paths.tag_current(NAME, Tag("b")) in listed


class Tiring(FakeTransport):
    """Begins each listing with a page that has nothing on it."""

    @override
    async def send(self, request: Request) -> Answer:
        answer = await super().send(request)
        if "list-type" not in request.query or "continuation-token" in request.query:
            return answer
        token = quote(request.query.get("start-after", request.query["prefix"]))
        body = (
            "<ListBucketResult><IsTruncated>true</IsTruncated>"
            f"<NextContinuationToken>{token}</NextContinuationToken></ListBucketResult>"
        )
        return Answer(200, answer.headers, body.encode())


async def test_an_empty_page_is_not_the_end() -> None:
    bucket = FakeBucket(time.time, page_size=2)
    driver = S3Driver(S3Client(Tiring(bucket), BUCKET, GivenKeys(Keys("key", "secret"))))
    for name in TAGS:
        bucket.put(paths.revision_link(RepositoryName(name), DIGEST)[1:], b"")

    names = [name async for name in Registry(driver).names()]

    assert names == ["a", "b", "b-1", "b0", "c", "z"]


async def test_what_nobody_can_write_down_is_deleted_with_its_folder() -> None:
    bucket = FakeBucket(time.time)
    client = S3Client(FakeTransport(bucket), BUCKET, GivenKeys(Keys("key", "secret")))
    driver = S3Driver(client)
    for name in FOREIGN:
        bucket.put(f"folder/{name}", b"")

    await driver.delete("/folder")

    assert bucket.objects == {}
