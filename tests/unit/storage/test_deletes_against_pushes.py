"""Deletions and pushes at the same time: whatever their order, nothing dangles."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from typing_extensions import override

from alauda_registry.oci.digest import Digest
from alauda_registry.oci.errors import BlobUnknown, ManifestBlobUnknown, ManifestUnknown
from alauda_registry.oci.reference import Tag
from alauda_registry.storage import paths
from alauda_registry.storage.driver import StorageDriver
from alauda_registry.storage.drivers.filesystem import FilesystemDriver
from alauda_registry.storage.drivers.inmemory import InMemoryDriver
from alauda_registry.storage.repositories import Registry, Repository
from tests.unit.storage.pushing import EMPTY, NAME, image, push, push_blob, put
from tests.unit.storage.watching import DawdlingDriver

pytestmark = pytest.mark.anyio

CONTENTS = [image(annotations={"number": str(number)}) for number in range(3)]
TAGS = ["a", "b", "c"]
Action = Callable[[], Awaitable[object]]
REFUSALS = (BlobUnknown, ManifestBlobUnknown, ManifestUnknown)


class Guard:
    """Looks at the storage between any two of its changes.

    A tag must always lead to a manifest, and a manifest must have had its blobs at the
    moment it became visible.
    """

    def __init__(self, driver: StorageDriver) -> None:
        self._driver = driver
        self.revisions: set[str] = set()
        self.complaints: list[str] = []

    async def look(self) -> None:
        links = await self._links()
        repository = f"{paths.REPOSITORIES}/{NAME}"
        revisions = {path for path in links if path.startswith(f"{repository}/_manifests/rev")}
        has_config = paths.blob_link(NAME, Digest.of(EMPTY)) in links
        for path, target in links.items():
            if path.endswith("/current/link"):
                revision = paths.revision_link(NAME, Digest.parse(target))
                if revision not in revisions:
                    self.complaints.append(f"dangling tag: {path}")
        if revisions - self.revisions and not has_config:
            self.complaints.append("a manifest became visible without its config")
        self.revisions = revisions

    async def _links(self) -> dict[str, str]:
        folder = f"{paths.REPOSITORIES}/{NAME}"
        found = [info.path async for info in self._driver.walk(folder)]
        links = [path for path in found if path.endswith("/link")]
        return {path: (await self._driver.read(path)).decode() for path in links}


class GuardedDriver(DawdlingDriver):
    """Lets the guard look before and after each change, while nobody else gets on."""

    def __init__(self, driver: InMemoryDriver, die: random.Random, guard: Guard) -> None:
        super().__init__(driver, die)
        self._guard = guard

    @override
    async def meet(self, operation: str, path: str) -> None:
        await super().meet(operation, path)
        # Nothing of a dictionary ever waits, so this look is not interrupted.
        await self._guard.look()


def actions(repository: Repository, die: random.Random) -> Iterator[Action]:
    while True:
        content, tag = die.choice(CONTENTS), die.choice(TAGS)
        match die.randrange(8):
            case 0 | 1 | 2:
                yield partial(put, repository, content, tag)
            case 3:
                yield partial(push_blob, repository, EMPTY)
            case 4 | 5:
                yield partial(repository.manifests.delete, Digest.of(content))
            case 6:
                yield partial(repository.tags.delete, Tag(tag))
            case _:
                yield partial(repository.blobs.delete, Digest.of(EMPTY))


async def run(action: Action) -> bool:
    try:
        await action()
    except REFUSALS:
        return False
    return True


async def test_no_order_of_deletions_and_pushes_leaves_anything_dangling() -> None:
    done = 0
    for seed in range(150):
        die = random.Random(seed)
        memory = InMemoryDriver()
        guard = Guard(memory)
        repository = Registry(GuardedDriver(memory, die, guard)).repository(NAME)
        chosen = actions(repository, die)
        first = [run(next(chosen)) for _ in range(2)]
        done += sum(await asyncio.gather(run(partial(push_blob, repository, EMPTY)), *first))

        done += sum(await asyncio.gather(*(run(next(chosen)) for _ in range(8))))
        await guard.look()

        assert guard.complaints == [], f"seed {seed}"
    assert done > 500


async def test_two_processes_leave_nothing_dangling_either(tmp_path: Path) -> None:
    for seed in range(15):
        die = random.Random(seed)
        root = tmp_path / str(seed)
        drivers = [FilesystemDriver(root), FilesystemDriver(root)]
        processes = [Registry(DawdlingDriver(driver, die)).repository(NAME) for driver in drivers]
        await push(processes[0], CONTENTS[0], *TAGS)

        chosen = [actions(process, die) for process in processes]
        await asyncio.gather(*(run(next(chosen[turn % 2])) for turn in range(10)))

        for tag in (await processes[0].tags.page(limit=None)).names:
            digest = await processes[1].tags.target(Tag(tag))
            assert (await processes[1].manifests.get(digest)).digest == digest
        for driver in drivers:
            await driver.aclose()


async def test_a_deletion_waits_for_the_push_that_relies_on_the_blob() -> None:
    memory = InMemoryDriver()
    go_on = asyncio.Event()
    reached = asyncio.Event()

    class HeldDriver(DawdlingDriver):
        @override
        async def meet(self, operation: str, path: str) -> None:
            if (operation, path) == ("write", paths.blob_data(Digest.of(CONTENTS[0]))):
                reached.set()
                await go_on.wait()

    pusher = Registry(HeldDriver(memory, random.Random(0))).repository(NAME)
    deleter = Registry(memory).repository(NAME)
    await push_blob(pusher, EMPTY)
    pushing = asyncio.ensure_future(put(pusher, CONTENTS[0], "a"))
    await reached.wait()

    deleting = asyncio.ensure_future(deleter.blobs.delete(Digest.of(EMPTY)))
    for _ in range(50):
        await asyncio.sleep(0)
    assert not deleting.done()
    assert await deleter.blobs.stat(Digest.of(EMPTY)) == len(EMPTY)
    go_on.set()

    digest = await pushing
    await deleting
    assert (await deleter.manifests.get(digest)).digest == digest


async def test_pushes_do_not_wait_for_one_another() -> None:
    memory = InMemoryDriver()
    repository = Registry(memory).repository(NAME)
    await push_blob(repository, EMPTY)
    waiting = asyncio.Barrier(len(CONTENTS))

    class MeetingDriver(DawdlingDriver):
        @override
        async def meet(self, operation: str, path: str) -> None:
            if operation == "write" and path.endswith("/data"):
                await waiting.wait()

    pusher = Registry(MeetingDriver(memory, random.Random(0))).repository(NAME)

    async with asyncio.timeout(20):
        digests = await asyncio.gather(*(put(pusher, content, "a") for content in CONTENTS))

    assert await repository.tags.resolve(Tag("a")) in digests
