"""What a server sends on one socket reaches a client on another, exactly, and nothing is left."""

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvloop
from typing_extensions import override

from alauda_registry.server.sendfile import FileSender
from alauda_registry.storage.driver import Inflow
from tests.unit.server.test_sendfile import Sending

pytestmark = pytest.mark.anyio

CONTENT = random.Random(5).randbytes(3 * 2**20 + 17)


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    factory = uvloop.new_event_loop if request.param == "uvloop" else None
    return "asyncio", {"loop_factory": factory}


def descriptors() -> list[str]:
    """Return what is open, but for what an event loop keeps for itself."""
    folder = Path("/proc/self/fd")
    found = [str(path.readlink()) for path in folder.iterdir() if path.is_symlink()]
    return sorted(name for name in found if name.startswith(("pipe:", "socket:")))


class Relaying(Sending):
    """A protocol that tells its sender when the client is gone."""

    sender: FileSender | None = None

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if self.sender is not None:
            self.sender.connection_lost()


@dataclass
class Ends:
    """A sender between a server and a client."""

    sender: FileSender
    transport: asyncio.Transport
    source: socket.socket
    server: socket.socket
    client: socket.socket

    def inflow(self, count: int = len(CONTENT), silence: float = 10) -> Inflow:
        return Inflow(self.source.fileno(), count, silence)

    async def receive(self, count: int, pause: float = 0) -> bytes:
        received = bytearray()
        while len(received) < count:
            data = await asyncio.get_running_loop().sock_recv(self.client, 2**16)
            if not data:
                break
            received += data
            await asyncio.sleep(pause)
        return bytes(received)


@asynccontextmanager
async def ends() -> AsyncIterator[Ends]:
    loop = asyncio.get_running_loop()
    before = descriptors()
    server, source = socket.socketpair()
    ours, client = socket.socketpair()
    for one in (server, source, ours, client):
        one.setblocking(False)
    transport, protocol = await loop.create_connection(Relaying, sock=ours)
    protocol.sender = FileSender(loop, transport, protocol)
    with server, source, client:
        yield Ends(protocol.sender, transport, source, server, client)
        transport.close()
        # The transport closes its socket on a later turn.
        await asyncio.sleep(0.05)
    assert descriptors() == before


@pytest.mark.parametrize("pause", [0, 0.002], ids=["fast", "slow"])
async def test_all_bytes_arrive_behind_what_was_written(pause: float) -> None:
    async with ends() as pair:
        loop = asyncio.get_running_loop()
        pair.transport.write(b"head" * 2**18)
        feeding = asyncio.ensure_future(loop.sock_sendall(pair.server, CONTENT + b"next"))
        inflow = pair.inflow()
        relaying = asyncio.ensure_future(pair.sender.relay(inflow))
        received = await pair.receive(2**20 + len(CONTENT), pause)
        await relaying
        await feeding
        assert received == b"head" * 2**18 + CONTENT
        assert (inflow.taken, inflow.trouble) == (len(CONTENT), None)
        assert pair.sender.sent == len(CONTENT)
        assert not pair.sender.active
        # Not a byte more than was to be taken.
        assert pair.source.recv(100) == b"next"


async def test_what_came_before_the_end_is_passed_on_and_counted() -> None:
    async with ends() as pair:
        await asyncio.get_running_loop().sock_sendall(pair.server, CONTENT[:50_000])
        pair.server.close()
        inflow = pair.inflow()
        await pair.sender.relay(inflow)
        assert await pair.receive(50_000) == CONTENT[:50_000]
        assert (inflow.taken, pair.sender.sent) == (50_000, 50_000)


async def test_silence_ends_it() -> None:
    async with ends() as pair:
        await asyncio.get_running_loop().sock_sendall(pair.server, b"some")
        inflow = pair.inflow(silence=0.1)
        await pair.sender.relay(inflow)
        assert inflow.taken == 4
        assert isinstance(inflow.trouble, TimeoutError)
        assert not pair.sender.active


async def test_only_a_client_that_does_not_read_owes_us_anything() -> None:
    async with ends() as pair:
        relaying = asyncio.ensure_future(pair.sender.relay(pair.inflow()))
        await asyncio.sleep(0.05)
        assert not pair.sender.active
        feeding = asyncio.ensure_future(
            asyncio.get_running_loop().sock_sendall(pair.server, CONTENT)
        )
        await asyncio.sleep(0.05)
        assert pair.sender.active
        stuck = pair.sender.sent
        await asyncio.sleep(0.05)
        assert pair.sender.sent == stuck < len(CONTENT)
        assert await pair.receive(len(CONTENT)) == CONTENT
        await relaying
        await feeding


@pytest.mark.parametrize("count", [0, len(CONTENT)], ids=["waits for server", "waits for client"])
async def test_client_that_goes_ends_it_at_once(count: int) -> None:
    async with ends() as pair:
        feeding = asyncio.ensure_future(
            asyncio.get_running_loop().sock_sendall(pair.server, CONTENT[:count])
        )
        relaying = asyncio.ensure_future(pair.sender.relay(pair.inflow()))
        await asyncio.sleep(0.05)
        pair.client.close()
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(relaying, 2)
        assert not pair.sender.active
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)


@pytest.mark.parametrize("count", [0, len(CONTENT)], ids=["waits for server", "waits for client"])
async def test_cancelled_it_ends_at_once(count: int) -> None:
    async with ends() as pair:
        feeding = asyncio.ensure_future(
            asyncio.get_running_loop().sock_sendall(pair.server, CONTENT[:count])
        )
        relaying = asyncio.ensure_future(pair.sender.relay(pair.inflow()))
        await asyncio.sleep(0.05)
        relaying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await relaying
        assert not pair.sender.active
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)
