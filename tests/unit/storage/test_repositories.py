"""The registry as a whole: its catalog, idle uploads, the shared secret and its health."""

import asyncio
import os
from contextlib import aclosing
from datetime import timedelta

import pytest
from typing_extensions import override

from alauda_registry.oci.digest import Digest
from alauda_registry.oci.errors import BlobUploadUnknown
from alauda_registry.oci.reference import RepositoryName
from alauda_registry.storage import paths
from alauda_registry.storage.driver import (
    Capacity,
    OutOfSpace,
    ReadOnlyFileSystem,
    StorageDriver,
    Unreachable,
    Write,
)
from alauda_registry.storage.repositories import Health, Registry, StorageOptions
from alauda_registry.storage.uploads import Piece, UploadSession
from tests.contract.conftest import Storage
from tests.unit.storage.pushing import NAME, Body, index, piece, push_blob, put, read_blob
from tests.unit.storage.watching import FailingDriver, WatchedDriver, writes

pytestmark = pytest.mark.anyio

ROOM = Capacity(1000, 300, 100)
NAMES = [
    "a",
    "a/b",
    "a/b/c",
    "a/b-c",
    "a-b",
    "a.b",
    "a/a",
    "a0",
    "aa",
    "aa/b",
    "a_b",
    "0",
    "z/y/x/w",
    "z/y-x",
    "library/alpine",
    "library/alpine-git",
]
"""Names that are beginnings of one another, where byte order and catalog order differ."""

ORDERED = sorted(NAMES, key=lambda name: name.split("/"))
ROOT = "/docker/registry/v2"
REPOSITORIES = f"{ROOT}/repositories"


async def push_all(registry: Registry, *names: str) -> None:
    for name in names:
        await put(registry.repository(RepositoryName.parse(name)), index())


async def catalog(registry: Registry) -> list[str]:
    page = await registry.catalog(limit=1000)
    assert not page.more
    return page.names


async def test_an_empty_registry_has_an_empty_catalog(registry: Registry) -> None:
    assert await catalog(registry) == []


async def test_the_catalog_takes_the_slash_as_the_lowest_character(registry: Registry) -> None:
    await push_all(registry, "a.b", "a-b", "a/b", "a")

    assert await catalog(registry) == ["a", "a/b", "a-b", "a.b"]


@pytest.mark.parametrize("limit", [1, 2, 3, 7, len(NAMES) - 1, len(NAMES), 100])
async def test_pages_of_the_catalog_put_together_are_all_names(
    registry: Registry, limit: int
) -> None:
    await push_all(registry, *NAMES)

    found: list[str] = []
    more = True
    while more:
        page = await registry.catalog(after=found[-1] if found else "", limit=limit)
        assert 0 < len(page.names) <= limit
        found += page.names
        more = page.more

    assert found == ORDERED


@pytest.mark.parametrize(
    "after",
    ["a/", "a/b/", "a/aaa", "a/b/c/d", "a/z", "a-", "b", "A", "/", "//", "a//b", "~", " ", "é\0"],
)
async def test_a_page_begins_behind_any_text(registry: Registry, after: str) -> None:
    await push_all(registry, *NAMES)

    page = await registry.catalog(after=after, limit=100)

    assert page.names == [name for name in ORDERED if name.split("/") > after.split("/")]


async def test_a_repository_that_only_has_blobs_or_uploads_is_not_in_the_catalog(
    registry: Registry,
) -> None:
    await push_blob(registry.repository(RepositoryName("only/blobs")), b"blob")
    await registry.repository(RepositoryName("only/uploads")).uploads.start()
    await push_all(registry, "only/manifests")

    assert await catalog(registry) == ["only/manifests"]


STRAY = [
    f"{ROOT}/stray",
    f"{REPOSITORIES}/stray",
    f"{REPOSITORIES}/.hidden/_manifests/revisions/sha256/x/link",
    f"{REPOSITORIES}/Upper/_manifests/revisions/sha256/x/link",
    f"{REPOSITORIES}/UPPER/lower/_manifests/revisions/sha256/x/link",
    f"{REPOSITORIES}/-dash/_manifests/revisions/sha256/x/link",
    f"{REPOSITORIES}/a/b--/_manifests/revisions/sha256/x/link",
    f"{REPOSITORIES}/a/stray.tmp",
    f"{REPOSITORIES}/_trash/name/_manifests/revisions/sha256/x/link",
    f"{REPOSITORIES}/name/_trash/_manifests/revisions/sha256/x/link",
    f"{REPOSITORIES}/lost.found/stray",
    f"{REPOSITORIES}/{'/'.join(['long' * 20] * 4)}/_manifests/revisions/sha256/x/link",
]


async def test_stray_files_and_folders_are_passed_by(
    registry: Registry, driver: StorageDriver
) -> None:
    await push_all(registry, *NAMES)
    await driver.publish(*(Write(path, b"stray") for path in STRAY))

    assert await catalog(registry) == ORDERED
    assert await registry.expire_uploads() == 0


async def test_a_catalog_that_is_not_read_to_its_end_holds_nothing_open(
    registry: Registry,
) -> None:
    await push_all(registry, *NAMES)

    async with aclosing(registry.names()) as names:
        first = await anext(names)

    assert first == ORDERED[0]


async def test_a_page_touches_only_the_folders_up_to_its_end(driver: StorageDriver) -> None:
    watched = WatchedDriver(driver)
    registry = Registry(watched)
    await push_all(registry, *NAMES)
    watched.take()

    page = await registry.catalog(after="a/a", limit=2)

    assert page.names == ["a/b", "a/b/c"]
    touched = [path.removeprefix(REPOSITORIES) for _, path in watched.take()]
    assert touched == ["", "/a", "/a/a", "/a/b", "/a/b/c", "/a/b-c"]


ON_DISK = pytest.mark.parametrize("storage", ["filesystem"], indirect=True)
"""What is in a dictionary can't be made to look old."""


def age(storage: Storage, session: UploadSession, by: timedelta) -> None:
    """Let a session look as if nobody had written to it for so long."""
    assert storage.root is not None
    folder = storage.root / paths.upload(NAME, session.id)[1:]
    for path in folder.iterdir():
        modified_at = path.stat().st_mtime - by.total_seconds()
        os.utime(path, (modified_at, modified_at))


@ON_DISK
async def test_idle_uploads_are_removed_and_others_stay(
    registry: Registry, storage: Storage
) -> None:
    repository = registry.repository(NAME)
    idle, fresh = await repository.uploads.start(), await repository.uploads.start()
    older = await repository.uploads.start()
    await older.append(piece(b"bytes"))
    for session in (idle, older):
        age(storage, session, timedelta(hours=25))
    age(storage, fresh, timedelta(hours=23))

    assert await registry.expire_uploads() == 2

    assert (await repository.uploads.resume(fresh.id)).size == 0
    for session in (idle, older):
        with pytest.raises(BlobUploadUnknown):
            await repository.uploads.resume(session.id)
    assert await storage.driver.names(paths.uploads(NAME)) == [fresh.id]


@ON_DISK
async def test_an_upload_that_somebody_writes_to_is_not_idle(
    registry: Registry, storage: Storage
) -> None:
    repository = registry.repository(NAME)
    session = await repository.uploads.start()
    expired = []

    async def expire(asked: int) -> None:
        age(storage, session, timedelta(hours=48))
        expired.append(await Registry(storage.other).expire_uploads())

    await session.append(Piece(Body(b"slow", b"ly", on_ask=expire)))
    await session.commit(Digest.of(b"slowly"))

    assert expired == [0, 0, 0]
    assert await read_blob(repository, Digest.of(b"slowly")) == b"slowly"


async def test_how_long_an_upload_may_be_idle_can_be_set(storage: Storage) -> None:
    registry = Registry(storage.driver, StorageOptions(upload_age=timedelta(0)))
    other = Registry(storage.other, StorageOptions(upload_age=timedelta(days=9)))
    for name in ("a", "a/b", "c"):
        await registry.repository(RepositoryName(name)).uploads.start()

    assert await other.expire_uploads() == 0
    assert await registry.expire_uploads() == 3
    assert await registry.expire_uploads() == 0


async def test_what_a_crash_left_of_an_upload_is_removed(storage: Storage) -> None:
    registry = Registry(storage.driver, StorageOptions(upload_age=timedelta(0)))
    await storage.driver.publish(
        Write(f"{paths.upload(NAME, 'without-data')}/startedat", b"2024-01-01T00:00:00Z"),
        Write(f"{paths.upload(NAME, 'with-states')}/hashstates/sha256/0", b"x"),
        Write(f"{paths.upload(NAME, 'with-states')}/data", b"x"),
    )

    assert await registry.expire_uploads() == 2

    assert [info.path async for info in storage.driver.walk(paths.uploads(NAME))] == []


@ON_DISK
async def test_an_empty_folder_that_a_power_cut_left_of_an_upload_is_removed(
    registry: Registry, storage: Storage
) -> None:
    assert storage.root is not None
    left, new = (storage.root / paths.upload(NAME, name)[1:] for name in ("left", "new"))
    left.mkdir(parents=True)
    new.mkdir()
    os.utime(left, (0, 0))

    assert await registry.expire_uploads() == 1

    assert [folder.exists() for folder in (left, new)] == [False, True]


async def test_only_one_process_at_a_time_removes_idle_uploads(storage: Storage) -> None:
    options = StorageOptions(upload_age=timedelta(0))
    first, second = Registry(storage.driver, options), Registry(storage.other, options)
    await first.repository(NAME).uploads.start()

    async with storage.other.lock("expire-uploads", exclusive=True, wait=0):
        assert await first.expire_uploads() == 0

    assert sorted(await asyncio.gather(first.expire_uploads(), second.expire_uploads())) == [0, 1]


async def test_the_secret_is_made_once_and_shared_by_all_processes(storage: Storage) -> None:
    registries = [Registry(storage.driver), Registry(storage.other)] * 4

    secrets = await asyncio.gather(*(registry.secret() for registry in registries))

    assert len(set(secrets)) == 1
    assert len(secrets[0]) == 32
    assert await Registry(storage.other).secret() == secrets[0]


async def test_the_secrets_of_two_storages_differ(storage: Storage) -> None:
    first = await Registry(storage.driver).secret()
    await storage.driver.delete(paths.SECRET)

    assert await Registry(storage.driver).secret() != first


@pytest.mark.parametrize("torn", [b"", b"x" * 31], ids=["empty", "too short"])
async def test_a_secret_that_a_crash_tore_is_replaced(
    registry: Registry, driver: StorageDriver, torn: bytes
) -> None:
    await driver.publish(Write(paths.SECRET, torn))

    secret = await registry.secret()

    assert len(secret) == 32
    assert await driver.read(paths.SECRET) == secret


async def test_a_storage_that_works_is_healthy(registry: Registry) -> None:
    health = await registry.health()

    assert health == Health(ready=True, capacity=health.capacity)


async def test_a_registry_that_is_told_to_be_read_only_does_not_try_to_write(
    driver: StorageDriver,
) -> None:
    watched = WatchedDriver(driver)
    registry = Registry(watched, StorageOptions(read_only=True))

    health = await registry.health()

    assert (health.ready, health.degraded) == (True, "read-only")
    assert health.message
    assert watched.calls == [("check", "read"), ("capacity", "/")]
    assert writes(watched.calls) == []


@pytest.mark.parametrize(
    ("error", "ready", "degraded"),
    [
        (OutOfSpace(driver="test", path="/"), True, "full"),
        (ReadOnlyFileSystem(driver="test", path="/"), False, None),
        (Unreachable("stale file handle", driver="test", path="/"), False, None),
    ],
    ids=["full", "read-only", "gone"],
)
async def test_trouble_with_the_storage_shows_in_its_health(
    driver: StorageDriver, error: Exception, ready: bool, degraded: str | None
) -> None:
    broken = FailingDriver(driver)
    broken.error = lambda operation, path: error

    health = await Registry(broken).health()

    assert (health.ready, health.degraded) == (ready, degraded)
    assert health.message


class RoomyDriver(WatchedDriver):
    """Has this much room."""

    @override
    async def capacity(self) -> Capacity | None:
        await super().capacity()
        return ROOM


async def test_the_health_says_how_much_room_there_is(driver: StorageDriver) -> None:
    for options in (StorageOptions(), StorageOptions(read_only=True)):
        assert (await Registry(RoomyDriver(driver), options).health()).capacity == ROOM


async def test_a_full_storage_says_what_is_full_and_how_much_room_there_is(
    driver: StorageDriver,
) -> None:
    broken = FailingDriver(RoomyDriver(driver))
    full = OutOfSpace(driver="test", path="/", advice="the claim a is full: enlarge it")
    broken.error = lambda operation, path: full if operation == "check" else None

    health = await Registry(broken).health()

    assert (health.ready, health.degraded, health.capacity) == (True, "full", ROOM)
    assert health.message == (
        "pulls and deletes go on, pushes fail: the claim a is full: enlarge it"
    )


async def test_a_storage_that_does_not_say_its_room_is_healthy_all_the_same(
    driver: StorageDriver,
) -> None:
    broken = FailingDriver(driver)
    gone = Unreachable("stale file handle", driver="test", path="/")
    broken.error = lambda operation, path: gone if operation == "capacity" else None

    health = await Registry(broken).health()

    assert (health.ready, health.degraded, health.capacity) == (True, None, None)


async def test_a_repository_object_is_good_for_as_long_as_anyone_keeps_it(
    registry: Registry,
) -> None:
    kept = registry.repository(NAME)
    digest = await push_blob(kept, b"blob")
    for number in range(5000):
        registry.repository(RepositoryName(f"name-{number}"))

    assert await read_blob(registry.repository(NAME), digest) == b"blob"
    assert await read_blob(kept, digest) == b"blob"
