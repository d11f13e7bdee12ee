"""What is mounted where, as the kernel tells it.

A path is not enough to tell which mount a file lies on: others may have been mounted above it
since, and one that was unmounted while files were open is in no list any more. So a mount is
found by the number the kernel has for it, which each open file knows.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

MOUNTINFO = Path("/proc/self/mountinfo")
_ESCAPED = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of ``/proc/self/mountinfo``; see ``proc_pid_mountinfo(5)``.

    Attributes:
        number: The kernel's number of the mount.
        root: What of the file system is mounted: ``/``, or a folder of it for a bind mount.
        path: Where it is mounted.
        file_system: Its type, such as ``ext4`` or ``nfs4``.
        source: What it is on: a device, ``server:/export``, or anything else; may be empty.
        options: Those of the mount and of the file system.
    """

    number: int
    root: str
    path: PurePosixPath
    file_system: str
    source: str
    options: frozenset[str]


def read_mounts(mountinfo: Path = MOUNTINFO) -> list[Mount]:
    """Return the mounts this process can see.

    Raises:
        OSError: The kernel does not tell.
    """
    return parse_mounts(os.fsdecode(mountinfo.read_bytes()))


def parse_mounts(text: str) -> list[Mount]:
    """Return the mounts in the text of a ``mountinfo``; lines that are none are left out."""
    found = []
    for line in text.split("\n"):
        # An empty source is two spaces in a row.
        fields = line.split(" ")
        try:
            # Before the dash there may be any number of fields that are of no use here.
            dash = fields.index("-", 6)
            number, _parent, _device, root, path, options = fields[:6]
            file_system, source, more_options = fields[dash + 1 : dash + 4]
            found.append(
                Mount(
                    int(number),
                    _unescape(root),
                    PurePosixPath(_unescape(path)),
                    _unescape(file_system),
                    _unescape(source),
                    frozenset(_unescape(f"{options},{more_options}").split(",")),
                )
            )
        except ValueError:
            continue
    return found


def mount_of(fd: int, mounts: Sequence[Mount]) -> Mount | None:
    """Return the mount that an open file lies on; None when it is not mounted any more.

    Raises:
        OSError: The kernel does not tell.
    """
    number = mount_number(fd)
    if number is None:
        # A sandbox that only looks like Linux.
        return _holding(PurePosixPath(os.readlink(f"/proc/self/fd/{fd}")), mounts)
    return next((mount for mount in mounts if mount.number == number), None)


def shows_changes_late(mount: Mount) -> bool:
    """Tell whether what other hosts did may show late here: NFS, unless told not to cache."""
    if not mount.file_system.startswith("nfs"):
        return False
    has_fresh_attributes = {"acregmax=0", "acdirmax=0"} <= mount.options or "noac" in mount.options
    return not (has_fresh_attributes and "lookupcache=none" in mount.options)


def mount_number(fd: int) -> int | None:
    """Return the kernel's number of the mount that an open file lies on, where it tells.

    Raises:
        OSError: The kernel does not tell.
    """
    for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == "mnt_id":
            return int(value)
    return None


def _holding(path: PurePosixPath, mounts: Sequence[Mount]) -> Mount | None:
    """Return the deepest mount above a path, of several in one place the one that was last."""
    above = [mount for mount in mounts if path.is_relative_to(mount.path)]
    return max(reversed(above), key=lambda mount: len(mount.path.parts), default=None)


def _unescape(text: str) -> str:
    return _ESCAPED.sub(lambda match: chr(int(match[1], 8)), text)
