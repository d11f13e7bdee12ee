"""Stands for a Service and the kube-proxy behind it: sends connections to replicas that are ready.

It knows connections only, as kube-proxy does: one that was made stays with its replica. Readiness
is asked for as the kubelet does, and counts for new connections.
"""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PROBE_SECONDS = 0.2


class Service:
    """A port of its own on the loopback address.

    Args:
        authority: Signed the replicas' certificates.
        probes: Whether to ask replicas if they are ready; without, all are.
    """

    def __init__(self, authority: Path, *, probes: bool = True) -> None:
        self._context = ssl.create_default_context(cafile=authority)
        self._probes = probes
        self._replicas: list[int] = []
        self._ready: set[int] = set()
        self._turn = 0
        self.port = 0

    def set_replicas(self, ports: Sequence[int]) -> None:
        """Say where the replicas are, each a port; they get connections once they are ready."""
        self._replicas = list(ports)
        self._ready &= set(ports)

    async def serve(self, started: threading.Event, ending: asyncio.Event) -> None:
        """Pass connections on until it is over."""
        server = await asyncio.start_server(self._pass_on, "127.0.0.1", self.port)
        self.port = server.sockets[0].getsockname()[1]
        probing = asyncio.ensure_future(self._probe())
        started.set()
        await ending.wait()
        probing.cancel()
        server.close()

    async def _probe(self) -> None:
        while True:
            for port in list(self._replicas):
                is_ready = not self._probes or await self._is_ready(port)
                (self._ready.add if is_ready else self._ready.discard)(port)
            await asyncio.sleep(PROBE_SECONDS)

    async def _is_ready(self, port: int) -> bool:
        try:
            async with asyncio.timeout(2):
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", port, ssl=self._context, server_hostname="localhost"
                )
                with contextlib.closing(writer):
                    writer.write(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                    return b" 200 " in await reader.readline()
        except (OSError, TimeoutError):
            return False

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ready = sorted(self._ready)
        try:
            if not ready:
                # As kube-proxy rejects what nobody is there for.
                return
            self._turn += 1
            port = ready[self._turn % len(ready)]
            there, back = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(_copy(reader, back), _copy(there, writer))
        except OSError:
            pass
        finally:
            writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


@contextmanager
def running(authority: Path, *, probes: bool = True) -> Iterator[Service]:
    """Have one for the length of a ``with`` block."""
    service = Service(authority, probes=probes)
    started = threading.Event()
    loop = asyncio.new_event_loop()
    ending = asyncio.Event()

    def run() -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(service.serve(started, ending))
        finally:
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(asyncio.sleep(0.1))
            loop.close()

    thread = threading.Thread(target=run, name="service")
    thread.start()
    try:
        started.wait(10)
        yield service
    finally:
        loop.call_soon_threadsafe(ending.set)
        thread.join(10)
