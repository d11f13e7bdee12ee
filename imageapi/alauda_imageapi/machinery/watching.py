"""Watches: events as they happen, one line each (facts/apiserver.md 2.7).

A stream begins with what the client does not know yet, goes on with what happens, and ends when
its time is over, when the client is too slow, or when the server stops. Events are encoded once
for all watchers that see the same form of them, and several that wait are sent together.
"""

import asyncio
import logging
import math
import random
import time
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from alauda_imageapi.machinery import objects
from alauda_imageapi.machinery.errors import Expired, InternalError
from alauda_imageapi.machinery.objects import Object
from alauda_imageapi.machinery.options import ListOptions
from alauda_imageapi.machinery.representations import Form, Representation
from alauda_imageapi.machinery.resources import Context, unavailable
from alauda_imageapi.machinery.selectors import Selector
from alauda_imageapi.machinery.store import (
    Choice,
    Compacted,
    EventType,
    Stored,
    StoreUnavailable,
    Watch,
)
from alauda_imageapi.machinery.stored import StoredResource

logger = logging.getLogger(__name__)

_BOOKMARK_SECONDS = 60.0
_SHORTEST, _LONGEST = 1800.0, 3600.0
_INITIAL_END = {"k8s.io/initial-events-end": "true"}

_TOLD_SECONDS = 600.0
_MOST_TOLD = 1000

_TOGETHER = 64 * 1024
"""Bytes of lines that are sent at once."""


@dataclass(frozen=True, slots=True)
class _Selected:
    """The objects that selectors choose."""

    resource: StoredResource
    labels: Selector
    fields: Selector

    def __call__(self, stored: Stored) -> bool:
        if self.labels.requirements and not self.labels.matches(stored.labels):
            return False
        fields = self.fields
        return not fields.requirements or fields.matches(self.resource.entry(stored).fields())


class WatchStream:
    """One watch, from its parameters to its lines.

    Args:
        resource: What is watched.
        context: Of the request.
        options: Of the request.
        shown: How objects are shown.
        bookmark_seconds: How often a client that wants it hears that nothing happened.
    """

    def __init__(
        self,
        resource: StoredResource,
        context: Context,
        options: ListOptions,
        shown: Representation,
        bookmark_seconds: float = _BOOKMARK_SECONDS,
    ) -> None:
        self._resource = resource
        self._options = options
        selected = _Selected(resource, options.labels, options.fields)
        is_all = not options.labels.requirements and not options.fields.requirements
        self._choice = Choice(context.namespace, None if is_all else selected)
        self._shown = shown
        self._marks = {kind: f"{kind} {shown.form.name}" for kind in EventType}
        self._bookmark_seconds = bookmark_seconds
        self._is_first = True
        self._initial: Sequence[Stored] = ()
        self._watch: Watch | None = None
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when it has to end, whether or not anything can be sent to the client."""
        self.is_too_slow = False
        """Whether that is because the client has fallen behind what is known."""
        self.trouble: StoreUnavailable | None = None
        """Why it has ended: an object could not be read, or nobody knows what happens."""

    @property
    def resource(self) -> str:
        """The plural name of what is watched."""
        return self._resource.name

    def stop(self) -> None:
        """End it: the server stops."""
        if not self.over.done():
            self.over.set_result(None)

    def close(self) -> None:
        """Let go of what is followed, which would be kept up to date until it is collected."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.lost.remove_done_callback(self._drop)

    def _drop(self, _lost: "asyncio.Future[None]") -> None:
        self.is_too_slow = True
        self.stop()

    async def open(self) -> None:
        """Find out what there is at the beginning, before anything is answered.

        Raises:
            Expired: The revision is not known any more.
            Timeout: It has not come to that yet.
        """
        options, store, name = self._options, self._resource.store, self._resource.name
        revision, choice = options.revision or 0, self._choice
        namespace = choice.namespace
        wants_state = options.initial_events
        if wants_state is None:
            # As it always was: without a revision a watch begins with what there is.
            wants_state = revision == 0
        try:
            await self._resource.reach(revision)
            if not wants_state:
                after = revision or (await store.snapshot(name, namespace=namespace)).revision
                self._watch = await store.watch(name, after, choice)
            else:
                snapshot = await store.snapshot(name, namespace=namespace)
                # Of which there is one for all who begin with it.
                self._initial = snapshot.items
                self._watch = await store.watch(name, snapshot.revision, choice)
            self._watch.lost.add_done_callback(self._drop)
        except Compacted:
            raise _too_old(revision) from None

    async def lines(self) -> AsyncGenerator[bytes, None]:
        """Yield the events until the time is over, some at a time; after :meth:`open`."""
        try:
            async with aclosing(self._events()) as events:
                async for lines in events:
                    yield lines
        except StoreUnavailable as error:
            # As kube-apiserver does: without a reason clients would come again at once, for ever.
            self.trouble = error
            yield _line("ERROR", objects.encode(unavailable(error).status()))
        except Exception:
            logger.exception("a watch of %s is ended: unforeseen trouble", self.resource)
            status = InternalError("Internal error occurred: the log says which").status()
            yield _line("ERROR", objects.encode(status))

    async def _events(self) -> AsyncGenerator[bytes, None]:
        watch, options = self._watch, self._options
        if watch is None or options.seconds == 0:
            return
        loop = asyncio.get_running_loop()
        seconds = options.seconds
        if seconds is None:
            seconds = random.uniform(_SHORTEST, _LONGEST)  # noqa: S311 -- spread only
        end = loop.time() + seconds
        initial, self._initial = self._initial, ()
        for lines in _together(
            self._line(EventType.ADDED, stored) for stored in initial if self._choice.has(stored)
        ):
            yield lines
            # There may be thousands, and others have something to do.
            await asyncio.sleep(0)
        del initial
        if options.initial_events and options.bookmarks:
            yield self._bookmark(watch.revision, _INITIAL_END)
        bookmark_at = loop.time() + self._bookmark_seconds
        while (left := end - loop.time()) > 0:
            try:
                events = await watch.next(min(left, max(0.0, bookmark_at - loop.time())))
            except Compacted:
                yield _line("ERROR", objects.encode(_too_old(watch.revision).status()))
                return
            for lines in _together(
                self._line(event.type, event.stored, is_shared=True) for event in events
            ):
                yield lines
            if loop.time() >= bookmark_at:
                bookmark_at = loop.time() + self._bookmark_seconds
                if options.bookmarks:
                    yield self._bookmark(watch.revision)
        if options.bookmarks:
            yield self._bookmark(watch.revision)

    def _line(self, kind: EventType, stored: Stored, *, is_shared: bool = False) -> bytes:
        """Return an event as it is sent.

        Args:
            kind: What happened.
            stored: To what.
            is_shared: Whether others send the same now, so that it is worth keeping.
        """
        shown = self._shown
        mark, cache = self._marks[kind], stored.cache
        line = cache.get(mark)
        if line is not None:
            return bytes(line)
        entry = self._resource.entry(stored)
        if shown.form is Form.TABLE:
            # Ages are in it, and the columns only once: nothing to share.
            document = shown.event(entry.load(), with_columns=self._is_first)
            self._is_first = False
            return _line(kind, objects.encode(document))
        if shown.form is Form.PLAIN and entry.body is not None:
            body = entry.body()
        else:
            body = objects.encode(shown.event(entry.load(), with_columns=False))
        made = _line(kind, body)
        if is_shared or shown.form is Form.METADATA:
            cache[mark] = made
        return made

    def _bookmark(self, revision: int, annotations: Object | None = None) -> bytes:
        metadata: Object = {"resourceVersion": str(revision)}
        if annotations:
            metadata["annotations"] = annotations
        return _line("BOOKMARK", objects.encode(self._shown.bookmark(metadata)))


def _line(kind: str, body: bytes) -> bytes:
    return b'{"type":"%b","object":%b}\n' % (kind.encode(), body)


def _together(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield lines, several at a time when they are short."""
    waiting: list[bytes] = []
    size = 0
    for line in lines:
        waiting.append(line)
        size += len(line)
        if size >= _TOGETHER:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)


class TroubleLog:
    """Tells what has ended watches: once, and not for each, which come again and again."""

    def __init__(self) -> None:
        self._told: dict[str, float] = {}

    def tell(self, trouble: StoreUnavailable) -> None:
        """Log it, unless that was done a while ago."""
        now, text = time.monotonic(), str(trouble)
        if now - self._told.get(text, -math.inf) < _TOLD_SECONDS:
            return
        if len(self._told) >= _MOST_TOLD:
            self._told.clear()
        self._told[text] = now
        logger.error("watches are ended: %s", text)


def _too_old(revision: int) -> Expired:
    return Expired(f"too old resource version: {revision}")
