"""Uploads into a bucket that are cut short, refused, repeated and expired."""

import asyncio
import contextlib
import hashlib
import itertools
import json
import random
import time
import tracemalloc
from base64 import b64encode
from collections.abc import AsyncGenerator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from typing_extensions import override

from alauda_registry.oci.digest import Algorithm, Digest
from alauda_registry.oci.errors import BlobUploadUnknown, DigestInvalid, SizeInvalid
from alauda_registry.oci.reference import RepositoryName
from alauda_registry.storage.driver import Busy, DriverError, Snapshot, Unreachable
from alauda_registry.storage.drivers.s3 import appending, files, parts
from alauda_registry.storage.drivers.s3.client import S3Client
from alauda_registry.storage.drivers.s3.credentials import GivenKeys
from alauda_registry.storage.drivers.s3.driver import S3Driver, S3Options
from alauda_registry.storage.drivers.s3.errors import Ended
from alauda_registry.storage.drivers.s3.parts import MIB
from alauda_registry.storage.drivers.s3.signing import Keys
from alauda_registry.storage.drivers.s3.transport import Answer, OpenAnswer, Request
from alauda_registry.storage.hashing import HashProgress
from alauda_registry.storage.repositories import Registry, Repository
from alauda_registry.storage.uploads import Piece
from tests.parts.fake_bucket import BUCKET, FakeBucket, FakeTransport, Refused
from tests.torture.replicas_of_bucket import SMALLEST_PART, driver_over, small_parts

pytestmark = pytest.mark.anyio

NAME = RepositoryName("team/app")
BLOCK = 256 * 1024


class Troubled(FakeTransport):
    """A server that takes its time to copy, and most of it for who is not the first.

    Attributes:
        lost: Of how many conditional writes to come the answers are lost.
        doubles: Whether something on the way sends conditional writes twice.
    """

    lost = 0
    doubles = False

    @override
    async def send(self, request: Request) -> Answer:
        is_conditional = bool(request.headers.keys() & {"if-match", "if-none-match"})
        if self.lost and is_conditional:
            self.lost -= 1
            await super().send(request)
            raise TimeoutError
        if self.doubles and is_conditional:
            await super().send(request)
        if "x-amz-copy-source" in request.headers:
            first, *_ = self._bucket.uploads
            await asyncio.sleep(0.01 if request.query["uploadId"] == first else 0.3)
        return await super().send(request)


@pytest.fixture
def bucket() -> FakeBucket:
    return FakeBucket(time.time)


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alauda_registry.storage.drivers.s3.client._PAUSES", (0.001, 0.002))


def driver_of(
    bucket: FakeBucket, memory: int = 48 * MIB, transport: FakeTransport | None = None
) -> S3Driver:
    transport = transport or Troubled(bucket)
    client = S3Client(transport, BUCKET, GivenKeys(Keys("key", "secret")))
    return S3Driver(client, S3Options(memory=memory))


def repository_of(bucket: FakeBucket) -> Repository:
    return Registry(driver_of(bucket)).repository(NAME)


def digest_of(content: bytes) -> Digest:
    return Digest(Algorithm.SHA256, hashlib.sha256(content).hexdigest())


async def chunks_of(content: bytes, size: int = BLOCK) -> AsyncGenerator[bytes, None]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


async def content_of(snapshot: Snapshot) -> bytes:
    return b"".join([chunk async for chunk in snapshot.stream()])


async def test_what_is_dropped_is_no_longer_counted(bucket: FakeBucket) -> None:
    # A part that was handed out, and cancelled before it was on its way.
    driver = driver_of(bucket, memory=44 * MIB)
    repository = Registry(driver).repository(NAME)

    for _ in range(5):
        session = await repository.uploads.start()
        with pytest.raises(SizeInvalid):
            await session.append(Piece(chunks_of(bytes(8 * MIB)), 0, 9 * MIB))

    sizes: list[int] = []

    def note(request: Request) -> None:
        if "partNumber" in request.query:
            sizes.append(sum(map(len, request.body)))

    bucket.on_effect = note
    # While memory is short, it would be cut at 5 MiB.
    writer = await driver.create("/after")
    for _ in range(9):
        await writer.write([bytes(MIB)])
    await writer.commit()
    await writer.abort()
    assert sorted(sizes) == [MIB, 8 * MIB]


async def test_a_piece_that_is_refused_after_a_renewal_is_dropped(
    bucket: FakeBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appending, "RENEWAL_SECONDS", 0.05)
    repository = repository_of(bucket)
    session = await repository.uploads.start()

    async def slow() -> AsyncGenerator[bytes, None]:
        async for chunk in chunks_of(bytes(12 * MIB)):
            yield chunk
        await asyncio.sleep(0.3)

    with pytest.raises(SizeInvalid):
        await session.append(Piece(slow(), 0, 20 * MIB))

    assert (await repository.uploads.resume(session.id)).size == 0


async def test_nothing_is_missing_in_what_a_cancelled_request_leaves(
    bucket: FakeBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"".join(bytes([number]) * BLOCK for number in range(40))
    absorb, hashed = HashProgress.absorb, asyncio.Event()
    loop = asyncio.get_running_loop()

    def slowly(progress: HashProgress, blocks: list[bytes]) -> None:
        if progress.offset > MIB:
            loop.call_soon_threadsafe(hashed.set)
            time.sleep(0.1)
        absorb(progress, blocks)

    monkeypatch.setattr(HashProgress, "absorb", slowly)
    repository = repository_of(bucket)
    session = await repository.uploads.start()
    appending_ = asyncio.ensure_future(session.append(Piece(chunks_of(content), 0)))
    await hashed.wait()
    appending_.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await appending_

    snapshot = await driver_of(bucket).snapshot(_data_of(session.id))
    assert snapshot.size > 0
    assert await content_of(snapshot) == content[: snapshot.size]


def _data_of(upload_id: str) -> str:
    return f"/docker/registry/v2/repositories/{NAME}/_uploads/{upload_id}/data"


async def test_the_same_closing_request_twice_at_once_succeeds_twice(bucket: FakeBucket) -> None:
    content = bytes(20 * MIB)
    first, second = repository_of(bucket), repository_of(bucket)
    session = await first.uploads.start()
    await session.append(Piece(chunks_of(content), 0))
    sessions = [await some.uploads.resume(session.id) for some in (first, second)]

    async with asyncio.TaskGroup() as group:
        for one in sessions:
            nothing = Piece(chunks_of(b""), len(content), 0)
            group.create_task(one.commit(digest_of(content), nothing))

    assert await second.blobs.stat(digest_of(content)) == len(content)
    assert not bucket.uploads


async def test_a_claim_that_is_refused_in_the_end_keeps_nothing_from_being_saved(
    bucket: FakeBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appending, "RENEWAL_SECONDS", 0.01)
    writer = await driver_of(bucket).append("/file", create=True, wait=0)
    await writer.write([bytes(3 * MIB)])
    answers, is_over = [503, 503, 503, 503, 403], asyncio.Event()

    def refuse(request: Request) -> None:
        if request.method == "PUT" and "if-match" in request.headers and answers:
            status = answers.pop(0)
            if not answers:
                is_over.set()
            raise Refused(status, "SlowDown" if status == 503 else "AccessDenied")

    bucket.on_request = refuse
    await is_over.wait()
    # For what follows the last refusal.
    await asyncio.sleep(0.05)
    await writer.close()

    assert (await driver_of(bucket).stat("/file")).size == 3 * MIB


async def test_who_may_not_list_multipart_uploads_still_expires_sessions(
    bucket: FakeBucket, caplog: pytest.LogCaptureFixture
) -> None:
    registry = Registry(driver_of(bucket))
    session = await registry.repository(NAME).uploads.start()
    bucket.put(f"docker/registry/v2/repositories/{NAME}/_uploads/0 stray/x", b"")

    def refuse(request: Request) -> None:
        if request.method == "GET" and "uploads" in request.query:
            raise Refused(403, "AccessDenied")

    bucket.on_request = refuse
    await registry.expire_uploads()
    # As if it were old.
    dropped = await registry.repository(NAME).uploads.expire(timedelta(seconds=-5))

    assert "multipart uploads are not expired" in caplog.text
    assert dropped == 1
    assert not [key for key in bucket.objects if session.id in key]


async def test_a_renewal_that_fails_keeps_nothing_from_being_saved(
    bucket: FakeBucket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(appending, "RENEWAL_SECONDS", 0.01)
    writer = await driver_of(bucket).append("/file", create=True, wait=0)
    await writer.write([bytes(3 * MIB)])

    failed = asyncio.Event()

    def fail(_: Request) -> None:
        failed.set()
        raise RuntimeError("unforeseen")

    bucket.on_request = fail
    await asyncio.wait_for(failed.wait(), 30)
    bucket.on_request = lambda _: None
    await writer.close()

    assert "a claim was not renewed" in caplog.text
    assert (await driver_of(bucket).stat("/file")).size == 3 * MIB


async def test_what_was_taken_without_an_answer_is_given_up(bucket: FakeBucket) -> None:
    transport = Troubled(bucket)
    driver = driver_of(bucket, transport=transport)
    transport.lost = 5
    with pytest.raises(DriverError):
        await driver.append("/file", create=True, wait=0)
    transport.lost = 5
    with pytest.raises(DriverError):
        async with driver.lock("some", exclusive=True, wait=0):
            pass

    writer = await driver.append("/file", create=False, wait=0)
    await writer.close()
    async with driver.lock("some", exclusive=True, wait=0):
        pass


async def test_pieces_are_kept_of_what_was_saved_and_refused_at_once(bucket: FakeBucket) -> None:
    transport = Troubled(bucket)
    driver = driver_of(bucket, transport=transport)
    writer = await driver.append("/file", create=True, wait=0)
    content = bytes(6 * MIB)
    await writer.write([content])
    transport.doubles = True
    with pytest.raises(Busy):
        await writer.sync()
    await writer.close()

    snapshot = await driver_of(bucket).snapshot("/file")
    assert await content_of(snapshot) == content


async def test_no_pieces_are_left_of_what_was_deleted_meanwhile(bucket: FakeBucket) -> None:
    driver = driver_of(bucket)
    writer = await driver.append("/file", create=True, wait=0)
    await writer.write([bytes(3 * MIB)])
    await driver.delete("/file")
    await writer.write([bytes(12 * MIB)])
    await writer.close()

    assert not bucket.objects


@pytest.mark.parametrize("ends", ["goes on", "breaks off"])
async def test_a_writer_knows_its_own_renewals_again_that_nobody_told_it_of(
    bucket: FakeBucket, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    monkeypatch.setattr(appending, "RENEWAL_SECONDS", 0.05)
    transport = Troubled(bucket)
    repository = Registry(driver_of(bucket, transport=transport)).repository(NAME)
    session = await repository.uploads.start()
    content = bytes(range(256)) * 4096 * 18

    async def body() -> AsyncGenerator[bytes, None]:
        async for chunk in chunks_of(content[: 9 * MIB]):
            yield chunk
        transport.lost = 10_000
        await asyncio.sleep(0.3)
        if ends == "breaks off":
            transport.lost = 0
            raise ConnectionResetError
        transport.lost = 0
        await asyncio.sleep(0.3)
        async for chunk in chunks_of(content[9 * MIB :]):
            yield chunk

    if ends == "breaks off":
        with pytest.raises(ConnectionResetError):
            await session.append(Piece(body(), 0, len(content)))
    else:
        await session.append(Piece(body(), 0, len(content)))

    session = await repository.uploads.resume(session.id)
    assert session.size == (9 * MIB if ends == "breaks off" else len(content))
    # At once, as nothing is claimed any more.
    await session.commit(
        digest_of(content), Piece(chunks_of(content[session.size :]), session.size)
    )
    assert await repository.blobs.stat(digest_of(content)) == len(content)
    assert not [key for key in bucket.objects if session.id in key]


async def test_a_claim_that_can_not_be_renewed_ends_with_its_writer(
    bucket: FakeBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appending, "RENEWAL_SECONDS", 0.05)
    transport = Troubled(bucket)
    driver = driver_of(bucket, transport=transport)
    writer = await driver.append("/file", create=True, wait=0)
    await writer.write([bytes(6 * MIB)])
    transport.doubles = True
    await asyncio.sleep(0.2)
    transport.doubles = False
    with contextlib.suppress(Busy):
        await writer.close()

    await (await driver.append("/file", create=False, wait=0)).close()


async def test_a_renewal_that_waited_for_a_sync_claims_nothing(
    bucket: FakeBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = driver_of(bucket)
    monkeypatch.setattr(appending, "RENEWAL_SECONDS", 0.01)
    writer = await driver.append("/file", create=True, wait=0)
    await writer.write([b"content"])
    syncing = Held(bucket)
    driver.client.transport = syncing
    sync = asyncio.ensure_future(writer.sync(b"a note"))
    await syncing.came.wait()
    # Time for one to come, and to wait for its turn.
    await asyncio.sleep(0.1)
    syncing.go_on.set()
    await sync
    await asyncio.sleep(0.1)

    snapshot = await driver.snapshot("/file")
    assert snapshot.note == b"a note"
    await writer.close()


class Held(FakeTransport):
    """A server that holds what is to be written, until it is told."""

    def __init__(self, bucket: FakeBucket) -> None:
        super().__init__(bucket)
        self.came, self.go_on = asyncio.Event(), asyncio.Event()

    @override
    async def send(self, request: Request) -> Answer:
        if request.method == "PUT" and b64encode(b"a note") in b"".join(request.body):
            self.came.set()
            await self.go_on.wait()
        return await super().send(request)


async def test_what_another_writer_took_over_stays_his(
    bucket: FakeBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = await driver_of(bucket).append("/file", create=True, wait=0)
    await writer.write([bytes(6 * MIB)])
    monkeypatch.setattr(files, "CLAIM_SECONDS", -5.0)
    heir = await driver_of(bucket).append("/file", create=False, wait=0)
    monkeypatch.undo()
    with pytest.raises(Busy):
        await writer.sync()
    await writer.close()

    with pytest.raises(Busy):
        await driver_of(bucket).append("/file", create=False, wait=0)
    await heir.write([b"content"])
    await heir.sync()
    await heir.close()
    assert await driver_of(bucket).read("/file") == b"content"


async def test_what_another_writer_has_synced_since_is_not_written_over(
    bucket: FakeBucket,
) -> None:
    first = await driver_of(bucket).append("/file", create=True, wait=0)
    await first.write([b"first"])
    await first.sync()
    second = await driver_of(bucket).append("/file", create=False, wait=0)
    await second.write([b" and second"])
    await second.sync()
    await second.close()

    # Nothing was written since, and neither of them is writing any more.
    with pytest.raises(Busy):
        await first.sync()
    await first.close()

    assert await driver_of(bucket).read("/file") == b"first and second"


class Interrupted(FakeTransport):
    """A server with one of whose requests something happens.

    Attributes:
        at: The number of the request.
        client: Who may go with it.
    """

    at = 0
    client: "asyncio.Future[Any] | None" = None
    _is_dead = False

    def __init__(self, bucket: FakeBucket, what: str) -> None:
        super().__init__(bucket)
        self._what = what

    @override
    async def send(self, request: Request) -> Answer:
        self.at -= 1
        what = self._what if self.at == 0 else ""
        await self._happen(what, "before")
        answer = await super().send(request)
        await self._happen(what, "behind")
        return answer

    async def _happen(self, what: str, when: str) -> None:
        if what == f"goes {when}" and self.client is not None:
            self.client.cancel()
        self._is_dead |= what == f"dies {when}"
        if self._is_dead or what == f"breaks {when}":
            raise ConnectionResetError
        await asyncio.sleep(0)


@pytest.mark.parametrize("what", ["goes before", "goes behind"])
async def test_no_multipart_upload_is_left_by_whom_goes_while_a_session_ends(
    bucket: FakeBucket, what: str
) -> None:
    content = bytes(range(256)) * 4096 * 11
    repository = repository_of(bucket)
    for number in itertools.count(1):
        session = await repository.uploads.start()
        await session.append(Piece(chunks_of(content), 0))
        transport = Interrupted(bucket, what)
        other = Registry(driver_of(bucket, transport=transport)).repository(NAME)
        resumed = await other.uploads.resume(session.id)
        nothing = Piece(chunks_of(b""), len(content), 0)
        ending = asyncio.ensure_future(resumed.commit(digest_of(content), nothing))
        transport.at, transport.client = number, ending
        await asyncio.wait([ending])

        assert not bucket.uploads, f"by who goes at request {number}"
        if not ending.cancelled():
            break
        # A second one finds the session as it was, or the blob in its place.
        with contextlib.suppress(BlobUploadUnknown):
            await session.commit(digest_of(content), Piece(chunks_of(b""), len(content), 0))
        assert await repository.blobs.stat(digest_of(content)) == len(content)
        await repository.blobs.delete(digest_of(content))
        bucket.objects.clear()
    assert number > 6


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it has not come to that")


async def test_an_upload_that_still_gets_parts_is_not_swept_however_long_ago_it_began() -> None:
    ages = [timedelta(days=2)]
    bucket = FakeBucket(lambda: time.time() - ages[-1].total_seconds())
    repository, sweeper = repository_of(bucket), Registry(driver_of(bucket))
    content = bytes(30 * MIB)

    async def body() -> AsyncGenerator[bytes, None]:
        async for chunk in chunks_of(content[: 10 * MIB]):
            yield chunk
        await until(lambda: any(upload.parts for upload in bucket.uploads.values()))
        ages.append(timedelta())
        async for chunk in chunks_of(content[10 * MIB : 20 * MIB]):
            yield chunk
        await until(lambda: any(len(upload.parts) > 1 for upload in bucket.uploads.values()))
        await sweeper.expire_uploads()
        async for chunk in chunks_of(content[20 * MIB :]):
            yield chunk

    session = await repository.uploads.start()
    await session.commit(digest_of(content), Piece(body(), 0, len(content)))
    assert await repository.blobs.stat(digest_of(content)) == len(content)

    ages.append(timedelta(days=2))
    writer = await driver_of(bucket).create("/docker/registry/v2/some")
    await writer.write([content])
    await until(lambda: any(upload.parts for upload in bucket.uploads.values()))
    await sweeper.expire_uploads()
    assert not bucket.uploads
    await writer.abort()


@pytest.mark.parametrize("way", ["POST", "PUT", "closing PUT"])
async def test_a_push_whose_multipart_upload_is_ended_by_others_can_be_made_again(
    bucket: FakeBucket, way: str
) -> None:
    repository = repository_of(bucket)
    content = bytes(20 * MIB)
    digest = digest_of(content)
    session = await repository.uploads.start()
    if way == "closing PUT":
        await session.append(Piece(chunks_of(content), 0))

    async def push() -> None:
        if way == "POST":
            await repository.uploads.take(digest, Piece(chunks_of(content)))
        elif way == "PUT":
            await session.commit(digest, Piece(chunks_of(content), 0))
        else:
            await session.commit(digest, Piece(chunks_of(b""), len(content), 0))

    def end(request: Request) -> None:
        if "partNumber" in request.query:
            bucket.uploads.clear()

    bucket.on_effect = end
    with pytest.raises(Ended) as caught:
        await push()
    # Which is a 503.
    assert isinstance(caught.value, Unreachable)

    bucket.on_effect = lambda _: None
    await push()
    assert await repository.blobs.stat(digest) == len(content)
    assert not bucket.uploads


async def test_any_part_of_a_file_in_pieces_is_read(bucket: FakeBucket) -> None:
    content = random.Random(0).randbytes(12 * MIB)
    driver = driver_of(bucket)
    for start in (0, 6 * MIB):
        writer = await driver.append("/file", create=True, wait=0)
        await writer.write([content[start : start + 6 * MIB]])
        await writer.sync()
        await writer.close()
    reader = await driver.open("/file")

    ends = (0, 1, 5 * MIB, 6 * MIB - 1, 6 * MIB, 6 * MIB + 1, 12 * MIB - 1, 12 * MIB)
    for offset, end in itertools.product(ends, (*ends, 13 * MIB)):
        if offset <= end:
            part = [chunk async for chunk in reader.stream(offset, end - offset)]
            assert b"".join(part) == content[offset:end]
    reader.close()


class Copying(FakeTransport):
    """A server whose answers have bytes of their own, as those of a real one."""

    @override
    async def send(self, request: Request) -> Answer:
        answer = await super().send(request)
        return Answer(answer.status, answer.headers, bytes(memoryview(answer.body)))

    @override
    async def open(self, request: Request) -> OpenAnswer:
        # Whose bytes come one after another.
        return await FakeTransport(self._bucket).open(request)


async def test_sessions_that_are_hashed_again_at_once_take_little_memory(
    bucket: FakeBucket,
) -> None:
    content = bytes(10 * MIB)
    first, second = repository_of(bucket), repository_of(bucket)
    sessions = []
    for _ in range(16):
        session = await first.uploads.start()
        await session.append(Piece(chunks_of(content[: 8 * MIB]), 0))
        # By a worker that has not seen what came before.
        session = await second.uploads.resume(session.id)
        await session.append(Piece(chunks_of(content[8 * MIB :]), 8 * MIB))
        third = Registry(driver_of(bucket, transport=Copying(bucket))).repository(NAME)
        sessions.append(await third.uploads.resume(session.id))
    wrong = digest_of(b"other")

    tracemalloc.start()
    try:
        nothing = (Piece(chunks_of(b""), len(content), 0) for _ in sessions)
        results = await asyncio.gather(
            *(one.commit(wrong, piece) for one, piece in zip(sessions, nothing, strict=True)),
            return_exceptions=True,
        )
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    # All of them were read.
    assert {type(result) for result in results} == {DigestInvalid}
    assert most < 16 * 2.5 * MIB


@pytest.mark.parametrize("sizes", [(9, 7), (17,), (5, 5, 5, 5)], ids=str)
async def test_a_session_is_hashed_again_by_one_request_for_each_piece(
    bucket: FakeBucket, sizes: tuple[int, ...]
) -> None:
    content = random.Random(0).randbytes(sum(sizes) * MIB)
    start = 0
    session = await repository_of(bucket).uploads.start()
    for size in sizes:
        # By a worker that has not seen what came before.
        session = await repository_of(bucket).uploads.resume(session.id)
        some = content[start : start + size * MIB]
        start = await session.append(Piece(chunks_of(some), start))
    pieces = [key for key in bucket.objects if "data~" in key]
    session = await repository_of(bucket).uploads.resume(session.id)
    seen: list[Request] = []
    bucket.on_request = seen.append

    # In another way than it was hashed when it came.
    digest = Digest.of(content, Algorithm.SHA512)
    await session.commit(digest, Piece(chunks_of(b""), len(content), 0))

    read = [request.key for request in seen if request.method == "GET" and "data~" in request.key]
    assert sorted(read) == sorted(pieces)
    assert await repository_of(bucket).blobs.stat(digest) == len(content)


def files_of(bucket: FakeBucket) -> set[str]:
    """Return what is in the folders of uploads, but for pieces."""
    paths = (key.partition("/_uploads/")[2] for key in bucket.objects)
    return {path.partition("/")[2] for path in paths if "~" not in path} - {""}


async def test_distribution_can_expire_a_session_that_is_left(bucket: FakeBucket) -> None:
    repository = repository_of(bucket)
    content = bytes(7 * MIB)
    session = await repository.uploads.start()
    assert files_of(bucket) == {"data"}

    await session.append(Piece(chunks_of(content), 0))

    assert files_of(bucket) == {"data", "startedat"}
    (stamp,) = [stored for key, stored in bucket.objects.items() if key.endswith("/startedat")]
    began = datetime.strptime(stamp.content.decode(), "%Y-%m-%dT%H:%M:%S%z")
    assert 0 <= (datetime.now(UTC) - began).total_seconds() < 60

    # Only once, and not for longer than the session.
    session = await repository.uploads.resume(session.id)
    await session.append(Piece(chunks_of(content), len(content)))
    assert stamp in bucket.objects.values()
    await session.commit(digest_of(2 * content), Piece(chunks_of(b""), None, 0))
    assert not files_of(bucket)


async def test_a_session_is_deleted_by_one_request(bucket: FakeBucket) -> None:
    repository = repository_of(bucket)
    content = bytes(7 * MIB)
    session = await repository.uploads.start()
    for start in (0, len(content)):
        await session.append(Piece(chunks_of(content), start))
    assert len([key for key in bucket.objects if "/_uploads/" in key]) > 3
    seen: list[Request] = []
    bucket.on_request = seen.append

    await session.commit(digest_of(2 * content), Piece(chunks_of(b""), None, 0))

    (deletion,) = [one for one in seen if one.method == "DELETE" or "delete" in one.query]
    assert deletion.method == "POST"
    assert not [key for key in bucket.objects if "/_uploads/" in key]


async def test_distribution_can_expire_what_a_client_left(bucket: FakeBucket) -> None:
    session = await repository_of(bucket).uploads.start()

    async def breaking_off() -> AsyncGenerator[bytes, None]:
        async for chunk in chunks_of(bytes(MIB)):
            yield chunk
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await session.append(Piece(breaking_off(), 0))

    assert files_of(bucket) == {"data", "startedat"}


async def test_a_whole_blob_needs_no_stamp(bucket: FakeBucket) -> None:
    seen: list[str] = []
    bucket.on_effect = lambda request: seen.append(request.key)
    session = await repository_of(bucket).uploads.start()
    await session.commit(digest_of(b"content"), Piece(chunks_of(b"content"), 0, 7))

    assert not [key for key in seen if key.endswith("/startedat")]
    assert not files_of(bucket)


@pytest.fixture
def few_pieces(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let parts be of 16 KiB and more, and 12 of them be many."""
    monkeypatch.setattr(appending, "MANY_PIECES", 12)
    monkeypatch.setattr(appending, "MERGED_BYTES", 10 * SMALLEST_PART)
    with small_parts():
        yield


def pieces_of(bucket: FakeBucket, upload_id: str) -> list[tuple[str, int]]:
    (stored,) = (stored for key, stored in bucket.objects.items() if key == _data_of(upload_id)[1:])
    return [(name, size) for name, size in json.loads(stored.content)["pieces"]]


@pytest.mark.usefixtures("few_pieces")
async def test_small_pieces_become_large_ones_before_they_are_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parts, "MAXIMUM", 20)
    bucket = FakeBucket(time.time, smallest_part=SMALLEST_PART)
    uploads = [Registry(driver_over(FakeTransport(bucket))).repository(NAME).uploads] * 2
    content = random.Random(0).randbytes(80 * SMALLEST_PART)
    session = await uploads[0].start()

    for number in range(80):
        session = await uploads[number % 2].resume(session.id)
        start = number * SMALLEST_PART
        some = content[start : start + SMALLEST_PART]
        assert await session.append(Piece(chunks_of(some), start)) == start + len(some)
        assert len([key for key in bucket.objects if "data~" in key]) <= 20

    await session.commit(digest_of(content))
    assert content in {stored.content for stored in bucket.objects.values()}
    assert not [key for key in bucket.objects if session.id in key]
    assert not bucket.uploads


@pytest.mark.usefixtures("few_pieces")
@pytest.mark.parametrize(
    "what",
    ["goes before", "goes behind", "breaks before", "breaks behind", "dies before", "dies behind"],
)
async def test_nothing_is_lost_whatever_happens_while_pieces_become_one(
    monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    content = random.Random(0).randbytes(15 * SMALLEST_PART)
    known = 13 * SMALLEST_PART
    is_over = False
    for number in itertools.count(1):
        bucket = FakeBucket(time.time, smallest_part=SMALLEST_PART)
        store = Registry(driver_over(FakeTransport(bucket))).repository(NAME).uploads
        session = await store.start()
        for start in range(0, known, SMALLEST_PART):
            session = await store.resume(session.id)
            with monkeypatch.context() as patch:
                patch.setattr(appending, "MANY_PIECES", 100)
                await session.append(
                    Piece(chunks_of(content[start : start + SMALLEST_PART]), start)
                )
        assert len(pieces_of(bucket, session.id)) == 13

        transport = Interrupted(bucket, what)
        other = await Registry(driver_over(transport)).repository(NAME).uploads.resume(session.id)
        rest = Piece(chunks_of(content[known : known + 1000]), known)
        writing = asyncio.ensure_future(other.append(rest))
        transport.at, transport.client = number, writing
        await asyncio.wait([writing])
        is_over = transport.at > 0
        if not what.startswith("dies"):
            # One whose beginning nobody heard of has no parts.
            left = [one for one in bucket.uploads.values() if one.parts or what != "breaks behind"]
            assert not left
        if not what.startswith("dies") and what != "goes behind":
            # Otherwise the small ones may be left, until sessions are expired.
            names = {key.rpartition("~")[2] for key in bucket.objects if "data~" in key}
            assert names == {name[1:] for name, _ in pieces_of(bucket, session.id)}
        if not writing.cancelled() and writing.exception() is None:
            assert len(pieces_of(bucket, session.id)) == 5

        with monkeypatch.context() as patch:
            patch.setattr(files, "CLAIM_SECONDS", -5.0)
            session = await store.resume(session.id)
            assert session.size in (known, known + 1000)
            await session.append(Piece(chunks_of(content[session.size :]), session.size))
            await session.commit(digest_of(content))
        assert content in {stored.content for stored in bucket.objects.values()}
        if is_over:
            break
    assert number > 16
