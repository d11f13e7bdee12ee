"""JSON objects: read strictly, written the same way every time.

Bodies come from anybody. Reading finds what a Go server would find (not JSON, keys that are there
twice) and what Python would stumble over later (numbers that are none, half of a surrogate pair,
nesting without end), so that nothing behind this module has to.
"""

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import orjson

Object: TypeAlias = dict[str, Any]
"""A Kubernetes object, as JSON has it."""

DEEPEST = 100
"""Levels of nesting that are taken; no kind of ours has half of it."""

LARGEST = 3 * 2**20
"""Bytes of a body, and so of an object that clients can put back."""


class NotJSON(Exception):
    """The text is not JSON that can be taken; the message says why."""


class Pairs(Object):
    """An object that remembers which of its keys were there twice.

    Args:
        pairs: Keys and values; of a key that is there twice the last one counts.
    """

    __slots__ = ("repeated",)

    def __init__(self, pairs: Sequence[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.repeated: tuple[str, ...] = ()
        if len(self) != len(pairs):
            counted = Counter(name for name, _ in pairs)
            self.repeated = tuple(name for name, count in counted.items() if count > 1)


def parse_json(text: bytes) -> Any:
    """Read a document.

    Raises:
        NotJSON: It is none, or none that can be kept.
    """
    try:
        document = json.loads(
            # As text: of bytes it would guess whether they are UTF-16.
            text.decode(),
            object_pairs_hook=Pairs,
            parse_float=parse_float,
            parse_constant=_refuse_constant,
        )
    except RecursionError:
        raise NotJSON(f"nested deeper than {DEEPEST} levels") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise NotJSON(str(error)) from error
    check_tree(document)
    return document


def check_tree(document: Any) -> None:
    """Refuse what could not be written again.

    Raises:
        NotJSON: It is nested too deeply, or has text or numbers that JSON cannot carry.
    """
    level, depth = [document], 0
    while level:
        if depth > DEEPEST:
            raise NotJSON(f"nested deeper than {DEEPEST} levels")
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below += value.values()
            elif isinstance(value, list):
                below += value
        level, depth = below, depth + 1
    try:
        orjson.dumps(document)
    except (TypeError, ValueError) as error:
        raise NotJSON(f"it has what JSON cannot carry: {error}") from error


def repeated_keys(document: Any, path: str = "") -> Iterator[str]:
    """Yield the paths of keys that are there twice in what was read into `Pairs`."""
    if isinstance(document, dict):
        for name in getattr(document, "repeated", ()):
            yield f"{path}.{name}" if path else name
        for name, value in document.items():
            yield from repeated_keys(value, f"{path}.{name}" if path else name)
    elif isinstance(document, list):
        for index, value in enumerate(document):
            yield from repeated_keys(value, f"{path}[{index}]")


def encode(document: Any) -> bytes:
    """Write a document."""
    return orjson.dumps(document)


def decode(text: bytes) -> Any:
    """Read what :func:`encode` wrote."""
    return orjson.loads(text)


def copy(document: Any) -> Any:
    """Return a document that shares nothing with this one."""
    if isinstance(document, dict):
        return {name: copy(value) for name, value in document.items()}
    if isinstance(document, list):
        return [copy(value) for value in document]
    return document


def child(parent: Object, name: str) -> Object:
    """Return an object in an object, made when it is not there."""
    found = parent.get(name)
    if not isinstance(found, dict):
        found = parent[name] = {}
    return found


def parse_float(text: str) -> float:
    """Read a number with a fraction or an exponent.

    Raises:
        ValueError: It is too large, and could only be written as null.
    """
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:64]} does not fit into 64 bits")
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number that JSON has")
