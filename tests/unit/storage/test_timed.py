"""What goes straight to the objects of a bucket is timed and counted as what drivers do."""

import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from alauda_registry.oci.digest import Digest
from alauda_registry.oci.reference import RepositoryName, Tag
from alauda_registry.storage import paths
from alauda_registry.storage.driver import DriverError
from alauda_registry.storage.drivers.s3.client import S3Client
from alauda_registry.storage.drivers.s3.credentials import GivenKeys
from alauda_registry.storage.drivers.s3.driver import S3Driver
from alauda_registry.storage.drivers.s3.signing import Keys
from alauda_registry.storage.repositories import Registry
from alauda_registry.storage.timed import TimedDriver
from alauda_registry.storage.uploads import Piece
from tests.parts.fake_bucket import BUCKET, FakeBucket, FakeTransport, Refused

pytestmark = pytest.mark.anyio

NAME = RepositoryName("team/app")
CONTENT = b"content" * 20_000
DIGEST = Digest.of(CONTENT)


class Watched:
    """A registry over a fake bucket whose storage calls are counted, and their errors."""

    def __init__(self) -> None:
        self.bucket = FakeBucket(time.time)
        client = S3Client(FakeTransport(self.bucket), BUCKET, GivenKeys(Keys("key", "secret")))
        self.calls: Counter[str] = Counter()
        self.errors: Counter[tuple[str, str]] = Counter()
        self.driver = TimedDriver(S3Driver(client), self._observe)
        self.repository = Registry(self.driver).repository(NAME)

    def _observe(self, operation: str, seconds: float, code: str | None) -> None:
        assert seconds >= 0
        action = operation.removeprefix("StorageDriver.")
        self.calls[action] += 1
        if code is not None:
            self.errors[action, code] += 1

    def seen(self) -> set[str]:
        """Return what was counted since the last time."""
        found = set(self.calls)
        self.calls.clear()
        return found


def piece(content: bytes) -> Piece:
    async def chunks() -> AsyncIterator[bytes]:
        yield content

    return Piece(chunks(), start=None, length=len(content))


async def test_each_way_to_the_objects_is_counted() -> None:
    watched = Watched()
    uploads = watched.repository.uploads

    await uploads.take(DIGEST, piece(CONTENT))
    assert "Writer" in watched.seen()

    session = await uploads.start()
    await session.append(piece(CONTENT))
    await session.commit(DIGEST)
    assert {"Reader", "Move", "Delete"} <= watched.seen()

    assert await watched.repository.blobs.url(DIGEST, "GET") is not None
    assert "URLFor" in watched.seen()

    watched.bucket.put(paths.tag_current(NAME, Tag("v1"))[1:], str(DIGEST).encode())
    assert (await watched.repository.tags.page(limit=1)).names == ["v1"]
    assert watched.seen() == {"List"}

    assert await Registry(watched.driver).secret()
    assert "PutContent" in watched.seen()

    assert await Registry(watched.driver).expire_uploads() == 0
    assert {"List", "Delete"} <= watched.seen()


async def test_errors_are_counted_by_their_code() -> None:
    watched = Watched()
    objects = watched.driver.objects
    assert objects is not None

    def refuse(request: object) -> None:
        raise Refused(400, "InvalidRequest")

    watched.bucket.on_request = refuse
    path = paths.blob_data(DIGEST)
    writer = await objects.create(path)
    await writer.write([CONTENT])
    for call in (
        writer.commit(),
        objects.write_new(path, b""),
        objects.discard(path),
        objects.snapshot(path),
        objects.page(paths.ROOT),
        anext(objects.folders(paths.ROOT)),
        objects.drop_unfinished(paths.ROOT, timedelta()),
    ):
        with pytest.raises(DriverError):
            await call

    assert Counter(action for action, _ in watched.errors.elements()) == {
        "Writer": 1,
        "PutContent": 1,
        "Delete": 2,
        "Reader": 1,
        "List": 2,
    }
