"""The executable half of the storage driver contract. Every driver passes all of it."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from datetime import UTC, datetime, timedelta

import pytest

from alauda_registry.storage.driver import (
    Busy,
    Ensure,
    FileReader,
    InvalidPath,
    Move,
    PathNotFound,
    StorageDriver,
    Write,
)
from tests.contract.conftest import Storage

pytestmark = pytest.mark.anyio

BIG = bytes(range(256)) * 6144
"""A megabyte and a half: more than one chunk of a stream."""

PREFIXES = [
    "/d/a",
    "/d/a-b",
    "/d/a-b/c",
    "/d/a.b",
    "/d/a/b",
    "/d/a/b-c",
    "/d/a/b/c",
    "/d/a0",
    "/d/aa/z",
    "/d/A",
    "/d/_",
    "/d/-",
    "/d/..x/y",
    "/d/0.1.2/link",
    "/d/0.1.20/link",
    "/d/0.1.2-rc1/link",
]
"""Names that are beginnings of one another, where byte order and tree order differ."""


def tree_of_prefixes() -> list[str]:
    """Return those of the names that can be files next to one another on a disk."""
    return sorted(
        path for path in PREFIXES if not any(one.startswith(f"{path}/") for one in PREFIXES)
    )


async def write(driver: StorageDriver, *paths: str, content: bytes = b"x") -> None:
    for path in paths:
        await driver.publish(Write(path, content))


async def append(driver: StorageDriver, path: str, *chunks: bytes) -> None:
    writer = await driver.append(path, create=True, wait=0)
    await writer.write(chunks)
    await writer.close()


async def content_of(reader: FileReader, offset: int = 0, length: int | None = None) -> bytes:
    return b"".join([chunk async for chunk in reader.stream(offset, length)])


async def walked(driver: StorageDriver, path: str, start_after: str = "") -> list[str]:
    return [info.path async for info in driver.walk(path, start_after=start_after)]


Operation = Callable[[StorageDriver, str], Awaitable[object]]

OPERATIONS: dict[str, Operation] = {
    "stat": lambda driver, path: driver.stat(path),
    "read": lambda driver, path: driver.read(path),
    "open": lambda driver, path: driver.open(path),
    "write": lambda driver, path: driver.publish(Write(path, b"x")),
    "move from": lambda driver, path: driver.publish(Move(path, "/b")),
    "move to": lambda driver, path: driver.publish(Move("/a", path)),
    "ensure": lambda driver, path: driver.publish(Ensure(path)),
    "append": lambda driver, path: driver.append(path, create=False, wait=0),
    "append or create": lambda driver, path: driver.append(path, create=True, wait=0),
    "delete": lambda driver, path: driver.delete(path),
    "names": lambda driver, path: driver.names(path),
    "walk": walked,
}


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 65536, 65537, len(BIG)])
async def test_a_published_file_reads_back_whole(storage: Storage, size: int) -> None:
    await write(storage.driver, "/a/b", content=BIG[:size])

    assert await storage.driver.read("/a/b") == BIG[:size]
    assert await storage.other.read("/a/b") == BIG[:size]


async def test_a_file_is_described_by_its_path_size_and_time(driver: StorageDriver) -> None:
    await write(driver, "/a/b", content=b"content")

    info = await driver.stat("/a/b")

    assert (info.path, info.size) == ("/a/b", 7)
    assert abs(datetime.now(UTC) - info.modified_at) < timedelta(minutes=1)


@pytest.mark.parametrize("durable", [True, False], ids=["durable", "not durable"])
async def test_publishing_replaces_what_was_there(driver: StorageDriver, *, durable: bool) -> None:
    await write(driver, "/a/b", content=b"a long first content")

    await driver.publish(Write("/a/b", b"second", durable=durable))

    assert await driver.read("/a/b") == b"second"


@pytest.mark.parametrize(
    "path",
    ["/a", "/" + "a" * 255, "/..a", "/a..", "/...", "/-", "/_/.x", "/a" * 500],
    ids=lambda path: path[:8],
)
async def test_every_path_of_the_grammar_can_be_written(driver: StorageDriver, path: str) -> None:
    await write(driver, path, content=b"content")

    assert await driver.read(path) == b"content"


@pytest.mark.parametrize(
    "operation", ["stat", "read", "open", "append", "delete", "names", "ensure"]
)
async def test_a_missing_path_is_reported_with_driver_and_path(
    driver: StorageDriver, operation: str
) -> None:
    await write(driver, "/a/file")

    for path in ("/absent", "/a/absent", "/absent/deeper", "/a/file/below"):
        with pytest.raises(PathNotFound) as caught:
            await OPERATIONS[operation](driver, path)
        assert (caught.value.driver, caught.value.path) == (driver.name, path)


@pytest.mark.parametrize("operation", ["stat", "read", "open"])
async def test_a_directory_is_not_a_file(driver: StorageDriver, operation: str) -> None:
    await write(driver, "/a/b/c")

    with pytest.raises(PathNotFound):
        await OPERATIONS[operation](driver, "/a/b")


async def test_a_reader_never_sees_half_a_file(storage: Storage) -> None:
    versions = [letter * 100_000 for letter in (b"a", b"b")]
    await write(storage.driver, "/a/b", content=versions[0])

    async def replace() -> None:
        for turn in range(20):
            await write(storage.driver, "/a/b", content=versions[turn % 2])

    replacing = asyncio.ensure_future(replace())
    seen = []
    while not replacing.done():
        seen.append(await storage.other.read("/a/b"))
        await asyncio.sleep(0)
    await replacing

    assert [content for content in seen if content not in versions] == []


async def test_files_in_the_same_new_directory_can_be_published_at_once(
    driver: StorageDriver,
) -> None:
    paths = [f"/new/deep/{number}/file" for number in range(10)]

    await asyncio.gather(*(driver.publish(Write(path, path.encode())) for path in paths * 2))

    assert await walked(driver, "/new") == paths
    assert [await driver.read(path) for path in paths] == [path.encode() for path in paths]


async def test_publishing_into_a_directory_that_is_being_deleted_succeeds(
    storage: Storage,
) -> None:
    for _ in range(50):
        await write(storage.driver, "/d/e/old")

        published = storage.driver.publish(Write("/d/e/new", b"x"))
        deleted = storage.other.delete("/d")
        await asyncio.gather(published, deleted)

        with suppress(PathNotFound):
            await storage.driver.delete("/d")


async def test_steps_are_carried_out_in_their_order(driver: StorageDriver) -> None:
    await write(driver, "/m", content=b"moved")

    await driver.publish(
        Write("/a", b"1"), Ensure("/a"), Move("/m", "/a"), (Write("/b", b"2"), Write("/c", b"3"))
    )

    assert [await driver.read(path) for path in ("/a", "/b", "/c")] == [b"moved", b"2", b"3"]


@pytest.mark.parametrize("impossible", [Ensure("/absent"), Ensure("/d")], ids=str)
async def test_a_step_that_fails_leaves_those_before_it_and_none_after(
    driver: StorageDriver, impossible: Ensure
) -> None:
    await write(driver, "/d/file")

    with pytest.raises(PathNotFound):
        await driver.publish(Write("/d/before", b"x"), impossible, Write("/d/after", b"x"))

    assert await driver.names("/d") == ["before", "file"]


async def test_nothing_is_done_when_there_is_nothing_to_move(driver: StorageDriver) -> None:
    await write(driver, "/d/file")

    with pytest.raises(PathNotFound):
        await driver.publish(Write("/d/before", b"x"), Move("/absent", "/b"))

    assert await driver.names("/d") == ["file"]


async def test_moving_replaces_the_target_and_removes_the_source(driver: StorageDriver) -> None:
    await write(driver, "/upload/data", content=b"new")
    await write(driver, "/blob/data", content=b"old")

    await driver.publish(Move("/upload/data", "/blob/data"))

    assert await driver.read("/blob/data") == b"new"
    with pytest.raises(PathNotFound):
        await driver.stat("/upload/data")


async def test_moving_makes_the_directories_of_the_target(driver: StorageDriver) -> None:
    await write(driver, "/a", content=b"content")

    await driver.publish(Move("/a", "/b/c/d"))

    assert await driver.read("/b/c/d") == b"content"


async def test_moving_what_is_not_there_leaves_the_target_alone(driver: StorageDriver) -> None:
    await write(driver, "/b", content=b"old")

    with pytest.raises(PathNotFound):
        await driver.publish(Move("/absent", "/b"))

    assert await driver.read("/b") == b"old"


async def test_moving_a_file_to_where_it_is_keeps_it(driver: StorageDriver) -> None:
    await write(driver, "/a/b", content=b"content")

    await driver.publish(Move("/a/b", "/a/b"))

    assert await driver.read("/a/b") == b"content"


@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (0, None),
        (0, 0),
        (0, 1),
        (1, None),
        (65_535, 65_537),
        (0, 524_288),
        (524_287, 2),
        (524_288, None),
        (len(BIG) - 1, 1),
        (len(BIG) - 1, 100),
        (len(BIG), None),
        (len(BIG), 5),
        (len(BIG) + 5, 5),
        (7, 10 * len(BIG)),
    ],
)
async def test_a_stream_yields_what_was_asked_for(
    driver: StorageDriver, offset: int, length: int | None
) -> None:
    await write(driver, "/a", content=BIG)
    end = None if length is None else offset + length

    reader = await driver.open("/a")
    streamed = await content_of(reader, offset, length)
    reader.close()

    assert reader.size == len(BIG)
    assert streamed == BIG[offset:end]


async def test_two_streams_of_one_reader_do_not_disturb_each_other(driver: StorageDriver) -> None:
    await write(driver, "/a", content=BIG)

    reader = await driver.open("/a")
    streamed = tuple(
        await asyncio.gather(content_of(reader), content_of(reader, 1), content_of(reader, 2, 3))
    )
    reader.close()

    assert streamed == (BIG, BIG[1:], BIG[2:5])


async def test_a_stream_may_be_abandoned(driver: StorageDriver) -> None:
    await write(driver, "/a", content=BIG)

    reader = await driver.open("/a")
    async with aclosing(reader.stream()) as stream:
        first = await anext(stream)
    reader.close()

    assert BIG.startswith(first)
    assert 0 < len(first) < len(BIG)


@pytest.mark.parametrize("step", ["delete", "replace", "move"])
async def test_an_open_file_stays_readable_whatever_happens_to_its_path(
    storage: Storage, step: str
) -> None:
    await write(storage.driver, "/a/b", content=BIG)
    reader = await storage.driver.open("/a/b")

    match step:
        case "delete":
            await storage.other.delete("/a")
        case "replace":
            await write(storage.other, "/a/b", content=b"new")
        case _:
            await storage.other.publish(Move("/a/b", "/c"))
    streamed = await content_of(reader)
    reader.close()

    assert streamed == BIG


@pytest.mark.not_of_buckets("what grows is never served")
async def test_a_reader_keeps_to_the_size_the_file_had(driver: StorageDriver) -> None:
    await append(driver, "/a", b"old")
    reader = await driver.open("/a")

    await append(driver, "/a", b"new")
    streamed = await content_of(reader)
    reader.close()

    assert (reader.size, streamed) == (3, b"old")


async def test_the_kernel_can_send_from_a_descriptor_where_there_is_one(
    driver: StorageDriver,
) -> None:
    await write(driver, "/a", content=BIG)
    reader = await driver.open("/a")

    descriptor = reader.fileno()
    sent = BIG if descriptor is None else os.pread(descriptor, len(BIG) + 1, 0)
    reader.close()

    assert sent == BIG


async def test_closing_a_reader_twice_is_harmless(driver: StorageDriver) -> None:
    await write(driver, "/a", "/b")
    first = await driver.open("/a")
    first.close()
    second = await driver.open("/b")

    first.close()

    assert await content_of(second) == b"x"
    second.close()


async def test_appending_makes_the_file_and_its_directories(storage: Storage) -> None:
    writer = await storage.driver.append("/a/b/c", create=True, wait=0)

    assert writer.offset == 0
    await writer.write([b"01", b"", b"23"])
    assert writer.offset == 4
    await writer.sync()
    assert (await storage.other.stat("/a/b/c")).size == 4
    await writer.close()
    assert await storage.other.read("/a/b/c") == b"0123"


async def test_appending_goes_on_where_the_last_writer_ended(storage: Storage) -> None:
    await append(storage.driver, "/a", b"0123")

    writer = await storage.other.append("/a", create=False, wait=0)
    offset = writer.offset
    await writer.write([b"45"])
    await writer.close()

    assert offset == 4
    assert await storage.driver.read("/a") == b"012345"


async def test_appending_to_a_published_file_keeps_its_content(driver: StorageDriver) -> None:
    await write(driver, "/a", content=b"published")

    await append(driver, "/a", b" and more")

    assert await driver.read("/a") == b"published and more"


async def test_big_and_small_chunks_arrive_in_their_order(driver: StorageDriver) -> None:
    await append(driver, "/a", b"<", BIG, b"|", BIG, b">")

    assert await driver.read("/a") == b"<" + BIG + b"|" + BIG + b">"


@pytest.mark.parametrize("chunks", [[], [b""]], ids=["no chunk", "empty chunk"])
async def test_writing_nothing_changes_nothing(driver: StorageDriver, chunks: list[bytes]) -> None:
    await append(driver, "/a", b"0123")

    await append(driver, "/a", *chunks)

    assert await driver.read("/a") == b"0123"


async def test_a_writer_reads_back_what_was_written(driver: StorageDriver) -> None:
    writer = await driver.append("/a", create=True, wait=0)
    await writer.write([b"0123456789"])

    pieces = [
        await writer.read(0, 4),
        await writer.read(8, 100),
        await writer.read(10, 1),
        await writer.read(99, 1),
    ]
    await writer.write([b"!"])
    await writer.close()

    assert pieces == [b"0123", b"89", b"", b""]
    assert await driver.read("/a") == b"0123456789!"


async def test_truncating_takes_back_what_was_written(driver: StorageDriver) -> None:
    writer = await driver.append("/a", create=True, wait=0)
    await writer.write([b"0123456789"])

    await writer.truncate(4)
    offset = writer.offset
    await writer.write([b"x"])
    await writer.close()

    assert offset == 4
    assert await driver.read("/a") == b"0123x"


async def test_two_writers_never_write_at_once(storage: Storage) -> None:
    first = await storage.driver.append("/a", create=True, wait=0)

    for driver in (storage.driver, storage.other):
        with pytest.raises(Busy) as caught:
            await driver.append("/a", create=True, wait=0.01)
        assert (caught.value.driver, caught.value.path) == (driver.name, "/a")
    await first.close()

    second = await storage.other.append("/a", create=True, wait=0)
    await second.close()


async def test_files_are_written_independently_of_one_another(driver: StorageDriver) -> None:
    first = await driver.append("/a", create=True, wait=0)

    second = await driver.append("/b", create=True, wait=0)

    await second.close()
    await first.close()


async def test_a_second_writer_waits_for_the_first(storage: Storage) -> None:
    first = await storage.driver.append("/a", create=True, wait=0)
    waiting = asyncio.ensure_future(storage.other.append("/a", create=False, wait=30))
    await asyncio.sleep(0)
    await first.write([b"first"])

    assert not waiting.done()
    await first.close()
    second = await waiting
    assert second.offset == 5
    await second.close()


@pytest.mark.parametrize("gone", ["move", "delete"])
async def test_a_writer_that_waited_for_a_file_that_went_away_does_not_find_it(
    storage: Storage, gone: str
) -> None:
    first = await storage.driver.append("/a", create=True, wait=0)
    waiting = asyncio.ensure_future(storage.other.append("/a", create=False, wait=30))
    await asyncio.sleep(0)

    if gone == "move":
        await storage.driver.publish(Move("/a", "/b"))
    else:
        await storage.driver.delete("/a")
    await first.close()

    with pytest.raises(PathNotFound):
        await waiting


@pytest.mark.not_of_buckets("a move takes what was synced")
async def test_a_writer_that_waited_and_may_create_begins_a_new_file(storage: Storage) -> None:
    first = await storage.driver.append("/a", create=True, wait=0)
    await first.write([b"old"])
    waiting = asyncio.ensure_future(storage.other.append("/a", create=True, wait=30))
    await asyncio.sleep(0)

    await storage.driver.publish(Move("/a", "/b"))
    await first.close()
    second = await waiting
    await second.write([b"new"])
    await second.close()

    assert await storage.driver.read("/a") == b"new"
    assert await storage.driver.read("/b") == b"old"


@pytest.mark.not_of_buckets("a writer adds to a key, not to an open file")
async def test_a_writer_keeps_a_file_that_is_moved(storage: Storage) -> None:
    writer = await storage.driver.append("/a", create=True, wait=0)
    await writer.write([b"before"])

    await storage.driver.publish(Move("/a", "/b/c"))
    await writer.write([b" and after"])
    with pytest.raises(Busy):
        await storage.other.append("/b/c", create=False, wait=0)
    await writer.close()

    assert await storage.driver.read("/b/c") == b"before and after"


async def test_closing_a_writer_twice_leaves_the_next_one_alone(storage: Storage) -> None:
    first = await storage.driver.append("/a", create=True, wait=0)
    await first.close()
    second = await storage.driver.append("/a", create=True, wait=0)

    await first.close()

    with pytest.raises(Busy):
        await storage.other.append("/a", create=True, wait=0)
    await second.close()


async def test_a_cancelled_wait_leaves_the_file_free(storage: Storage) -> None:
    first = await storage.driver.append("/a", create=True, wait=0)
    waiting = asyncio.ensure_future(storage.other.append("/a", create=True, wait=30))
    await asyncio.sleep(0)

    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await first.close()

    second = await storage.other.append("/a", create=True, wait=0)
    await second.close()


async def test_the_offset_is_the_size_even_when_a_write_was_cancelled(
    driver: StorageDriver,
) -> None:
    writer = await driver.append("/a", create=True, wait=0)
    writing = asyncio.ensure_future(writer.write([BIG] * 8))
    await asyncio.sleep(0)

    writing.cancel()
    with suppress(asyncio.CancelledError):
        await writing
    offset = writer.offset
    await writer.close()

    assert offset == (await driver.stat("/a")).size


@pytest.mark.parametrize("durable", [True, False], ids=["durable", "not durable"])
@pytest.mark.parametrize("path", ["/a", "/a/b", "/a/b/c"])
async def test_deleting_removes_a_file_or_all_below_a_directory(
    storage: Storage, path: str, *, durable: bool
) -> None:
    await write(storage.driver, "/a/b/c", "/b")

    await storage.driver.delete(path, durable=durable)

    with pytest.raises(PathNotFound):
        await storage.other.stat("/a/b/c")
    assert await walked(storage.other, "/a") == []
    assert await storage.other.read("/b") == b"x"


@pytest.mark.parametrize("path", ["/a", "/a/b", "/a/b/c"])
async def test_what_was_deleted_cannot_be_deleted_again(driver: StorageDriver, path: str) -> None:
    await write(driver, "/a/b/c")
    await driver.delete(path)

    with pytest.raises(PathNotFound):
        await driver.delete(path)


async def test_deleting_a_directory_spares_siblings_that_share_its_prefix(
    driver: StorageDriver,
) -> None:
    spared = ["/tags/0.1", "/tags/0.1.2-rc1/link", "/tags/0.1.2.3/link", "/tags/0.1.20/link"]
    await write(driver, "/tags/0.1.2/link", "/tags/0.1.2/index/link", *spared)

    await driver.delete("/tags/0.1.2")

    assert await walked(driver, "/tags") == sorted(spared)


async def test_a_deleted_path_can_be_a_directory_next_and_a_file_after_that(
    driver: StorageDriver,
) -> None:
    await write(driver, "/a", content=b"file")
    await driver.delete("/a")
    await write(driver, "/a/b", content=b"below")
    assert await driver.read("/a/b") == b"below"
    await driver.delete("/a")
    await write(driver, "/a", content=b"file again")

    assert await driver.read("/a") == b"file again"


async def test_names_are_listed_in_byte_order(driver: StorageDriver) -> None:
    await write(driver, *tree_of_prefixes())

    expected = {path.split("/")[2] for path in tree_of_prefixes()}
    assert await driver.names("/d") == sorted(expected)
    assert await driver.names("/d/a-b") == ["c"]


async def test_names_below_a_file_are_not_found(driver: StorageDriver) -> None:
    await write(driver, "/a/b")

    with pytest.raises(PathNotFound):
        await driver.names("/a/b")


async def test_a_walk_goes_in_byte_order_of_the_full_path(driver: StorageDriver) -> None:
    for path in reversed(tree_of_prefixes()):
        await write(driver, path, content=path.encode())

    infos = [info async for info in driver.walk("/d")]

    assert [(info.path, info.size) for info in infos] == [
        (path, len(path)) for path in tree_of_prefixes()
    ]


async def test_a_walk_starts_after_any_path_whether_it_is_there_or_not(
    driver: StorageDriver,
) -> None:
    await write(driver, *tree_of_prefixes())
    starts = ["", "/", "/c/z", "/d", "/d/", "/e", "/d/a/b/", "/d/a/b/b", "/d/zzz", *PREFIXES]

    for start in starts:
        assert await walked(driver, "/d", start) == [
            path for path in tree_of_prefixes() if path > start
        ], start


async def test_a_walk_keeps_below_its_directory(driver: StorageDriver) -> None:
    await write(driver, "/d/x", "/d-1/x", "/d.1/x", "/d1", "/e/d/x")

    assert await walked(driver, "/d") == ["/d/x"]


@pytest.mark.parametrize("path", ["/absent", "/a/absent", "/a/file", "/a/file/below"])
async def test_a_walk_over_no_directory_finds_nothing(driver: StorageDriver, path: str) -> None:
    await write(driver, "/a/file")

    assert await walked(driver, path) == []


@pytest.mark.not_of_buckets("a page of a listing has many folders")
async def test_a_walk_leaves_out_what_vanishes_meanwhile(storage: Storage) -> None:
    await write(storage.driver, "/d/a/1", "/d/b/1", "/d/b/2", "/d/c/1")

    seen = []
    async with aclosing(storage.driver.walk("/d")) as walk:
        async for info in walk:
            seen.append(info.path)
            if len(seen) == 1:
                await storage.other.delete("/d/b")

    assert seen == ["/d/a/1", "/d/c/1"]


async def test_a_walk_may_be_abandoned_and_holds_nothing_up(storage: Storage) -> None:
    await write(storage.driver, "/d/a", "/d/b/c")

    async with aclosing(storage.driver.walk("/d")) as walk:
        first = await anext(walk)
        await write(storage.other, "/d/new")
        await storage.other.delete("/d")

    assert first.path == "/d/a"


@pytest.mark.parametrize(("held", "wanted"), [(True, True), (True, False), (False, True)], ids=str)
async def test_a_lock_is_refused_to_whoever_it_excludes(
    storage: Storage, *, held: bool, wanted: bool
) -> None:
    async with storage.driver.lock("name", exclusive=held, wait=0):
        for driver in (storage.driver, storage.other):
            with pytest.raises(Busy):
                async with driver.lock("name", exclusive=wanted, wait=0.01):
                    pass

    async with storage.other.lock("name", exclusive=wanted, wait=0):
        pass


async def test_a_lock_can_be_shared(storage: Storage) -> None:
    async with (
        storage.driver.lock("name", exclusive=False, wait=0),
        storage.driver.lock("name", exclusive=False, wait=0),
        storage.other.lock("name", exclusive=False, wait=0),
    ):
        with pytest.raises(Busy):
            async with storage.other.lock("name", exclusive=True, wait=0):
                pass


async def test_a_shared_lock_is_held_until_the_last_one_gives_it_up(storage: Storage) -> None:
    async with storage.driver.lock("name", exclusive=False, wait=0):
        async with storage.other.lock("name", exclusive=False, wait=0):
            pass
        with pytest.raises(Busy):
            async with storage.other.lock("name", exclusive=True, wait=0):
                pass


async def test_locks_with_different_names_are_independent(storage: Storage) -> None:
    async with (
        storage.driver.lock("a", exclusive=True, wait=0),
        storage.other.lock("b", exclusive=True, wait=0),
    ):
        pass


async def test_a_lock_ends_with_its_block_even_by_an_error(storage: Storage) -> None:
    with pytest.raises(KeyError):
        async with storage.driver.lock("name", exclusive=True, wait=0):
            raise KeyError

    async with storage.other.lock("name", exclusive=True, wait=0):
        pass


async def test_a_lock_is_waited_for(storage: Storage) -> None:
    order = []

    async def wait() -> None:
        async with storage.other.lock("name", exclusive=True, wait=30):
            order.append("second")

    async with storage.driver.lock("name", exclusive=True, wait=0):
        waiting = asyncio.ensure_future(wait())
        for _ in range(5):
            await asyncio.sleep(0)
        order.append("first")
    await waiting

    assert order == ["first", "second"]


async def test_a_cancelled_wait_leaves_the_lock_free(storage: Storage) -> None:
    async def wait() -> None:
        async with storage.other.lock("name", exclusive=True, wait=30):
            pass

    async with storage.driver.lock("name", exclusive=True, wait=0):
        waiting = asyncio.ensure_future(wait())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    async with storage.driver.lock("name", exclusive=True, wait=0):
        pass


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "/a", "a\0", "a" * 256], ids=lambda name: ascii(name[:8])
)
async def test_a_lock_has_the_name_of_a_path_component(driver: StorageDriver, name: str) -> None:
    with pytest.raises(InvalidPath):
        async with driver.lock(name, exclusive=False, wait=0):
            pass


@pytest.mark.not_of_buckets("nothing tells of a change")
async def test_the_fingerprint_changes_when_a_child_comes_or_goes(storage: Storage) -> None:
    await write(storage.driver, "/d/a")
    seen = [await settled_fingerprint(storage, 1)]
    for turn in range(2, 6):
        if turn % 2:
            await storage.other.delete("/d/b")
        else:
            await write(storage.other, "/d/b")
        fresh = await storage.driver.fingerprint("/d")
        assert fresh is None or fresh not in seen
        seen.append(await settled_fingerprint(storage, turn))

    assert None not in seen
    assert len(set(seen)) == len(seen)


@pytest.mark.not_of_buckets("nothing tells of a change")
async def test_the_fingerprint_stays_while_nothing_changes(storage: Storage) -> None:
    await write(storage.driver, "/d/a", "/d/b")

    first = await settled_fingerprint(storage, 1)

    assert first is not None
    assert await storage.driver.fingerprint("/d") == first


async def settled_fingerprint(storage: Storage, seconds: int) -> str | None:
    """Return the fingerprint as it is when nothing has changed for a while."""
    if storage.root is not None:
        os.utime(storage.root / "d", (seconds, seconds))
    return await storage.driver.fingerprint("/d")


@pytest.mark.parametrize("writes", [False, True], ids=["reading", "writing"])
async def test_a_storage_that_works_passes_its_check(
    driver: StorageDriver, *, writes: bool
) -> None:
    await write(driver, "/a/b")

    await driver.check(write=writes)

    assert await driver.names("/a") == ["b"]


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "a",
        "a/b",
        "/a/",
        "//a",
        "/a//b",
        "/.",
        "/..",
        "/a/..",
        "/a/../a",
        "/./a",
        "/a\0",
        "/a\n",
        "/a b",
        "/a:b",
        "/a\\b",
        "/\u00e4",
        "/\udcff",
        "/" + "a" * 256,
        "/a" * 2000,
    ],
    ids=lambda path: ascii(path[:8]),
)
async def test_what_is_no_path_is_refused(driver: StorageDriver, path: str) -> None:
    await write(driver, "/a")

    for operation in OPERATIONS.values():
        with pytest.raises(InvalidPath):
            await operation(driver, path)

    assert await driver.read("/a") == b"x"
