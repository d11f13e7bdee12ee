"""Making files visible in order, each durable before what relies on it.

What costs time is the file system's journal: each sync behind a change is a commit of it, and
a sync behind a commit is nearly free. So everything is written to scratch and its way to
the disk begun at once, then synced in one go, and each directory once for all that was
renamed into it. ``tests/contract/test_filesystem_driver.py`` pins what is synced and when.
"""

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from alauda_registry.storage.driver import Ensure, Move, Stage, Step, Write
from alauda_registry.storage.rooted import RootedDirectory, start_writeback, sync

_VECTORS_MAXIMUM = 1024


@dataclass(slots=True)
class _Prepared:
    """A step, with the file that will be renamed into place and its descriptor."""

    step: Step
    source: str = ""
    fd: int = -1
    is_done: bool = False

    @property
    def path(self) -> str:
        """Where the file becomes visible."""
        return self.step.target if isinstance(self.step, Move) else self.step.path

    @property
    def is_durable(self) -> bool:
        """Whether it has to survive a power cut."""
        return not isinstance(self.step, Write) or self.step.durable


def publish(root: RootedDirectory, stages: Sequence[Stage]) -> None:
    """Carry the stages out; see ``StorageDriver.publish``. Blocks.

    Raises:
        OSError: One of the steps failed; ``filename`` is its path.
    """
    plan = [
        [_Prepared(step) for step in (stage if isinstance(stage, tuple) else (stage,))]
        for stage in stages
    ]
    everything = [prepared for stage in plan for prepared in stage]
    try:
        # What does not fit fails here, before anything shows.
        for prepared in everything:
            with _blaming(prepared):
                _prepare(root, prepared)
        for prepared in everything:
            if prepared.fd >= 0 and prepared.is_durable:
                with _blaming(prepared):
                    sync(prepared.fd)
        for stage in plan:
            for prepared in stage:
                with _blaming(prepared):
                    _show(root, prepared)
            root.make_durable(
                prepared.path.rpartition("/")[0] for prepared in stage if prepared.is_durable
            )
    finally:
        for prepared in everything:
            if prepared.fd >= 0:
                os.close(prepared.fd)
                if isinstance(prepared.step, Write) and not prepared.is_done:
                    with suppress(OSError):
                        root.remove(prepared.source, durable=False)


def _prepare(root: RootedDirectory, prepared: _Prepared) -> None:
    match prepared.step:
        case Write(content=content):
            prepared.source = root.scratch_path()
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            prepared.fd = root.open_file(prepared.source, flags)
            write_all(prepared.fd, [content], 0)
            start_writeback(prepared.fd)
        case Move(source=source):
            prepared.source = source
            prepared.fd = root.open(source, os.O_RDONLY | os.O_NONBLOCK)
            start_writeback(prepared.fd)
        case Ensure():
            pass


def _show(root: RootedDirectory, prepared: _Prepared) -> None:
    if isinstance(prepared.step, Ensure):
        fd = root.open(prepared.path, os.O_PATH)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise FileNotFoundError(errno.ENOENT, "not a file", prepared.path)
        finally:
            os.close(fd)
    else:
        root.rename(prepared.source, prepared.path)
    prepared.is_done = True


@contextmanager
def _blaming(prepared: _Prepared) -> Iterator[None]:
    """Let errors name the path that the caller knows."""
    try:
        yield
    except OSError as error:
        step = prepared.step
        path = step.source if isinstance(step, Move) else step.path
        raise type(error)(error.errno, error.strerror, path) from error


def write_all(fd: int, chunks: Sequence[bytes], offset: int) -> None:
    """Write the chunks one behind the other, whatever the system takes at a time.

    Raises:
        OSError: As ``pwrite(2)``; part of them may have been written.
    """
    # One call takes all of them, as long as there are no more than the system allows.
    if len(chunks) <= _VECTORS_MAXIMUM:
        written = os.pwritev(fd, chunks, offset)
        if written == sum(map(len, chunks)):
            return
        chunks = [b"".join(chunks)[written:]]
        offset += written
    for chunk in chunks:
        view = memoryview(chunk)
        while view:
            written = os.pwrite(fd, view, offset)
            offset += written
            view = view[written:]
