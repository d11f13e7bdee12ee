"""Reads objects: small ones once for all who ask together, large ones as they come."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TypeVar

from typing_extensions import override

from alauda_registry.storage.driver import FileReader, Inflow
from alauda_registry.storage.drivers.s3.client import TROUBLE, Conflict, ObjectInfo, S3Client
from alauda_registry.storage.drivers.s3.errors import NAME, Truncated, failure
from alauda_registry.storage.drivers.s3.files import Composition, Piece
from alauda_registry.storage.drivers.s3.transport import OpenAnswer

T = TypeVar("T", bound=bytes | Inflow)

_RESUMPTIONS = 3
"""How often a body that was cut off without a byte in between is asked for again."""


class SharedReads:
    """Lets those who want the same file at the same time share a request for it.

    Who asks while a request is under way must not get its answer, which may be older than the
    question. So all who come meanwhile share the next one.

    Args:
        fetch: Reads a file.
    """

    def __init__(self, fetch: Callable[[str], Awaitable[bytes]]) -> None:
        self._fetch = fetch
        self._under_way: dict[str, asyncio.Task[bytes]] = {}
        self._next: dict[str, asyncio.Task[bytes]] = {}

    async def read(self, path: str) -> bytes:
        """Return the content of a file."""
        flight = self._next.get(path)
        if flight is None:
            before = self._under_way.get(path)
            flight = asyncio.ensure_future(self._fly(path, before))
            (self._under_way if before is None else self._next)[path] = flight
            # Everybody who wanted it may have gone.
            flight.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(flight)

    async def _fly(self, path: str, before: asyncio.Task[bytes] | None) -> bytes:
        if before is not None:
            await asyncio.wait([before])
            self._under_way[path] = self._next.pop(path)
        try:
            return await self._fetch(path)
        finally:
            if path not in self._next:
                del self._under_way[path]


class ObjectReader(FileReader):
    """An object that is being read.

    Args:
        client: The bucket.
        path: The file.
        info: What the answer said of it.
        answer: Its content, under way.
    """

    def __init__(self, client: S3Client, path: str, info: ObjectInfo, answer: OpenAnswer) -> None:
        self._client = client
        self._path = path
        self._info = info
        self._first: OpenAnswer | None = answer
        self._open: set[OpenAnswer] = {answer}
        self._has_socket = answer.has_socket

    @property
    @override
    def size(self) -> int:
        return self._info.size

    @override
    def fileno(self) -> int | None:
        return None

    @override
    async def stream(
        self, offset: int = 0, length: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        end = self.size if length is None else min(self.size, offset + length)
        async with aclosing(self._parts(offset, end, _chunks)) as chunks:
            async for chunk in chunks:
                yield chunk

    @override
    def inflow(self, offset: int, length: int) -> AsyncGenerator[bytes | Inflow, None] | None:
        if not self._has_socket:
            return None
        return self._parts(offset, min(self.size, offset + length), _sockets)

    async def _parts(
        self, offset: int, end: int, read: Callable[[OpenAnswer], AsyncGenerator[T, None]]
    ) -> AsyncGenerator[T, None]:
        """Yield a part of the object as ``read`` reads it, going on where an answer breaks off."""
        answer = self._first if (offset, end) == (0, self.size) else None
        if answer is not None:
            self._first = None
        failures = 0
        while offset < end:
            try:
                if answer is None:
                    answer = await self._ask(offset, end - offset)
                async with aclosing(read(answer)) as parts:
                    async for part in parts:
                        yield part
                        came = part.taken if isinstance(part, Inflow) else len(part)
                        failures = 0 if came else failures
                        offset += came
                        if isinstance(part, Inflow) and part.trouble is not None:
                            raise part.trouble
                if offset < end:
                    raise Truncated("the body ends early", driver=NAME, path=self._path)
            except (*TROUBLE, Truncated) as error:
                failures += 1
                if failures > _RESUMPTIONS:
                    raise failure(error, self._path) from error
            finally:
                if answer is not None:
                    self._open.discard(answer)
                    answer.close()
                    answer = None

    @override
    def close(self) -> None:
        self._first = None
        while self._open:
            self._open.pop().close()

    async def _ask(self, offset: int, length: int) -> OpenAnswer:
        if self._first is not None:
            # Another part is wanted than the whole that is on its way.
            self._open.discard(self._first)
            self._first.close()
            self._first = None
        try:
            info, answer = await self._client.open(self._path, offset, length, self._info.etag)
        except Conflict as conflict:
            raise Truncated("replaced meanwhile", driver=NAME, path=self._path) from conflict
        self._open.add(answer)
        if answer.status != 206:
            raise Truncated("a part was asked for", driver=NAME, path=self._path)
        if info.size != self.size:
            raise Truncated("of another size now", driver=NAME, path=self._path)
        return answer


def _chunks(answer: OpenAnswer) -> AsyncGenerator[bytes, None]:
    return answer.chunks()


async def _sockets(answer: OpenAnswer) -> AsyncGenerator[bytes | Inflow, None]:
    """Yield the body of an answer, as a socket if possible."""
    found = answer.inflow()
    if found is None:
        async with aclosing(answer.chunks()) as chunks:
            async for chunk in chunks:
                yield chunk
        return
    came, inflow = found
    if came:
        yield came
    if inflow.count:
        yield inflow


class PiecesReader(FileReader):
    """A file in pieces that is being read, each of them by one request.

    Args:
        client: The bucket.
        path: The file.
        composition: What it is made of.
    """

    def __init__(self, client: S3Client, path: str, composition: Composition) -> None:
        self._client = client
        self._path = path
        self._composition = composition

    @property
    @override
    def size(self) -> int:
        return self._composition.size

    @override
    def fileno(self) -> int | None:
        return None

    @override
    async def stream(
        self, offset: int = 0, length: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        end = self.size if length is None else min(self.size, offset + length)
        for piece in self._composition.pieces:
            span = min(end, piece.size) - offset
            if span > 0:
                async with aclosing(self._part(piece, offset, span)) as chunks:
                    async for chunk in chunks:
                        yield chunk
            offset, end = max(0, offset - piece.size), end - piece.size

    @override
    def close(self) -> None:
        return

    async def _part(self, piece: Piece, offset: int, length: int) -> AsyncGenerator[bytes, None]:
        path = self._path + piece.name
        # As a part of it, since what stands before a server may leave out the size of the whole.
        info, answer = await self._client.open(path, 0, piece.size)
        reader = ObjectReader(self._client, path, info, answer)
        try:
            if info.size != piece.size:
                raise Truncated("a piece has another size", driver=NAME, path=path)
            async with aclosing(reader.stream(offset, length)) as chunks:
                async for chunk in chunks:
                    yield chunk
        finally:
            reader.close()
