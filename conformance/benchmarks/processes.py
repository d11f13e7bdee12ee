"""Starting, watching and stopping the servers that are measured.

A server is a tree of processes. Each is known by its id from ``/proc`` and ended by
that id: a search by name would also find somebody else's server.
"""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

START_SECONDS = 30.0
STOP_SECONDS = 20.0
SETTLE_SECONDS = 0.5
"""The first answer comes from the first worker; this long later all of them are there."""


class StartFailed(Exception):
    """A server did not come up; the message ends with what it printed."""


def free_port() -> int:
    """Find a port of the loopback interface that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def running(
    command: Sequence[str], environment: Mapping[str, str], port: int, log: Path
) -> Iterator[int]:
    """Run a server while the block runs, and give its process id.

    Raises:
        StartFailed: It ended, or did not listen in time.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, env=dict(environment), stdout=output, stderr=output, stdin=subprocess.DEVNULL
        )
    try:
        _wait_until_it_listens(process, port, log)
        time.sleep(SETTLE_SECONDS)
        yield process.pid
    finally:
        _stop(process)


def descendants(pid: int) -> list[int]:
    """List a process and everything it started that still runs."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                children.setdefault(_parent(entry), []).append(int(entry.name))
    found = [pid]
    for process in found:
        found.extend(children.get(process, ()))
    return found


def peak_memory(pid: int) -> int:
    """Tell the most resident memory that a process ever had, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _parent(entry: Path) -> int:
    # The second field is the program's name in parentheses and may hold anything,
    # spaces and parentheses included.
    return int((entry / "stat").read_text().rpartition(")")[2].split()[1])


def _wait_until_it_listens(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", port), 1) as probe,
        ):
            probe.settimeout(1)
            probe.sendall(b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            if probe.recv(12):
                return
        time.sleep(0.05)
    said = log.read_text(errors="replace")[-2000:]
    raise StartFailed(f"{process.args!r} does not answer on port {port}. It said:\n{said}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    family = descendants(process.pid)
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        for pid in reversed(family):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
