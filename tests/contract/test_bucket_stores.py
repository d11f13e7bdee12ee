"""The stores over a bucket, as two replicas have them."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

import pytest

from alauda_registry.oci.digest import Algorithm, Digest
from alauda_registry.oci.errors import (
    BlobUnknown,
    BlobUploadUnknown,
    DigestInvalid,
    ManifestUnknown,
    SizeInvalid,
)
from alauda_registry.oci.manifest import Manifest
from alauda_registry.oci.reference import RepositoryName, Tag
from alauda_registry.storage import paths
from alauda_registry.storage.driver import Busy, Write
from alauda_registry.storage.drivers.s3.driver import S3Driver
from alauda_registry.storage.drivers.s3.transport import Request
from alauda_registry.storage.repositories import Registry, Repository, StorageOptions
from alauda_registry.storage.uploads import Piece
from tests.contract.conftest import open_bucket
from tests.contract.test_s3_driver import BIG, MeddledTransport
from tests.parts import s3

pytestmark = pytest.mark.anyio

NAME = RepositoryName.parse("team/app")
TYPE = "application/vnd.oci.image.index.v1+json"


@dataclass(frozen=True)
class Replicas:
    """Two replicas over one bucket."""

    bucket: s3.Bucket
    driver: S3Driver
    other_driver: S3Driver
    registry: Registry
    other: Registry

    @property
    def app(self) -> Repository:
        return self.registry.repository(NAME)

    @property
    def other_app(self) -> Repository:
        return self.other.repository(NAME)


@pytest.fixture
async def replicas(s3_server: s3.S3Server) -> AsyncIterator[Replicas]:
    bucket = s3_server.create_bucket()
    driver, other = open_bucket(bucket, ""), open_bucket(bucket, "")
    for opened in (driver, other):
        opened.client.transport = MeddledTransport(opened.client.transport)
    options = StorageOptions(upload_age=timedelta(seconds=-5))
    found = Replicas(bucket, driver, other, Registry(driver, options), Registry(other, options))
    yield found
    await found.registry.aclose()
    await found.other.aclose()
    assert bucket.uploads() == []
    bucket.remove()


def meddled(driver: S3Driver) -> MeddledTransport:
    assert isinstance(driver.client.transport, MeddledTransport)
    return driver.client.transport


def piece(content: bytes, start: int | None = None, length: int | None = None) -> Piece:
    async def chunks() -> AsyncIterator[bytes]:
        for first in range(0, len(content), 100_000):
            yield content[first : first + 100_000]

    return Piece(chunks(), start=start, length=len(content) if length is None else length)


def sessions(bucket: s3.Bucket) -> list[str]:
    return [key for key in bucket.sizes() if "_uploads" in key]


def index(*, annotation: str) -> Manifest:
    document = {"schemaVersion": 2, "mediaType": TYPE, "manifests": []}
    content = json.dumps({**document, "annotations": {"is": annotation}}).encode()
    return Manifest.parse(content, TYPE)


async def read_blob(repository: Repository, digest: Digest) -> bytes:
    blob = await repository.blobs.open(digest)
    try:
        return b"".join([chunk async for chunk in blob.stream()])
    finally:
        blob.close()


@pytest.mark.parametrize("cuts", [(0,), (1, 3), (6_000_000,), (5, 6_000_000, 11_000_000)], ids=str)
async def test_any_replica_goes_on_with_any_session(
    replicas: Replicas, cuts: tuple[int, ...]
) -> None:
    session = await replicas.app.uploads.start()
    offset = 0
    apps = [replicas.app, replicas.other_app]
    for turn, cut in enumerate([*cuts, len(BIG)]):
        session = await apps[turn % 2].uploads.resume(session.id)
        assert session.size == offset
        offset = await session.append(piece(BIG[offset:cut], start=offset))
    digest = Digest.of(BIG)
    last = await apps[len(cuts) % 2].uploads.resume(session.id)

    await last.commit(digest, piece(b"", start=len(BIG)))

    assert await read_blob(replicas.other_app, digest) == BIG
    assert sessions(replicas.bucket) == []


@pytest.mark.parametrize("algorithm", list(Algorithm))
async def test_a_session_is_ended_by_another_digest_than_it_was_hashed_by(
    replicas: Replicas, algorithm: Algorithm
) -> None:
    digest = Digest.of(BIG, algorithm)
    session = await replicas.app.uploads.start()
    await session.append(piece(BIG))

    await (await replicas.other_app.uploads.resume(session.id)).commit(digest)

    assert await read_blob(replicas.app, digest) == BIG


@pytest.mark.parametrize("content", [b"", b"small", BIG], ids=len)
async def test_a_blob_that_comes_at_once_is_copied_nowhere(
    replicas: Replicas, content: bytes
) -> None:
    digest = Digest.of(content)
    transport = meddled(replicas.driver)

    await replicas.app.uploads.take(digest, piece(content))

    assert await read_blob(replicas.other_app, digest) == content
    assert not any("x-amz-copy-source" in request.headers for request in transport.requests)
    assert replicas.bucket.keys() == [
        paths.blob_data(digest)[1:],
        paths.blob_link(NAME, digest)[1:],
    ]


async def failing_by_digest(repository: Repository) -> None:
    with pytest.raises(DigestInvalid):
        await repository.uploads.take(Digest.of(b"other"), piece(BIG))


async def failing_by_size(repository: Repository) -> None:
    with pytest.raises(SizeInvalid):
        await repository.uploads.take(Digest.of(BIG), piece(BIG, length=len(BIG) + 1))


async def failing_in_a_session(repository: Repository) -> None:
    session = await repository.uploads.start()
    await session.append(piece(BIG))
    with pytest.raises(DigestInvalid):
        await session.commit(Digest.of(b"other"))


async def cancelled_by_its_client(repository: Repository) -> None:
    session = await repository.uploads.start()
    await session.append(piece(BIG))
    await session.cancel()
    with pytest.raises(BlobUploadUnknown):
        await session.append(piece(b"more"))


@pytest.mark.parametrize(
    "failing",
    [failing_by_digest, failing_by_size, failing_in_a_session, cancelled_by_its_client],
)
async def test_an_upload_that_fails_leaves_nothing(
    replicas: Replicas, failing: Callable[[Repository], Awaitable[None]]
) -> None:
    await failing(replicas.app)

    assert (replicas.bucket.keys(), replicas.bucket.uploads()) == ([], [])


async def test_a_piece_of_the_wrong_size_is_taken_back(replicas: Replicas) -> None:
    session = await replicas.app.uploads.start()
    await session.append(piece(b"0123"))

    with pytest.raises(SizeInvalid):
        await session.append(piece(BIG, length=len(BIG) - 1))

    resumed = await replicas.other_app.uploads.resume(session.id)
    assert resumed.size == 4
    await resumed.commit(Digest.of(b"012345"), piece(b"45", start=4))
    assert await read_blob(replicas.app, Digest.of(b"012345")) == b"012345"


async def test_what_nobody_goes_on_with_is_swept(replicas: Replicas) -> None:
    session = await replicas.app.uploads.start()
    await session.append(piece(BIG))
    replicas.bucket.write(f"docker/registry/v2/repositories/{NAME}/_uploads/theirs/startedat", b"x")
    crashed = replicas.bucket.start_upload(paths.blob_data(Digest.of(BIG))[1:])
    beside = replicas.bucket.start_upload("another/docker/registry/v2/blobs/x")

    expired = await replicas.registry.expire_uploads()

    assert expired == 3
    assert sessions(replicas.bucket) == []
    assert crashed not in replicas.bucket.uploads()
    replicas.bucket.abort(beside)


async def test_a_moved_tag_survives_the_deletion_of_what_it_pointed_to(replicas: Replicas) -> None:
    """The push has begun before the deletion, which reads the tag before it moves."""
    old, new = index(annotation="old"), index(annotation="new")
    old_digest, new_digest = Digest.of(old.content), Digest.of(new.content)
    tag = Tag.parse("latest")
    await replicas.app.manifests.put(old, old_digest, [tag])
    began, may_write = asyncio.Event(), asyncio.Event()

    async def meet_push(request: Request) -> None:
        if request.method == "PUT":
            began.set()
            await may_write.wait()

    async def meet_deletion(request: Request) -> None:
        if request.method == "DELETE" and not may_write.is_set():
            may_write.set()
            await asyncio.sleep(0.5)

    meddled(replicas.other_driver).meet = meet_push
    meddled(replicas.driver).meet = meet_deletion
    pushing = asyncio.ensure_future(replicas.other_app.manifests.put(new, new_digest, [tag]))
    await began.wait()
    await replicas.app.manifests.delete(old_digest)
    await pushing

    assert await replicas.app.tags.resolve(tag) == new_digest
    with pytest.raises(ManifestUnknown):
        await replicas.app.manifests.get(old_digest)


async def test_a_deletion_takes_the_tag_of_a_push_that_ends_before_it_looks_again(
    replicas: Replicas,
) -> None:
    """The push lets its tag point to the manifest when the deletion has read all tags."""
    manifest = index(annotation="one")
    digest = Digest.of(manifest.content)
    tag = Tag.parse("latest")
    await replicas.app.manifests.put(manifest, digest)
    began, may_write, wrote = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def meet_push(request: Request) -> None:
        if request.method == "PUT":
            began.set()
            await may_write.wait()
        elif may_write.is_set():
            wrote.set()
            await asyncio.Event().wait()

    async def meet_deletion(request: Request) -> None:
        if request.method == "DELETE":
            may_write.set()
            await wrote.wait()

    meddled(replicas.other_driver).meet = meet_push
    meddled(replicas.driver).meet = meet_deletion
    pushing = asyncio.ensure_future(replicas.other_app.manifests.put(manifest, digest, [tag]))
    await began.wait()
    await replicas.app.manifests.delete(digest)
    pushing.cancel()
    await asyncio.wait([pushing])

    assert [key for key in replicas.bucket.sizes() if "/tags/" in key] == []


async def test_a_deletion_that_hangs_holds_pushes_up_and_no_pull(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alauda_registry.storage.locks.WAIT_SECONDS", 0.2)
    manifest = index(annotation="one")
    digest = Digest.of(manifest.content)
    await replicas.app.manifests.put(manifest, digest)
    transport = meddled(replicas.driver)
    gate = next(request.key for request in transport.requests if "/locks/gate" in request.key)

    async with replicas.driver.lock(gate.rpartition("/")[2], exclusive=True, wait=0):
        with pytest.raises(Busy):
            await replicas.other_app.manifests.put(manifest, digest)
        assert (await replicas.other_app.manifests.get(digest)).content == manifest.content


async def test_the_secret_is_one_for_all(replicas: Replicas) -> None:
    asked = [registry.secret() for registry in (replicas.registry, replicas.other) * 4]

    assert len(set(await asyncio.gather(*asked))) == 1


async def test_what_another_registry_wrote_is_served_and_listed(replicas: Replicas) -> None:
    content = b"{}"
    digest = Digest.of(content)
    await replicas.driver.publish(
        Write(paths.blob_data(digest), content),
        Write(paths.blob_link(NAME, digest), str(digest).encode()),
    )

    assert await read_blob(replicas.other_app, digest) == content
    with pytest.raises(BlobUnknown):
        await replicas.registry.repository(RepositoryName.parse("team/other")).blobs.open(digest)


async def test_tags_and_names_are_listed_in_their_orders(replicas: Replicas) -> None:
    manifest = index(annotation="one")
    digest = Digest.of(manifest.content)
    names = ["a", "a-b", "a/b", "a.b", "a/b-c"]
    tags = [Tag.parse(text) for text in ("1.2", "1.2-rc", "1.20", "1", "_", "Z")]
    for name in names:
        await replicas.registry.repository(RepositoryName.parse(name)).manifests.put(
            manifest, digest, tags
        )

    store = replicas.other.repository(RepositoryName.parse("a")).tags
    listed = await store.page(limit=None)
    pages = [await store.page(after=after, limit=2) for after in ("", "1", "1.20", "a")]
    catalog = await replicas.other.catalog(limit=3)
    rest = await replicas.other.catalog(after=catalog.names[-1], limit=3)

    assert listed.names == sorted(tags)
    assert [page.names for page in pages] == [["1", "1.2"], ["1.2", "1.2-rc"], ["Z", "_"], []]
    assert [page.more for page in pages] == [True, True, False, False]
    assert await store.pointing_to(digest) == sorted(tags)
    assert [*catalog.names, *rest.names] == ["a", "a/b", "a/b-c", "a-b", "a.b"]
    assert (catalog.more, rest.more) == (True, False)
