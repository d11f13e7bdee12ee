"""A page costs what is on it, however long the list is: counted, not timed."""

from collections import Counter

import pytest
from typing_extensions import override

from alauda_registry.oci.digest import Digest
from alauda_registry.oci.media_types import OCI_MANIFEST
from alauda_registry.oci.reference import RepositoryName, Tag
from alauda_registry.storage import paths
from alauda_registry.storage.driver import PathNotFound, Step, Write
from alauda_registry.storage.drivers.inmemory import InMemoryDriver
from alauda_registry.storage.pages import Page
from alauda_registry.storage.repositories import Registry
from tests.unit.storage.pushing import NAME, descriptor, image, push
from tests.unit.storage.watching import WatchedDriver

pytestmark = pytest.mark.anyio

MANY = 100_000
SUBJECT = image(annotations={"is": "the subject"})


async def test_a_page_of_tags_reads_the_names_once_and_opens_nothing() -> None:
    memory = InMemoryDriver()
    tags = [f"v{number:06}" for number in range(MANY)]
    link = str(Digest.of(SUBJECT)).encode()
    await memory.publish(*(Write(paths.tag_current(NAME, Tag(tag)), link) for tag in tags))
    watched = WatchedDriver(memory)
    repository = Registry(watched).repository(NAME)

    page = await repository.tags.page(after=tags[50_000], limit=100)

    assert page == Page(tags[50_001:50_101], more=True)
    assert watched.calls == [("names", paths.tags(NAME))]


class ManyRepositories(WatchedDriver):
    """Pretends that a namespace holds very many repositories."""

    names_of_all = tuple(f"app-{number:06}" for number in range(MANY))

    @override
    async def names(self, path: str) -> list[str]:
        await self.meet("names", path)
        match path.removeprefix(paths.REPOSITORIES).split("/")[1:]:
            case []:
                return ["team", "zoo"]
            case ["team"]:
                return list(self.names_of_all)
            case ["team", _]:
                return ["_layers", "_manifests"]
            case _:
                raise PathNotFound(driver=self.name, path=path)


@pytest.mark.parametrize("start", [0, 50_000, MANY - 100])
async def test_a_page_of_the_catalog_touches_only_the_folders_up_to_its_end(start: int) -> None:
    driver = ManyRepositories(InMemoryDriver())
    names = [f"team/{name}" for name in driver.names_of_all]
    after = names[start - 1] if start else ""

    page = await Registry(driver).catalog(after=after, limit=100)

    assert page.names == names[start : start + 100]
    assert page.more == (start + 100 < MANY)
    touched = [path.removeprefix(f"{paths.REPOSITORIES}/") for _, path in driver.calls]
    assert touched[:2] == [paths.REPOSITORIES, "team"]
    # One more on either side: where the last page ended, and whether there is another one.
    expected = names[max(0, start - 1) : start + 101] + ["zoo"] * (not page.more)
    assert touched[2:] == expected


async def write_referrers(memory: InMemoryDriver, count: int) -> list[Digest]:
    """Put referrers into storage the way a registry does that keeps no index."""
    steps: list[Step] = []
    digests = []
    for number in range(count):
        content = image(
            subject=descriptor(SUBJECT, OCI_MANIFEST),
            artifactType=f"application/vnd.example.{number % 10}",
            annotations={"number": str(number)},
        )
        digest = Digest.of(content)
        steps.append(Write(paths.blob_data(digest), content))
        steps.append(Write(paths.revision_link(NAME, digest), str(digest).encode()))
        digests.append(digest)
    await memory.publish(*steps)
    return sorted(digests, key=str)


@pytest.mark.parametrize("artifact_type", [None, "application/vnd.example.3"])
async def test_a_page_of_referrers_opens_only_its_own(artifact_type: str | None) -> None:
    memory = InMemoryDriver()
    digests = await write_referrers(memory, 10_000)
    watched = WatchedDriver(memory)
    repository = Registry(watched).repository(NAME)
    subject = Digest.of(SUBJECT)
    first = await repository.referrers.page(subject, artifact_type=artifact_type, limit=100)
    watched.take()

    assert first.next is not None
    second = await repository.referrers.page(
        subject, artifact_type=artifact_type, after=first.next, limit=100
    )

    found = [entry.digest for entry in second.descriptors]
    assert len(found) == 100
    if artifact_type is None:
        assert found == digests[100:200]
    calls = watched.take()
    assert [path for _, path in calls if "/blobs/" in path] == []
    read = Counter(path for operation, path in calls if operation in {"read", "open", "stat"})
    links = [paths.revision_link(NAME, digest) for digest in found]
    assert [read[link] for link in links] == [1] * 100
    entries = [path for path in read if "/by-subject/" in path]
    assert len(entries) == 100
    # The rest: what the index covers, and the tag that may stand in for it.
    assert len(read) <= 202


async def test_a_push_costs_the_same_however_many_tags_and_manifests_there_are() -> None:
    counts = []
    for many in (10, 3000):
        memory = InMemoryDriver()
        watched = WatchedDriver(memory)
        repository = Registry(watched).repository(NAME)
        await write_referrers(memory, many)
        link = str(Digest.of(SUBJECT)).encode()
        for number in range(many):
            await memory.publish(Write(paths.tag_current(NAME, Tag(f"t{number}")), link))
        await push(repository, SUBJECT)
        watched.take()

        await push(repository, image(annotations={"new": "yes"}), "latest")
        await repository.tags.resolve(Tag("latest"))

        counts.append(Counter(operation for operation, _ in watched.take()))

    assert counts[0] == counts[1]
    assert counts[0]["names"] == 0


async def test_the_names_of_all_repositories_are_never_held_at_once() -> None:
    driver = ManyRepositories(InMemoryDriver())
    opened: list[RepositoryName] = []

    async for name in Registry(driver).names():
        opened.append(name)
        if len(opened) == 3:
            break

    assert opened == [f"team/app-{number:06}" for number in range(3)]
    assert len(driver.calls) == 5
