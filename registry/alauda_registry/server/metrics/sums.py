"""The plain numbers behind the metrics: added to by each request, and added up over processes."""

import json
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
BYTES = tuple(float(1024 * 4**power) for power in range(12))
"""1 KiB to 4 GiB."""


class Tally:
    """A histogram of plain numbers."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def merge(self, counts: Sequence[int], total: float) -> None:
        """Add what was counted elsewhere with the same bounds."""
        self.counts = [ours + theirs for ours, theirs in zip(self.counts, counts, strict=True)]
        self.total += total


class Requests:
    """Requests of one handler, method and status."""

    __slots__ = ("count", "received", "seconds", "sent")

    def __init__(self) -> None:
        self.count = 0
        self.seconds = Tally(SECONDS)
        self.received = Tally(BYTES)
        self.sent = Tally(BYTES)

    def add(self, seconds: float, received: int, sent: int) -> None:
        """Count one request; most have no body, and need not be searched a bucket."""
        self.count += 1
        self.seconds.add(seconds)
        if received:
            self.received.add(received)
        else:
            self.received.counts[0] += 1
        if sent:
            self.sent.add(sent)
        else:
            self.sent.counts[0] += 1

    @property
    def tallies(self) -> tuple[Tally, ...]:
        """All of them, in the order of a record."""
        return self.seconds, self.received, self.sent


@dataclass(slots=True)
class Storage:
    """Calls of one operation of the storage driver."""

    seconds: Tally = field(default_factory=lambda: Tally(SECONDS))
    errors: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Sums:
    """Everything that is counted."""

    requests: dict[tuple[str, str, int], Requests] = field(default_factory=dict)
    """By handler, method and status."""
    storage: dict[str, Storage] = field(default_factory=dict)
    """By operation."""
    rejected: dict[str, int] = field(default_factory=dict)
    """By kind of request: read, write."""
    in_flight: int = 0
    queues: dict[str, tuple[int, int]] = field(default_factory=dict)
    """How many run and how many wait, by kind of request."""

    def dump(self, **more: int) -> bytes:
        """Write everything down, for :meth:`merge` in this process or another."""
        record = {
            "requests": [
                (key, requests.count, [(tally.counts, tally.total) for tally in requests.tallies])
                for key, requests in self.requests.items()
            ],
            "storage": [
                (operation, storage.seconds.counts, storage.seconds.total, storage.errors)
                for operation, storage in self.storage.items()
            ],
            "rejected": self.rejected,
            "in_flight": self.in_flight,
            "queues": self.queues,
            **more,
        }
        return json.dumps(record).encode()

    def merge(self, record: dict[str, Any], *, is_alive: bool) -> None:
        """Add what was counted elsewhere.

        Args:
            record: What was written down, read as JSON.
            is_alive: Whether what was going on there still does.
        """
        for key, count, tallies in record["requests"]:
            requests = self.requests.setdefault(tuple(key), Requests())
            requests.count += count
            for ours, theirs in zip(requests.tallies, tallies, strict=True):
                ours.merge(*theirs)
        for operation, counts, total, errors in record["storage"]:
            storage = self.storage.setdefault(operation, Storage())
            storage.seconds.merge(counts, total)
            _add(storage.errors, errors)
        _add(self.rejected, record["rejected"])
        if is_alive:
            self.in_flight += record["in_flight"]
            for kind, (running, waiting) in record["queues"].items():
                ours_running, ours_waiting = self.queues.get(kind, (0, 0))
                self.queues[kind] = ours_running + running, ours_waiting + waiting


def _add(ours: dict[str, int], theirs: dict[str, int]) -> None:
    for key, count in theirs.items():
        ours[key] = ours.get(key, 0) + count
