"""Records that processes share: each one writes its own, and everybody reads all of them.

They lie in memory that has a descriptor but no name, and are written and read, never mapped: where
there is no room a write fails, while touching such a page of a mapping kills the process. Each
record has two places, and the newer one is left alone while the other is written. So nobody waits
for a lock, and who dies while writing leaves the record before, from which a successor can go on.
"""

import errno
import os
import struct
import sys
import tempfile
import zlib
from collections.abc import Iterator
from multiprocessing import reduction
from typing import Any

from typing_extensions import override

# Checksum of all that follows, length of the content, number of the record.
_HEADER = struct.Struct("<IIQ")
_CHECKSUM_BYTES = 4
# What nobody has written takes no memory.
_PLACE_BYTES = 4 * 2**20
_TRIES = 10


class SharedRecords:
    """A record for each of several processes; to be handed to them when they are spawned.

    Args:
        descriptor: Of what they lie in; a place of their own by default.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        self._descriptor = _make_place() if descriptor is None else descriptor

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (type(self), reduction.DupFd(self._descriptor))

    def close(self) -> None:
        """Let go of them; other processes keep them."""
        os.close(self._descriptor)

    def write(self, index: int, content: bytes) -> None:
        """Replace a record, which nobody else may do at the same time.

        Raises:
            OSError: There is no room.
        """
        if _HEADER.size + len(content) > _PLACE_BYTES:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        number = 1 + max((number for number, _ in self._places(index)), default=0)
        rest = _HEADER.pack(0, len(content), number)[_CHECKSUM_BYTES:] + content
        written = zlib.crc32(rest).to_bytes(_CHECKSUM_BYTES, "little") + rest
        if os.pwrite(self._descriptor, written, _offset(index, number % 2)) != len(written):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def read(self, index: int) -> bytes:
        """Return the latest record; empty when there is none."""
        for _ in range(_TRIES):
            # One of them is whole, unless it was replaced twice while we looked.
            if found := list(self._places(index)):
                return max(found)[1]
        return b""

    def _places(self, index: int) -> Iterator[tuple[int, bytes]]:
        """Number and content of what is whole."""
        for half in (0, 1):
            offset = _offset(index, half)
            head = os.pread(self._descriptor, _HEADER.size, offset)
            if len(head) < _HEADER.size:
                continue
            checksum, length, number = _HEADER.unpack(head)
            content = os.pread(self._descriptor, min(length, _PLACE_BYTES), offset + len(head))
            if zlib.crc32(head[_CHECKSUM_BYTES:] + content) == checksum:
                yield number, content


def _offset(index: int, half: int) -> int:
    return (2 * index + half) * _PLACE_BYTES


def _make_place() -> int:
    if sys.platform == "linux":
        return os.memfd_create("image-registry")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _received(kind: type[SharedRecords], handed: Any) -> SharedRecords:
    return kind(handed.detach())
