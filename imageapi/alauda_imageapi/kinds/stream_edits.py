"""Edits of streams by the server itself: those of one stream that wait become one write.

A hundred pushes to a stream arrive at once, and each has to change the same object. One after
another they would take a hundred writes; conflicting with one another, far more. So whoever comes
first takes everybody's edit along who waits by then. Edits are made in the order in which they
came, all of one process: other replicas are met as conflicts, after which edits are made again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias
from weakref import WeakValueDictionary

from alauda_imageapi.machinery.objects import Object
from alauda_imageapi.machinery.resources import Context

Edit: TypeAlias = Callable[[Object], Awaitable[bool]]
"""Changes a stream's document, and tells whether it did."""


class StreamEdit:
    """One edit on its way.

    Args:
        context: Of the request that it is for.
        edit: What is to be done.
        create: Whether a stream that is not there is made.
    """

    def __init__(self, context: Context, edit: Edit, *, create: bool) -> None:
        self.context = context
        self.create = create
        self._edit = edit
        self._outcome: Object | None = None
        self._trouble: Exception | None = None
        self.is_over = False

    async def make(self, document: Object) -> bool:
        """Change a document; False when nothing was changed."""
        return await self._edit(document)

    def succeed(self, document: Object | None) -> None:
        """Say what became of it; None when there is no stream."""
        self._outcome, self.is_over = document, True

    def fail(self, trouble: Exception) -> None:
        """Say why nothing became of it."""
        self._trouble, self.is_over = trouble, True

    def result(self) -> Object | None:
        """Return the stream, or raise what went wrong."""
        if self._trouble is not None:
            raise self._trouble
        return self._outcome


Write: TypeAlias = Callable[[str, Sequence[StreamEdit]], Awaitable[None]]
"""Makes edits of the stream of a name, and sees to it that each is over."""


class EditQueues:
    """A queue for each stream that is being edited.

    Args:
        write: Makes those that wait.
    """

    def __init__(self, write: Write) -> None:
        self._write = write
        self._queues: WeakValueDictionary[tuple[str, str], _Queue] = WeakValueDictionary()

    async def put(self, name: str, edit: StreamEdit) -> Object | None:
        """Have an edit made, and return the stream with it."""
        where = (edit.context.namespace, name)
        queue = self._queues.get(where)
        if queue is None:
            queue = self._queues[where] = _Queue()
        queue.waiting.append(edit)
        try:
            async with queue.turn:
                if not edit.is_over:
                    await self._write(name, [*queue.waiting])
        finally:
            # Whose turn ends early leaves the others where they are: the next one takes them.
            queue.waiting = [
                other for other in queue.waiting if not other.is_over and other is not edit
            ]
        return edit.result()


class _Queue:
    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.waiting: list[StreamEdit] = []
