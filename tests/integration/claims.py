"""Small file systems, mounted as a claim would be: filled, enlarged, unmounted, mounted again."""

import errno
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.parts.tools import is_ci

MIB = 1024 * 1024
NAME = "image-registry"
OFTEN = {"REGISTRY_HEALTH_STORAGEDRIVER_INTERVAL": "300ms"}
"""So that nobody has to wait for the probe."""


class MountedClaim:
    """A file system of its own.

    Attributes:
        path: Where it is mounted.
    """

    def __init__(self, kind: str, path: Path, size: int) -> None:
        self.path = path
        self._kind = kind
        self._size = size
        self._image = path.with_name(f"{path.name}.image")
        self._ballast = path / "ballast"
        path.mkdir()
        if kind == "ext4":
            with self._image.open("wb") as image:
                image.truncate(size)
            # Without the part that only the superuser may use, as the tests run as that one.
            run("mkfs.ext4", "-q", "-m", "0", self._image)
        self.mount()

    @property
    def settings(self) -> dict[str, str]:
        """The variables that make a server keep its images there."""
        return {
            "REGISTRY_STORAGE_PVC_CLAIM": NAME,
            "REGISTRY_STORAGE_PVC_MOUNTPATH": str(self.path),
            "REGISTRY_STORAGE_PVC_EXPECT_FILESYSTEMS": self._kind,
            **OFTEN,
        }

    def mount(self) -> None:
        if self._kind == "ext4":
            run("mount", "-o", "loop", self._image, self.path)
        else:
            run("mount", "-t", self._kind, "-o", f"size={self._size}", "none", self.path)

    def unmount(self) -> None:
        """Unmount it from under whoever uses it."""
        run("umount", "--lazy", self.path)

    def grow(self, size: int) -> None:
        """Enlarge it while it is used; only what is in memory can be here."""
        run("mount", "-o", f"remount,size={size}", self.path)

    def fill(self, *, leave: int = 0) -> None:
        """Take all space, to the last byte, or all but so many bytes."""
        self.empty()
        with self._ballast.open("wb", buffering=0) as ballast:
            if leave:
                os.posix_fallocate(ballast.fileno(), 0, self.free() - leave)
                # For that long a server may rely on how much was free before.
                time.sleep(0.2)
                return
            # Servers take and give back a little now and then, and so do file systems.
            while any(self._looks_of_free()):
                for chunk in (MIB, 4096, 1):
                    while _wrote(ballast.fileno(), bytes(chunk)):
                        pass
                os.fsync(ballast.fileno())

    def _looks_of_free(self) -> Iterator[int]:
        for _ in range(10):
            yield self.free()
            time.sleep(0.02)

    def empty(self) -> None:
        self._ballast.unlink(missing_ok=True)

    def free(self) -> int:
        status = os.statvfs(self.path)
        return status.f_bavail * status.f_frsize

    def size(self) -> int:
        status = os.statvfs(self.path)
        return status.f_blocks * status.f_frsize


@contextmanager
def mounted(kind: str, path: Path, size: int = 64 * MIB) -> Iterator[MountedClaim]:
    """Mount a new file system for the length of a ``with`` block; skip where that can't be."""
    try:
        claim = MountedClaim(kind, path, size)
    except (OSError, subprocess.CalledProcessError) as error:
        if is_ci() and os.geteuid() == 0:
            raise
        pytest.skip(f"a small {kind} can't be mounted here: {error}")
    try:
        yield claim
    finally:
        while os.path.ismount(path):
            claim.unmount()


def run(*command: str | Path) -> str:
    """Run a command and return what it printed."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _wrote(fd: int, content: bytes) -> bool:
    try:
        return os.write(fd, content) > 0
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return False
