"""What the scenarios found, and its rendering as the tables of ``RESULTS.md``.

A row holds measurements, never text about them: whether a promise is kept is
computed here, so that no scenario can be kinder to itself than another. A column
that no row of a section fills is left out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from conformance.benchmarks.samples import Samples

BY_HAND = "## What limits it"
"""Everything from this heading on is written by people; a new run keeps it."""

MACHINE = "## The machine"
"""Comes before that; what stands before this one is measured."""


@dataclass(frozen=True, slots=True)
class Row:
    """One measured thing."""

    what: str
    unit: str
    ours: Samples
    peer: Samples | None = None
    """None where the peer has nothing to compare with."""
    target: float | None = None
    """How many times better than the peer it is promised to be."""
    limit: float | None = None
    """What our own value must stay below, in the row's unit."""
    higher_is_better: bool = True
    baseline: Samples | None = None
    """The same requests against an empty application."""
    ceiling: Samples | None = None
    """The same load against a server that answers at once: what the load generator can do."""
    our_costs: float | None = None
    """How often it had to wait for the storage, counted in a run of its own."""
    peer_costs: float | None = None

    @property
    def ratio(self) -> Samples | None:
        """How many times better than the peer, round by round; above 1 is ahead of it."""
        if self.peer is None:
            return None
        return self.ours.over(self.peer) if self.higher_is_better else self.peer.over(self.ours)

    @property
    def met(self) -> bool | None:
        """Whether the promise is kept; None without a promise."""
        if self.limit is not None:
            return self.ours.high < self.limit
        if self.target is None or self.ratio is None:
            return None
        return self.ratio.median >= self.target


@dataclass(frozen=True, slots=True)
class Section:
    """The rows of one scenario, and how they were measured."""

    title: str
    method: str
    rows: Sequence[Row]
    costs: str = "syncs"
    """What is counted as costs."""


Facts = Sequence[tuple[str, str]]
Column = tuple[str, Callable[[Row], str]]


def render_number(value: float) -> str:
    """Write a number with as many digits as it deserves.

    The separator of thousands is a narrow space, so that nobody has to guess whether
    a comma or a point means what.
    """
    if value >= 100:
        return f"{value:,.0f}".replace(",", "\u202f")
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def render_samples(samples: Samples | None) -> str:
    """Write the median with its spread; nothing where nothing was measured."""
    if samples is None:
        return ""
    text = render_number(samples.median)
    if len(samples.values) == 1:
        return text
    return f"{text} ({render_number(samples.low)}-{render_number(samples.high)})"


def merge(sections: Sequence[Section]) -> list[Section]:
    """Join the sections that have the same title into one table."""
    merged: dict[str, Section] = {}
    for section in sections:
        first = merged.get(section.title, Section(section.title, "", ()))
        is_said = section.method in first.method
        method = first.method if is_said else f"{first.method} {section.method}".strip()
        merged[section.title] = Section(
            section.title, method, [*first.rows, *section.rows], section.costs
        )
    return list(merged.values())


def render_section(section: Section, day: str) -> str:
    """Write a section with its table, and the day on which it was measured."""
    columns = [
        (title.format(costs=section.costs), cells)
        for title, render in COLUMNS
        if any(cells := [render(row) for row in section.rows])
    ]
    lines = [
        _render_line([title for title, _ in columns]),
        _render_line(["---", *["---:"] * (len(columns) - 1)]),
        *(_render_line([cells[row] for _, cells in columns]) for row in range(len(section.rows))),
    ]
    return f"## {section.title}\n\n{section.method} ({day})\n\n" + "\n".join(lines) + "\n"


def render_document(
    introduction: str,
    sections: Sequence[Section],
    machine: Facts,
    previous: str,
    *,
    keep: bool = False,
) -> str:
    """Write the whole document, and keep what people wrote into the previous one.

    Args:
        introduction: How everything was measured.
        sections: What was measured now, no two of one title.
        machine: What it was measured on; ``day`` is the day.
        previous: The document so far; empty when there is none.
        keep: Its sections stay, those that were measured now in their old places.
    """
    day = dict(machine).get("day", "")
    rendered = _sections_of(previous) if keep else {}
    for section in sections:
        rendered[f"## {section.title}"] = render_section(section, day)
    facts = "\n".join(f"| {name} | {value} |" for name, value in machine)
    parts = [
        "# Results of the benchmarks\n",
        introduction,
        *rendered.values(),
        f"{MACHINE}\n\n| | |\n|---|---|\n{facts}\n",
    ]
    if BY_HAND in previous:
        parts.append(BY_HAND + previous.partition(BY_HAND)[2])
    return "\n".join(parts).rstrip("\n") + "\n"


def _sections_of(document: str) -> dict[str, str]:
    """Return the measured sections of a document by their headings."""
    measured = document.partition(MACHINE)[0].split("\n## ")[1:]
    return {f"## {text.partition(chr(10))[0]}": f"## {text.strip()}\n" for text in measured}


def _render_line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _render_target(row: Row) -> str:
    if row.limit is not None:
        return f"< {render_number(row.limit)}"
    return "" if row.target is None else f"≥ {row.target:g}"


def _render_met(row: Row) -> str:
    return {None: "", True: "yes", False: "**no**"}[row.met]


def _render_share(row: Row) -> str:
    if row.baseline is None:
        return ""
    return f"{row.ours.over(row.baseline).median:.0%} of {render_number(row.baseline.median)}"


def _render_count(count: float | None) -> str:
    return "" if count is None else f"{count:g}"


COLUMNS: tuple[Column, ...] = (
    ("what", lambda row: row.what),
    ("unit", lambda row: row.unit),
    ("target", _render_target),
    ("ours", lambda row: render_samples(row.ours)),
    ("distribution", lambda row: render_samples(row.peer)),
    ("ratio", lambda row: render_samples(row.ratio)),
    ("met", _render_met),
    ("share of an empty application", _render_share),
    ("load generator's ceiling", lambda row: render_samples(row.ceiling)),
    ("our {costs} each", lambda row: _render_count(row.our_costs)),
    ("its {costs} each", lambda row: _render_count(row.peer_costs)),
)
