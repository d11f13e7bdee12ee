"""A file of a tree, as reading finds it, and what hashing says of it.

This module is imported by processes that do nothing but read: it must stay light.
"""

from enum import Enum
from typing import NamedTuple

BATCH = 2000
"""How many files are handed over at a time."""


ODD = "no registry gives files such a name"


NO_FILE = "no file, though it is where one belongs; symbolic links are not followed"


LINK_MAXIMUM = 4096
"""What is longer is no link; no more of it is read."""


class File(NamedTuple):
    """A file in the tree.

    Attributes:
        path: Its path in the storage.
        size: Its size in bytes.
        modified: When it came to where it is, in seconds since 1970; 0 where nobody asks.
        content: What it holds, if it is one of those that are read at once.
        trouble: Why it can't be looked at, or "".
    """

    path: str
    size: int
    modified: float
    content: bytes | None = None
    trouble: str = ""


class Outcome(Enum):
    """What hashing a blob said."""

    INTACT = "intact"
    CORRUPT = "corrupt"
    GONE = "gone"
    UNREADABLE = "unreadable"


def odd(folder: str, name: str) -> File:
    """Return a file whose name no path has: written so that no terminal takes it for more."""
    return File(f"{folder}/{ascii(name)[1:-1]}", 0, 0, None, ODD)


def is_link(path: str) -> bool:
    """Tell whether a path is that of a link to a blob or a manifest."""
    return "/_" in path and path.endswith("/link") and not path.endswith("/_manifests/tags/link")


def is_read(path: str) -> bool:
    """Tell whether a file is one of those that are read along with the walk."""
    return path.endswith("/link") or "/_referrers/by-subject/" in path
