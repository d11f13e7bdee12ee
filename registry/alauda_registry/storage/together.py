"""Doing things at once that each wait for another machine."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")

AT_ONCE = 32


async def together(works: Iterable[Coroutine[Any, Any, T]], at_once: int = AT_ONCE) -> list[T]:
    """Do all of it, and return the results in the order of the works.

    Args:
        works: What to do.
        at_once: How many of them may be under way.

    Raises:
        Exception: The first error of a work; the rest of them is cancelled.
    """
    waiting = list(works)
    limit = asyncio.Semaphore(at_once)

    async def limited(work: Coroutine[Any, Any, T]) -> T:
        try:
            async with limit:
                return await work
        finally:
            # One that was not begun would complain of that.
            work.close()

    try:
        if at_once == 1 or len(waiting) == 1:
            return [await work for work in waiting]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(limited(work)) for work in waiting]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    finally:
        for work in waiting:
            work.close()
    return [task.result() for task in tasks]
