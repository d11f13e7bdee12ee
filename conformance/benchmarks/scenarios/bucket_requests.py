"""How many requests to S3 an operation takes: what a bucket costs in money and in time."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

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
    tags = 100 if bench.quick else TAGS
    operations = _operations(bench, image, tags)
    found: dict[str, dict[Server, Counter[str]]] = {}
    for server in bench.registries:
        with bench.root() as root:
            with servers.started(server, root) as running:
                push_image(running.port, image)
            _tag(bench, root, image, tags)
            for what, work in operations.items():
                found.setdefault(what, {})[server] = bench.count_requests(server, root, work)
    return found


def _operations(bench: BucketBench, image: Image, tags: int) -> Mapping[str, Work]:
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
        f"list of {tags:,} tags".replace(",", "\u202f"): over_one(_list_tags),
    }


def _pull(image: Image, port: int) -> None:
    pull_image(port, image)


def _list_tags(connection: Connection) -> None:
    connection.ask(Request("GET", f"/v2/{TAGGED}/tags/list"), 200)


def _tag(bench: BucketBench, root: Path, image: Image, count: int) -> Sequence[str]:
    """Give a repository many tags, as the files that versitygw keeps objects as."""
    return trees.build_tags(bench.buckets.root / bucket_of(root), TAGGED, image.manifest, count)
