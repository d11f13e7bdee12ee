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


@contextmanager
def running(
    directory: Path,
    *,
    root: Path | None = None,
    workers: int = 1,
    tls: CertificatePair | None = None,
    arguments: Sequence[str | Path] = (),
    settings: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """Run it for the length of a ``with`` block.

    Args:
        directory: For its log.
        root: Where the images are; by default a folder in ``directory``.
        workers: How many processes serve.
        tls: Certificate and key; without it the server speaks plain HTTP.
        arguments: More flags of ``image-registry serve``.
        settings: ``REGISTRY_*`` variables.

    Raises:
        PartFailed: It did not come up.
    """
    directory.mkdir(parents=True, exist_ok=True)
    root = root or directory / "root"
    log = directory / "registry.log"
    address = f"127.0.0.1:{free_port()}"
    variables = dict(settings or {})
    if tls is not None:
        variables |= {
            "REGISTRY_HTTP_TLS_CERTIFICATE": str(tls.certificate),
            "REGISTRY_HTTP_TLS_KEY": str(tls.key),
        }
    url = f"{'https' if tls else 'http'}://{address}/readyz"
    with started(
        [
            *(sys.executable, "-m", "alauda_registry", "serve"),
            *("--root", root, "--listen", address, "--workers", str(workers)),
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
