"""Work on large documents, done in threads so that everybody else is served meanwhile.

Going through a document of megabytes takes a second and more, field by field. On the event loop
whoever may change one object would keep all others waiting that long.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar, TypeVarTuple

from alauda_imageapi.machinery import objects

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

LARGE = 128 * 1024
"""Bytes of a document that is worth a thread."""

_threads = ThreadPoolExecutor(2, "large-documents")
"""Few, as they and the event loop run by turns; who comes when both are busy waits for one."""


def weigh(document: Any) -> int:
    """Return how many bytes a document has, which takes little compared to going through it."""
    try:
        return len(objects.encode(document))
    except TypeError:
        # A patch may lead to what cannot be written, which is found where it is checked.
        return LARGE + 1


async def run(size: int, function: Callable[[*Ts], T], *args: *Ts) -> T:
    """Call a function, in a thread if what it works on is large.

    Args:
        size: Bytes of that.
        function: What to call.
        *args: Its arguments, which nobody else may change until it has returned.
    """
    if size <= LARGE:
        return function(*args)
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_threads, partial(function, *args))
