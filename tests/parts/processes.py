"""Starts a program, waits until it answers, and stops it by its own process id.

Every program has its own folder and its own port, so that two test runs on one
machine never meet. What it printed is in its log file, and in the message when it
does not come up.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

START_SECONDS = 60.0
"""Long, as the machine may be busy; what is waited for comes in a second or two."""

STOP_SECONDS = 20.0
POLL_SECONDS = 0.02

# Tests that are killed can't clean up: the kernel then stops what they started.
_ENDS_WITH_ITS_PARENT = ("setpriv", "--pdeathsig", "TERM") if shutil.which("setpriv") else ()


class PartFailed(Exception):
    """A real program did not come up, or a command of one failed."""


def free_port() -> int:
    """Return a TCP port on the loopback address that nobody listens on now."""
    (port,) = free_ports(1)
    return port


def free_ports(count: int) -> list[int]:
    """Return as many different ones."""
    with contextlib.ExitStack() as probes:
        ports = []
        for _ in range(count):
            probe = probes.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            ports.append(int(probe.getsockname()[1]))
        return ports


def listens(port: int) -> bool:
    """Whether something accepts connections on a loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until(condition: Callable[[], bool], what: str, seconds: float = START_SECONDS) -> None:
    """Poll until a condition holds.

    Raises:
        PartFailed: It did not hold in time; the message names what was waited for.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise PartFailed(f"waited {seconds:.0f} s for {what}")
        time.sleep(POLL_SECONDS)


def children_of(pid: int, containing: bytes = b"") -> list[int]:
    """Return the processes that one has started and that still run.

    Args:
        pid: The process that has started them.
        containing: What their command lines have to contain.
    """
    found = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        pids: list[str] = []
        # A thread may end meanwhile, and a child as well.
        with contextlib.suppress(OSError):
            pids = children.read_text().split()
        for child in map(int, pids):
            with contextlib.suppress(OSError):
                if containing in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(child)
    return found


def family_of(pid: int) -> list[int]:
    """Return a process and everything it started that still runs."""
    found = [pid]
    for member in found:
        # A thread may end while its children are being read.
        with contextlib.suppress(OSError):
            found.extend(children_of(member))
    return found


def state_of(pid: int) -> str:
    """Return the letter for what a process is doing, of ``proc(5)``; "" when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def cpu_seconds(pid: int) -> float:
    """Return the processor's time that a process and those of its family have used."""
    ticks = 0
    for member in family_of(pid):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def peak_memory(pid: int) -> int:
    """Return the most resident memory that a process ever had, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


@contextmanager
def started(
    command: Sequence[str | Path],
    *,
    log: Path,
    ready: Callable[[], bool],
    environment: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program for the length of a ``with`` block.

    Args:
        command: The program and its arguments.
        log: Takes everything it prints.
        ready: Says whether it answers.
        environment: Its environment; by default that of the tests.

    Raises:
        PartFailed: It ended or stayed silent instead of answering.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*_ENDS_WITH_ITS_PARENT, *(str(part) for part in command)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            # A Ctrl-C at the terminal is for the tests, which then stop it in order.
            start_new_session=True,
        )
    try:
        _wait_for_answer(process, Path(command[0]).name, ready, log)
        yield process
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes], seconds: float = STOP_SECONDS) -> int:
    """End a program politely, then with all that it started by force; return its exit status."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        # By their ids: a search by name would also find somebody else's server. Parents go first,
        # who might start another child for the one that ended.
        for pid in family_of(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return process.wait(STOP_SECONDS)


def run(
    command: Sequence[str | Path],
    *,
    environment: Mapping[str, str] | None = None,
    seconds: float = 120,
    directory: Path | None = None,
    check: bool = True,
    stdin: str = "",
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and return what it printed.

    Raises:
        PartFailed: It failed; the message is what it said.
    """
    done = subprocess.run(
        [str(part) for part in command],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=seconds,
        env=environment,
        cwd=directory,
        check=False,
    )
    if check and done.returncode != 0:
        line = " ".join(str(part) for part in command)
        raise PartFailed(f"exit status {done.returncode}: {line}\n{done.stdout}{done.stderr}")
    return done


def inherited(**changes: str) -> dict[str, str]:
    """Return the environment of the tests with some variables set."""
    return os.environ | changes


def _wait_for_answer(
    process: subprocess.Popen[bytes], name: str, ready: Callable[[], bool], log: Path
) -> None:
    try:
        wait_until(lambda: process.poll() is not None or ready(), f"an answer of {name}")
    except PartFailed as failed:
        raise PartFailed(f"{failed}; it said:\n{_end_of(log)}") from None
    if process.poll() is not None:
        raise PartFailed(f"{name} ended with status {process.returncode}:\n{_end_of(log)}")


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-4000:]
