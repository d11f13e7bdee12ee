"""A tag that moves while it is read is never absent, and neither is what it points to."""

import pytest
from typing_extensions import override

from alauda_registry.oci.digest import Digest
from alauda_registry.oci.errors import ManifestUnknown
from alauda_registry.oci.reference import Tag
from alauda_registry.storage import paths
from alauda_registry.storage.drivers.inmemory import InMemoryDriver
from alauda_registry.storage.repositories import Registry
from tests.unit.storage.pushing import NAME, image, push
from tests.unit.storage.watching import WatchedDriver

pytestmark = pytest.mark.anyio

TAG = Tag("latest")
CONTENTS = [image(annotations={"number": str(number)}) for number in range(3)]
DIGESTS = [Digest.of(content) for content in CONTENTS]


class MovedMeanwhile(WatchedDriver):
    """Lets another replica move the tag and delete its manifest just before that is looked for."""

    def __init__(self, memory: InMemoryDriver, moves: int) -> None:
        super().__init__(memory)
        self.elsewhere = Registry(memory).repository(NAME)
        self.moves = moves
        self.at = 0

    @override
    async def meet(self, operation: str, path: str) -> None:
        if path == paths.revision_link(NAME, DIGESTS[self.at]) and self.at < self.moves:
            self.at += 1
            await push(self.elsewhere, CONTENTS[self.at], TAG)
            await self.elsewhere.manifests.delete(DIGESTS[self.at - 1])


@pytest.mark.parametrize("moves", [0, 1, 2])
async def test_a_tag_that_moves_while_it_is_read_leads_to_where_it_moved(moves: int) -> None:
    memory = InMemoryDriver()
    await push(Registry(memory).repository(NAME), CONTENTS[0], TAG)

    resolved = await Registry(MovedMeanwhile(memory, moves)).repository(NAME).tags.resolve(TAG)

    assert resolved == DIGESTS[moves]


async def test_a_tag_that_is_deleted_while_it_is_read_is_absent() -> None:
    memory = InMemoryDriver()
    elsewhere = Registry(memory).repository(NAME)
    await push(elsewhere, CONTENTS[0], TAG)

    class DeletedMeanwhile(WatchedDriver):
        @override
        async def meet(self, operation: str, path: str) -> None:
            if path == paths.revision_link(NAME, DIGESTS[0]):
                await elsewhere.manifests.delete(DIGESTS[0])

    with pytest.raises(ManifestUnknown):
        await Registry(DeletedMeanwhile(memory)).repository(NAME).tags.resolve(TAG)
