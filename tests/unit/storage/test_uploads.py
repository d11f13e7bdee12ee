"""Upload sessions: whoever goes on with one, the blob is what was sent or there is none."""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from typing_extensions import override

from alauda_registry.oci.digest import Algorithm, Digest
from alauda_registry.oci.errors import (
    BlobUnknown,
    BlobUploadOutOfOrder,
    BlobUploadUnknown,
    DigestInvalid,
    SizeInvalid,
)
from alauda_registry.storage import paths
from alauda_registry.storage.driver import (
    FileWriter,
    OutOfSpace,
    PathNotFound,
    StorageDriver,
    Write,
)
from alauda_registry.storage.repositories import Registry, Repository
from alauda_registry.storage.uploads import BLOCK, Piece, UploadSession
from tests.contract.conftest import Storage
from tests.unit.storage.pushing import NAME, Body, piece, push_blob, read_blob
from tests.unit.storage.watching import FailingDriver, ImpatientDriver, WatchedDriver

pytestmark = pytest.mark.anyio

BIG = bytes(range(256)) * 12_000
"""About six blocks, and no whole number of them."""

ROOT = "/docker/registry/v2"
UPLOADS = f"{ROOT}/repositories/{NAME}/_uploads"


def cut(content: bytes, size: int) -> list[bytes]:
    return [content[start : start + size] for start in range(0, len(content), size)]


async def assert_over(repository: Repository, upload_id: str) -> None:
    with pytest.raises(BlobUploadUnknown) as caught:
        await repository.uploads.resume(upload_id)
    assert caught.value.detail == {"upload": upload_id}


async def send(session: UploadSession, body: Piece, digest: Digest | None) -> None:
    """Send the last piece when there is a digest, and one before it when there is none."""
    if digest is None:
        await session.append(body)
    else:
        await session.commit(digest, body)


async def assert_nothing_uploaded(driver: StorageDriver) -> None:
    found = [info.path async for info in driver.walk(UPLOADS)]
    assert found == []


async def test_a_session_begins_empty_and_is_found_by_every_process(
    repository: Repository, elsewhere: Repository
) -> None:
    session = await repository.uploads.start()

    resumed = await elsewhere.uploads.resume(session.id)

    assert session.size == 0
    assert (resumed.id, resumed.size) == (session.id, 0)


async def test_a_session_is_kept_where_distribution_keeps_its_own(
    repository: Repository, driver: StorageDriver
) -> None:
    session = await repository.uploads.start()
    await session.append(piece(b"bytes"))
    started_at = (await driver.read(f"{UPLOADS}/{session.id}/startedat")).decode()

    assert await driver.read(f"{UPLOADS}/{session.id}/data") == b"bytes"
    age = datetime.now(UTC) - datetime.strptime(started_at, "%Y-%m-%dT%H:%M:%S%z")
    assert 0 <= age.total_seconds() < 60


@pytest.mark.parametrize("digest", [None, Digest.of(b"all of it")], ids=["piece", "last"])
async def test_what_a_client_left_behind_can_be_expired_by_distribution(
    repository: Repository, driver: StorageDriver, digest: Digest | None
) -> None:
    session = await repository.uploads.start()

    with pytest.raises(ConnectionError):
        await send(session, piece(b"all of", error=ConnectionError()), digest)

    files = sorted([info.path async for info in driver.walk(UPLOADS)])
    assert files == [f"{UPLOADS}/{session.id}/{name}" for name in ("data", "startedat")]


@pytest.mark.parametrize("algorithm", list(Algorithm))
@pytest.mark.parametrize("size", [1000, 65_536, BLOCK, BLOCK + 1, len(BIG)])
async def test_pieces_become_a_blob(
    repository: Repository, driver: StorageDriver, size: int, algorithm: Algorithm
) -> None:
    digest = Digest.of(BIG, algorithm)
    session = await repository.uploads.start(algorithm=algorithm)

    arrived = 0
    for part in cut(BIG, size * 3):
        resumed = await repository.uploads.resume(session.id)
        arrived += len(part)
        assert await resumed.append(piece(*cut(part, size))) == arrived
        assert resumed.size == arrived
    await (await repository.uploads.resume(session.id)).commit(digest)

    assert await read_blob(repository, digest) == BIG
    await assert_over(repository, session.id)
    await assert_nothing_uploaded(driver)


async def test_the_last_piece_may_come_with_the_digest(repository: Repository) -> None:
    digest = Digest.of(b"first and last")
    session = await repository.uploads.start()
    await session.append(piece(b"first and "))

    await session.commit(digest, piece(b"last", start=10, length=4))

    assert await read_blob(repository, digest) == b"first and last"


@pytest.mark.parametrize("algorithm", list(Algorithm))
async def test_a_blob_may_be_empty(repository: Repository, algorithm: Algorithm) -> None:
    digest = Digest.of(b"", algorithm)
    session = await repository.uploads.start()

    await session.commit(digest)

    assert await read_blob(repository, digest) == b""


async def test_an_empty_piece_changes_nothing(repository: Repository) -> None:
    session = await repository.uploads.start()
    await session.append(piece(b"bytes"))

    assert await session.append(piece()) == 5
    assert await session.append(piece(b"", start=5, length=0)) == 5
    await session.commit(Digest.of(b"bytes"), piece())

    assert await read_blob(repository, Digest.of(b"bytes")) == b"bytes"


async def test_the_bytes_are_not_read_again_by_the_process_they_went_through(
    driver: StorageDriver,
) -> None:
    watched = WatchedDriver(driver)
    repository = Registry(watched).repository(NAME)
    session = await repository.uploads.start()
    for part in cut(BIG, 1_000_000):
        await (await repository.uploads.resume(session.id)).append(piece(part))

    await session.commit(Digest.of(BIG))

    assert [call for call in watched.calls if call[0] in {"read back", "open"}] == []
    assert await read_blob(repository, Digest.of(BIG)) == BIG


async def test_another_process_finishes_without_reading_the_bytes_again(
    storage: Storage,
) -> None:
    repository = Registry(storage.driver).repository(NAME)
    watched = WatchedDriver(storage.other)
    elsewhere = Registry(watched).repository(NAME)
    session = await repository.uploads.start()
    await session.append(piece(BIG[:100]))
    await session.append(piece(*cut(BIG[100:], 65_536)))

    await (await elsewhere.uploads.resume(session.id)).commit(Digest.of(BIG))

    assert [call for call in watched.calls if call[0] in {"read back", "open"}] == []
    assert await read_blob(repository, Digest.of(BIG)) == BIG


async def test_another_process_finds_out_that_the_digest_is_wrong(
    repository: Repository, elsewhere: Repository
) -> None:
    session = await repository.uploads.start()
    await session.append(piece(b"something"))

    with pytest.raises(DigestInvalid):
        await (await elsewhere.uploads.resume(session.id)).commit(Digest.of(b"something else"))

    await assert_over(repository, session.id)


async def test_processes_may_take_turns(repository: Repository, elsewhere: Repository) -> None:
    session = await repository.uploads.start()
    for turn, part in enumerate(cut(BIG, 300_000)):
        process = (repository, elsewhere)[turn % 2]
        await (await process.uploads.resume(session.id)).append(piece(part))

    await (await elsewhere.uploads.resume(session.id)).commit(Digest.of(BIG))

    assert await read_blob(repository, Digest.of(BIG)) == BIG


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"nonsense",
        b"[]",
        b"{}",
        b"\xff",
        b'{"offset":5,"boot":"another","digests":["sha256:' + b"0" * 64 + b'"]}',
        b'{"offset":5,"boot":null,"digests":["sha256:' + b"0" * 64 + b'"]}',
        b'{"offset":4,"boot":"","digests":[7]}',
    ],
    ids=["empty", "word", "list", "no fields", "binary", "other boot", "no boot", "wrong type"],
)
async def test_stored_digests_that_cannot_be_trusted_are_passed_by(
    repository: Repository, elsewhere: Repository, driver: StorageDriver, stored: bytes
) -> None:
    session = await repository.uploads.start()
    await session.append(piece(b"bytes"))
    await driver.publish(Write(f"{UPLOADS}/{session.id}/digests", stored))

    await (await elsewhere.uploads.resume(session.id)).commit(Digest.of(b"bytes"))

    assert await read_blob(repository, Digest.of(b"bytes")) == b"bytes"


async def test_a_digest_by_an_algorithm_that_was_not_announced_is_right_all_the_same(
    repository: Repository, elsewhere: Repository
) -> None:
    digest = Digest.of(BIG, Algorithm.SHA512)
    for process in (repository, elsewhere):
        session = await repository.uploads.start()
        await session.append(piece(BIG))

        await (await process.uploads.resume(session.id)).commit(digest)

        assert await read_blob(process, digest) == BIG
        await process.blobs.delete(digest)


async def test_a_whole_blob_with_a_sha512_digest_is_hashed_once(driver: StorageDriver) -> None:
    watched = WatchedDriver(driver)
    repository = Registry(watched).repository(NAME)
    digest = Digest.of(BIG, Algorithm.SHA512)
    session = await repository.uploads.start()

    await session.commit(digest, piece(BIG))

    assert [call for call in watched.calls if call[0] in {"read back", "open"}] == []
    assert await read_blob(repository, digest) == BIG


@pytest.mark.parametrize("start", [0, 4, 6, 2**63])
@pytest.mark.parametrize("last", [False, True], ids=["append", "commit"])
async def test_a_piece_out_of_order_is_refused_before_any_of_it_is_read(
    repository: Repository, start: int, *, last: bool
) -> None:
    session = await repository.uploads.start()
    await session.append(piece(b"01234"))
    body = Body(b"56789")

    with pytest.raises(BlobUploadOutOfOrder) as caught:
        await send(session, Piece(body, start), Digest.of(b"0123456789") if last else None)

    assert body.asked == 0
    assert caught.value.detail == {"upload": session.id, "expected": "5"}
    assert await session.append(piece(b"56789", start=5)) == 10
    await session.commit(Digest.of(b"0123456789"))
    assert await read_blob(repository, Digest.of(b"0123456789")) == b"0123456789"


@pytest.mark.parametrize("length", [0, 1, len(BIG) - 1, len(BIG) + 1], ids=str)
@pytest.mark.parametrize("last", [False, True], ids=["append", "commit"])
async def test_a_piece_of_another_length_than_announced_is_taken_back(
    repository: Repository, driver: StorageDriver, length: int, *, last: bool
) -> None:
    content = b"first" + BIG
    session = await repository.uploads.start()
    await session.append(piece(b"first"))

    sent = piece(*cut(BIG, 70_000), length=length)
    with pytest.raises(SizeInvalid):
        await send(session, sent, Digest.of(content) if last else None)

    assert (await repository.uploads.resume(session.id)).size == 5
    assert (await driver.stat(paths.upload_data(NAME, session.id))).size == 5
    assert await session.append(piece(BIG, start=5, length=len(BIG))) == len(content)
    await session.commit(Digest.of(content))
    assert await read_blob(repository, Digest.of(content)) == content


async def test_a_digest_that_does_not_match_ends_the_session(
    repository: Repository, driver: StorageDriver
) -> None:
    session = await repository.uploads.start()
    await session.append(piece(b"something"))
    claimed = Digest.of(b"something else")

    with pytest.raises(DigestInvalid) as caught:
        await session.commit(claimed)

    assert caught.value.detail == {"digest": str(claimed)}
    await assert_over(repository, session.id)
    await assert_nothing_uploaded(driver)
    for digest in (claimed, Digest.of(b"something")):
        with pytest.raises(BlobUnknown):
            await repository.blobs.stat(digest)


@pytest.mark.parametrize(
    "upload_id",
    [
        "",
        ".",
        "..",
        "../../x",
        "x" * 300,
        "../" * 300,
        "00000000-0000-4000-8000-000000000000",
        "{id}/../{id}",
        "{{{id}}}",
        "urn:uuid:{id}",
        "{upper}",
        "{short}",
        "{id}\0",
        "{id}\n",
        " {id}",
    ],
    ids=lambda upload_id: repr(upload_id[:12]),
)
async def test_a_session_that_never_was_is_unknown(repository: Repository, upload_id: str) -> None:
    session = await repository.uploads.start()
    known = session.id

    await assert_over(
        repository,
        upload_id.format(id=known, upper=known.upper() + "A", short=known.replace("-", "")),
    )


async def test_a_session_of_another_repository_is_unknown(
    repository: Repository, another: Repository
) -> None:
    session = await repository.uploads.start()

    await assert_over(another, session.id)


async def test_two_writers_at_once_are_one_too_many(driver: StorageDriver) -> None:
    repository = Registry(ImpatientDriver(driver)).repository(NAME)
    session = await repository.uploads.start()
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def wait(_: int) -> None:
        arrived.set()
        await go_on.wait()

    first = asyncio.ensure_future(session.append(Piece(Body(b"first", on_ask=wait))))
    await arrived.wait()
    body = Body(b"second")
    with pytest.raises(BlobUploadOutOfOrder):
        await (await repository.uploads.resume(session.id)).append(Piece(body))
    with pytest.raises(BlobUploadOutOfOrder):
        await (await repository.uploads.resume(session.id)).commit(Digest.of(b""))
    go_on.set()

    assert await first == 5
    assert body.asked == 0
    await session.commit(Digest.of(b"first"))
    assert await read_blob(repository, Digest.of(b"first")) == b"first"


async def test_a_second_writer_waits_for_the_first(repository: Repository) -> None:
    session = await repository.uploads.start()

    sizes = await asyncio.gather(*(session.append(piece(b"12345")) for _ in range(5)))

    assert sorted(sizes) == [5, 10, 15, 20, 25]
    await session.commit(Digest.of(b"12345" * 5))


async def test_a_cancelled_session_is_over(repository: Repository, driver: StorageDriver) -> None:
    session = await repository.uploads.start()
    await session.append(piece(b"bytes"))

    await session.cancel()

    await assert_over(repository, session.id)
    await assert_nothing_uploaded(driver)
    for end in (session.cancel, lambda: session.commit(Digest.of(b"bytes"))):
        with pytest.raises(BlobUploadUnknown):
            await end()
    with pytest.raises(BlobUploadUnknown):
        await session.append(piece(b"more"))


async def test_a_session_cancelled_while_bytes_arrive_makes_no_blob(
    repository: Repository, elsewhere: Repository, driver: StorageDriver
) -> None:
    session = await repository.uploads.start()
    digest = Digest.of(BIG)

    async def cancel(asked: int) -> None:
        if asked == 20:
            await (await elsewhere.uploads.resume(session.id)).cancel()

    with pytest.raises(BlobUploadUnknown):
        await session.commit(digest, Piece(Body(*cut(BIG, 65_536), on_ask=cancel)))

    await assert_over(repository, session.id)
    await assert_nothing_uploaded(driver)
    with pytest.raises(BlobUnknown):
        await repository.blobs.stat(digest)


async def test_nothing_remains_of_a_session_cancelled_while_a_piece_arrives(
    repository: Repository, elsewhere: Repository, driver: StorageDriver
) -> None:
    session = await repository.uploads.start()

    async def cancel(asked: int) -> None:
        if asked == 20:
            await (await elsewhere.uploads.resume(session.id)).cancel()

    with suppress(BlobUploadUnknown):
        await session.append(Piece(Body(*cut(BIG, 65_536), on_ask=cancel)))

    await assert_over(repository, session.id)
    await assert_nothing_uploaded(driver)


async def test_what_arrived_before_a_client_broke_off_is_kept(
    repository: Repository, elsewhere: Repository
) -> None:
    for process in (repository, elsewhere):
        session = await repository.uploads.start()
        await session.append(piece(BIG[:1000]))
        with pytest.raises(ConnectionResetError):
            await session.append(
                piece(*cut(BIG[1000:2_000_000], 65_536), error=ConnectionResetError())
            )

        resumed = await process.uploads.resume(session.id)
        assert resumed.size == 2_000_000
        await resumed.append(piece(BIG[resumed.size :], start=resumed.size))
        await resumed.commit(Digest.of(BIG))

        assert await read_blob(process, Digest.of(BIG)) == BIG


@pytest.mark.parametrize("last", [False, True], ids=["append", "commit"])
async def test_a_cancelled_request_leaves_a_session_that_goes_on(
    repository: Repository, *, last: bool
) -> None:
    digest = Digest.of(BIG)
    for stop in (1, 9, 10, 25):
        session = await repository.uploads.start()
        reached = asyncio.Event()

        async def stick(asked: int, stop: int = stop, reached: asyncio.Event = reached) -> None:
            if asked == stop:
                reached.set()
                await asyncio.Event().wait()

        body = Piece(Body(*cut(BIG, 65_536), on_ask=stick))
        request = asyncio.ensure_future(send(session, body, digest if last else None))
        await reached.wait()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request

        resumed = await repository.uploads.resume(session.id)
        assert resumed.size <= stop * 65_536
        await resumed.append(piece(BIG[resumed.size :], start=resumed.size))
        await resumed.commit(digest)
        assert await read_blob(repository, digest) == BIG
        await repository.blobs.delete(digest)


async def test_a_request_cancelled_at_any_moment_loses_no_byte(repository: Repository) -> None:
    digest = Digest.of(BIG)
    for turns in range(0, 60, 3):
        session = await repository.uploads.start()
        request = asyncio.ensure_future(session.append(piece(*cut(BIG, 300_000))))
        for _ in range(turns):
            await asyncio.sleep(0)
        request.cancel()
        with suppress(asyncio.CancelledError):
            await request

        resumed = await repository.uploads.resume(session.id)
        await resumed.append(piece(BIG[resumed.size :]))
        await resumed.commit(digest)

        assert await read_blob(repository, digest) == BIG
        await repository.blobs.delete(digest)


@pytest.mark.parametrize("failing", ["write to", "sync"])
async def test_a_full_disk_takes_no_part_of_a_piece_and_the_session_goes_on(
    driver: StorageDriver, failing: str
) -> None:
    broken = FailingDriver(driver)
    repository = Registry(broken).repository(NAME)
    session = await repository.uploads.start()
    await session.append(piece(b"first"))
    broken.error = lambda operation, path: (
        OutOfSpace(driver="test", path=path) if operation == failing else None
    )

    with pytest.raises(OutOfSpace):
        await session.append(piece(*cut(BIG, 65_536)))
    broken.error = lambda operation, path: None

    resumed = await repository.uploads.resume(session.id)
    assert resumed.size in ({5} if failing == "write to" else {5, 5 + len(BIG)})
    await resumed.append(piece((b"first" + BIG)[resumed.size :]))
    await resumed.commit(Digest.of(b"first" + BIG))
    assert await read_blob(repository, Digest.of(b"first" + BIG)) == b"first" + BIG


async def test_a_session_that_cannot_begin_leaves_nothing_behind(driver: StorageDriver) -> None:
    class FullDriver(WatchedDriver):
        @override
        async def append(self, path: str, *, create: bool, wait: float) -> FileWriter:
            await (await super().append(path, create=create, wait=wait)).close()
            raise OutOfSpace(driver="test", path=path)

    with pytest.raises(OutOfSpace):
        await Registry(FullDriver(driver)).repository(NAME).uploads.start()

    await assert_nothing_uploaded(driver)


async def test_a_commit_that_could_not_be_written_can_be_tried_again(
    driver: StorageDriver,
) -> None:
    broken = FailingDriver(driver)
    repository = Registry(broken).repository(NAME)
    session = await repository.uploads.start()
    await session.append(piece(BIG))
    broken.error = lambda operation, path: (
        OutOfSpace(driver="test", path=path) if operation == "move" else None
    )
    with pytest.raises(OutOfSpace):
        await session.commit(Digest.of(BIG))
    broken.error = lambda operation, path: None

    await session.commit(Digest.of(BIG))

    assert await read_blob(repository, Digest.of(BIG)) == BIG


@pytest.mark.parametrize("failing", ["sync", "move"])
async def test_a_session_ends_when_its_bytes_may_be_lost(
    driver: StorageDriver, failing: str
) -> None:
    broken = FailingDriver(driver)
    repository = Registry(broken).repository(NAME)
    session = await repository.uploads.start()
    lost = OutOfSpace(driver="test", path="/")
    lost.loses_bytes = True
    broken.error = lambda operation, path: lost if operation == failing else None

    async def upload() -> None:
        await session.append(piece(BIG))
        await session.commit(Digest.of(BIG))

    with pytest.raises(OutOfSpace):
        await upload()

    broken.error = lambda operation, path: None
    with pytest.raises(BlobUploadUnknown):
        await repository.uploads.resume(session.id)


async def test_the_same_blob_can_be_pushed_by_many_at_once(
    repository: Repository, another: Repository, elsewhere: Repository
) -> None:
    pushers = [repository, another, elsewhere] * 3

    await asyncio.gather(*(push_blob(pusher, BIG) for pusher in pushers))

    for pusher in pushers:
        assert await read_blob(pusher, Digest.of(BIG)) == BIG


async def test_a_session_that_distribution_began_can_be_finished(
    repository: Repository, driver: StorageDriver
) -> None:
    folder = f"{UPLOADS}/3f2504e0-4f89-41d3-9a0c-0305e82c3301"
    await driver.publish(
        Write(f"{folder}/startedat", b"2024-01-01T00:00:00Z"),
        Write(f"{folder}/hashstates/sha256/5", b"a state of Go's"),
        Write(f"{folder}/data", b"bytes"),
    )

    session = await repository.uploads.resume("3f2504e0-4f89-41d3-9a0c-0305e82c3301")
    await session.commit(Digest.of(b"bytes and more"), piece(b" and more", start=5))

    assert await read_blob(repository, Digest.of(b"bytes and more")) == b"bytes and more"
    with pytest.raises(PathNotFound):
        await driver.names(folder)
