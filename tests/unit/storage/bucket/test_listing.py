"""A long listing is read in parts, some at once: in order, complete, and for few requests more."""

import asyncio
import hashlib
import random
import time
from collections.abc import Mapping

import pytest
from hypothesis import given, strategies as st
from typing_extensions import override

from alauda_registry.storage import paths
from alauda_registry.storage.bucket import listing
from alauda_registry.storage.driver import FileInfo, Unreachable
from alauda_registry.storage.drivers.s3.client import S3Client
from alauda_registry.storage.drivers.s3.credentials import GivenKeys
from alauda_registry.storage.drivers.s3.driver import S3Driver
from alauda_registry.storage.drivers.s3.signing import Keys
from alauda_registry.storage.drivers.s3.transport import Answer, Request
from tests.parts.fake_bucket import BUCKET, FakeBucket, FakeTransport, Refused

pytestmark = pytest.mark.anyio

components = st.text(alphabet="ab0", min_size=1, max_size=2).flatmap(
    lambda word: st.sampled_from([word, f"{word}-a", f"{word}.b", f"{word}__0"])
)
repositories = st.lists(components, min_size=1, max_size=3).map("/".join)
hexes = st.text(alphabet="0123456789abcdef", min_size=3, max_size=6)


class SlowTransport(FakeTransport):
    """Lets many requests be under way, and counts them."""

    def __init__(self, bucket: FakeBucket) -> None:
        super().__init__(bucket)
        self._die = random.Random(1)
        self.under_way = 0
        self.most = 0

    @override
    async def send(self, request: Request) -> Answer:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            for _ in range(self._die.randrange(1, 6)):
                await asyncio.sleep(0)
            return await super().send(request)
        finally:
            self.under_way -= 1


class Listed:
    """A bucket that is filled as other programs do it, and how it is asked."""

    def __init__(self, keys: Mapping[str, bytes], *, page_size: int = 1000) -> None:
        self.bucket = FakeBucket(time.time, page_size=page_size)
        for key, content in keys.items():
            self.bucket.put(key[1:], content)
        self.transport = SlowTransport(self.bucket)
        client = S3Client(self.transport, BUCKET, GivenKeys(Keys("key", "secret")))
        self.driver = S3Driver(client)

    async def everything(self) -> list[FileInfo]:
        found: list[FileInfo] = []
        async for page in listing.everything(self.driver):
            found += page
        return found


def blob(encoded: str, algorithm: str = "sha256") -> str:
    return f"{paths.ROOT}/blobs/{algorithm}/{encoded[:2]}/{encoded}/data"


def blobs(count: int) -> dict[str, bytes]:
    return {blob(hashlib.sha256(b"%d" % number).hexdigest()): b"" for number in range(count)}


def links(name: str, count: int) -> dict[str, bytes]:
    folder = f"{paths.REPOSITORIES}/{name}/_layers/sha256"
    return {f"{folder}/{number:064x}/link": b"" for number in range(count)}


@given(
    encoded=st.sets(hexes, max_size=20),
    others=st.sets(hexes, max_size=5),
    names=st.sets(repositories, max_size=8),
    count=st.integers(0, 6),
    stray=st.sets(st.sampled_from(["/blobs", "/_registry/secret", "/repositories", "/x/y"])),
    page_size=st.integers(1, 12),
)
async def test_the_parts_are_the_whole_in_order(
    encoded: set[str],
    others: set[str],
    names: set[str],
    count: int,
    stray: set[str],
    page_size: int,
) -> None:
    keys = {blob(one): b"" for one in encoded} | {blob(one, "sha512"): b"" for one in others}
    keys |= {f"{paths.ROOT}{path}": b"" for path in stray}
    for name in names:
        keys |= links(name, count)
    listed = Listed(keys, page_size=page_size)

    found = [info.path for info in await listed.everything()]

    assert found == sorted(keys)
    assert listed.transport.most <= listing.PARTS_AT_ONCE


@pytest.mark.parametrize("count", [10, 999, 20_000])
async def test_blobs_are_listed_at_once_for_hardly_more_requests(count: int) -> None:
    listed = Listed(blobs(count))

    assert len(await listed.everything()) == count

    pages = -(-count // 1000)
    # A part is to fill nine tenths of a page; where blobs and repositories begin takes three.
    assert listed.bucket.requests <= (pages if pages == 1 else 1.2 * pages + 4)
    assert (listed.transport.most > 1) == (pages > 1)
    assert listed.transport.most <= listing.PARTS_AT_ONCE


@pytest.mark.parametrize(
    ("name", "each"),
    [("team-{:03}/app", 100), ("team-{:03}/app", 3000), ("{:03}", 100)],
)
async def test_repositories_are_listed_at_once(name: str, each: int) -> None:
    keys: dict[str, bytes] = {}
    count = 150 if each <= 100 else 10
    for number in range(count):
        keys |= links(name.format(number), each)
    listed = Listed(keys)

    found = [info.path for info in await listed.everything()]

    assert found == sorted(keys)
    # No more than the pages, one for each folder that a part may begin at, and the landmarks.
    pages = -(-len(keys) // 1000)
    assert listed.bucket.requests <= pages + min(count, 1.2 * pages) + 5
    assert listed.transport.most > 1


async def test_what_is_in_one_folder_is_listed_a_page_after_the_other() -> None:
    listed = Listed(links("team/app", 5000))

    assert len(await listed.everything()) == 5000
    assert listed.bucket.requests <= 5 + 4


async def test_no_more_pages_wait_than_are_allowed() -> None:
    listed = Listed(blobs(3000), page_size=10)
    pages = listing.everything(listed.driver)
    await anext(pages)
    await anext(pages)

    for _ in range(2000):
        await asyncio.sleep(0)

    waiting = listing.PARTS_AT_ONCE * listing.PAGES_AHEAD
    assert listed.bucket.requests <= 2 + waiting
    await pages.aclose()
    assert listed.transport.under_way == 0


@pytest.mark.parametrize("first", [1, 2, 3, 5, 11])
async def test_a_page_that_is_refused_ends_the_whole(first: int) -> None:
    keys = blobs(300)
    listed = Listed(keys, page_size=30)

    def refuse(_: Request) -> None:
        if listed.bucket.requests >= first:
            raise Refused(403, "AccessDenied")

    listed.bucket.on_request = refuse
    found: list[str] = []

    async def read() -> None:
        async for page in listing.everything(listed.driver):
            found.extend(info.path for info in page)

    with pytest.raises(Unreachable):
        await read()

    assert found == sorted(keys)[: len(found)]
    assert listed.transport.under_way == 0
