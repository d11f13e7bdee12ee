"""Upload sessions: bytes that arrive in pieces, and become a blob at the end.

A session lives in storage, so any process can go on with it; one writes at a time. The
hash of what has arrived is kept in memory where the bytes went through, and the digests
of each acknowledged piece are stored beside them, so that the process which finishes
the upload need not read the bytes again. When neither is there, it does.
"""

import contextlib
import logging
import uuid
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from alauda_registry.oci.digest import Algorithm, Digest
from alauda_registry.oci.errors import (
    BlobUploadOutOfOrder,
    BlobUploadUnknown,
    DigestInvalid,
    SizeInvalid,
)
from alauda_registry.oci.reference import RepositoryName
from alauda_registry.storage import paths
from alauda_registry.storage.blobs import BlobStore
from alauda_registry.storage.driver import (
    Busy,
    DriverError,
    FileWriter,
    Move,
    ObjectWriter,
    OutOfSpace,
    PathNotFound,
    StorageDriver,
    Write,
)
from alauda_registry.storage.hashing import HashProgress, HashProgressCache
from alauda_registry.storage.threads import run_blocking

logger = logging.getLogger(__name__)

BLOCK = 1024 * 1024
"""Bytes collected before they are hashed and written while the next ones arrive."""

WRITER_WAIT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Piece:
    """A body on its way into a session.

    Attributes:
        chunks: The bytes.
        start: Where the client says they belong, or None when it does not say.
        length: How many the client says they are, or None when it does not say.
    """

    chunks: AsyncIterator[bytes]
    start: int | None = None
    length: int | None = None


class UploadStore:
    """Starts, finds and expires the upload sessions of one repository."""

    def __init__(
        self,
        driver: StorageDriver,
        name: RepositoryName,
        blobs: BlobStore,
        progress: HashProgressCache,
    ) -> None:
        self._driver = driver
        self._name = name
        self._blobs = blobs
        self._progress = progress

    async def start(self, *, algorithm: Algorithm | None = None) -> "UploadSession":
        """Begin a session.

        Args:
            algorithm: What the client says it will name the blob by. Another one is
                accepted at the end, at the price of reading the bytes again.
        """
        upload_id = self._new_id()
        try:
            await _create(self._driver, paths.upload_data(self._name, upload_id))
        except DriverError:
            # A client that tries again and again must not fill a full disk any further.
            with contextlib.suppress(DriverError):
                await self._driver.delete(paths.upload(self._name, upload_id), durable=False)
            raise
        self._progress.put(upload_id, HashProgress.begin(algorithm or Algorithm.SHA256))
        return self._session(upload_id, 0)

    async def take(self, digest: Digest, piece: Piece) -> None:
        """Take in a whole blob at once, of which nothing is left when that fails.

        Raises:
            DigestInvalid: The bytes do not hash to the digest.
            SizeInvalid: They are not as many as was announced.
        """
        session = await self.start(algorithm=digest.algorithm)
        try:
            await session.commit(digest, piece)
        except BaseException:
            # Nobody was told the session's URL, so nobody could go on with it.
            with contextlib.suppress(BlobUploadUnknown, DriverError):
                await session.cancel()
            raise

    async def resume(self, upload_id: str) -> "UploadSession":
        """Find a session that was started before, by whichever process.

        Raises:
            BlobUploadUnknown: There is none with this id in this repository.
        """
        if not _is_canonical(upload_id):
            raise BlobUploadUnknown(upload=upload_id)
        try:
            info = await self._driver.stat(paths.upload_data(self._name, upload_id))
        except PathNotFound as missing:
            raise BlobUploadUnknown(upload=upload_id) from missing
        return self._session(upload_id, info.size)

    async def expire(self, maximum_age: timedelta) -> int:
        """Remove the sessions that have been idle for longer, and return how many."""
        try:
            identifiers = await self._driver.names(paths.uploads(self._name))
        except PathNotFound:
            return 0
        horizon = self._horizon(maximum_age)
        expired = 0
        for upload_id in identifiers:
            with contextlib.suppress(PathNotFound):
                if await self._is_idle(upload_id, horizon):
                    await self._driver.delete(paths.upload(self._name, upload_id), durable=False)
                    expired += 1
        return expired

    async def _is_idle(self, upload_id: str, horizon: datetime) -> bool:
        """Tell whether nobody wrote to a session since the horizon or is doing so now."""
        seen = False
        folder = paths.upload(self._name, upload_id)
        async for info in self._driver.walk(folder):
            seen = True
            if info.modified_at > horizon:
                return False
        if not seen:
            # A power cut left the folder and nothing in it, or somebody is making it right now.
            return await self._driver.fingerprint(folder) is not None
        try:
            data = paths.upload_data(self._name, upload_id)
            writer = await self._driver.append(data, create=False, wait=0)
        except PathNotFound:
            return True
        except Busy:
            return False
        await writer.close()
        return True

    def _new_id(self) -> str:
        return str(uuid.uuid4())

    def _horizon(self, maximum_age: timedelta) -> datetime:
        """Return since when somebody must have written for a session not to be idle."""
        return datetime.now(UTC) - maximum_age

    def _session(self, upload_id: str, size: int) -> "UploadSession":
        return UploadSession(self._driver, self._name, self._blobs, self._progress, upload_id, size)


class UploadSession:
    """One upload in progress.

    Attributes:
        id: Its identifier.
        size: How many bytes had arrived when it was looked up.
    """

    _block = BLOCK

    def __init__(
        self,
        driver: StorageDriver,
        name: RepositoryName,
        blobs: BlobStore,
        progress: HashProgressCache,
        upload_id: str,
        size: int,
    ) -> None:
        self._driver = driver
        self._name = name
        self._blobs = blobs
        self._progress = progress
        self.id = upload_id
        self.size = size

    async def append(self, piece: Piece) -> int:
        """Take in a piece, and return how many bytes have arrived in all.

        Raises:
            BlobUploadOutOfOrder: The piece does not begin where the last one ended, or
                somebody else is writing. Nothing was read from it.
            BlobUploadUnknown: The session is over.
            SizeInvalid: The piece has another length than was announced. It is dropped.
        """
        async with self._writer() as writer:
            is_first = writer.offset == 0
            try:
                progress = await self._receive(writer, piece, None)
            finally:
                if is_first and writer.offset > 0:
                    await self._stamp()
            self.size = writer.offset
            # Whoever trusts the digests does not read the bytes again, so these go first.
            async with self._ending_when_bytes_are_lost():
                await writer.sync()
            await self._require_going_on()
            if progress is not None and self.size > 0:
                path = paths.upload_digests(self._name, self.id)
                # Without them the bytes are read again, that is all.
                with contextlib.suppress(OutOfSpace):
                    await self._driver.publish(Write(path, progress.dump(), durable=False))
        return self.size

    async def commit(self, digest: Digest, piece: Piece | None = None) -> None:
        """Take in the last piece, make the whole a blob of the repository, and end.

        Raises:
            BlobUploadOutOfOrder: As for :meth:`append`; the session goes on.
            BlobUploadUnknown: The session is over.
            DigestInvalid: The bytes do not hash to the digest. The session is over.
            SizeInvalid: As for :meth:`append`; the session goes on.
        """
        async with self._writer() as writer:
            is_first = writer.offset == 0
            try:
                if piece is not None:
                    await self._receive(writer, piece, digest.algorithm)
                if await self._digest(writer, digest.algorithm) != digest:
                    await self._remove()
                    raise DigestInvalid(digest=str(digest))
                async with self._ending_when_bytes_are_lost():
                    await self._publish(digest)
            except BaseException:
                if is_first and writer.offset > 0:
                    await self._stamp()
                raise
            self._progress.forget(self.id)
            if not is_first:
                # Otherwise there was nothing beside the bytes, and the folder went with them.
                with contextlib.suppress(BlobUploadUnknown):
                    await self._remove()

    async def cancel(self) -> None:
        """End the session and drop its bytes.

        Raises:
            BlobUploadUnknown: The session is over.
        """
        await self._remove()

    async def _stamp(self) -> None:
        """Write down that the session has begun, for distribution to expire it one day.

        An upload that comes in one piece is over before that matters.
        """
        with contextlib.suppress(BlobUploadUnknown, DriverError):
            await self._require_going_on()
            await _create(self._driver, paths.upload_started_at(self._name, self.id), self._now())

    def _now(self) -> bytes:
        """Return the time as distribution writes it down."""
        return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ").encode()

    @contextlib.asynccontextmanager
    async def _writer(self) -> AsyncIterator[FileWriter]:
        path = paths.upload_data(self._name, self.id)
        try:
            writer = await self._driver.append(path, create=False, wait=WRITER_WAIT_SECONDS)
        except PathNotFound as missing:
            raise BlobUploadUnknown(upload=self.id) from missing
        except Busy as busy:
            raise self._out_of_order() from busy
        try:
            yield writer
        finally:
            await writer.close()

    def _out_of_order(self) -> BlobUploadOutOfOrder:
        """Return the error for a session that somebody else is writing to."""
        return BlobUploadOutOfOrder(
            "another request is still writing to this upload: ask for its status, then go on",
            upload=self.id,
        )

    async def _receive(
        self, writer: FileWriter, piece: Piece, algorithm: Algorithm | None
    ) -> HashProgress | None:
        """Write and hash a piece; what failed is taken back, what was cut off stays."""
        offset = writer.offset
        if piece.start is not None and piece.start != offset:
            raise BlobUploadOutOfOrder(upload=self.id, expected=str(offset))
        progress = self._progress.take(self.id, offset)
        if progress is None and offset == 0:
            progress = HashProgress.begin(algorithm or Algorithm.SHA256)
        elif progress is not None and offset == 0 and algorithm is not None:
            progress = HashProgress.begin(algorithm)
        before = progress.copy() if progress is not None else None
        try:
            await pump(writer, piece, progress, self._block)
        except (DriverError, SizeInvalid):
            progress = before
            with contextlib.suppress(DriverError):
                await writer.truncate(offset)
            raise
        finally:
            if progress is not None and progress.offset == writer.offset:
                self._progress.put(self.id, progress)
        return progress

    async def _digest(self, writer: FileWriter, algorithm: Algorithm) -> Digest:
        progress = self._progress.take(self.id, writer.offset)
        if progress is not None and (digest := progress.digest(algorithm)) is not None:
            return digest
        try:
            stored = await self._driver.read(paths.upload_digests(self._name, self.id))
        except PathNotFound:
            stored = b""
        digest = HashProgress.load(stored, offset=writer.offset, algorithm=algorithm)
        if digest is not None:
            return digest
        hasher = algorithm.hasher()
        offset = 0
        while block := await writer.read(offset, 2 * BLOCK):
            await run_blocking(None, hasher.update, block)
            offset += len(block)
        return Digest(algorithm, hasher.hexdigest())

    async def _publish(self, digest: Digest) -> None:
        """Put the bytes in place and link them.

        Bytes that are there already are replaced: these were hashed just now, and those may
        have suffered since.
        """
        data = Move(paths.upload_data(self._name, self.id), paths.blob_data(digest))
        link = await self._blobs.link_step(digest, digest)
        try:
            await self._driver.publish(data, link)
        except PathNotFound as missing:
            if missing.path == data.source:
                # Cancelled or expired while the last bytes came in.
                raise BlobUploadUnknown(upload=self.id) from missing
            # The link was found in its place, and deleted before it could be relied on; the
            # bytes are in theirs by now.
            await self._driver.publish(
                Write(paths.blob_link(self._name, digest), str(digest).encode())
            )

    @contextlib.asynccontextmanager
    async def _ending_when_bytes_are_lost(self) -> AsyncIterator[None]:
        try:
            yield
        except DriverError as error:
            if error.loses_bytes:
                with contextlib.suppress(BlobUploadUnknown, DriverError):
                    await self._remove()
            raise

    async def _require_going_on(self) -> None:
        """Notice that the session was cancelled, so that nothing is written beside its place."""
        try:
            await self._driver.stat(paths.upload_data(self._name, self.id))
        except PathNotFound as gone:
            raise BlobUploadUnknown(upload=self.id) from gone

    async def _remove(self) -> None:
        self._progress.forget(self.id)
        try:
            await self._driver.delete(paths.upload(self._name, self.id), durable=False)
        except PathNotFound as missing:
            raise BlobUploadUnknown(upload=self.id) from missing


async def _create(driver: StorageDriver, path: str, content: bytes = b"") -> None:
    writer = await driver.append(path, create=True, wait=0)
    try:
        if content and writer.offset == 0:
            await writer.write([content])
    finally:
        await writer.close()


async def pump(
    writer: FileWriter | ObjectWriter,
    piece: Piece,
    progress: HashProgress | None,
    block_size: int = BLOCK,
) -> None:
    """Write and hash one block of a piece while the next one arrives.

    Raises:
        SizeInvalid: The piece has another length than was announced.
    """
    absorb = progress.absorb if progress is not None else None
    received = 0
    block: list[bytes] = []
    size = 0
    under_way: Coroutine[Any, Any, None] | None = None
    try:
        async for chunk in piece.chunks:
            block.append(chunk)
            size += len(chunk)
            received += len(chunk)
            if piece.length is not None and received > piece.length:
                raise SizeInvalid(announced=str(piece.length), received=str(received))
            if size >= block_size:
                before, under_way = under_way, None
                if before is not None:
                    ready, block = block, []
                    # Of which some may be missing when this ends here, and then the rest is, too.
                    await before
                    block = ready
                under_way = writer.write(block, absorb)
                block, size = [], 0
    finally:
        # Also when the client breaks off: what has arrived is kept, and the rest can follow.
        if under_way is not None:
            await under_way
        if block:
            await writer.write(block, absorb)
    if piece.length is not None and received != piece.length:
        raise SizeInvalid(announced=str(piece.length), received=str(received))


def _is_canonical(upload_id: str) -> bool:
    """Tell whether this is an identifier as they are made here; others may be no path at all."""
    try:
        return str(uuid.UUID(upload_id)) == upload_id
    except ValueError:
        return False
