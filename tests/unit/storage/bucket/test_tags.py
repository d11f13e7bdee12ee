"""The tags of a bucket are those of a directory, and cost a request for each page of a listing."""

import time

import pytest
from hypothesis import given, strategies as st

from alauda_registry.oci.digest import Digest
from alauda_registry.oci.errors import NameUnknown
from alauda_registry.oci.reference import RepositoryName, Tag
from alauda_registry.storage import paths
from alauda_registry.storage.bucket.tags import BucketTagStore
from alauda_registry.storage.drivers.s3.client import S3Client
from alauda_registry.storage.drivers.s3.credentials import GivenKeys
from alauda_registry.storage.drivers.s3.driver import S3Driver
from alauda_registry.storage.drivers.s3.signing import Keys
from tests.parts.fake_bucket import BUCKET, FakeBucket, FakeTransport

pytestmark = pytest.mark.anyio

NAME = RepositoryName("team/app")
DIGESTS = [Digest.of(bytes((number,))) for number in range(3)]

names = st.text(alphabet="1.-", min_size=1, max_size=4).map(lambda text: f"a{text}")
tag_names = st.one_of(names, st.sampled_from(["a", "b", "1", "1.0", "1-0", "A_"]))


class Tags:
    """The tags of a repository in a fake bucket, put there as another registry would."""

    def __init__(self, *, page_size: int = 1000) -> None:
        self.bucket = FakeBucket(time.time, page_size=page_size)
        client = S3Client(FakeTransport(self.bucket), BUCKET, GivenKeys(Keys("key", "secret")))
        driver = S3Driver(client)
        self.store = BucketTagStore(driver, driver, NAME)

    def put(self, tag: str, digest: Digest = DIGESTS[0], *, etag: str | None = None) -> None:
        self.write(paths.revision_link(NAME, digest), digest)
        self.write(paths.tag_current(NAME, Tag(tag)), digest, etag)
        self.write(paths.tag_history(NAME, Tag(tag), digest), digest)

    def write(self, path: str, digest: Digest, etag: str | None = None) -> None:
        self.bucket.put(path[1:], str(digest).encode(), etag)

    async def read(self, limit: int) -> list[str]:
        """Return all tags, page by page."""
        found: list[str] = []
        more = True
        while more:
            page = await self.store.page(after=found[-1] if found else "", limit=limit)
            assert len(page.names) <= limit
            found += page.names
            more = page.more
        return found


@given(names=st.sets(tag_names, min_size=1), page_size=st.integers(1, 5), limit=st.integers(1, 4))
async def test_the_pages_are_the_sorted_tags(names: set[str], page_size: int, limit: int) -> None:
    tags = Tags(page_size=page_size)
    for name in names:
        tags.put(name)

    assert await tags.read(limit) == sorted(names)
    assert (await tags.store.page(limit=None)).names == sorted(names)


@pytest.mark.parametrize("after", ["a b", "a\x00", "b/c", "é", "~", "zzz"])
async def test_a_page_begins_behind_what_is_no_tag(after: str) -> None:
    tags = Tags()
    for name in ("a", "b", "z"):
        tags.put(name)

    assert (await tags.store.page(after=after, limit=9)).names == [
        name for name in ("a", "b", "z") if name > after
    ]


async def test_a_repository_that_is_not_there_is_unknown_whatever_the_page() -> None:
    tags = Tags()

    for after in ("", "z"):
        with pytest.raises(NameUnknown):
            await tags.store.page(after=after, limit=1)

    tags.write(paths.revision_link(NAME, DIGESTS[0]), DIGESTS[0])
    assert (await tags.store.page(limit=1)).names == []


@pytest.mark.parametrize(
    ("form", "requests"),
    [("t{:04}", 100), ("v{:02}-{:02}", 100), ("1.{:04}", 101), ("1.0-{:04}", 102)],
)
async def test_a_page_of_many_tags_costs_a_request(form: str, requests: int) -> None:
    """One for each page, and once one more for what may come before all of them."""
    tags = Tags()
    names = sorted({form.format(number, number % 100) for number in range(10_000)})
    for name in names:
        tags.put(name)
    tags.bucket.requests = 0

    assert await tags.read(100) == names
    assert tags.bucket.requests <= requests

    tags.bucket.requests = 0
    await tags.store.page(limit=None)
    assert tags.bucket.requests == -(-len(names) // 1000)


@pytest.mark.parametrize("etag", [None, '"0123456789abcdef0123456789abcdef"', '"0f-2"', ""])
@pytest.mark.parametrize("page_size", [1000, 2])
async def test_tags_that_point_somewhere_are_found_whatever_the_etags(
    etag: str | None, page_size: int
) -> None:
    tags = Tags(page_size=page_size)
    for number, digest in enumerate(DIGESTS * 2):
        tags.put(f"t{number}", digest, etag=etag)
    # A history alone is no tag.
    tags.write(paths.tag_history(NAME, Tag("old"), DIGESTS[0]), DIGESTS[0])

    assert await tags.store.pointing_to(DIGESTS[0]) == ["t0", "t3"]


async def test_what_points_where_costs_no_request_for_each_tag() -> None:
    tags = Tags()
    for number in range(2000):
        tags.put(f"t{number}", DIGESTS[number % 2])
    # A revision that is gone: it may be the one, as far as the listing tells.
    tags.write(paths.tag_current(NAME, Tag("lost")), DIGESTS[2])
    tags.bucket.requests = 0

    assert len(await tags.store.pointing_to(DIGESTS[0])) == 1000
    assert tags.bucket.requests == 1 + 5 + 1
