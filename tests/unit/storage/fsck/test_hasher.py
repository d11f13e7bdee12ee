"""The process that hashes: what it says of blobs, and where it does not go."""

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import aclosing
from pathlib import Path

import pytest
from typing_extensions import override

from alauda_registry.oci.digest import Algorithm, Digest
from alauda_registry.storage import paths
from alauda_registry.storage.driver import Unreachable
from alauda_registry.storage.drivers.filesystem import FilesystemDriver
from alauda_registry.storage.drivers.inmemory import InMemoryDriver
from alauda_registry.storage.fsck.check import Check
from alauda_registry.storage.fsck.directory import DirectoryTree
from alauda_registry.storage.fsck.files import Outcome
from alauda_registry.storage.fsck.hasher import Hasher
from alauda_registry.storage.fsck.ledger import Ledger, key
from alauda_registry.storage.fsck.processes import end, receive_files, start_walk
from alauda_registry.storage.fsck.tree import DriverTree
from alauda_registry.storage.fsck.verification import Verification
from tests.parts.processes import children_of, state_of, wait_until
from tests.unit.storage.fsck.checking import NO_AGE, SilentWatcher, fill

MIB = 1024 * 1024


def write(root: Path, digest: Digest, content: bytes) -> Path:
    file = root / paths.blob_data(digest)[1:]
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    return file


def compare(root: Path, *digests: Digest) -> list[tuple[int, str]]:
    wanted = [(digest.algorithm.value, digest.encoded) for digest in digests]
    return Hasher(root).compare(wanted)


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, 40 * MIB])
@pytest.mark.parametrize("algorithm", Algorithm)
def test_the_last_byte_matters(
    tmp_path: Path, size: int, algorithm: Algorithm, capfdbinary: object
) -> None:
    content = bytes(size)
    digest = Digest.of(content, algorithm)
    file = write(tmp_path, digest, content)
    assert compare(tmp_path, digest) == []

    file.write_bytes(content + b"x")
    assert compare(tmp_path, digest) == [(0, Outcome.CORRUPT.value)]


def to_another_folder(file: Path, elsewhere: Path) -> None:
    file.parent.rename(elsewhere)
    file.parent.symlink_to(elsewhere)


def to_another_file(file: Path, elsewhere: Path) -> None:
    file.rename(elsewhere)
    file.symlink_to(elsewhere)


@pytest.mark.parametrize("lead", [to_another_folder, to_another_file])
def test_no_symbolic_link_is_followed(
    tmp_path: Path, lead: Callable[[Path, Path], None], capfdbinary: object
) -> None:
    digest = Digest.of(b"content")
    file = write(tmp_path / "root", digest, b"content")
    lead(file, tmp_path / "elsewhere")
    assert file.read_bytes() == b"content"

    assert compare(tmp_path / "root", digest) == [(0, Outcome.GONE.value)]


def test_a_pipe_is_not_waited_for(tmp_path: Path, capfdbinary: object) -> None:
    digest = Digest.of(b"content")
    file = write(tmp_path, digest, b"")
    file.unlink()
    os.mkfifo(file)

    assert compare(tmp_path, digest) == [(0, Outcome.CORRUPT.value)]


def test_a_root_that_is_gone_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Hasher(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()


@pytest.mark.anyio
async def test_processes_end_with_a_check_that_nobody_waits_for(tmp_path: Path) -> None:
    before = set(children_of(os.getpid()))
    driver = FilesystemDriver(tmp_path)
    await fill(driver)
    (tmp_path / "docker/registry/v2/stray").write_bytes(b"found before all is hashed")
    tree = DirectoryTree(tmp_path, jobs=2)
    check = Check(driver, tree, NO_AGE, SilentWatcher(), settle_seconds=0)
    async with aclosing(check.findings()) as findings:
        async for _ in findings:
            break
    tree.close()
    check.close()
    await driver.aclose()

    assert set(children_of(os.getpid())) <= before


@pytest.mark.anyio
@pytest.mark.parametrize("jobs", [1, 20])
async def test_there_is_enough_to_do_for_all_processes(jobs: int) -> None:
    asked: list[Digest] = []

    class Hanging(DriverTree):
        @override
        async def verify(
            self, digests: Sequence[Digest], advance: Callable[[int], None]
        ) -> list[tuple[Digest, Outcome]]:
            asked.extend(digests)
            return await asyncio.Future()

    ledger = Ledger()
    for number in range(100):
        digest = Digest(Algorithm.SHA256, f"{number:064x}")
        ledger.note("blob", (key(digest), 2**30, 0))
    ledger.write()
    tree = Hanging(InMemoryDriver())
    tree.jobs = jobs
    verification = Verification(tree, ledger, None)

    verification.go_on()
    await asyncio.sleep(0)

    assert jobs <= len(asked) <= max(8, 2 * jobs)
    await verification.stop()
    ledger.close()


@pytest.mark.anyio
async def test_a_process_that_can_not_start_is_an_error(tmp_path: Path) -> None:
    tree = DirectoryTree(tmp_path / "absent", jobs=1)

    with pytest.raises(Unreachable, match="hashing was cut short"):
        async with asyncio.timeout(20):
            await tree.verify([Digest.of(b"content")], lambda _: None)

    tree.close()


@pytest.mark.anyio
async def test_a_process_that_was_killed_while_idle_is_an_error_and_no_more(tmp_path: Path) -> None:
    """What it was asked is in a buffer then, which nobody takes any more."""
    before = set(children_of(os.getpid()))
    digest = Digest.of(b"content")
    write(tmp_path, digest, b"content")
    tree = DirectoryTree(tmp_path, jobs=1)
    assert await tree.verify([digest], lambda _: None) == []
    (idle,) = set(children_of(os.getpid(), b"fsck.hasher")) - before
    os.kill(idle, signal.SIGKILL)
    wait_until(lambda: state_of(idle) == "Z", "its end")

    with pytest.raises(Unreachable, match="hashing was cut short"):
        await tree.verify([digest], lambda _: None)

    tree.close()
    assert set(children_of(os.getpid())) <= before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_for_the_check_from_the_first_moment_on(
    tmp_path: Path, number: signal.Signals
) -> None:
    """A terminal sends Ctrl-C to all processes, those that are just starting, too."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    process = start_walk(tmp_path, paths.ROOT)
    process.send_signal(number)

    assert receive_files(process) == []

    end(process)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
