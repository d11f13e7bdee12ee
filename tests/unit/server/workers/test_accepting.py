"""Sharing a listening socket, with real connections."""

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from typing_extensions import override

from alauda_registry.server.workers.accepting import Acceptor

pytestmark = pytest.mark.anyio


class Greeter(asyncio.Protocol):
    """Says hello and hangs up."""

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        transport.write(b"hello")
        transport.close()


class Exhausted(socket.socket):
    """Has no file descriptor left at first."""

    failures = 1

    @override
    def accept(self) -> tuple[socket.socket, object]:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


@asynccontextmanager
async def accepting(
    sock: socket.socket, loads: list[int], *, is_open: int = 0
) -> AsyncIterator[Acceptor]:
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    acceptor = Acceptor(
        sock, Greeter, None, count_open=lambda: is_open, loads=loads, index=0, pause=0.01
    )
    acceptor.start()
    yield acceptor
    acceptor.stop()
    sock.close()


async def greeting(sock: socket.socket) -> bytes:
    reader, writer = await asyncio.open_connection(*sock.getsockname())
    content = await reader.read()
    writer.close()
    await writer.wait_closed()
    return content


@pytest.mark.parametrize("loads", [[0], [0, 0], [0, 9]])
async def test_connections_are_taken(loads: list[int]) -> None:
    with socket.socket() as sock:
        async with accepting(sock, loads):
            assert await greeting(sock) == b"hello"


async def test_another_worker_that_has_fewer_is_not_waited_for() -> None:
    loads = [0, 3]

    with socket.socket() as sock:
        async with accepting(sock, loads, is_open=7):
            assert [await greeting(sock) for _ in range(3)] == [b"hello"] * 3
            assert loads[0] >= 7


async def test_another_worker_that_has_fewer_gets_the_connection() -> None:
    with socket.socket() as sock:
        async with accepting(sock, [0, 0], is_open=1):
            other = sock.dup()
            taken = asyncio.ensure_future(asyncio.get_running_loop().sock_accept(other))
            with socket.create_connection(sock.getsockname()) as client:
                accepted, _address = await taken

                assert accepted.getpeername() == client.getsockname()
            accepted.close()
            other.close()


async def test_without_descriptors_it_pauses_and_goes_on() -> None:
    with Exhausted() as sock:
        async with accepting(sock, [0]):
            assert await greeting(sock) == b"hello"
            assert sock.failures == 0


async def test_a_stopped_one_takes_no_more() -> None:
    loads: Sequence[int] = [0]
    with socket.socket() as sock:
        async with accepting(sock, list(loads)) as acceptor:
            acceptor.stop()
            asking = asyncio.ensure_future(greeting(sock))
            done, _waiting = await asyncio.wait({asking}, timeout=0.05)
            assert done == set()
            acceptor.start()
            assert await asking == b"hello"
