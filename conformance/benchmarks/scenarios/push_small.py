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

CLIENTS = (1, 8, 32)
"""How many connections push at once."""

TARGET = 1.2
COUNTED = 5
"""How many images of each connection have their syncs counted; of a single one four times that."""

METHOD = (
    "A small image is a config and a manifest, no two alike: POST, PUT, and PUT of the manifest by "
    "tag, one image after the other on each connection. Syncs are those of one image; where "
    "connections share them, there are fewer for each."
)


def run(bench: Bench) -> Section:
    """Measure images a second, and count the syncs of one image."""
    each = 20 if bench.quick else 60
    warm_up = _images(bench, "warm-up", 10)
    loads = {
        clients: _shares(_images(bench, f"by-{clients}", each * size), clients)
        for clients, size in zip(CLIENTS, (1, 5, 10), strict=True)
    }
    counted = {
        clients: [share[: COUNTED if clients > 1 else 4 * COUNTED] for share in shares]
        for clients, shares in loads.items()
    }

    def measure(server: Server) -> Mapping[str, float]:
        found = {}
        with bench.root() as root, servers.started(server, root) as running:
            push = partial(push_in_sequence, running.port)
            push(warm_up)
            for clients, shares in loads.items():
                settle()
                found[name_of(clients)] = sum(map(len, shares)) / in_parallel(clients, push, shares)
        return found

    def count(server: Server, clients: int) -> float:
        shares = counted[clients]
        calls = bench.count_costs(
            server, lambda port: in_parallel(clients, partial(push_in_sequence, port), shares)
        )
        return round(calls / sum(map(len, shares)), 1)

    found = bench.collect(bench.registries, measure)
    ceilings = bench.once(bench.sink(), measure)
    rows = [
        Row(
            what=name_of(clients),
            unit="images/s",
            target=TARGET,
            ours=found[name_of(clients)][bench.ours],
            peer=found[name_of(clients)][bench.peer],
            ceiling=ceilings[name_of(clients)],
            our_costs=count(bench.ours, clients),
            peer_costs=count(bench.peer, clients),
        )
        for clients in CLIENTS
    ]
    return Section("Pushes", METHOD, rows)


def name_of(clients: int) -> str:
    """Name the row of so many clients."""
    return f"push of small images, {clients} connection{'s' if clients > 1 else ''}"


def _images(bench: Bench, name: str, count: int) -> list[Image]:
    return [bench.content.image("bench/tiny", f"{name}-{number}", []) for number in range(count)]


def _shares(images: Sequence[Image], clients: int) -> list[Sequence[Image]]:
    return [images[number::clients] for number in range(clients)]


def push_in_sequence(port: int, images: Sequence[Image]) -> None:
    """Push configs and manifests over one connection."""
    with Connection(port) as connection:
        for image in images:
            push_blob(connection, image.repository, image.config)
            push_manifest(connection, image.repository, image.tag, image.manifest)
