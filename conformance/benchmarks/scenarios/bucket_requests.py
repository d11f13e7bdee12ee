"""How many requests to S3 an operation takes: what a bucket costs in money and in time."""

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial

from conformance.benchmarks import buckets, servers, trees
from conformance.benchmarks.bench import Bench
from conformance.benchmarks.buckets import BucketBench, bench_in, bucket_of
from conformance.benchmarks.client import Connection, Request
from conformance.benchmarks.content import MANIFEST_TYPE, MIB, Image
from conformance.benchmarks.images import (
    pull_image,
    push_blob,
    push_blob_like_docker,
    push_image,
)
from conformance.benchmarks.results import Row, Section
from conformance.benchmarks.samples import Samples
from conformance.benchmarks.servers import Server

TAGS = 10_000
REPOSITORIES = 2_000
PAGE = 100
REPOSITORY = "bench/requests"
TAGGED = "bench/tagged"

METHOD = (
    "Requests that reach the S3 server (versitygw) during one operation, counted by a proxy before "
    "it, by a server that was started just before and knows nothing yet. Layers are pushed as "
    "POST and PUT, or as POST, one chunked PATCH and an empty PUT."
)

Work = Callable[[int], object]
Counts = Mapping[str, Mapping[Server, Counter[str]]]
"""Which operation → who → how many requests there were of each kind."""


def run(bench: Bench) -> Section:
    """Count the requests."""
    with buckets.running("versitygw", bench.directory) as running:
        in_buckets = bench_in(bench, running)
        counts = count(in_buckets)
    rows = [
        Row(
            what=what,
            unit="requests to S3",
            target=1.0,
            higher_is_better=False,
            ours=Samples.of([by_server[in_buckets.ours].total()]),
            peer=Samples.of([by_server[in_buckets.peer].total()]),
        )
        for what, by_server in counts.items()
    ]
    return Section("Requests to S3", METHOD, rows)


def count(bench: BucketBench) -> Counts:
    """Count the requests of each operation, for ours and for the peer."""
    image = bench.content.image(REPOSITORY, "latest", [bench.content.random(MIB)])
    count = 300 if bench.quick else TAGS
    repositories = 300 if bench.quick else REPOSITORIES
    operations = _operations(bench, image, count)
    found: dict[str, dict[Server, Counter[str]]] = {}
    for server in bench.registries:
        with bench.root() as root:
            with servers.started(server, root) as running:
                push_image(running.port, image)
            home = bench.buckets.root / bucket_of(root)
            # As the files that versitygw keeps objects as.
            trees.build_tags(home, TAGGED, image.manifest, count)
            trees.build_tagged_repositories(home, image.manifest, repositories)
            for what, work in operations.items():
                found.setdefault(what, {})[server] = bench.count_requests(server, root, work)
    return found


def _operations(bench: BucketBench, image: Image, count: int) -> Mapping[str, Work]:
    small, large, chunked = (bench.content.random(size * MIB) for size in (1, 32, 32))
    encoded = bench.content.encode(chunked)
    other = bench.content.image(REPOSITORY, "other", [bench.content.random(MIB)])
    by_tag = Request("GET", f"/v2/{REPOSITORY}/manifests/{image.tag}", {"Accept": MANIFEST_TYPE})
    mount = f"/v2/bench/mounted/blobs/uploads/?mount={image.layers[0].digest}&from={REPOSITORY}"

    def over_one(work: Callable[[Connection], object]) -> Work:
        def connect(port: int) -> None:
            with Connection(port) as connection:
                work(connection)

        return connect

    return {
        "GET manifest by tag": over_one(lambda one: one.ask(by_tag, 200)),
        "pull of an image of one layer by tag, through": partial(_pull, image),
        "push of a layer of 1 MiB": over_one(lambda one: push_blob(one, REPOSITORY, small)),
        "push of a layer of 32 MiB": over_one(lambda one: push_blob(one, REPOSITORY, large)),
        "push of a layer of 32 MiB, chunked": over_one(
            lambda one: push_blob_like_docker(one, REPOSITORY, chunked, encoded)
        ),
        "mount of a layer": over_one(lambda one: one.ask(Request("POST", mount), 201)),
        "push of an image of one layer by tag": lambda port: push_image(port, other),
        f"list of {count:,} tags".replace(",", "\u202f"): _get(f"/v2/{TAGGED}/tags/list"),
        f"first page of {PAGE} tags": _get(f"/v2/{TAGGED}/tags/list?n={PAGE}"),
        f"page of {PAGE} tags": _get(f"/v2/{TAGGED}/tags/list?n={PAGE}&last=v000.150"),
        f"first page of {PAGE} repositories": _get(f"/v2/_catalog?n={PAGE}"),
        f"page of {PAGE} repositories": _get(f"/v2/_catalog?n={PAGE}&last=team-0001/app-50"),
    }


def _pull(image: Image, port: int) -> None:
    pull_image(port, image)


def _get(path: str) -> Work:
    def ask(port: int) -> None:
        with Connection(port) as connection:
            connection.ask(Request("GET", path), 200)

    return ask
