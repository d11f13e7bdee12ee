"""What several processes know together of failed logins.

A table of fixed size in memory that they share: records are found by a keyed hash, so that nobody
can choose whose record theirs displaces, and nothing in it can be logged in with. Where a bucket is
full the record goes that changed longest ago. One lock guards it, and the system lets go of it for
whoever dies.
"""

import fcntl
import hashlib
import os
import secrets
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from alauda_registry.auth.shared_memory import SharedMemory

RECORDS = 16_384
"""How many there is room for."""

_SECRET_BYTES = 32
_KEY_BYTES = 16
_RECORD = struct.Struct(f"<{_KEY_BYTES}sQdd")
_BUCKET_RECORDS = 8
_BUCKET_BYTES = _BUCKET_RECORDS * _RECORD.size
_BUCKETS = RECORDS // _BUCKET_RECORDS


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of somebody, or of something that somebody has shown.

    Attributes:
        failures: How many there were.
        last: When the record changed, by ``time.monotonic``, which all processes share.
        until: How long it has an effect, by the same clock.
    """

    failures: int = 0
    last: float = 0.0
    until: float = 0.0


class Failures(SharedMemory):
    """The table; to be handed to processes when they are spawned.

    Args:
        descriptor: Of the table of another process; an empty one by default.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        super().__init__(descriptor)
        if descriptor is None:
            # Written whole, so that there is room for whatever comes.
            secret = secrets.token_bytes(_SECRET_BYTES)
            os.pwrite(self.descriptor, secret + bytes(_BUCKETS * _BUCKET_BYTES), 0)
        self._secret = os.pread(self.descriptor, _SECRET_BYTES, 0)

    def key(self, *parts: bytes) -> bytes:
        """Return what a record is found by: the same in all processes, and in no other table."""
        hashed = hashlib.blake2b(key=self._secret, digest_size=_KEY_BYTES)
        for part in parts:
            hashed.update(len(part).to_bytes(8, "little") + part)
        return hashed.digest()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes away from all records, for microseconds; not other threads."""
        fcntl.lockf(self.descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self.descriptor, fcntl.LOCK_UN)

    def get(self, key: bytes) -> Record:
        """Return a record, an empty one where there is none. The table has to be locked."""
        for found, record in self._bucket(key):
            if found == key:
                return record
        return Record()

    def put(self, key: bytes, record: Record) -> None:
        """Replace a record. The table has to be locked."""
        bucket = self._bucket(key)
        place = min(
            range(_BUCKET_RECORDS),
            key=lambda index: (bucket[index][0] != key, bucket[index][1].last),
        )
        content = _RECORD.pack(key, record.failures, record.last, record.until)
        os.pwrite(self.descriptor, content, self._offset(key) + place * _RECORD.size)

    def _bucket(self, key: bytes) -> list[tuple[bytes, Record]]:
        content = os.pread(self.descriptor, _BUCKET_BYTES, self._offset(key))
        return [(found, Record(*more)) for found, *more in _RECORD.iter_unpack(content)]

    @staticmethod
    def _offset(key: bytes) -> int:
        return _SECRET_BYTES + int.from_bytes(key[:8], "little") % _BUCKETS * _BUCKET_BYTES
