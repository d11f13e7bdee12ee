"""One run of the benchmarks: where it keeps its files, how often it repeats, who goes first."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from conformance.benchmarks import servers
from conformance.benchmarks.content import MIB, Blob, Content
from conformance.benchmarks.load import find_program
from conformance.benchmarks.samples import Samples
from conformance.benchmarks.servers import Server, Sink, Started

LARGE = 256 * MIB

# Not sync_file_range, which starts writing but makes nothing durable.
_SYNC_CALLS = "fsync,fdatasync,syncfs,sync,msync"

Contestant = TypeVar("Contestant")


@dataclass(frozen=True, slots=True)
class Bench:
    """What every scenario is given."""

    directory: Path
    content: Content
    rounds: int
    seconds: float
    """How long one measurement of a rate lasts."""
    quick: bool
    """Whether to use smaller sizes where the full ones take minutes."""
    ours: Server
    peer: Server

    @property
    def registries(self) -> tuple[Server, Server]:
        """The two that are compared."""
        return self.ours, self.peer

    @contextlib.contextmanager
    def root(self) -> Iterator[Path]:
        """Make an empty folder for a server's data and remove it after the block."""
        place = Path(tempfile.mkdtemp(dir=self.directory, prefix="root-"))
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def collect(
        self,
        contestants: Sequence[Contestant],
        measure: Callable[[Contestant], Mapping[str, float]],
    ) -> Mapping[str, Mapping[Contestant, Samples]]:
        """Measure everybody in every round, and let another one begin each time."""
        found: dict[str, dict[Contestant, list[float]]] = {}
        for number in range(self.rounds):
            for contestant in contestants if number % 2 == 0 else reversed(contestants):
                for what, value in measure(contestant).items():
                    found.setdefault(what, {}).setdefault(contestant, []).append(value)
        return {
            what: {contestant: Samples.of(values) for contestant, values in by.items()}
            for what, by in found.items()
        }

    def once(
        self, server: Server, measure: Callable[[Server], Mapping[str, float]]
    ) -> Mapping[str, Samples]:
        """Measure a server whose speed only has to be far above the others'."""
        return {what: Samples.of([value]) for what, value in measure(server).items()}

    def sink(self) -> Sink:
        """The server that answers at once, knowing all content made so far."""
        index = self.directory / "index.json"
        index.write_text(json.dumps(self.content.index))
        return Sink(self.content.path, index)

    def large_blobs(self, count: int) -> Sequence[Blob]:
        """Blobs of 256 MiB that differ and yet share nearly all of their bytes in the file."""
        page = 4096
        whole = self.content.reuse("large", LARGE + 8 * page)
        return [self.content.piece(whole, number * page, LARGE) for number in range(count)]

    def count_costs(self, server: Server, work: Callable[[int], object]) -> int:
        """Count what a load costs in an untimed run: here the calls that make it durable.

        Args:
            server: Which.
            work: Sends the load to the port it is given.
        """
        tracer = find_program("strace")
        with self.root() as root:
            log = root.with_suffix(".strace")
            # -D makes the tracer the child, so that our signals reach the server.
            under = [tracer, "-D", "-f", "-qq", "--seccomp-bpf", "-e", f"trace={_SYNC_CALLS}"]
            with servers.started(server, root, under=[*under, "-o", str(log)]) as running:
                before = _count_calls(log)
                work(running.port)
                return _count_calls(log) - before


@contextlib.contextmanager
def seeded(bench: Bench, server: Server, seed: Callable[[Started], object]) -> Iterator[Path]:
    """Fill a folder through the server itself, and leave it to be read."""
    with bench.root() as root:
        with servers.started(server, root) as running:
            seed(running)
        yield root


def settle() -> None:
    """Write out what earlier work left dirty, so that the next one does not pay for it."""
    os.sync()


def _count_calls(log: Path) -> int:
    calls = _SYNC_CALLS.split(",")
    # A call that another thread interrupts is written twice; only the first line has
    # the name followed by its arguments.
    return sum(
        any(f" {call}(" in line for call in calls)
        for line in log.read_text(errors="replace").splitlines()
    )
