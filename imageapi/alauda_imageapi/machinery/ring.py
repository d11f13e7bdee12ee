"""The latest changes of a store, in order, and those who follow them.

A change concerns few of those who watch, and thousands may. So what each of them wants is picked
out once for all who want the same (`Selection`), and only they are woken. Whoever follows holds no
queue, only its place: one that is slow costs nothing until the changes at its place are forgotten,
and is told then.
"""

import asyncio
import bisect
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from weakref import WeakSet, WeakValueDictionary

from alauda_imageapi.machinery.store import (
    EVERYTHING,
    Choice,
    Compacted,
    Event,
    EventType,
    StoreError,
    StoreUnavailable,
)

logger = logging.getLogger(__name__)

_FEWEST_ROWS = 20


class Ring:
    """The latest changes, by revision.

    Args:
        rows: How many are kept; twice as many at most.
        size: Bytes that their objects may take, unless they are only a few; twice that at most.
    """

    def __init__(self, rows: int, size: int) -> None:
        self._rows, self._size = rows, size
        self._events: list[Event] = []
        self._sizes = 0
        self._selections: WeakValueDictionary[tuple[str, Choice], Selection] = WeakValueDictionary()
        self.oldest = 0
        """Everything that happened after this revision is here,"""
        self.reached = 0
        """and up to this one."""
        self.news = asyncio.Event()
        """Set when something happens, and replaced then."""

    def reset(self, oldest: int, events: Sequence[Event] = ()) -> None:
        """Begin again with what happened after a revision; who is behind it will notice."""
        for selection in self._selections.values():
            selection.close()
        self._selections.clear()
        self._events = [*events]
        self.oldest = oldest
        self.reached = self._events[-1].revision if events else oldest
        self._sizes = sum(event.stored.size for event in events)
        self.wake()

    def fail(self, trouble: StoreError) -> None:
        """Tell all who follow that nobody knows what happens; who comes later may have better luck.

        Args:
            trouble: What they are told.
        """
        for selection in self._selections.values():
            selection.fail(trouble)
        self.wake()

    def add(self, event: Event) -> None:
        """Take the next change; nobody is told yet."""
        self._events.append(event)
        self._sizes += event.stored.size
        self.reached = event.revision
        for selection in self._selections.values():
            selection.offer(event)
        self._trim()

    def advance(self, revision: int) -> None:
        """Nothing else has happened up to a revision; nobody is told yet."""
        self.reached = max(self.reached, revision)

    def wake(self) -> None:
        """Wake up whom the changes concern; who waits from now on waits for the next ones."""
        self.news.set()
        self.news = asyncio.Event()
        for selection in self._selections.values():
            selection.wake()

    def wake_all(self) -> None:
        """Wake up also those whom nothing concerns but how far we are."""
        for selection in self._selections.values():
            selection.has_news = True
        self.wake()

    def after(self, revision: int) -> list[Event]:
        """Return what happened after a revision.

        Raises:
            Compacted: Some of it is not here any more.
        """
        if revision < self.oldest:
            raise Compacted
        if not self._events or self._events[-1].revision <= revision:
            return []
        return self._events[bisect.bisect_right(self._events, revision, key=_revision) :]

    def select(self, resource: str, choice: Choice, after: int) -> "Selection":
        """Return what concerns somebody, from after a revision on.

        Raises:
            Compacted: Some of it is not here any more.
            StoreError: Objects cannot be read.
        """
        earlier = self.after(after)
        selection = self._selections.get((resource, choice))
        if selection is None or selection.trouble is not None:
            selection = Selection(self, resource, choice)
            selection.extend(earlier, min(after, self.reached))
            self._selections[resource, choice] = selection
        elif after < selection.begins:
            selection.extend([one for one in earlier if one.revision <= selection.begins], after)
        return selection

    def _trim(self) -> None:
        """Forget half when there is twice as much as wanted, so that it costs little each time."""
        if len(self._events) <= 2 * self._rows and self._sizes <= 2 * self._size:
            return
        keep = len(self._events)
        while keep > _FEWEST_ROWS and (keep > self._rows or self._sizes > self._size):
            self._sizes -= self._events[len(self._events) - keep].stored.size
            keep -= 1
        dropped = len(self._events) - keep
        if dropped:
            self.oldest = self._events[dropped - 1].revision
            del self._events[:dropped]
            for selection in self._selections.values():
                selection.forget(self.oldest)


class Selection:
    """The changes of a ring that concern some of those who follow it.

    Args:
        ring: Has all of them.
        resource: Whose changes.
        choice: Of which objects.
    """

    def __init__(self, ring: Ring, resource: str, choice: Choice) -> None:
        self._ring: Ring | None = ring
        self._resource, self._choice = resource, choice
        self._events: list[Event] = []
        self._first = 0
        self._end_revision = 0
        self.trouble: StoreError | None = None
        """Why it cannot go on: an object that cannot be read, or nobody knows what happens."""
        self.begins = ring.reached
        """Everything after this revision is here."""
        self.has_news = False
        self.waiting: set[asyncio.Future[None]] = set()
        """Resolved when something happens, and left out from then on."""
        self.followers: WeakSet[RingWatch] = WeakSet()

    def is_of(self, ring: Ring) -> bool:
        """Tell whether it still has all that happens in a ring."""
        return self._ring is ring

    @property
    def reached(self) -> int:
        """Everything up to this revision is here."""
        return self._end_revision if self._ring is None else self._ring.reached

    def place(self, revision: int) -> int:
        """Return where the changes after a revision begin."""
        return self._first + bisect.bisect_right(self._events, revision, key=_revision)

    def since(self, place: int) -> list[Event]:
        """Return the changes from a place on.

        Raises:
            Compacted: Some of them are not here any more.
            StoreError: An object of theirs cannot be read, or nobody knows what happens.
        """
        if self.trouble is not None:
            raise self.trouble.with_traceback(None)
        if place < self._first:
            raise Compacted
        return self._events[place - self._first :]

    def offer(self, event: Event) -> None:
        """Take a change, if it concerns anybody here."""
        try:
            picked = self._pick(event)
        except StoreError as error:
            # Theirs alone: the others go on.
            self.fail(error)
            return
        except Exception:
            logger.exception("a watch cannot go on: unforeseen")
            self.fail(StoreUnavailable("the log says why"))
            return
        if picked is not None:
            self._events.append(picked)
            self.has_news = True

    def fail(self, trouble: StoreError) -> None:
        """There will be nothing more, for this reason."""
        self.trouble, self.has_news = trouble.with_traceback(None), True

    def extend(self, earlier: Sequence[Event], begins: int) -> None:
        """Begin at an earlier revision, with what happened since.

        Raises:
            StoreError: Objects cannot be read.
        """
        picked = [found for event in earlier if (found := self._pick(event)) is not None]
        self._events[:0] = picked
        self._first -= len(picked)
        self.begins = begins

    def forget(self, oldest: int) -> None:
        """Forget what happened up to a revision, and tell those who have not had it yet."""
        self.begins = max(self.begins, oldest)
        dropped = bisect.bisect_right(self._events, oldest, key=_revision)
        if dropped:
            del self._events[:dropped]
            self._first += dropped
            for follower in self.followers:
                if follower.place < self._first:
                    follower.lose()

    def wake(self) -> None:
        """Wake up everybody who waits, if there is anything new."""
        if self.has_news:
            self.has_news = False
            waiting, self.waiting = self.waiting, set()
            for one in waiting:
                _resolve(one)

    def close(self) -> None:
        """There will be nothing more: the ring begins again."""
        self._end_revision, self._ring = self.reached, None
        self.has_news = True
        self.wake()

    def _pick(self, event: Event) -> Event | None:
        """Return a change as it is to those who know only what they have chosen."""
        stored, previous = event.stored, event.previous
        if stored.key.resource != self._resource:
            return None
        was = previous is not None and self._choice.has(previous)
        is_now = event.type is not EventType.DELETED and self._choice.has(stored)
        if not was and not is_now:
            return None
        kind = EventType.DELETED
        if is_now:
            kind = EventType.MODIFIED if was else EventType.ADDED
        return event if kind is event.type else replace(event, type=kind)


class RingWatch:
    """Implements :class:`~alauda_imageapi.machinery.store.Watch`.

    Args:
        ring_at: Returns where the changes after a revision are.
        resource: What is followed.
        after: The revision to begin at.
        choice: Which objects are followed.

    Raises:
        Compacted: What happened then is not known any more.
    """

    def __init__(
        self,
        ring_at: Callable[[int], Ring],
        resource: str,
        after: int,
        choice: Choice = EVERYTHING,
    ) -> None:
        self._ring_at = ring_at
        self._resource, self._choice = resource, choice
        self._revision = after
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._selection = self._join(ring_at(after))

    @property
    def revision(self) -> int:
        """Every change up to here has been returned."""
        return self._revision

    async def next(self, seconds: float) -> Sequence[Event]:
        """Return the next changes, or none when none came in time."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while True:
            found = self._take()
            if found:
                return found
            ring = self._ring_at(self._revision)
            if not self._selection.is_of(ring):
                # Places are counted by each selection for itself.
                self._selection.followers.discard(self)
                self._selection = self._join(ring)
                continue
            if loop.time() >= deadline:
                return found
            await self._wait(loop, deadline)

    async def _wait(self, loop: asyncio.AbstractEventLoop, deadline: float) -> None:
        """Wait for news, or until it is late; thousands do so at the same time."""
        waiter = loop.create_future()
        timer = loop.call_at(deadline, _resolve, waiter)
        waiting = self._selection.waiting
        waiting.add(waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            waiting.discard(waiter)

    def lose(self) -> None:
        """Hear that there are changes which can't be returned any more."""
        _resolve(self.lost)

    def _join(self, ring: Ring) -> Selection:
        selection = ring.select(self._resource, self._choice, self._revision)
        self.place = selection.place(self._revision)
        selection.followers.add(self)
        return selection

    def _take(self) -> list[Event]:
        events = self._selection.since(self.place)
        self.place += len(events)
        if events and events[0].revision <= self._revision:
            # It began at a revision that the ring had not come to.
            events = [event for event in events if event.revision > self._revision]
        self._revision = max(self._revision, self._selection.reached)
        return events


def _resolve(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def _revision(event: Event) -> int:
    return event.revision
