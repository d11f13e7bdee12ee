"""A pull by tag meets a push that moves it and a deletion of what it pointed to before."""

from contextlib import nullcontext

import pytest
from starlette.testclient import TestClient
from typing_extensions import override

from alauda_registry.oci.digest import Digest
from alauda_registry.oci.reference import Tag
from alauda_registry.server.app import create_app
from alauda_registry.server.state import ServerOptions
from alauda_registry.storage import paths
from alauda_registry.storage.drivers.inmemory import InMemoryDriver
from alauda_registry.storage.repositories import Registry
from tests.unit.storage.pushing import NAME, image, push
from tests.unit.storage.watching import WatchedDriver

OLD, NEW = image(annotations={"number": "1"}), image(annotations={"number": "2"})


class MovedMeanwhile(WatchedDriver):
    """Lets another replica move the tag and delete its manifest at one of the looks for that."""

    def __init__(self, memory: InMemoryDriver, look: int) -> None:
        super().__init__(memory)
        self.elsewhere = Registry(memory).repository(NAME)
        self.looks_left = look

    @override
    async def meet(self, operation: str, path: str) -> None:
        if (operation, path) == ("read", paths.revision_link(NAME, Digest.of(OLD))):
            self.looks_left -= 1
            if self.looks_left == 0:
                await push(self.elsewhere, NEW, Tag("latest"))
                await self.elsewhere.manifests.delete(Digest.of(OLD))


@pytest.mark.parametrize("look", [1, 2])
def test_a_pull_gets_what_the_tag_points_to_now(look: int) -> None:
    memory = InMemoryDriver()
    driver = MovedMeanwhile(memory, look)
    app = create_app(lambda: nullcontext(Registry(driver)), ServerOptions())
    with TestClient(app) as client:
        assert client.portal is not None
        client.portal.call(push, driver.elsewhere, OLD, "latest")

        answer = client.get(f"/v2/{NAME}/manifests/latest")

        assert (answer.status_code, answer.content) == (200, NEW)
        assert driver.looks_left == 0
