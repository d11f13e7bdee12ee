"""Files that grow, in a store whose objects never do.

Each append leaves pieces: objects of their own beside the file's key. At the key itself is a small
object that tells which pieces the file is made of and who is writing; a header marks it, so that
whoever reads the key knows. It is only ever replaced on condition that it is still the one that
was read, so two replicas can never both go on with a file, and what one of them wrote is in it
whole or not at all.

Whoever writes renews his claim as long as he lives. A claim that was not renewed for some time,
by the server's own clock, is nobody's any more.
"""

import asyncio
import base64
import json
import logging
import secrets
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from alauda_registry.storage.driver import DriverError
from alauda_registry.storage.drivers.s3.client import ObjectInfo, S3Client
from alauda_registry.storage.drivers.s3.documents import Part
from alauda_registry.storage.drivers.s3.errors import NAME, Truncated
from alauda_registry.storage.drivers.s3.parts import MIB
from alauda_registry.storage.threads import see_through

logger = logging.getLogger(__name__)

CLAIM_SECONDS = 30.0
"""A claim that was not renewed for this long has ended."""

COPIES_AT_ONCE = 16
_COPY_MAXIMUM = 1024 * MIB
"""The largest part that is copied at once; S3 takes 5 GiB, and is slow then."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a file.

    Attributes:
        name: What its key has behind the file's; "" when the file is an object itself.
        size: In bytes.
    """

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Composition:
    """What the object at a file's key says.

    Attributes:
        pieces: What the file is made of, in order.
        etag: Of the object.
        writer: Who is writing, or "".
        is_claimed: Whether that was renewed lately.
        note: What was kept along with the last bytes.
    """

    pieces: tuple[Piece, ...]
    etag: str = ""
    writer: str = ""
    is_claimed: bool = False
    note: bytes = b""

    @property
    def size(self) -> int:
        """The file's size in bytes."""
        return sum(piece.size for piece in self.pieces)

    def dump(self) -> bytes:
        """Return it as it is stored; no two are the same, so neither are their ETags."""
        return json.dumps(
            {
                "id": secrets.token_hex(8),
                "writer": self.writer,
                "note": base64.b64encode(self.note).decode(),
                "pieces": [[piece.name, piece.size] for piece in self.pieces],
            }
        ).encode()

    @classmethod
    def load(cls, info: ObjectInfo, content: bytes, path: str) -> "Composition":
        """Read what is stored.

        Raises:
            Truncated: It is something else.
        """
        if info.pieces_size is None:
            return cls((Piece("", info.size),) if info.size else (), info.etag)
        try:
            stored = json.loads(content)
            pieces = tuple(Piece(str(name), int(size)) for name, size in stored["pieces"])
            age = info.age
            found = cls(
                pieces,
                info.etag,
                stored["writer"],
                bool(stored["writer"]) and age < CLAIM_SECONDS,
                base64.b64decode(stored["note"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise Truncated(f"not a list of pieces: {error}", driver=NAME, path=path) from error
        return found


async def load(client: S3Client, path: str) -> Composition:
    """Return what a file is made of.

    Raises:
        PathNotFound: There is no such file.
    """
    info, content = await client.get(path)
    return Composition.load(info, content, path)


async def read_span(
    client: S3Client, path: str, pieces: Sequence[Piece], offset: int, length: int
) -> bytes:
    """Return what is at ``offset`` of a file, at most ``length`` bytes."""
    found = []
    for piece in pieces:
        if offset >= piece.size:
            offset -= piece.size
            continue
        if length <= 0:
            break
        span = min(length, piece.size - offset)
        _, content = await client.get(path + piece.name, (offset, span))
        if len(content) != span:
            raise Truncated("a piece has another size", driver=NAME, path=path)
        found.append(content)
        length -= span
        offset = 0
    return b"".join(found)


async def compose(
    client: S3Client,
    path: str,
    pieces: Sequence[Piece],
    target: str,
    *,
    copies_at_once: int = COPIES_AT_ONCE,
) -> None:
    """Make one object of pieces, without their bytes coming here; nothing is left when it fails.

    Args:
        client: The bucket.
        path: The file that the pieces belong to.
        pieces: All but the last have at least the size of the smallest part.
        target: Where the object is to be.
        copies_at_once: How many parts are copied at once.

    Raises:
        PathNotFound: A piece is gone.
    """
    if not pieces:
        await client.put(target, ())
        return
    if len(pieces) == 1 and pieces[0].size <= _COPY_MAXIMUM:
        await client.copy(path + pieces[0].name, target, pieces[0].size)
        return
    spans = [
        (piece, start, min(_COPY_MAXIMUM, piece.size - start))
        for piece in pieces
        for start in range(0, piece.size, _COPY_MAXIMUM)
    ]
    limit = asyncio.Semaphore(copies_at_once)
    upload_id = ""

    async def begin() -> None:
        nonlocal upload_id
        upload_id = await client.begin_multipart(target)

    async def copy(number: int, piece: Piece, start: int, length: int) -> Part:
        async with limit:
            offset = None if length == piece.size else start
            return await client.copy_part(
                path + piece.name, target, upload_id, number, size=length, offset=offset
            )

    try:
        # Shielded, as an upload whose identifier nobody knows can't be aborted.
        await see_through(begin())
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(copy(number, *span)) for number, span in enumerate(spans, 1)]
        size = sum(piece.size for piece in pieces)
        await client.complete_multipart(target, upload_id, [task.result() for task in tasks], size)
    except BaseException as error:
        if upload_id:
            await see_through(drop(client.abort_multipart(target, upload_id)))
        if isinstance(error, BaseExceptionGroup):
            raise error.exceptions[0] from error
        raise


async def drop(cleanup: Coroutine[Any, Any, object]) -> None:
    """Clean up after something that failed, which says more than what fails now.

    What is left is dropped a day later by whoever expires uploads.
    """
    try:
        await cleanup
    except DriverError as error:
        logger.warning("something unfinished is left in the bucket for now: %s", error)
