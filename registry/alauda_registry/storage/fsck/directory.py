"""Reading a tree straight from its directory, with all cores."""

import asyncio
import os
import subprocess
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar, TypeVarTuple

from typing_extensions import override

from alauda_registry.oci.digest import Digest
from alauda_registry.storage import paths
from alauda_registry.storage.fsck.files import File, Outcome
from alauda_registry.storage.fsck.processes import (
    Hashers,
    Stopped,
    end,
    receive_files,
    start_walk,
)
from alauda_registry.storage.fsck.tree import MANIFEST_MAXIMUM, Tree
from alauda_registry.storage.fsck.walker import Walk
from alauda_registry.storage.threads import run_blocking

# A pipe that somebody left in the tree must not be waited for.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

Ts = TypeVarTuple("Ts")
T = TypeVar("T")


class DirectoryTree(Tree):
    """Reads a tree in a directory.

    Args:
        root: The directory.
        jobs: How many processes hash.
    """

    def __init__(self, root: Path, *, jobs: int) -> None:
        self.jobs = jobs
        self._root = root
        self._hashers = Hashers(root)
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="fsck-reading")
        # Each of these waits for a process that hashes.
        self._hashing = ThreadPoolExecutor(jobs, thread_name_prefix="fsck-hashing")
        self._walking: subprocess.Popen[bytes] | None = None
        self._is_stopped = False

    @override
    def interrupt(self) -> None:
        self._is_stopped = True
        self._hashers.stop()
        if self._walking is not None:
            self._walking.kill()

    def close(self) -> None:
        """Let threads and processes end. Closing twice is harmless."""
        self.interrupt()
        self._reading.shutdown(wait=True, cancel_futures=True)
        self._hashing.shutdown(wait=True, cancel_futures=True)
        self._hashers.close()
        if self._walking is not None:
            end(self._walking)

    @override
    async def walk(self, folder: str) -> AsyncGenerator[Sequence[File], None]:
        if folder != paths.ROOT:
            # Too little to start a process for.
            found = Walk(str(self._root)).batches(folder)
            while (files := await self._run(self._reading, lambda: next(found, None))) is not None:
                yield files
            return
        process = await self._run(self._reading, self._start_walk, folder)
        try:
            while batch := await self._run(self._reading, receive_files, process):
                yield batch
        finally:
            end(process)

    @override
    async def examine(
        self, digests: Sequence[Digest], look: Callable[[Digest, bytes | None], T]
    ) -> list[T]:
        def examine() -> list[T]:
            return [look(digest, self._read(digest)) for digest in digests]

        return await self._run(self._reading, examine)

    @override
    async def verify(
        self, digests: Sequence[Digest], advance: Callable[[int], None]
    ) -> list[tuple[Digest, Outcome]]:
        return await self._run(self._hashing, self._hashers.compare, digests, advance)

    async def _run(
        self, executor: ThreadPoolExecutor, function: Callable[[*Ts], T], *args: *Ts
    ) -> T:
        try:
            return await run_blocking(executor, function, *args)
        except Stopped as stopped:
            # Whoever stops the threads cancels what waits for them.
            raise asyncio.CancelledError from stopped

    def _start_walk(self, folder: str) -> "subprocess.Popen[bytes]":
        # Remembered here, since whoever waits for it may be cancelled.
        self._walking = start_walk(self._root, folder)
        return self._walking

    def _read(self, digest: Digest) -> bytes | None:
        if self._is_stopped:
            raise Stopped
        try:
            fd = os.open(f"{self._root}{paths.blob_data(digest)}", _FILE)
        except OSError:
            return None
        with open(fd, "rb", buffering=0) as file:
            try:
                size = os.fstat(fd).st_size
                return file.read(size) if size <= MANIFEST_MAXIMUM else None
            except OSError:
                return None
