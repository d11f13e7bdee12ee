"""The contract between the stores and whatever keeps the bytes.

A driver knows paths and bytes; it knows nothing of blobs, manifests or HTTP.
``tests/contract/test_drivers.py`` is the executable half of this file: a driver is
correct when that suite passes against it.

Durability is part of the contract. What :meth:`StorageDriver.publish` and
:meth:`StorageDriver.delete` have returned from survives a power cut.
"""

import hashlib
import re
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Protocol

PATH_MAXIMUM = 2048
PIECE_MARK = "~"
"""What tells the keys of what a file in a bucket is made of from all paths, which can't have it."""

_COMPONENT = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._-]{1,255}", re.ASCII)


_PATH = re.compile(r"(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._-]{1,255})+", re.ASCII)


def is_component(name: str) -> bool:
    """Tell whether a name may be part of a path."""
    return _COMPONENT.fullmatch(name) is not None


def is_path(text: str) -> bool:
    """Tell whether this is a path of this contract."""
    return _is_valid(text)


def require_valid(path: str, *, driver: str) -> None:
    """Refuse what is not a path of this contract.

    Raises:
        InvalidPath: It is not one, or too long.
    """
    if not _is_valid(path):
        raise InvalidPath(driver=driver, path=path)


@lru_cache(4096)
def _is_valid(path: str) -> bool:
    return len(path) <= PATH_MAXIMUM and _PATH.fullmatch(path) is not None


@dataclass(frozen=True, slots=True)
class FileInfo:
    """What is known of a stored file without reading it.

    Attributes:
        path: Where it is.
        size: In bytes.
        modified_at: When it was written.
        etag: Of an object that was listed: :func:`etag_of` its content, or something else where
            it came in parts or is encrypted. Equality says what it holds, the contrary nothing.
    """

    path: str
    size: int
    modified_at: datetime
    etag: str = ""


def etag_of(content: bytes) -> str:
    """Return the ETag that S3 servers give an object that was written in one piece."""
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'


@dataclass(frozen=True, slots=True)
class Capacity:
    """How much room a storage has, in bytes.

    Attributes:
        size: All of it, as this process may use it.
        free: What is left, the reserve included.
        reserved: What only deletes may use: pushes are refused when no more than this is free.
    """

    size: int
    free: int
    reserved: int = 0


@dataclass(frozen=True, slots=True)
class Write:
    """Create or replace a small file.

    One that is not ``durable`` may be gone, empty or torn after a power cut, though it is
    whole for every reader until then.

    Attributes:
        folder: A directory above it, or "". When that is missing, it shows with the file in it
            and never without.
    """

    path: str
    content: bytes
    durable: bool = True
    folder: str = ""


@dataclass(frozen=True, slots=True)
class Move:
    """Sync a file and rename it; a file at the target is replaced.

    Whoever has the source open for appending keeps it.
    """

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Ensure:
    """Make durable what another writer may have just put at this path.

    A file that is there is not yet a file that survives: its writer may have been
    about to sync the directory. Whoever builds on it syncs it first.
    """

    path: str


Step = Write | Move | Ensure

Stage = Step | tuple[Step, ...]
"""A step, or some whose order does not matter."""


def flatten(stages: Iterable[Stage]) -> list[Step]:
    """Return the steps of all stages in one list."""
    return [step for stage in stages for step in (stage if isinstance(stage, tuple) else (stage,))]


@dataclass(slots=True)
class Inflow:
    """Bytes that come on a socket, for the kernel to move on to another.

    Attributes:
        socket: Its descriptor, which does not block, and stays its owner's.
        count: How many bytes may be taken from it.
        silence: How many seconds to wait for another byte.
        taken: How many were taken; whoever takes some adds them.
        trouble: Why there were no more, if that is known.
    """

    socket: int
    count: int
    silence: float
    taken: int = 0
    trouble: OSError | None = None


class FileReader(Protocol):
    """An open file. Its content stays readable when the path is deleted or replaced."""

    @property
    def size(self) -> int:
        """The file's size in bytes when it was opened."""
        ...

    def fileno(self) -> int | None:
        """Return a descriptor that the kernel can send from, or None where there is none."""
        ...

    def stream(self, offset: int = 0, length: int | None = None) -> AsyncGenerator[bytes, None]:
        """Yield ``length`` bytes from ``offset`` on (to the end when None) in large chunks."""
        ...

    def inflow(self, _offset: int, _length: int) -> AsyncGenerator[bytes | Inflow, None] | None:
        """Yield what :meth:`stream` yields, as sockets where it comes from some.

        Of each :class:`Inflow` as much as comes has to be taken before the next is asked for:
        when that was not all of it, the rest is found another way.

        Returns:
            None where the bytes come from no socket.
        """
        return None

    def close(self) -> None:
        """Release the file. Closing twice is harmless."""
        ...


class FileWriter(Protocol):
    """Exclusive access to the end of a file, for uploads that arrive in pieces."""

    @property
    def offset(self) -> int:
        """The file's size in bytes: where the next write goes."""
        ...

    def write(
        self, chunks: Sequence[bytes], alongside: Callable[[Sequence[bytes]], None] | None = None
    ) -> Coroutine[Any, Any, None]:
        """Append the chunks. This begins with the call and ends when the result is awaited.

        Args:
            chunks: What to write.
            alongside: Called with the chunks where they are written, in a thread when they are
                large: to hash them while they are at hand. Not called when writing fails.

        Raises:
            OutOfSpace: The storage is full. Part of the chunks may have been written.
        """
        ...

    async def read(self, offset: int, length: int) -> bytes:
        """Return what has been written at ``offset``, at most ``length`` bytes."""
        ...

    async def truncate(self, size: int) -> None:
        """Cut the file off at ``size`` bytes, so that a failed write takes no space."""
        ...

    async def sync(self, note: bytes = b"") -> None:
        """Return once the bytes survive a power cut, for a move to rely on.

        Args:
            note: Kept with the bytes by a driver over a bucket, for :attr:`Snapshot.note`.

        The name they have until then is not worth syncing: :class:`Move` makes the one
        durable that they get.
        """
        ...

    async def close(self) -> None:
        """Give up the exclusive access. Closing twice is harmless."""
        ...


class ObjectWriter(Protocol):
    """An object in the making: it becomes visible whole when it is committed, or never."""

    @property
    def offset(self) -> int:
        """How many bytes were written."""
        ...

    def write(
        self, chunks: Sequence[bytes], alongside: Callable[[Sequence[bytes]], None] | None = None
    ) -> Coroutine[Any, Any, None]:
        """Take in the chunks, as :meth:`FileWriter.write` does."""
        ...

    async def commit(self) -> None:
        """Make the object visible, in place of what may be there; it survives from then on."""
        ...

    async def abort(self) -> None:
        """Drop what was written unless it was committed, also when this is cancelled meanwhile."""
        ...


class Snapshot(Protocol):
    """A file as it was when it was looked at, whatever is appended to it since."""

    @property
    def size(self) -> int:
        """In bytes."""
        ...

    @property
    def note(self) -> bytes:
        """What :meth:`FileWriter.sync` was given along with the last of the bytes, or b""."""
        ...

    def stream(self) -> AsyncGenerator[bytes, None]:
        """Yield the content as it comes, little of it at a time.

        Raises:
            PathNotFound: It is gone.
        """
        ...

    async def copy(self, target: str) -> None:
        """Put the content at another path, in place of what may be there.

        Raises:
            PathNotFound: It is gone.
        """
        ...

    async def delete(self, *others: str) -> None:
        """Delete the file; one that is gone does not matter.

        Args:
            others: Files that are deleted along with it; nothing was appended to them.
        """
        ...


class ObjectStore(Protocol):
    """What a driver over a bucket does beyond the contract of all drivers.

    What is visible in a bucket has survived already, a small write costs no more than a read, and
    each of both is a message to another machine. So the stores ask for less, and for other things.
    """

    @property
    def redirects(self) -> bool:
        """Whether clients are to fetch blobs from the bucket themselves."""
        ...

    async def create(self, path: str) -> ObjectWriter:
        """Begin an object at its final place."""
        ...

    async def write_new(self, path: str, content: bytes) -> bool:
        """Write a small file unless there is one, and tell whether there was none."""
        ...

    async def discard(self, path: str) -> None:
        """Delete a file that nothing was appended to; one that is gone does not matter."""
        ...

    async def snapshot(self, path: str) -> Snapshot:
        """Look at a file that may be appended to.

        Raises:
            Busy: Somebody is writing to it.
            PathNotFound: There is no such file.
        """
        ...

    async def page(self, path: str, *, start_after: str = "") -> tuple[list[FileInfo], bool]:
        """Return the first of :meth:`pages`, and whether more follow."""
        ...

    def pages(
        self, path: str, *, start_after: str = ""
    ) -> AsyncGenerator[tuple[list[FileInfo], bool], None]:
        """Yield the files below a directory, as many as one request gives at a time.

        With them comes whether more follow. They are in byte order of their full paths.

        Args:
            path: The directory.
            start_after: Files up to this path are left out. It has to be one directly in the
                directory: where a listing begins further down, MinIO leaves out what it should not.

        Raises:
            InvalidPath: It is further down.
        """
        ...

    def folders(
        self, path: str, *, start_after: str = ""
    ) -> AsyncGenerator[tuple[list[str], bool], None]:
        """Yield the names directly below a directory, as many as one request gives at a time.

        With them comes whether more follow. They are in byte order of their names with a slash
        behind them. Those that are not path components are left out; a missing directory has none.

        Args:
            path: The directory.
            start_after: Names up to it in byte order may be left out.
        """
        ...

    async def url(self, path: str, method: str) -> str:
        """Return where a client may fetch a file itself for a while.

        Args:
            path: The file; whether it is there is not looked at.
            method: GET or HEAD: the URL is good for that alone.
        """
        ...

    async def settled(self, name: str, *, wait: float) -> str:
        """Return a token that differs whenever a lock was held exclusively in between.

        Args:
            name: Of the lock.
            wait: How many seconds to wait while somebody holds it.

        Raises:
            Busy: It was still held after ``wait`` seconds.
        """
        ...

    async def drop_unfinished(self, path: str, maximum_age: timedelta) -> int:
        """Drop what writers that died left in the making below a directory, and say how many."""
        ...


class StorageDriver(Protocol):
    """A flat store of files, addressed by absolute slash-separated paths.

    Paths match ``(/[A-Za-z0-9._-]+)+`` without the components ``.`` and ``..``. A
    published file becomes visible whole or not at all, and is visible to every reader
    of the same storage once the call has returned. Every method may raise
    :class:`DriverError`; the narrower ones are named where callers tell them apart.
    """

    @property
    def name(self) -> str:
        """The driver's name in settings, logs and metrics, such as ``filesystem``."""
        ...

    @property
    def objects(self) -> ObjectStore | None:
        """What it does beyond this contract if it is over a bucket."""
        return None

    async def stat(self, path: str) -> FileInfo:
        """Describe one file.

        Raises:
            PathNotFound: There is no file at this path. Directories are not files.
        """
        ...

    async def read(self, path: str) -> bytes:
        """Return a small file, such as a link, in one piece.

        Raises:
            PathNotFound: There is no file at this path.
        """
        ...

    async def open(self, path: str) -> FileReader:
        """Open a file of any size for reading; the caller closes it.

        Raises:
            PathNotFound: There is no file at this path.
        """
        ...

    async def publish(self, *stages: Stage) -> None:
        """Carry the stages out in order, each durable before the next becomes visible.

        What is to be moved has to be there from the start, and what is to be written has to
        fit: otherwise nothing is done. After that a crash or an error leaves some stages
        done and the rest undone; of the one it struck, any of its steps may be done.

        Raises:
            PathNotFound: The source of a move, or the file to ensure, is not there.
            OutOfSpace: The storage is full.
        """
        ...

    async def append(self, path: str, *, create: bool, wait: float) -> FileWriter:
        """Open a file for appending, alone among all processes that use the storage.

        Args:
            path: The file.
            create: Whether a missing file is made; its directories are made, too.
            wait: How many seconds to wait for another writer to finish.

        Raises:
            Busy: Somebody else was still writing after ``wait`` seconds.
            PathNotFound: There is no such file, and ``create`` is false.
        """
        ...

    async def delete(self, path: str, *, durable: bool = True) -> None:
        """Delete a file, or a directory and everything below it, at once.

        Args:
            path: The file or directory.
            durable: Whether the deletion must have survived when this returns.

        Raises:
            PathNotFound: There was nothing to delete.
        """
        ...

    async def names(self, path: str) -> list[str]:
        """Return the names directly below a directory, in byte order.

        Names that are not path components of this contract are left out.

        Raises:
            PathNotFound: There is no such directory.
        """
        ...

    def walk(self, path: str, *, start_after: str = "") -> AsyncGenerator[FileInfo, None]:
        """Yield the files below a directory in byte order of their full paths.

        A missing directory yields nothing. A file that vanishes meanwhile may still be
        yielded when its directory had been read.

        Args:
            path: The directory.
            start_after: A full path; files up to and including it are left out, and
                directories that lie before it are not read.
        """
        ...

    def lock(self, name: str, *, exclusive: bool, wait: float) -> AbstractAsyncContextManager[None]:
        """Hold a named lock that all processes using this storage respect.

        Args:
            name: A single path component.
            exclusive: Whether nobody else may hold it; otherwise it is shared.
            wait: How many seconds to wait for it.

        Raises:
            Busy: It was still held after ``wait`` seconds.
        """
        ...

    async def fingerprint(self, path: str) -> str | None:
        """Return a token that changes whenever a child of the directory comes or goes.

        None means that the directory changed so recently that another change might not
        show.

        Raises:
            PathNotFound: There is no such directory.
        """
        ...

    async def check(self, *, write: bool) -> None:
        """Prove that the storage answers: a read, and a write when asked for.

        Raises:
            OutOfSpace: It is full.
            ReadOnlyFileSystem: It can't be written to.
            Unreachable: It has gone away.
        """
        ...

    async def capacity(self) -> Capacity | None:
        """Tell how much room there is; None where nothing is known of it."""
        ...

    async def aclose(self) -> None:
        """Release what the driver holds."""
        ...


class DriverError(Exception):
    """A storage driver could not do what it was asked.

    Never shown to clients as it is: the stores turn the cases they expect into a
    :class:`~alauda_registry.oci.errors.RegistryError`, the server renders the classes
    below in general words, and any other becomes an opaque 500 answer and a log record.
    """

    code = "UNKNOWN"
    """The value of the label ``code`` in the storage metrics."""

    loses_bytes = False
    """Whether bytes that were written before may be gone: a sync failed.

    The system says so once. Later syncs succeed, and reads show bytes that no disk has.
    """

    advice: str | None = None
    """What is wrong and what to do, in words a client may see: no path, no host. None where
    nothing more is known."""

    def __init__(self, message: str, *, driver: str, path: str) -> None:
        super().__init__(f"{driver}: {message}: {path}")
        self.driver = driver
        self.path = path


class PathNotFound(DriverError):
    """There is nothing at the path."""

    code = "PATH_NOT_FOUND"

    def __init__(self, *, driver: str, path: str) -> None:
        super().__init__("path not found", driver=driver, path=path)


class InvalidPath(DriverError):
    """The path is not one a driver accepts. This is a bug in the caller."""

    code = "INVALID_PATH"

    def __init__(self, *, driver: str, path: str) -> None:
        super().__init__("invalid path", driver=driver, path=path[:256])


class Busy(DriverError):
    """Somebody else holds the lock or writes to the file."""

    code = "BUSY"

    def __init__(self, *, driver: str, path: str) -> None:
        super().__init__("in use by another request", driver=driver, path=path)


class OutOfSpace(DriverError):
    """The storage is full, or over its quota.

    Args:
        driver: Whose storage it is.
        path: What did not fit.
        advice: What is full and what to do, in words a client may see: no path, no host. None
            where nothing more is known than that it is full.
    """

    code = "DEVICE_OUT_OF_SPACE"

    def __init__(self, *, driver: str, path: str, advice: str | None = None) -> None:
        super().__init__("no space left", driver=driver, path=path)
        self.advice = advice


class ReadOnlyFileSystem(DriverError):
    """The storage refuses to be written to."""

    code = "READ_ONLY_FILESYSTEM"

    def __init__(self, *, driver: str, path: str) -> None:
        super().__init__("read-only file system", driver=driver, path=path)


class Unreachable(DriverError):
    """The storage does not answer, or not with what was stored; waiting may help."""

    code = "UNREACHABLE"


class AccessRefused(Unreachable):
    """This process may not do that to the file: its owner or mode is another's."""

    code = "PERMISSION_DENIED"

    def __init__(self, *, driver: str, path: str) -> None:
        super().__init__("permission denied", driver=driver, path=path)
