"""What a file server does and a disk does not: stale handles, lost answers, silly names, no locks.

There is none here, so the calls of the storage are answered as one would answer them.
"""

import contextlib
import ctypes
import errno
import os
import shutil
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from alauda_registry.oci.digest import Digest
from alauda_registry.oci.reference import RepositoryName, Tag
from alauda_registry.storage import paths
from alauda_registry.storage.directory import rooted
from alauda_registry.storage.driver import Unreachable, Write
from alauda_registry.storage.drivers.filesystem import FilesystemDriver
from alauda_registry.storage.repositories import Registry, Repository
from tests.contract.conftest import assert_nothing_is_left
from tests.contract.test_drivers import walked
from tests.unit.storage.faults import READS, Faults, failing
from tests.unit.storage.pushing import EMPTY, NAME, image, piece, push, push_blob, read_blob

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

BLOB = bytes(range(256)) * 1024
SMALL = b"small"
ALL_TIME = timedelta(days=1000)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
async def driver(root: Path) -> AsyncIterator[FilesystemDriver]:
    driver = FilesystemDriver(root, openat2=False)
    yield driver
    await driver.aclose()
    assert_nothing_is_left(root)


@pytest.fixture
def registry(driver: FilesystemDriver) -> Registry:
    return Registry(driver)


@pytest.fixture
def repository(registry: Registry) -> Repository:
    return registry.repository(NAME)


async def test_whoever_reads_does_not_notice_that_a_handle_was_stale(
    driver: FilesystemDriver, repository: Repository
) -> None:
    """Another client replaced the file; what is there now is served."""
    await push(repository, image(BLOB), "latest", blobs=(EMPTY, BLOB))
    await push_blob(repository, SMALL)
    number = 1
    while True:
        fresh = Registry(driver).repository(NAME)
        with failing(Faults(errno.ESTALE, number, kinds=READS)) as faults:
            assert await fresh.tags.resolve(Tag("latest")) == Digest.of(image(BLOB))
            assert (await fresh.manifests.get(Digest.of(image(BLOB)))).content == image(BLOB)
            assert await read_blob(fresh, Digest.of(SMALL)) == SMALL
            assert await read_blob(fresh, Digest.of(BLOB)) == BLOB
            assert (await fresh.tags.page(limit=None)).names == ["latest"]
            assert await walked(driver, paths.tags(NAME)) != []
            assert await driver.fingerprint(paths.tags(NAME)) is None
        if not faults.struck:
            break
        number += 1

    assert number > 20


async def test_whoever_writes_does_not_notice_that_the_handle_of_a_directory_was_stale(
    registry: Registry,
) -> None:
    """Another client put another one in its place."""
    kinds = frozenset({"open", "open to write", "create", "mkdir", "rename"})
    number = 1
    while True:
        repository = registry.repository(RepositoryName(f"team/app-{number}"))
        content = image(BLOB, annotations={"number": str(number)})
        with failing(Faults(errno.ESTALE, number, kinds=kinds)) as faults:
            await push(repository, content, "latest", "doomed", blobs=(EMPTY, BLOB))
            await repository.tags.delete(Tag("doomed"))
        if not faults.struck:
            break
        assert (await repository.tags.page(limit=None)).names == ["latest"]
        number += 1

    assert number > 20


@pytest.mark.parametrize(
    ("code", "times", "is_served"),
    [
        (errno.ESTALE, 2, True),
        (errno.ESTALE, 10**6, False),
        (errno.EAGAIN, 100, True),
        (errno.EINTR, 100, True),
        (errno.EAGAIN, 10**6, False),
    ],
)
async def test_a_path_is_resolved_again_but_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, times: int, *, is_served: bool
) -> None:
    driver = FilesystemDriver(tmp_path)
    await driver.publish(Write("/d/file", b"x"))
    real, failures = rooted._syscall, [code] * times

    def fail(*args: Any) -> int:
        if failures:
            ctypes.set_errno(failures.pop())
            return -1
        return int(real(*args))

    monkeypatch.setattr(rooted, "_syscall", fail)
    with contextlib.nullcontext() if is_served else pytest.raises(Unreachable):
        assert (await driver.stat("/d/file")).size == 1
    monkeypatch.undo()
    await driver.aclose()


async def test_a_handle_that_stays_stale_is_reported(driver: FilesystemDriver) -> None:
    await driver.publish(Write("/d/file", b"x"))

    with failing(Faults(errno.ESTALE, 1, lasting=True, kinds=frozenset({"read", "scandir"}))):
        with pytest.raises(Unreachable, match="Stale"):
            await driver.read("/d/file")
        with pytest.raises(Unreachable, match="Stale"):
            await walked(driver, "/d")


async def test_a_file_that_grew_stale_after_its_first_bytes_is_not_gone_on_with(
    driver: FilesystemDriver,
) -> None:
    await driver.publish(Write("/d/file", b"old" * 400_000))
    reader = await driver.open("/d/file")
    stream = reader.stream()
    first = await anext(stream)
    await driver.publish(Write("/d/file", b"new" * 400_000))

    with (
        failing(Faults(errno.ESTALE, 1, lasting=True, kinds=frozenset({"read"}))),
        pytest.raises(Unreachable, match="Stale"),
    ):
        await anext(stream)
    reader.close()

    assert first.startswith(b"old")


class LostAnswers(Faults):
    """Does what it is asked for, but the client asks again, as it has heard nothing.

    The second time there is nothing to rename or remove any more.
    """

    def __init__(self, first: int, *kinds: str) -> None:
        super().__init__(errno.ENOENT, first, kinds=frozenset(kinds))

    @override
    def _call(
        self, name: str, real: Callable[..., Any], args: tuple[Any, ...], more: dict[str, Any]
    ) -> Any:
        if name in self._kinds:
            real(*args, **more)
            with contextlib.suppress(FileExistsError):
                super()._call(name, lambda *args, **more: None, args, more)
            return None
        return real(*args, **more)


async def test_a_rename_whose_answer_was_lost_has_happened(registry: Registry) -> None:
    number = 1
    while True:
        repository = registry.repository(RepositoryName(f"team/app-{number}"))
        content = image(BLOB, annotations={"number": str(number)})
        with failing(LostAnswers(number, "rename")) as faults:
            await push(repository, content, "latest", "doomed", blobs=(EMPTY, BLOB))
            await repository.tags.delete(Tag("doomed"))
        if not faults.struck:
            break
        assert (await repository.tags.page(limit=None)).names == ["latest"]
        assert await repository.tags.resolve(Tag("latest")) == Digest.of(content)
        assert await read_blob(repository, Digest.of(BLOB)) == BLOB
        number += 1

    assert number > 5


async def test_a_rename_of_what_is_not_there_has_not_happened(driver: FilesystemDriver) -> None:
    await driver.publish(Write("/d/target", b"old"))

    with failing(Faults(errno.ENOENT, 1, kinds=frozenset({"rename"}))):
        await driver.publish(Write("/d/target", b"new"))

    assert await driver.read("/d/target") == b"new"


SILLY = ".nfs000000000a1b2c3d00000001"


async def test_what_a_client_keeps_of_open_files_is_listed_nowhere(
    driver: FilesystemDriver, root: Path
) -> None:
    await driver.publish(Write("/d/e/file", b"x"), Write("/d/.nfs", b"x"))
    for place in ("d", "d/e"):
        (root / place / SILLY).write_bytes(b"deleted, but open")

    assert await driver.names("/d") == [".nfs", "e"]
    assert await walked(driver, "/d") == ["/d/.nfs", "/d/e/file"]


async def test_a_directory_with_a_file_that_is_still_open_can_be_deleted(
    driver: FilesystemDriver, repository: Repository, root: Path
) -> None:
    session = await repository.uploads.start()
    await session.append(piece(b"bytes"))
    await push(repository, image(), "latest")

    # The client gives the open file another name, and its directory stays.
    with failing(Faults(errno.ENOTEMPTY, 1, lasting=True, kinds=frozenset({"rmdir"}))):
        await session.cancel()
        await repository.tags.delete(Tag("latest"))

    assert (await repository.tags.page(limit=None)).names == []
    assert await repository.uploads.expire(-ALL_TIME) == 0
    for folder in (root / "_driver/scratch").iterdir():
        assert [path for path in folder.rglob("*") if path.is_file()] == []
        shutil.rmtree(folder)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_without_locks_is_refused_at_the_start(root: Path, code: int) -> None:
    with (
        failing(Faults(code, 1, lasting=True, kinds=frozenset({"lock"}))),
        pytest.raises(OSError, match="no locks"),
    ):
        FilesystemDriver(root)


async def test_locks_that_are_refused_later_are_reported(repository: Repository) -> None:
    await push(repository, image(), "latest")

    with (
        failing(Faults(errno.ENOLCK, 1, kinds=frozenset({"lock"}))),
        pytest.raises(Unreachable, match="lockd"),
    ):
        await repository.tags.delete(Tag("latest"))

    await repository.tags.delete(Tag("latest"))


async def test_a_clock_that_is_behind_does_not_make_a_change_look_old(
    driver: FilesystemDriver, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await driver.publish(Write("/d/file", b"x"))
    behind = os.stat(root / "d").st_mtime - 60

    class Server(Faults):
        """Stamps what is written with a time of a minute ago."""

        def fsync(self, fd: int) -> None:
            os.fsync(fd)
            os.utime(fd, (behind, behind))

    with failing(Server(errno.EIO, 0)):
        await driver.check(write=True)
    os.utime(root / "d", (behind, behind))

    assert await driver.fingerprint("/d") is None
    os.utime(root / "d", (behind - 60, behind - 60))
    assert await driver.fingerprint("/d") is not None
