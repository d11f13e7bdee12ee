"""Starts our own server as its users do: the console command, on a port of its own."""

import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.parts.certificates import CertificatePair
from tests.parts.processes import free_port, inherited, started

PROGRAM = (sys.executable, "-m", "alauda_registry")


@dataclass(frozen=True, slots=True)
class Server:
    """Our running server."""

    address: str
    root: Path
    log: Path
    pid: int
    tls: CertificatePair | None = None

    @property
    def url(self) -> str:
        """Where its API is."""
        return f"{'https' if self.tls else 'http'}://{self.address}"

    def workers(self) -> list[int]:
        """Return the processes that serve, where those are not the server itself."""
        try:
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        except OSError:
            return []
        return [int(child) for child in children if b"spawn_main" in _command_of(child)]


@contextmanager
def running(
    directory: Path,
    *,
    root: Path | None = None,
    workers: int = 1,
    tls: CertificatePair | None = None,
    arguments: Sequence[str | Path] = (),
    settings: Mapping[str, str] | None = None,
    storage: Mapping[str, str] | None = None,
    address: str | None = None,
    program: Sequence[str | Path] = PROGRAM,
) -> Iterator[Server]:
    """Run it for the length of a ``with`` block.

    Args:
        directory: For its log.
        root: Where the images are; by default a folder in ``directory``.
        workers: How many processes serve.
        tls: Certificate and key; without it the server speaks plain HTTP.
        arguments: More flags of ``image-registry serve``.
        settings: ``REGISTRY_*`` variables.
        storage: Those that say where the images are, when that is not a folder.
        address: Where it listens; by default on a port of its own.
        program: What is run instead of the console command.

    Raises:
        PartFailed: It did not come up.
    """
    directory.mkdir(parents=True, exist_ok=True)
    root = root or directory / "root"
    log = directory / "registry.log"
    address = address or f"127.0.0.1:{free_port()}"
    variables = {**(settings or {}), **(storage or {})}
    if tls is not None:
        variables |= {
            "REGISTRY_HTTP_TLS_CERTIFICATE": str(tls.certificate),
            "REGISTRY_HTTP_TLS_KEY": str(tls.key),
        }
    url = f"{'https' if tls else 'http'}://{address}/readyz"
    with started(
        [
            *(*program, "serve", "--listen", address, "--workers", str(workers)),
            *(("--root", root) if storage is None else ()),
            *arguments,
        ],
        log=log,
        ready=lambda: _is_ready(url, tls),
        environment=inherited(**variables),
    ) as process:
        yield Server(address, root, log, process.pid, tls)


def _is_ready(url: str, tls: CertificatePair | None) -> bool:
    context = ssl.create_default_context(cafile=tls.authority) if tls else None
    try:
        with urllib.request.urlopen(url, timeout=5, context=context) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def _command_of(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
