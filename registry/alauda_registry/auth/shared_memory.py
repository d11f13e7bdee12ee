"""Memory that processes share by a descriptor. It has no name, and goes with the last of them.

It is written and read, never mapped: where there is no room a write fails, while touching such a
page of a mapping kills the process.
"""

import os
import sys
import tempfile
import weakref
from multiprocessing import reduction
from typing import Any

from typing_extensions import override


class SharedMemory:
    """Memory that can be handed to processes when they are spawned.

    Args:
        descriptor: Of what is shared; something of its own by default.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        self.descriptor = _make() if descriptor is None else descriptor
        # Whose descriptor was handed in closes it.
        is_own = descriptor is None
        self._end = weakref.finalize(self, os.close, self.descriptor) if is_own else None

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (type(self), reduction.DupFd(self.descriptor))

    def close(self) -> None:
        """Let go of it; other processes keep it."""
        if self._end is None:
            os.close(self.descriptor)
        else:
            self._end()


def _make() -> int:
    if sys.platform == "linux":
        return os.memfd_create("image-registry")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _received(kind: type[SharedMemory], handed: Any) -> SharedMemory:
    return kind(handed.detach())
