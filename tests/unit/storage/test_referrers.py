"""Referrers: whoever pushed them, in order, and none whose manifest is gone."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from alauda_registry.oci.descriptor import Descriptor
from alauda_registry.oci.digest import Algorithm, Digest
from alauda_registry.oci.media_types import OCI_EMPTY, OCI_INDEX, OCI_MANIFEST
from alauda_registry.oci.reference import tag_schema
from alauda_registry.storage import paths
from alauda_registry.storage.driver import OutOfSpace, ReadOnlyFileSystem, StorageDriver, Write
from alauda_registry.storage.referrers import ReferrersPage
from alauda_registry.storage.repositories import Registry, Repository, StorageOptions
from tests.contract.conftest import Storage
from tests.unit.storage.pushing import NAME, descriptor, image, index, push, put
from tests.unit.storage.watching import FailingDriver, WatchedDriver, writes

pytestmark = pytest.mark.anyio

SUBJECT = image(annotations={"is": "the subject"})
SIGNATURE = "application/vnd.example.signature"
SBOM = "application/vnd.example.sbom"


def referrer(number: int, artifact_type: str | None = SIGNATURE) -> bytes:
    return image(
        subject=descriptor(SUBJECT, OCI_MANIFEST),
        artifactType=artifact_type,
        annotations={"number": str(number)},
    )


def shown(content: bytes, artifact_type: str | None, number: int) -> Descriptor:
    """Return the descriptor that an answer shows for a referrer."""
    digest = Digest.of(content)
    annotations = {"number": str(number)}
    return Descriptor(OCI_MANIFEST, digest, len(content), artifact_type, annotations=annotations)


async def page(
    repository: Repository,
    content: bytes = SUBJECT,
    *,
    artifact_type: str | None = None,
    after: str = "",
    limit: int = 100,
) -> ReferrersPage:
    return await repository.referrers.page(
        Digest.of(content), artifact_type=artifact_type, after=after, limit=limit
    )


async def digests(repository: Repository, artifact_type: str | None = None) -> list[Digest]:
    found = await page(repository, artifact_type=artifact_type)
    assert found.next is None
    return [descriptor.digest for descriptor in found.descriptors]


def ordered(*contents: bytes) -> list[Digest]:
    return sorted((Digest.of(content) for content in contents), key=str)


async def write_as_distribution(driver: StorageDriver, content: bytes, *tags: str) -> Digest:
    """Put a manifest into storage the way a registry does that keeps no index."""
    digest = Digest.of(content)
    link = str(digest).encode()
    await driver.publish(
        Write(paths.blob_data(digest), content),
        Write(paths.revision_link(NAME, digest), link),
        *(Write(f"{paths.tags(NAME)}/{tag}/current/link", link) for tag in tags),
    )
    return digest


async def test_a_subject_that_nobody_refers_to_has_no_referrers(repository: Repository) -> None:
    assert await page(repository) == ReferrersPage([], None)

    await push(repository, SUBJECT)

    assert await page(repository) == ReferrersPage([], None)


async def test_referrers_are_shown_whole_and_in_order(
    repository: Repository, elsewhere: Repository
) -> None:
    contents = [referrer(number) for number in range(5)]
    for content in contents:
        await push(repository, content)
    expected = [shown(content, SIGNATURE, number) for number, content in enumerate(contents)]
    expected.sort(key=lambda descriptor: str(descriptor.digest))

    for reader in (repository, elsewhere):
        assert await page(reader) == ReferrersPage(expected, None)


async def test_the_type_of_an_image_without_one_is_that_of_its_config(
    repository: Repository,
) -> None:
    content = referrer(1, None)
    await push(repository, content)

    assert (await page(repository)).descriptors == [shown(content, OCI_EMPTY, 1)]
    assert await digests(repository, artifact_type=OCI_EMPTY) == [Digest.of(content)]


async def test_an_index_may_refer_to_a_subject(repository: Repository) -> None:
    content = index(subject=descriptor(SUBJECT, OCI_MANIFEST))
    digest = await put(repository, content)

    assert (await page(repository)).descriptors == [Descriptor(OCI_INDEX, digest, len(content))]
    assert await digests(repository, artifact_type=SIGNATURE) == []


async def test_referrers_of_another_subject_or_repository_are_not_shown(
    repository: Repository, another: Repository
) -> None:
    await push(repository, referrer(1))
    other = image(subject=descriptor(b"another subject", OCI_MANIFEST))
    await push(repository, other)

    assert await digests(repository) == [Digest.of(referrer(1))]
    assert await digests(another) == []


async def test_a_filter_leaves_only_what_has_the_type(repository: Repository) -> None:
    signatures = [referrer(number) for number in range(3)]
    sboms = [referrer(number, SBOM) for number in range(3)]
    for content in signatures + sboms:
        await push(repository, content)

    assert await digests(repository, artifact_type=SBOM) == ordered(*sboms)
    assert await digests(repository, artifact_type=SIGNATURE) == ordered(*signatures)
    assert await digests(repository, artifact_type="application/other") == []
    assert await digests(repository) == ordered(*signatures, *sboms)


@pytest.mark.parametrize("limit", [1, 2, 5, 6, 7])
@pytest.mark.parametrize("artifact_type", [None, SBOM])
async def test_pages_put_together_are_all_referrers(
    repository: Repository, limit: int, artifact_type: str | None
) -> None:
    contents = [referrer(number, (SIGNATURE, SBOM)[number % 2]) for number in range(12)]
    for content in contents:
        await push(repository, content)
    chosen = contents if artifact_type is None else contents[1::2]

    found: list[Digest] = []
    after: str | None = ""
    while after is not None:
        part = await page(repository, artifact_type=artifact_type, after=after, limit=limit)
        assert 0 < len(part.descriptors) <= limit
        found += [descriptor.digest for descriptor in part.descriptors]
        after = part.next

    assert found == ordered(*chosen)


async def test_a_page_ends_before_it_gets_too_large(repository: Repository) -> None:
    subject = descriptor(SUBJECT, OCI_MANIFEST)
    big = [image(subject=subject, annotations={"x": x * 1_500_000}) for x in "abcdefg"]
    for content in big:
        await push(repository, content)

    pages = []
    after: str | None = ""
    while after is not None:
        part = await page(repository, after=after)
        pages.append(len(part.descriptors))
        after = part.next

    assert pages == [3, 3, 1]


async def test_a_deleted_referrer_is_no_longer_shown(
    repository: Repository, elsewhere: Repository
) -> None:
    first, second = await push(repository, referrer(1)), await push(repository, referrer(2))
    assert len(await digests(elsewhere)) == 2

    await repository.manifests.delete(first)

    assert await digests(repository) == [second]
    assert await digests(elsewhere) == [second]


async def test_asking_for_referrers_in_a_repository_that_never_was_writes_nothing(
    driver: StorageDriver,
) -> None:
    watched = WatchedDriver(driver)
    repository = Registry(watched).repository(NAME)

    assert await digests(repository) == []

    assert writes(watched.take()) == []


async def test_another_process_goes_on_where_the_scan_before_it_ended(
    driver: StorageDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alauda_registry.storage.referrers._UNSAVED_MINIMUM", 3)
    first = Registry(driver).repository(NAME)
    for number in range(4):
        await push(first, referrer(number))
    assert len(await digests(first)) == 4
    await push(first, referrer(4))
    watched = WatchedDriver(driver)

    found = await digests(Registry(watched).repository(NAME))

    opened = [path for operation, path in watched.take() if "/blobs/" in path]
    assert (len(found), len(opened)) == (5, 1)


async def test_a_deleted_referrer_that_is_pushed_again_is_shown(
    repository: Repository, elsewhere: Repository
) -> None:
    digest = await push(repository, referrer(1))
    await digests(elsewhere)
    await repository.manifests.delete(digest)

    await put(elsewhere, referrer(1))

    assert await digests(repository) == [digest]
    assert await digests(elsewhere) == [digest]


async def test_an_entry_whose_manifest_another_registry_deleted_is_not_shown(
    repository: Repository, driver: StorageDriver
) -> None:
    first, second = await push(repository, referrer(1)), await push(repository, referrer(2))

    await driver.delete(paths.revision_link(NAME, first))

    assert await digests(repository) == [second]


@pytest.mark.parametrize("entry", [b"", b"nonsense", b"[]", b'{"digest": 5}', b"\xff"], ids=repr)
async def test_an_entry_that_cannot_be_read_is_reported_and_the_others_shown(
    repository: Repository,
    driver: StorageDriver,
    caplog: pytest.LogCaptureFixture,
    entry: bytes,
) -> None:
    digest = await push(repository, referrer(1))
    stray = f"{paths.referrers(NAME, Digest.of(SUBJECT))}/sha256-{'0' * 64}.0123456789abcdef"
    await driver.publish(Write(stray, entry))

    assert await digests(repository) == [digest]
    assert f"can't be read: {stray}" in caplog.text


async def test_referrers_that_another_registry_pushed_are_found(
    repository: Repository, driver: StorageDriver
) -> None:
    for content in (SUBJECT, referrer(1), referrer(2, SBOM)):
        await write_as_distribution(driver, content)

    assert await digests(repository) == ordered(referrer(1), referrer(2, SBOM))
    assert await digests(repository, artifact_type=SBOM) == [Digest.of(referrer(2, SBOM))]


async def test_referrers_that_another_registry_pushes_later_are_found_too(
    repository: Repository, elsewhere: Repository, driver: StorageDriver, storage: Storage
) -> None:
    await push(repository, SUBJECT)
    await push(repository, referrer(1))
    assert len(await digests(repository)) == 1

    for number in (2, 3):
        settle(storage)
        await write_as_distribution(driver, referrer(number))

        assert len(await digests(repository)) == number
        assert len(await digests(elsewhere)) == number


async def test_a_referrer_that_another_registry_deleted_and_pushed_again_is_shown(
    repository: Repository, elsewhere: Repository, driver: StorageDriver, storage: Storage
) -> None:
    digest = await write_as_distribution(driver, referrer(1))
    await write_as_distribution(driver, SUBJECT)
    # It deletes the link and leaves the folder, whose return nobody sees from above.
    await driver.delete(paths.revision_link(NAME, digest))
    await driver.publish(Write(f"{paths.revision(NAME, digest)}/stray", b"x"))
    settle(storage)
    assert await digests(repository) == []
    settle(storage)

    await write_as_distribution(driver, referrer(1))
    settle(storage)

    assert await digests(repository) == [digest]
    assert await digests(elsewhere) == [digest]


@pytest.mark.parametrize("storage", ["filesystem"], indirect=True)
async def test_a_repository_that_was_scanned_is_not_scanned_again(
    storage: Storage, driver: StorageDriver
) -> None:
    for number in range(5):
        await write_as_distribution(driver, referrer(number))
    settle(storage)
    await digests(Registry(storage.other).repository(NAME))
    watched = WatchedDriver(driver)
    repository = Registry(watched).repository(NAME)

    assert len(await digests(repository)) == 5

    calls = watched.take()
    assert [path for operation, path in calls if operation == "names"] == [
        paths.referrers(NAME, Digest.of(SUBJECT))
    ]
    assert [path for _, path in calls if "/blobs/" in path] == []
    assert writes(calls) == []


async def test_only_what_is_new_is_looked_at_by_the_process_that_scanned_before(
    storage: Storage, driver: StorageDriver
) -> None:
    watched = WatchedDriver(driver)
    repository = Registry(watched).repository(NAME)
    for number in range(5):
        await write_as_distribution(driver, referrer(number))
    await digests(repository)
    settle(storage)
    new = await write_as_distribution(driver, referrer(5))
    watched.take()

    assert len(await digests(repository)) == 6

    opened = [path for operation, path in watched.take() if path.endswith("/data")]
    assert opened == [paths.blob_data(new)]


async def test_the_index_and_the_tag_that_stood_in_for_it_are_united(
    repository: Repository,
) -> None:
    by_api, by_both, by_tag = (referrer(number) for number in range(3))
    old = image(annotations={"number": "7"})
    for content in (by_api, by_both, by_tag, old):
        await push(repository, content)
    listed = index(
        manifests=[
            descriptor(content, OCI_MANIFEST, artifactType=SIGNATURE) for content in (by_both, old)
        ]
    )
    await put(repository, listed, tag_schema(Digest.of(SUBJECT)))

    assert await digests(repository) == ordered(by_api, by_both, by_tag, old)
    assert await digests(repository, artifact_type=SIGNATURE) == ordered(
        by_api, by_both, by_tag, old
    )
    assert await digests(repository, artifact_type=SBOM) == []


@pytest.mark.parametrize(
    "listed",
    [image(), index(SUBJECT, b"gone"), b"nonsense", None],
    ids=["image", "partly gone", "nonsense", "bytes gone"],
)
async def test_a_tag_that_lists_nothing_useful_adds_nothing(
    repository: Repository, driver: StorageDriver, listed: bytes | None
) -> None:
    digest = await push(repository, referrer(1))
    tag = tag_schema(Digest.of(SUBJECT))
    await write_as_distribution(driver, listed or b"{}", tag)
    if listed is None:
        await driver.delete(paths.blob_data(Digest.of(b"{}")))

    assert await digests(repository) == [digest]


async def test_a_subject_and_its_referrers_may_be_known_by_sha512(
    repository: Repository,
) -> None:
    subject = descriptor(SUBJECT, OCI_MANIFEST, Algorithm.SHA512)
    digest = await push(repository, image(subject=subject), algorithm=Algorithm.SHA512)

    found = await repository.referrers.page(
        Digest.of(SUBJECT, Algorithm.SHA512), artifact_type=None, limit=10
    )

    assert [descriptor.digest for descriptor in found.descriptors] == [digest]
    assert await digests(repository) == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("stray", b"x"),
        ("sha256/stray", b"x"),
        ("sha256/" + "0" * 64 + "/link.0a1b.tmp", b"sha256:"),
        ("sha256/" + "0" * 64 + "/link", b""),
        ("sha256/" + "1" * 64 + "/link", b"sha256:" + b"1" * 64),
        ("md5/" + "1" * 32 + "/link", b"md5:" + b"1" * 32),
    ],
    ids=["file", "file of an algorithm", "torn", "empty link", "bytes gone", "other algorithm"],
)
async def test_stray_revisions_are_passed_by(
    repository: Repository, driver: StorageDriver, name: str, content: bytes
) -> None:
    digest = await push(repository, referrer(1))
    await driver.publish(Write(f"{paths.revisions(NAME)}/{name}", content))

    assert await digests(repository) == [digest]


@pytest.mark.parametrize("error", [OutOfSpace, ReadOnlyFileSystem])
async def test_referrers_are_shown_although_the_index_cannot_be_written(
    driver: StorageDriver, error: type[OutOfSpace | ReadOnlyFileSystem]
) -> None:
    await write_as_distribution(driver, SUBJECT)
    for number in range(3):
        await write_as_distribution(driver, referrer(number))
    broken = FailingDriver(driver)
    broken.error = lambda operation, path: (
        error(driver="test", path=path) if operation == "write" else None
    )
    repository = Registry(broken).repository(NAME)

    for _ in range(2):
        assert await digests(repository) == ordered(*(referrer(number) for number in range(3)))
        assert await digests(repository, artifact_type=SBOM) == []


async def test_a_registry_that_is_read_only_writes_no_index(driver: StorageDriver) -> None:
    await write_as_distribution(driver, referrer(1))
    watched = WatchedDriver(driver)
    repository = Registry(watched, StorageOptions(read_only=True)).repository(NAME)

    assert await digests(repository) == [Digest.of(referrer(1))]

    assert writes(watched.take()) == []


def settle(storage: Storage) -> None:
    """Let the directories look as if nothing had changed in them for a while."""
    for path in _directories(storage.root):
        status = path.stat()
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns - 5_000_000_000))


def _directories(root: Path | None) -> Iterator[Path]:
    if root is not None:
        yield from (path for path in (root / "docker").rglob("*") if path.is_dir())
