"""Putting a recorder between the storage and the system.

In the modules of ``alauda_registry.storage`` the names of a few modules are replaced for a while.
A function that is neither recorded nor known to change nothing is not there, so that storage
code which begins to use it fails at once; ``test_power_cuts.py`` looks for other ways to the disk.
"""

import contextlib
import ctypes
import importlib
import os
import pkgutil
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from types import ModuleType
from typing import Any

from alauda_registry import storage
from tests.torture.recording import Recorder, Stamps
from tests.torture.scheduling import Signal

READS = frozenset(
    {
        "access",
        "close",
        "dup",
        "dup2",
        "fsdecode",
        "fsencode",
        "fspath",
        "fstatvfs",
        "geteuid",
        "getpid",
        "listdir",
        "lseek",
        "path",
        "pread",
        "preadv",
        "read",
        "readlink",
        "readv",
        "scandir",
        "statvfs",
        "strerror",
        "urandom",
    }
)
"""What of ``os`` changes nothing on disk."""

CHANGES = frozenset(
    {
        "fdatasync",
        "fstat",
        "fsync",
        "ftruncate",
        "link",
        "mkdir",
        "open",
        "pwrite",
        "pwritev",
        "rename",
        "replace",
        "rmdir",
        "stat",
        "unlink",
    }
)
"""What of ``os`` is passed on by :class:`Recorder`."""


@cache
def storage_modules() -> list[ModuleType]:
    """Return all modules of the storage library."""
    found = pkgutil.walk_packages(storage.__path__, f"{storage.__name__}.")
    return [importlib.import_module(module.name) for module in found]


class _Namespace:
    """Some names of a module, and those that stand in for others of them."""

    def __init__(self, module: ModuleType, names: frozenset[str], **instead: Any) -> None:
        constants = {
            name: value
            for name, value in vars(module).items()
            if name in names or name.isupper() or isinstance(value, type)
        }
        self.__dict__.update(constants, **instead)


class _Library:
    """The C library, with a ``statx`` that tells numbers and times of our own."""

    def __init__(self, library: ctypes.CDLL, recorder: Recorder) -> None:
        self._library = library
        self._recorder = recorder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)

    def statx(self, fd: int, path: bytes, flags: int, mask: int, status: Any) -> int:
        """Stand in for ``statx(2)``."""
        result: int = self._library.statx(fd, path, flags, mask, status)
        if result == 0:
            self._recorder.restamp(status)
        return result


@contextlib.contextmanager
def watching(recorder: Recorder) -> Iterator[None]:
    """Let a recorder see everything the storage does, as long as the block runs."""
    schedule = recorder.schedule
    changes = {name: getattr(recorder, name) for name in CHANGES}
    clock = dict.fromkeys(("time", "monotonic", "perf_counter"), lambda: schedule.now)
    modules = {
        os: _Namespace(os, READS, **changes),
        shutil: _Namespace(shutil, frozenset(), rmtree=recorder.rmtree),
        time: _Namespace(time, frozenset(), **clock, time_ns=recorder.time_ns),
        threading: _Namespace(
            threading, frozenset(vars(threading)), Event=partial(Signal, schedule)
        ),
    }

    def stand_in(value: object) -> object:
        if isinstance(value, ctypes.CDLL):
            return _Library(value, recorder)
        return modules.get(value) if isinstance(value, ModuleType) else None

    with _instead(stand_in):
        yield


@contextlib.contextmanager
def stamped(stamps: Stamps, clock: Callable[[], float]) -> Iterator[None]:
    """Let ``fstat`` tell the storage the numbers and times that are known of its files."""
    modules = {
        os: _Namespace(os, frozenset(vars(os)), fstat=stamps.fstat, stat=stamps.stat),
        time: _Namespace(
            time, frozenset(vars(time)), time=clock, time_ns=lambda: int(clock() * 1e9)
        ),
    }
    with _instead(lambda value: modules.get(value) if isinstance(value, ModuleType) else None):
        yield


@contextlib.contextmanager
def _instead(stand_in: Callable[[object], object]) -> Iterator[None]:
    """Replace what the storage uses, where something stands in for it."""
    with contextlib.ExitStack() as replaced:
        for module in storage_modules():
            for name, value in list(vars(module).items()):
                replacement = stand_in(value)
                if replacement is not None:
                    setattr(module, name, replacement)
                    replaced.callback(setattr, module, name, value)
        yield
