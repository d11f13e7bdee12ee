"""Which repositories there are in a bucket, where no folder stays when it is empty."""

import pytest

from alauda_registry.oci.digest import Digest
from alauda_registry.oci.errors import NameUnknown
from alauda_registry.oci.reference import RepositoryName
from alauda_registry.storage.pages import Page
from alauda_registry.storage.repositories import Registry
from tests.parts.fake_bucket import FakeBucket, FakeTransport
from tests.torture.replicas_of_bucket import driver_over
from tests.unit.storage.pushing import index, push

pytestmark = pytest.mark.anyio


@pytest.fixture
def registry() -> Registry:
    return Registry(driver_over(FakeTransport(FakeBucket(lambda: 1_700_000_000.0))))


async def test_it_has_an_empty_list_of_tags_after_its_last_manifest(registry: Registry) -> None:
    repository = registry.repository(RepositoryName("team/app"))
    await push(repository, index(), "v1")

    await repository.manifests.delete(Digest.of(index()))

    assert await repository.tags.page(limit=10) == Page([], more=False)


async def test_it_is_unknown_when_only_repositories_below_it_have_something(
    registry: Registry,
) -> None:
    await push(registry.repository(RepositoryName("team/app")), index(), "v1")
    await push(registry.repository(RepositoryName("team/0")), index(), "v1")

    with pytest.raises(NameUnknown):
        await registry.repository(RepositoryName("team")).tags.page(limit=10)


async def test_it_is_unknown_while_only_an_upload_is_under_way(registry: Registry) -> None:
    repository = registry.repository(RepositoryName("team/app"))
    await repository.uploads.start()

    with pytest.raises(NameUnknown):
        await repository.tags.page(limit=10)
