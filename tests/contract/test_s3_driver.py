"""What a bucket has to do beyond the contract of all drivers, with answers lost and bodies cut."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from datetime import timedelta

import httpx
import pytest
from typing_extensions import override

from alauda_registry.storage.driver import Busy, DriverError, PathNotFound, Unreachable, Write
from alauda_registry.storage.drivers.s3 import appending, files, locks
from alauda_registry.storage.drivers.s3.credentials import GivenKeys
from alauda_registry.storage.drivers.s3.driver import S3Driver, S3Options
from alauda_registry.storage.drivers.s3.opening import BucketAddress, Opening, open_s3
from alauda_registry.storage.drivers.s3.parts import MIB
from alauda_registry.storage.drivers.s3.signing import Keys
from alauda_registry.storage.drivers.s3.transport import Answer, OpenAnswer, Request, Transport
from tests.contract.conftest import assert_no_parts_are_left
from tests.parts import s3

pytestmark = pytest.mark.anyio

ROOT = "some/where"
PATH = "/docker/registry/v2/blobs/sha256/ab/abc/data"
BIG = bytes(range(256)) * 4096 * 11
"""Eleven megabytes: two parts and a bit."""


class MeddledTransport(Transport):
    """Counts requests, and lets tests lose answers and cut bodies."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.requests: list[Request] = []
        self.lose: Callable[[Request], bool] = lambda request: False
        self.cut_after: int | None = None
        self.ignore: Callable[[Request], bool] = lambda request: False
        self.instead = Answer(204, {}, b"")
        self.meet: Callable[[Request], Awaitable[None]] | None = None

    @override
    async def send(self, request: Request) -> Answer:
        self.requests.append(request)
        if self.meet is not None:
            await self.meet(request)
        if self.ignore(request):
            self.ignore = lambda request: False
            return self.instead
        answer = await self.transport.send(request)
        if self.lose(request):
            self.lose = lambda request: False
            raise ConnectionResetError("the answer is lost")
        return answer

    @override
    async def open(self, request: Request) -> OpenAnswer:
        self.requests.append(request)
        opened = await self.transport.open(request)
        if self.cut_after is not None:
            length, self.cut_after = self.cut_after, None
            return _CutAnswer(opened, length)
        return opened

    @override
    async def presign(self, request: Request, seconds: int) -> str:
        return await self.transport.presign(request, seconds)

    @override
    async def aclose(self) -> None:
        await self.transport.aclose()


class _CutAnswer(OpenAnswer):
    def __init__(self, answer: OpenAnswer, length: int) -> None:
        self._answer = answer
        self._length = length

    @property
    @override
    def status(self) -> int:
        return self._answer.status

    @property
    @override
    def headers(self) -> Mapping[str, str]:
        return self._answer.headers

    @override
    async def read(self) -> bytes:
        return await self._answer.read()

    @override
    async def chunks(self) -> AsyncGenerator[bytes, None]:
        async with aclosing(self._answer.chunks()) as chunks:
            async for chunk in chunks:
                yield chunk[: self._length]
                self._length -= len(chunk)
                if self._length <= 0:
                    raise ConnectionResetError("cut off")

    @override
    def close(self) -> None:
        self._answer.close()


@pytest.fixture
def bucket(s3_server: s3.S3Server) -> s3.Bucket:
    return s3_server.create_bucket()


@pytest.fixture
async def driver(bucket: s3.Bucket) -> AsyncIterator[S3Driver]:
    address = BucketAddress(bucket.name, s3.REGION, bucket.server.endpoint, root=ROOT)
    options = S3Options(part_size=5 * MIB)
    credentials = GivenKeys(Keys(s3.ACCESS_KEY, s3.SECRET_KEY))
    driver = open_s3(Opening(address, options=options), credentials)
    driver.client.transport = MeddledTransport(driver.client.transport)
    yield driver
    await driver.aclose()
    assert_no_parts_are_left(bucket)
    bucket.remove()


@pytest.fixture
def transport(driver: S3Driver) -> MeddledTransport:
    assert isinstance(driver.client.transport, MeddledTransport)
    return driver.client.transport


async def test_keys_are_those_of_distribution(driver: S3Driver, bucket: s3.Bucket) -> None:
    await driver.publish(Write(PATH, b"content"))

    assert bucket.keys() == [f"{ROOT}{PATH}"]


async def test_nothing_beside_the_root_is_seen(driver: S3Driver, bucket: s3.Bucket) -> None:
    bucket.write("some/other/a", b"x")
    bucket.write("somewhere/a", b"x")
    await driver.publish(Write("/a", b"x"))

    infos, more = await driver.page("/a")
    assert (infos, more) == ([], False)
    with pytest.raises(PathNotFound):
        await driver.names("/other")


@pytest.mark.parametrize("size", [0, 1, 5 * MIB, len(BIG)])
async def test_an_object_shows_when_it_is_committed(
    driver: S3Driver, bucket: s3.Bucket, size: int
) -> None:
    writer = await driver.create(PATH)
    await writer.write([BIG[: size // 2], BIG[size // 2 : size]])
    assert bucket.keys() == []

    await writer.commit()
    await writer.abort()

    assert bucket.read(f"{ROOT}{PATH}") == BIG[:size]


@pytest.mark.parametrize("size", [1, len(BIG)])
async def test_an_object_that_is_aborted_leaves_nothing(
    driver: S3Driver, bucket: s3.Bucket, size: int
) -> None:
    writer = await driver.create(PATH)
    await writer.write([BIG[:size]])
    await asyncio.sleep(0.1)

    await writer.abort()

    assert (bucket.keys(), bucket.uploads()) == ([], [])


async def test_an_object_leaves_nothing_when_its_writer_is_cancelled(
    driver: S3Driver, bucket: s3.Bucket
) -> None:
    async def write() -> None:
        writer = await driver.create(PATH)
        try:
            while True:
                await writer.write([bytes(MIB)])
        finally:
            await writer.abort()

    writing = asyncio.ensure_future(write())
    for _ in range(200):
        await asyncio.sleep(0.01)
        if bucket.uploads():
            break
    writing.cancel()
    with suppress(asyncio.CancelledError):
        await writing

    assert (bucket.keys(), bucket.uploads()) == ([], [])


async def test_an_upload_that_a_late_part_brings_back_is_aborted_again(
    driver: S3Driver, transport: MeddledTransport, bucket: s3.Bucket
) -> None:
    """As a server has it that was keeping a part when the upload was aborted."""
    writer = await driver.create(PATH)
    await writer.write([BIG])
    for _ in range(200):
        await asyncio.sleep(0.01)
        if bucket.uploads():
            break
    transport.ignore = lambda request: request.method == "DELETE"

    await writer.abort()

    assert bucket.uploads() == []


async def test_a_commit_whose_answer_is_lost_was_one(
    driver: S3Driver, transport: MeddledTransport, bucket: s3.Bucket
) -> None:
    writer = await driver.create(PATH)
    await writer.write([BIG])
    transport.lose = lambda request: request.method == "POST" and "uploads" not in request.query

    await writer.commit()

    assert bucket.read(f"{ROOT}{PATH}") == BIG


async def test_a_claim_whose_answer_is_lost_is_ours(
    driver: S3Driver, transport: MeddledTransport
) -> None:
    await driver.publish(Write("/a", b""))
    transport.lose = lambda request: "if-match" in request.headers

    writer = await driver.append("/a", create=False, wait=0)
    await writer.write([b"content"])
    await writer.sync()
    await writer.close()

    assert await driver.read("/a") == b"content"


@pytest.mark.parametrize(
    "trouble",
    [asyncio.CancelledError(), Unreachable("no answer", driver="s3", path="/a")],
    ids=["cancelled", "unreachable"],
)
async def test_what_a_save_tells_of_stays_when_nobody_hears_that_it_was_made(
    driver: S3Driver, transport: MeddledTransport, trouble: BaseException
) -> None:
    writer = await driver.append("/a", create=True, wait=0)
    await writer.write([b"acknowledged"])
    await writer.sync()
    await writer.write([b" and more"])

    async def fail_behind(request: Request) -> None:
        if "if-match" in request.headers and b'"writer": ""' in request.body[0]:
            transport.meet = None
            await transport.transport.send(request)
            raise trouble

    transport.meet = fail_behind
    with pytest.raises(type(trouble)):
        await writer.sync()
    with suppress(DriverError):
        await writer.close()

    assert await driver.read("/a") == b"acknowledged and more"


async def test_a_lock_whose_answer_is_lost_is_held(
    driver: S3Driver, transport: MeddledTransport
) -> None:
    transport.lose = lambda request: request.method == "PUT"

    async with driver.lock("name", exclusive=True, wait=0):
        with pytest.raises(Busy):
            async with driver.lock("name", exclusive=True, wait=0):
                pass


@pytest.mark.parametrize("what", ["lock", "file"])
async def test_who_goes_while_claiming_keeps_nobody_waiting(
    driver: S3Driver, transport: MeddledTransport, what: str
) -> None:
    async def claim() -> None:
        if what == "lock":
            async with driver.lock("name", exclusive=True, wait=0):
                pass
        else:
            await (await driver.append("/a", create=True, wait=0)).close()

    async def go_behind(request: Request) -> None:
        if request.method == "PUT":
            transport.meet = None
            await transport.transport.send(request)
            raise asyncio.CancelledError

    transport.meet = go_behind
    with pytest.raises(asyncio.CancelledError):
        await claim()

    await claim()


async def test_who_died_writing_is_succeeded_and_what_was_synced_is_kept(
    driver: S3Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = await driver.append("/a", create=True, wait=0)
    await dead.write([b"synced"])
    await dead.sync()
    await dead.write([b"lost"])
    with pytest.raises(Busy):
        await driver.append("/a", create=False, wait=0)

    monkeypatch.setattr(files, "CLAIM_SECONDS", -5.0)
    heir = await driver.append("/a", create=False, wait=0)
    monkeypatch.undo()
    await heir.write([b" and more"])
    await heir.sync()
    await heir.close()
    with pytest.raises(Busy):
        await dead.sync()
    await dead.close()

    assert await driver.read("/a") == b"synced and more"


async def test_a_writer_that_lives_renews_its_claim(
    driver: S3Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appending, "RENEWAL_SECONDS", 0.1)
    writer = await driver.append("/a", create=True, wait=0)
    before = (await driver.client.head("/a")).etag

    async with asyncio.timeout(30):
        while (await driver.client.head("/a")).etag == before:  # noqa: ASYNC110 -- no event tells
            await asyncio.sleep(0.05)
    await writer.close()


async def test_many_small_pieces_become_one(
    driver: S3Driver, bucket: s3.Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appending, "MANY_PIECES", 11)
    monkeypatch.setattr(appending, "MERGED_BYTES", 48 * MIB)
    content = b"".join(bytes([number]) * (5 * MIB) for number in range(12)) + b"end"
    for start in range(0, len(content), 5 * MIB):
        writer = await driver.append("/a", create=True, wait=0)
        await writer.write([content[start : start + 5 * MIB]])
        await writer.sync()
        await writer.close()

    # Ten in one, and three more beside what tells of them.
    assert len(bucket.keys()) == 1 + 4
    snapshot = await driver.snapshot("/a")
    await snapshot.copy("/b")
    assert bucket.read(f"{ROOT}/b") == content


async def test_a_token_differs_when_a_lock_was_held_in_between(driver: S3Driver) -> None:
    seen = [await driver.settled("name", wait=0)]
    for exclusive in (True, True):
        async with driver.lock("name", exclusive=exclusive, wait=0):
            with pytest.raises(Busy):
                await driver.settled("name", wait=0)
        seen.append(await driver.settled("name", wait=0))

    assert len(set(seen)) == len(seen)
    assert await driver.settled("name", wait=0) == seen[-1]


async def test_what_is_done_under_a_lock_stops_when_it_can_not_be_renewed(
    driver: S3Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "SAFE_SECONDS", 0.2)

    with pytest.raises(DriverError, match="renewed"):
        async with driver.lock("name", exclusive=True, wait=0):
            await asyncio.sleep(30)


async def test_only_what_is_old_and_ours_is_dropped(driver: S3Driver, bucket: s3.Bucket) -> None:
    ours = bucket.start_upload(f"{ROOT}/docker/registry/v2/blobs/x")
    other = bucket.start_upload("some/where-else/docker/registry/v2/blobs/x")

    too_young = await driver.drop_unfinished("/docker/registry/v2", timedelta(hours=24))
    dropped = await driver.drop_unfinished("/docker/registry/v2", timedelta(hours=-1))

    assert (too_young, dropped) == (0, 1)
    assert bucket.uploads() == [other]
    assert ours != other
    bucket.abort(other)


async def test_what_still_gets_parts_is_not_dropped(driver: S3Driver, bucket: s3.Bucket) -> None:
    upload = bucket.start_upload(f"{ROOT}/docker/registry/v2/blobs/x")
    await asyncio.sleep(3)
    bucket.put_part(upload, 1, b"part")

    dropped = [await driver.drop_unfinished("/docker/registry/v2", timedelta(seconds=2))]
    await asyncio.sleep(4)
    dropped.append(await driver.drop_unfinished("/docker/registry/v2", timedelta(seconds=2)))

    assert dropped == [0, 1]
    assert bucket.uploads() == []


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_url_is_good_for_its_method_and_needs_no_key(driver: S3Driver, method: str) -> None:
    await driver.publish(Write(PATH, b"content"))
    url = await driver.url(PATH, method)

    async with httpx.AsyncClient() as client:
        answer = await client.request(method, url)
        refused = await client.request("PUT", url, content=b"other")

    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.content == (b"content" if method == "GET" else b"")
    assert refused.status_code == 403


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_a_404_that_is_not_of_the_server_says_nothing_of_the_object(
    driver: S3Driver, transport: MeddledTransport, method: str
) -> None:
    """As a load balancer answers that finds no server behind it."""
    await driver.publish(Write("/a", b"content"))
    transport.ignore = lambda request: request.method == method
    transport.instead = Answer(404, {}, b"<html>default backend - 404</html>")

    asking: dict[str, Callable[[], Awaitable[object]]] = {
        "GET": lambda: driver.read("/a"),
        "PUT": lambda: driver.write_new("/a", b"other"),
        "DELETE": lambda: driver.discard("/a"),
    }
    with pytest.raises(Unreachable):
        await asking[method]()

    assert await driver.read("/a") == b"content"


async def test_a_body_that_is_cut_off_is_gone_on_with(
    driver: S3Driver, transport: MeddledTransport
) -> None:
    await driver.publish(Write(PATH, BIG))
    transport.cut_after = 1_000_000

    reader = await driver.open(PATH)
    content = b"".join([chunk async for chunk in reader.stream()])
    reader.close()

    assert content == BIG
    assert [request.headers.get("range") for request in transport.requests[-2:]] == [
        None,
        f"bytes=1000000-{len(BIG) - 1}",
    ]


async def test_those_who_read_the_same_at_once_share_requests(
    driver: S3Driver, transport: MeddledTransport
) -> None:
    await driver.publish(Write("/a", b"content"))
    transport.requests.clear()

    contents = await asyncio.gather(*(driver.read("/a") for _ in range(50)))

    assert set(contents) == {b"content"}
    assert len(transport.requests) == 2


async def test_nobody_reads_what_was_there_before_he_asked(driver: S3Driver) -> None:
    await driver.publish(Write("/a", b"0"))
    stop = asyncio.Event()

    async def read_on() -> None:
        while not stop.is_set():
            await driver.read("/a")

    readers = [asyncio.ensure_future(read_on()) for _ in range(8)]
    for turn in range(1, 30):
        await driver.publish(Write("/a", str(turn).encode()))
        assert await driver.read("/a") == str(turn).encode()
    stop.set()
    await asyncio.gather(*readers)


async def test_reading_the_same_is_shared_in_failing_too(driver: S3Driver) -> None:
    results = await asyncio.gather(
        *(driver.read("/absent") for _ in range(5)), return_exceptions=True
    )

    assert {type(result) for result in results} == {PathNotFound}
