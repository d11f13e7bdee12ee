"""A PersistentVolumeClaim as the process that it is mounted for sees it.

Kubernetes mounts a claim into the container before the process starts. When that went wrong, or
the path in the settings is another one, there is a plain folder in its place: what is written
there fills the node and is gone with the container. Nothing says so but the list of mounts.

A claim may well be on the node's own disk and a folder of it (local-path, hostPath, subPath):
then it is a bind mount, with the device number of the folder above. So device numbers say
nothing, and what counts is whether something is mounted exactly at the path, and what.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from alauda_registry.storage.directory.mounts import MOUNTINFO, Mount, mount_of, read_mounts
from alauda_registry.storage.driver import Unreachable

DRIVER = "pvc"
_MIB = 1024 * 1024
_VOLATILE = frozenset({"tmpfs", "ramfs", "rootfs", "overlay", "aufs"})
"""File systems in memory, and those that containers are made of."""
_EMPTY_DIR = "/volumes/kubernetes.io~empty-dir/"
_OF_THE_RUNTIME = re.compile(r"/volumes/[0-9a-f]{64}(?:/|\Z)")
"""Where containerd, docker and podman put what an image's own ``VOLUME`` asks for."""
_DELETED = "//deleted"


class NotMounted(Unreachable):
    """The claim is not mounted where it has to be, or is not what it has to be.

    Attributes:
        reason: What was found and what to do.
    """

    def __init__(self, reason: str, *, path: str) -> None:
        super().__init__(reason, driver=DRIVER, path=path)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Expectation:
    """What the mount has to be.

    Attributes:
        file_systems: The types it may be of; any that outlives the pod when there are none.
        source: A pattern, as of a shell, that its source has to match.
        minimum_size: Bytes it must have.
        volatile: Whether what is gone with the pod will do: an emptyDir, or memory.
    """

    file_systems: tuple[str, ...] = ()
    source: str | None = None
    minimum_size: int = 0
    volatile: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """Where a claim is mounted, and what it has to be.

    Attributes:
        mount_path: Where it is mounted.
        name: Of the PersistentVolumeClaim, for messages.
        expected: What the mount has to be.
        mountinfo: Where the kernel lists the mounts.
    """

    mount_path: Path
    name: str | None = None
    expected: Expectation = Expectation()
    mountinfo: Path = MOUNTINFO

    @property
    def title(self) -> str:
        """What it is called in messages."""
        return f"the claim {self.name}" if self.name else "the claim"

    @property
    def advice(self) -> str:
        """What a client is told when the claim is full."""
        return (
            f"the registry's storage is full ({self.title} has no room left): enlarge the claim "
            "or remove other files from it, then push again"
        )

    @contextmanager
    def opened(self) -> Iterator[int]:
        """Open the folder it is mounted at, after a look at what is there.

        Raises:
            NotMounted: It is not the claim.
        """
        try:
            fd = os.open(self.mount_path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise self._not_mounted("there is no such folder") from error
        except OSError as error:
            raise self._not_mounted(f"it cannot be opened ({error.strerror})") from error
        try:
            self.require_mounted(fd)
            yield fd
        finally:
            os.close(fd)

    def require_mounted(self, fd: int) -> None:
        """Look at the mount that an open folder lies on.

        Raises:
            NotMounted: It is not the claim's.
        """
        try:
            mount = mount_of(fd, read_mounts(self.mountinfo))
        except OSError as error:
            raise self._not_mounted(f"the mounts cannot be read ({error.strerror})") from error
        if mount is None:
            raise self._not_mounted("it was unmounted")
        found = self._why_no_claim(mount)
        if found is not None:
            raise self._not_mounted(found)
        difference = self._why_unexpected(mount, os.fstatvfs(fd))
        if difference is not None:
            raise self._unexpected(*difference)

    def _why_no_claim(self, mount: Mount) -> str | None:
        """Return what is there instead of a claim, or None when it can be one."""
        if mount.path != PurePosixPath(os.path.realpath(self.mount_path)):
            return f"there is a plain folder of {_describe(mount)}"
        if mount.path == PurePosixPath("/"):
            return f"that is {_describe(mount)}"
        if mount.root.endswith(_DELETED):
            return "the folder that is mounted there was deleted on the node"
        what = None
        if _EMPTY_DIR in mount.root:
            what = "an emptyDir"
        elif _OF_THE_RUNTIME.search(mount.root):
            what = "a volume that the container runtime made for the image"
        elif mount.file_system in _VOLATILE - {*self.expected.file_systems}:
            what = f"a file system of type {mount.file_system}"
        if what is None or self.expected.volatile:
            return None
        gone = "which is gone with the pod (storage.pvc.expect.volatile accepts it)"
        return f"there is {what}, {gone}"

    def _why_unexpected(self, mount: Mount, status: os.statvfs_result) -> tuple[str, str] | None:
        """Return what is there and the setting it does not meet, or None when it meets all."""
        expected = self.expected
        if expected.file_systems and mount.file_system not in expected.file_systems:
            return (
                f"of type {mount.file_system}",
                f"filesystems: {', '.join(expected.file_systems)}",
            )
        if expected.source is not None and not fnmatchcase(mount.source, expected.source):
            return f"mounted from {mount.source or 'nothing'}", f"source: {expected.source}"
        size = status.f_blocks * status.f_frsize
        if size < expected.minimum_size:
            minimum = format_bytes(expected.minimum_size)
            return f"of {format_bytes(size)}", f"minimumsize: {minimum}"
        return None

    def _unexpected(self, found: str, setting: str) -> NotMounted:
        return NotMounted(
            f"{self.title} at {self.mount_path} is not what was expected: it is {found}, and "
            f"storage.pvc.expect asks for {setting}; see whether it is the right claim, or change "
            "what is expected",
            path=str(self.mount_path),
        )

    def _not_mounted(self, found: str) -> NotMounted:
        which = f" with persistentVolumeClaim.claimName: {self.name}" if self.name else ""
        where = self.mount_path
        return NotMounted(
            f"{self.title} is not mounted at {where}: {found}; give the pod a volume{which} and "
            f"the container a volumeMount of it with mountPath: {where}, or say with "
            "storage.pvc.mountpath where it is mounted",
            path=str(where),
        )


def default_reserve(size: int) -> int:
    """Return how much of a claim only deletes and collection may use."""
    return min(max(size // 100, 64 * _MIB), size // 10)


def format_bytes(count: int) -> str:
    """Write a number of bytes for people."""
    amount = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.4g} {unit}"
        amount /= 1024
    return f"{amount:.4g} TiB"


def _describe(mount: Mount) -> str:
    source = f" on {mount.source}" if mount.source not in ("", mount.file_system) else ""
    whose = "the root of the container or node" if mount.path == PurePosixPath("/") else "the mount"
    return f"{whose} {mount.path} ({mount.file_system}{source})"
