"""One client that pushes one big layer, in each of the ways that clients have."""

from collections.abc import Callable, Mapping
from functools import partial

from conformance.benchmarks import servers
from conformance.benchmarks.bench import LARGE, Bench, settle
from conformance.benchmarks.client import Connection
from conformance.benchmarks.images import (
    push_blob,
    push_blob_in_patches,
    push_blob_like_docker,
    timed,
)
from conformance.benchmarks.results import Row, Section
from conformance.benchmarks.servers import Server

PUT = "push of 256 MiB as one PUT"
PATCHES = "push of 256 MiB as PATCHes of 16 MiB"
DOCKER = "push of 256 MiB as one chunked PATCH"
TARGET = 1.3
REPOSITORY = "bench/large"

METHOD = (
    "Every round starts with an empty folder, and dirty pages are written out before the clock "
    "runs. The clock stops at the 201. Syncs are calls of fsync, fdatasync and their kin during "
    "one push, counted in a separate run under `strace`. The chunked PATCH comes in the chunks of "
    "32 KiB that docker sends."
)

Push = Callable[[Connection], None]


def run(bench: Bench) -> Section:
    """Measure MB a second, and count the syncs."""
    first, second, third = bench.large_blobs(3)
    encoded = bench.content.encode(third)
    warm_up = bench.content.random(2**20)
    ways: Mapping[str, Push] = {
        PUT: lambda connection: push_blob(connection, REPOSITORY, first),
        PATCHES: lambda connection: push_blob_in_patches(connection, REPOSITORY, second),
        DOCKER: lambda connection: push_blob_like_docker(connection, REPOSITORY, third, encoded),
    }

    def measure(server: Server) -> Mapping[str, float]:
        found = {}
        with bench.root() as root, servers.started(server, root) as running:
            with Connection(running.port) as connection:
                push_blob(connection, REPOSITORY, warm_up)
            for what, push in ways.items():
                settle()
                with Connection(running.port) as connection:
                    found[what] = LARGE / 1e6 / timed(partial(push, connection))
        return found

    def count(server: Server, push: Push) -> float:
        def work(port: int) -> None:
            with Connection(port) as connection:
                push(connection)

        return bench.count_costs(server, work)

    sink = bench.sink()
    found = bench.collect([*bench.registries, sink], measure)
    rows = [
        Row(
            what=what,
            unit="MB/s",
            target=TARGET,
            ours=found[what][bench.ours],
            peer=found[what][bench.peer],
            ceiling=found[what][sink],
            our_costs=count(bench.ours, push),
            peer_costs=count(bench.peer, push),
        )
        for what, push in ways.items()
    ]
    return Section("Pushes", METHOD, rows)
