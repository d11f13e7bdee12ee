"""A volume that is taken away under the registry and brought back.

While it is away nothing is written to what is in its place, pulls go on as long as the system
lets them, and the answer says what is wrong. When the same volume is back, service resumes by
itself; another one is never touched.
"""

import errno
import os
import shutil
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typing_extensions import override

from alauda_registry.oci.digest import Digest
from alauda_registry.oci.reference import Tag
from alauda_registry.storage.directory import attachment
from alauda_registry.storage.driver import Unreachable, Write
from alauda_registry.storage.drivers.filesystem import FilesystemDriver
from alauda_registry.storage.repositories import Registry, Repository
from alauda_registry.storage.uploads import Piece
from tests.contract.conftest import assert_nothing_is_left
from tests.integration.disks import HASTE, Disk, mounted, run
from tests.integration.volumes import Pusher, assert_served, connected
from tests.parts import registry as server_part
from tests.parts.processes import children_of, wait_until
from tests.unit.storage.faults import Faults, failing
from tests.unit.storage.pushing import (
    EMPTY,
    NAME,
    image,
    piece,
    push,
    push_blob,
    put,
    read_blob,
)

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

BLOB = bytes(range(256)) * 1024
NEW = b"new" * 100_000


@pytest.fixture(params=["tmpfs", "ext4", "xfs"])
def kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    if kind != "tmpfs" and shutil.which(f"mkfs.{kind}") is None:
        pytest.skip(f"mkfs.{kind} is not installed")
    return kind


@pytest.fixture
def disk(tmp_path: Path, kind: str) -> Iterator[Disk]:
    with mounted(tmp_path, kind, (300 if kind == "xfs" else 16) * 1024 * 1024) as disk:
        yield disk


class Moved:
    """A disk whose file system is taken from its place, and brought back as it was.

    In memory it is kept by a second mount; otherwise the kernel has it in the same file.
    """

    def __init__(self, disk: Disk, aside: Path) -> None:
        self._disk = disk
        self._aside = aside
        self.place = disk.path

    def take_away(self) -> None:
        if self._disk.image is None:
            self._aside.mkdir(exist_ok=True)
            run("mount", "--bind", self.place, self._aside)
        self._disk.unmount("--lazy")

    def bring_back(self) -> None:
        if self._disk.image is None:
            run("mount", "--bind", self._aside, self.place)
        else:
            self._disk.mount()

    def release(self) -> None:
        while self._aside.exists() and os.path.ismount(self._aside):
            run("umount", "--lazy", self._aside)


@pytest.fixture
def moved(disk: Disk, tmp_path: Path) -> Iterator[Moved]:
    moved = Moved(disk, tmp_path / "aside")
    yield moved
    moved.release()


@pytest.fixture
async def registry(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Registry]:
    monkeypatch.setattr(attachment, "_LOOK_SECONDS", 0.0)
    registry = Registry(FilesystemDriver(disk.root))
    yield registry
    await registry.aclose()
    assert_nothing_is_left(disk.root)


@pytest.fixture
def repository(registry: Registry) -> Repository:
    return registry.repository(NAME)


async def test_the_same_volume_is_followed_to_where_it_is_mounted_again(
    registry: Registry, repository: Repository, moved: Moved, caplog: pytest.LogCaptureFixture
) -> None:
    kept = await push(repository, image(BLOB), "kept", blobs=(EMPTY, BLOB))
    session = await repository.uploads.start()
    await session.append(piece(NEW[:1000]))
    moved.take_away()

    away = await registry.health()
    with pytest.raises(Unreachable, match="mount"):
        await put(repository, image(annotations={"new": "yes"}), "new")
    with pytest.raises(Unreachable, match="mount"):
        await repository.uploads.start()
    with pytest.raises(Unreachable, match="mount"):
        await repository.tags.delete(Tag("kept"))
    # What is open is still the volume.
    assert await read_blob(repository, Digest.of(BLOB)) == BLOB
    assert await repository.tags.resolve(Tag("kept")) == kept
    in_its_place = list(moved.place.iterdir())
    moved.bring_back()

    assert (await registry.health()).ready
    resumed = await repository.uploads.resume(session.id)
    await resumed.commit(Digest.of(NEW), piece(NEW[1000:]))
    await push(repository, image(BLOB, annotations={"new": "yes"}), "new")
    await repository.tags.delete(Tag("kept"))
    assert await read_blob(repository, Digest.of(NEW)) == NEW
    assert (await repository.tags.page(limit=None)).names == ["new"]
    assert not away.ready
    assert in_its_place == []
    assert "service resumes" in caplog.text


async def test_a_request_notices_by_itself_that_the_volume_is_back(
    registry: Registry, repository: Repository, moved: Moved
) -> None:
    await push(repository, image(), "kept")
    moved.take_away()
    with pytest.raises(Unreachable):
        await registry.repository(NAME).blobs.stat(Digest.of(b"absent"))
    with pytest.raises(Unreachable):
        await repository.uploads.start()
    moved.bring_back()

    await push_blob(repository, NEW)

    assert await read_blob(repository, Digest.of(NEW)) == NEW


async def test_another_volume_is_never_written_to(
    registry: Registry,
    repository: Repository,
    moved: Moved,
    tmp_path: Path,
) -> None:
    await push(repository, image(), "kept")
    moved.take_away()
    with mounted(tmp_path / "other", "tmpfs") as other:
        strange = Registry(FilesystemDriver(other.root))
        await push(strange.repository(NAME), image(), "strange")
        await strange.aclose()
        before = contents(other.root)
        run("mount", "--bind", other.root, moved.place)

        health = await registry.health()
        for attempt in (
            repository.uploads.start(),
            put(repository, image(), "new"),
            repository.tags.delete(Tag("kept")),
            registry.repository(NAME).blobs.mount(Digest.of(EMPTY), None),
        ):
            with pytest.raises(Unreachable, match="another directory"):
                await attempt
        assert await repository.tags.resolve(Tag("kept")) is not None
        after = contents(other.root)
        run("umount", moved.place)

    assert not health.ready
    assert before == after
    moved.bring_back()
    assert (await registry.health()).ready


def contents(folder: Path) -> dict[Path, tuple[int, bytes | None]]:
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in (folder, *folder.rglob("*"))
    }


async def test_an_upload_that_was_open_when_the_volume_moved_ends_and_can_be_repeated(
    registry: Registry, repository: Repository, moved: Moved
) -> None:
    session = await repository.uploads.start()

    async def body() -> AsyncGenerator[bytes, None]:
        yield NEW[:200_000]
        moved.take_away()
        assert not (await registry.health()).ready
        moved.bring_back()
        assert (await registry.health()).ready
        yield NEW[200_000:]

    chunks = body()
    with pytest.raises(Unreachable, match="mounted again"):
        await session.commit(Digest.of(NEW), Piece(chunks))
    await chunks.aclose()
    await push_blob(repository, NEW)

    assert await read_blob(repository, Digest.of(NEW)) == NEW


async def test_what_had_begun_on_one_mount_is_not_finished_on_another(
    registry: Registry, repository: Repository, moved: Moved, tmp_path: Path
) -> None:
    """As on a file server whose client lost what it had not sent yet, and its locks."""
    await push(repository, image(), "kept")
    driver = registry._driver
    shutil.copytree(moved.place, tmp_path / "copy", ignore=shutil.ignore_patterns("lost+found"))
    with mounted(tmp_path / "new", "tmpfs") as new:
        shutil.copytree(tmp_path / "copy", new.root, dirs_exist_ok=True)
        async with driver.lock("lock", exclusive=True, wait=0):
            replace(moved, new)
            assert (await registry.health()).ready
            for attempt in (
                driver.publish(Write("/d/file", b"x")),
                driver.delete("/docker"),
            ):
                with pytest.raises(Unreachable, match="mounted again"):
                    await attempt

        # Which was not held on what is there now.
        async with driver.lock("lock", exclusive=True, wait=0):
            await driver.publish(Write("/d/file", b"x"))
        assert await repository.tags.resolve(Tag("kept")) == Digest.of(image())
        await registry.aclose()
        run("umount", "--lazy", moved.place)


class Hook(Faults):
    """Does something right after the first rename."""

    def __init__(self, do: Callable[[], None]) -> None:
        super().__init__(errno.EIO, 0, kinds=frozenset({"rename"}))
        self._do = do

    @override
    def _call(
        self, name: str, real: Callable[..., Any], args: tuple[Any, ...], more: dict[str, Any]
    ) -> Any:
        result = super()._call(name, real, args, more)
        if name == "rename" and self.count == 1:
            self._do()
        return result


async def test_a_push_during_which_the_volume_moves_is_not_acknowledged(
    driver: FilesystemDriver, moved: Moved, tmp_path: Path
) -> None:
    await driver.publish(Write("/d/old", b"x"))
    shutil.copytree(moved.place, tmp_path / "copy", ignore=shutil.ignore_patterns("lost+found"))
    with mounted(tmp_path / "new", "tmpfs") as new:
        shutil.copytree(tmp_path / "copy", new.root, dirs_exist_ok=True)

        def move() -> None:
            replace(moved, new)
            driver._attachment.look()

        with failing(Hook(move)), pytest.raises(Unreachable, match="mounted again"):
            await driver.publish(Write("/d/new", b"x"))

        assert await driver.names("/d") == ["old"]
        await driver.aclose()
        run("umount", "--lazy", moved.place)


async def test_a_volume_that_was_mounted_again_is_synced_anew(
    driver: FilesystemDriver, moved: Moved
) -> None:
    async def syncs(name: str) -> int:
        with failing(Faults(errno.EIO, 0, kinds=frozenset({"fsync"}))) as faults:
            await driver.publish(Write(f"/a/b/c/{name}", b"x"))
        return faults.count

    first, second = await syncs("first"), await syncs("second")
    moved.take_away()
    moved.bring_back()
    await driver.check(write=False)
    third = await syncs("third")

    assert second < first
    assert third == first


@pytest.fixture
async def driver(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FilesystemDriver]:
    monkeypatch.setattr(attachment, "_LOOK_SECONDS", 0.0)
    driver = FilesystemDriver(disk.root, openat2=False)
    yield driver
    await driver.aclose()
    assert_nothing_is_left(disk.root)


def replace(moved: Moved, new: Disk) -> None:
    moved.take_away()
    run("mount", "--bind", new.root, moved.place)


@pytest.mark.parametrize("kind", ["ext4"], indirect=True)
def test_service_resumes_without_a_restart_over_http(
    disk: Disk, moved: Moved, tmp_path: Path
) -> None:
    with (
        server_part.running(tmp_path / "log", root=disk.root, workers=2, settings=HASTE) as server,
        connected(server.url) as client,
    ):
        pusher = Pusher(client)
        pusher.image("app", "kept")
        wait_until(lambda: "with 2 workers" in server.log.read_text(), "both workers")
        workers = children_of(server.pid, b"spawn_main")
        moved.take_away()
        wait_until(lambda: not all_ready(server.url), "the probes to fail")
        # One that is started now must not make an empty registry in the empty folder.
        os.kill(workers[0], signal.SIGKILL)
        wait_until(lambda: "cannot use" in server.log.read_text(), "a start that fails")
        # Not by the connection that the other one had.
        with connected(server.url) as another:
            answers = [another.post("/v2/app/blobs/uploads/") for _ in range(5)]
        in_its_place = list(moved.place.iterdir())
        moved.bring_back()
        wait_until(lambda: all_ready(server.url), "the probes to succeed")
        wait_until(
            lambda: len(children_of(server.pid, b"spawn_main")) == 2, "the worker to be back", 40
        )
        with connected(server.url) as pusher.client:
            pusher.image("app", "new")
            assert_served(pusher.client, pusher.volume)
        assert workers[1] in children_of(server.pid, b"spawn_main")
        log = server.log.read_text()

    assert in_its_place == []
    assert {(answer.status_code, answer.headers.get("Retry-After")) for answer in answers} == {
        (503, "5")
    }
    assert "Traceback" not in log


def all_ready(url: str) -> bool:
    """Tell whether every worker is, as far as twenty connections tell."""
    answers = (httpx.get(f"{url}/readyz", trust_env=False, timeout=30) for _ in range(20))
    return {answer.status_code for answer in answers} == {200}
