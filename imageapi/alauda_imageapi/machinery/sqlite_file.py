"""The file that objects are in, and the thread of a process that changes it.

What waits while a commit is being synced goes into the next one together, so that a crowd does not
wait for a sync each; every change has a revision of its own all the same. One that cannot be made
is no trouble to the others; when the file cannot be used, all fail at once.
"""

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeAlias

from alauda_imageapi.machinery.store import (
    Event,
    EventType,
    Key,
    Stored,
    StoreError,
    StoreFull,
    StoreUnavailable,
)

logger = logging.getLogger(__name__)

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
_COMPACT_EVERY = 100
_FEWEST_ROWS = 20
_MOST_TOGETHER = 100
"""Changes in one commit. As much as waits is kept in memory anyway."""
_OF_ONE = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_CONSTRAINT})
"""Errors for which changes are tried again one by one. Everything else is the file's: to try each
again while another process has it would take ``busy_seconds`` every time."""


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


Change: TypeAlias = Callable[[int, Stored | None], Event]
"""Says what becomes of an object at a revision, given its state before; raises a StoreError when
that must not be. Called in the writer's thread, and maybe again."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    key: Key
    change: Change
    made: "asyncio.Future[Event]"


_Outcome: TypeAlias = Event | Exception


class Writer:
    """Makes changes, one after the other; they are synced (WAL, ``synchronous=FULL``) when made.

    Args:
        path: Of the file; it is made when it is not there.
        limits: How much is kept.
        on_commit: Called in the event loop with what has been committed, before those who wanted
            it are told; not any more once it is being closed.

    Raises:
        OSError: The file cannot be made.
        sqlite3.Error: It cannot be used.
    """

    def __init__(
        self, path: Path, limits: StoreLimits, on_commit: Callable[[Sequence[Event]], None]
    ) -> None:
        self.connection = connect(path, limits)
        self._limits = limits
        self._on_commit = on_commit
        self._writes = 0
        self._is_closed = False
        self._waiting: SimpleQueue[_Wanted | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="image-api-store", daemon=True)
        self._thread.start()

    async def make(self, key: Key, change: Change) -> Stored:
        """Change an object, and return its new state.

        Raises:
            StoreError: It must not be, or cannot be now or any more.
        """
        if self._is_closed:
            raise StoreUnavailable("the image API is being stopped")
        wanted = _Wanted(key, change, asyncio.get_running_loop().create_future())
        self._waiting.put(wanted)
        return (await wanted.made).stored

    async def close(self) -> None:
        """Make what waits, and let go of the file; what is wanted later is refused."""
        self._is_closed = True
        self._waiting.put(None)
        # It may be waiting for another process, and the others here go on meanwhile.
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        with closing(self.connection):
            while (first := self._waiting.get()) is not None:
                together: list[_Wanted] = [first]
                while len(together) < _MOST_TOGETHER and not self._waiting.empty():
                    another = self._waiting.get()
                    if another is None:
                        # The end, once these are made.
                        self._waiting.put(None)
                        break
                    together.append(another)
                # Whoever has gone before it was begun wants it no more.
                self._make([wanted for wanted in together if not wanted.made.cancelled()])

    def _make(self, together: Sequence[_Wanted]) -> None:
        size = len(together)
        while together:
            begun, left = together[:size], together[size:]
            outcomes: Sequence[_Outcome]
            try:
                outcomes = self._commit(begun)
            except Exception as error:  # noqa: BLE001 -- whatever it was, somebody waits for it
                if not _may_be_of_one(error):
                    # So it would be for the others, and maybe as slowly.
                    begun, left = together, []
                elif size > 1:
                    size = 1
                    continue
                outcomes = _failures(error, len(begun))
            begun[0].made.get_loop().call_soon_threadsafe(self._tell, begun, outcomes)
            together = left

    def _tell(self, together: Sequence[_Wanted], outcomes: Sequence[_Outcome]) -> None:
        """Tell what has become of changes; runs in the event loop."""
        try:
            if not self._is_closed:
                self._on_commit([outcome for outcome in outcomes if isinstance(outcome, Event)])
        finally:
            for wanted, outcome in zip(together, outcomes, strict=True):
                if wanted.made.done():
                    continue
                if isinstance(outcome, Event):
                    wanted.made.set_result(outcome)
                else:
                    wanted.made.set_exception(outcome)

    def _commit(self, together: Sequence[_Wanted]) -> Sequence[_Outcome]:
        connection = self.connection
        outcomes: list[_Outcome] = []
        connection.execute("BEGIN IMMEDIATE")
        try:
            (head,) = connection.execute("SELECT revision FROM head").fetchone()
            revision = head
            for wanted in together:
                try:
                    event = wanted.change(revision + 1, self._read(wanted.key))
                except StoreError as error:
                    outcomes.append(error)
                    continue
                self._write(event)
                outcomes.append(event)
                revision = event.revision
            if revision > head:
                connection.execute("UPDATE head SET revision = ?", (revision,))
                self._compact_sometimes(revision - head)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return outcomes

    def _read(self, key: Key) -> Stored | None:
        row = self.connection.execute(
            "SELECT revision, body FROM objects WHERE resource=? AND namespace=? AND name=?",
            (key.resource, key.namespace, key.name),
        ).fetchone()
        return Stored(key, *row) if row else None

    def _write(self, event: Event) -> None:
        stored, previous, connection = event.stored, event.previous, self.connection
        where = (stored.key.resource, stored.key.namespace, stored.key.name)
        if event.type is EventType.DELETED:
            connection.execute(
                "DELETE FROM objects WHERE resource=? AND namespace=? AND name=?", where
            )
        else:
            connection.execute(
                "INSERT OR REPLACE INTO objects VALUES (?,?,?,?,?)",
                (*where, stored.revision, stored.body),
            )
        before = (previous.revision, previous.body) if previous else (None, None)
        connection.execute(
            "INSERT INTO log VALUES (?,?,?,?,?,?,?,?)",
            (stored.revision, *where, event.type, stored.body, *before),
        )

    def _compact_sometimes(self, count: int) -> None:
        before, self._writes = self._writes, self._writes + count
        if before // _COMPACT_EVERY == self._writes // _COMPACT_EVERY:
            return
        rows = self.connection.execute(
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
            logger.debug("forgetting changes up to %d", oldest)
            self.connection.execute("DELETE FROM log WHERE revision <= ?", (oldest,))
            self.connection.execute("UPDATE head SET compacted = ?", (oldest,))


def _may_be_of_one(error: Exception) -> bool:
    """Tell whether one change of several can be why they were not committed."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is None or code & 0xFF in _OF_ONE


def _failures(error: Exception, count: int) -> Sequence[Exception]:
    if not isinstance(error, sqlite3.Error):
        return [error] * count
    found = unavailable(error)
    # Each is raised somewhere else.
    return [type(found)(str(found)) for _ in range(count)]


def connect(path: Path, limits: StoreLimits) -> sqlite3.Connection:
    """Open the file, or make it.

    Raises:
        OSError: Its folder cannot be made.
        sqlite3.Error: It cannot be used.
    """
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


def read_log(connection: sqlite3.Connection, after: int) -> list[Event]:
    """Return what happened after a revision."""
    rows = connection.execute(
        "SELECT revision, resource, namespace, name, type, body, previous_revision, previous "
        "FROM log WHERE revision > ? ORDER BY revision",
        (after,),
    )
    return [_event(row) for row in rows]


def _event(row: tuple[Any, ...]) -> Event:
    revision, resource, namespace, name, kind, body, previous_revision, previous = row
    key = Key(resource, namespace, name)
    before = None if previous is None else Stored(key, previous_revision, previous)
    return Event(EventType(kind), Stored(key, revision, body), before)


def unavailable(error: sqlite3.Error) -> StoreUnavailable:
    """Say that the file cannot be used, in words for clients."""
    code = getattr(error, "sqlite_errorname", "")
    if code == "SQLITE_FULL":
        return StoreFull(
            "the disk that the image API's objects are on is full: nothing can be made, changed or "
            "deleted until there is room on it, while reading goes on"
        )
    logger.error("the store of the image API does not work: %s %s", code, error)
    return StoreUnavailable("the store of the image API does not work: the log says how")
