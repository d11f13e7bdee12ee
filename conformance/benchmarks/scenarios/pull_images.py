"""Sixteen clients that pull sixteen different images at once: a node pool that starts."""

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from statistics import median

from conformance.benchmarks import servers
from conformance.benchmarks.bench import LARGE, Bench, seeded
from conformance.benchmarks.content import MIB
from conformance.benchmarks.images import in_parallel, pull_image, push_image
from conformance.benchmarks.results import Row, Section
from conformance.benchmarks.servers import Server, Started

WHAT = "pull of 16 images of 4 x 4 MiB in parallel"
TARGET = 2.2
IMAGES = 16
LAYERS = 4
REPEATS = 3

METHOD = (
    "Each image is pulled over one new connection of its own: manifest by tag, config, then its "
    "four layers one after the other."
)


def run(bench: Bench) -> Section:
    """Measure MB a second of all clients together."""
    (blob,) = bench.large_blobs(1)
    layers = bench.content.cut(blob, 4 * MIB)
    images = [
        bench.content.image(
            f"bench/image-{number:02d}", f"pull-{number}", layers[number * LAYERS :][:LAYERS]
        )
        for number in range(IMAGES)
    ]

    def seed(running: Started) -> None:
        for image in images:
            push_image(running.port, image)

    with ExitStack() as stack:
        roots = {
            server: stack.enter_context(seeded(bench, server, seed)) for server in bench.registries
        }
        sink = bench.sink()
        roots[sink] = stack.enter_context(bench.root())

        def measure(server: Server) -> Mapping[str, float]:
            with servers.started(server, roots[server]) as running:
                pull = partial(pull_image, running.port)
                in_parallel(IMAGES, pull, images)
                spent = [in_parallel(IMAGES, pull, images) for _ in range(REPEATS)]
            return {WHAT: LARGE / 1e6 / median(spent)}

        found = bench.collect([*bench.registries, sink], measure)[WHAT]
    row = Row(
        what=WHAT,
        unit="MB/s",
        target=TARGET,
        ours=found[bench.ours],
        peer=found[bench.peer],
        ceiling=found[sink],
    )
    return Section("Pulls", METHOD, [row])
