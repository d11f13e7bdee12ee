"""What can't be brought about from outside: the moments at which a sender could do harm."""

import asyncio
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from alauda_registry.serving.sendfile import FileSender

pytestmark = pytest.mark.anyio


class GatedExecutor(ThreadPoolExecutor):
    """Starts nothing before the gate is opened."""

    def __init__(self) -> None:
        super().__init__(max_workers=1)
        self.gate = threading.Event()

    @override
    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        def run() -> Any:
            self.gate.wait(10)
            return call(*args, **kwargs)

        return super().submit(run)


class Sending(asyncio.Protocol):
    """A protocol that knows when the transport's buffer is full."""

    def __init__(self) -> None:
        self._may_write = asyncio.Event()
        self._may_write.set()

    @override
    def pause_writing(self) -> None:
        self._may_write.clear()

    @override
    def resume_writing(self) -> None:
        self._may_write.set()

    async def drain(self) -> None:
        await self._may_write.wait()


async def test_file_does_not_overtake_what_the_transport_still_holds(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    transport, protocol = await loop.create_connection(Sending, sock=ours)
    transport.set_write_buffer_limits(4000, 1000)
    path = tmp_path / "file"
    path.write_bytes(b"file")
    with theirs, path.open("rb") as file:
        theirs.setblocking(False)
        transport.write(bytes(2**22))
        held = transport.get_write_buffer_size()
        task = asyncio.create_task(FileSender(loop, transport, protocol).send(file.fileno(), 0, 4))
        # If the file does not wait, it goes into the room that this makes.
        received = [await loop.sock_recv(theirs, 1)]
        while sum(map(len, received)) < 2**22 + 4:
            received.append(await loop.sock_recv(theirs, 2**20))
        await task
        kept = transport.get_write_buffer_limits()
        transport.close()

    assert held > 0
    assert kept == (1000, 4000)
    assert b"".join(received) == bytes(2**22) + b"file"


async def test_cancelled_sender_ends_after_its_thread(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    executor = GatedExecutor()
    loop.set_default_executor(executor)
    ours, theirs = socket.socketpair()
    transport, protocol = await loop.create_connection(Sending, sock=ours)
    sender = FileSender(loop, transport, protocol)
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    with theirs, path.open("rb") as file:
        # What is behind the end is not in the page cache, so this goes through a thread.
        task = asyncio.create_task(sender.send(file.fileno(), 0, 20))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0.05)
        was_done = task.done()
        executor.gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        sent = theirs.recv(100)
        transport.close()

    assert not was_done
    assert sent == b"0123456789"
    assert not sender.active
