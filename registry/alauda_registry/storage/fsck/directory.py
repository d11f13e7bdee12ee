"""Reading a tree straight from its directory, with all cores."""

import asyncio
import errno
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar, TypeVarTuple

from typing_extensions import override

from alauda_registry.oci.digest import Digest
from alauda_registry.storage import paths
from alauda_registry.storage.driver import Unreachable
from alauda_registry.storage.fsck import walker
from alauda_registry.storage.fsck.files import File
from alauda_registry.storage.fsck.tree import MANIFEST_MAXIMUM, Outcome, Tree
from alauda_registry.storage.fsck.walker import Walk
from alauda_registry.storage.threads import run_blocking

_CHUNK = 1024 * 1024
NAME = "directory"
# A pipe that somebody left in the tree must not be waited for.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE})

Ts = TypeVarTuple("Ts")
T = TypeVar("T")


class Stopped(Exception):
    """The check was told to stop while a blob was hashed."""


class DirectoryTree(Tree):
    """Reads a tree in a directory.

    Args:
        root: The directory.
        jobs: How many threads hash.
    """

    def __init__(self, root: Path, *, jobs: int) -> None:
        self._root = root
        self._executor = ThreadPoolExecutor(jobs + 1, thread_name_prefix="fsck")
        self._buffers = threading.local()
        self._stopped = threading.Event()

    def interrupt(self) -> None:
        """Let the threads end as soon as they can, even in the middle of a blob."""
        self._stopped.set()

    def close(self) -> None:
        """Let the threads end. Closing twice is harmless."""
        self._stopped.set()
        self._executor.shutdown(wait=True, cancel_futures=True)

    @override
    async def walk(self, folder: str) -> AsyncGenerator[Sequence[File], None]:
        if folder != paths.ROOT:
            # Too little to start a process for.
            for batch in Walk(str(self._root)).batches(folder):
                yield batch
            return
        process = await self._run(_start, self._root, folder)
        try:
            while batch := await self._run(_receive, process):
                yield batch
        finally:
            process.kill()
            process.communicate()

    @override
    async def examine(
        self, digests: Sequence[Digest], look: Callable[[Digest, bytes | None], T]
    ) -> list[T]:
        def examine() -> list[T]:
            return [look(digest, self._read(digest)) for digest in digests]

        return await self._run(examine)

    @override
    async def verify(
        self, digests: Sequence[Digest], advance: Callable[[int], None]
    ) -> list[tuple[Digest, Outcome]]:
        return await self._run(self._verify, digests, advance)

    async def _run(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        try:
            return await run_blocking(self._executor, function, *args)
        except Stopped as stopped:
            # Whoever stops the threads cancels what waits for them.
            raise asyncio.CancelledError from stopped

    def _require_going_on(self) -> None:
        if self._stopped.is_set():
            raise Stopped

    def _read(self, digest: Digest) -> bytes | None:
        self._require_going_on()
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

    def _verify(
        self, digests: Sequence[Digest], advance: Callable[[int], None]
    ) -> list[tuple[Digest, Outcome]]:
        try:
            buffer = self._buffers.buffer
        except AttributeError:
            buffer = self._buffers.buffer = memoryview(bytearray(_CHUNK))
        found = []
        for digest in digests:
            try:
                fd = os.open(f"{self._root}{paths.blob_data(digest)}", _FILE)
            except OSError as error:
                gone = error.errno in _GONE
                found.append((digest, Outcome.GONE if gone else Outcome.UNREADABLE))
                continue
            try:
                if self._hash(fd, digest, buffer, advance) != digest.encoded:
                    found.append((digest, Outcome.CORRUPT))
            except OSError:
                found.append((digest, Outcome.UNREADABLE))
            finally:
                os.close(fd)
        return found

    def _hash(
        self, fd: int, digest: Digest, buffer: memoryview, advance: Callable[[int], None]
    ) -> str:
        hasher = digest.algorithm.hasher()
        while True:
            count = os.readv(fd, [buffer])
            hasher.update(buffer[:count])
            advance(count)
            # What is not full is the end. Were it not, the next look would tell.
            if count < _CHUNK:
                return hasher.hexdigest()
            self._require_going_on()


def _start(root: Path, folder: str) -> "subprocess.Popen[bytes]":
    program = [sys.executable, "-P", "-m", walker.__name__, str(root), folder]
    return subprocess.Popen(program, stdout=subprocess.PIPE)  # noqa: S603 -- a module of ours


def _receive(process: "subprocess.Popen[bytes]") -> list[File]:
    """Return the next batch of a walk, which is empty at the end."""
    try:
        batch = pickle.load(process.stdout)  # type: ignore[arg-type] # noqa: S301 -- of our own
    except (EOFError, pickle.UnpicklingError) as error:
        raise Unreachable("the walk was cut short", driver=NAME, path=paths.ROOT) from error
    return [File(*file) for file in batch]
