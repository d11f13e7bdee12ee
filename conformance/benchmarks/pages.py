"""Timing pages of long lists, shared by the scenarios about tags, repositories and referrers."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Self

from conformance.benchmarks.bench import Bench
from conformance.benchmarks.client import Answer, Connection, Request, UnexpectedAnswer
from conformance.benchmarks.results import Row
from conformance.benchmarks.samples import Samples
from conformance.benchmarks.servers import Server

PAGE = 100
AT_LEAST = 3
AT_MOST = 200


@dataclass(frozen=True, slots=True)
class Page:
    """A page to ask for, and what has to be on it."""

    what: str
    target: str
    key: str
    """The member of the answer that holds the list."""
    size: int

    @classmethod
    def first_and_middle(
        cls, what: str, target: str, key: str, names: Sequence[str]
    ) -> tuple[Self, Self]:
        """The page at the start of a list and the one in its middle."""
        middle = len(names) // 2
        rest = names[middle:]
        return (
            cls(f"{what}, from the start", target, key, min(PAGE, len(names))),
            cls(
                f"{what}, from the middle",
                f"{target}&last={names[middle - 1]}",
                key,
                min(PAGE, len(rest)),
            ),
        )

    @classmethod
    def as_answered(cls, what: str, target: str, key: str, answer: Answer) -> Self:
        """A page whose size the server chose."""
        size = len(json.loads(answer.body)[key])
        return cls(f"{what} ({size})", target, key, size)


def compare(
    bench: Bench, connections: Mapping[Server, Connection], pages: Sequence[Page]
) -> list[Row]:
    """Measure milliseconds for each page on each connection."""

    def measure(page: Page) -> Mapping[Server, Samples]:
        found = bench.collect(
            list(connections), lambda server: {page.what: _time(bench, connections[server], page)}
        )
        return found[page.what]

    return [
        Row(
            what=page.what,
            unit="ms",
            higher_is_better=False,
            ours=values[bench.ours],
            peer=values.get(bench.peer),
        )
        for page, values in ((page, measure(page)) for page in pages)
    ]


def _time(bench: Bench, connection: Connection, page: Page) -> float:
    request = Request("GET", page.target)
    _check(page, connection.ask(request, 200, keep=True))
    spent: list[float] = []
    deadline = time.perf_counter() + bench.seconds / 8
    while len(spent) < AT_LEAST or (time.perf_counter() < deadline and len(spent) < AT_MOST):
        start = time.perf_counter()
        connection.ask(request, 200, keep=True)
        spent.append(time.perf_counter() - start)
    return 1e3 * median(spent)


def _check(page: Page, answer: Answer) -> None:
    size = len(json.loads(answer.body)[page.key])
    if size != page.size:
        raise UnexpectedAnswer(f"{page.target} has {size} entries instead of {page.size}")
