"""The processes that read a directory for a check: one that walks, and some that hash.

Each ends with the check, however that ends: they have pipes to it and nothing else to do, so
that one whose check was killed finds them broken.
"""

import contextlib
import fcntl
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from alauda_registry.oci.digest import Digest
from alauda_registry.storage import paths
from alauda_registry.storage.driver import Unreachable
from alauda_registry.storage.fsck import hasher, walker
from alauda_registry.storage.fsck.files import File, Outcome

NAME = "directory"
_OF_THE_CHECK = (signal.SIGINT, signal.SIGTERM)
_PIPE_BYTES = 1024 * 1024
"""Room for some batches, so that the walk goes on while the one before it is looked through.

It is the most that a system gives to anybody unless it is told otherwise.
"""


class Stopped(Exception):
    """The check was told to stop."""


class Hashers:
    """Processes that hash; one is started when all are at work.

    Args:
        root: The directory.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._guard = threading.Lock()
        self._idle: list[subprocess.Popen[bytes]] = []
        self._all: list[subprocess.Popen[bytes]] = []
        self._is_stopped = False

    def compare(
        self, digests: Sequence[Digest], advance: Callable[[int], None]
    ) -> list[tuple[Digest, Outcome]]:
        """Hash blobs, and return those that do not match their digests. Blocks.

        Raises:
            Stopped: By :meth:`stop`.
            Unreachable: The process that hashed was killed.
        """
        process = self._take()
        wanted = [(digest.algorithm.value, digest.encoded) for digest in digests]
        try:
            assert process.stdin is not None  # noqa: S101 -- it has a pipe
            pickle.dump(wanted, process.stdin, 5)
            process.stdin.flush()
            while isinstance(answer := receive(process, "hashing"), int):
                advance(answer)
        except (Unreachable, OSError, ValueError) as error:
            with self._guard:
                if self._is_stopped:
                    raise Stopped from error
            if isinstance(error, Unreachable):
                raise
            raise _cut_short("hashing") from error
        with self._guard:
            self._idle.append(process)
        return [(digests[number], Outcome(outcome)) for number, outcome in answer]

    def stop(self) -> None:
        """End all processes, whatever they are doing. Stopping twice is harmless."""
        with self._guard:
            self._is_stopped = True
            for process in self._all:
                process.kill()

    def close(self) -> None:
        """Let go of the processes, which are at work no more."""
        self.stop()
        for process in self._all:
            end(process)

    def _take(self) -> "subprocess.Popen[bytes]":
        with self._guard:
            if self._is_stopped:
                raise Stopped
            if self._idle:
                return self._idle.pop()
            process = _start(hasher.__name__, str(self._root), stdin=subprocess.PIPE)
            self._all.append(process)
            return process


def start_walk(root: Path, folder: str) -> "subprocess.Popen[bytes]":
    """Start a process that walks through a folder below a root."""
    process = _start(walker.__name__, str(root), folder, stdin=subprocess.DEVNULL)
    # Refused to users who have many large pipes: then it is only slower.
    with contextlib.suppress(OSError):
        fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)  # type: ignore[arg-type]
    return process


def receive_files(process: "subprocess.Popen[bytes]") -> list[File]:
    """Return the next batch of a walk, which is empty at the end.

    Raises:
        Unreachable: The process was killed.
    """
    return list(map(File._make, receive(process, "the walk")))


def receive(process: "subprocess.Popen[bytes]", what: str) -> Any:
    """Return the next thing that a process writes.

    Raises:
        Unreachable: The process was killed.
    """
    try:
        return pickle.load(process.stdout)  # type: ignore[arg-type] # noqa: S301 -- of our own
    except (EOFError, pickle.UnpicklingError) as error:
        raise _cut_short(what) from error


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a process, and wait until it has."""
    process.kill()
    # What it was asked and did not take in is of no use any more.
    with contextlib.suppress(BrokenPipeError), process:
        pass


def _start(program: str, *arguments: str, stdin: int) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-P", "-m", program, *arguments]
    # Ctrl-C at a terminal, or whoever stops a service, tells all processes at once; these wait for
    # the check. What is blocked here is blocked in them from their first instruction on.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _OF_THE_CHECK)
    try:
        return subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE)  # noqa: S603 -- ours
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _cut_short(what: str) -> Unreachable:
    return Unreachable(f"{what} was cut short", driver=NAME, path=paths.ROOT)
