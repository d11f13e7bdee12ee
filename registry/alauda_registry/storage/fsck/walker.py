"""Walks through a directory, in a process of its own.

Half of the time of a check goes into asking the system for names, a few microseconds at a time,
which threads of one process can't do beside anything else. So this program does nothing else: it
writes what it finds to its standard output. It ends when nobody reads that any more.

No symbolic link is followed. What a file is, is told from its name where that saves asking the
system: there are millions of them. ``conformance/benchmarks`` compares this with ``find``.
"""

import errno
import gc
import os
import pickle
import stat
import sys
from collections.abc import Iterator, Sequence

from alauda_registry.storage import paths
from alauda_registry.storage.driver import PATH_MAXIMUM, is_component
from alauda_registry.storage.fsck.files import (
    BATCH,
    LINK_MAXIMUM,
    NO_FILE,
    File,
    is_link,
    is_read,
    odd,
)

_DIGEST_LENGTH = 64
_LEAVES = ("data", "link")
_BLOBS = f"{paths.ROOT}/blobs/"
# A pipe that somebody left in the tree must not be waited for.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Walk:
    """One walk through a directory.

    Args:
        root: The directory.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._batch: list[File] = []

    def batches(self, folder: str) -> Iterator[list[File]]:
        """Yield the files below a folder."""
        above = ""
        try:
            for name in folder[1:].split("/"):
                above = f"{above}/{name}"
                if not stat.S_ISDIR(os.lstat(f"{self._root}{above}").st_mode):
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            yield from self._folder(folder)
        except FileNotFoundError:
            pass
        except OSError as error:
            self._batch.append(_trouble(above, error))
        yield self._batch

    def _folder(self, path: str) -> Iterator[list[File]]:
        with os.scandir(f"{self._root}{path}") as entries:
            # Within a repository any order will do, and there a folder may have a million names.
            for entry in entries if "/_" in path else sorted(entries, key=_order):
                below = f"{path}/{entry.name}"
                if not is_component(entry.name) or len(below) > PATH_MAXIMUM:
                    self._batch.append(odd(path, entry.name))
                    continue
                try:
                    if not entry.is_dir(follow_symlinks=False):
                        self._batch.append(self._file(below))
                    elif entry.name == "link" and is_link(below):
                        self._batch.append(File(below, 0, 0, None, NO_FILE))
                    elif len(entry.name) >= _DIGEST_LENGTH and _holds_digests(path):
                        yield from self._leaf(below)
                    else:
                        yield from self._folder(below)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    self._batch.append(_trouble(below, error))
                if len(self._batch) >= BATCH:
                    batch, self._batch = self._batch, []
                    yield batch

    def _leaf(self, path: str) -> Sequence[list[File]]:
        """Take in a folder with a digest's name; nearly all there are hold one file."""
        names = os.listdir(f"{self._root}{path}")
        if len(names) > 1 or (names and names[0] not in _LEAVES):
            return list(self._folder(path))
        for name in names:
            below = f"{path}/{name}"
            try:
                self._batch.append(self._file(below))
            except FileNotFoundError:
                continue
            except OSError as error:
                # The folder is all right: it is the file that is not.
                self._batch.append(_trouble(below, error))
        return ()

    def _file(self, path: str) -> File:
        if is_read(path):
            fd = os.open(f"{self._root}{path}", _FILE)
            try:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    return File(path, 0, 0, None, NO_FILE)
                content = os.read(fd, LINK_MAXIMUM)
            finally:
                os.close(fd)
            return File(path, len(content), 0, content)
        status = os.lstat(f"{self._root}{path}")
        if not stat.S_ISREG(status.st_mode):
            return File(path, 0, 0, None, NO_FILE)
        # A rename changes the time of change alone, and it is what brings files to their places.
        return File(path, status.st_size, max(status.st_mtime, status.st_ctime))


def _holds_digests(path: str) -> bool:
    """Tell whether the long names in a folder are digests; those of repositories may be long."""
    return "/_" in path or path.startswith(_BLOBS)


def _order(entry: "os.DirEntry[str]") -> str:
    return f"{entry.name}/" if entry.is_dir(follow_symlinks=False) else entry.name


def _trouble(path: str, error: OSError) -> File:
    return File(path, 0, 0, None, os.strerror(error.errno or 0))


def main(root: str, folder: str) -> None:
    """Write what lies below a folder: a pickled list for each batch, and an empty one at the end.

    Args:
        root: The directory.
        folder: A path below it.
    """
    # No path of ours is as deep as it is long.
    sys.setrecursionlimit(4 * PATH_MAXIMUM)
    # Nothing here goes round in circles, and looking for that is a tenth of the work.
    gc.disable()
    try:
        for batch in Walk(root).batches(folder):
            if batch:
                pickle.dump([tuple(file) for file in batch], sys.stdout.buffer, 5)
        pickle.dump([], sys.stdout.buffer, 5)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        # What is left in the buffer has no reader either.
        os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
