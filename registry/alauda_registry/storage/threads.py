"""Running blocking work in threads without losing what it was about to return.

A thread can't be stopped. When the task that waits for it is cancelled, the descriptor
the thread works on must not be closed under it, since the number may already belong to
another file. So a cancelled task waits for its thread before it goes.
"""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple

Ts = TypeVarTuple("Ts")
T = TypeVar("T")


def begin_blocking(
    executor: Executor | None, function: Callable[[*Ts], T], *args: *Ts
) -> Coroutine[Any, Any, T]:
    """Hand the function to a thread at once, and return what waits until the thread is through.

    A task or a coroutine would begin only when the event loop comes round to it, which is
    after it has read whatever its sockets have: work for two cores would be done by turns.

    Args:
        executor: The pool to use; None is the event loop's own.
        function: What to call.
        *args: Its arguments.

    Returns:
        A coroutine that has to be awaited, as the thread may use what its caller holds.
    """
    return _finish(asyncio.get_running_loop().run_in_executor(executor, function, *args))


async def run_blocking(executor: Executor | None, function: Callable[[*Ts], T], *args: *Ts) -> T:
    """Call the function in a thread, and return only when the thread is through with it.

    Args:
        executor: The pool to use; None is the event loop's own.
        function: What to call.
        *args: Its arguments.
    """
    return await begin_blocking(executor, function, *args)


async def see_through(work: Coroutine[Any, Any, T]) -> T:
    """Await what must come to its end, also when the task that waits for it is cancelled.

    Args:
        work: Such as dropping what must not be left behind.
    """
    return await _finish(asyncio.ensure_future(work))


async def _finish(future: "asyncio.Future[T]") -> T:
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError:
                continue
        if not future.cancelled():
            future.exception()
        raise
