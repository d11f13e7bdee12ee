"""What a check puts right: safely, whoever pushes meanwhile and wherever it is cut short."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest
from typing_extensions import override

from alauda_registry.oci.digest import Algorithm, Digest
from alauda_registry.oci.errors import BlobUnknown, ManifestUnknown
from alauda_registry.oci.reference import Tag
from alauda_registry.storage import paths
from alauda_registry.storage.driver import (
    Busy,
    FileInfo,
    OutOfSpace,
    StorageDriver,
    Unreachable,
    Write,
)
from alauda_registry.storage.drivers.filesystem import FilesystemDriver
from alauda_registry.storage.drivers.inmemory import InMemoryDriver
from alauda_registry.storage.fsck.findings import REPAIRABLE, Finding, Kind
from alauda_registry.storage.fsck.repairs import Repairer
from alauda_registry.storage.fsck.verdicts import Rules
from alauda_registry.storage.repositories import Registry, Repository
from tests.unit.storage.fsck.checking import (
    APP,
    CHILD,
    FOREIGN_IMAGE,
    IMAGE,
    INDEX,
    LAYERS,
    LONG_IMAGE,
    OLD_IMAGE,
    OTHER,
    REFERRER,
    SHA512_LAYER,
    check,
    fill,
)
from tests.unit.storage.fsck.test_check import (
    DAMAGES,
    HISTORY,
    data,
    entry,
    inflict,
    layer,
    of,
    revision,
    tag,
)
from tests.unit.storage.pushing import EMPTY, push_blob, put, read_blob
from tests.unit.storage.watching import DawdlingDriver, FailingDriver, WatchedDriver

pytestmark = pytest.mark.anyio

PLACE = f"{paths.QUARANTINE}/run"
BLOBS = {
    APP: [EMPTY, *LAYERS],
    OTHER: [EMPTY, LAYERS[0]],
}
MANIFESTS = {
    APP: [OLD_IMAGE, IMAGE, CHILD, INDEX, REFERRER, FOREIGN_IMAGE],
    OTHER: [OLD_IMAGE],
}
TAGS = {APP: ["v1", "latest", "old", "multi", "foreign"], OTHER: ["copied", "long"]}


async def served(driver: StorageDriver) -> dict[str, bytes]:
    """Return everything that clients get."""
    registry = Registry(driver)
    found: dict[str, bytes] = {}
    for name, contents in BLOBS.items():
        for content in contents:
            with suppress(BlobUnknown):
                blob = await read_blob(registry.repository(name), of(content))
                if Digest.of(blob) == of(content):
                    found[f"{name} {of(content)}"] = blob
    for name, contents in MANIFESTS.items():
        manifests = registry.repository(name).manifests
        for content in contents:
            with suppress(ManifestUnknown):
                found[f"{name} {of(content)}"] = (await manifests.get(of(content))).content
    for name, tagged in TAGS.items():
        repository = registry.repository(name)
        for text in tagged:
            with suppress(ManifestUnknown):
                digest = await repository.tags.resolve(Tag(text))
                found[f"{name}:{text}"] = (await repository.manifests.get(digest)).content
    page = await registry.repository(APP).referrers.page(of(IMAGE), artifact_type=None, limit=9)
    for descriptor in page.descriptors:
        found[f"referrer {descriptor.digest}"] = str(descriptor).encode()
    return found


async def everything(driver: StorageDriver) -> dict[str, bytes]:
    """Return every file, wherever it lies; those in quarantine by the path they had."""
    found = {}
    for folder in ("/docker", paths.QUARANTINE):
        async for info in driver.walk(folder):
            found[info.path] = await driver.read(info.path)
    return found


CORRUPT = {
    "layer corrupt": (layer(LAYERS[1]), revision(IMAGE)),
    "layer empty": (layer(LAYERS[1]), revision(IMAGE)),
    "sha512 layer corrupt": (
        paths.blob_link(OTHER, of(SHA512_LAYER, Algorithm.SHA512)),
        paths.revision_link(OTHER, of(LONG_IMAGE, Algorithm.SHA512)),
    ),
}
"""Where data is taken away, and the link and the manifest that miss it then."""


@pytest.mark.parametrize("name", sorted(DAMAGES.keys() - CORRUPT.keys()))
async def test_what_was_repaired_is_not_found_again(name: str) -> None:
    driver = InMemoryDriver()
    await fill(driver)
    await inflict(driver, DAMAGES[name][0])

    repaired = await check(driver, run="run")
    again = await check(driver)

    assert [f for f in repaired.findings if f.kind in REPAIRABLE and not f.repaired] == []
    assert [f for f in again.findings if f.kind in REPAIRABLE] == []
    assert set(again.found()) <= set(repaired.found())


@pytest.mark.parametrize("name", CORRUPT)
async def test_corrupt_data_is_missed_when_it_was_taken_away(name: str) -> None:
    driver = InMemoryDriver()
    await fill(driver)
    await inflict(driver, DAMAGES[name][0])
    path = DAMAGES[name][1][0][1]
    link, manifest = CORRUPT[name]

    repaired = await check(driver, run="run")

    assert repaired.found() == [
        ("blob-corrupt", path),
        ("blob-missing", link),
        ("manifest-incomplete", manifest),
    ]
    assert repaired.summary.broken == 1, "its manifest still is"
    assert await walked(driver, PLACE) == [f"{PLACE}{path}", f"{PLACE}{link}"]
    assert (await check(driver)).found() == [("manifest-incomplete", manifest)]


@pytest.mark.parametrize("name", DAMAGES)
async def test_a_repair_spares_what_is_served_and_loses_nothing(name: str) -> None:
    driver = InMemoryDriver()
    await fill(driver)
    sound = await served(driver)
    await inflict(driver, DAMAGES[name][0])
    before, files = await served(driver), await everything(driver)

    await check(driver, run="run")

    after = await served(driver)
    shown = before.items() & sound.items()
    assert shown <= after.items() <= sound.items()
    kept = set((await everything(driver)).values())
    assert {content for path, content in files.items() if not path.endswith("/scanned")} <= kept


@pytest.mark.parametrize("name", DAMAGES)
async def test_repairing_twice_changes_nothing_more(name: str) -> None:
    driver = InMemoryDriver()
    await fill(driver)
    await inflict(driver, DAMAGES[name][0])
    for number in range(2):
        await check(driver, run=f"run-{number}")
    before = await everything(driver)

    again = await check(driver, run="again")

    assert await everything(driver) == before
    assert again.summary.repaired.total() == 0


LINKS: dict[str, tuple[str, bytes]] = {
    "layer link empty": (layer(LAYERS[1]), str(of(LAYERS[1])).encode()),
    "revision link to another": (revision(INDEX), str(of(INDEX)).encode()),
}


@pytest.mark.parametrize("name", LINKS)
async def test_a_link_whose_data_is_there_is_written_anew(name: str) -> None:
    driver = InMemoryDriver()
    await fill(driver)
    await inflict(driver, DAMAGES[name][0])
    path, content = LINKS[name]
    held = DAMAGES[name][0][path]

    await check(driver, run="run")

    assert await driver.read(path) == content
    assert await driver.read(f"{PLACE}{path}") == held


@pytest.mark.parametrize("kind", ["filesystem", "inmemory"])
async def test_links_to_nothing_keep_their_paths_in_quarantine(kind: str, tmp_path: Path) -> None:
    driver: StorageDriver = InMemoryDriver()
    if kind == "filesystem":
        driver = FilesystemDriver(tmp_path)
    await fill(driver)
    await driver.delete(data(IMAGE))

    checked = await check(driver, run="run")

    links = [revision(IMAGE), tag("latest"), tag("v1"), HISTORY]
    assert await walked(driver, PLACE) == sorted(f"{PLACE}{link}" for link in links)
    assert {finding.repaired for finding in checked.findings} == {
        f"moved to {PLACE}{path}"
        for path in (
            revision(IMAGE),
            paths.tag(APP, Tag("v1")),
            paths.tag(APP, Tag("latest")),
        )
    }
    tags = await Registry(driver).repository(APP).tags.page(limit=None)
    assert tags.names == ["foreign", "multi", "old"]
    assert of(IMAGE).encoded not in await driver.names(f"{paths.revisions(APP)}/sha256")
    await driver.aclose()


async def walked(driver: StorageDriver, folder: str) -> list[str]:
    return [info.path async for info in driver.walk(folder)]


async def test_a_corrupt_layer_can_be_pushed_again_after_a_repair() -> None:
    driver = InMemoryDriver()
    await fill(driver)
    await inflict(driver, {data(LAYERS[1]): b"rot" * 50_000})
    repository = Registry(driver).repository(APP)
    assert await repository.blobs.stat(of(LAYERS[1])) == 150_000

    await check(driver, run="run")
    with pytest.raises(BlobUnknown):
        await repository.blobs.stat(of(LAYERS[1]))
    await push_blob(repository, LAYERS[1])

    assert (await check(driver)).findings == []
    assert await driver.read(f"{PLACE}{data(LAYERS[1])}") == b"rot" * 50_000


class Killed(Exception):
    """The process is no more."""


async def test_a_repair_may_be_killed_at_any_call() -> None:
    changes: dict[str, bytes | None] = {}
    for name in (
        "sha512 layer corrupt",
        "layer link empty",
        "manifest data missing",
        "revision of the history missing",
        "tag without current",
        "entry torn",
        "unneeded link without data, new",
    ):
        changes |= DAMAGES[name][0]
    for number in count():
        memory = InMemoryDriver()
        await fill(memory)
        await inflict(memory, changes)
        before = await served(memory)
        is_killed = False
        try:
            await check(DyingDriver(memory, number), run="killed")
        except* Killed:
            is_killed = True
        half = await served(memory)

        await check(memory, run="again")
        await check(memory, run="and-again")
        found = await check(memory)

        after = await served(memory)
        assert [{key: then.get(key) for key in before} for then in (half, after)] == [before] * 2
        assert [f for f in found.findings if f.kind in REPAIRABLE] == []
        if not is_killed:
            break
    assert number > 100


class DyingDriver(WatchedDriver):
    """Dies instead of a call, and never answers again."""

    def __init__(self, driver: StorageDriver, life: int) -> None:
        super().__init__(driver)
        self._life = life

    @override
    async def meet(self, operation: str, path: str) -> None:
        self._life -= 1
        if self._life < 0:
            raise Killed


@pytest.mark.parametrize("error", [Busy, OutOfSpace])
async def test_what_cannot_be_repaired_is_said(error: type[Busy | OutOfSpace]) -> None:
    memory = InMemoryDriver()
    await fill(memory)
    await inflict(memory, {data(IMAGE): None})
    driver = FailingDriver(memory)
    refused = "lock" if error is Busy else "write"
    driver.error = lambda operation, path: (
        error(driver="fake", path=path) if operation == refused and path != "fsck-repair" else None
    )

    checked = await check(driver, run="run")

    assert checked.summary.broken == 3
    assert {finding.repaired for finding in checked.findings} == {None}
    assert all("fake" in (finding.failure or "") for finding in checked.findings)


class InterruptingDriver(WatchedDriver):
    """Lets somebody else do something right before one of the calls.

    Args:
        driver: What it passes the calls on to.
        moment: How many calls, or how many of an operation, come before that.
        act: What is done then.
        operation: Which calls count; None for all.
    """

    def __init__(
        self,
        driver: StorageDriver,
        moment: int,
        act: Callable[[], Awaitable[object]],
        operation: str | None = None,
    ) -> None:
        super().__init__(driver)
        self._left = moment
        self._act = act
        self._operation = operation
        self.has_acted = False

    @override
    async def meet(self, operation: str, path: str) -> None:
        if self._operation in (None, operation) and not self.has_acted:
            self._left -= 1
            if self._left < 0:
                self.has_acted = True
                await self._act()


@pytest.mark.parametrize("damage", [None, b"rot" * 50_000], ids=["missing", "corrupt"])
async def test_a_blob_that_is_pushed_during_its_repair_stays(damage: bytes | None) -> None:
    """Whatever call the push comes before."""
    for number in count():
        memory = InMemoryDriver()
        await fill(memory)
        await inflict(memory, {data(LAYERS[1]): damage})
        pusher = Registry(memory).repository(APP)
        driver = InterruptingDriver(memory, number, lambda: push_blob(pusher, LAYERS[1]))  # noqa: B023 -- called in this round
        await check(driver, run="run")
        if not driver.has_acted:
            break

        assert await read_blob(Registry(memory).repository(APP), of(LAYERS[1])) == LAYERS[1]
        assert (await check(memory)).findings == []
    assert number > 50


@pytest.mark.parametrize(
    "name", ["manifest data missing", "revision link empty", "tag empty", "tag without current"]
)
async def test_a_manifest_that_is_pushed_during_a_repair_stays(name: str) -> None:
    """Whatever call the push begins before; it waits where the repository is locked."""
    for number in count():
        memory = InMemoryDriver()
        await fill(memory)
        await inflict(memory, DAMAGES[name][0])
        pusher = Registry(memory).repository(APP)
        pushes: list[asyncio.Task[Digest]] = []

        async def begin(
            pusher: Repository = pusher, pushes: list[asyncio.Task[Digest]] = pushes
        ) -> None:
            for content, tags in ((IMAGE, ["v1", "latest"]), (INDEX, ["multi"])):
                pushes.append(asyncio.ensure_future(put(pusher, content, *tags)))
            for _ in range(5):
                await asyncio.sleep(0)

        driver = InterruptingDriver(memory, number, begin)
        await check(driver, run="run")
        if not driver.has_acted:
            break
        await asyncio.gather(*pushes)

        assert (await check(memory)).summary.broken == 0
        for tag_, content in (("v1", IMAGE), ("latest", IMAGE), ("multi", INDEX)):
            digest = await pusher.tags.resolve(Tag(tag_))
            assert (await Registry(memory).repository(APP).manifests.get(digest)).content == content
    assert number > 50


@pytest.mark.parametrize(
    ("path", "content"),
    [
        (layer(LAYERS[1]), str(of(LAYERS[1])).encode()),
        (revision(IMAGE), str(of(IMAGE)).encode()),
        (data(LAYERS[2]), LAYERS[2]),
    ],
    ids=["layer", "manifest", "blob"],
)
async def test_what_a_killed_repair_took_from_a_push_is_given_back(
    path: str, content: bytes
) -> None:
    """A push commits between the last look and the move, and then the process dies."""
    memory = InMemoryDriver()
    await fill(memory)
    await memory.delete(path)
    await memory.publish(
        Write(f"{PLACE}/unfinished/one", path.encode()), Write(f"{PLACE}{path}", content)
    )

    checked = await check(memory, run="next")

    assert (checked.findings, checked.summary.given_back) == ([], [path])
    assert await walked(memory, paths.QUARANTINE) == []


class Sick(InMemoryDriver):
    """Fails once when it is asked for something in quarantine."""

    is_sick = False

    @override
    async def stat(self, path: str) -> FileInfo:
        if self.is_sick and path.startswith(paths.QUARANTINE):
            self.is_sick = False
            raise Unreachable("503", driver="sick", path=path)
        return await super().stat(path)


async def test_what_could_not_be_looked_at_is_given_back_by_the_next_repair() -> None:
    """Somebody has pushed a corrupt blob again, which was moved by then."""
    sick = Sick()
    path = data(LAYERS[2])
    await fill(sick)
    old = datetime(2020, 1, 1, tzinfo=UTC)
    finding = Finding(Kind.BLOB_CORRUPT, path, "corrupt", size=3, modified_at=old)
    sick.is_sick = True
    repairer = Repairer(sick, "first")
    with pytest.raises(Unreachable):
        await repairer.repair(finding)
    # What comes after it does not make it forgotten.
    await inflict(sick, {layer(b"gone"): str(of(b"gone")).encode()})
    assert await repairer.repair(Finding(Kind.BLOB_MISSING, layer(b"gone"), "no data"))

    assert await Repairer(sick, "second").begin() == [path]
    assert await sick.read(path) == LAYERS[2]
    assert await Repairer(sick, "third").begin() == []


@pytest.mark.parametrize("path", [tag("stale"), layer(b"gone"), ""])
async def test_what_a_killed_repair_took_with_reason_stays_away(path: str) -> None:
    """Whatever else it had taken before, too: that was settled."""
    memory = InMemoryDriver()
    await fill(memory)
    taken = {
        f"{PLACE}{tag('stale')}": str(of(IMAGE)).encode(),
        f"{PLACE}{layer(b'gone')}": str(of(b"gone")).encode(),
        f"{PLACE}{paths.revision_link(OTHER, of(IMAGE))}": str(of(IMAGE)).encode(),
    }
    await inflict(memory, {f"{PLACE}/unfinished/one": path.encode(), **taken})

    assert await Repairer(memory, "next").begin() == []

    assert await walked(memory, paths.QUARANTINE) == sorted(taken)


async def test_nobody_deletes_while_a_killed_repair_is_made_up_for() -> None:
    memory = InMemoryDriver()
    await fill(memory)
    link = layer(LAYERS[1])
    await inflict(memory, {link: None, f"{PLACE}{link}": str(of(LAYERS[1])).encode()})
    await inflict(memory, {f"{PLACE}/unfinished/one": link.encode()})
    deletions: list[asyncio.Task[None]] = []

    async def delete_there() -> None:
        blobs = Registry(memory).repository(APP).blobs
        deletions.append(asyncio.ensure_future(blobs.delete(of(LAYERS[1]))))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not deletions[0].done()

    driver = InterruptingDriver(memory, 0, delete_there, operation="move")
    assert await Repairer(driver, "next").begin() == [link]
    await asyncio.gather(*deletions)

    with pytest.raises(BlobUnknown):
        await Registry(memory).repository(APP).blobs.stat(of(LAYERS[1]))


@pytest.mark.parametrize("last", [revision(IMAGE), layer(LAYERS[1])], ids=["manifest", "layer"])
async def test_what_was_repaired_pushed_again_and_deleted_does_not_come_back(last: str) -> None:
    """The repair does not get any further than that: it is stopped, or fails."""
    memory = InMemoryDriver()
    await fill(memory)
    await inflict(memory, {data(IMAGE): None, data(LAYERS[1]): None})
    repository = Registry(memory).repository(APP)
    repairer = Repairer(memory, "run")
    found = (await check(memory)).findings
    for finding in sorted(found, key=lambda finding: finding.path == last):
        await repairer.repair(finding)

    await push_blob(repository, LAYERS[1])
    await put(repository, IMAGE, "v1")
    await repository.manifests.delete(of(IMAGE))
    await repository.blobs.delete(of(LAYERS[1]))
    repaired = await check(memory, run="again")

    assert repaired.summary.given_back == []
    with pytest.raises(ManifestUnknown):
        await repository.manifests.get(of(IMAGE))
    with pytest.raises(BlobUnknown):
        await repository.blobs.stat(of(LAYERS[1]))


async def test_a_move_that_fails_leaves_no_mark() -> None:
    memory = InMemoryDriver()
    await fill(memory)
    await inflict(memory, {layer(b"lost"): str(of(b"lost")).encode()})
    driver = FailingDriver(memory)
    driver.error = lambda operation, path: (
        OutOfSpace(driver="fake", path=path) if operation == "move" else None
    )

    checked = await check(driver, run="run")

    assert [finding.failure for finding in checked.findings] != [None]
    marks = [path for operation, path in driver.calls if path.startswith(f"{PLACE}/unfinished/")]
    assert marks
    assert await walked(memory, paths.QUARANTINE) == []


async def test_a_move_that_is_stopped_comes_to_its_end() -> None:
    """A push commits right before it: what it moved still goes back."""
    for number in count():
        memory = InMemoryDriver()
        await fill(memory)
        await inflict(memory, {data(LAYERS[1]): None})
        missing = next(f for f in (await check(memory)).findings if f.path == layer(LAYERS[1]))
        pusher = Registry(memory).repository(APP)
        interrupted = InterruptingDriver(
            memory,
            0,
            lambda: push_blob(pusher, LAYERS[1]),  # noqa: B023 -- called in this round
            operation="move",
        )
        driver = DawdlingDriver(interrupted, random.Random(number))
        task = asyncio.ensure_future(Repairer(driver, "run").repair(missing))
        for _ in range(number):
            await asyncio.sleep(0)
        is_stopped = task.cancel()
        with suppress(asyncio.CancelledError):
            await task

        assert await walked(memory, paths.QUARANTINE) == []
        assert layer(LAYERS[1]) in await walked(memory, paths.ROOT)
        if not is_stopped:
            break
    assert number > 5


async def test_pushes_wait_while_a_repository_is_repaired() -> None:
    memory = InMemoryDriver()
    await fill(memory)
    await inflict(memory, {tag("broken"): b""})
    pushes: list[asyncio.Task[Digest]] = []
    repository = Registry(memory).repository(APP)

    async def push_there() -> None:
        pushes.append(asyncio.ensure_future(put(repository, IMAGE, "broken")))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not pushes[0].done()

    driver = InterruptingDriver(memory, 0, push_there, operation="move")
    await check(driver, run="run")
    await asyncio.gather(*pushes)

    assert driver.has_acted
    assert await repository.tags.resolve(Tag("broken")) == of(IMAGE)
    assert (await check(memory)).findings == []


async def test_referrers_of_another_registry_are_indexed() -> None:
    driver = InMemoryDriver()
    await fill(driver)
    await driver.delete(f"{paths.REPOSITORIES}/{APP}/_referrers")

    found = await check(driver, run="run")

    assert found.found() == [("referrer-not-indexed", entry(REFERRER))]
    assert (await check(driver)).findings == []


async def test_garbage_that_is_data_is_never_touched() -> None:
    driver = InMemoryDriver()
    await fill(driver)
    await inflict(driver, {data(b"unlinked"): b"unlinked", f"{paths.ROOT}/stray": b"stray"})
    before = await everything(driver)

    await check(driver, rules=Rules(timedelta(0), timedelta(0)), run="run")

    assert await everything(driver) == before
