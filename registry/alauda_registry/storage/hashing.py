"""What is known of the digest of an upload that is still arriving.

Hash states can't be stored (hashlib does not give them out), so they live in the memory
of the process the bytes went through. What can be stored is the finished digest of a
copy: enough for another process to end the upload, not enough to go on with it.
"""

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from alauda_registry.oci.digest import Algorithm, Digest, Hasher
from alauda_registry.oci.errors import DigestInvalid

_KEPT_MAXIMUM = 4096


@cache
def boot_id() -> str:
    """Return what names this run of the machine's kernel, or "" where nothing does.

    Bytes that were not synced may be lost when it changes, and digests of them with them.
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


class HashProgress:
    """The hash states of the first ``offset`` bytes of an upload."""

    def __init__(self, offset: int, hashers: Mapping[Algorithm, Hasher]) -> None:
        self.offset = offset
        self._hashers = hashers

    @classmethod
    def begin(cls, algorithm: Algorithm) -> "HashProgress":
        """Return the progress of an upload of which nothing has arrived."""
        return cls(0, {algorithm: algorithm.hasher()})

    def copy(self) -> "HashProgress":
        """Return a progress that stays here while this one goes on."""
        copies = {algorithm: hasher.copy() for algorithm, hasher in self._hashers.items()}
        return HashProgress(self.offset, copies)

    def absorb(self, block: Sequence[bytes]) -> None:
        """Take in the bytes that come next. Blocks, for about a second a gigabyte."""
        # Nobody may use the states when this ends half-way.
        offset, self.offset = self.offset, -1
        for hasher in self._hashers.values():
            for chunk in block:
                hasher.update(chunk)
        self.offset = offset + sum(map(len, block))

    def digest(self, algorithm: Algorithm) -> Digest | None:
        """Return the digest of the bytes so far, or None when they were hashed otherwise."""
        hasher = self._hashers.get(algorithm)
        return Digest(algorithm, hasher.hexdigest()) if hasher is not None else None

    def dump(self) -> bytes:
        """Return the digests so far in the form that :meth:`load` takes."""
        digests = [str(self.digest(algorithm)) for algorithm in self._hashers]
        return json.dumps({"offset": self.offset, "boot": boot_id(), "digests": digests}).encode()

    @staticmethod
    def load(
        content: bytes, *, offset: int, algorithm: Algorithm, any_machine: bool = False
    ) -> Digest | None:
        """Return a stored digest of the first ``offset`` bytes, or None when there is none.

        Args:
            content: What :meth:`dump` returned.
            offset: How many bytes there are.
            algorithm: Of the digest.
            any_machine: Whether it may be another machine's, and from before this one was last
                started: where the bytes can't be lost without it.
        """
        try:
            stored = json.loads(content)
            if stored["offset"] != offset:
                return None
            if not any_machine and (not boot_id() or stored["boot"] != boot_id()):
                return None
            digests = [Digest.parse(text) for text in stored["digests"]]
        except (ValueError, KeyError, TypeError, RecursionError, DigestInvalid):
            return None
        return next((digest for digest in digests if digest.algorithm == algorithm), None)


class HashProgressCache:
    """The progress of the uploads that went through this process."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, HashProgress] = OrderedDict()

    def put(self, upload_id: str, progress: HashProgress) -> None:
        """Remember the progress of an upload, and forget that of the one longest idle."""
        self._kept[upload_id] = progress
        self._kept.move_to_end(upload_id)
        if len(self._kept) > _KEPT_MAXIMUM:
            self._kept.popitem(last=False)

    def take(self, upload_id: str, offset: int) -> HashProgress | None:
        """Hand out the progress of an upload, unless bytes went through another process."""
        progress = self._kept.pop(upload_id, None)
        return progress if progress is not None and progress.offset == offset else None

    def forget(self, upload_id: str) -> None:
        """Drop what is known of an upload that is over."""
        self._kept.pop(upload_id, None)
