"""Whatever clients do, and however their requests interleave, a check finds nothing broken."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

import pytest
from hypothesis import given, strategies as st

from alauda_registry.oci.digest import Algorithm, Digest
from alauda_registry.oci.errors import (
    BlobUnknown,
    BlobUploadUnknown,
    ManifestBlobUnknown,
    ManifestUnknown,
)
from alauda_registry.oci.media_types import OCI_MANIFEST
from alauda_registry.oci.reference import RepositoryName, Tag
from alauda_registry.storage.drivers.inmemory import InMemoryDriver
from alauda_registry.storage.fsck.findings import Severity
from alauda_registry.storage.repositories import Registry, Repository
from tests.unit.storage.fsck.checking import check
from tests.unit.storage.pushing import EMPTY, descriptor, image, index, piece, push_blob, put
from tests.unit.storage.watching import DawdlingDriver

pytestmark = pytest.mark.anyio

REFUSALS = (BlobUnknown, BlobUploadUnknown, ManifestBlobUnknown, ManifestUnknown)
LAYERS = [b"a", b"b"]
IMAGES = [image(*LAYERS), image(LAYERS[0]), image()]
MANIFESTS = [
    *IMAGES,
    index(*IMAGES[:2]),
    image(subject=descriptor(IMAGES[0], OCI_MANIFEST), artifactType="type/a"),
    image(subject=descriptor(b"never pushed", OCI_MANIFEST), artifactType="type/b"),
]
NAMES = [RepositoryName("team/app"), RepositoryName("team"), RepositoryName("team/app/deep")]
TAGS = ["v1", "latest"]
Action = Callable[[], Awaitable[object]]


def choose(repositories: list[Repository], die: random.Random) -> Iterator[Action]:
    """Yield what clients do, one after the other."""
    while True:
        repository, content = die.choice(repositories), die.choice(MANIFESTS)
        blob, algorithm = die.choice([EMPTY, *LAYERS]), die.choice([*Algorithm])
        match die.randrange(11):
            case 0 | 1 | 2:
                tags = die.sample(TAGS, die.randrange(3))
                yield partial(put, repository, content, *tags, algorithm=algorithm)
            case 3 | 4:
                yield partial(push_blob, repository, blob)
            case 5:
                yield partial(repository.blobs.mount, Digest.of(blob), die.choice(NAMES))
            case 6:
                yield partial(repository.manifests.delete, Digest.of(content, algorithm))
            case 7:
                yield partial(repository.tags.delete, Tag(die.choice(TAGS)))
            case 8:
                yield partial(leave_upload, repository)
            case 9:
                yield partial(list_referrers, repository)
            case _:
                yield partial(push_blob, repository, blob, Algorithm.SHA512)


async def leave_upload(repository: Repository) -> None:
    session = await repository.uploads.start()
    await session.append(piece(b"half"))


async def list_referrers(repository: Repository) -> None:
    subject = Digest.of(IMAGES[0])
    await repository.referrers.page(subject, artifact_type=None, limit=10)


async def attempt(action: Action) -> None:
    try:
        await action()
    except REFUSALS:
        return


@given(st.integers(0, 2**32), st.integers(1, 60))
def test_no_history_of_requests_is_broken(seed: int, length: int) -> None:
    async def live() -> None:
        memory, die = InMemoryDriver(), random.Random(seed)
        repositories = [Registry(memory).repository(name) for name in NAMES]
        for repository in repositories:
            await attempt(partial(push_blob, repository, EMPTY))
        actions = choose(repositories, die)
        for _ in range(length):
            await attempt(next(actions))

        found = (await check(memory)).findings

        assert [f for f in found if f.kind.severity is Severity.BROKEN] == []

    asyncio.run(live())


@given(st.integers(0, 2**32), st.sampled_from(["repairing", "locking", "looking"]))
def test_nothing_is_broken_while_requests_are_under_way(seed: int, way: str) -> None:
    """Every request, and every look of the check, waits for others as a die says."""

    async def live() -> None:
        memory, die = InMemoryDriver(), random.Random(seed)
        driver = DawdlingDriver(memory, die)
        repositories = [Registry(driver).repository(name) for name in NAMES]
        for repository in repositories:
            for blob in (EMPTY, *LAYERS):
                await push_blob(repository, blob)
        actions = choose(repositories, die)
        is_over = False

        async def work() -> None:
            while not is_over:
                await attempt(next(actions))

        workers = [asyncio.ensure_future(work()) for _ in range(4)]
        dawdling = DawdlingDriver(memory, die)
        for number in range(2):
            run = f"run-{number}" if way == "repairing" else None
            found = (await check(dawdling, run=run, locking=way != "looking")).findings
            assert [f for f in found if f.kind.severity is Severity.BROKEN] == []
        is_over = True
        await asyncio.gather(*workers)

        found = (await check(memory)).findings
        assert [f for f in found if f.kind.severity is Severity.BROKEN] == []

    asyncio.run(live())
