"""The pushes and pulls of the other scenarios with a bucket in place of the folder."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from conformance.benchmarks import buckets
from conformance.benchmarks.bench import Bench
from conformance.benchmarks.buckets import PROGRAMS, bench_in
from conformance.benchmarks.results import Row, Section
from conformance.benchmarks.scenarios import (
    memory,
    pull_large,
    push_images,
    push_large,
    push_small,
    small_reads,
)
from conformance.benchmarks.scenarios.memory import DiskTooSmall
from tests.parts.certificates import Authority

MEMORY_LIMIT_MB = 200

METHOD = (
    "As the scenarios of the same names above, with a fresh bucket in place of an empty folder, on "
    "versitygw and on MinIO, which ran on the same machine and the same two cores and kept their "
    "data on its disk. Requests to S3 were counted by a proxy in a run of its own."
)

TLS_METHOD = (
    "Certificates are signed by an authority of the run's own. The client decrypts what it throws "
    "away, on the same two cores; requests to S3 are not counted."
)

Scenario = Callable[[Bench], Section]


def push_large_run(bench: Bench) -> Section:
    """Measure pushes of one big layer."""
    targets = dict.fromkeys([push_large.PUT, push_large.PATCHES, push_large.DOCKER], 1.5)
    return _run(push_large.run, bench, "Pushes into a bucket", targets)


def push_images_run(bench: Bench) -> Section:
    """Measure pushes of eight images at once."""
    return _run(push_images.run, bench, "Pushes into a bucket", {push_images.WHAT: 1.5})


def push_small_run(bench: Bench) -> Section:
    """Measure pushes of small images."""
    targets = dict.fromkeys(map(push_small.name_of, push_small.CLIENTS), 1.5)
    return _run(push_small.run, bench, "Pushes into a bucket", targets)


def pull_through_run(bench: Bench) -> Section:
    """Measure a pull of one big layer through the registry."""
    return _run(pull_large.run, bench, "Pulls from a bucket, through", {pull_large.WHAT: 1.0})


def pull_over_tls_run(bench: Bench) -> Section:
    """Measure the same with TLS to the client, to the bucket, and to both."""
    pair = Authority().issue(bench.directory / "certificate")
    rows: list[Row] = []
    for kind in PROGRAMS:
        for where, to_client, to_bucket in (
            ("to the client", pair, None),
            ("to the bucket", None, pair),
            ("to both", pair, pair),
        ):
            with buckets.running(kind, bench.directory, tls=to_bucket) as running:
                section = pull_large.run(bench_in(bench, running, tls=to_client))
            rows += [
                replace(row, what=f"{row.what}, {kind}, TLS {where}", target=1.0, ceiling=None)
                for row in section.rows
            ]
    return Section("Pulls from a bucket, through, over TLS", f"{METHOD} {TLS_METHOD}", rows)


def pull_redirected_run(bench: Bench) -> Section:
    """Measure a pull of one big layer from where the registry sends its client."""
    title, targets = "Pulls from a bucket, redirected", {pull_large.WHAT: 1.0}
    own = _run(pull_large.run, bench, title, targets, redirects=True)
    # How an S3 server reads an object depends on how it was written: here it is one object.
    one = _run(partial(pull_large.run, of_peers=True), bench, title, {}, redirects=True)
    return replace(own, rows=[*own.rows, *one.rows])


def small_reads_run(bench: Bench) -> Section:
    """Measure requests for manifests."""
    return _run(small_reads.run, bench, "Small reads from a bucket", {small_reads.TAG: 2.0})


def memory_run(bench: Bench) -> Section:
    """Measure what sixteen big pushes keep in memory."""
    # Parts, and what they are joined or copied to before they go.
    need = 0 if bench.quick else 2.5 * memory.CLIENTS * 2**30
    if shutil.disk_usage(bench.directory).free < need:
        raise DiskTooSmall(
            f"memory: needs {need / 1e9:.0f} GB free: --directory names another disk"
        )
    return _run(memory.run, bench, "Memory of pushes into a bucket", {}, limit=MEMORY_LIMIT_MB)


def _run(
    scenario: Scenario,
    bench: Bench,
    title: str,
    targets: Mapping[str, float],
    *,
    redirects: bool = False,
    limit: float | None = None,
) -> Section:
    rows: list[Row] = []
    for kind in PROGRAMS:
        with buckets.running(kind, bench.directory) as running:
            section = scenario(bench_in(bench, running, redirects=redirects))
        rows += [
            replace(
                row,
                what=f"{row.what}, {kind}",
                target=targets.get(row.what),
                limit=limit if row.limit is not None else None,
            )
            for row in section.rows
        ]
    return Section(title, METHOD, rows, costs="requests to S3")
