"""Upload sessions in a bucket, where nothing can be renamed and copies are worth avoiding.

A blob whose digest is known before its first byte is written where it stays, and shows there only
when the digest has been checked: nothing is copied. Otherwise the session's bytes are pieces beside
its key, so that any replica can go on with it, and the bucket copies them to their place at the
end. Bytes first, then the link; whatever stops in between leaves something to be dropped a day
later, and never a link without bytes.

A request that brings the whole blob into a session of which nothing has arrived does not make sure
that it is alone: it shares no byte with others, and the digest says what it is.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial

from typing_extensions import override

from alauda_registry.oci.digest import Algorithm, Digest
from alauda_registry.oci.errors import (
    BlobUploadOutOfOrder,
    BlobUploadUnknown,
    DigestInvalid,
)
from alauda_registry.oci.reference import RepositoryName
from alauda_registry.storage import paths
from alauda_registry.storage.blobs import BlobStore
from alauda_registry.storage.bucket import listing
from alauda_registry.storage.content import logger
from alauda_registry.storage.driver import (
    Busy,
    DriverError,
    FileInfo,
    ObjectStore,
    PathNotFound,
    Snapshot,
    StorageDriver,
    Write,
)
from alauda_registry.storage.hashing import HashProgress, HashProgressCache
from alauda_registry.storage.threads import run_blocking
from alauda_registry.storage.together import together
from alauda_registry.storage.uploads import (
    WRITER_WAIT_SECONDS,
    Piece,
    UploadSession,
    UploadStore,
    pump,
)

_LARGE = 32 * 1024 * 1024
"""From this size on it is looked whether a blob is there before it is copied to its place."""

_BLOCK = 256 * 1024
"""Bytes collected before they are hashed. They are kept as part of a part anyway, but what is
collected is not counted as such."""

_POLL_SECONDS = 0.25


class BucketUploadStore(UploadStore):
    """Starts, finds and expires the upload sessions of one repository."""

    def __init__(
        self,
        driver: StorageDriver,
        objects: ObjectStore,
        name: RepositoryName,
        blobs: BlobStore,
        progress: HashProgressCache,
    ) -> None:
        super().__init__(driver, name, blobs, progress)
        self._objects = objects

    @override
    async def start(self, *, algorithm: Algorithm | None = None) -> "BucketUploadSession":
        session = self._session(self._new_id(), 0)
        await self._driver.publish(Write(paths.upload_data(self._name, session.id), b""))
        self._progress.put(session.id, HashProgress.begin(algorithm or Algorithm.SHA256))
        return session

    @override
    async def take(self, digest: Digest, piece: Piece) -> None:
        await receive(self._objects, digest, piece)
        await self._driver.publish(await self._blobs.link_step(digest, digest))

    @override
    async def expire(self, maximum_age: timedelta) -> int:
        newest: dict[str, FileInfo] = {}
        folder = paths.uploads(self._name)
        # Pieces, too, also those that no session knows of.
        async for info in listing.files(self._objects, folder):
            upload_id = info.path.removeprefix(f"{folder}/").partition("/")[0]
            known = newest.get(upload_id)
            if known is None or info.modified_at > known.modified_at:
                newest[upload_id] = info
        horizon = self._horizon(maximum_age)
        expired = 0
        idle = [upload_id for upload_id, info in newest.items() if info.modified_at < horizon]
        for upload_id in idle:
            try:
                with contextlib.suppress(PathNotFound):
                    await self._driver.delete(f"{folder}/{upload_id}", durable=False)
                expired += 1
            except DriverError as error:
                logger.error("an upload of %s is not expired: %s", self._name, error)
        return expired

    @override
    def _session(self, upload_id: str, size: int) -> "BucketUploadSession":
        return BucketUploadSession(
            self._driver,
            self._objects,
            self._name,
            self._blobs,
            self._progress,
            upload_id,
            size,
        )


class BucketUploadSession(UploadSession):
    """One upload in progress."""

    _block = _BLOCK

    def __init__(
        self,
        driver: StorageDriver,
        objects: ObjectStore,
        name: RepositoryName,
        blobs: BlobStore,
        progress: HashProgressCache,
        upload_id: str,
        size: int,
    ) -> None:
        super().__init__(driver, name, blobs, progress, upload_id, size)
        self._objects = objects

    @override
    async def append(self, piece: Piece) -> int:
        try:
            async with self._writer() as writer:
                is_first = writer.offset == 0
                try:
                    progress = await self._receive(writer, piece, None)
                except BaseException:
                    if is_first and writer.offset > 0:
                        await self._stamp()
                    raise
                works = [writer.sync(progress.dump() if progress is not None else b"")]
                if is_first and writer.offset > 0:
                    works.append(self._stamp())
                await together(works)
                self.size = writer.offset
        except DriverError as error:
            # What was hashed here need not be what is there by now.
            self._progress.forget(self.id)
            if isinstance(error, PathNotFound):
                raise BlobUploadUnknown(upload=self.id) from error
            if isinstance(error, Busy):
                raise self._out_of_order() from error
            raise
        return self.size

    @override
    async def commit(self, digest: Digest, piece: Piece | None = None) -> None:
        if self.size == 0 and piece is not None:
            await self._commit_whole(digest, piece)
            return
        if piece is not None and piece.length != 0:
            await self.append(piece)
        snapshot = await self._snapshot()
        expected = piece.start if piece is not None and piece.length == 0 else self.size
        if expected not in (None, snapshot.size):
            raise BlobUploadOutOfOrder(upload=self.id, expected=str(snapshot.size))
        if await self._digest_of(snapshot, digest.algorithm) != digest:
            await self._remove()
            raise DigestInvalid(digest=str(digest))
        try:
            await self._copy(snapshot, digest)
        except PathNotFound as missing:
            # Cancelled or expired meanwhile.
            raise BlobUploadUnknown(upload=self.id) from missing
        await self._driver.publish(await self._blobs.link_step(digest, digest))
        self._progress.forget(self.id)
        stamp = paths.upload_started_at(self._name, self.id)
        await self._forget(partial(snapshot.delete, stamp))

    @override
    async def _stamp(self) -> None:
        # Whoever cancels the session meanwhile leaves this alone in its folder, to be expired.
        with contextlib.suppress(DriverError):
            path = paths.upload_started_at(self._name, self.id)
            await self._driver.publish(Write(path, self._now(), durable=False))

    async def _commit_whole(self, digest: Digest, piece: Piece) -> None:
        if piece.start not in (None, 0):
            raise BlobUploadOutOfOrder(upload=self.id, expected="0")
        try:
            await receive(self._objects, digest, piece)
        except DigestInvalid:
            await self._remove()
            raise
        self._progress.forget(self.id)
        # There is nothing in the session to go on with, so its end need not wait for the link, and
        # whoever hears that this failed begins another one.
        link = await self._blobs.link_step(digest, digest)
        await together(
            (self._driver.publish(link), self._forget(partial(self._objects.discard, self._path)))
        )

    async def _copy(self, snapshot: Snapshot, digest: Digest) -> None:
        """Put the bytes in place; large ones that are there are not copied again.

        An object does not lose its bytes as a file on a disk may, and was checked when it came.
        """
        target = paths.blob_data(digest)
        if snapshot.size >= _LARGE and await self._is_there(target, snapshot.size):
            return
        try:
            await snapshot.copy(target)
        except PathNotFound:
            # Another request for the same may have ended the session, and put them in place.
            if not await self._is_there(target, snapshot.size):
                raise

    async def _is_there(self, target: str, size: int) -> bool:
        try:
            return (await self._driver.stat(target)).size == size
        except PathNotFound:
            return False

    async def _digest_of(self, snapshot: Snapshot, algorithm: Algorithm) -> Digest:
        progress = self._progress.take(self.id, snapshot.size)
        if progress is not None and (digest := progress.digest(algorithm)) is not None:
            return digest
        stored = HashProgress.load(
            snapshot.note, offset=snapshot.size, algorithm=algorithm, any_machine=True
        )
        if stored is not None:
            return stored
        try:
            return await _hash_again(snapshot, algorithm)
        except PathNotFound as missing:
            raise BlobUploadUnknown(upload=self.id) from missing

    async def _snapshot(self) -> Snapshot:
        """Look at what has arrived, when nobody is writing any more."""
        deadline = asyncio.get_running_loop().time() + WRITER_WAIT_SECONDS
        while True:
            try:
                return await self._objects.snapshot(self._path)
            except PathNotFound as missing:
                raise BlobUploadUnknown(upload=self.id) from missing
            except Busy as busy:
                if asyncio.get_running_loop().time() >= deadline:
                    raise self._out_of_order() from busy
            await asyncio.sleep(_POLL_SECONDS)

    async def _forget(self, delete: Callable[[], Awaitable[None]]) -> None:
        """Delete the session of a blob that is in its place; what stays is expired later."""
        try:
            await delete()
        except DriverError as error:
            logger.warning("an upload that is over is left for now: %s", error)

    @property
    def _path(self) -> str:
        return paths.upload_data(self._name, self.id)


async def receive(objects: ObjectStore, digest: Digest, piece: Piece) -> None:
    """Write a blob where it stays, if its digest is right.

    Raises:
        DigestInvalid: It is not.
        SizeInvalid: The piece has another length than was announced.
    """
    progress = HashProgress.begin(digest.algorithm)
    writer = await objects.create(paths.blob_data(digest))
    try:
        await pump(writer, piece, progress, _BLOCK)
        if progress.digest(digest.algorithm) != digest:
            raise DigestInvalid(digest=str(digest))
        await writer.commit()
    finally:
        await writer.abort()


async def _hash_again(snapshot: Snapshot, algorithm: Algorithm) -> Digest:
    """Hash what has arrived, little of it at a time: no budget counts what is in memory."""
    hasher = algorithm.hasher()
    block: list[bytes] = []
    size = 0
    async with contextlib.aclosing(snapshot.stream()) as chunks:
        async for chunk in chunks:
            block.append(chunk)
            size += len(chunk)
            if size >= _BLOCK:
                await run_blocking(None, hasher.update, b"".join(block))
                block, size = [], 0
    hasher.update(b"".join(block))
    return Digest(algorithm, hasher.hexdigest())
