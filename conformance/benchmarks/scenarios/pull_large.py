"""One client that pulls one big layer."""

import hashlib
from collections.abc import Mapping
from contextlib import ExitStack
from statistics import median

from conformance.benchmarks import servers
from conformance.benchmarks.bench import LARGE, Bench, seeded
from conformance.benchmarks.client import UnexpectedAnswer
from conformance.benchmarks.images import pull_blob, push_blob, timed
from conformance.benchmarks.results import Row, Section
from conformance.benchmarks.servers import Server, Started

WHAT = "pull of 256 MiB, 1 connection"
OF_PEERS = "the same, of what the peer has pushed"
TARGET = 1.6
REPOSITORY = "bench/large"
REPEATS = 3

METHOD = (
    "The content is in the page cache after an untimed pull. The client lets the kernel throw away "
    "what it receives; that the bytes are right is checked once, before the clock runs."
)


def run(bench: Bench, *, of_peers: bool = False) -> Section:
    """Measure MB a second.

    Args:
        bench: The run.
        of_peers: Whether both serve what the peer has written, and not each its own.
    """
    (blob,) = bench.large_blobs(1)

    def seed(running: Started) -> None:
        with running.connect() as connection:
            push_blob(connection, REPOSITORY, blob)
            body = pull_blob(connection, REPOSITORY, blob, keep=True)
        if f"sha256:{hashlib.sha256(body).hexdigest()}" != blob.digest:
            raise UnexpectedAnswer("the blob that came back is not the blob that was pushed")

    with ExitStack() as stack:
        roots = {
            server: stack.enter_context(seeded(bench, server, seed))
            for server in bench.registries
            if not of_peers or server is bench.peer
        }
        roots.setdefault(bench.ours, roots[bench.peer])
        sink = bench.sink()
        roots[sink] = stack.enter_context(bench.root())

        def measure(server: Server) -> Mapping[str, float]:
            with (
                servers.started(server, roots[server]) as running,
                running.connect() as connection,
            ):
                pull_blob(connection, REPOSITORY, blob)
                spent = [
                    timed(lambda: pull_blob(connection, REPOSITORY, blob)) for _ in range(REPEATS)
                ]
            return {WHAT: LARGE / 1e6 / median(spent)}

        found = bench.collect([*bench.registries, sink], measure)[WHAT]
    row = Row(
        what=OF_PEERS if of_peers else WHAT,
        unit="MB/s",
        target=TARGET,
        ours=found[bench.ours],
        peer=found[bench.peer],
        ceiling=found[sink],
    )
    return Section("Pulls", METHOD, [row])
