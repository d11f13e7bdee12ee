"""What a server sends on one socket reaches a client on another, exactly, and nothing is left.

Plain bytes are moved by the kernel, and for a client that speaks TLS they are copied.
"""

import asyncio
import random
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvloop
from typing_extensions import override

from alauda_registry.serving.sendfile import FileSender
from alauda_registry.serving.tls import server_context
from alauda_registry.storage.driver import Inflow
from tests.parts.certificates import Authority, CertificatePair
from tests.unit.serving.test_sendfile import Sending

pytestmark = pytest.mark.anyio

CONTENT = random.Random(5).randbytes(3 * 2**20 + 17)


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    factory = uvloop.new_event_loop if request.param == "uvloop" else None
    return "asyncio", {"loop_factory": factory}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> CertificatePair:
    return Authority().issue(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(params=["plain", "TLS"])
def tls(request: pytest.FixtureRequest, certificate: CertificatePair) -> CertificatePair | None:
    return certificate if request.param == "TLS" else None


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
        self.resume_writing()


@dataclass
class Ends:
    """A sender between a server and a client."""

    sender: FileSender
    transport: asyncio.Transport
    source: socket.socket
    server: socket.socket
    client: "Client"

    def inflow(self, count: int = len(CONTENT), silence: float = 10) -> Inflow:
        return Inflow(self.source.fileno(), count, silence)

    async def receive(self, count: int, pause: float = 0) -> bytes:
        received = bytearray()
        while len(received) < count:
            data = await self.client.read()
            if not data:
                break
            received += data
            await asyncio.sleep(pause)
        return bytes(received)


class Client:
    """The one who reads, and before that does not.

    Args:
        plain: Its socket.
        tls: The certificate that the other end has, over TLS.
    """

    def __init__(self, plain: socket.socket, tls: CertificatePair | None) -> None:
        self._socket = plain
        self._tls: ssl.SSLObject | None = None
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        if tls is not None:
            context = ssl.create_default_context(cafile=tls.authority)
            self._tls = context.wrap_bio(
                self._incoming, self._outgoing, server_hostname="localhost"
            )

    async def shake_hands(self) -> None:
        while self._tls is not None:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._exchange()
            else:
                await self._send()
                return

    async def read(self) -> bytes:
        if self._tls is None:
            return await asyncio.get_running_loop().sock_recv(self._socket, 2**16)
        while True:
            try:
                return self._tls.read(2**16)
            except ssl.SSLWantReadError:
                await self._exchange()

    def close(self) -> None:
        self._socket.close()

    async def _exchange(self) -> None:
        await self._send()
        data = await asyncio.get_running_loop().sock_recv(self._socket, 2**16)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    async def _send(self) -> None:
        await asyncio.get_running_loop().sock_sendall(self._socket, self._outgoing.read())


@asynccontextmanager
async def ends(tls: CertificatePair | None) -> AsyncIterator[Ends]:
    loop = asyncio.get_running_loop()
    before = descriptors()
    server, source = socket.socketpair()
    ours, theirs = socket.socketpair()
    for one in (server, source, ours, theirs):
        one.setblocking(False)
    context = None
    if tls is not None:
        context = server_context(tls.certificate.read_bytes(), tls.key.read_bytes())
    client = Client(theirs, tls)
    shaking = asyncio.ensure_future(client.shake_hands())
    protocol = Relaying()
    # What uvloop returns with it is the protocol of TLS.
    transport, _ = await loop.connect_accepted_socket(lambda: protocol, ours, ssl=context)
    await shaking
    protocol.sender = FileSender(loop, transport, protocol)
    with server, source, theirs:
        yield Ends(protocol.sender, transport, source, server, client)
        transport.abort()
        # The transport closes its socket on a later turn.
        await asyncio.sleep(0.05)
    assert set(descriptors()) <= set(before)


@pytest.mark.parametrize("pause", [0, 0.002], ids=["fast", "slow"])
async def test_all_bytes_arrive_behind_what_was_written(
    tls: CertificatePair | None, pause: float
) -> None:
    async with ends(tls) as pair:
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


async def test_what_came_before_the_end_is_passed_on_and_counted(
    tls: CertificatePair | None,
) -> None:
    async with ends(tls) as pair:
        await asyncio.get_running_loop().sock_sendall(pair.server, CONTENT[:50_000])
        pair.server.close()
        inflow = pair.inflow()
        await pair.sender.relay(inflow)
        assert await pair.receive(50_000) == CONTENT[:50_000]
        assert (inflow.taken, pair.sender.sent) == (50_000, 50_000)


async def test_silence_ends_it(tls: CertificatePair | None) -> None:
    async with ends(tls) as pair:
        await asyncio.get_running_loop().sock_sendall(pair.server, b"some")
        inflow = pair.inflow(silence=0.1)
        await pair.sender.relay(inflow)
        assert inflow.taken == 4
        assert isinstance(inflow.trouble, TimeoutError)
        assert not pair.sender.active


async def test_only_a_client_that_does_not_read_owes_us_anything(
    tls: CertificatePair | None,
) -> None:
    async with ends(tls) as pair:
        relaying = asyncio.ensure_future(pair.sender.relay(pair.inflow()))
        await asyncio.sleep(0.05)
        assert not pair.sender.active
        feeding = asyncio.ensure_future(
            asyncio.get_running_loop().sock_sendall(pair.server, CONTENT)
        )
        stuck = -1
        while not pair.sender.active or pair.sender.sent != stuck:
            stuck = pair.sender.sent
            await asyncio.sleep(0.05)
        assert stuck < len(CONTENT)
        assert await pair.receive(len(CONTENT)) == CONTENT
        await relaying
        await feeding


@pytest.mark.parametrize("count", [0, len(CONTENT)], ids=["waits for server", "waits for client"])
async def test_client_that_goes_ends_it_at_once(tls: CertificatePair | None, count: int) -> None:
    async with ends(tls) as pair:
        feeding = asyncio.ensure_future(
            asyncio.get_running_loop().sock_sendall(pair.server, CONTENT[:count])
        )
        relaying = asyncio.ensure_future(pair.sender.relay(pair.inflow()))
        await asyncio.sleep(0.05)
        pair.client.close()
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(relaying, 8)
        assert not pair.sender.active
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)


@pytest.mark.parametrize("count", [0, len(CONTENT)], ids=["waits for server", "waits for client"])
async def test_cancelled_it_ends_at_once(tls: CertificatePair | None, count: int) -> None:
    async with ends(tls) as pair:
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


class _Keeping(asyncio.Transport):
    """A transport over TLS that can't encrypt yet, and keeps what it was given as it is."""

    def __init__(self) -> None:
        super().__init__({"ssl_object": object()})
        self.kept: list[Any] = []

    @override
    def write(self, data: Any) -> None:
        self.kept.append(data)

    @override
    def get_write_buffer_size(self) -> int:
        return sum(map(len, self.kept))

    @override
    def is_closing(self) -> bool:
        return False


async def test_what_the_transport_keeps_is_not_overwritten() -> None:
    loop = asyncio.get_running_loop()
    transport = _Keeping()
    server, source = socket.socketpair()
    with server, source:
        server.setblocking(False)
        source.setblocking(False)
        feeding = asyncio.ensure_future(loop.sock_sendall(server, CONTENT))
        inflow = Inflow(source.fileno(), len(CONTENT), 10)
        await FileSender(loop, transport, Sending()).relay(inflow)
        await feeding
    assert b"".join(transport.kept) == CONTENT
