"""Blobs of a repository: only what is linked exists, and nothing is served that is not intact."""

import logging

import pytest

from alauda_registry.oci.digest import Algorithm, Digest
from alauda_registry.oci.errors import BlobUnknown
from alauda_registry.oci.reference import RepositoryName
from alauda_registry.storage import paths
from alauda_registry.storage.blobs import SMALL_BLOB
from alauda_registry.storage.driver import StorageDriver, Write
from alauda_registry.storage.repositories import Registry, Repository, StorageOptions
from tests.unit.storage.pushing import NAME, push_blob, read_blob
from tests.unit.storage.watching import WatchedDriver

pytestmark = pytest.mark.anyio

BIG = bytes(range(256)) * 8192
"""Two megabytes: too large for the cache, and more than one chunk of a stream."""

CONTENT = b"a small blob"
DIGEST = Digest.of(CONTENT)
ROOT = "/docker/registry/v2"
LINK = f"{ROOT}/repositories/{NAME}/_layers/sha256/{DIGEST.encoded}/link"
DATA = f"{ROOT}/blobs/sha256/{DIGEST.encoded[:2]}/{DIGEST.encoded}/data"


async def assert_unknown(repository: Repository, digest: Digest) -> None:
    for ask in (repository.blobs.stat, repository.blobs.open, repository.blobs.cached):
        with pytest.raises(BlobUnknown) as caught:
            await ask(digest)
        assert caught.value.detail == {"digest": str(digest)}


@pytest.mark.parametrize("algorithm", list(Algorithm))
@pytest.mark.parametrize("size", [0, 1, SMALL_BLOB, SMALL_BLOB + 1, len(BIG)])
async def test_a_pushed_blob_reads_back_whole_everywhere(
    repository: Repository, elsewhere: Repository, size: int, algorithm: Algorithm
) -> None:
    digest = await push_blob(repository, BIG[:size], algorithm)

    for reader in (repository, elsewhere):
        assert await reader.blobs.stat(digest) == size
        assert await read_blob(reader, digest) == BIG[:size]
        assert await reader.blobs.stat(digest) == size


async def test_a_blob_is_stored_where_distribution_looks_for_it(
    repository: Repository, driver: StorageDriver
) -> None:
    await push_blob(repository, CONTENT)

    assert await driver.read(DATA) == CONTENT
    assert await driver.read(LINK) == str(DIGEST).encode()


async def test_a_blob_pushed_by_sha512_is_stored_and_linked_by_it(
    repository: Repository, driver: StorageDriver
) -> None:
    digest = await push_blob(repository, CONTENT, Algorithm.SHA512)
    folder = f"{ROOT}/blobs/sha512/{digest.encoded[:2]}/{digest.encoded}"
    link = f"{ROOT}/repositories/{NAME}/_layers/sha512/{digest.encoded}/link"

    assert await driver.read(f"{folder}/data") == CONTENT
    assert await driver.read(link) == str(digest).encode()
    await assert_unknown(repository, DIGEST)


@pytest.mark.parametrize(
    ("offset", "length"), [(0, None), (3, None), (0, 5), (4, 6), (7, 0), (11, 100)]
)
@pytest.mark.parametrize("content", [CONTENT, BIG], ids=["small", "big"])
async def test_a_part_of_a_blob_can_be_streamed(
    repository: Repository, content: bytes, offset: int, length: int | None
) -> None:
    blob = await repository.blobs.open(await push_blob(repository, content))

    streamed = b"".join([chunk async for chunk in blob.stream(offset, length)])
    blob.close()
    blob.close()

    assert streamed == content[offset : None if length is None else offset + length]


async def test_a_small_blob_is_read_once_and_then_kept_in_memory(driver: StorageDriver) -> None:
    watched = WatchedDriver(driver)
    repository = Registry(watched).repository(NAME)
    await push_blob(repository, CONTENT)

    assert await repository.blobs.cached(DIGEST) is None
    first = await repository.blobs.open(DIGEST)
    watched.take()
    second = await repository.blobs.open(DIGEST)

    assert (first.content, first.fileno()) == (CONTENT, None)
    assert second.content == CONTENT
    assert await repository.blobs.cached(DIGEST) == CONTENT
    assert await repository.blobs.stat(DIGEST) == len(CONTENT)
    # The link is asked every time, since another process may have removed it.
    assert watched.take() == [("read", LINK)] * 3


async def test_a_big_blob_is_never_held_in_memory(repository: Repository) -> None:
    digest = await push_blob(repository, BIG)

    blob = await repository.blobs.open(digest)
    blob.close()

    assert (blob.digest, blob.size, blob.content) == (digest, len(BIG), None)
    assert await repository.blobs.cached(digest) is None


async def test_the_cache_forgets_what_was_not_used_for_longest(driver: StorageDriver) -> None:
    registry = Registry(driver, StorageOptions(cache_bytes=2500))
    repository = registry.repository(NAME)
    digests = [await push_blob(repository, letter * 1000) for letter in (b"a", b"b", b"c")]

    await repository.blobs.open(digests[0])
    await repository.blobs.open(digests[1])
    await repository.blobs.open(digests[0])
    await repository.blobs.open(digests[2])

    assert [await repository.blobs.cached(digest) for digest in digests] == [
        b"a" * 1000,
        None,
        b"c" * 1000,
    ]


async def test_a_blob_of_another_repository_is_unknown(
    repository: Repository, another: Repository
) -> None:
    await push_blob(repository, CONTENT)
    await repository.blobs.open(DIGEST)

    await assert_unknown(another, DIGEST)
    with pytest.raises(BlobUnknown):
        await another.blobs.delete(DIGEST)


async def test_an_alias_of_distribution_is_served_under_the_name_it_was_asked_for(
    repository: Repository, driver: StorageDriver
) -> None:
    alias = await link_alias(repository, driver)

    blob = await repository.blobs.open(alias)

    assert (blob.digest, blob.content) == (alias, CONTENT)
    assert await repository.blobs.stat(alias) == len(CONTENT)
    assert await repository.blobs.cached(alias) == CONTENT


async def test_an_alias_can_be_mounted(
    repository: Repository, another: Repository, driver: StorageDriver
) -> None:
    alias = await link_alias(repository, driver)

    assert await another.blobs.mount(alias, NAME)

    assert await read_blob(another, alias) == CONTENT
    assert await driver.read(paths.blob_link(another.name, alias)) == str(DIGEST).encode()


async def test_deleting_an_alias_spares_the_blob(
    repository: Repository, driver: StorageDriver
) -> None:
    alias = await link_alias(repository, driver)

    await repository.blobs.delete(alias)

    await assert_unknown(repository, alias)
    assert await read_blob(repository, DIGEST) == CONTENT


@pytest.mark.parametrize(
    "stored", [b"", b"a small bloc", b"a small blob "], ids=["empty", "same size", "longer"]
)
async def test_a_small_blob_with_corrupt_bytes_is_not_served_and_reported(
    repository: Repository,
    driver: StorageDriver,
    caplog: pytest.LogCaptureFixture,
    stored: bytes,
) -> None:
    await push_blob(repository, CONTENT)
    await driver.publish(Write(DATA, stored))

    for _ in range(2):
        with pytest.raises(BlobUnknown):
            await repository.blobs.open(DIGEST)

    assert await repository.blobs.cached(DIGEST) is None
    reports = [record for record in caplog.records if str(DIGEST) in record.getMessage()]
    assert [report.levelno for report in reports] == [logging.ERROR] * 2


@pytest.mark.parametrize("damaged", [BIG[:70_000], BIG[:-1] + b"?"], ids=["short", "changed"])
async def test_pushing_a_blob_again_replaces_a_damaged_one(
    repository: Repository, driver: StorageDriver, damaged: bytes
) -> None:
    await push_blob(repository, BIG)
    await driver.publish(Write(paths.blob_data(Digest.of(BIG)), damaged))

    await push_blob(repository, BIG)

    assert await read_blob(repository, Digest.of(BIG)) == BIG


async def test_a_damaged_small_blob_is_not_said_to_be_here(driver: StorageDriver) -> None:
    small = b"config"
    await push_blob(Registry(driver).repository(NAME), small)
    await driver.publish(Write(paths.blob_data(Digest.of(small)), b"damage"))
    repository = Registry(driver).repository(NAME)

    with pytest.raises(BlobUnknown):
        await repository.blobs.stat(Digest.of(small))
    await push_blob(repository, small)

    assert await read_blob(repository, Digest.of(small)) == small


@pytest.mark.parametrize(
    "link",
    [
        b"",
        b"sha256:",
        b"nonsense",
        str(DIGEST).encode() + b"\n",
        str(DIGEST).upper().encode(),
        b"md5:" + b"0" * 32,
        b"\xff" * 71,
        bytes(71),
        str(DIGEST).encode() * 1000,
    ],
    ids=["empty", "cut off", "word", "newline", "upper case", "md5", "binary", "zeros", "long"],
)
async def test_a_corrupt_link_reads_as_absent_and_is_reported(
    repository: Repository,
    another: Repository,
    driver: StorageDriver,
    caplog: pytest.LogCaptureFixture,
    link: bytes,
) -> None:
    await push_blob(repository, CONTENT)
    await repository.blobs.open(DIGEST)
    await driver.publish(Write(LINK, link))

    await assert_unknown(repository, DIGEST)
    assert not await another.blobs.mount(DIGEST, NAME)
    assert f"ignored: {LINK}" in caplog.text


async def test_pushing_a_blob_again_repairs_its_link(
    repository: Repository, driver: StorageDriver
) -> None:
    await push_blob(repository, CONTENT)
    await driver.publish(Write(LINK, b""))

    await push_blob(repository, CONTENT)

    assert await read_blob(repository, DIGEST) == CONTENT


async def test_a_link_to_bytes_that_are_gone_reads_as_absent(
    repository: Repository, another: Repository, driver: StorageDriver
) -> None:
    await push_blob(repository, CONTENT)
    await driver.delete(DATA)

    for ask in (repository.blobs.stat, repository.blobs.open):
        with pytest.raises(BlobUnknown):
            await ask(DIGEST)
    assert not await another.blobs.mount(DIGEST, NAME)
    assert not await another.blobs.mount(DIGEST, None)
    await assert_unknown(another, DIGEST)


@pytest.mark.parametrize("source", [NAME, None], ids=["named source", "any source"])
async def test_a_mounted_blob_is_served_although_nothing_was_uploaded(
    repository: Repository, another: Repository, source: RepositoryName | None
) -> None:
    await push_blob(repository, CONTENT)

    assert await another.blobs.mount(DIGEST, source)
    assert await another.blobs.mount(DIGEST, source)

    assert await read_blob(another, DIGEST) == CONTENT


@pytest.mark.parametrize(
    "source", [RepositoryName("team/another"), RepositoryName("absent")], ids=str
)
async def test_a_blob_is_not_mounted_from_where_it_is_not(
    repository: Repository, source: RepositoryName, registry: Registry
) -> None:
    await push_blob(repository, CONTENT)
    target = registry.repository(RepositoryName("target"))

    assert not await target.blobs.mount(DIGEST, source)

    await assert_unknown(target, DIGEST)


async def test_a_blob_that_nobody_has_is_not_mounted(repository: Repository) -> None:
    assert not await repository.blobs.mount(DIGEST, None)

    await assert_unknown(repository, DIGEST)


async def test_a_deleted_blob_is_unknown_at_once_in_every_process(
    repository: Repository, elsewhere: Repository
) -> None:
    await push_blob(repository, CONTENT)
    await elsewhere.blobs.open(DIGEST)
    await repository.blobs.open(DIGEST)

    await repository.blobs.delete(DIGEST)

    await assert_unknown(repository, DIGEST)
    await assert_unknown(elsewhere, DIGEST)


async def test_deleting_a_blob_leaves_that_of_other_repositories(
    repository: Repository, another: Repository
) -> None:
    await push_blob(repository, CONTENT)
    await another.blobs.mount(DIGEST, NAME)

    await repository.blobs.delete(DIGEST)

    assert await read_blob(another, DIGEST) == CONTENT


async def test_a_blob_can_be_deleted_once(repository: Repository) -> None:
    await push_blob(repository, CONTENT)
    await repository.blobs.delete(DIGEST)

    with pytest.raises(BlobUnknown):
        await repository.blobs.delete(DIGEST)


async def test_a_deleted_blob_can_be_pushed_again(repository: Repository) -> None:
    await push_blob(repository, CONTENT)
    await repository.blobs.delete(DIGEST)

    await push_blob(repository, CONTENT)

    assert await read_blob(repository, DIGEST) == CONTENT


async def link_alias(repository: Repository, driver: StorageDriver) -> Digest:
    """Link a blob as distribution does when it is pushed by sha512, and return that name."""
    await push_blob(repository, CONTENT)
    alias = Digest.of(CONTENT, Algorithm.SHA512)
    link = f"{ROOT}/repositories/{NAME}/_layers/sha512/{alias.encoded}/link"
    await driver.publish(Write(link, str(DIGEST).encode()))
    return alias
