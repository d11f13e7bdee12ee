"""Making files visible in order, each durable before what relies on it.

What costs time is syncing: each sync behind a change is a commit of the file system's journal,
or, where there is none, several writes of their own. So everything is written to scratch
and its way to the disk begun at once, then synced in one go, and each directory once for all
that was renamed into it, whoever did that. ``tests/contract/test_filesystem_driver.py`` pins what
is synced and when.
"""

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from alauda_registry.storage.directory.durability import (
    Changes,
    DurableDirectories,
    Identity,
    identify,
    split,
    start_writeback,
    sync,
)
from alauda_registry.storage.directory.rooted import RootedDirectory
from alauda_registry.storage.driver import Ensure, Move, Stage, Step, Write, flatten

_VECTORS_MAXIMUM = 1024


@dataclass(slots=True)
class _Prepared:
    """A step, with the file that will be renamed into place and its descriptor."""

    step: Step
    source: str = ""
    fd: int = -1
    scratch: str = ""
    """What is left in scratch when it does not become visible."""
    folders: dict[str, Identity | None] = field(default_factory=dict)
    """What will be renamed along with the file: what lies at each path then."""

    @property
    def path(self) -> str:
        """Where the file becomes visible."""
        return self.step.target if isinstance(self.step, Move) else self.step.path

    @property
    def is_durable(self) -> bool:
        """Whether it has to survive a power cut."""
        return not isinstance(self.step, Write) or self.step.durable


class Publisher:
    """Publishes files below a root.

    Args:
        root: Where they become visible.
    """

    def __init__(self, root: RootedDirectory) -> None:
        self._root = root
        self._directories = DurableDirectories(root)

    def forget(self) -> None:
        """Take nothing for durable any more, as another volume may be at the root."""
        self._directories.forget()

    def publish(self, stages: Sequence[Stage]) -> None:
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
                    _prepare(self._root, prepared)
            for prepared in everything:
                if prepared.fd >= 0 and prepared.is_durable:
                    with _blaming(prepared):
                        sync(prepared.fd)
            for prepared in everything:
                if isinstance(prepared.step, Write) and prepared.source != prepared.scratch:
                    with _blaming(prepared):
                        self._prepare_folder(prepared, prepared.step)
            for stage in plan:
                self._show(stage)
            for step in flatten(stages):
                if isinstance(step, Move):
                    self._drop_if_empty(split(step.source)[0])
        finally:
            for prepared in everything:
                if prepared.fd >= 0:
                    os.close(prepared.fd)
                if prepared.scratch:
                    with suppress(OSError):
                        self._root.remove(prepared.scratch, durable=False)

    def _show(self, stage: Sequence[_Prepared]) -> None:
        with self._directories.changing() as changes:
            shown: dict[str, Identity | None] = {}
            inside: dict[str, Identity | None] = {}
            for prepared in stage:
                with _blaming(prepared):
                    if isinstance(prepared.step, Ensure):
                        identity = self._look_at(prepared.path)
                        if identity and self._directories.is_durable(prepared.path, identity):
                            continue
                    elif prepared.folders and self._rename_folder(prepared, changes):
                        folder, *below = prepared.folders
                        if prepared.is_durable:
                            shown[folder] = prepared.folders[folder]
                            inside |= {path: prepared.folders[path] for path in below}
                            inside[prepared.path] = identify(prepared.fd)
                        continue
                    else:
                        self._rename(prepared, changes)
                        identity = identify(prepared.fd)
                if prepared.is_durable:
                    shown[prepared.path] = identity
            changes.make_durable(shown)
            self._directories.remember(
                {path: identity for path, identity in inside.items() if identity is not None}
            )

    def _drop_if_empty(self, folder: str) -> None:
        above, name = split(folder)
        with suppress(OSError), self._root.directory(above) as fd:
            os.rmdir(name, dir_fd=fd)

    def _look_at(self, path: str) -> Identity | None:
        """See that there is a file, and return which."""
        fd = self._root.open(path, os.O_PATH)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise FileNotFoundError(errno.ENOENT, "not a file", path)
            return identify(fd)
        finally:
            os.close(fd)

    def _rename(self, prepared: _Prepared, changes: Changes) -> None:
        source, source_name = split(prepared.source)
        target, target_name = split(prepared.path)
        try:
            source_fd, target_fd = changes.directory(source), changes.directory(target)
            os.rename(source_name, target_name, src_dir_fd=source_fd, dst_dir_fd=target_fd)
        except OSError:
            # Something is in the way, or was; or a file server did it, and its answer was lost.
            if not self._root.is_at(prepared.path, prepared.fd):
                self._root.rename(prepared.source, prepared.path)
                # It may have gone into another folder than the one that is open.
                changes.look_anew(target)
        if prepared.source == prepared.scratch:
            prepared.scratch = ""

    def _prepare_folder(self, prepared: _Prepared, step: Write) -> None:
        """Make durable that a folder in scratch leads to the file in it."""
        found: dict[str, Identity | None] = {}
        path = prepared.source
        while path != prepared.scratch:
            path = split(path)[0]
            with self._root.directory(path) as fd:
                if step.durable:
                    os.fsync(fd)
                found[f"{step.folder}{path.removeprefix(prepared.scratch)}"] = identify(fd)
        prepared.folders = dict(reversed(found.items()))

    def _rename_folder(self, prepared: _Prepared, changes: Changes) -> bool:
        """Let a folder show with the file in it, unless there is one by now."""
        source, source_name = split(prepared.scratch)
        target, target_name = split(next(iter(prepared.folders)))
        try:
            source_fd, target_fd = changes.directory(source), changes.directory(target)
            os.rename(source_name, target_name, src_dir_fd=source_fd, dst_dir_fd=target_fd)
        except OSError:
            # Or a file server did it, and its answer was lost.
            if not self._root.is_at(prepared.path, prepared.fd):
                return False
        prepared.scratch = ""
        return True


def _prepare(root: RootedDirectory, prepared: _Prepared) -> None:
    match prepared.step:
        case Write(path=path, content=content, folder=folder):
            prepared.source = prepared.scratch = root.scratch_path()
            if folder and not _is_there(root, folder):
                prepared.source += path.removeprefix(folder)
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


def _is_there(root: RootedDirectory, path: str) -> bool:
    try:
        os.close(root.open(path, os.O_PATH))
    except FileNotFoundError:
        return False
    except OSError:
        # Whatever is in the way is met again, and told, by whoever makes the file.
        return True
    return True


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
