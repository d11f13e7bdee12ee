"""What a cluster does all day: asking for a manifest, and fetching small blobs."""

from collections.abc import Mapping
from contextlib import ExitStack

from conformance.benchmarks import servers
from conformance.benchmarks.bench import Bench, seeded
from conformance.benchmarks.content import MANIFEST_TYPE
from conformance.benchmarks.images import push_image
from conformance.benchmarks.load import CONNECTIONS, get_rate, head_rate
from conformance.benchmarks.results import Row, Section
from conformance.benchmarks.servers import Empty, Instant, Server

TAG = "GET manifest by tag"
DIGEST = "GET manifest by digest"
HEAD = "HEAD manifest by tag"
BLOB = "GET blob of 4 KiB"
TARGETS = {TAG: 3.2, DIGEST: 3.2, HEAD: 3.8, BLOB: 14.0}

METHOD = (
    f"{CONNECTIONS} connections ask for one thing again and again, the content in the page cache, "
    "after a warm-up. GETs by `wrk`, HEADs by a loop of our own (`wrk` cannot read their answers). "
    "The empty application is uvicorn with uvloop and httptools, as many workers as ours, "
    "measured in the same rounds with the same load."
)


def run(bench: Bench) -> Section:
    """Measure requests a second."""
    layers = [bench.content.random(4096) for _ in range(5)]
    image = bench.content.image("bench/small", "latest", layers)
    manifests = f"/v2/{image.repository}/manifests"
    accept = {"Accept": MANIFEST_TYPE}
    by_tag = f"{manifests}/{image.tag}"
    empty, instant = Empty(), Instant()

    with ExitStack() as stack:
        roots = {
            server: stack.enter_context(
                seeded(bench, server, lambda running: push_image(running.port, image))
            )
            for server in bench.registries
        }
        roots[empty] = roots[instant] = stack.enter_context(bench.root())

        def measure(server: Server) -> Mapping[str, float]:
            with servers.started(server, roots[server]) as running:
                port, seconds = running.port, bench.seconds
                found = {
                    TAG: get_rate(port, by_tag, accept, seconds),
                    HEAD: head_rate(port, by_tag, accept, seconds),
                }
                if server is empty:
                    return {**found, DIGEST: found[TAG], BLOB: found[TAG]}
                by_digest = f"{manifests}/{image.manifest.digest}"
                blob = f"/v2/{image.repository}/blobs/{layers[0].digest}"
                return {
                    **found,
                    DIGEST: get_rate(port, by_digest, accept, seconds),
                    BLOB: get_rate(port, blob, {}, seconds),
                }

        found = bench.collect([*bench.registries, empty], measure)
        ceilings = bench.once(instant, measure)
    rows = [
        Row(
            what=what,
            unit="requests/s",
            target=target,
            ours=found[what][bench.ours],
            peer=found[what][bench.peer],
            baseline=found[what][empty],
            ceiling=ceilings[what],
        )
        for what, target in TARGETS.items()
    ]
    return Section("Small reads", METHOD, rows)
