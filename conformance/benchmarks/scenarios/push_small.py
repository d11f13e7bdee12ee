"""Images of a config and a manifest: where every push is all round trips and syncs."""

from collections.abc import Mapping, Sequence
from functools import partial

from conformance.benchmarks import servers
from conformance.benchmarks.bench import Bench, settle
from conformance.benchmarks.client import Connection
from conformance.benchmarks.content import Image
from conformance.benchmarks.images import in_parallel, push_blob, push_manifest
from conformance.benchmarks.results import Row, Section
from conformance.benchmarks.servers import Server

ONE = "push of small images, 1 connection"
EIGHT = "push of small images, 8 connections"
TARGET = 1.2
COUNTED = 20

METHOD = (
    "A small image is a config and a manifest, no two alike: POST, PUT, and PUT of the manifest by "
    "tag, one image after the other on each connection."
)


def run(bench: Bench) -> Section:
    """Measure images a second, and count the syncs of one image."""
    each = 20 if bench.quick else 60
    images = [
        bench.content.image("bench/tiny", f"tiny-{number}", []) for number in range(10 + 6 * each)
    ]
    warm_up, alone, together = images[:10], images[10 : 10 + each], images[10 + each :]
    shares = [together[number::8] for number in range(8)]

    def measure(server: Server) -> Mapping[str, float]:
        with bench.root() as root, servers.started(server, root) as running:
            push = partial(push_in_sequence, running.port)
            push(warm_up)
            settle()
            one = len(alone) / in_parallel(1, push, [alone])
            settle()
            eight = len(together) / in_parallel(8, push, shares)
        return {ONE: one, EIGHT: eight}

    def count(server: Server) -> float:
        calls = bench.count_syncs(server, lambda port: push_in_sequence(port, images[:COUNTED]))
        return calls / COUNTED

    found = bench.collect(bench.registries, measure)
    ceilings = bench.once(bench.sink(), measure)
    our_syncs, peer_syncs = count(bench.ours), count(bench.peer)
    rows = [
        Row(
            what=what,
            unit="images/s",
            target=TARGET,
            ours=found[what][bench.ours],
            peer=found[what][bench.peer],
            ceiling=ceilings[what],
            our_syncs=our_syncs,
            peer_syncs=peer_syncs,
        )
        for what in (ONE, EIGHT)
    ]
    return Section("Pushes", METHOD, rows)


def push_in_sequence(port: int, images: Sequence[Image]) -> None:
    """Push configs and manifests over one connection."""
    with Connection(port) as connection:
        for image in images:
            push_blob(connection, image.repository, image.config)
            push_manifest(connection, image.repository, image.tag, image.manifest)
