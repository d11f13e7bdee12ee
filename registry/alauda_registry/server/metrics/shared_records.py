"""Records that processes share: each one writes its own, and everybody reads all of them.

Each record has two places, and the newer one is left alone while the other is written. So nobody
waits for a lock, and who dies while writing leaves the record before, from which a successor can go
on.
"""

import errno
import os
import struct
import zlib
from collections.abc import Iterator

from alauda_registry.auth.shared_memory import SharedMemory

# Checksum of all that follows, length of the content, number of the record.
_HEADER = struct.Struct("<IIQ")
_CHECKSUM_BYTES = 4
# What nobody has written takes no memory.
_PLACE_BYTES = 4 * 2**20
_TRIES = 10


class SharedRecords(SharedMemory):
    """A record for each of several processes; to be handed to them when they are spawned."""

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
        if os.pwrite(self.descriptor, written, _offset(index, number % 2)) != len(written):
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
            head = os.pread(self.descriptor, _HEADER.size, offset)
            if len(head) < _HEADER.size:
                continue
            checksum, length, number = _HEADER.unpack(head)
            content = os.pread(self.descriptor, min(length, _PLACE_BYTES), offset + len(head))
            if zlib.crc32(head[_CHECKSUM_BYTES:] + content) == checksum:
                yield number, content


def _offset(index: int, half: int) -> int:
    return (2 * index + half) * _PLACE_BYTES
