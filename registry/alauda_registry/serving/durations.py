"""Lengths of time as people write them into distribution's configuration: ``10s``, ``1h30m``.

A bare number is refused: the original reads it as nanoseconds, its writer meant seconds.
"""

import re
from datetime import timedelta

_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_MOST = 10 * 365 * 24 * 3600
"""Ten years: what is longer is a slip of the pen, and would overflow somewhere."""


def parse_duration(text: object) -> timedelta:
    """Read ``1h30m`` and its like; a plain zero needs no unit.

    Raises:
        ValueError: The text is not a duration; the message says how one looks.
    """
    if isinstance(text, timedelta):
        return text
    if text in (0, "0") and text is not False:
        return timedelta(0)
    if not isinstance(text, str) or not re.fullmatch(f"(?:{_PART.pattern})+", text):
        raise ValueError("write a number with its unit, such as 10s, 5m, 1h30m or 500ms")
    seconds = sum(float(amount) * _SECONDS[unit] for amount, unit in _PART.findall(text))
    if seconds > _MOST:
        raise ValueError("is longer than ten years")
    return timedelta(seconds=seconds)


def format_duration(duration: timedelta) -> str:
    """Write a duration the way `parse_duration` reads it."""
    microseconds = duration // timedelta(microseconds=1)
    if microseconds == 0:
        return "0s"
    if microseconds % 1_000_000:
        return f"{microseconds / 1000:.3f}".rstrip("0").rstrip(".") + "ms"
    minutes, seconds = divmod(microseconds // 1_000_000, 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "h"), (minutes, "m"), (seconds, "s"))
    return "".join(f"{amount}{unit}" for amount, unit in parts if amount)
