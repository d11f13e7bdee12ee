"""Work on large documents, done in threads so that everybody else is served meanwhile.

Going through a document of megabytes takes a second and more, field by field. On the event loop
whoever may change one object would keep all others waiting that long. Of one user one document is
worked on at a time, so that those of others need not wait until all of his are done.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeVar, TypeVarTuple
from weakref import WeakValueDictionary

from alauda_imageapi.machinery import objects
from alauda_imageapi.machinery.errors import TooManyRequests

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

LARGE = 128 * 1024
"""Bytes of a document that is worth a thread."""

MOST_WAITING = 40
"""Requests of one user that wait for his turn; more are refused."""

_threads = ThreadPoolExecutor(2, "large-documents")
"""Few, as they and the event loop run by turns; who comes when both are busy waits for one."""


class _Line:
    """Where the requests of one user wait for each other."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.waiting = 0


_lines: WeakValueDictionary[str, _Line] = WeakValueDictionary()
"""Of those users who are asking for something."""


class _Caller:
    """One request.

    Args:
        user: Who asks, by name.
    """

    def __init__(self, user: str) -> None:
        self._line = _lines.setdefault(user, _Line())
        self._has_begun = False

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Have the user's only turn for the length of a block.

        Raises:
            TooManyRequests: Too many of his wait already. What has begun is not refused.
        """
        line = self._line
        if not self._has_begun and line.waiting >= MOST_WAITING:
            raise TooManyRequests(
                f"{line.waiting} of your requests with large documents are waiting for each "
                "other: try again later",
                details={"retryAfterSeconds": 1},
            )
        self._has_begun = True
        line.waiting += 1
        try:
            await line.turn.acquire()
        finally:
            line.waiting -= 1
        try:
            yield
        finally:
            line.turn.release()


_caller: ContextVar[_Caller | None] = ContextVar("caller", default=None)


@contextmanager
def on_behalf_of(user: str) -> Iterator[None]:
    """Let a user wait for his turns for the length of a block, which is one request.

    Without, it is the server's own work, which never waits for its turn and is never refused.
    """
    token = _caller.set(_Caller(user))
    try:
        yield
    finally:
        _caller.reset(token)


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

    Raises:
        TooManyRequests: The user asks for too much at once.
    """
    if size <= LARGE:
        return function(*args)
    loop, caller = asyncio.get_running_loop(), _caller.get()
    async with caller.turn() if caller else nullcontext():
        return await loop.run_in_executor(_threads, partial(function, *args))
