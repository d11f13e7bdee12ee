"""Disks that are full, read-only or strewn with things that no registry puts there.

What is there stays readable, deletions go on, nothing is served or written beyond the root,
and nothing hangs. The small disks are real ones, in memory.
"""

import asyncio
import contextlib
import json
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Protocol

import httpx
import pytest

from alauda_registry.oci.digest import Digest
from alauda_registry.oci.errors import BlobUnknown, ManifestUnknown, RegistryError
from alauda_registry.oci.media_types import OCI_MANIFEST
from alauda_registry.oci.reference import RepositoryName, Tag
from alauda_registry.storage import paths
from alauda_registry.storage.driver import DriverError, OutOfSpace, ReadOnlyFileSystem
from alauda_registry.storage.drivers.filesystem import FilesystemDriver
from alauda_registry.storage.repositories import Registry, Repository
from tests.contract.conftest import assert_nothing_is_left
from tests.integration.disks import Disk, mounted
from tests.integration.volumes import Pusher, Volume, assert_served, connected
from tests.parts import registry as server_part
from tests.parts.processes import wait_until
from tests.unit.storage.pushing import (
    EMPTY,
    NAME,
    descriptor,
    image,
    index,
    piece,
    push,
    push_blob,
    put,
    read_blob,
)

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

SIZE = 8 * 1024 * 1024
BLOB = bytes(range(256)) * 1024
NEW = b"new" * 100_000
SUBJECT = descriptor(b"subject", OCI_MANIFEST)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with mounted(tmp_path, "tmpfs", SIZE) as disk:
        yield disk


@pytest.fixture
async def registry(disk: Disk) -> AsyncIterator[Registry]:
    root = disk.path / "root"
    registry = Registry(FilesystemDriver(root))
    yield registry
    await registry.aclose()
    assert_nothing_is_left(root)


@pytest.fixture
def repository(registry: Registry) -> Repository:
    return registry.repository(NAME)


async def test_a_full_disk_refuses_pushes_and_keeps_what_was_there(
    registry: Registry, repository: Repository, disk: Disk
) -> None:
    big = await push_blob(repository, BLOB)
    digest = await push(repository, image(BLOB, subject=SUBJECT), "latest")
    session = await repository.uploads.start()
    disk.fill()

    with pytest.raises(OutOfSpace):
        await push_blob(repository, b"new")
    with pytest.raises(OutOfSpace):
        await push_blob(repository, BLOB + b"new")
    with pytest.raises(OutOfSpace):
        await session.append(piece(b"new"))
    with pytest.raises(OutOfSpace):
        await put(repository, image(annotations={"new": "yes"}), "latest")
    with pytest.raises(OutOfSpace):
        await put(repository, image(BLOB, subject=SUBJECT), "new")

    assert await read_blob(repository, big) == BLOB
    assert (await repository.manifests.get(digest)).content == image(BLOB, subject=SUBJECT)
    assert (await repository.tags.page(limit=None)).names == ["latest"]
    assert await repository.tags.resolve(Tag("latest")) == digest
    assert (await registry.catalog(limit=10)).names == [NAME]
    assert await referrers(repository) == [digest]


async def referrers(repository: Repository) -> list[Digest]:
    page = await repository.referrers.page(Digest.of(b"subject"), artifact_type=None, limit=10)
    return [entry.digest for entry in page.descriptors]


async def test_a_full_disk_shows_in_the_health_and_is_ready_all_the_same(
    registry: Registry, disk: Disk
) -> None:
    assert (await registry.health()).degraded is None
    disk.fill()
    full = await registry.health()
    disk.empty()

    assert (full.ready, full.degraded) == (True, "full")
    assert (await registry.health()).degraded is None


async def test_deletions_go_on_and_pushes_resume_on_a_full_disk(
    repository: Repository, disk: Disk
) -> None:
    digest = await push(repository, image(BLOB, subject=SUBJECT), "a", "b", blobs=(EMPTY, BLOB))
    session = await repository.uploads.start()
    disk.fill()

    await repository.tags.delete(Tag("a"))
    await repository.manifests.delete(digest)
    await repository.blobs.delete(Digest.of(BLOB))
    with pytest.raises(OutOfSpace):
        await session.commit(Digest.of(NEW), piece(NEW))
    assert await referrers(repository) == []
    disk.empty()

    resumed = await repository.uploads.resume(session.id)
    assert resumed.size == 0
    await resumed.commit(Digest.of(NEW), piece(NEW))
    await push(repository, image(BLOB), "a", blobs=(EMPTY, BLOB))
    assert (await repository.tags.page(limit=None)).names == ["a"]


@pytest.mark.parametrize("chunk", [4096, 100_000, 1_000_000, 4_000_000])
async def test_a_piece_that_did_not_fit_gives_its_space_back(
    repository: Repository, disk: Disk, chunk: int
) -> None:
    session = await repository.uploads.start()
    await session.append(piece(b"first"))
    disk.fill(leave=2 * 1024 * 1024)
    content = b"x" * 4_000_000
    chunks = [content[start : start + chunk] for start in range(0, len(content), chunk)]

    with pytest.raises(OutOfSpace):
        await session.append(piece(*chunks))

    assert disk.free() == 2 * 1024 * 1024
    assert (await repository.uploads.resume(session.id)).size == 5
    disk.empty()
    await (await repository.uploads.resume(session.id)).commit(
        Digest.of(b"first" + content), piece(*chunks, start=5)
    )
    assert await read_blob(repository, Digest.of(b"first" + content)) == b"first" + content


async def test_trying_again_and_again_does_not_fill_a_full_disk_any_further(
    repository: Repository, disk: Disk
) -> None:
    await push(repository, image(), "latest")
    disk.fill(leave=8192)
    before = sorted(disk.path.rglob("*"))

    for _ in range(5):
        with pytest.raises(OutOfSpace):
            await put(repository, image(annotations={"large": "x" * 20_000}), "latest")
        session = await repository.uploads.start()
        with pytest.raises(OutOfSpace):
            await session.commit(Digest.of(BLOB), piece(BLOB))
        await session.cancel()

    assert sorted(disk.path.rglob("*")) == before
    assert disk.free() == 8192


async def test_a_manifest_that_fits_only_in_part_is_not_there_at_all(
    repository: Repository, disk: Disk
) -> None:
    await push(repository, image(), "old")
    outcomes = []
    for pages in range(24):
        disk.fill(leave=pages * 4096)
        content = image(annotations={"pages": str(pages)}, subject=SUBJECT)
        try:
            digest = await put(repository, content, "a", "b")
        except OutOfSpace:
            outcomes.append("failed")
            with pytest.raises(ManifestUnknown):
                await repository.manifests.get(Digest.of(content))
            assert (await repository.tags.page(limit=None)).names == ["old"]
            assert disk.free() == pages * 4096
        else:
            outcomes.append("done")
            assert await repository.tags.resolve(Tag("b")) == digest
            await repository.manifests.delete(digest)
            shutil.rmtree(disk.path / "root" / paths.blob_data(digest)[1:].removesuffix("/data"))

    assert outcomes[0] == "failed"
    assert outcomes[-1] == "done"


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["errors"][0]["code"]


def test_a_full_disk_over_http(disk: Disk, tmp_path: Path) -> None:
    with (
        server_part.running(tmp_path / "log", root=disk.path / "root") as server,
        connected(server.url) as client,
    ):
        pusher = Pusher(client)
        kept = pusher.image("app", "kept")
        doomed = pusher.artifact("app", "doomed")
        disk.fill()
        content, media_type = pusher.volume.manifests["app", kept]

        blob = client.post(f"/v2/app/blobs/uploads/?digest={Digest.of(BLOB)}", content=BLOB)
        manifest = client.put(
            "/v2/app/manifests/new", content=content, headers={"Content-Type": media_type}
        )
        wait_until(lambda: "full" in client.get("/readyz").text, "the probe to say so")
        ready = client.get("/readyz")
        deleted = client.delete(f"/v2/app/manifests/{doomed}")
        del pusher.volume.manifests["app", doomed], pusher.volume.tags["app"]["doomed"]
        assert_served(client, pusher.volume)
        disk.empty()
        wait_until(lambda: "full" not in client.get("/readyz").text, "space to be back")
        pusher.artifact("app", "new")
        assert_served(client, pusher.volume)
        log = server.log.read_text()

    assert code_of(blob) == (507, "UNAVAILABLE")
    assert code_of(manifest) == (507, "UNAVAILABLE")
    assert "full" in manifest.json()["errors"][0]["message"]
    assert ready.status_code == 200
    assert deleted.status_code == 202
    assert "Traceback" not in log


async def test_a_disk_that_became_read_only_refuses_pushes_and_deletions(
    registry: Registry, repository: Repository, disk: Disk
) -> None:
    digest = await push(repository, image(subject=SUBJECT), "latest")
    session = await repository.uploads.start()
    disk.remount("ro")

    attempts: list[Callable[[], Awaitable[object]]] = [
        repository.uploads.start,
        lambda: session.append(piece(b"new")),
        session.cancel,
        lambda: put(repository, image(annotations={"new": "yes"})),
        lambda: repository.manifests.delete(digest),
        lambda: repository.tags.delete(Tag("latest")),
        lambda: repository.blobs.delete(Digest.of(EMPTY)),
        lambda: registry.repository(RepositoryName("other")).blobs.mount(Digest.of(EMPTY), NAME),
    ]
    for attempt in attempts:
        with pytest.raises(ReadOnlyFileSystem):
            await attempt()
    health = await registry.health()

    assert await repository.tags.resolve(Tag("latest")) == digest
    assert (await repository.manifests.get(digest)).content == image(subject=SUBJECT)
    assert await read_blob(repository, Digest.of(EMPTY)) == EMPTY
    assert await referrers(repository) == [digest]
    assert (health.ready, health.degraded) == (False, None)
    assert "read-only" in health.message
    disk.remount("rw")
    assert (await registry.health()).ready
    await session.commit(Digest.of(b"new"), piece(b"new"))


async def test_a_volume_that_is_read_only_from_the_start_is_served(disk: Disk) -> None:
    root = disk.path / "root"
    writer = Registry(FilesystemDriver(root))
    digest = await push(writer.repository(NAME), image(subject=SUBJECT), "latest")
    await writer.aclose()
    # As another registry would have left it.
    shutil.rmtree(root / "_driver")
    shutil.rmtree(root / paths.repository(NAME)[1:] / "_referrers")
    disk.remount("ro")

    reader = Registry(FilesystemDriver(root))
    repository = reader.repository(NAME)
    served = await repository.manifests.get(await repository.tags.resolve(Tag("latest")))
    found = await referrers(repository)
    with pytest.raises(ReadOnlyFileSystem):
        await repository.uploads.start()
    with pytest.raises(ReadOnlyFileSystem):
        await repository.manifests.delete(digest)
    disk.remount("rw")
    await repository.manifests.delete(digest)
    await push(repository, image(), "again")
    await reader.aclose()

    assert served.content == image(subject=SUBJECT)
    assert found == [digest]


def test_a_read_only_disk_over_http(disk: Disk, tmp_path: Path) -> None:
    root = disk.path / "root"
    with (
        server_part.running(tmp_path / "log", root=root) as server,
        connected(server.url) as client,
    ):
        pusher = Pusher(client)
        pusher.image("app", "kept")
        disk.remount("ro")

        started = client.post("/v2/app/blobs/uploads/")
        deleted = client.delete("/v2/app/manifests/kept")
        wait_until(lambda: client.get("/readyz").status_code == 503, "the probe to fail")
        assert_served(client, pusher.volume)
        disk.remount("rw")
        wait_until(lambda: client.get("/readyz").status_code == 200, "the probe to succeed")
        pusher.image("app", "new")
        log = server.log.read_text()

    assert code_of(started) == (405, "UNSUPPORTED")
    assert code_of(deleted) == (405, "UNSUPPORTED")
    assert "Traceback" not in log


# What follows needs no disk of its own.


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
async def plain(root: Path) -> AsyncIterator[Repository]:
    """A repository with an image, a tag and a referrer, on an ordinary disk."""
    registry = Registry(FilesystemDriver(root))
    repository = registry.repository(NAME)
    await push(repository, image(BLOB), "latest", blobs=(EMPTY, BLOB))
    await push(repository, image(subject=SUBJECT))
    yield repository
    await registry.aclose()
    assert_nothing_is_left(root)


@pytest.fixture
def outside(tmp_path: Path, plain: Repository, root: Path) -> Iterator[Path]:
    """A copy of everything beside the root, which must stay as it is and is never served."""
    outside = tmp_path / "outside"
    shutil.copytree(root, outside)
    before = contents(outside)
    yield outside
    assert contents(outside) == before


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


IMAGE = Digest.of(image(BLOB))
REFERRER = Digest.of(image(subject=SUBJECT))
FOLDER = paths.repository(NAME)
PLACES = {
    "blob": paths.blob_data(Digest.of(BLOB)),
    "folder of a blob": paths.blob_data(Digest.of(BLOB)).removesuffix("/data"),
    "all blobs": f"{paths.ROOT}/blobs",
    "bytes of a manifest": paths.blob_data(IMAGE),
    "link of a blob": paths.blob_link(NAME, Digest.of(BLOB)),
    "links of blobs": f"{FOLDER}/_layers",
    "link of a revision": paths.revision_link(NAME, IMAGE),
    "folder of revisions": f"{FOLDER}/_manifests/revisions/sha256",
    "link of a tag": paths.tag_current(NAME, Tag("latest")),
    "folder of a tag": paths.tag(NAME, Tag("latest")),
    "folder of tags": paths.tags(NAME),
    "folder of manifests": paths.manifests(NAME),
    "index of referrers": f"{FOLDER}/_referrers",
    "uploads": f"{FOLDER}/_uploads",
    "repository": FOLDER,
    "repositories": paths.REPOSITORIES,
}


class Corrupt(Protocol):
    """Puts something in a place where a registry expects something of its own."""

    __name__: str

    def __call__(self, place: Path, elsewhere: Path) -> None: ...


def link_out(place: Path, elsewhere: Path) -> None:
    place.symlink_to(elsewhere)


def link_out_relatively(place: Path, elsewhere: Path) -> None:
    place.symlink_to(os.path.relpath(elsewhere, place.parent))


def link_to_itself(place: Path, elsewhere: Path) -> None:
    place.symlink_to(place.name)


def link_nowhere(place: Path, elsewhere: Path) -> None:
    place.symlink_to("nothing-is-here")


def make_fifo(place: Path, elsewhere: Path) -> None:
    os.mkfifo(place)


def make_directory(place: Path, elsewhere: Path) -> None:
    place.mkdir()


def make_file(place: Path, elsewhere: Path) -> None:
    place.write_bytes(b"something else")


CORRUPTIONS: list[Corrupt] = [
    link_out,
    link_out_relatively,
    link_to_itself,
    link_nowhere,
    make_fifo,
    make_directory,
    make_file,
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("corrupt", CORRUPTIONS, ids=lambda corrupt: corrupt.__name__)
async def test_what_lies_in_the_place_of_something_else_is_neither_served_nor_followed(
    plain: Repository, root: Path, outside: Path, place: str, corrupt: Corrupt
) -> None:
    path = PLACES[place]
    replace(root, path, partial(corrupt, elsewhere=outside / path[1:]))
    driver = FilesystemDriver(root)
    registry = Registry(driver)
    fresh = registry.repository(NAME)

    async with asyncio.timeout(30):
        served = await everything(registry, fresh)
        # Whether these succeed depends on what is in the way; outside nothing may change.
        for write in (
            lambda: push(fresh, image(BLOB), "latest", "new", blobs=(EMPTY, BLOB)),
            lambda: push(fresh, index(subject=SUBJECT), "latest"),
            lambda: push_blob(fresh, BLOB),
            lambda: fresh.blobs.mount(Digest.of(BLOB), None),
            lambda: fresh.tags.delete(Tag("latest")),
            lambda: fresh.manifests.delete(IMAGE),
            lambda: fresh.blobs.delete(Digest.of(BLOB)),
            registry.expire_uploads,
        ):
            with contextlib.suppress(RegistryError, DriverError):
                await write()
    await registry.aclose()

    lost = {
        "blob": {"blob"},
        "folder of a blob": {"blob"},
        "all blobs": {"blob", "manifest"},
        "bytes of a manifest": {"manifest"},
        "link of a blob": {"blob"},
        "links of blobs": {"blob"},
        "link of a revision": {"manifest", "tag"},
        "folder of revisions": {"manifest", "tag", "referrer"},
        "link of a tag": {"tag"},
        "folder of a tag": {"tag"},
        "folder of tags": {"tag"},
        "folder of manifests": {"manifest", "tag", "referrer"},
        "index of referrers": set(),
        "uploads": set(),
    }.get(place, {"blob", "manifest", "tag", "referrer", "name"})
    if place == "all blobs" and corrupt is not make_directory:
        # Without an index the referrers can only be found by reading manifests.
        lost = lost | set()
    assert {"blob", "manifest", "tag", "referrer", "name"} - served <= lost | (
        {"referrer"} if place == "index of referrers" else set()
    )
    assert served & lost == set()


def replace(root: Path, path: str, corrupt: Callable[[Path], None]) -> None:
    place = root / path[1:]
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
    corrupt(place)


async def everything(registry: Registry, repository: Repository) -> set[str]:
    """Return what of the image is served; what is served is what was pushed."""
    served = set()
    with contextlib.suppress(BlobUnknown):
        assert await read_blob(repository, Digest.of(BLOB)) == BLOB
        served.add("blob")
    with contextlib.suppress(ManifestUnknown):
        assert (await repository.manifests.get(IMAGE)).content == image(BLOB)
        served.add("manifest")
    with contextlib.suppress(ManifestUnknown):
        assert await repository.tags.resolve(Tag("latest")) == IMAGE
        served.add("tag")
    if await referrers(repository) == [REFERRER]:
        served.add("referrer")
    if (await registry.catalog(limit=10)).names == [NAME]:
        served.add("name")
    with contextlib.suppress(RegistryError):
        await repository.tags.page(limit=10)
    return served


@pytest.mark.parametrize("corrupt", CORRUPTIONS, ids=lambda corrupt: corrupt.__name__)
@pytest.mark.parametrize("file", ["data", "startedat", "digests"])
async def test_an_upload_with_something_else_in_it_neither_hangs_nor_leads_out(
    plain: Repository, root: Path, outside: Path, file: str, corrupt: Corrupt
) -> None:
    session = await plain.uploads.start()
    await session.append(piece(b"bytes"))
    path = f"{paths.upload(NAME, session.id)}/{file}"
    replace(root, path, partial(corrupt, elsewhere=outside / path[1:]))
    (outside / path[1:]).parent.mkdir(parents=True)
    (outside / path[1:]).write_bytes(b"bytes")
    before = (outside / path[1:]).read_bytes()
    registry = Registry(FilesystemDriver(root))
    fresh = registry.repository(NAME)

    async with asyncio.timeout(30):
        with contextlib.suppress(RegistryError, DriverError):
            resumed = await fresh.uploads.resume(session.id)
            await resumed.append(piece(b" and more"))
            await resumed.commit(Digest.of(b"bytes and more"))
        await registry.expire_uploads()
        with contextlib.suppress(RegistryError):
            await session.cancel()
    await registry.aclose()

    assert (outside / path[1:]).read_bytes() == before
    shutil.rmtree((outside / path[1:]).parent)


def test_a_strewn_volume_gives_no_internal_error_over_http(tmp_path: Path) -> None:
    root = tmp_path / "root"
    with (
        server_part.running(tmp_path / "first", root=root) as server,
        connected(server.url) as client,
    ):
        pusher = Pusher(client)
        for number, _ in enumerate(CORRUPTIONS):
            for place in ("current", "revision", "layer"):
                pusher.image(f"{place}/{number}", "latest")
        kept = Pusher(client, Volume())
        kept.image("kept", "latest")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"sha256:" + b"0" * 64)
    urls = ["/v2/_catalog"]
    for number, corrupt in enumerate(CORRUPTIONS):
        for place in ("current", "revision", "layer"):
            name = RepositoryName(f"{place}/{number}")
            digest = Digest.parse(pusher.volume.tags[name]["latest"])
            config = json.loads(pusher.volume.manifests[name, str(digest)][0])["config"]["digest"]
            path = {
                "current": paths.tag_current(name, Tag("latest")),
                "revision": paths.revision_link(name, digest),
                "layer": paths.blob_link(name, Digest.parse(config)),
            }[place]
            replace(root, path, partial(corrupt, elsewhere=elsewhere))
            urls += [
                f"/v2/{name}/manifests/latest",
                f"/v2/{name}/manifests/{digest}",
                f"/v2/{name}/blobs/{config}",
                f"/v2/{name}/tags/list",
                f"/v2/{name}/referrers/{digest}",
            ]

    with (
        server_part.running(tmp_path / "second", root=root) as server,
        connected(server.url) as client,
    ):
        statuses = {url: client.get(url).status_code for url in urls}
        kept_status = client.get("/v2/kept/manifests/latest").status_code
        log = server.log.read_text()

    assert {url: status for url, status in statuses.items() if status not in {200, 404}} == {}
    assert kept_status == 200
    assert "Traceback" not in log


def test_a_full_disk_for_temporary_files_ends_no_worker(tmp_path: Path, disk: Disk) -> None:
    with (
        server_part.running(tmp_path, workers=2, settings={"TMPDIR": str(disk.path)}) as server,
        connected(server.url) as client,
    ):
        pusher = Pusher(client)
        pusher.image("a", "latest")
        disk.fill()

        statuses = [client.get("/v2/a/manifests/latest").status_code for _ in range(20)]
        # Labels that were not counted before.
        pusher.delete("/v2/a/manifests/latest")
        statuses += [client.get(f"/v2/a/tags/{number}").status_code for number in range(20)]
        # Counts are written down once a second.
        wait_until(lambda: b'method="DELETE"' in client.get("/metrics").content, "the counts")
        log = server.log.read_text()

    assert set(statuses) == {200, 404}
    assert "unexpectedly" not in log
