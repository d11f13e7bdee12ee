"""Manifests and tags of a repository: exact bytes, whole images, nothing that dangles."""

import json
import logging

import pytest
from typing_extensions import override

from alauda_registry.oci.digest import Algorithm, Digest
from alauda_registry.oci.errors import (
    BlobUnknown,
    ManifestBlobUnknown,
    ManifestUnknown,
    NameUnknown,
)
from alauda_registry.oci.media_types import (
    DOCKER_CONFIG,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    SCHEMA1_SIGNED,
)
from alauda_registry.oci.reference import Tag
from alauda_registry.storage import paths
from alauda_registry.storage.driver import OutOfSpace, StorageDriver, Write
from alauda_registry.storage.pages import Page
from alauda_registry.storage.repositories import Registry, Repository, StorageOptions
from tests.unit.storage.pushing import (
    EMPTY,
    NAME,
    descriptor,
    image,
    index,
    push,
    push_blob,
    put,
)
from tests.unit.storage.watching import FailingDriver, WatchedDriver, writes

pytestmark = pytest.mark.anyio

FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
ROOT = "/docker/registry/v2"
MANIFESTS = f"{ROOT}/repositories/{NAME}/_manifests"

CONTENT = image()
DIGEST = Digest.of(CONTENT)
OTHER = image(annotations={"which": "another"})


async def tags(repository: Repository) -> list[str]:
    page = await repository.tags.page(limit=None)
    assert not page.more
    return page.names


async def assert_absent(repository: Repository, digest: Digest) -> None:
    with pytest.raises(ManifestUnknown) as caught:
        await repository.manifests.get(digest)
    assert caught.value.detail == {"digest": str(digest)}


async def assert_no_tag(repository: Repository, tag: str) -> None:
    with pytest.raises(ManifestUnknown) as caught:
        await repository.tags.resolve(Tag(tag))
    assert caught.value.detail == {"tag": tag}


DOCKER_IMAGE = {
    "schemaVersion": 2,
    "mediaType": DOCKER_MANIFEST,
    "config": descriptor(EMPTY, DOCKER_CONFIG),
    "layers": [descriptor(EMPTY, DOCKER_LAYER_GZIP)],
}


@pytest.mark.parametrize(
    ("content", "media_type"),
    [
        (CONTENT, OCI_MANIFEST),
        (index(), OCI_INDEX),
        (json.dumps(DOCKER_IMAGE, indent=7).encode() + b"\n\n", DOCKER_MANIFEST),
        (b'{"schemaVersion": 1, "signatures": [], "name": "\xc3\xbc"}', SCHEMA1_SIGNED),
    ],
    ids=["image", "index", "docker", "schema 1"],
)
async def test_a_manifest_is_kept_byte_for_byte_with_its_type(
    repository: Repository, elsewhere: Repository, content: bytes, media_type: str
) -> None:
    digest = await push(repository, content, "latest")

    for reader in (repository, elsewhere):
        stored = await reader.manifests.get(digest)
        assert (stored.digest, stored.content, stored.media_type) == (digest, content, media_type)
        assert await reader.tags.resolve(Tag("latest")) == digest


async def test_a_manifest_is_stored_where_distribution_looks_for_it(
    repository: Repository, driver: StorageDriver
) -> None:
    await push(repository, CONTENT, "v1.0")
    link = str(DIGEST).encode()

    found = {info.path async for info in driver.walk(MANIFESTS)}

    assert found == {
        f"{MANIFESTS}/revisions/sha256/{DIGEST.encoded}/link",
        f"{MANIFESTS}/tags/v1.0/current/link",
    }
    assert {await driver.read(path) for path in found} == {link}
    data = f"{ROOT}/blobs/sha256/{DIGEST.encoded[:2]}/{DIGEST.encoded}/data"
    assert await driver.read(data) == CONTENT


async def test_a_manifest_of_another_repository_is_unknown(
    repository: Repository, another: Repository
) -> None:
    await push(repository, CONTENT, "latest")
    await repository.manifests.get(DIGEST)

    await assert_absent(another, DIGEST)
    await assert_no_tag(another, "latest")
    with pytest.raises(ManifestUnknown):
        await another.manifests.delete(DIGEST)


async def test_a_manifest_is_read_once_and_then_kept_in_memory(driver: StorageDriver) -> None:
    await push(Registry(driver).repository(NAME), CONTENT)
    watched = WatchedDriver(driver)
    repository = Registry(watched).repository(NAME)
    link = ("read", paths.revision_link(NAME, DIGEST))

    await repository.manifests.get(DIGEST)
    await repository.manifests.get(DIGEST)

    # The link is asked every time, since another process may have removed it.
    assert watched.take() == [link, ("read", paths.blob_data(DIGEST)), link]


async def test_all_missing_blobs_are_listed_at_once(
    repository: Repository, another: Repository
) -> None:
    await push_blob(repository, b"here")
    await push_blob(another, b"elsewhere")
    content = image(b"gone", b"here", b"elsewhere", b"gone", config=b"config")

    with pytest.raises(ManifestBlobUnknown) as caught:
        await put(repository, content, "latest")

    missing = [Digest.of(blob) for blob in (b"config", b"gone", b"elsewhere")]
    assert list(caught.value.missing) == missing
    await assert_absent(repository, Digest.of(content))
    await assert_no_tag(repository, "latest")


async def test_a_blob_whose_bytes_are_gone_is_missing(
    repository: Repository, driver: StorageDriver
) -> None:
    await push_blob(repository, EMPTY)
    await driver.delete(paths.blob_data(Digest.of(EMPTY)))

    with pytest.raises(ManifestBlobUnknown) as caught:
        await put(repository, CONTENT)

    assert list(caught.value.missing) == [Digest.of(EMPTY)]


async def test_foreign_layers_that_can_be_had_elsewhere_may_be_missing(
    repository: Repository,
) -> None:
    url = "https://example.com/layer"
    foreign = descriptor(b"foreign", FOREIGN, urls=[url])
    content = image(layers=[foreign])

    digest = await push(repository, content)

    assert (await repository.manifests.get(digest)).content == content


@pytest.mark.parametrize(
    "layer",
    [
        descriptor(b"foreign", FOREIGN),
        descriptor(b"foreign", OCI_LAYER_GZIP, urls=["https://example.com/layer"]),
    ],
    ids=["nowhere to be had", "not foreign"],
)
async def test_other_layers_must_be_there(repository: Repository, layer: dict[str, object]) -> None:
    await push_blob(repository, EMPTY)

    with pytest.raises(ManifestBlobUnknown) as caught:
        await put(repository, image(layers=[layer]))

    assert list(caught.value.missing) == [Digest.of(b"foreign")]


async def test_a_sparse_image_may_lack_layers_but_not_its_config(driver: StorageDriver) -> None:
    repository = Registry(driver, StorageOptions(allow_sparse=True)).repository(NAME)
    await push_blob(repository, EMPTY)

    digest = await put(repository, image(b"gone", b"gone too"))
    with pytest.raises(ManifestBlobUnknown) as caught:
        await put(repository, image(b"gone", config=b"config"))

    assert (await repository.manifests.get(digest)).digest == digest
    assert list(caught.value.missing) == [Digest.of(b"config")]


async def test_the_children_of_an_index_may_be_missing(repository: Repository) -> None:
    content = index(b"gone", b"gone too")

    digest = await put(repository, content, "latest")

    assert (await repository.manifests.get(digest)).content == content


async def test_the_subject_may_be_missing(repository: Repository) -> None:
    content = image(subject=descriptor(b"gone", OCI_MANIFEST))

    digest = await push(repository, content)

    assert (await repository.manifests.get(digest)).content == content


async def test_a_blob_pushed_by_sha512_can_be_referred_to_by_sha512(
    repository: Repository,
) -> None:
    await push_blob(repository, EMPTY)
    await push_blob(repository, b"layer", Algorithm.SHA512)
    layer = descriptor(b"layer", OCI_LAYER_GZIP, Algorithm.SHA512)

    digest = await put(repository, image(layers=[layer]))

    assert (await repository.manifests.get(digest)).digest == digest
    with pytest.raises(ManifestBlobUnknown):
        await put(repository, image(b"layer"))


async def test_a_manifest_pushed_by_sha512_is_known_by_that_alone(
    repository: Repository, elsewhere: Repository, driver: StorageDriver
) -> None:
    digest = await push(repository, CONTENT, "latest", algorithm=Algorithm.SHA512)

    stored = await elsewhere.manifests.get(digest)

    assert (stored.digest, stored.content) == (digest, CONTENT)
    assert await elsewhere.tags.resolve(Tag("latest")) == digest
    link = f"{MANIFESTS}/revisions/sha512/{digest.encoded}/link"
    assert await driver.read(link) == str(digest).encode()
    await assert_absent(repository, DIGEST)


async def test_the_same_bytes_can_be_known_by_both_digests(repository: Repository) -> None:
    by_sha512 = await push(repository, CONTENT, "long", algorithm=Algorithm.SHA512)
    by_sha256 = await push(repository, CONTENT, "short")

    await repository.manifests.delete(by_sha512)

    assert await tags(repository) == ["short"]
    assert await repository.tags.resolve(Tag("short")) == by_sha256
    await assert_absent(repository, by_sha512)


async def test_pushing_again_writes_nothing(driver: StorageDriver) -> None:
    watched = WatchedDriver(driver)
    repository = Registry(watched).repository(NAME)
    await push(repository, CONTENT, "latest")
    watched.take()

    await put(repository, CONTENT, "latest")

    assert writes(watched.take()) == []
    assert await tags(repository) == ["latest"]


async def test_a_manifest_may_get_many_tags_at_once(repository: Repository) -> None:
    names = [f"tag-{number:03}" for number in range(50)]

    await push(repository, CONTENT, *names)

    assert await tags(repository) == names
    assert {await repository.tags.resolve(Tag(name)) for name in names} == {DIGEST}


async def test_a_tag_can_be_moved_and_remembers_where_it_was(
    repository: Repository, driver: StorageDriver
) -> None:
    await push(repository, CONTENT, "latest")
    moved = await push(repository, OTHER, "latest")

    assert await repository.tags.resolve(Tag("latest")) == moved
    history = await driver.names(f"{MANIFESTS}/tags/latest/index/sha256")
    assert history == [DIGEST.encoded]
    assert (await repository.manifests.get(DIGEST)).content == CONTENT


async def test_deleting_a_manifest_deletes_first_the_tags_that_point_to_it(
    driver: StorageDriver,
) -> None:
    watched = WatchedDriver(driver)
    repository = Registry(watched).repository(NAME)
    await push(repository, CONTENT, "a", "b", "moved")
    await push(repository, OTHER, "c", "moved")
    watched.take()

    await repository.manifests.delete(DIGEST)

    deleted = [path for operation, path in watched.take() if operation == "delete"]
    assert deleted == [
        f"{MANIFESTS}/tags/a",
        f"{MANIFESTS}/tags/b",
        f"{MANIFESTS}/revisions/sha256/{DIGEST.encoded}",
    ]
    assert await tags(repository) == ["c", "moved"]
    await assert_absent(repository, DIGEST)
    assert await repository.tags.resolve(Tag("moved")) == Digest.of(OTHER)


async def test_a_deleted_manifest_is_unknown_at_once_in_every_process(
    repository: Repository, elsewhere: Repository
) -> None:
    await push(repository, CONTENT, "latest")
    await elsewhere.manifests.get(DIGEST)

    await repository.manifests.delete(DIGEST)

    for reader in (repository, elsewhere):
        await assert_absent(reader, DIGEST)
        await assert_no_tag(reader, "latest")
        with pytest.raises(ManifestUnknown):
            await reader.manifests.delete(DIGEST)


async def test_deleting_a_manifest_spares_its_blobs_and_other_repositories(
    repository: Repository, another: Repository
) -> None:
    await push(repository, CONTENT, "latest")
    await push(another, CONTENT, "latest")

    await repository.manifests.delete(DIGEST)

    assert await repository.blobs.stat(Digest.of(EMPTY)) == len(EMPTY)
    assert (await another.manifests.get(DIGEST)).content == CONTENT
    assert await another.tags.resolve(Tag("latest")) == DIGEST


async def test_a_deleted_manifest_can_be_pushed_again(repository: Repository) -> None:
    await push(repository, CONTENT, "latest")
    await repository.manifests.delete(DIGEST)

    await put(repository, CONTENT, "other")

    assert (await repository.manifests.get(DIGEST)).content == CONTENT
    assert await tags(repository) == ["other"]


async def test_deleting_a_tag_spares_the_manifest_and_its_other_tags(
    repository: Repository,
) -> None:
    await push(repository, CONTENT, "a", "ab", "a.b")

    await repository.tags.delete(Tag("a"))

    assert await tags(repository) == ["a.b", "ab"]
    await assert_no_tag(repository, "a")
    with pytest.raises(ManifestUnknown):
        await repository.tags.delete(Tag("a"))
    assert (await repository.manifests.get(DIGEST)).content == CONTENT


async def test_a_tag_whose_manifest_is_gone_reads_as_absent(
    repository: Repository, driver: StorageDriver
) -> None:
    await push(repository, CONTENT, "latest")
    await push(repository, OTHER, "other")
    await driver.delete(f"{MANIFESTS}/revisions/sha256/{DIGEST.encoded}/link")

    await assert_no_tag(repository, "latest")
    await repository.tags.delete(Tag("latest"))

    assert await tags(repository) == ["other"]


@pytest.mark.parametrize("link", [b"", b"nonsense", b"sha256:0\n"], ids=repr)
async def test_corrupt_links_of_tags_and_revisions_read_as_absent_and_are_reported(
    repository: Repository,
    driver: StorageDriver,
    caplog: pytest.LogCaptureFixture,
    link: bytes,
) -> None:
    other = await push(repository, OTHER, "other")
    await push(repository, CONTENT, "latest")
    await driver.publish(
        Write(f"{MANIFESTS}/tags/latest/current/link", link),
        Write(paths.revision_link(NAME, other), link),
    )

    await assert_no_tag(repository, "latest")
    await assert_no_tag(repository, "other")
    await assert_absent(repository, other)

    assert f"ignored: {MANIFESTS}/tags/latest/current/link" in caplog.text
    assert f"ignored: {paths.revision_link(NAME, other)}" in caplog.text


@pytest.mark.parametrize(
    "stored",
    [None, b"", CONTENT[:-1], CONTENT[:-1] + b" ", CONTENT + b"\n"],
    ids=["gone", "empty", "cut off", "same size", "longer"],
)
async def test_a_manifest_with_corrupt_bytes_is_not_served_and_reported(
    repository: Repository,
    elsewhere: Repository,
    driver: StorageDriver,
    caplog: pytest.LogCaptureFixture,
    stored: bytes | None,
) -> None:
    await push(repository, CONTENT, "latest")
    await driver.delete(paths.blob_data(DIGEST))
    if stored is not None:
        await driver.publish(Write(paths.blob_data(DIGEST), stored))

    await assert_absent(elsewhere, DIGEST)

    reports = [record for record in caplog.records if str(DIGEST) in record.getMessage()]
    assert [report.levelno for report in reports] == [logging.ERROR]


@pytest.mark.parametrize(
    "stored",
    [b"", CONTENT[:-1], CONTENT[:-1] + b" ", CONTENT + b"\n"],
    ids=["empty", "cut off", "same size", "longer"],
)
async def test_pushing_again_repairs_corrupt_bytes(
    repository: Repository, elsewhere: Repository, driver: StorageDriver, stored: bytes
) -> None:
    await push(repository, CONTENT, "latest")
    await driver.publish(Write(paths.blob_data(DIGEST), stored))

    await put(repository, CONTENT, "latest")

    assert (await elsewhere.manifests.get(DIGEST)).content == CONTENT


async def test_a_manifest_with_corrupt_bytes_can_be_deleted(
    repository: Repository, driver: StorageDriver
) -> None:
    await push(repository, CONTENT, "latest")
    await push(repository, OTHER, "other")
    await driver.publish(Write(paths.blob_data(DIGEST), b"nonsense"))

    await repository.manifests.delete(DIGEST)

    await assert_absent(repository, DIGEST)
    assert await tags(repository) == ["other"]


async def test_what_is_no_manifest_is_not_served_as_one(
    repository: Repository, driver: StorageDriver, caplog: pytest.LogCaptureFixture
) -> None:
    digest = await push_blob(repository, b"no manifest at all")
    await driver.publish(Write(paths.revision_link(NAME, digest), str(digest).encode()))

    await assert_absent(repository, digest)

    assert "can't be parsed" in caplog.text


async def test_a_manifest_is_published_bytes_first_and_tags_last(driver: StorageDriver) -> None:
    watched = WatchedDriver(driver)
    repository = Registry(watched).repository(NAME)
    await push_blob(repository, EMPTY)
    subject = Digest.of(b"subject")
    content = image(subject=descriptor(b"subject", OCI_MANIFEST))
    watched.take()

    digest = await put(repository, content, "latest")

    order = [path for _, path in writes(watched.take())]
    assert order[0] == paths.blob_data(digest)
    assert order[1].startswith(f"{paths.referrers(NAME, subject)}/sha256-{digest.encoded}")
    assert order[2:] == [
        paths.revision_link(NAME, digest),
        paths.tag_current(NAME, Tag("latest")),
    ]


async def test_a_push_cut_short_at_any_step_leaves_nothing_that_dangles(
    driver: StorageDriver,
) -> None:
    broken = FailingDriver(driver)
    repository = Registry(broken).repository(NAME)
    await push_blob(repository, EMPTY)
    outcomes = []
    for allowed in range(9):
        left = [allowed]

        def fail(operation: str, path: str, left: list[int] = left) -> Exception | None:
            if operation in {"write", "ensure"}:
                left[0] -= 1
            return OutOfSpace(driver="test", path=path) if left[0] < 0 else None

        content = image(annotations={"allowed": str(allowed)})
        broken.error = fail
        try:
            await put(repository, content, "latest")
        except OutOfSpace:
            outcomes.append("failed")
        else:
            outcomes.append("done")
        broken.error = lambda operation, path: None

        if outcomes[-1] == "done":
            assert await repository.tags.resolve(Tag("latest")) == Digest.of(content)
        else:
            await assert_no_tag(repository, "latest")

    assert sorted(set(outcomes)) == ["done", "failed"]
    assert outcomes == sorted(outcomes, reverse=True)


async def test_a_repository_that_never_was_has_no_tag_list(repository: Repository) -> None:
    await push_blob(repository, EMPTY)

    with pytest.raises(NameUnknown) as caught:
        await repository.tags.page(limit=10)

    assert caught.value.detail == {"name": NAME}


async def test_a_repository_without_tags_has_an_empty_tag_list(repository: Repository) -> None:
    await push(repository, CONTENT)

    assert await repository.tags.page(limit=10) == Page([], more=False)


PREFIXES = ["1", "1.0", "1.0.1", "1.0-rc1", "10", "A", "B-", "_", "a", "a-b", "a.b", "a_b", "aa"]


@pytest.mark.parametrize("limit", [1, 2, 3, len(PREFIXES) - 1, len(PREFIXES), 100])
async def test_pages_of_tags_put_together_are_all_tags_in_byte_order(
    repository: Repository, limit: int
) -> None:
    await push(repository, CONTENT, *reversed(PREFIXES))

    found: list[str] = []
    more = True
    while more:
        page = await repository.tags.page(after=found[-1] if found else "", limit=limit)
        assert 0 < len(page.names) <= limit
        found += page.names
        more = page.more

    assert found == sorted(PREFIXES)


@pytest.mark.parametrize(
    ("after", "names"),
    [("a", ["a-b"]), ("a0", ["a_b"]), ("zzz", []), ("a_b", ["aa"]), ("aa", []), (" ", ["1"])],
)
async def test_a_page_begins_behind_any_name_whether_it_is_a_tag_or_not(
    repository: Repository, after: str, names: list[str]
) -> None:
    await push(repository, CONTENT, *PREFIXES)

    page = await repository.tags.page(after=after, limit=1)

    assert page.names == names


async def test_an_empty_page_says_whether_there_are_tags(repository: Repository) -> None:
    await push(repository, CONTENT, "latest")

    assert await repository.tags.page(limit=0) == Page([], more=True)


async def test_what_can_be_no_tag_is_not_listed(
    repository: Repository, driver: StorageDriver
) -> None:
    await push(repository, CONTENT, "latest")
    stray = ["-dash", ".hidden", "..x", "a" * 129]
    for name in stray:
        await driver.publish(Write(f"{MANIFESTS}/tags/{name}/current/link", str(DIGEST).encode()))

    assert await tags(repository) == ["latest"]


async def test_a_tag_folder_without_a_link_is_listed_and_reads_as_absent(
    repository: Repository, driver: StorageDriver
) -> None:
    await push(repository, CONTENT, "latest", "torn")
    await driver.delete(f"{MANIFESTS}/tags/torn/current/link")
    await driver.publish(Write(f"{MANIFESTS}/tags/torn/current/link.0a1b.tmp", b"sha256:"))

    assert await tags(repository) == ["latest", "torn"]
    await assert_no_tag(repository, "torn")
    await repository.manifests.delete(DIGEST)
    assert await tags(repository) == ["torn"]


async def test_a_blob_may_be_deleted_under_a_manifest(repository: Repository) -> None:
    await push(repository, CONTENT, "latest")

    await repository.blobs.delete(Digest.of(EMPTY))

    assert (await repository.manifests.get(DIGEST)).content == CONTENT
    with pytest.raises(BlobUnknown):
        await repository.blobs.stat(Digest.of(EMPTY))


async def test_bytes_that_vanish_while_a_manifest_is_pushed_are_missing(
    driver: StorageDriver,
) -> None:
    data = paths.blob_data(Digest.of(b"layer"))

    class CollectedDriver(WatchedDriver):
        @override
        async def meet(self, operation: str, path: str) -> None:
            if (operation, path) == ("ensure", data):
                await driver.delete(data)

    repository = Registry(CollectedDriver(driver)).repository(NAME)
    await push_blob(repository, EMPTY)
    await push_blob(repository, b"layer")

    with pytest.raises(ManifestBlobUnknown) as caught:
        await put(repository, image(b"layer"), "latest")

    assert list(caught.value.missing) == [Digest.of(b"layer")]
    await assert_no_tag(repository, "latest")
