"""A push into a bucket while others delete manifests there, which it does not wait for."""

import json
from itertools import count

import pytest

from alauda_registry.oci.digest import Digest
from alauda_registry.oci.reference import RepositoryName, Tag
from alauda_registry.storage.drivers.s3.transport import Request
from alauda_registry.storage.repositories import Registry, Repository
from tests.parts.fake_bucket import FakeBucket, FakeTransport
from tests.torture.replicas_of_bucket import driver_over
from tests.unit.storage.pushing import index, push

pytestmark = pytest.mark.anyio

_GATE = "_driver/locks/gate-"
_ENOUGH = 20


@pytest.fixture
def bucket() -> FakeBucket:
    return FakeBucket(lambda: 1_700_000_000.0)


@pytest.fixture
def repository(bucket: FakeBucket) -> Repository:
    return Registry(driver_over(FakeTransport(bucket))).repository(RepositoryName("team/app"))


class Deletions:
    """Lets a deletion have come and gone whenever a push looks for one.

    Args:
        bucket: Where.
        taking: What the first ones take away, a key each.
    """

    def __init__(self, bucket: FakeBucket, *taking: str) -> None:
        self.looks = 0
        self._bucket = bucket
        self._taking = list(taking)
        self._numbers = count()
        bucket.on_request = self._before

    def _before(self, request: Request) -> None:
        if request.method != "GET" or not request.key.startswith(_GATE):
            return
        self.looks += 1
        assert self.looks < _ENOUGH, "the push goes on as long as somebody deletes"
        state = {"id": str(next(self._numbers)), "exclusive": "", "shared": []}
        self._bucket.put(request.key, json.dumps(state).encode())
        if self.looks > 1 and self._taking:
            del self._bucket.objects[self._taking.pop(0)]


async def test_it_ends_though_they_go_on_one_after_the_other(
    bucket: FakeBucket, repository: Repository
) -> None:
    deletions = Deletions(bucket)

    await push(repository, index(), "v1")

    assert deletions.looks == 2
    assert await repository.tags.resolve(Tag("v1")) == Digest.of(index())


async def test_it_looks_again_after_it_wrote_again_what_they_took(
    bucket: FakeBucket, repository: Repository
) -> None:
    digest = Digest.of(index())
    manifests = "docker/registry/v2/repositories/team/app/_manifests"
    tag = f"{manifests}/tags/v1/current/link"
    revision = f"{manifests}/revisions/sha256/{digest.encoded}/link"
    deletions = Deletions(bucket, tag, revision)

    await push(repository, index(), "v1")

    assert deletions.looks == 4
    assert await repository.tags.resolve(Tag("v1")) == digest
