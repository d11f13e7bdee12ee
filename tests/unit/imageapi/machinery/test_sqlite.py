"""What changes cost over SQLite, and that those committed together do not suffer from it."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from alauda_imageapi.machinery.sqlite import SQLiteStore
from alauda_imageapi.machinery.sqlite_file import StoreLimits
from alauda_imageapi.machinery.store import Exists, Key, Stored, StoreUnavailable

pytestmark = pytest.mark.anyio


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "objects.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SQLiteStore]:
    async with SQLiteStore.opened(path) as found:
        yield found


@contextmanager
def busy(path: Path) -> Iterator[None]:
    """Keep everybody else from writing, so that whoever wants to waits."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    yield
    connection.execute("COMMIT")
    connection.close()


def statements(store: SQLiteStore) -> list[str]:
    """Return a list that gets what is done to the file from now on."""
    seen: list[str] = []
    store._writer.connection.set_trace_callback(seen.append)
    return seen


async def create(store: SQLiteStore, name: str, text: str = "") -> Stored:
    key = Key("images", "", name)
    return await store.create(key, {"metadata": {"name": name}, "text": text})


async def test_a_change_is_one_commit(store: SQLiteStore) -> None:
    seen = statements(store)

    await create(store, "one")

    assert seen.count("COMMIT") == 1


async def test_what_waits_is_committed_together_with_a_revision_each(
    store: SQLiteStore, path: Path
) -> None:
    seen = statements(store)

    with busy(path):
        waiting = [asyncio.ensure_future(create(store, f"image-{number}")) for number in range(50)]
        await asyncio.sleep(0.05)
    made = await asyncio.gather(*waiting)

    # Those that came while the first was waiting for its turn.
    assert seen.count("COMMIT") <= 2
    revisions = [stored.revision for stored in made]
    assert revisions == [*range(revisions[0], revisions[0] + 50)]
    assert {stored.object()["metadata"]["resourceVersion"] for stored in made} == {
        *map(str, revisions)
    }
    with sqlite3.connect(path) as connection:
        logged = connection.execute("SELECT revision FROM log ORDER BY revision").fetchall()
    connection.close()
    assert [revision for (revision,) in logged] == revisions


async def test_one_that_must_not_be_does_not_spoil_the_others(
    store: SQLiteStore, path: Path
) -> None:
    await create(store, "known")

    with busy(path):
        waiting = [
            asyncio.ensure_future(create(store, name)) for name in ("one", "known", "two", "one")
        ]
        await asyncio.sleep(0.05)
    one, known, two, again = await asyncio.gather(*waiting, return_exceptions=True)

    assert isinstance(one, Stored)
    assert isinstance(two, Stored)
    assert isinstance(known, Exists)
    assert isinstance(again, Exists)
    assert two.revision == one.revision + 1
    assert [item.key.name for item in (await store.snapshot("images")).items] == [
        *("known", "one", "two")
    ]


async def test_one_that_is_too_much_for_the_disk_does_not_spoil_the_others(
    store: SQLiteStore, path: Path
) -> None:
    await create(store, "known")
    connection = store._writer.connection
    # SQLite refuses to let the file grow further, with the error that a full disk gives.
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages + 4}")

    with busy(path):
        waiting = [
            asyncio.ensure_future(create(store, "one")),
            asyncio.ensure_future(create(store, "large", "x" * 100_000)),
            asyncio.ensure_future(create(store, "two")),
        ]
        await asyncio.sleep(0.05)
    one, large, two = await asyncio.gather(*waiting, return_exceptions=True)

    assert isinstance(large, StoreUnavailable)
    assert isinstance(one, Stored)
    assert isinstance(two, Stored)
    async with SQLiteStore.opened(path) as other:
        kept = [item.key.name for item in (await other.snapshot("images")).items]
    assert kept == ["known", "one", "two"]


async def test_while_another_process_writes_those_that_wait_fail_together(path: Path) -> None:
    async with SQLiteStore.opened(path, StoreLimits(busy_seconds=0.2)) as store:
        seen = statements(store)
        with busy(path):
            waiting = [asyncio.ensure_future(create(store, f"image-{n}")) for n in range(20)]
            failed = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(await create(store, "image-0"), Stored)

    assert all(isinstance(error, StoreUnavailable) for error in failed)
    assert len({id(error) for error in failed}) == 20
    # The first, the others, and the one afterwards.
    assert seen.count("BEGIN IMMEDIATE") <= 3


async def test_one_by_one_they_do_not_wait_for_another_process_each(path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    begun: list[str] = []

    def note(statement: str) -> None:
        if statement == "BEGIN IMMEDIATE":
            begun.append(statement)
            if len(begun) == 3:
                other.execute(statement)

    async with SQLiteStore.opened(path, StoreLimits(busy_seconds=2)) as store:
        connection = store._writer.connection
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages + 4}")
        connection.set_trace_callback(note)
        with busy(path):
            first = asyncio.ensure_future(create(store, "first"))
            await asyncio.sleep(0.05)
            waiting = [asyncio.ensure_future(create(store, "large", "x" * 100_000))]
            waiting += [asyncio.ensure_future(create(store, f"image-{n}")) for n in range(20)]
            await asyncio.sleep(0)
        await first
        # Together they are too much for the disk; then somebody else has the file.
        failed = await asyncio.gather(*waiting, return_exceptions=True)
    other.close()

    assert all(isinstance(error, StoreUnavailable) for error in failed)
    assert len(begun) == 3


async def test_what_another_process_wrote_in_between_is_not_passed_over(
    store: SQLiteStore, path: Path
) -> None:
    watch = await store.watch("images", (await create(store, "first")).revision)
    async with SQLiteStore.opened(path) as other:
        for number in range(20):
            await asyncio.gather(create(store, f"ours-{number}"), create(other, f"theirs-{number}"))

    seen: list[int] = []
    async with asyncio.timeout(10):
        while len(seen) < 40:
            seen += [event.revision for event in await watch.next(5)]

    assert seen == [*range(seen[0], seen[0] + 40)]


async def test_whoever_has_gone_before_it_was_begun_gets_nothing_made(
    store: SQLiteStore, path: Path
) -> None:
    with busy(path):
        first = asyncio.ensure_future(create(store, "first"))
        await asyncio.sleep(0.05)
        gone = asyncio.ensure_future(create(store, "gone"))
        await asyncio.sleep(0)
        gone.cancel()
    await first
    await create(store, "last")

    names = [item.key.name for item in (await store.snapshot("images")).items]
    assert names == ["first", "last"]


@pytest.mark.parametrize("is_hurried", [False, True])
async def test_the_end_waits_for_what_was_begun_and_stops_nothing_else(
    path: Path, caplog: pytest.LogCaptureFixture, is_hurried: bool
) -> None:
    # It does not look for what others have written, so that it is behind at the end.
    opening = SQLiteStore.opened(path, StoreLimits(busy_seconds=20, poll_seconds=60))
    store = await opening.__aenter__()
    async with SQLiteStore.opened(path) as other:
        await create(other, "theirs")
    with busy(path):
        ours = asyncio.ensure_future(create(store, "ours"))
        await asyncio.sleep(0.05)
        ending = asyncio.ensure_future(opening.__aexit__(None, None, None))
        # The other process is done only when this one gets to something else meanwhile.
        await asyncio.sleep(0.05)
        if is_hurried:
            ending.cancel()
            await asyncio.wait([ending])
    made = await ours
    await asyncio.wait([ending])

    assert made.object()["metadata"]["name"] == "ours"
    assert caplog.messages == []


async def test_after_the_end_nothing_is_made_and_nobody_waits(path: Path) -> None:
    async with SQLiteStore.opened(path) as store:
        pass

    async with asyncio.timeout(2):
        with pytest.raises(StoreUnavailable, match="is being stopped"):
            await create(store, "late")
