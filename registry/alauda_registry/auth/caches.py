"""What was found out lately, and needn't be again; bounded, whoever asks for what."""

from typing import Generic, TypeVar

_K = TypeVar("_K")
_V = TypeVar("_V")


class Kept(Generic[_K, _V]):
    """Keeps as many values as it may, and forgets the oldest.

    Args:
        size: How many.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: dict[_K, _V] = {}

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._values)

    def get(self, key: _K) -> _V | None:
        """Return what is kept."""
        return self._values.get(key)

    def put(self, key: _K, value: _V) -> None:
        """Keep a value, as the newest."""
        self._values.pop(key, None)
        self._values[key] = value
        if len(self._values) > self._size:
            del self._values[next(iter(self._values))]

    def drop(self, key: _K) -> None:
        """Forget a value, if it is there."""
        self._values.pop(key, None)
