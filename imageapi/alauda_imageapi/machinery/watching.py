"""Watches: events as they happen, one line each (facts/apiserver.md 2.7).

A stream begins with what the client does not know yet, goes on with what happens, and ends when
its time is over, when the client is too slow, or when the server stops. Events are encoded once
for all watchers that see the same form of them.
"""

import asyncio
import random
from collections.abc import AsyncGenerator

from alauda_imageapi.machinery import objects
from alauda_imageapi.machinery.errors import Expired, too_large_revision
from alauda_imageapi.machinery.lists import select
from alauda_imageapi.machinery.objects import Object
from alauda_imageapi.machinery.options import ListOptions
from alauda_imageapi.machinery.representations import Form, Representation
from alauda_imageapi.machinery.resources import Context
from alauda_imageapi.machinery.store import Compacted, Event, EventType, Stored, TooNew, Watch
from alauda_imageapi.machinery.stored import StoredResource

_BOOKMARK_SECONDS = 60.0
_SHORTEST, _LONGEST = 1800.0, 3600.0
_INITIAL_END = {"k8s.io/initial-events-end": "true"}


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
        self._context = context
        self._options = options
        self._shown = shown
        self._bookmark_seconds = bookmark_seconds
        self._is_first = True
        self._initial: list[Stored] = []
        self._watch: Watch | None = None

    async def open(self) -> None:
        """Find out what there is at the beginning, before anything is answered.

        Raises:
            Expired: The revision is not known any more.
            Timeout: It has not come to that yet.
        """
        options, store, name = self._options, self._resource.store, self._resource.name
        revision = options.revision or 0
        wants_state = options.initial_events
        if wants_state is None:
            # As it always was: without a revision a watch begins with what there is.
            wants_state = revision == 0
        try:
            await store.reach(name, revision)
            if not wants_state:
                after = revision or (await store.snapshot(name)).revision
                self._watch = await store.watch(name, after)
                return
            snapshot = await store.snapshot(name)
            self._initial = list(snapshot.items)
            self._watch = await store.watch(name, snapshot.revision)
        except TooNew as error:
            raise too_large_revision(error.asked, error.current) from None
        except Compacted:
            raise _too_old(revision) from None

    async def lines(self) -> AsyncGenerator[bytes, None]:
        """Yield the events until the time is over; after :meth:`open`."""
        watch = self._watch
        if watch is None:
            return
        loop = asyncio.get_running_loop()
        options = self._options
        seconds = options.seconds or random.uniform(_SHORTEST, _LONGEST)  # noqa: S311 -- spread only
        end = loop.time() + seconds
        initial, self._initial = self._initial, []
        for stored in initial:
            if self._is_wanted(stored):
                yield self._line(EventType.ADDED, stored)
        if options.initial_events and options.bookmarks:
            yield self._bookmark(watch.revision, _INITIAL_END)
        bookmark_at = loop.time() + self._bookmark_seconds
        while (left := end - loop.time()) > 0:
            try:
                events = await watch.next(min(left, max(0.0, bookmark_at - loop.time())))
            except Compacted:
                yield _line("ERROR", objects.encode(_too_old(watch.revision).status()))
                return
            for event in events:
                line = self._event_line(event)
                if line:
                    yield line
            if loop.time() >= bookmark_at:
                bookmark_at = loop.time() + self._bookmark_seconds
                if options.bookmarks:
                    yield self._bookmark(watch.revision)
        if options.bookmarks:
            yield self._bookmark(watch.revision)

    def _event_line(self, event: Event) -> bytes | None:
        """Return an event as this watcher sees it, whose selectors see only a part."""
        previous = event.previous
        was = previous is not None and self._is_wanted(previous)
        is_now = event.type is not EventType.DELETED and self._is_wanted(event.stored)
        if was and is_now:
            return self._line(EventType.MODIFIED, event.stored)
        if is_now:
            return self._line(EventType.ADDED, event.stored)
        if was:
            return self._line(EventType.DELETED, event.stored)
        return None

    def _is_wanted(self, stored: Stored) -> bool:
        namespace, options = self._context.namespace, self._options
        if namespace and stored.key.namespace != namespace:
            return False
        if not options.labels.requirements and not options.fields.requirements:
            return True
        return any(True for _ in select([self._resource.entry(stored)], options))

    def _line(self, kind: EventType, stored: Stored) -> bytes:
        shown, entry = self._shown, self._resource.entry(stored)
        if shown.form is Form.TABLE:
            # Ages are in it, and the columns only once: nothing to share.
            document = shown.event(entry.load(), with_columns=self._is_first)
            self._is_first = False
            return _line(kind, objects.encode(document))
        mark = f"{kind} {shown.form}"
        line = stored.cache.get(mark)
        if line is None:
            if shown.form is Form.PLAIN and entry.body is not None:
                body = entry.body
            else:
                body = objects.encode(shown.event(entry.load(), with_columns=False))
            line = _line(kind, body)
            if kind is not EventType.ADDED or shown.form is Form.METADATA:
                stored.cache[mark] = line
        return bytes(line)

    def _bookmark(self, revision: int, annotations: Object | None = None) -> bytes:
        metadata: Object = {"resourceVersion": str(revision)}
        if annotations:
            metadata["annotations"] = annotations
        return _line("BOOKMARK", objects.encode(self._shown.bookmark(metadata)))


def _line(kind: str, body: bytes) -> bytes:
    return b'{"type":"%b","object":%b}\n' % (kind.encode(), body)


def _too_old(revision: int) -> Expired:
    return Expired(f"too old resource version: {revision}")
