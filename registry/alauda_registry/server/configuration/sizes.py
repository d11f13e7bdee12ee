"""Amounts of storage as people write them into Kubernetes' objects: ``512Mi``, ``10Gi``, ``5%``."""

import re
from dataclasses import dataclass

from typing_extensions import override

_UNITS = {"": 1} | {
    f"{letter}{ending}": base**power
    for power, letter in enumerate("kMGTP", 1)
    for ending, base in (("", 1000), ("i", 1024))
}
_UNITS["Ki"] = _UNITS.pop("ki")
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)(%|[kKMGTP]i?)?")


@dataclass(frozen=True, slots=True)
class Amount:
    """A number of bytes, or a part of a whole.

    Attributes:
        text: As it was written.
        count: Bytes, or the percentage.
        is_percentage: Which of them.
    """

    text: str
    count: float
    is_percentage: bool

    def of(self, size: int) -> int:
        """Return the bytes that this is of a whole."""
        return int(size * self.count / 100) if self.is_percentage else int(self.count)

    @override
    def __str__(self) -> str:
        return self.text


def parse_amount(text: object) -> Amount:
    """Read ``10Gi``, ``5%`` and their like; a bare number is bytes.

    Raises:
        ValueError: The text is neither; the message says how one looks.
    """
    if isinstance(text, Amount):
        return text
    match = _AMOUNT.fullmatch(str(text)) if isinstance(text, str | int | float) else None
    if match is None or isinstance(text, bool):
        raise ValueError("write a size such as 512Mi or 10Gi, or a percentage such as 5%")
    number, unit = float(match[1]), match[2] or ""
    if unit == "%":
        if number >= 100:
            raise ValueError("must be less than 100%")
        return Amount(str(text), number, is_percentage=True)
    if unit not in _UNITS:
        raise ValueError("write a size such as 512Mi or 10Gi, or a percentage such as 5%")
    return Amount(str(text), number * _UNITS[unit], is_percentage=False)


def parse_size(text: object) -> Amount:
    """Read ``10Gi`` and its like.

    Raises:
        ValueError: The text is not a size; the message says how one looks.
    """
    amount = parse_amount(text)
    if amount.is_percentage:
        raise ValueError("write a size such as 512Mi or 10Gi")
    return amount
