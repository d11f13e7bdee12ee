"""Run the benchmarks: ``python -m conformance.benchmarks``, or ``make bench``."""

import argparse
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from conformance.benchmarks import machine
from conformance.benchmarks.bench import Bench
from conformance.benchmarks.client import UnexpectedAnswer
from conformance.benchmarks.content import Content
from conformance.benchmarks.load import LoadFailed, ProgramMissing, find_program
from conformance.benchmarks.results import Section, merge, render_document
from conformance.benchmarks.scenarios import (
    api_images,
    api_requests,
    api_watches,
    bucket_requests,
    check_tree,
    cluster_reads,
    in_buckets,
    memory,
    page_catalog,
    page_referrers,
    page_tags,
    pull_images,
    pull_large,
    push_images,
    push_large,
    push_small,
    small_reads,
    token_reads,
)
from conformance.benchmarks.scenarios.memory import DiskTooSmall
from conformance.benchmarks.servers import PEER_PROGRAM, PEER_VERSION, Ours, Peer
from tests.parts.processes import PartFailed

RESULTS = Path(__file__).with_name("RESULTS.md")

SCENARIOS: Mapping[str, Callable[[Bench], Section]] = {
    "small-reads": small_reads.run,
    "token-reads": token_reads.run,
    "cluster-reads": cluster_reads.run,
    "image-api-requests": api_requests.run,
    "image-api-images": api_images.run,
    "image-api-watches": api_watches.run,
    "pull-large": pull_large.run,
    "pull-images": pull_images.run,
    "push-large": push_large.run,
    "push-images": push_images.run,
    "push-small": push_small.run,
    "memory": memory.run,
    "page-tags": page_tags.run,
    "page-catalog": page_catalog.run,
    "page-referrers": page_referrers.run,
    "check-tree": check_tree.run,
    "s3-small-reads": in_buckets.small_reads_run,
    "s3-pull-through": in_buckets.pull_through_run,
    "s3-pull-through-tls": in_buckets.pull_over_tls_run,
    "s3-pull-redirected": in_buckets.pull_redirected_run,
    "s3-push-large": in_buckets.push_large_run,
    "s3-push-images": in_buckets.push_images_run,
    "s3-push-small": in_buckets.push_small_run,
    "s3-memory": in_buckets.memory_run,
    "s3-requests": bucket_requests.run,
}

FAILURES = (
    OSError,
    subprocess.SubprocessError,
    PartFailed,
    LoadFailed,
    UnexpectedAnswer,
    DiskTooSmall,
)

INTRODUCTION = f"""\
Written by `make bench`; the day after each method is that of its table. Both registries ran on the
same machine in the same run, on the same file system, over plain HTTP, access logs off, on
{machine.CORES} cores that they share with the load generator. Numbers are medians of {{rounds}}
rounds with the smallest and largest in parentheses; in every other round the other server goes
first. The ratio says how many times better than distribution {PEER_VERSION} ours is, taken round by
round. MB are millions of bytes, MiB 2^20.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the scenarios and write their results."""
    options = _parse(arguments)
    try:
        for program in ("wrk", "strace"):
            find_program(program)
        peer = _find_peer(options.peer)
    except ProgramMissing as missing:
        print(missing, file=sys.stderr)
        return 2
    machine.use_two_cores()
    # As an exception, so that servers and files are gone when the run is.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory(prefix="benchmarks-", dir=options.directory) as place:
        directory = Path(place)
        content = Content(directory / "content")
        try:
            bench = Bench(
                directory=directory,
                content=content,
                rounds=options.rounds or (1 if options.quick else 5),
                seconds=options.seconds or (1 if options.quick else 2),
                quick=options.quick,
                ours=Ours(),
                peer=Peer(peer),
            )
            sections, failed = _run(bench, options.only or list(SCENARIOS))
            facts = machine.describe_machine(directory, peer)
        finally:
            content.close()
    output = options.output or (None if options.quick or options.only else RESULTS)
    previous = output.read_text() if output is not None and output.exists() else ""
    introduction = INTRODUCTION.format(rounds=bench.rounds)
    if failed:
        introduction += f"\n**Not measured, for they failed: {', '.join(failed)}.**\n"
    text = render_document(
        introduction, merge(sections), facts, previous, keep=options.only is not None
    )
    if output is None:
        print(text)
    else:
        output.write_text(text)
    return 1 if failed else 0


def _run(bench: Bench, names: Sequence[str]) -> tuple[list[Section], list[str]]:
    sections, failed = [], []
    for name in names:
        start = time.monotonic()
        try:
            sections.append(SCENARIOS[name](bench))
        except FAILURES:
            # The other scenarios are worth their minutes all the same.
            failed.append(name)
            traceback.print_exc()
        print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr)
    return sections, failed


def _find_peer(program: Path) -> Path:
    if not program.is_file():
        raise ProgramMissing(
            f"distribution {PEER_VERSION} is not at {program}: --peer names another place"
        )
    return program


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m conformance.benchmarks", description=__doc__)
    parser.add_argument(
        "--only",
        nargs="+",
        choices=SCENARIOS,
        metavar="SCENARIO",
        help=f"run only these: {', '.join(SCENARIOS)}; prints, or replaces the sections "
        "of --output that it measured, each as a whole",
    )
    parser.add_argument("--rounds", type=int, help="repeat everything that often (default: 5)")
    parser.add_argument(
        "--seconds", type=float, help="measure each rate for that many seconds (default: 2)"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one round, smaller sizes: tells whether it works, not how fast it is",
    )
    parser.add_argument("--output", type=Path, help=f"write to this file (default: {RESULTS.name})")
    parser.add_argument("--directory", type=Path, help="a folder on the disk to measure on")
    parser.add_argument(
        "--peer", type=Path, default=PEER_PROGRAM, help=f"distribution's program, {PEER_VERSION}"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
