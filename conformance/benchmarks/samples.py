"""Repeated measurements, and what may be said about them.

A median with its smallest and largest value, never a mean: one round that a busy
neighbour spoiled must not move the result. Ratios are taken round by round, because
two servers measured seconds apart share the machine's mood of that moment.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Self


@dataclass(frozen=True, slots=True)
class Samples:
    """The values of one measurement, in the order of the rounds."""

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("a measurement needs at least one round")

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Take the values of all rounds."""
        return cls(tuple(values))

    @property
    def median(self) -> float:
        """The middle value."""
        return median(self.values)

    @property
    def low(self) -> float:
        """The smallest value."""
        return min(self.values)

    @property
    def high(self) -> float:
        """The largest value."""
        return max(self.values)

    def over(self, other: "Samples") -> "Samples":
        """Divide by another measurement, round by round.

        Raises:
            ValueError: The two do not have the same number of rounds.
        """
        return Samples(tuple(a / b for a, b in zip(self.values, other.values, strict=True)))
