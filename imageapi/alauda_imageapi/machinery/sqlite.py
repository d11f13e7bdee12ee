"""Objects in one SQLite file, which several processes of a machine may share.

A change is a revision: the head's grows by one, the object is replaced and a row of the log says
what happened, in one commit (`sqlite_file`). Each process has everything in memory and follows the
log: SQLite tells by ``data_version``, in about a microsecond, whether anybody has committed, so
that every read first sees what anybody was told. What is answered has been synced.
"""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import replace
from pathlib import Path

from alauda_imageapi.machinery import objects
from alauda_imageapi.machinery.objects import Object
from alauda_imageapi.machinery.ring import Ring, RingWatch
from alauda_imageapi.machinery.sqlite_file import (
    StoreLimits,
    Writer,
    connect,
    read_log,
    unavailable,
)
from alauda_imageapi.machinery.store import (
    EVERYTHING,
    Changed,
    Choice,
    Event,
    EventType,
    Exists,
    Key,
    Missing,
    ObjectTooLarge,
    Page,
    Snapshot,
    Stored,
    StoreUnavailable,
    TokenInvalid,
    TooNew,
)

_DIGITS = 18
"""Of the largest number that a page may begin at."""


class SQLiteStore:
    """Implements :class:`~alauda_imageapi.machinery.store.ObjectStore`; made by :meth:`opened`."""

    def __init__(self, path: Path, limits: StoreLimits) -> None:
        self._limits = limits
        self._version = -1
        self._state: dict[str, dict[tuple[str, str], Stored]] = {}
        self._order: dict[str, list[Stored]] = {}
        self._ring = Ring(limits.log_rows, limits.log_bytes)
        self.trouble = ""
        """Why the file could not be used when it was last looked at; empty when it could."""
        self._reader = connect(path, limits)
        self._writer = Writer(path, limits, self._take)

    @classmethod
    @asynccontextmanager
    async def opened(
        cls, path: Path, limits: StoreLimits | None = None
    ) -> "AsyncGenerator[SQLiteStore]":
        """Open the file, or make it, for the length of an ``async with`` block.

        Raises:
            StoreUnavailable: It cannot be used.
        """
        try:
            store = await asyncio.to_thread(cls, path, limits or StoreLimits())
        except (OSError, sqlite3.Error) as error:
            raise StoreUnavailable(f"cannot use {path}: {error}") from error
        try:
            try:
                await asyncio.to_thread(store._load)
            except sqlite3.Error as error:
                raise unavailable(error) from error
            async with asyncio.TaskGroup() as group:
                following = group.create_task(store._follow())
                try:
                    yield store
                finally:
                    following.cancel()
        finally:
            with closing(store._reader):
                await store._writer.close()

    async def get(self, key: Key, *, recent: bool = False) -> Stored | None:
        """Return the latest state of an object."""
        del recent  # The latest is as cheap.
        self._catch_up()
        return self._found(key)

    async def get_several(self, keys: Iterable[Key]) -> Mapping[Key, Stored]:
        """Return those of some objects that there are."""
        self._catch_up()
        return {key: found for key in keys if (found := self._found(key)) is not None}

    async def snapshot(
        self, resource: str, revision: int | None = None, *, namespace: str = ""
    ) -> Snapshot:
        """Return a resource as it is now, or as it was."""
        self._catch_up()
        if not revision or revision == self._ring.reached:
            items = self._ordered(resource)
            if namespace:
                items = [item for item in items if item.key.namespace == namespace]
            return Snapshot(self._ring.reached, items)
        await self.reach(resource, revision)
        state = dict(self._state.get(resource, {}))
        for event in reversed(self._ring.after(revision)):
            key = event.stored.key
            if key.resource == resource:
                where = (key.namespace, key.name)
                if event.previous is None:
                    state.pop(where, None)
                else:
                    state[where] = event.previous
        return Snapshot(
            revision, [state[where] for where in sorted(state) if namespace in ("", where[0])]
        )

    async def page(
        self,
        resource: str,
        *,
        limit: int,
        namespace: str = "",
        name: str = "",
        revision: int | None = None,
        token: str = "",
    ) -> Page:
        """Return some objects of a resource as it is now."""
        snapshot = await self.snapshot(resource, revision, namespace=namespace)
        items = snapshot.items
        if name:
            items = [item for item in items if item.key.name == name]
        if token and not (token.isascii() and token.isdecimal() and len(token) <= _DIGITS):
            raise TokenInvalid
        begin = int(token or 0)
        end = begin + limit
        left = max(0, len(items) - end)
        return Page(snapshot.revision, items[begin:end], str(end) if left else "", left)

    def order(self, key: Key) -> tuple[str, str]:
        """Return what the objects of pages are ordered by: namespace and name."""
        return key.namespace, key.name

    async def reach(self, resource: str, revision: int) -> None:
        """Wait a little for a revision."""
        del resource  # All of them are counted together.
        try:
            async with asyncio.timeout(self._limits.reach_seconds):
                while True:
                    self._catch_up()
                    if self._ring.reached >= revision:
                        return
                    await self._ring.news.wait()
        except TimeoutError:
            raise TooNew(revision, self._ring.reached) from None

    async def create(self, key: Key, document: Object) -> Stored:
        """Keep a new object."""

        def change(revision: int, now: Stored | None) -> Event:
            if now is not None:
                raise Exists
            return Event(EventType.ADDED, _stamp(key, document, revision, self._limits), None)

        return await self._writer.make(key, change)

    async def update(self, key: Key, document: Object, *, expected: int) -> Stored:
        """Replace an object that is at a revision."""

        def change(revision: int, now: Stored | None) -> Event:
            old = _expect(now, expected)
            return Event(EventType.MODIFIED, _stamp(key, document, revision, self._limits), old)

        return await self._writer.make(key, change)

    async def delete(self, key: Key, *, expected: int) -> Stored:
        """Remove an object that is at a revision, and return its last state."""

        def change(revision: int, now: Stored | None) -> Event:
            old = _expect(now, expected)
            return Event(EventType.DELETED, _stamp(key, old.object(), revision, None), old)

        return await self._writer.make(key, change)

    async def watch(self, resource: str, after: int, choice: Choice = EVERYTHING) -> RingWatch:
        """Follow what happens after a revision that was reached."""
        self._catch_up()
        return RingWatch(lambda _: self._ring, resource, after, choice)

    def _take(self, events: Sequence[Event]) -> None:
        """Take what this process has committed, without reading it again."""
        for event in events:
            if event.revision == self._ring.reached + 1:
                self._apply(event)
            elif event.revision > self._ring.reached:
                # Another process was faster. Whoever reads will hear of trouble with that.
                with suppress(StoreUnavailable):
                    self._catch_up()
        self._ring.wake()

    async def _follow(self) -> None:
        """Look for what other processes have committed, so that watches hear of it."""
        while True:
            await asyncio.sleep(self._limits.poll_seconds)
            try:
                self._catch_up()
                self.trouble = ""
            except StoreUnavailable as error:
                self.trouble = str(error)
                await asyncio.sleep(1)

    def _found(self, key: Key) -> Stored | None:
        return self._state.get(key.resource, {}).get((key.namespace, key.name))

    def _catch_up(self) -> None:
        """Bring what is in memory to what is in the file."""
        try:
            (version,) = self._reader.execute("PRAGMA data_version").fetchone()
            if version == self._version:
                return
            self._reader.execute("BEGIN")
            try:
                (compacted,) = self._reader.execute("SELECT compacted FROM head").fetchone()
                is_behind = compacted > self._ring.reached
                for event in [] if is_behind else read_log(self._reader, self._ring.reached):
                    self._apply(event)
            finally:
                self._reader.execute("COMMIT")
            if is_behind:
                self._load()
        except sqlite3.Error as error:
            raise unavailable(error) from error
        self._version = version
        self._ring.wake()

    def _load(self) -> None:
        """Read everything; watches that are behind will notice."""
        reader = self._reader
        (version,) = reader.execute("PRAGMA data_version").fetchone()
        reader.execute("BEGIN")
        try:
            revision, compacted = reader.execute("SELECT revision, compacted FROM head").fetchone()
            state: dict[str, dict[tuple[str, str], Stored]] = {}
            for resource, namespace, name, mod, body in reader.execute("SELECT * FROM objects"):
                key = Key(resource, namespace, name)
                state.setdefault(resource, {})[namespace, name] = Stored(key, mod, body)
            events = read_log(reader, compacted)
        finally:
            reader.execute("COMMIT")
        self._state, self._order = state, {}
        self._ring.reset(compacted, events)
        self._ring.advance(revision)
        self._version = version

    def _apply(self, event: Event) -> None:
        key = event.stored.key
        state = self._state.setdefault(key.resource, {})
        where = (key.namespace, key.name)
        known, previous = state.get(where), event.previous
        if known is not None and previous is not None and known.revision == previous.revision:
            # One copy is enough.
            event = replace(event, previous=known)
        if event.type is EventType.DELETED:
            state.pop(where, None)
        else:
            state[where] = event.stored
        self._order.pop(key.resource, None)
        self._ring.add(event)

    def _ordered(self, resource: str) -> list[Stored]:
        ordered = self._order.get(resource)
        if ordered is None:
            state = self._state.get(resource, {})
            ordered = self._order[resource] = [state[where] for where in sorted(state)]
        return ordered


def _expect(now: Stored | None, expected: int) -> Stored:
    if now is None:
        raise Missing
    if now.revision != expected:
        raise Changed
    return now


def _stamp(key: Key, document: Object, revision: int, limits: StoreLimits | None) -> Stored:
    stamped = {**document, "metadata": {**document["metadata"], "resourceVersion": str(revision)}}
    body = objects.encode(stamped)
    if limits is not None and len(body) > limits.object_bytes:
        raise ObjectTooLarge(len(body), limits.object_bytes)
    return Stored(key, revision, body)
