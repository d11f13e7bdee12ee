"""Eight clients that push eight different images at once: a build farm."""

from collections.abc import Mapping
from functools import partial

from conformance.benchmarks import servers
from conformance.benchmarks.bench import LARGE, Bench, settle
from conformance.benchmarks.content import MIB
from conformance.benchmarks.images import in_parallel, push_image
from conformance.benchmarks.results import Row, Section
from conformance.benchmarks.servers import Server

WHAT = "push of 8 images of 4 x 8 MiB in parallel"
TARGET = 1.4
IMAGES = 8
LAYERS = 4

METHOD = (
    "Each image is pushed over one connection of its own: four layers and the config, each as POST "
    "and PUT, then the manifest by tag."
)


def run(bench: Bench) -> Section:
    """Measure MB a second of all clients together, and count the syncs of one image."""
    (blob,) = bench.large_blobs(1)
    layers = bench.content.cut(blob, 8 * MIB)
    images = [
        bench.content.image(
            f"bench/image-{number}", f"push-{number}", layers[number * LAYERS :][:LAYERS]
        )
        for number in range(IMAGES)
    ]
    warm_up = bench.content.image("bench/warm-up", "warm-up", [bench.content.random(2**20)])

    def measure(server: Server) -> Mapping[str, float]:
        with bench.root() as root, servers.started(server, root) as running:
            push_image(running.port, warm_up)
            settle()
            spent = in_parallel(IMAGES, partial(push_image, running.port), images)
        return {WHAT: LARGE / 1e6 / spent}

    def count(server: Server) -> float:
        return bench.count_costs(server, lambda port: push_image(port, images[0]))

    sink = bench.sink()
    found = bench.collect([*bench.registries, sink], measure)[WHAT]
    row = Row(
        what=WHAT,
        unit="MB/s",
        target=TARGET,
        ours=found[bench.ours],
        peer=found[bench.peer],
        ceiling=found[sink],
        our_costs=count(bench.ours),
        peer_costs=count(bench.peer),
    )
    return Section("Pushes", METHOD, [row])
