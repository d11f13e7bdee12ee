"""What the client makes of answers that no real server gives on demand."""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from typing_extensions import override

from alauda_registry.storage.driver import DriverError, Unreachable
from alauda_registry.storage.drivers.s3 import client as clients, errors, transport as transports
from alauda_registry.storage.drivers.s3.client import S3Client
from alauda_registry.storage.drivers.s3.credentials import GivenKeys
from alauda_registry.storage.drivers.s3.documents import Part
from alauda_registry.storage.drivers.s3.driver import S3Driver
from alauda_registry.storage.drivers.s3.errors import Ended, Truncated
from alauda_registry.storage.drivers.s3.parts import MIB
from alauda_registry.storage.drivers.s3.signing import Keys
from alauda_registry.storage.drivers.s3.transport import Answer, Endpoint, HttpTransport, Request
from tests.parts.fake_bucket import BUCKET, FakeBucket, FakeTransport, Refused

pytestmark = pytest.mark.anyio

KEYS = GivenKeys(Keys("key", "secret"))


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "_PAUSES", (0.001, 0.002))


@pytest.fixture
def bucket() -> FakeBucket:
    return FakeBucket(lambda: 1_700_000_000.0)


class Edited(FakeTransport):
    """A server whose answers pass somebody who changes their headers."""

    def __init__(
        self, bucket: FakeBucket, edit: Callable[[Mapping[str, str]], Mapping[str, str]]
    ) -> None:
        super().__init__(bucket)
        self._edit = edit

    @override
    async def send(self, request: Request) -> Answer:
        answer = await super().send(request)
        return Answer(answer.status, self._edit(answer.headers), answer.body)


def transport_to(server: asyncio.Server) -> HttpTransport:
    port = server.sockets[0].getsockname()[1]
    endpoint = Endpoint(f"http://127.0.0.1:{port}", BUCKET, path_style=True)
    return HttpTransport(
        endpoint, endpoint, "us-east-1", KEYS, tls=None, connections=2, user_agent="tests"
    )


@pytest.mark.parametrize(
    "statuses", [[503, 503, 503, 503, 403], [403, 503, 403], [403, 403]], ids=str
)
async def test_a_refusal_is_told_whenever_it_comes(bucket: FakeBucket, statuses: list[int]) -> None:
    left = list(statuses)

    def refuse(_: Request) -> None:
        status = left.pop(0)
        raise Refused(status, "SlowDown" if status == 503 else "AccessDenied")

    bucket.on_request = refuse
    with pytest.raises(DriverError, match="403 AccessDenied"):
        await S3Client(FakeTransport(bucket), BUCKET, KEYS).get("/a")
    assert left == []


async def test_a_pause_that_is_no_number_is_not_taken(bucket: FakeBucket) -> None:
    def refuse(_: Request) -> None:
        raise Refused(503, "SlowDown")

    bucket.on_request = refuse
    transport = Edited(bucket, lambda headers: {**headers, "retry-after": "\u00b2"})
    with pytest.raises(DriverError, match="SlowDown"):
        await S3Client(transport, BUCKET, KEYS).get("/a")


async def test_an_object_has_its_length_though_the_answer_does_not_say_it(
    bucket: FakeBucket,
) -> None:
    bucket.put("a", b"content")
    transport = Edited(
        bucket, lambda headers: {key: headers[key] for key in headers if key != "content-length"}
    )
    client = S3Client(transport, BUCKET, KEYS)

    info, content = await client.get("/a")
    assert (info.size, content) == (7, b"content")
    with pytest.raises(Truncated):
        await client.head("/a")


async def test_what_was_done_under_a_lock_is_done_though_it_is_not_released(
    bucket: FakeBucket, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_: Request) -> None:
        raise Refused(503, "SlowDown")

    driver = S3Driver(S3Client(FakeTransport(bucket), BUCKET, KEYS))
    async with driver.lock("some", exclusive=True, wait=0):
        bucket.on_request = refuse
    assert "a lock is held until that ends by itself" in caplog.text


async def test_no_request_is_sent_twice_without_our_knowing() -> None:
    """Who asks again has to know that the first one may have had its effect."""
    came: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            came.append(await reader.readuntil(b"\r\n\r\n"))
            if len(came) == 1:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                came.append(await reader.readuntil(b"\r\n\r\n"))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    transport = transport_to(server)
    async with server:
        await transport.send(Request("PUT", "a"))
        # On the connection that was used, which is closed without an answer.
        with pytest.raises(clients.TROUBLE):
            await transport.send(Request("PUT", "b"))
        await transport.aclose()

    assert [head.split()[1] for head in came] == [b"/images/a", b"/images/b"]


async def test_the_newest_part_is_found_on_whichever_page_it_is() -> None:
    moments = iter(range(1_700_000_000, 1_800_000_000))
    bucket = FakeBucket(lambda: next(moments), page_size=2)
    client = S3Client(FakeTransport(bucket), BUCKET, KEYS)
    upload_id = await client.begin_multipart("/a")
    assert await client.newest_part("/a", upload_id) is None

    for number in (5, 2, 4, 1, 3):
        await client.put_part(
            "/a", upload_id, number, [b"part"], hashlib.sha256(b"part").hexdigest()
        )

    (upload,) = bucket.uploads.values()
    newest = await client.newest_part("/a", upload_id)
    assert newest is not None
    assert newest.timestamp() == upload.parts[3][2]
    with pytest.raises(Ended):
        await client.newest_part("/a", "another")


class Completing(FakeTransport):
    """A server that is still at it when it is asked again, as the first answer was lost."""

    def __init__(self, bucket: FakeBucket, *, ends_well: bool) -> None:
        super().__init__(bucket)
        self._ends_well = ends_well
        self.asked = 0

    @override
    async def send(self, request: Request) -> Answer:
        if request.method != "POST" or "uploadId" not in request.query:
            return await super().send(request)
        self.asked += 1
        if self.asked == 1:
            raise TimeoutError
        if self.asked == 3 and self._ends_well:
            await super().send(request)
        return Answer(400, {}, b"<Error><Code>InvalidPart</Code><Message>Gone.</Message></Error>")


@pytest.mark.parametrize("ends_well", [True, False])
async def test_an_upload_that_is_being_completed_is_waited_for(
    bucket: FakeBucket, monkeypatch: pytest.MonkeyPatch, ends_well: bool
) -> None:
    monkeypatch.setattr(clients, "_COMPLETION_PAUSES", (0.0, 0.0, 0.0))
    transport = Completing(bucket, ends_well=ends_well)
    client = S3Client(transport, BUCKET, KEYS)
    upload_id = await client.begin_multipart("/a")
    part = await client.put_part("/a", upload_id, 1, [b"part"], hashlib.sha256(b"part").hexdigest())

    completed = client.complete_multipart("/a", upload_id, [part], 4)

    if ends_well:
        await completed
        assert await client.get("/a") is not None
    else:
        with pytest.raises(Truncated, match="InvalidPart"):
            await completed
    assert transport.asked == (3 if ends_well else 5)


class Circling(FakeTransport):
    """A server that always gives the first page."""

    @override
    async def send(self, request: Request) -> Answer:
        kept = {name: text for name, text in request.query.items() if "marker" not in name}
        return await super().send(replace(request, query=kept))


async def test_a_list_of_parts_that_does_not_go_on_is_not_read_for_ever() -> None:
    bucket = FakeBucket(time.time, page_size=2)
    client = S3Client(Circling(bucket), BUCKET, KEYS)
    upload_id = await client.begin_multipart("/a")
    for number in (1, 2, 3):
        await client.put_part(
            "/a", upload_id, number, [b"part"], hashlib.sha256(b"part").hexdigest()
        )

    with pytest.raises(Truncated, match="does not go on"):
        await client.newest_part("/a", upload_id)


def test_the_patience_with_a_silent_server_has_an_end() -> None:
    assert transports._timeout(0).sock_read == 30
    assert transports._timeout(2**30).sock_read == 30 + 1024
    assert transports._timeout(2**40).sock_read == 3600


class Refusing(FakeTransport):
    """A server that does not delete a key, a few times."""

    def __init__(self, bucket: FakeBucket, code: str, times: int) -> None:
        super().__init__(bucket)
        self._error = f"<Error><Key>a</Key><Code>{code}</Code><Message>So.</Message></Error>"
        self.left = times

    @override
    async def send(self, request: Request) -> Answer:
        if "delete" in request.query and self.left:
            self.left -= 1
            return Answer(200, {}, f"<DeleteResult>{self._error}</DeleteResult>".encode())
        return await super().send(request)


@pytest.mark.parametrize("code", ["SlowDown", "InternalError", "ServiceUnavailable"])
async def test_what_is_not_deleted_for_now_is_deleted_later(bucket: FakeBucket, code: str) -> None:
    bucket.put("a", b"")
    bucket.put("b", b"")
    await S3Client(Refusing(bucket, code, 2), BUCKET, KEYS).delete("/a", "/b")
    assert not bucket.objects

    with pytest.raises(Unreachable, match=code):
        await S3Client(Refusing(bucket, code, 10), BUCKET, KEYS).delete("/a", "/b")


async def test_what_may_not_be_deleted_is_told_at_once(bucket: FakeBucket) -> None:
    transport = Refusing(bucket, "AccessDenied", 10)
    with pytest.raises(errors.Refused, match="/a") as caught:
        await S3Client(transport, BUCKET, KEYS).delete("/a", "/b")

    assert "do not allow it" in (caught.value.advice or "")
    assert transport.left == 9


async def test_what_is_not_there_need_not_be_deleted(bucket: FakeBucket) -> None:
    transport = Refusing(bucket, "NoSuchKey", 10)
    await S3Client(transport, BUCKET, KEYS).delete("/a", "/b")

    assert transport.left == 9


class Slow:
    """A server that takes its time, and says nothing meanwhile."""

    def __init__(self, seconds: float, body: bytes) -> None:
        self._seconds = seconds
        self._answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        self._exchanges: list[asyncio.Task[None]] = []
        self.requests = 0
        self.timers: list[str] = []

    def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._exchanges.append(asyncio.ensure_future(self._answer_late(reader, writer)))

    async def aclose(self) -> None:
        await asyncio.gather(*self._exchanges)

    async def _answer_late(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            self.requests += 1
            try:
                async with asyncio.timeout(self._seconds):
                    await reader.read()
            except TimeoutError:
                self.timers.append(_timer_of(writer.get_extra_info("peername")[1]))
            writer.write(self._answer)
        writer.close()


def _timer_of(port: int) -> str:
    """Return which timer the kernel has running for the connection from a port."""
    for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, _, timer, *_ = line.split()
        # Established, as one that is over may have had the same port.
        if local.endswith(f":{port:04X}") and state == "01":
            return timer.partition(":")[0]
    raise AssertionError("there is no such connection")


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        (
            lambda client: client.complete_multipart("/a", "id", [Part(1, '"x"')], 3 * MIB),
            b"<CompleteMultipartUploadResult/>",
        ),
        (
            lambda client: client.copy("/a", "/b", 3 * MIB),
            b"<CopyObjectResult><ETag>x</ETag></CopyObjectResult>",
        ),
        (
            lambda client: client.copy_part("/a", "/b", "id", 1, size=3 * MIB),
            b"<CopyPartResult><ETag>x</ETag></CopyPartResult>",
        ),
    ],
    ids=["complete", "copy", "copy a part"],
)
async def test_a_server_that_moves_much_is_waited_for(
    operation: Callable[[S3Client], Awaitable[object]],
    body: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transports, "SILENCE_SECONDS", 0.1)
    monkeypatch.setattr(clients, "DEADLINE_SECONDS", 0.2)
    slow = Slow(0.7, body)
    server = await asyncio.start_server(slow.serve, "127.0.0.1", 0)
    transport = transport_to(server)
    async with server:
        await operation(S3Client(transport, BUCKET, KEYS))
        # Another request would have it do all of the work once more.
        assert slow.requests == 1
        with pytest.raises(DriverError):
            await S3Client(transport, BUCKET, KEYS).get("/a")
        await transport.aclose()
        await slow.aclose()

    # The kernel looks whether the server is there meanwhile.
    assert slow.timers == ["02"]
