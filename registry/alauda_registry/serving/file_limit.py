"""How many files and connections a process may have open."""

import contextlib
import resource


def allow_many_open_files() -> None:
    """Take what we may: the usual limit is there for programs from before there were better calls.

    Each connection is an open file, and each upload and download is another.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
