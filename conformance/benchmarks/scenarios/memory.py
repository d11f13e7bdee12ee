"""Sixteen pushes of a very big layer at once, and what the servers keep of them in memory."""

import os
import shutil

from conformance.benchmarks import servers
from conformance.benchmarks.bench import Bench
from conformance.benchmarks.client import Connection
from conformance.benchmarks.content import MIB, Blob, Slice, digest_of
from conformance.benchmarks.images import in_parallel, push_blob
from conformance.benchmarks.results import Row, Section
from conformance.benchmarks.samples import Samples
from conformance.benchmarks.servers import Server
from tests.parts.processes import family_of, peak_memory

CLIENTS = 16
LIMIT_MB = 120

METHOD = (
    "Resident memory as the kernel's high-water mark of a process (`VmHWM`), read when all pushes "
    "have their 201. Ours is the worker that needed most; distribution is one process. Once each."
)


class DiskTooSmall(Exception):
    """The uploads in flight would not fit on the disk."""


def run(bench: Bench) -> Section:
    """Measure MB."""
    size = 64 * MIB if bench.quick else 1024 * MIB
    need = (CLIENTS + 2) * size
    if shutil.disk_usage(bench.directory).free < need:
        raise DiskTooSmall(
            f"memory: needs {need / 1e9:.0f} GB free: --directory names another disk"
        )
    path = bench.directory / "zeroes"
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        # A hole: it reads as zeroes and takes no room on the disk.
        os.ftruncate(file, size)
        content = Slice(file, 0, size)
        blob = Blob(digest_of(content), content)
        peaks = {server: _peaks(bench, server, blob) for server in bench.registries}
    finally:
        os.close(file)
        path.unlink()
    what = f"{CLIENTS} pushes of {size // MIB} MiB in parallel"
    rows = [
        Row(
            what=f"{what}: {scope}",
            unit="MB",
            limit=limit,
            higher_is_better=False,
            ours=Samples.of([peaks[bench.ours][number]]),
            peer=Samples.of([peaks[bench.peer][number]]),
        )
        for number, (scope, limit) in enumerate(
            [("largest process", LIMIT_MB), ("all processes", None)]
        )
    ]
    return Section("Memory", METHOD, rows)


def _peaks(bench: Bench, server: Server, blob: Blob) -> tuple[float, float]:
    with bench.root() as root, servers.started(server, root) as running:

        def push(number: int) -> None:
            with Connection(running.port) as connection:
                push_blob(connection, f"bench/memory-{number}", blob)

        in_parallel(CLIENTS, push, range(CLIENTS))
        family = family_of(running.pid)
        peaks = [peak_memory(pid) / 1e6 for pid in family]
    return max(peaks), sum(peaks)
