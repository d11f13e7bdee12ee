"""What can be done to files and directories, as far as a power cut may undo it.

They go by numbers that are given once and never again.
"""

from dataclasses import dataclass

ROOT = 1
"""The number of the root."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells files apart.

    Attributes:
        inode: No other file of a history ever has it.
        number: What ``fstat`` says: that of a directory which was removed is given away again.
        changed_at: When ``fstat`` says that it was changed, in nanoseconds.
    """

    inode: int
    number: int
    changed_at: int


@dataclass(frozen=True, slots=True)
class Made:
    """A file or directory was made, and is empty."""

    parent: int
    name: str
    stamp: Stamp
    is_directory: bool


@dataclass(frozen=True, slots=True)
class Written:
    """Bytes were written to a file."""

    inode: int
    offset: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Truncated:
    """A file was cut off, or made longer with zeros."""

    inode: int
    size: int


@dataclass(frozen=True, slots=True)
class Renamed:
    """A name was taken from one directory and put into another, or the same."""

    parent: int
    name: str
    target_parent: int
    target_name: str


@dataclass(frozen=True, slots=True)
class Linked:
    """A file got another name."""

    parent: int
    name: str
    inode: int


@dataclass(frozen=True, slots=True)
class Removed:
    """A name was removed."""

    parent: int
    name: str


@dataclass(frozen=True, slots=True)
class Syncing:
    """Somebody began to make a file's bytes, or a directory's entries, durable."""

    inode: int
    number: int


@dataclass(frozen=True, slots=True)
class Synced:
    """What was there when a sync of this number began is durable."""

    inode: int
    number: int


Effect = Made | Written | Truncated | Renamed | Linked | Removed | Syncing | Synced
