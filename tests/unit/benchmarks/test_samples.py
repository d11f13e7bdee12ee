"""What is said about repeated measurements."""

import pytest

from conformance.benchmarks.samples import Samples


def test_one_spoiled_round_does_not_move_the_result() -> None:
    samples = Samples.of([10.0, 11.0, 900.0])

    assert (samples.median, samples.low, samples.high) == (11.0, 10.0, 900.0)


def test_ratio_compares_values_of_the_same_round() -> None:
    ours, theirs = Samples.of([30.0, 10.0]), Samples.of([10.0, 5.0])

    assert ours.over(theirs) == Samples((3.0, 2.0))


def test_ratio_of_unequal_rounds_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        Samples.of([1.0, 2.0]).over(Samples.of([1.0]))


def test_measurement_without_a_round_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one round"):
        Samples.of([])
