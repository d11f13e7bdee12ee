"""Compares blobs with their digests, in a process of its own.

Hashing a small blob takes less time than asking the system for its bytes, and threads of one
interpreter do that by turns. So there is a process for each core. It reads from its standard
input which blobs, and writes what it found to its standard output: how many bytes it has read
from time to time, and at the end of each request what does not match. It ends when
its input does, or when nobody reads what it writes, even in the middle of a blob.

Files are opened as the registry opens them: no symbolic link is followed, and nothing that
is mounted below the root is entered.
"""

import errno
import gc
import os
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path

from alauda_registry.oci.digest import Algorithm, Digest
from alauda_registry.storage import paths
from alauda_registry.storage.directory.rooted import RootedDirectory
from alauda_registry.storage.fsck.files import Outcome

_CHUNK = 1024 * 1024
_TOLD_BYTES = 16 * _CHUNK
"""So often it is told how far this is: whoever is gone must not be worked for much longer."""

# A pipe that somebody left in the tree must not be waited for.
_FILE = os.O_RDONLY | os.O_NONBLOCK
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE})
_ALGORITHMS = {algorithm.value: algorithm for algorithm in Algorithm}


class Hasher:
    """Hashes blobs below a root.

    Args:
        root: The directory.
    """

    def __init__(self, root: Path) -> None:
        self._root = RootedDirectory(root, make=False)
        self._buffer = memoryview(bytearray(_CHUNK))
        self._untold = 0

    def compare(self, wanted: Sequence[tuple[str, str]]) -> list[tuple[int, str]]:
        """Return which of some digests are not those of their blobs, by number, and why.

        Args:
            wanted: Algorithms, and what they gave in hexadecimal digits.
        """
        found = []
        for number, (algorithm, encoded) in enumerate(wanted):
            outcome = self._compare(Digest(_ALGORITHMS[algorithm], encoded))
            if outcome is not Outcome.INTACT:
                found.append((number, outcome.value))
        tell(self._untold)
        self._untold = 0
        return found

    def _compare(self, digest: Digest) -> Outcome:
        try:
            fd = self._root.open(paths.blob_data(digest), _FILE)
        except OSError as error:
            return Outcome.GONE if error.errno in _GONE else Outcome.UNREADABLE
        try:
            is_right = self._hash(fd, digest.algorithm) == digest.encoded
        except OSError:
            return Outcome.UNREADABLE
        finally:
            os.close(fd)
        return Outcome.INTACT if is_right else Outcome.CORRUPT

    def _hash(self, fd: int, algorithm: Algorithm) -> str:
        hasher = algorithm.hasher()
        while True:
            count = os.readv(fd, [self._buffer])
            hasher.update(self._buffer[:count])
            self._untold += count
            # What is not full is the end. Were it not, the next look would tell.
            if count < _CHUNK:
                return hasher.hexdigest()
            if self._untold >= _TOLD_BYTES:
                tell(self._untold)
                self._untold = 0


def tell(what: int | list[tuple[int, str]]) -> None:
    """Write a number of bytes, or what was found.

    Nobody may be there to read it; then this process ends.
    """
    try:
        pickle.dump(what, sys.stdout.buffer, 5)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        # What is left in the buffer has no reader either.
        os._exit(0)


def main(root: str) -> None:
    """Answer requests as long as they come: pickled lists, for :meth:`Hasher.compare`.

    Args:
        root: The directory.
    """
    # Nothing here goes round in circles, and looking for that is a tenth of the work.
    gc.disable()
    hasher = Hasher(Path(root))
    while True:
        try:
            wanted = pickle.load(sys.stdin.buffer)  # noqa: S301 -- from our own
        except EOFError:
            return
        tell(hasher.compare(wanted))


if __name__ == "__main__":
    main(*sys.argv[1:])
