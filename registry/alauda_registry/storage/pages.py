"""One page of a long list."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Page:
    """Some names in order, and whether more follow them."""

    names: list[str]
    more: bool

    @classmethod
    def cut(
        cls,
        names: Sequence[str],
        *,
        after: str,
        limit: int | None,
        is_valid: Callable[[str], bool] = lambda _name: True,
    ) -> "Page":
        """Return the page of sorted names that begins behind ``after``.

        Args:
            names: All names, in byte order.
            after: The last name of the page before; it need not be among the names.
            limit: How many names a page holds; None for all.
            is_valid: Says which names count. It is asked only about those up to the page's end.
        """
        found: list[str] = []
        for index in range(bisect_right(names, after) if after else 0, len(names)):
            if is_valid(names[index]):
                if len(found) == limit:
                    return cls(found, more=True)
                found.append(names[index])
        return cls(found, more=False)
