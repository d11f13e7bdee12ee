"""One sync of a directory for all who changed it before the sync began.

Whoever finds a sync under way can't tell whether it comes upon their change. They wait for it to
end and begin the next one, and all who come meanwhile wait for that. Who is alone never waits.

A system says once that it could not write something, and has it pass for written from then
on. So a sync that fails does so for everybody who may have changed the directory before.
"""

import errno
import os
import threading
from collections.abc import Hashable
from dataclasses import dataclass


class SharedSyncs:
    """Knows who is changing which directory, and lets them share their syncs."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._directories: dict[Hashable, _Directory] = {}

    def enter(self, key: Hashable) -> "Change":
        """Say that a directory is about to be changed. :meth:`leave` has to follow.

        Args:
            key: What tells it from all others, as long as somebody has it open.
        """
        with self._guard:
            directory = self._directories.get(key)
            if directory is None:
                directory = self._directories[key] = _Directory(key)
            directory.users += 1
            return Change(directory, directory.failures)

    def leave(self, change: "Change") -> None:
        """Say that the change is durable, or given up."""
        directory = change.directory
        with self._guard:
            directory.users -= 1
            if not directory.users:
                del self._directories[directory.key]

    def sync(self, change: "Change", fd: int) -> None:
        """Make a change durable, with all others that were made before.

        Args:
            change: What :meth:`enter` returned before the change was made.
            fd: The directory.

        Raises:
            OSError: It may not be durable, and never will.
        """
        directory = change.directory
        with self._guard:
            shared, before = directory.next, directory.running
            if shared is None:
                directory.next = threading.Event()
        if shared is not None:
            shared.wait()
        else:
            if before is not None:
                before.wait()
            self._sync(directory, fd)
        if directory.failures > change.failures:
            error = directory.error
            raise OSError(error.errno, error.strerror) from error

    def _sync(self, directory: "_Directory", fd: int) -> None:
        with self._guard:
            # Who comes from here on may change what has been looked at.
            running = directory.running = directory.next or threading.Event()
            directory.next = None
        failure: OSError | None = OSError(errno.EIO, "the sync was broken off")
        try:
            os.fsync(fd)
            failure = None
        except OSError as error:
            failure = error
        finally:
            with self._guard:
                directory.running = None
                if failure is not None:
                    directory.failures += 1
                    directory.error = failure
            running.set()


@dataclass(slots=True)
class Change:
    """A change that somebody makes in a directory.

    Attributes:
        directory: Where.
        failures: How many syncs of it had failed before.
    """

    directory: "_Directory"
    failures: int


class _Directory:
    """A directory that somebody is changing.

    Attributes:
        key: What it is known by.
        users: How many are changing it.
        running: Set when the sync that has begun is over.
        next: Set when the one that has not begun is over.
        failures: How many failed.
        error: Why the last of them did.
    """

    __slots__ = ("error", "failures", "key", "next", "running", "users")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.users = 0
        self.running: threading.Event | None = None
        self.next: threading.Event | None = None
        self.failures = 0
        self.error = OSError()
