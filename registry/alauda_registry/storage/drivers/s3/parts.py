"""Bytes that arrive in small chunks and leave in large parts, several at a time.

S3 wants parts of 5 MiB at least, and each is kept in memory until the server has it, as its
answer may say that it has to be sent again. So memory is what has to be shared out: a process
has a budget for all its uploads. An upload with nothing on its way may always fill one smallest
part, or it could never go on; beyond that it waits until there is room.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from alauda_registry.storage.driver import OutOfSpace
from alauda_registry.storage.drivers.s3.errors import NAME
from alauda_registry.storage.threads import begin_blocking

MIB = 1024 * 1024
SMALLEST = 5 * MIB
"""All parts but the last are at least this large."""

LARGEST = 64 * MIB
MAXIMUM = 10_000
"""How many parts an object may have."""

_TOO_LARGE = "the upload has more parts than S3 takes: raise storage.s3.chunksize, then push again"
_SMALLEST_UNTIL = 1000
_INLINE_BYTES = 64 * 1024
"""Up to this size hashing takes no longer than finding a thread for it."""


def part_size(number: int, base: int, *, even: int) -> int:
    """Return how large a part is to be, so that large uploads do not run out of parts.

    Args:
        number: Which, from 1 on.
        base: The size of the first ones.
        even: How many the first ones are, up to 256.
    """
    doublings = (number > even) + (number > 256) + (number > 1024)
    return min(max(base << doublings, base), max(LARGEST, base))


def short_size(number: int) -> int:
    """Return how large a part is to be while memory is short: some 300 GiB in all.

    Args:
        number: Which, from 1 on.
    """
    beyond = max(0, number - _SMALLEST_UNTIL)
    return SMALLEST + (LARGEST - SMALLEST) * beyond // (MAXIMUM - _SMALLEST_UNTIL)


class Budget:
    """How much memory all uploads of a process together may use for parts.

    Args:
        size: In bytes.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._used = 0
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def is_short(self) -> bool:
        """Whether there is no room for anything but what is necessary."""
        return self._used >= self._size

    def take(self, length: int) -> None:
        """Count bytes that are kept."""
        self._used += length

    def give_back(self, length: int) -> None:
        """Count bytes that are gone, and let those go on who wait for room."""
        self._used -= length
        if self._used < self._size:
            for waiting in self._waiting:
                if not waiting.done():
                    waiting.set_result(None)

    async def room(self) -> None:
        """Wait until there is room."""
        while self.is_short:
            waiting = asyncio.get_running_loop().create_future()
            self._waiting.append(waiting)
            try:
                await waiting
            finally:
                self._waiting.remove(waiting)


class Sink(Protocol):
    """Takes parts in any order."""

    async def put(self, number: int, body: Sequence[bytes], sha256: str) -> None:
        """Keep a part: its number, from 1 on, its bytes and their digest."""
        ...


class PartStream:
    """Cuts a stream into parts and hands them to a sink while more arrives.

    Args:
        sink: Takes the parts.
        budget: The memory they may use.
        base: The size of the first parts.
        even: How many parts of that size there are before they grow.
        at_once: How many may be on their way.
        first: The number of the first part.
    """

    def __init__(
        self, sink: Sink, budget: Budget, *, base: int, even: int, at_once: int, first: int = 1
    ) -> None:
        self._sink = sink
        self._budget = budget
        self._base = max(base, SMALLEST)
        self._even = even
        self._at_once = at_once
        self._chunks: list[bytes] = []
        self._buffered = 0
        self._first = first
        self._number = first - 1
        self._under_way: set[asyncio.Task[None]] = set()
        self._failed: BaseException | None = None

    @property
    def count(self) -> int:
        """How many parts were handed out."""
        return self._number - self._first + 1

    async def write(self, chunks: Sequence[bytes]) -> None:
        """Take in chunks.

        Raises:
            DriverError: A part before could not be kept.
            OutOfSpace: There are as many parts as there may be.
        """
        self._require_sound()
        length = sum(map(len, chunks))
        self._chunks += chunks
        self._buffered += length
        self._budget.take(length)
        if self._buffered >= self._wanted():
            await self._hand_out()
        while self._under_way and self._budget.is_short:
            await self._wait_for_room()

    async def take_rest(self) -> list[bytes]:
        """Wait for all parts, and return what was too little for one.

        It counts as kept here until :meth:`drop`.

        Raises:
            DriverError: A part could not be kept.
        """
        await self._settle()
        self._require_sound()
        rest, self._chunks = self._chunks, []
        return rest

    async def finish(self) -> None:
        """Hand out the rest as the last part, and wait for all.

        Raises:
            DriverError: A part could not be kept.
        """
        if self._buffered:
            await self._hand_out()
        await self._settle()
        self._require_sound()

    async def drop(self) -> None:
        """Stop, and forget what is here. Returns when nothing is on its way any more."""
        for task in self._under_way:
            task.cancel()
        await self._settle()
        self._budget.give_back(self._buffered)
        self._chunks, self._buffered = [], 0

    def _wanted(self) -> int:
        """Return at which size the part in the making is to be cut."""
        wanted = part_size(self._number + 1, self._base, even=self._even)
        return min(wanted, short_size(self._number + 1)) if self._budget.is_short else wanted

    async def _hand_out(self) -> None:
        if self._number >= MAXIMUM:
            raise OutOfSpace(driver=NAME, path="/", advice=_TOO_LARGE)
        while len(self._under_way) >= self._at_once:
            await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
        self._require_sound()
        self._number += 1
        body, self._chunks = self._chunks, []
        length, self._buffered = self._buffered, 0
        task = asyncio.ensure_future(self._put(self._number, body))
        self._under_way.add(task)
        # Also of one that is cancelled before it begins.
        task.add_done_callback(lambda _: self._budget.give_back(length))
        task.add_done_callback(self._under_way.discard)

    async def _put(self, number: int, body: list[bytes]) -> None:
        try:
            sha256 = await hash_body(body)
            await self._sink.put(number, body, sha256)
        except BaseException as error:  # noqa: BLE001 -- it is raised where the next one waits
            if self._failed is None:
                self._failed = error

    async def _wait_for_room(self) -> None:
        """Wait until there is room, or one of our own parts has gone."""
        room = asyncio.ensure_future(self._budget.room())
        try:
            await asyncio.wait({room, *self._under_way}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            room.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await room
        self._require_sound()

    async def _settle(self) -> None:
        while self._under_way:
            await asyncio.wait(self._under_way)

    def _require_sound(self) -> None:
        if self._failed is not None:
            raise self._failed


async def hash_body(body: Sequence[bytes]) -> str:
    """Return the SHA-256 of a body in hex."""
    if sum(map(len, body)) <= _INLINE_BYTES:
        return _sha256(body)
    return await begin_blocking(None, _sha256, body)


def begin_alongside(
    alongside: Callable[[Sequence[bytes]], None] | None, chunks: Sequence[bytes]
) -> Awaitable[None]:
    """Call what is to be called with the chunks, in a thread when they are large, from now on."""
    if alongside is None:
        return _nothing()
    if sum(map(len, chunks)) > _INLINE_BYTES:
        return begin_blocking(None, alongside, chunks)
    alongside(chunks)
    return _nothing()


async def _nothing() -> None:
    return


def _sha256(body: Sequence[bytes]) -> str:
    hasher = hashlib.sha256()
    for piece in body:
        hasher.update(piece)
    return hasher.hexdigest()
