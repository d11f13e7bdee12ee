"""Who takes part, and how each is started: as its users would, with access logs off.

Both registries keep their data on the same disk, speak plain HTTP and may delete. The
peer gets the cache of blob descriptors that its own example configuration has, so that
it is seen at its best.
"""

import contextlib
import os
import socket
import ssl
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from typing_extensions import override

from conformance.benchmarks.client import Connection
from tests.parts import processes, tools

_PEER = tools.pins().go["distribution"]
PEER_VERSION, PEER_PROGRAM = _PEER.version, _PEER.path
WORKERS = 2
QUIET_SECONDS = 0.3
QUIET_SHARE = 0.1
"""The first answer comes from the first worker. Who still starts others, or looks at its storage,
would do that on the load's time: it is left alone until it takes no more than this share of a
processor for so long."""
PATIENCE_SECONDS = 30.0

_PEER_CONFIGURATION = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage:
  filesystem: {{rootdirectory: "{root}"}}
  delete: {{enabled: true}}
  cache: {{blobdescriptor: inmemory}}
http: {{addr: "127.0.0.1:{port}"}}
"""


class Server(Protocol):
    """A program that listens on a port and keeps what it keeps below a folder."""

    @property
    def name(self) -> str:
        """What it is called in the results."""

    def command(self, root: Path, port: int) -> Sequence[str]:
        """The command that starts it; may write files next to the folder."""

    def environment(self) -> Mapping[str, str]:
        """The variables it is started with, beyond the usual ones."""

    @property
    def authority(self) -> Path | None:
        """Who signed its certificate; None when it speaks plain HTTP."""
        return None


@dataclass(frozen=True, slots=True)
class Ours(Server):
    """The registry of this project."""

    name: str = "ours"

    @override
    def command(self, root: Path, port: int) -> Sequence[str]:
        serve = ["serve", "--root", str(root), "--listen", f"127.0.0.1:{port}"]
        return [sys.executable, "-m", "alauda_registry", *serve, "--workers", str(WORKERS)]

    @override
    def environment(self) -> Mapping[str, str]:
        return {"REGISTRY_LOG_ACCESSLOG_DISABLED": "true"}


@dataclass(frozen=True, slots=True)
class Peer(Server):
    """distribution, the reference implementation of a registry."""

    program: Path = PEER_PROGRAM
    name: str = "distribution"

    @override
    def command(self, root: Path, port: int) -> Sequence[str]:
        configuration = root.with_name(f"{root.name}-{port}.yml")
        configuration.write_text(_PEER_CONFIGURATION.format(root=root, port=port))
        return [str(self.program), "serve", str(configuration)]

    @override
    def environment(self) -> Mapping[str, str]:
        # Otherwise it tries to send every request's trace to a collector.
        return {"OTEL_TRACES_EXPORTER": "none"}


@dataclass(frozen=True, slots=True)
class Configured(Server):
    """A registry that is told more than usual.

    Args:
        inner: The registry.
        settings: Its ``REGISTRY_*`` variables, in pairs.
        name: What it is called in the results.
    """

    inner: Server
    settings: tuple[tuple[str, str], ...]
    name: str

    @override
    def command(self, root: Path, port: int) -> Sequence[str]:
        return self.inner.command(root, port)

    @override
    def environment(self) -> Mapping[str, str]:
        return {**self.inner.environment(), **dict(self.settings)}


@dataclass(frozen=True, slots=True)
class Empty(Server):
    """uvicorn with an empty application, and as many workers as ours."""

    name: str = "empty"

    @override
    def command(self, root: Path, port: int) -> Sequence[str]:
        return [
            *(sys.executable, "-m", "uvicorn", "conformance.benchmarks.baselines.empty:app"),
            *("--host", "127.0.0.1", "--port", str(port), "--workers", str(WORKERS)),
            *("--loop", "uvloop", "--http", "httptools", "--lifespan", "off"),
            *("--no-access-log", "--log-level", "error"),
        ]

    @override
    def environment(self) -> Mapping[str, str]:
        return {}


@dataclass(frozen=True, slots=True)
class Instant(Server):
    """Answers small requests at once."""

    name: str = "instant"

    @override
    def command(self, root: Path, port: int) -> Sequence[str]:
        module = "conformance.benchmarks.baselines.instant"
        return [sys.executable, "-m", module, str(port)]

    @override
    def environment(self) -> Mapping[str, str]:
        return {}


@dataclass(frozen=True, slots=True)
class Sink(Server):
    """Takes uploads and sends blobs at once."""

    content: Path
    index: Path
    name: str = "sink"

    @override
    def command(self, root: Path, port: int) -> Sequence[str]:
        module = "conformance.benchmarks.baselines.sink"
        return [sys.executable, "-m", module, str(port), str(self.content), str(self.index)]

    @override
    def environment(self) -> Mapping[str, str]:
        return {}


@dataclass(frozen=True, slots=True)
class Started:
    """A server that runs."""

    port: int
    pid: int
    authority: Path | None = None
    """Who signed its certificate; None when it speaks plain HTTP."""

    def connect(self) -> Connection:
        """Open a connection to it."""
        return Connection(self.port, self.authority)


@contextlib.contextmanager
def started(server: Server, root: Path, *, under: Sequence[str] = ()) -> Iterator[Started]:
    """Run a server over a folder while the block runs.

    Args:
        server: Which.
        root: The folder of its data.
        under: A command that runs the server's command, such as a tracer.

    Raises:
        PartFailed: It did not come up.
    """
    port = processes.free_port()
    usual = {name: text for name, text in os.environ.items() if not name.startswith("REGISTRY_")}
    # The baselines are modules of this package, wherever the run was started from.
    folders = [str(Path(__file__).parents[2]), usual.get("PYTHONPATH", "")]
    usual["PYTHONPATH"] = os.pathsep.join(folder for folder in folders if folder)
    command = [*under, *server.command(root, port)]
    environment = {**usual, **server.environment()}
    log = root.with_suffix(".log")
    with answering(command, environment, port, log, authority=server.authority) as pid:
        yield Started(port, pid, server.authority)


@contextlib.contextmanager
def answering(
    command: Sequence[str],
    environment: Mapping[str, str],
    port: int,
    log: Path,
    *,
    authority: Path | None = None,
) -> Iterator[int]:
    """Run a program that answers HTTP while the block runs, and give its process id.

    Args:
        command: What starts it.
        environment: Its variables.
        port: Where it listens.
        log: Where what it says goes.
        authority: Who signed its certificate, if it speaks TLS.

    Raises:
        PartFailed: It ended, or did not answer in time.
    """
    context = ssl.create_default_context(cafile=authority) if authority else None
    with processes.started(
        command, log=log, ready=lambda: _answers(port, context), environment=environment
    ) as process:
        _wait_until_quiet(process.pid)
        yield process.pid


def _wait_until_quiet(pid: int) -> None:
    """Wait until a program has nothing left to do of its own."""
    patience = time.monotonic() + PATIENCE_SECONDS
    before = -1.0
    while (now := processes.cpu_seconds(pid)) - before > QUIET_SECONDS * QUIET_SHARE:
        if time.monotonic() > patience:
            raise processes.PartFailed("the server has work of its own all the time")
        before = now
        time.sleep(QUIET_SECONDS)


def _answers(port: int, context: ssl.SSLContext | None) -> bool:
    with (
        contextlib.suppress(OSError),
        socket.create_connection(("127.0.0.1", port), 1) as plain,
        context.wrap_socket(plain, server_hostname="localhost") if context else plain as probe,
    ):
        probe.settimeout(1)
        probe.sendall(b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return bool(probe.recv(12))
    return False
