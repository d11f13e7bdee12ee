"""A server that is killed and started again, on whatever keeps its bytes."""

import json
import os
import random
import re
import signal
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tests.parts import registry, s3
from tests.parts.processes import wait_until
from tests.parts.registry import Server

# What a server may complain of when its processes are killed one by one.
_EXPECTED = ("ended unexpectedly (killed by SIGKILL)", "the parent process is gone")
_LONGEST_PAUSE = 0.05

# The last words of a worker whose supervisor was killed while it started it.
_ORPHANED = re.compile(r"^Traceback .*?\nEOFError: Ran out of input\n", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Storage:
    """Where a server keeps its bytes, and how it is told.

    Attributes:
        variables: ``REGISTRY_*`` variables that say so; None for the folder ``root``.
        bucket: The bucket that they lead to, if they lead to one.
        program: What runs the server there.
    """

    root: Path | None = None
    variables: Mapping[str, str] | None = None
    bucket: s3.Bucket | None = None
    program: Sequence[str | Path] = registry.PROGRAM


def in_bucket(bucket: s3.Bucket, program: Sequence[str | Path]) -> Storage:
    """Return a bucket as the storage of servers that serve its blobs themselves."""
    variables = bucket.variables() | {"REGISTRY_STORAGE_REDIRECT_DISABLE": "true"}
    return Storage(variables=variables, bucket=bucket, program=program)


class Way(StrEnum):
    """How a server is killed."""

    AT_ONCE = "at once"
    """The whole process group."""
    ONE_BY_ONE = "one by one"
    """The supervisor and the workers by their ids, in any order, a little apart."""
    WORKERS = "workers"
    """One worker or all of them; the supervisor lives and starts others."""


class Victim:
    """A server that may be killed at any moment, and comes back at the same address.

    Args:
        directory: For its log.
        storage: Where it keeps its bytes.
        workers: How many processes serve.
    """

    def __init__(self, directory: Path, storage: Storage, workers: int) -> None:
        self.address = f"127.0.0.1:{_steady_port()}"
        self._directory = directory
        self.storage = storage
        self._workers = workers
        self._running = ExitStack()
        self._server: Server | None = None
        self._read = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Have it for the length of a block, however often it is killed meanwhile."""
        try:
            self.start()
            yield
        finally:
            self.stop()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._server = self._running.enter_context(
            registry.running(
                self._directory,
                root=self.storage.root,
                storage=self.storage.variables,
                program=self.storage.program,
                workers=self._workers,
                address=self.address,
                settings={"REGISTRY_LOG_ACCESSLOG": "{disabled: true}"},
            )
        )

    def stop(self) -> None:
        """End it politely, or take leave of it when it was killed."""
        self._running.close()
        self._server = None

    def kill(self, way: Way, chance: random.Random) -> None:
        """Kill it, and return when it can do nothing more."""
        assert self._server is not None
        pid, workers = self._server.pid, self._server.workers()
        if way is Way.WORKERS:
            doomed = chance.choice([workers, workers[:1], workers[1:]])
            _kill(doomed)
            wait_until(lambda: not any(map(_is_alive, doomed)), "the workers to be gone")
            return
        if way is Way.ONE_BY_ONE:
            for one in chance.sample([pid, *workers], 1 + len(workers)):
                _kill([one])
                time.sleep(chance.uniform(0, _LONGEST_PAUSE))
        else:
            os.killpg(pid, signal.SIGKILL)
        # With those that the supervisor started meanwhile.
        while members := _group(pid):
            _kill(members)

    def complaints(self) -> list[str]:
        """Return the lines of its log since the last call that say of trouble."""
        content = (self._directory / "registry.log").read_text(errors="replace")
        new, self._read = content[self._read :], len(content)
        return [line for line in _ORPHANED.sub("", new).splitlines() if _complains(line)]


def _is_alive(pid: int) -> bool:
    """Tell whether a process can still do anything."""
    state, _group = _status(pid)
    return state not in {"", "Z", "X"}


def _group(leader: int) -> list[int]:
    """Return the processes of a group that are alive."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    return [pid for pid in pids if _status(pid)[1] == leader and _is_alive(pid)]


def _status(pid: int) -> tuple[str, int]:
    """Return the state and the group of a process, or nothing when there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", 0
    return fields[0], int(fields[2])


def _kill(pids: Sequence[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            # It ended by itself: a worker does, once it notices that its supervisor is gone.
            continue


def _complains(line: str) -> bool:
    if "Traceback" in line:
        return True
    try:
        entry = json.loads(line)
    except ValueError:
        # The last words of a process that was killed.
        return False
    is_trouble = entry.get("level") in {"warn", "error", "critical"}
    return is_trouble and not any(words in line for words in _EXPECTED)


def _steady_port() -> int:
    """Return a port that stays free while nobody listens: not one that the kernel hands out."""
    while True:
        port = random.SystemRandom().randrange(20_000, 30_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
