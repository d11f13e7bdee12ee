"""What servers list is what they have, wherever a listing begins and however it is cut.

MinIO, asked for what is behind a key in ``a/``, counts what is in ``a-b/`` as given, too, though it
gives none of it: it then says that there is no more, or leaves out what another set of disks has.
"""

import random
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest
from typing_extensions import override

from alauda_registry.storage import paths
from alauda_registry.storage.bucket import listing
from alauda_registry.storage.bucket.catalog import BucketCatalog
from alauda_registry.storage.driver import FileInfo, InvalidPath
from alauda_registry.storage.drivers.s3.client import S3Client
from alauda_registry.storage.drivers.s3.credentials import GivenKeys
from alauda_registry.storage.drivers.s3.documents import Listing
from alauda_registry.storage.drivers.s3.driver import S3Driver
from alauda_registry.storage.drivers.s3.signing import Keys
from tests.contract.conftest import open_bucket
from tests.parts import s3

pytestmark = pytest.mark.anyio

ROOT = "some/where"
REPOSITORIES = ("a", "a-b", "a.b", "a/b", "a/b-c", "a/b/c", "b", "b__c/d", "team-0/app", "team/app")


class SmallPages(S3Client):
    """Asks for a few keys at a time, as if there were many more of them."""

    at_most = 1
    requests = 0

    @override
    async def list_page(
        self,
        prefix: str,
        *,
        delimiter: str = "",
        start_after: str = "",
        following: Mapping[str, str] | None = None,
        maximum: int | None = None,
    ) -> Listing:
        self.requests += 1
        return await super().list_page(
            prefix,
            delimiter=delimiter,
            start_after=start_after,
            following=following,
            maximum=maximum or self.at_most,
        )


@pytest.fixture
async def client(s3_server: s3.S3Server) -> AsyncIterator[SmallPages]:
    bucket = s3_server.create_bucket()
    fill(bucket)
    transport = open_bucket(bucket, ROOT).client.transport
    credentials = GivenKeys(Keys(s3.ACCESS_KEY, s3.SECRET_KEY))
    yield SmallPages(transport, bucket.name, credentials, root=ROOT)
    await transport.aclose()
    bucket.remove()


def fill(bucket: s3.Bucket) -> None:
    die = random.Random(5)
    hexes = [f"{die.randrange(16**12):012x}" for _ in range(60)]
    keys = [f"blobs/sha256/{one[:2]}/{one}/data" for one in hexes]
    keys += [f"blobs/sha512/{one[:2]}/{one}/data" for one in hexes[:5]]
    keys += ["_registry/secret"]
    for name in REPOSITORIES:
        keys += [f"repositories/{name}/_layers/sha256/{one}/link" for one in hexes[:4]]
        keys += [f"repositories/{name}/_manifests/tags/{tag}/current/link" for tag in ("1", "1-a")]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: bucket.write(f"{ROOT}{paths.ROOT}/{key}", b""), keys))
    bucket.write("some/where-else", b"")


@pytest.mark.parametrize("at_most", [1, 7, 50, 1000])
async def test_the_parts_are_the_whole_in_order(client: SmallPages, at_most: int) -> None:
    driver = S3Driver(client)
    whole = [info async for info in driver.walk(paths.ROOT)]
    client.at_most, client.requests = at_most, 0

    found: list[FileInfo] = []
    async for page in listing.everything(driver):
        found += page

    assert found == whole
    assert len(found) > 100
    assert (client.requests == 1) == (at_most == 1000)


@pytest.mark.parametrize("at_most", [1, 7, 50, 1000])
async def test_a_walk_goes_on_behind_any_path(client: SmallPages, at_most: int) -> None:
    driver = S3Driver(client)
    whole = [info.path async for info in driver.walk(paths.ROOT)]
    client.at_most = at_most

    for number in range(0, len(whole), 9):
        rest = [info.path async for info in driver.walk(paths.ROOT, start_after=whole[number])]
        assert rest == whole[number + 1 :]


@pytest.mark.parametrize("at_most", [1, 7, 50, 1000])
@pytest.mark.parametrize("limit", [1, 3, 100])
async def test_the_catalog_has_every_repository_in_order(
    client: SmallPages, at_most: int, limit: int
) -> None:
    client.at_most = at_most
    catalog = BucketCatalog(S3Driver(client))
    expected = sorted(REPOSITORIES, key=lambda name: name.split("/"))

    seen: list[str] = []
    more = True
    while more:
        page = await catalog.page(after=seen[-1] if seen else "", limit=limit)
        seen += page.names
        more = page.more

    assert seen == expected
    assert (await catalog.page(after="", limit=None)).names == expected


async def test_a_listing_begins_in_its_folder(client: SmallPages) -> None:
    with pytest.raises(InvalidPath):
        await S3Driver(client).page(paths.ROOT, start_after=f"{paths.ROOT}/blobs/sha256")
