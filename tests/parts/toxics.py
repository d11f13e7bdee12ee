"""What may befall a request to an S3 server and its answer, for the proxy to do to them."""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from typing_extensions import override

from conformance.s3proxy.proxy import Exchange, Toxic

_ETAG = re.compile(rb"(\r\netag: *)[^\r]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Latency(Toxic):
    """The request waits before it is passed on."""

    seconds: float

    @override
    async def act(self, exchange: Exchange) -> None:
        await asyncio.sleep(self.seconds)
        await exchange.forward()


@dataclass(frozen=True, slots=True)
class Bandwidth(Toxic):
    """Bytes trickle in both directions."""

    bytes_per_second: float

    @override
    async def act(self, exchange: Exchange) -> None:
        await exchange.forward(rate=self.bytes_per_second)


@dataclass(frozen=True, slots=True)
class CutRequest(Toxic):
    """The connection breaks after so many bytes of the request's body."""

    after: int = 0

    @override
    async def act(self, exchange: Exchange) -> None:
        await exchange.send_request(limit=self.after)
        exchange.reset()


@dataclass(frozen=True, slots=True)
class CutAnswer(Toxic):
    """The answer ends after so many bytes of its body, with a reset or as if that were all."""

    after: int = 0
    resets: bool = False

    @override
    async def act(self, exchange: Exchange) -> None:
        await exchange.send_request()
        await exchange.send_answer(limit=self.after)
        if self.resets:
            exchange.reset()
        exchange.hang_up()


@dataclass(frozen=True, slots=True)
class Reset(Toxic):
    """The connection is reset before the server hears of the request."""

    @override
    async def act(self, exchange: Exchange) -> None:
        exchange.reset()


@dataclass(frozen=True, slots=True)
class Silence(Toxic):
    """Nobody answers, and the server hears nothing."""

    seconds: float = 3600

    @override
    async def act(self, exchange: Exchange) -> None:
        await exchange.read_request()
        await asyncio.sleep(self.seconds)
        exchange.reset()


@dataclass(frozen=True, slots=True)
class Lost(Toxic):
    """The request takes effect, and the connection breaks before its answer."""

    @override
    async def act(self, exchange: Exchange) -> None:
        await exchange.send_request()
        await exchange.drop_answer()
        exchange.reset()


@dataclass(frozen=True, slots=True)
class Refusal(Toxic):
    """An error of S3 in place of the answer.

    Attributes:
        status: HTTP's, which for CompleteMultipartUpload and copies may well be 200.
        code: S3's, such as ``SlowDown``.
        message: For people.
        headers: More of them.
        after_effect: Whether the server does what it is asked all the same.
    """

    status: int
    code: str
    message: str = "as the test wants it"
    headers: Mapping[str, str] = field(default_factory=dict)
    after_effect: bool = False

    @override
    async def act(self, exchange: Exchange) -> None:
        if self.after_effect:
            await exchange.send_request()
            await exchange.drop_answer()
        else:
            await exchange.read_request()
        body = (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f"<Error><Code>{self.code}</Code><Message>{self.message}</Message>"
            f"<Resource>/{exchange.request.bucket}/{exchange.request.key}</Resource>"
            "<RequestId>4442587FB7D0A2F9</RequestId></Error>"
        ).encode()
        headers = {"Content-Type": "application/xml", "Content-Length": len(body), **self.headers}
        lines = [f"HTTP/1.1 {self.status} Spoiled", *(f"{k}: {v}" for k, v in headers.items())]
        head = "\r\n".join([*lines, "", ""]).encode()
        await exchange.answer(head + (b"" if exchange.request.method == "HEAD" else body))


@dataclass(frozen=True, slots=True)
class KeyRefusal(Toxic):
    """Of the keys that DeleteObjects names one is refused, in an answer that is a success.

    Attributes:
        code: S3's, such as ``AccessDenied``.
    """

    code: str

    @override
    async def act(self, exchange: Exchange) -> None:
        await exchange.read_request()
        body = (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            '<DeleteResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Error><Key>a</Key><Code>{self.code}</Code><Message>as the test wants it</Message>"
            "</Error></DeleteResult>"
        ).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        await exchange.answer(head + body)


@dataclass(frozen=True, slots=True)
class GarbledBody(Toxic):
    """The body of the answer has its length, and other bytes."""

    @override
    async def act(self, exchange: Exchange) -> None:
        await exchange.send_request()
        await exchange.send_answer(change=lambda chunk: bytes(255 - byte for byte in chunk))


@dataclass(frozen=True, slots=True)
class GarbledHead(Toxic):
    """What comes in place of the answer is not HTTP. The request takes effect."""

    @override
    async def act(self, exchange: Exchange) -> None:
        await exchange.send_request()
        await exchange.drop_answer()
        await exchange.say(b"\x00\xff\x13 nothing that anybody understands\r\n\r\n" * 10)
        exchange.hang_up()


@dataclass(frozen=True, slots=True)
class WrongETag(Toxic):
    """The answer names another entity tag than that of the content."""

    @override
    async def act(self, exchange: Exchange) -> None:
        await exchange.send_request()
        wrong = b'\\1"00000000000000000000000000000000"'
        await exchange.send_answer(change_head=lambda head: _ETAG.sub(wrong, head))
