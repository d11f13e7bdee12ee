"""Trees and names that a check must not be misled by."""

import asyncio
import itertools
import os
import time
import tracemalloc
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path

import pytest

from alauda_registry.oci.digest import Digest
from alauda_registry.oci.reference import RepositoryName, Tag
from alauda_registry.storage import paths
from alauda_registry.storage.driver import Busy, Write
from alauda_registry.storage.drivers.filesystem import FilesystemDriver
from alauda_registry.storage.fsck.check import Check
from alauda_registry.storage.fsck.directory import DirectoryTree
from alauda_registry.storage.fsck.findings import Kind
from alauda_registry.storage.fsck.verdicts import Rules
from alauda_registry.storage.repositories import Registry
from tests.unit.storage.fsck.checking import APP, IMAGE, LAYERS, SilentWatcher, check, fill
from tests.unit.storage.pushing import EMPTY, image, push

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "name", ["a" * 64 + "/data", "b" * 64 + "/link", "team/" + "c" * 70 + "/x"]
)
async def test_repositories_with_names_as_long_as_digests_are_read(
    tmp_path: Path, name: str
) -> None:
    driver = FilesystemDriver(tmp_path)
    repository = Registry(driver).repository(RepositoryName(name))
    await push(repository, image(LAYERS[0]), "v1", blobs=[EMPTY, LAYERS[0]])
    assert (await check(driver, tmp_path, rules=Rules(age=timedelta(0)))).findings == []
    await driver.delete(paths.blob_data(Digest.of(LAYERS[0])))

    checked = await check(driver, tmp_path, rules=Rules(age=timedelta(0)))
    await driver.aclose()

    assert checked.summary.repositories == 1
    assert checked.summary.broken > 0


@pytest.mark.parametrize(
    "name", [b"\xff\xfe.txt", b"\x1b[31m", b"two\nlines", "é☃".encode(), b"x y"]
)
async def test_odd_names_are_strays_and_written_harmlessly(tmp_path: Path, name: bytes) -> None:
    driver = FilesystemDriver(tmp_path)
    await fill(driver)
    folder = bytes(tmp_path / paths.REPOSITORIES[1:] / "team/app/_layers")
    os.close(os.open(folder + b"/" + name, os.O_WRONLY | os.O_CREAT))

    checked = await check(driver, tmp_path)
    await driver.aclose()

    (found,) = checked.findings
    assert found.kind == "stray"
    assert found.path.isascii()
    assert found.path.isprintable()


async def test_a_chain_of_folders_without_an_end_is_a_stray(tmp_path: Path) -> None:
    driver = FilesystemDriver(tmp_path)
    await fill(driver)
    (tmp_path / paths.REPOSITORIES[1:] / (("d" * 60 + "/") * 40)).mkdir(parents=True)

    checked = await check(driver, tmp_path)
    await driver.aclose()

    assert [finding.kind for finding in checked.findings] == ["stray"]


async def test_one_repair_runs_at_a_time(tmp_path: Path) -> None:
    driver, other = FilesystemDriver(tmp_path), FilesystemDriver(tmp_path)
    await fill(driver)

    async with driver.lock("fsck-repair", exclusive=True, wait=0):
        with pytest.raises(Busy):
            await check(other, tmp_path, run="second")

    await driver.aclose()
    await other.aclose()


async def test_where_not_one_blob_is_nothing_is_taken_away(tmp_path: Path) -> None:
    driver = FilesystemDriver(tmp_path)
    await fill(driver)
    await driver.delete(f"{paths.ROOT}/blobs")
    before = [info.path async for info in driver.walk("/docker")]

    checked = await check(driver, tmp_path, run="run")

    assert checked.summary.broken > 0
    assert {finding.repaired for finding in checked.findings} == {None}
    assert [info.path async for info in driver.walk("/docker")] == before
    await driver.aclose()


@pytest.mark.parametrize("repairing", [False, True])
async def test_what_is_far_too_long_for_a_link_is_not_read(tmp_path: Path, repairing: bool) -> None:
    driver = FilesystemDriver(tmp_path)
    await fill(driver)
    links = [
        paths.blob_link(APP, Digest.of(LAYERS[0])),
        paths.revision_link(APP, Digest.of(IMAGE)),
        paths.tag_current(APP, Tag("latest")),
    ]
    for link in links:
        os.truncate(tmp_path / link[1:], 2**30)

    tracemalloc.start()
    checked = await check(driver, tmp_path, run="run" if repairing else None)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    found = {(finding.path, bool(finding.repaired)) for finding in checked.findings}
    assert {(link, repairing) for link in links} <= found
    assert most < 32 * 2**20
    if repairing:
        for link in links:
            assert (tmp_path / f"_fsck/quarantine/run{link}").stat().st_size == 2**30
        assert (await driver.read(links[0])).decode() == str(Digest.of(LAYERS[0]))
    await driver.aclose()


@pytest.mark.parametrize("repairing", [False, True])
async def test_a_manifest_that_was_hashed_before_it_was_known_is_told_of_once(
    tmp_path: Path, repairing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a large tree that is so: blobs are hashed while links are read."""
    driver = FilesystemDriver(tmp_path)
    await fill(driver)
    link = paths.revision_link(APP, Digest.of(IMAGE))
    with (tmp_path / paths.blob_data(Digest.of(IMAGE))[1:]).open("ab") as file:
        file.write(b" ")
    monkeypatch.setattr("alauda_registry.storage.fsck.tree.BATCH", 1)

    checked = await check(driver, run="run" if repairing else None)

    assert ("manifest-corrupt", link) in checked.found()
    assert "blob-corrupt" not in {kind for kind, _ in checked.found()}
    await driver.aclose()


async def test_a_clock_that_is_set_back_delays_nothing(tmp_path: Path) -> None:
    driver = FilesystemDriver(tmp_path)
    await fill(driver)
    await driver.publish(Write(paths.blob_data(Digest.of(LAYERS[1])), b"rot"))
    times = itertools.count(time.time(), -3600)
    tree = DirectoryTree(tmp_path, jobs=1)
    a_check = Check(
        driver, tree, Rules(), SilentWatcher(), settle_seconds=0.01, now=lambda: next(times)
    )

    async with asyncio.timeout(20), aclosing(a_check.findings()) as findings:
        found = [finding.kind async for finding in findings]

    assert found == [Kind.BLOB_CORRUPT]
    tree.close()
    a_check.close()
    await driver.aclose()
