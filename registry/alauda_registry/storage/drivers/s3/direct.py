"""Objects that are written where they stay, and show only when their digest has been checked.

A small one is a single request. A large one is a multipart upload, which the server forgets or
completes as a whole; whatever goes wrong here aborts it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from typing_extensions import override

from alauda_registry.storage.driver import ObjectWriter
from alauda_registry.storage.drivers.s3.client import S3Client
from alauda_registry.storage.drivers.s3.documents import Part
from alauda_registry.storage.drivers.s3.files import drop
from alauda_registry.storage.drivers.s3.parts import (
    Budget,
    PartStream,
    Sink,
    begin_alongside,
    hash_body,
)
from alauda_registry.storage.threads import see_through

EVEN_PARTS = 4
"""They grow early: a server that keeps parts as they came (MinIO) reads few large ones faster."""


class DirectWriter(ObjectWriter, Sink):
    """Writes one object.

    Args:
        client: The bucket.
        path: Where.
        budget: The memory for parts.
        part_size: Of the first parts, in bytes.
        parts_at_once: How many may be on their way.
    """

    def __init__(
        self, client: S3Client, path: str, budget: Budget, *, part_size: int, parts_at_once: int
    ) -> None:
        self._client = client
        self._path = path
        self._stream = PartStream(
            self, budget, base=part_size, even=EVEN_PARTS, at_once=parts_at_once
        )
        self._offset = 0
        self._parts: dict[int, Part] = {}
        self._beginning = asyncio.Lock()
        self._upload_id: str | None = None

    @property
    @override
    def offset(self) -> int:
        return self._offset

    @override
    def write(
        self, chunks: Sequence[bytes], alongside: Callable[[Sequence[bytes]], None] | None = None
    ) -> Coroutine[Any, Any, None]:
        return self._write(chunks, begin_alongside(alongside, chunks))

    async def _write(self, chunks: Sequence[bytes], hashed: Awaitable[None]) -> None:
        await hashed
        self._offset += sum(map(len, chunks))
        await self._stream.write(chunks)

    @override
    async def put(self, number: int, body: Sequence[bytes], sha256: str) -> None:
        """Upload a part."""
        async with self._beginning:
            if self._upload_id is None:
                # Shielded, as an upload whose identifier nobody knows can't be aborted.
                await see_through(self._begin())
        upload_id = self._upload_id
        if upload_id is None:
            raise AssertionError("an upload that has begun has an identifier")
        self._parts[number] = await self._client.put_part(
            self._path, upload_id, number, body, sha256
        )

    @override
    async def commit(self) -> None:
        if self._stream.count == 0:
            body = await self._stream.take_rest()
            await self._client.put(self._path, body, sha256=await hash_body(body))
            return
        await self._stream.finish()
        if self._upload_id is not None:
            parts = [self._parts[number] for number in sorted(self._parts)]
            await self._client.complete_multipart(self._path, self._upload_id, parts, self._offset)
            self._upload_id = None

    @override
    async def abort(self) -> None:
        await see_through(self._abort())

    async def _begin(self) -> None:
        self._upload_id = await self._client.begin_multipart(self._path)

    async def _abort(self) -> None:
        await self._stream.drop()
        upload_id, self._upload_id = self._upload_id, None
        if upload_id is not None:
            await drop(self._client.abort_multipart(self._path, upload_id))
