"""Starts the peer: the registry of the distribution project, on plain HTTP."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.parts.processes import free_port, inherited, listens, started
from tests.parts.tools import find


@dataclass(frozen=True, slots=True)
class Peer:
    """A running registry of the distribution project."""

    address: str
    root: Path
    pid: int

    @property
    def url(self) -> str:
        """Where its API is."""
        return f"http://{self.address}"


@contextmanager
def running(
    directory: Path,
    *,
    root: Path | None = None,
    storage: Mapping[str, object] | None = None,
    settings: Mapping[str, str] | None = None,
) -> Iterator[Peer]:
    """Run it for the length of a ``with`` block.

    Args:
        directory: For its configuration and its log.
        root: Where the images are; by default a folder in ``directory``.
        storage: The section of its configuration, when they are not in a folder.
        settings: More ``REGISTRY_*`` variables.

    Raises:
        MissingPart: It has not been built.
        PartFailed: It did not come up.
    """
    directory.mkdir(parents=True, exist_ok=True)
    root = root or directory / "root"
    port = free_port()
    configuration = directory / "config.yml"
    # JSON is YAML. Without an access log, since nobody reads it and it costs time.
    content = {
        "version": 0.1,
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {
            **(storage or {"filesystem": {"rootdirectory": str(root)}}),
            "delete": {"enabled": True},
        },
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    configuration.write_text(json.dumps(content))
    with started(
        [find("distribution"), "serve", configuration],
        log=directory / "distribution.log",
        ready=lambda: listens(port),
        environment=inherited(OTEL_TRACES_EXPORTER="none", **(settings or {})),
    ) as process:
        yield Peer(f"127.0.0.1:{port}", root, process.pid)
