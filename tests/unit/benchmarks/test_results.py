"""From measurements to the tables that people read."""

from typing import Any

import pytest

from conformance.benchmarks.results import (
    BY_HAND,
    Row,
    Section,
    merge,
    render_document,
    render_number,
    render_samples,
    render_section,
)
from conformance.benchmarks.samples import Samples


def row(ours: float, peer: float | None = 10.0, **fields: Any) -> Row:
    return Row(
        what="pull",
        unit="MB/s",
        ours=Samples.of([ours]),
        peer=None if peer is None else Samples.of([peer]),
        **fields,
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        pytest.param(0.123, "0.12", id="small"),
        pytest.param(12.34, "12.3", id="tens"),
        pytest.param(123.4, "123", id="hundreds"),
        pytest.param(12345.6, "12\u202f346", id="thousands"),
    ],
)
def test_number_has_the_digits_it_deserves(value: float, text: str) -> None:
    assert render_number(value) == text


def test_spread_is_shown_only_when_there_were_rounds() -> None:
    texts = [render_samples(Samples.of(values)) for values in ([2.0], [1.0, 2.0, 3.0])]

    assert texts == ["2.00", "2.00 (1.00-3.00)"]


def test_promise_is_kept_at_exactly_the_target() -> None:
    assert [row(20.0, target=2.0).met, row(19.9, target=2.0).met] == [True, False]


def test_half_the_milliseconds_are_twice_as_good() -> None:
    assert row(5.0, higher_is_better=False).ratio == Samples((2.0,))


def test_limit_counts_the_worst_round_and_not_the_median() -> None:
    worker = Row(what="memory", unit="MB", ours=Samples.of([90.0, 90.0, 130.0]), limit=120.0)

    assert worker.met is False


def test_row_without_a_promise_is_neither_kept_nor_broken() -> None:
    assert [row(20.0).met, row(20.0, peer=None, target=2.0).met] == [None, None]


def test_column_that_nobody_fills_is_left_out() -> None:
    section = Section("Pulls", "How.", [row(20.0, target=3.0)])

    assert render_section(section, "2026-11-29") == (
        "## Pulls\n\nHow. (2026-11-29)\n\n"
        "| what | unit | target | ours | distribution | ratio | met |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        "| pull | MB/s | ≥ 3 | 20.0 | 10.0 | 2.00 | **no** |\n"
    )


def test_share_of_the_empty_application_stands_beside_its_number() -> None:
    section = Section("Reads", "How.", [row(15.0, baseline=Samples.of([20.0]))])

    assert "| 75% of 20.0 |" in render_section(section, "2026-11-29")


def test_no_syncs_at_all_are_shown_as_zero() -> None:
    section = Section("Pushes", "How.", [row(15.0, our_costs=5.0, peer_costs=0.0)])

    assert render_section(section, "2026-11-29").endswith("| 5 | 0 |\n")


def test_costs_are_called_what_is_counted() -> None:
    section = Section("Pushes", "How.", [row(15.0, our_costs=5.0)], costs="requests")

    assert "| our requests each |" in render_section(section, "2026-11-29")
    assert merge([section, section])[0].costs == "requests"


def test_a_method_that_several_scenarios_share_is_told_once() -> None:
    sections = [Section("Pulls", "How.", [row(1.0)]), Section("Pulls", "How.", [row(2.0)])]

    assert merge(sections)[0].method == "How."


def test_sections_of_one_title_become_one_table() -> None:
    first, other, second = row(1.0), row(2.0), row(3.0)
    sections = [
        Section("Pulls", "One.", [first]),
        Section("Pages", "Other.", [other]),
        Section("Pulls", "Two.", [second]),
    ]

    assert merge(sections) == [
        Section("Pulls", "One. Two.", [first, second]),
        Section("Pages", "Other.", [other]),
    ]


def test_what_people_wrote_survives_the_next_run() -> None:
    previous = f"# Results\n\nold numbers\n\n{BY_HAND}\n\nThe disk.\n"

    document = render_document("New.\n", [], [("kernel", "6")], previous)

    assert document == (
        "# Results of the benchmarks\n\nNew.\n\n"
        "## The machine\n\n| | |\n|---|---|\n| kernel | 6 |\n\n"
        f"{BY_HAND}\n\nThe disk.\n"
    )


def test_what_was_not_measured_again_stays_in_its_place() -> None:
    facts = [("day", "Monday")]
    sections = [Section(title, "How.", [row(20.0)]) for title in ("Pulls", "Pages", "Pushes")]
    previous = render_document("Old.\n", sections, facts, f"{BY_HAND}\n\nThe disk.\n")

    document = render_document(
        "New.\n",
        [Section("Pages", "How.", [row(30.0)]), Section("Checks", "How.", [row(1.0)])],
        [("day", "Tuesday")],
        previous,
        keep=True,
    )

    headings = [line for line in document.splitlines() if line.startswith("## ")]
    assert headings == [
        *("## Pulls", "## Pages", "## Pushes", "## Checks"),
        *("## The machine", "## What limits it"),
    ]
    assert document.count("How. (Monday)") == document.count("How. (Tuesday)") == 2
    assert "| pull | MB/s | 30.0 | 10.0 | 3.00 |" in document


def test_a_whole_run_leaves_nothing_of_the_one_before() -> None:
    old = render_document("Old.\n", [Section("Pulls", "How.", [row(20.0)])], [("day", "d")], "")

    assert "## Pulls" not in render_document("New.\n", [], [("day", "d")], old)
