"""Starts dockerd: enough of it to load, push and pull images, and no network of its own."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.parts.containerd import Containerd
from tests.parts.processes import run, started
from tests.parts.tools import find

_WITH_ETC = 'mount --bind "$1" /etc/docker && shift && exec "$@"'


@dataclass(frozen=True, slots=True)
class Dockerd:
    """A running dockerd.

    Args:
        socket: Where it listens.
        pid: Of its process.
        certificates: What it takes for ``/etc/docker/certs.d``: ``HOST:PORT/ca.crt``.
    """

    socket: Path
    pid: int
    certificates: Path

    def trust(self, address: str, authority: Path) -> None:
        """Have it believe an authority about a registry."""
        folder = self.certificates / address
        folder.mkdir(parents=True)
        shutil.copy(authority, folder / "ca.crt")


@contextmanager
def running(directory: Path, sockets: Path, containerd: Containerd) -> Iterator[Dockerd]:
    """Run it for the length of a ``with`` block.

    Args:
        directory: For its content and its log.
        sockets: For its socket. A short path: the kernel takes 107 characters.
        containerd: Ours, or it would take the one of the machine.

    Raises:
        MissingPart: It, or the docker client, is not installed.
        PartFailed: It did not come up.
    """
    directory.mkdir(parents=True, exist_ok=True)
    socket = sockets / "docker.sock"
    docker = find("docker")
    # The machine's own configuration must not have a say, nor the machine be told of ours: where
    # docker looks for certificates is not for us to choose, but what it sees there is.
    etc = directory / "etc"
    etc.mkdir()
    configuration = directory / "daemon.json"
    configuration.write_text("{}")
    with started(
        [
            *("unshare", "--mount", "sh", "-c", _WITH_ETC, "sh", etc),
            find("dockerd"),
            *("--iptables=false", "--ip6tables=false", "--bridge=none"),
            *("--config-file", configuration, "--pidfile", directory / "docker.pid"),
            *("--data-root", directory / "root", "--exec-root", sockets / "docker"),
            *("--host", f"unix://{socket}", "--containerd", containerd.socket),
        ],
        log=directory / "dockerd.log",
        ready=lambda: _answers(docker, socket),
    ) as process:
        yield Dockerd(socket, process.pid, etc / "certs.d")


def _answers(docker: Path, socket: Path) -> bool:
    if not socket.exists():
        return False
    asked = run([docker, "--host", f"unix://{socket}", "version"], check=False)
    return asked.returncode == 0
