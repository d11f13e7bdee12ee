"""Settings of a bucket, and a server that only listens to what they make of a request."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from alauda_registry.server.configuration.settings import Settings
from alauda_registry.server.configuration.sources import load_settings
from alauda_registry.server.opening.buckets import open_bucket
from alauda_registry.storage.drivers.s3.driver import S3Driver

ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nETag: x\r\n"
    b"Last-Modified: Tue, 01 Dec 2026 00:00:00 GMT\r\n\r\n-"
)
NO_WAY = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"


def settings_of(**variables: str) -> Settings:
    """Return settings with a bucket, and what else the variables of ``storage.s3`` say.

    One in lower case is of something else, such as ``limits_read_maxrunning``.
    """
    values = {"BUCKET": "images", "ACCESSKEY": "a", "SECRETKEY": "b", **variables}
    names = {
        name: f"REGISTRY_STORAGE_S3_{name}" if name.isupper() else f"REGISTRY_{name.upper()}"
        for name in values
    }
    environ = {names[name]: text for name, text in values.items() if text}
    return load_settings(environ=environ).settings


def opened(**variables: str) -> S3Driver:
    """Open a bucket; nothing is sent."""
    settings = settings_of(**variables)
    assert settings.storage.s3 is not None
    return open_bucket(settings, settings.storage.s3)


@dataclass
class Listener:
    """What was asked of a server.

    Attributes:
        port: Where it listens.
        heads: Of each request, in lines.
        connections: How many there were.
        came: Told of each.
        may_answer: Whether the server does.
    """

    port: int = 0
    heads: list[list[str]] = field(default_factory=list)
    connections: int = 0
    came: asyncio.Condition = field(default_factory=asyncio.Condition)
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def lines(self) -> list[str]:
        """The first line of each request."""
        return [head[0] for head in self.heads]

    def header(self, name: str) -> list[str]:
        """Return the values of a header in all requests."""
        pairs = [line.partition(": ") for head in self.heads for line in head[1:]]
        return [value for found, _, value in pairs if found.lower() == name]

    async def until(self, connections: int) -> None:
        """Wait until there were so many connections."""
        async with self.came:
            await self.came.wait_for(lambda: self.connections >= connections)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Listen to one connection."""
        self.connections += 1
        async with self.came:
            self.came.notify_all()
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := (await reader.readuntil(b"\r\n\r\n")).decode():
                self.heads.append(head.rstrip().split("\r\n"))
                await self.may_answer.wait()
                if head.startswith("CONNECT"):
                    writer.write(NO_WAY)
                    break
                writer.write(ANSWER)
        writer.close()


@contextlib.asynccontextmanager
async def listening(
    tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[Listener]:
    """Run one, which answers at once."""
    listener = Listener()
    listener.may_answer.set()
    server = await asyncio.start_server(listener.serve, host, 0, ssl=tls, backlog=1024)
    listener.port = server.sockets[0].getsockname()[1]
    async with server:
        yield listener
