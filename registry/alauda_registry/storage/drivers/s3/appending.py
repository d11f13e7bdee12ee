"""Writes to the end of a file, alone among all replicas; see :mod:`.files` for how it is kept."""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import replace
from typing import Any

from typing_extensions import override

from alauda_registry.storage.driver import PIECE_MARK, Busy, DriverError, FileWriter, PathNotFound
from alauda_registry.storage.drivers.s3.client import Conflict, S3Client
from alauda_registry.storage.drivers.s3.errors import NAME
from alauda_registry.storage.drivers.s3.files import (
    Composition,
    Piece,
    compose,
    drop,
    load,
    read_span,
)
from alauda_registry.storage.drivers.s3.parts import (
    MIB,
    SMALLEST,
    Budget,
    PartStream,
    Sink,
    begin_alongside,
)
from alauda_registry.storage.threads import see_through

logger = logging.getLogger(__name__)

RENEWAL_SECONDS = 8.0
EVEN_PIECES = 64
"""They grow late: many small ones are sent while more arrives, and copied at once at the end."""

MANY_PIECES = 1000
MERGED_BYTES = 512 * MIB
"""When a file has many pieces, small ones that come to this become one: each request leaves some of
its own, however little it brings, and S3 makes an object of no more than 10 000."""

_TRIES = 3
"""How often what a file is made of is written down over what proves to be ours as well."""

_POLL_SECONDS = (0.05, 0.5)


async def claim(client: S3Client, path: str, *, create: bool, wait: float) -> Composition:
    """Become the only one who writes to a file, and return what it is made of.

    Args:
        client: The bucket.
        path: The file.
        create: Whether one that is missing is made.
        wait: How many seconds to wait for another writer to finish.

    Raises:
        Busy: Somebody else was still writing after ``wait`` seconds.
        PathNotFound: There is no such file, and ``create`` is false.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait
    pause, longest = _POLL_SECONDS
    while True:
        try:
            found = await load(client, path)
        except PathNotFound:
            if not create:
                raise
            found = Composition(())
        if not found.is_claimed:
            with contextlib.suppress(Conflict):
                return await _take(client, path, found)
        if loop.time() >= deadline:
            raise Busy(driver=NAME, path=path)
        await asyncio.sleep(min(pause, max(0.0, deadline - loop.time())))
        pause = min(pause * 2, longest)


async def _take(client: S3Client, path: str, found: Composition) -> Composition:
    """Put ourselves in as the writer.

    Raises:
        Conflict: It is not as it was found.
    """
    pieces = found.pieces
    if any(not piece.name for piece in pieces):
        # The object at the key makes room for what tells of the pieces.
        name = _piece_name()
        await client.copy(path, path + name, found.size)
        pieces = tuple(replace(piece, name=name) for piece in pieces)
    claimed = replace(found, pieces=pieces, writer=secrets.token_hex(8), is_claimed=True)
    body = claimed.dump()
    try:
        etag = await client.put(path, (body,), pieces_size=claimed.size, instead_of=found.etag)
    except (asyncio.CancelledError, DriverError):
        # It may be ours all the same, and others would wait until that ends by itself.
        await see_through(drop(_give_up(client, path, claimed.writer)))
        raise
    return replace(claimed, etag=etag)


async def _give_up(client: S3Client, path: str, writer: str) -> None:
    """Let others write to a file that is claimed in this name, if it is."""
    with contextlib.suppress(Conflict, PathNotFound):
        found = await load(client, path)
        if found.writer == writer:
            body = replace(found, writer="").dump()
            await client.put(path, (body,), pieces_size=found.size, instead_of=found.etag)


class Appender(FileWriter, Sink):
    """The only writer of a file.

    Args:
        client: The bucket.
        path: The file.
        composition: What it is made of, as :func:`claim` returned it.
        budget: The memory for parts.
        part_size: Of the first pieces, in bytes.
        parts_at_once: How many pieces may be on their way.
    """

    def __init__(
        self,
        client: S3Client,
        path: str,
        composition: Composition,
        budget: Budget,
        *,
        part_size: int,
        parts_at_once: int,
    ) -> None:
        self._client = client
        self._path = path
        self._saved = composition
        self._start = composition.size
        self._budget = budget
        self._part_size = part_size
        self._parts_at_once = parts_at_once
        self._offset = composition.size
        self._stream: PartStream | None = None
        self._before: tuple[Piece, ...] = composition.pieces
        self._after: dict[int, Piece] = {}
        self._made: set[str] = set()
        self._saving = asyncio.Lock()
        self._is_open = True
        self._renewal = asyncio.ensure_future(self._renew())

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
        length = sum(map(len, chunks))
        if length == 0:
            return
        if not self._saved.is_claimed:
            await self._claim_again()
        if self._stream is None:
            self._stream = await self._begin()
        self._offset += length
        await self._stream.write(chunks)

    @override
    async def put(self, number: int, body: Sequence[bytes], sha256: str) -> None:
        """Keep a piece."""
        piece = Piece(_piece_name(), sum(map(len, body)))
        self._made.add(piece.name)
        await self._client.put(self._path + piece.name, body, sha256=sha256)
        self._after[number] = piece

    @override
    async def read(self, offset: int, length: int) -> bytes:
        await self._flush()
        return await read_span(self._client, self._path, self._pieces(), offset, length)

    @override
    async def truncate(self, size: int) -> None:
        async with self._saving:
            if size == self._start == self._saved.size:
                # As if nothing had been written since the claim.
                if self._stream is not None:
                    await self._stream.drop()
                self._before, self._after, self._stream = self._saved.pieces, {}, None
                self._offset = size
                return
        # Which takes its time, and the claim has to be renewed meanwhile.
        await self._flush()
        kept: list[Piece] = []
        for piece in self._pieces():
            left = size - sum(before.size for before in kept)
            if left >= piece.size:
                kept.append(piece)
            elif left > 0:
                content = await read_span(self._client, self._path, [piece], 0, left)
                name = _piece_name()
                self._made.add(name)
                await self._client.put(self._path + name, (content,))
                kept.append(Piece(name, left))
        async with self._saving:
            self._before, self._after, self._stream = tuple(kept), {}, None
            self._offset = min(size, self._offset)

    @override
    async def sync(self, note: bytes = b"") -> None:
        await self._flush()
        await self._save(note, writer="")

    @override
    async def close(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        await see_through(self._end())

    async def _end(self) -> None:
        self._renewal.cancel()
        (trouble,) = await asyncio.gather(self._renewal, return_exceptions=True)
        if isinstance(trouble, Exception):
            logger.error("a claim was not renewed: unforeseen", exc_info=trouble)
        try:
            if self._saved.is_claimed:
                try:
                    await self._flush()
                finally:
                    # What did arrive is kept, and others need not wait for the claim to end. Of a
                    # file that was deleted nothing is kept, as on a disk.
                    with contextlib.suppress(PathNotFound):
                        await self._save(b"", writer="")
        finally:
            if not self._saved.is_claimed and self._saved.writer:
                await drop(_give_up(self._client, self._path, self._saved.writer))
            if self._stream is not None:
                await self._stream.drop()
            left_over = self._made - _names(self._saved.pieces)
            if left_over:
                await drop(self._client.delete(*(self._path + name for name in left_over)))

    async def _begin(self) -> PartStream:
        """Go on behind what is there; a last piece that is too small for a part is begun anew."""
        await self._merge()
        content = b""
        if self._before and self._before[-1].size < SMALLEST:
            last = self._before[-1]
            content = await read_span(self._client, self._path, [last], 0, last.size)
            self._before = self._before[:-1]
        stream = PartStream(
            self,
            self._budget,
            base=self._part_size,
            even=EVEN_PIECES,
            at_once=self._parts_at_once,
            first=len(self._before) + 1,
        )
        if content:
            await stream.write([content])
        return stream

    async def _merge(self) -> None:
        """Make one piece of some small ones, if there are many.

        The file is made of the small ones until the next save, which is when they go.
        """
        pieces = self._before
        first, end = _find_small(pieces)
        if first == end:
            return
        merged = Piece(_piece_name(), sum(piece.size for piece in pieces[first:end]))
        self._made.add(merged.name)
        await compose(
            self._client,
            self._path,
            pieces[first:end],
            self._path + merged.name,
            copies_at_once=self._parts_at_once,
        )
        self._before = (*pieces[:first], merged, *pieces[end:])

    async def _flush(self) -> None:
        """Make pieces of all that is here."""
        if self._stream is None:
            return
        await self._stream.finish()
        self._before, self._after, self._stream = self._pieces(), {}, None

    def _pieces(self) -> tuple[Piece, ...]:
        """Return the pieces without a gap between them."""
        pieces = [*self._before]
        while piece := self._after.get(len(pieces) + 1):
            pieces.append(piece)
        return tuple(pieces)

    async def _save(self, note: bytes, *, writer: str | None) -> None:
        """Write down what the file is made of.

        Args:
            note: What to say beside that.
            writer: Who goes on writing; "" for nobody, and None for who does by then, if anybody.

        Raises:
            Busy: Somebody else has taken the file over.
            PathNotFound: The file is gone.
        """
        async with self._saving:
            if writer is None:
                if not self._saved.is_claimed:
                    return
                writer = self._saved.writer
            for _ in range(_TRIES):
                try:
                    gone = await self._put_down(note, writer)
                except Conflict:
                    await self._catch_up()
                else:
                    break
            else:
                self._saved = replace(self._saved, is_claimed=False)
                self._made -= _names(self._pieces())
                raise Busy(driver=NAME, path=self._path)
        if gone:
            # Who is cancelled here does so in the end.
            self._made |= gone
            await drop(self._client.delete(*(self._path + name for name in gone)))
            self._made -= gone

    async def _put_down(self, note: bytes, writer: str) -> set[str]:
        """Write it down over what we know to be there, and return which pieces that tells not of.

        Raises:
            Conflict: Something else is there.
        """
        pieces = self._pieces()
        is_behind = sum(piece.size for piece in pieces) < self._saved.size
        if is_behind and self._stream is not None:
            # The last piece was begun anew, and is not there yet.
            pieces = self._saved.pieces
        new = replace(self._saved, pieces=pieces, writer=writer, is_claimed=bool(writer), note=note)
        try:
            etag = await self._client.put(
                self._path, (new.dump(),), pieces_size=new.size, instead_of=self._saved.etag
            )
        except Conflict:
            raise
        except BaseException:
            # It may have had its effect, and then the file is made of these.
            self._made -= _names(pieces)
            raise
        gone = _names(self._saved.pieces) - _names(pieces)
        self._saved = replace(new, etag=etag)
        return gone

    async def _catch_up(self) -> None:
        """Go on from what is there, if that was written in our name without our being told.

        Raises:
            Busy: Somebody else has taken the file over.
            PathNotFound: The file is gone.
        """
        mine = self._saved.writer
        try:
            found = await load(self._client, self._path)
        except PathNotFound:
            self._saved = replace(self._saved, writer="", is_claimed=False)
            raise
        except BaseException:
            # Something may have sent our list twice, and then the file is made of these.
            self._made -= _names(self._pieces())
            raise
        if mine and found.writer == mine:
            self._saved = replace(found, is_claimed=True)
            return
        self._made -= _names(self._pieces())
        self._saved = replace(self._saved, writer="", is_claimed=False)
        raise Busy(driver=NAME, path=self._path)

    async def _claim_again(self) -> None:
        """Go on writing after a sync, if nobody else came in between.

        Raises:
            Busy: Somebody did.
            PathNotFound: The file is gone.
        """
        self._start = self._saved.size
        try:
            self._saved = await _take(self._client, self._path, self._saved)
        except Conflict as conflict:
            await self._client.head(self._path)
            raise Busy(driver=NAME, path=self._path) from conflict

    async def _renew(self) -> None:
        """Tell others that we live, and what has arrived."""
        while True:
            await asyncio.sleep(RENEWAL_SECONDS)
            with contextlib.suppress(DriverError):
                await see_through(self._save(b"", writer=None))


def _find_small(pieces: Sequence[Piece]) -> tuple[int, int]:
    """Return where the pieces begin and end that are to become one; the same twice for none.

    They are the first that come to enough, and several at least.
    """
    first = size = 0
    if len(pieces) < MANY_PIECES:
        return 0, 0
    for number, piece in enumerate(pieces):
        if not SMALLEST <= piece.size < MERGED_BYTES // 8:
            first, size = number + 1, 0
            continue
        size += piece.size
        if size >= MERGED_BYTES:
            return first, number + 1
    return 0, 0


def _names(pieces: Iterable[Piece]) -> set[str]:
    return {piece.name for piece in pieces}


def _piece_name() -> str:
    return f"{PIECE_MARK}{secrets.token_hex(8)}"
