"""Files that are read again when they change: passwords, rules, keys.

A changed file counts within a second. One that cannot be understood after a change is logged, and
what was read before stays: a slip of the pen must not lock everybody out, or let anybody in.
"""

import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Between two looks at the files."""

_T = TypeVar("_T")
_Stamp: TypeAlias = tuple[tuple[int, ...] | None, ...]


class FileInvalid(Exception):
    """A file cannot be read or understood; the message says which, why and what to do."""


class Watched(Generic[_T]):
    """What is in some files, as they are now.

    Args:
        paths: The files.
        read: Makes something of their contents; raises `FileInvalid`.
        now: The clock, in seconds.

    Raises:
        FileInvalid: They cannot be read at the beginning.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        read: Callable[[Sequence[bytes]], _T],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._paths = paths
        self._read = read
        self._now = now
        self._stamp = self._look()
        self._value = self._understood(self._contents())
        self._complained_of = self._stamp
        self._next_look = now() + LOOK_SECONDS
        self.generation = 0
        """Another number whenever there is something else in them."""

    @property
    def current(self) -> _T:
        """What is in them."""
        if (now := self._now()) >= self._next_look:
            self._next_look = now + LOOK_SECONDS
            self._reload()
        return self._value

    @property
    def known_until(self) -> float:
        """When the files are looked at again; `current` stays the same until then."""
        return self._next_look

    def _reload(self) -> None:
        stamp = self._look()
        if stamp == self._stamp:
            return
        try:
            contents = self._contents()
            # Not before: what could not be read now, for want of descriptors for instance, is
            # tried again although the files stay the same.
            self._stamp = stamp
            self._value = self._understood(contents)
        except FileInvalid as error:
            if stamp != self._complained_of:
                logger.error("keeping what was read before: %s", error)  # noqa: TRY400,RUF100 -- the reason is enough
            self._complained_of = stamp
            return
        self.generation += 1
        logger.info("read again: %s", ", ".join(map(str, self._paths)))

    def _contents(self) -> Sequence[bytes]:
        try:
            return [path.read_bytes() for path in self._paths]
        except OSError as error:
            raise FileInvalid(
                f"cannot read {error.filename}: {error.strerror}; it has to be there, and readable "
                f"for the user {os.geteuid()}, as which the registry runs"
            ) from error

    def _understood(self, contents: Sequence[bytes]) -> _T:
        try:
            return self._read(contents)
        except FileInvalid as error:
            if not self._paths:
                raise
            raise FileInvalid(f"{', '.join(map(str, self._paths))}: {error}") from error

    def _look(self) -> _Stamp:
        return tuple(map(_stamp, self._paths))


def sync_directory(path: Path) -> None:
    """See to it that what has been made in a directory survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        # Through links: a mounted Secret is renewed by moving one.
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
