"""Many watches in a process of its own, which notes how long ago each event was asked for.

Whoever writes puts the time into an annotation, as :func:`time.monotonic_ns` has it, which is one
clock for all processes of a machine. Run as a module it is told on standard input what to open,
says so when everything is open, and after the next line how long each event took.
"""

import json
import re
import select
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from conformance.benchmarks.load import LoadFailed

ANNOTATION = "bench.example.com/sent"
LATE_SECONDS = 20.0
"""How long after the last write an event may still come."""

_SENT = re.compile(rb'"bench\.example\.com/sent":"(\d+)"')
_READ = 256 * 1024
_END = b"\r\n0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to watch.

    Attributes:
        url: Of the API server.
        authority: The file with the certificate that signed its own.
        headers: Of each request.
        paths: One for each watch, with its query.
    """

    url: str
    authority: str
    headers: Mapping[str, str]
    paths: Sequence[str]


class Watchers:
    """The process."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def finish(self, expected: int) -> list[float]:
        """Return how many milliseconds each event took, once so many have come.

        Raises:
            LoadFailed: They have not come.
        """
        said = self._ask(str(expected))
        found: list[float] = json.loads(said)
        if len(found) != expected:
            raise LoadFailed(f"{len(found)} of {expected} events came")
        return found

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        said = self._process.stdout.readline()
        if not said:
            raise LoadFailed("the watchers have ended; what they said is above")
        return said


@contextmanager
def running(plan: Plan) -> Iterator[Watchers]:
    """Have watches open for the length of a ``with`` block."""
    command = [sys.executable, "-m", "conformance.benchmarks.watchers"]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        try:
            watchers = Watchers(process)
            watchers._ask(json.dumps(asdict(plan)))
            yield watchers
        finally:
            process.kill()


class _Watch:
    """One connection."""

    def __init__(self, connection: ssl.SSLSocket) -> None:
        self.connection = connection
        self._rest = b""

    def read(self) -> list[int]:
        """Return when the events were asked for that have come whole."""
        found: list[int] = []
        while True:
            try:
                data = self.connection.recv(_READ)
            except ssl.SSLWantReadError:
                return found
            if not data or data.endswith(_END):
                # kube-apiserver ends those of a client that does not keep up.
                raise LoadFailed("a watch was ended")
            *lines, self._rest = (self._rest + data).split(b"\n")
            found += [int(sent[1]) for line in lines if (sent := _SENT.search(line))]


def _open(plan: Plan, context: ssl.SSLContext, path: str) -> _Watch:
    address = urlsplit(plan.url)
    connection = context.wrap_socket(
        socket.create_connection((address.hostname or "", address.port or 443)),
        server_hostname=address.hostname,
    )
    lines = [f"GET {path} HTTP/1.1", f"Host: {address.netloc}"]
    lines += [f"{name}: {value}" for name, value in plan.headers.items()]
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    head = b""
    while b"\r\n\r\n" not in head:
        data = connection.recv(_READ)
        if not data:
            break
        head += data
    if not head.startswith(b"HTTP/1.1 200"):
        raise LoadFailed(f"{path}: {head[:500]!r}")
    connection.setblocking(False)
    return _Watch(connection)


def main() -> None:
    """Do as standard input says."""
    plan = Plan(**json.loads(sys.stdin.readline()))
    context = ssl.create_default_context(cafile=plan.authority)
    with ExitStack() as stack:
        poll = stack.enter_context(select.epoll())
        watches: dict[int, _Watch] = {}
        for path in plan.paths:
            watch = _open(plan, context, path)
            stack.callback(watch.connection.close)
            watches[watch.connection.fileno()] = watch
            poll.register(watch.connection.fileno(), select.EPOLLIN)
        poll.register(sys.stdin.fileno(), select.EPOLLIN)
        print("open", flush=True)
        found: list[float] = []
        expected, end = sys.maxsize, float("inf")
        while len(found) < expected and time.monotonic() < end:
            for number, _ in poll.poll(0.1):
                if number == sys.stdin.fileno():
                    expected, end = int(sys.stdin.readline()), time.monotonic() + LATE_SECONDS
                    poll.unregister(number)
                    continue
                sent = watches[number].read()
                now = time.monotonic_ns()
                found += [(now - then) / 1e6 for then in sent]
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
