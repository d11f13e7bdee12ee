"""Objects in one SQLite file, which several processes of a machine may share.

A change is one transaction: the head's revision grows by one, the object is replaced and a row of
the log says what happened. Each process has everything in memory and follows the log: SQLite tells
by ``data_version``, in about a microsecond, whether anybody has committed, so that every read first
sees what anybody was told. What is answered has been synced (WAL, ``synchronous=FULL``).
"""

import asyncio
import bisect
import logging
import sqlite3
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from alauda_imageapi.machinery import objects
from alauda_imageapi.machinery.objects import Object
from alauda_imageapi.machinery.store import (
    Changed,
    Compacted,
    Event,
    EventType,
    Exists,
    Key,
    Missing,
    ObjectTooLarge,
    Snapshot,
    Stored,
    StoreUnavailable,
    TooNew,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")

_VERSION = 1
_SCHEMA = """
CREATE TABLE head (id INTEGER PRIMARY KEY CHECK (id = 1), revision INTEGER NOT NULL,
                   compacted INTEGER NOT NULL);
INSERT INTO head VALUES (1, 1, 1);
CREATE TABLE objects (resource TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
                      revision INTEGER NOT NULL, body BLOB NOT NULL,
                      PRIMARY KEY (resource, namespace, name));
CREATE TABLE log (revision INTEGER PRIMARY KEY, resource TEXT NOT NULL, namespace TEXT NOT NULL,
                  name TEXT NOT NULL, type TEXT NOT NULL, body BLOB NOT NULL,
                  previous_revision INTEGER, previous BLOB);
"""
_READ_LOG = (
    "SELECT revision, resource, namespace, name, type, body, previous_revision, previous "
    "FROM log WHERE revision > ? ORDER BY revision"
)


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """How much is kept.

    Attributes:
        object_bytes: The largest document. What comes in by a request is at most 3 MiB, but a
            stream of ten thousand tags grows larger push by push.
        log_rows: Changes that are known for watches and pages; twice as many at most.
        log_bytes: What these may take, unless they are only a few.
        busy_seconds: How long a change waits for those of other processes.
        poll_seconds: How often other processes' changes are looked for on behalf of watches.
        reach_seconds: How long a revision is waited for.
    """

    object_bytes: int = 32 * 2**20
    log_rows: int = 10_000
    log_bytes: int = 64 * 2**20
    busy_seconds: float = 10.0
    poll_seconds: float = 0.05
    reach_seconds: float = 3.0


_COMPACT_EVERY = 100
_FEWEST_ROWS = 20


class SQLiteStore:
    """Implements :class:`~alauda_imageapi.machinery.store.ObjectStore`; made by :meth:`opened`."""

    def __init__(self, path: Path, limits: StoreLimits) -> None:
        self._limits = limits
        self._writer = _connect(path, limits)
        self._reader = _connect(path, limits)
        self._thread = ThreadPoolExecutor(1, "image-api-store")
        self._version = -1
        self._applied = 0
        self._state: dict[str, dict[tuple[str, str], Stored]] = {}
        self._order: dict[str, list[Stored]] = {}
        self._ring = _Ring()
        self._news = asyncio.Event()
        self._writes = 0
        self.trouble = ""
        """Why the file could not be used when it was last looked at; empty when it could."""

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
            await store._run(store._load)
            async with asyncio.TaskGroup() as group:
                following = group.create_task(store._follow())
                try:
                    yield store
                finally:
                    following.cancel()
        finally:
            store._thread.shutdown()
            store._reader.close()
            store._writer.close()

    async def get(self, key: Key) -> Stored | None:
        """Return the latest state of an object."""
        self._catch_up()
        return self._state.get(key.resource, {}).get((key.namespace, key.name))

    async def snapshot(self, resource: str, revision: int | None = None) -> Snapshot:
        """Return a resource as it is now, or as it was."""
        self._catch_up()
        if revision is None or revision == self._applied:
            return Snapshot(self._applied, self._ordered(resource))
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
        return Snapshot(revision, [state[where] for where in sorted(state)])

    async def reach(self, resource: str, revision: int) -> None:
        """Wait a little for a revision."""
        del resource  # All of them are counted together.
        try:
            async with asyncio.timeout(self._limits.reach_seconds):
                while True:
                    self._catch_up()
                    if self._applied >= revision:
                        return
                    await self._news.wait()
        except TimeoutError:
            raise TooNew(revision, self._applied) from None

    async def create(self, key: Key, document: Object) -> Stored:
        """Keep a new object."""

        def change(revision: int, now: Stored | None) -> _Change:
            if now is not None:
                raise Exists
            return _Change(EventType.ADDED, _stamp(key, document, revision, self._limits))

        return await self._change(key, change)

    async def update(self, key: Key, document: Object, *, expected: int) -> Stored:
        """Replace an object that is at a revision."""

        def change(revision: int, now: Stored | None) -> _Change:
            _expect(now, expected)
            return _Change(EventType.MODIFIED, _stamp(key, document, revision, self._limits))

        return await self._change(key, change)

    async def delete(self, key: Key, *, expected: int) -> Stored:
        """Remove an object that is at a revision, and return its last state."""

        def change(revision: int, now: Stored | None) -> _Change:
            document = _expect(now, expected).object()
            return _Change(EventType.DELETED, _stamp(key, document, revision, None))

        return await self._change(key, change)

    async def watch(self, resource: str, after: int) -> "SQLiteWatch":
        """Follow what happens after a revision that was reached."""
        self._catch_up()
        self._ring.after(after)
        return SQLiteWatch(self, resource, after)

    async def _change(self, key: Key, change: "Callable[[int, Stored | None], _Change]") -> Stored:
        stored = await self._run(lambda: self._commit(key, change))
        self._catch_up()
        return stored

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except sqlite3.Error as error:
            raise _unavailable(error) from error

    def _commit(self, key: Key, change: "Callable[[int, Stored | None], _Change]") -> Stored:
        """Make one change; runs in the thread of the writer."""
        writer = self._writer
        where = (key.resource, key.namespace, key.name)
        writer.execute("BEGIN IMMEDIATE")
        try:
            (head,) = writer.execute("SELECT revision FROM head").fetchone()
            row = writer.execute(
                "SELECT revision, body FROM objects WHERE resource=? AND namespace=? AND name=?",
                where,
            ).fetchone()
            now = Stored(key, *row) if row else None
            done = change(head + 1, now)
            stored = done.stored
            writer.execute("UPDATE head SET revision = ?", (stored.revision,))
            if done.type is EventType.DELETED:
                writer.execute(
                    "DELETE FROM objects WHERE resource=? AND namespace=? AND name=?", where
                )
            else:
                writer.execute(
                    "INSERT OR REPLACE INTO objects VALUES (?,?,?,?,?)",
                    (*where, stored.revision, stored.body),
                )
            writer.execute(
                "INSERT INTO log VALUES (?,?,?,?,?,?,?,?)",
                (
                    *(stored.revision, *where, done.type, stored.body),
                    *((now.revision, now.body) if now else (None, None)),
                ),
            )
            self._compact_sometimes(stored.revision)
            writer.execute("COMMIT")
        except BaseException:
            if writer.in_transaction:
                writer.execute("ROLLBACK")
            raise
        return stored

    def _compact_sometimes(self, revision: int) -> None:
        self._writes += 1
        if self._writes % _COMPACT_EVERY:
            return
        rows = self._writer.execute(
            "SELECT revision, length(body) + coalesce(length(previous), 0) FROM log "
            "ORDER BY revision DESC"
        )
        size, count, oldest = 0, 0, 0
        for row_revision, row_size in rows:
            count, size = count + 1, size + row_size
            is_much = count > self._limits.log_rows or size > self._limits.log_bytes
            if is_much and count > _FEWEST_ROWS:
                oldest = row_revision
                break
        if oldest:
            logger.debug("forgetting changes up to %d of %d", oldest, revision)
            self._writer.execute("DELETE FROM log WHERE revision <= ?", (oldest,))
            self._writer.execute("UPDATE head SET compacted = ?", (oldest,))

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

    def _catch_up(self) -> None:
        """Bring what is in memory to what is in the file."""
        try:
            (version,) = self._reader.execute("PRAGMA data_version").fetchone()
            if version == self._version:
                return
            self._reader.execute("BEGIN")
            try:
                (compacted,) = self._reader.execute("SELECT compacted FROM head").fetchone()
                is_behind = compacted > self._applied
                rows = [] if is_behind else self._reader.execute(_READ_LOG, (self._applied,))
                for row in rows:
                    self._apply(_event(row))
            finally:
                self._reader.execute("COMMIT")
            if is_behind:
                self._load()
        except sqlite3.Error as error:
            raise _unavailable(error) from error
        self._version = version
        # Everybody who waits now is woken up; who waits from now on waits for the next.
        self._news.set()
        self._news = asyncio.Event()

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
            events = [_event(row) for row in reader.execute(_READ_LOG, (compacted,))]
        finally:
            reader.execute("COMMIT")
        self._state, self._order = state, {}
        self._ring.reset(compacted, events)
        self._applied, self._version = revision, version

    def _apply(self, event: Event) -> None:
        key = event.stored.key
        state = self._state.setdefault(key.resource, {})
        where = (key.namespace, key.name)
        if event.type is EventType.DELETED:
            state.pop(where, None)
        else:
            state[where] = event.stored
        self._order.pop(key.resource, None)
        self._ring.add(event)
        self._ring.trim(self._limits.log_rows, self._limits.log_bytes)
        self._applied = event.revision

    def _ordered(self, resource: str) -> list[Stored]:
        ordered = self._order.get(resource)
        if ordered is None:
            state = self._state.get(resource, {})
            ordered = self._order[resource] = [state[where] for where in sorted(state)]
        return ordered


class SQLiteWatch:
    """Implements :class:`~alauda_imageapi.machinery.store.Watch`.

    It holds no queue, only its place in the changes that are known anyway: one that is slow costs
    nothing, and hears that it is too late when its place is gone.
    """

    def __init__(self, store: SQLiteStore, resource: str, after: int) -> None:
        self._store = store
        self._resource = resource
        self._revision = after

    @property
    def revision(self) -> int:
        """Every change up to here has been returned."""
        return self._revision

    async def next(self, seconds: float) -> Sequence[Event]:
        """Return the next changes, or none when none came in time."""
        store = self._store
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            news = store._news
            found = self._take()
            left = deadline - asyncio.get_running_loop().time()
            if found or left <= 0:
                return found
            try:
                async with asyncio.timeout(left):
                    await news.wait()
            except TimeoutError:
                return self._take()

    def _take(self) -> list[Event]:
        events = self._store._ring.after(self._revision)
        self._revision = max(self._revision, self._store._applied)
        return [event for event in events if event.stored.key.resource == self._resource]


@dataclass(frozen=True, slots=True)
class _Change:
    type: EventType
    stored: Stored


class _Ring:
    """The latest changes, by revision."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._sizes = 0
        self._oldest = 0

    def reset(self, oldest: int, events: list[Event]) -> None:
        """Begin again with what happened after a revision."""
        self._oldest, self._events = oldest, events
        self._sizes = sum(map(_size, events))

    def add(self, event: Event) -> None:
        self._events.append(event)
        self._sizes += _size(event)

    def after(self, revision: int) -> list[Event]:
        """Return what happened after a revision.

        Raises:
            Compacted: Some of it is not here any more.
        """
        if revision < self._oldest:
            raise Compacted
        if not self._events or self._events[-1].revision <= revision:
            return []
        return self._events[bisect.bisect_right(self._events, revision, key=_revision) :]

    def trim(self, rows: int, size: int) -> None:
        """Forget half when there is twice as much as wanted, so that it costs little each time."""
        if len(self._events) <= 2 * rows and self._sizes <= 2 * size:
            return
        keep = len(self._events)
        while keep > _FEWEST_ROWS and (keep > rows or self._sizes > size):
            self._sizes -= _size(self._events[len(self._events) - keep])
            keep -= 1
        dropped = len(self._events) - keep
        if dropped:
            self._oldest = self._events[dropped - 1].revision
            del self._events[:dropped]


def _revision(event: Event) -> int:
    return event.revision


def _size(event: Event) -> int:
    return len(event.stored.body)


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


def _event(row: tuple[Any, ...]) -> Event:
    revision, resource, namespace, name, kind, body, previous_revision, previous = row
    key = Key(resource, namespace, name)
    before = None if previous is None else Stored(key, previous_revision, previous)
    return Event(EventType(kind), Stored(key, revision, body), before)


def _connect(path: Path, limits: StoreLimits) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(
        path, timeout=limits.busy_seconds, isolation_level=None, check_same_thread=False
    )
    try:
        (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
        if mode != "wal":
            raise sqlite3.OperationalError("its file system does not do for SQLite's WAL")
        connection.execute("PRAGMA synchronous=FULL")
        _migrate(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _migrate(connection: sqlite3.Connection) -> None:
    """Make the tables; workers may come at the same time."""
    connection.execute("BEGIN IMMEDIATE")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == 0:
        for statement in _SCHEMA.split(";"):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {_VERSION}")
    connection.execute("COMMIT")
    if version > _VERSION:
        raise sqlite3.OperationalError(f"a newer version wrote it (format {version})")


def _unavailable(error: sqlite3.Error) -> StoreUnavailable:
    code = getattr(error, "sqlite_errorname", "")
    if code == "SQLITE_FULL":
        return StoreUnavailable("the disk that the image API's objects are on is full")
    logger.error("the store of the image API does not work: %s %s", code, error)
    return StoreUnavailable("the store of the image API does not work: the log says how")
