"""Keeps files as objects of a bucket, with the keys that distribution's S3 driver gives them.

An object is written whole or not at all, is there for every reader once the server has answered,
and survives. What a bucket has not, such as files that grow and locks, is built on conditional
writes in :mod:`.files` and :mod:`.locks`.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from typing_extensions import override

from alauda_registry.storage.driver import (
    PIECE_MARK,
    Busy,
    Capacity,
    DriverError,
    Ensure,
    FileInfo,
    FileReader,
    FileWriter,
    InvalidPath,
    Move,
    ObjectStore,
    ObjectWriter,
    PathNotFound,
    Snapshot,
    Stage,
    Step,
    StorageDriver,
    Write,
    flatten,
    is_component,
    is_path,
    require_valid,
)
from alauda_registry.storage.drivers.s3.appending import Appender, claim
from alauda_registry.storage.drivers.s3.client import Conflict, S3Client
from alauda_registry.storage.drivers.s3.direct import DirectWriter
from alauda_registry.storage.drivers.s3.documents import Entry, Listing
from alauda_registry.storage.drivers.s3.errors import NAME, Ended, failure
from alauda_registry.storage.drivers.s3.files import (
    Composition,
    load,
    read_span,
)
from alauda_registry.storage.drivers.s3.locks import Locks
from alauda_registry.storage.drivers.s3.parts import MIB, Budget
from alauda_registry.storage.drivers.s3.reading import ObjectReader, PiecesReader, SharedReads
from alauda_registry.storage.drivers.s3.snapshots import FileSnapshot
from alauda_registry.storage.together import together

logger = logging.getLogger(__name__)

_PROBE = "/_driver/probe"
_CHECK_SECONDS = 4.0


@dataclass(frozen=True, slots=True)
class S3Options:
    """How the driver uses the bucket.

    Attributes:
        redirect: Whether clients are sent to the bucket for blobs.
        redirect_seconds: How long they may use a URL.
        part_size: Of the first parts of an upload, in bytes; later ones are larger.
        parts_at_once: How many parts of one upload may be on their way.
        copies_at_once: How many parts are copied at once when an upload ends.
        memory: What the parts of all uploads together may take, in bytes.
    """

    redirect: bool = True
    redirect_seconds: int = 20 * 60
    part_size: int = 8 * MIB
    parts_at_once: int = 4
    copies_at_once: int = 16
    memory: int = 48 * MIB


class S3Driver(StorageDriver, ObjectStore):
    """Keeps files in a bucket.

    Args:
        client: The bucket.
        options: How it is used.

    Attributes:
        client: The bucket.
    """

    def __init__(self, client: S3Client, options: S3Options | None = None) -> None:
        self.client = client
        self._options = options or S3Options()
        self._budget = Budget(self._options.memory)
        self._reads = SharedReads(self._read)
        self._locks = Locks(client)
        self._is_tried = False

    @property
    @override
    def name(self) -> str:
        return NAME

    @property
    @override
    def objects(self) -> ObjectStore:
        return self

    @override
    async def stat(self, path: str) -> FileInfo:
        require_valid(path, driver=NAME)
        info = await self.client.head(path)
        size = info.size if info.pieces_size is None else info.pieces_size
        return FileInfo(path, size, info.modified_at)

    @override
    async def read(self, path: str) -> bytes:
        require_valid(path, driver=NAME)
        return await self._reads.read(path)

    async def _read(self, path: str) -> bytes:
        info, content = await self.client.get(path)
        if info.pieces_size is None:
            return content
        composition = Composition.load(info, content, path)
        return await read_span(self.client, path, composition.pieces, 0, composition.size)

    @override
    async def open(self, path: str) -> FileReader:
        require_valid(path, driver=NAME)
        info, answer = await self.client.open(path)
        if info.pieces_size is None:
            return ObjectReader(self.client, path, info, answer)
        answer.close()
        return PiecesReader(self.client, path, await load(self.client, path))

    @override
    async def publish(self, *stages: Stage) -> None:
        for step in flatten(stages):
            for path in (step.source, step.target) if isinstance(step, Move) else (step.path,):
                require_valid(path, driver=NAME)
        moved = [step.source for step in flatten(stages) if isinstance(step, Move)]
        found = await together(load(self.client, path) for path in moved)
        sources = dict(zip(moved, found, strict=True))
        for stage in stages:
            steps = stage if isinstance(stage, tuple) else (stage,)
            await together(self._carry_out(step, sources) for step in steps)

    async def _carry_out(self, step: Step, sources: Mapping[str, Composition]) -> None:
        match step:
            case Write(path=path, content=content):
                await self.client.put(path, (content,))
            case Move(source=source, target=target) if source != target:
                snapshot = self._snapshot(source, sources[source])
                await snapshot.copy(target)
                await snapshot.delete()
            case Ensure(path=path):
                await self.client.head(path)
            case _:
                pass

    @override
    async def append(self, path: str, *, create: bool, wait: float) -> FileWriter:
        require_valid(path, driver=NAME)
        return Appender(
            self.client,
            path,
            await claim(self.client, path, create=create, wait=wait),
            self._budget,
            part_size=self._options.part_size,
            parts_at_once=self._options.parts_at_once,
        )

    @override
    async def delete(self, path: str, *, durable: bool = True) -> None:
        require_valid(path, driver=NAME)
        doomed = [entry.key async for entry in self._entries(f"{path}/")]
        if not doomed:
            # A file, with what it may be made of.
            page = await self.client.list_page(path, maximum=1)
            if page.entries and page.entries[0].key == self.client.key(path):
                doomed = [page.entries[0].key]
                doomed += [entry.key async for entry in self._entries(f"{path}{PIECE_MARK}")]
        if not doomed:
            raise PathNotFound(driver=NAME, path=path)
        await self.client.delete(*map(self.client.path, doomed))

    @override
    async def names(self, path: str) -> list[str]:
        require_valid(path, driver=NAME)
        found: set[str] = set()
        async with aclosing(self._names(path)) as pages:
            async for names, _ in pages:
                found.update(names)
        if not found:
            raise PathNotFound(driver=NAME, path=path)
        return sorted(filter(is_component, found))

    @override
    async def walk(self, path: str, *, start_after: str = "") -> AsyncGenerator[FileInfo, None]:
        require_valid(path, driver=NAME)
        async for entry in self._entries(f"{path}/", start_after):
            found = self.client.path(entry.key)
            if is_path(found):
                yield FileInfo(found, entry.size, entry.modified_at, entry.etag)

    @override
    def lock(self, name: str, *, exclusive: bool, wait: float) -> AbstractAsyncContextManager[None]:
        if not is_component(name):
            raise InvalidPath(driver=NAME, path=name)
        return self._locks.hold(name, exclusive=exclusive, wait=wait)

    @override
    async def fingerprint(self, path: str) -> str | None:
        """Return None: a bucket does not say when a folder changed."""
        await self.names(path)
        return None

    @override
    async def check(self, *, write: bool) -> None:
        try:
            # Before whoever asks stops waiting, and has nothing to tell.
            async with asyncio.timeout(_CHECK_SECONDS):
                await self._check(write=write)
        except TimeoutError as error:
            raise failure(error, _PROBE) from error

    async def _check(self, *, write: bool) -> None:
        await self.client.list_page("/", maximum=1)
        if not write:
            return
        await self.client.put(_PROBE, (datetime.now(UTC).isoformat().encode(),))
        if self._is_tried:
            return
        try:
            await self.client.put(_PROBE, (b"",), instead_of="")
        except Conflict:
            pass
        else:
            logger.warning(
                "the S3 server ignores conditions (If-None-Match) of writes: run one replica with "
                "one worker only, or an upload that two of them write to at once fails"
            )
        self._is_tried = True

    @override
    async def capacity(self) -> Capacity | None:
        return None

    @override
    async def aclose(self) -> None:
        await self.client.transport.aclose()

    @property
    @override
    def redirects(self) -> bool:
        return self._options.redirect

    @override
    async def write_new(self, path: str, content: bytes) -> bool:
        require_valid(path, driver=NAME)
        try:
            await self.client.put(path, (content,), instead_of="")
        except Conflict:
            return False
        return True

    @override
    async def discard(self, path: str) -> None:
        require_valid(path, driver=NAME)
        await self.client.delete(path)

    @override
    async def create(self, path: str) -> ObjectWriter:
        require_valid(path, driver=NAME)
        return DirectWriter(
            self.client,
            path,
            self._budget,
            part_size=self._options.part_size,
            parts_at_once=self._options.parts_at_once,
        )

    @override
    async def snapshot(self, path: str) -> Snapshot:
        require_valid(path, driver=NAME)
        composition = await load(self.client, path)
        if composition.is_claimed:
            raise Busy(driver=NAME, path=path)
        return self._snapshot(path, composition)

    @override
    async def page(self, path: str, *, start_after: str = "") -> tuple[list[FileInfo], bool]:
        async with aclosing(self.pages(path, start_after=start_after)) as pages:
            return await anext(pages)

    @override
    async def pages(
        self, path: str, *, start_after: str = ""
    ) -> AsyncGenerator[tuple[list[FileInfo], bool], None]:
        require_valid(path, driver=NAME)
        if "/" in start_after.removeprefix(f"{path}/"):
            raise InvalidPath(driver=NAME, path=start_after)
        async with aclosing(self._listings(f"{path}/", start_after)) as listings:
            async for listing in listings:
                found = [
                    FileInfo(self.client.path(entry.key), entry.size, entry.modified_at, entry.etag)
                    for entry in listing.entries
                ]
                # Servers may have had enough of objects that were deleted, and go on with the next.
                if found or listing.next is None:
                    yield found, listing.next is not None

    @override
    async def folders(
        self, path: str, *, start_after: str = ""
    ) -> AsyncGenerator[tuple[list[str], bool], None]:
        require_valid(path, driver=NAME)
        async with aclosing(self._names(path, start_after)) as pages:
            async for names, more in pages:
                yield sorted(filter(is_component, names), key="{}/".format), more

    @override
    async def url(self, path: str, method: str) -> str:
        require_valid(path, driver=NAME)
        return await self.client.url(path, method, self._options.redirect_seconds)

    @override
    async def settled(self, name: str, *, wait: float) -> str:
        return await self._locks.settled(name, wait=wait)

    @override
    async def drop_unfinished(self, path: str, maximum_age: timedelta) -> int:
        require_valid(path, driver=NAME)
        horizon = datetime.now(UTC) - maximum_age
        uploads = await self.client.uploads(f"{path}/")
        dropped = 0
        for upload in uploads:
            if upload.initiated_at >= horizon:
                continue
            target = self.client.path(upload.key)
            try:
                newest = await self.client.newest_part(target, upload.id)
                # One that still gets parts is in use, however long ago it began.
                if newest is None or newest < horizon:
                    await self.client.abort_multipart(target, upload.id)
                    dropped += 1
            except Ended:
                continue
            except DriverError as error:
                logger.error("a multipart upload is not dropped: %s", error)
        return dropped

    def _snapshot(self, path: str, composition: Composition) -> FileSnapshot:
        return FileSnapshot(self.client, path, composition, self._options.copies_at_once)

    async def _names(
        self, path: str, start_after: str = ""
    ) -> AsyncGenerator[tuple[set[str], bool], None]:
        """Yield the names below a directory, whatever they are, and whether more follow."""
        beginning = f"{path}/"
        length = len(self.client.key(beginning))
        start_after = f"{beginning}{start_after}" if start_after else ""
        following: Mapping[str, str] | None = None
        while True:
            page = await self.client.list_page(
                beginning,
                delimiter="/",
                start_after="" if following else start_after,
                following=following,
            )
            names = {entry.key[length:] for entry in page.entries}
            names |= {prefix[length:-1] for prefix in page.prefixes}
            following = page.next
            yield names, following is not None
            if following is None:
                return

    async def _entries(self, beginning: str, start_after: str = "") -> AsyncGenerator[Entry, None]:
        """Yield all objects whose path begins so, page by page."""
        start = start_after
        if start_after and not start_after.startswith(beginning):
            # No server needs to be told to begin where the prefix does, and some can't be.
            if start_after > beginning:
                return
            start = ""
        elif start_after:
            # Not further down: see :meth:`ObjectStore.pages`.
            start = beginning + start_after.removeprefix(beginning).partition("/")[0]
        async with aclosing(self._listings(beginning, start)) as listings:
            async for listing in listings:
                for entry in listing.entries:
                    if self.client.path(entry.key) > start_after:
                        yield entry

    async def _listings(self, beginning: str, start_after: str) -> AsyncGenerator[Listing, None]:
        """Yield the pages of all objects whose path begins so, and is behind another one."""
        following: Mapping[str, str] | None = None
        while True:
            listing = await self.client.list_page(
                beginning, start_after="" if following else start_after, following=following
            )
            yield listing
            following = listing.next
            if following is None:
                return
