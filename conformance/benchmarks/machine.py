"""What a reader must know about the machine to judge the numbers; nothing that names it."""

import hashlib
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median

from conformance.benchmarks.content import MIB
from conformance.benchmarks.load import find_program

PACKAGES = ("uvicorn", "uvloop", "httptools", "starlette")
CORES = 2


def use_two_cores() -> None:
    """Keep this process and all it starts on two cores, on however many there are."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])


def describe_machine(directory: Path, peer: Path) -> list[tuple[str, str]]:
    """Tell what the run took place on."""
    cpu = _cpu_fields()
    flags = cpu.get("flags", "").split()
    return [
        ("day", f"{datetime.now(UTC):%Y-%m-%d}"),
        ("processor", cpu.get("model name", platform.machine())),
        ("cores used", f"{len(os.sched_getaffinity(0))} of {os.cpu_count()}"),
        ("SHA extensions", "yes" if "sha_ni" in flags or "sha2" in flags else "no"),
        ("SHA-256 of one core", f"{_hash_rate() / 1e6:,.0f} MB/s"),
        ("fsync of 4 KiB", f"{_sync_seconds(directory) * 1e3:.2f} ms"),
        ("memory", f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"),
        ("file system", _file_system(directory)),
        ("kernel", platform.release()),
        ("Python", platform.python_version()),
        *((package, version(package)) for package in PACKAGES),
        ("distribution", _says(str(peer), "--version").rsplit(" ", 1)[-1]),
        ("wrk", " ".join(_says(find_program("wrk"), "-v").split()[1:2])),
        ("strace", _says(find_program("strace"), "--version").rsplit(" ", 1)[-1]),
    ]


def file_system_of(path: Path, mounts: Iterable[str]) -> str:
    """Find the type of the file system that a folder is on, in the lines of ``/proc/mounts``."""
    best = ("", "unknown")
    for line in mounts:
        _, place, kind, *_ = line.split(" ")
        if path.is_relative_to(place) and len(place) >= len(best[0]):
            best = (place, kind)
    return best[1]


def _file_system(directory: Path) -> str:
    return file_system_of(directory.resolve(), Path("/proc/mounts").read_text().splitlines())


def _cpu_fields() -> dict[str, str]:
    pairs = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _hash_rate() -> float:
    content = bytes(64 * MIB)
    start = time.perf_counter()
    hashlib.sha256(content).digest()
    return len(content) / (time.perf_counter() - start)


def _sync_seconds(directory: Path) -> float:
    spent = []
    with tempfile.TemporaryFile(dir=directory) as file:
        for _ in range(21):
            file.write(bytes(4096))
            file.flush()
            start = time.perf_counter()
            os.fsync(file.fileno())
            spent.append(time.perf_counter() - start)
    return median(spent)


def _says(*command: str) -> str:
    # wrk ends its own version text with a failure.
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    return (said.stdout or said.stderr).splitlines()[0]
