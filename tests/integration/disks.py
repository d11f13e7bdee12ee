"""Small file systems of their own, to fill, to take away and to bring back.

Needs root. They lie in a file that is attached by a loop device, or in memory.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.parts.tools import is_ci

MIB = 1024 * 1024
HASTE = {"REGISTRY_HEALTH_STORAGEDRIVER_INTERVAL": "1s"}
"""Settings with which the probes notice soon."""

MAKE = {
    "ext4": ("mkfs.ext4", "-q", "-F", "-m", "0"),
    "xfs": ("mkfs.xfs", "-q", "-f"),
}


@dataclass
class Disk:
    """A small file system.

    Attributes:
        path: Where it is mounted.
        image: The file it is in; None for one in memory.
        options: What it is mounted with.
    """

    path: Path
    image: Path | None
    options: tuple[str, ...] = ()
    _ballast: int = field(default=0, init=False)

    @property
    def root(self) -> Path:
        """Where a registry is to be on it: at its top, as on a claim."""
        return self.path

    def mount(self) -> None:
        options = (*self.options, *(("loop",) if self.image else ()))
        kind = () if self.image else ("-t", "tmpfs")
        what = str(self.image or "none")
        run("mount", *kind, *(("-o", ",".join(options)) if options else ()), what, self.path)

    def unmount(self, *flags: str) -> None:
        run("umount", *flags, self.path)

    def remount(self, mode: str) -> None:
        run("mount", "-o", f"remount,{mode}", self.path)

    @property
    def ballast(self) -> Path:
        """What takes the space."""
        return self.path / "ballast"

    def fill(self, *, leave: int = 0) -> None:
        """Take all space but about ``leave`` bytes; without any, to the last block."""
        self.empty()
        with self.ballast.open("wb") as ballast:
            size = self.free() - leave
            while size >= 4096:
                try:
                    os.posix_fallocate(ballast.fileno(), ballast.tell(), size)
                    ballast.seek(0, os.SEEK_END)
                    size = self.free() - leave
                except OSError:
                    size //= 2
        os.sync()

    def empty(self) -> None:
        """Give the space back."""
        self.ballast.unlink(missing_ok=True)

    def free(self) -> int:
        status = os.statvfs(self.path)
        return status.f_bavail * status.f_frsize


def run(*command: str | Path) -> None:
    """Run a program, which has to succeed."""
    subprocess.run(command, check=True, capture_output=True, text=True)


@contextmanager
def mounted(folder: Path, kind: str, size: int = 16 * MIB, *options: str) -> Iterator[Disk]:
    """Make a file system and mount it for as long as the block runs.

    Args:
        folder: Where to put it.
        kind: ``tmpfs``, ``ext4`` or ``xfs``.
        size: Its size in bytes.
        options: For the one that makes it, or of the mount for ``tmpfs``.
    """
    path = folder / "disk"
    path.mkdir(parents=True)
    if kind == "tmpfs":
        disk = Disk(path, None, (f"size={size}", *options))
    else:
        image = folder / "image"
        with image.open("wb") as file:
            file.truncate(size)
        disk = Disk(path, image)
    try:
        if disk.image is not None:
            run(*MAKE[kind], *options, disk.image)
        disk.mount()
    except (OSError, subprocess.CalledProcessError) as error:
        if is_ci() and os.geteuid() == 0:
            raise
        pytest.skip(f"a small disk can't be mounted here: {error}")
    try:
        yield disk
    finally:
        while os.path.ismount(path):
            run("umount", "--lazy", path)
        shutil.rmtree(path, ignore_errors=True)
