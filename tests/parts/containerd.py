"""Starts containerd with its own root, state and socket, for ``ctr`` and for dockerd."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.parts.processes import started
from tests.parts.tools import find

# Kept small: pulling and pushing need no container runtime interface and no zfs or btrfs.
CONFIGURATION = """\
version = 2
root = "{directory}/root"
state = "{directory}/state"
disabled_plugins = [
    "io.containerd.grpc.v1.cri",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
]
oom_score = 0

[grpc]
address = "{socket}"

[ttrpc]
address = "{socket}.ttrpc"
"""


@dataclass(frozen=True, slots=True)
class Containerd:
    """A running containerd."""

    socket: Path
    pid: int


@contextmanager
def running(directory: Path, sockets: Path) -> Iterator[Containerd]:
    """Run it for the length of a ``with`` block.

    Args:
        directory: For its content, its configuration and its log.
        sockets: For its sockets. A short path: the kernel takes 107 characters.

    Raises:
        MissingPart: It is not installed.
        PartFailed: It did not come up.
    """
    directory.mkdir(parents=True, exist_ok=True)
    socket = sockets / "containerd.sock"
    configuration = directory / "config.toml"
    configuration.write_text(CONFIGURATION.format(directory=directory, socket=socket))
    with started(
        [find("containerd"), "--config", configuration],
        log=directory / "containerd.log",
        ready=lambda: os.access(socket, os.W_OK),
    ) as process:
        yield Containerd(socket, process.pid)
