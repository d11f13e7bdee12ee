"""Object counts of quotas: reserved before something is made, given back when it is not."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from decimal import Decimal

import pytest

from alauda_imageapi.cluster.quotas import QUOTAS, ObjectQuotas, parse_quantity
from alauda_imageapi.kinds.names import GROUP
from alauda_imageapi.machinery.errors import (
    AlreadyExists,
    Forbidden,
    InsufficientStorage,
    ServiceUnavailable,
)
from alauda_imageapi.machinery.resources import Context
from alauda_registry.kube.errors import StorageFull, Unreachable
from alauda_registry.kube.inmemory_resources import InMemoryResources

pytestmark = pytest.mark.anyio

COUNTED = "count/imagestreams.image.alauda.io"
CONTEXT = Context(resource="imagestreams", namespace="team")


@asynccontextmanager
async def following(
    cluster: InMemoryResources, count: int = 1
) -> AsyncIterator[list[ObjectQuotas]]:
    """Have as many replicas that count."""
    replicas = [ObjectQuotas(cluster, GROUP) for _ in range(count)]
    running = [asyncio.ensure_future(replica.run()) for replica in replicas]
    while any(replica.trouble for replica in replicas):  # noqa: ASYNC110 -- nothing else to await
        await asyncio.sleep(0)
    yield replicas
    for task in running:
        task.cancel()
    await asyncio.wait(running)


async def cluster_with(
    hard: str = "2", used: str | None = "0", name: str = "few"
) -> InMemoryResources:
    cluster = InMemoryResources()
    await add_quota(cluster, hard, used, name)
    return cluster


async def add_quota(cluster: InMemoryResources, hard: str, used: str | None, name: str) -> None:
    status = {"hard": {COUNTED: hard, "pods": "1"}, "used": {"pods": "0"}}
    if used is not None:
        status["used"][COUNTED] = used
    metadata = {"namespace": "team", "name": name}
    await cluster.create(QUOTAS, {"metadata": metadata, "status": status})


async def used_of(cluster: InMemoryResources, name: str = "few") -> str:
    found: str = (await cluster.get(QUOTAS, "team", name))["status"]["used"][COUNTED]
    return found


async def reserve(quotas: ObjectQuotas, context: Context = CONTEXT) -> bool:
    try:
        async with quotas.reserve(context, "imagestreams", "app"):
            return True
    except Forbidden:
        return False


async def make(quotas: ObjectQuotas, cluster: InMemoryResources, trouble: Exception) -> None:
    """Make something, which comes to nothing after it was counted."""
    async with quotas.reserve(CONTEXT, "imagestreams", "app"):
        assert await used_of(cluster) == "1"
        raise trouble


async def make_in_vain(quotas: ObjectQuotas, cluster: InMemoryResources, used: str | None) -> None:
    """Make what is there already, while the controller says what is used."""
    async with quotas.reserve(CONTEXT, "imagestreams", "app"):
        await count(cluster, used)
        raise AlreadyExists("there is one")


async def count(cluster: InMemoryResources, used: str | None) -> None:
    """Say what is used, as the controller does; None: it does not know yet."""
    quota = await cluster.get(QUOTAS, "team", "few")
    quota["status"]["used"].pop(COUNTED)
    quota["status"]["used"] |= {} if used is None else {COUNTED: used}
    await cluster.update(QUOTAS, quota, subresource="status")


async def test_of_many_at_once_as_many_are_made_as_there_is_room_for() -> None:
    cluster = await cluster_with("10")
    async with following(cluster, 2) as replicas:
        made = await asyncio.gather(*(reserve(replicas[n % 2]) for n in range(20)))

    assert made.count(True) == 10
    assert await used_of(cluster) == "10"


async def test_what_was_refused_is_given_back() -> None:
    cluster = await cluster_with()
    async with following(cluster) as (quotas,):
        with pytest.raises(AlreadyExists):
            await make(quotas, cluster, AlreadyExists("there is one"))

    assert await used_of(cluster) == "0"


async def test_what_may_have_been_made_stays_counted() -> None:
    cluster = await cluster_with()
    async with following(cluster) as (quotas,):
        with pytest.raises(ConnectionError):
            await make(quotas, cluster, ConnectionError())

    assert await used_of(cluster) == "1"


async def test_what_cannot_be_given_back_hides_neither_the_reason_nor_the_other_quotas() -> None:
    cluster = await cluster_with()
    await add_quota(cluster, "5", "3", "other")
    async with following(cluster) as (quotas,):
        # The administrator has changed it, and the controller has not counted yet.
        with pytest.raises(AlreadyExists):
            await make_in_vain(quotas, cluster, None)

    assert await used_of(cluster, "other") == "3"


async def test_lost_answers_count_too_many_and_never_too_few() -> None:
    cluster = await cluster_with("10")
    async with following(cluster, 2) as replicas:
        for made in range(1, 4):
            cluster.lost_answers = 1
            assert await reserve(replicas[made % 2])

            used = int(await used_of(cluster))
            assert made <= used <= 2 * made
        # The controller counts, and all is as if nothing had been lost.
        await count(cluster, "3")
        results = await asyncio.gather(*(reserve(replicas[n % 2]) for n in range(20)))

    assert results.count(True) == 7
    assert await used_of(cluster) == "10"


async def test_what_the_controller_has_counted_meanwhile_is_not_given_back_twice() -> None:
    cluster = await cluster_with("5", "3")
    async with following(cluster) as (quotas,):
        with pytest.raises(AlreadyExists):
            await make_in_vain(quotas, cluster, "3")

    assert await used_of(cluster) == "3"


async def fail_together(
    cluster: InMemoryResources, quotas: Sequence[ObjectQuotas], made: int = 0
) -> None:
    """Reserve for all, then make as many as said; the others are there already."""
    together = asyncio.Barrier(len(quotas))

    async def make_one(number: int) -> None:
        async with quotas[number].reserve(CONTEXT, "imagestreams", "app"):
            await together.wait()
            if number >= made:
                raise AlreadyExists("there is one")

    results = await asyncio.gather(*map(make_one, range(len(quotas))), return_exceptions=True)
    assert sum(isinstance(result, AlreadyExists) for result in results) == len(quotas) - made


@pytest.mark.parametrize("made", [0, 1])
async def test_of_many_that_fail_at_once_each_is_given_back(made: int) -> None:
    cluster = await cluster_with("50", "3")
    async with following(cluster) as (quotas,):
        await fail_together(cluster, [quotas] * 20, made)

    assert int(await used_of(cluster)) == 3 + made


async def fail(reservation: AbstractAsyncContextManager[None]) -> None:
    """Find that what was reserved for is there already."""
    error = AlreadyExists("there is one")
    await reservation.__aexit__(AlreadyExists, error, None)


async def test_what_was_counted_anew_is_not_lowered_by_what_came_before() -> None:
    cluster = await cluster_with("50", "3")
    async with following(cluster) as (quotas,):
        first, second = (quotas.reserve(CONTEXT, "imagestreams", name) for name in ("a", "b"))
        await first.__aenter__()
        await count(cluster, "3")
        await second.__aenter__()
        await fail(second)
        await fail(first)

    assert await used_of(cluster) == "3"


async def test_what_fails_at_two_replicas_at_once_stays_counted_and_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    cluster = await cluster_with("50", "3")
    async with following(cluster, 2) as replicas:
        first, second = (each.reserve(CONTEXT, "imagestreams", "app") for each in replicas)
        await first.__aenter__()
        await second.__aenter__()
        await fail(first)
        await fail(second)

    # It could as well be the controller that has counted: rather too many than too few.
    assert await used_of(cluster) == "4"
    (message,) = caplog.messages
    assert "few of namespace team may have one too many until the controller counts" in message


async def test_each_quota_has_to_have_room() -> None:
    cluster = await cluster_with("5")
    await add_quota(cluster, "1", "1", "full")
    async with following(cluster) as (quotas,):
        with pytest.raises(Forbidden, match=r"exceeded quota: full, requested: .*=1, used: .*=1"):
            async with quotas.reserve(CONTEXT, "imagestreams", "app"):
                pass

    assert await used_of(cluster) == "0"


async def test_a_trial_is_checked_and_not_counted() -> None:
    cluster = await cluster_with("1")
    trial = Context(resource="imagestreams", namespace="team", dry_run=True)
    async with following(cluster) as (quotas,):
        assert await reserve(quotas, trial)
        assert await used_of(cluster) == "0"
        assert await reserve(quotas)
        assert not await reserve(quotas, trial)


async def test_what_was_not_counted_yet_lets_nothing_in() -> None:
    cluster = await cluster_with(used=None)
    async with following(cluster) as (quotas,):
        with pytest.raises(Forbidden, match=f"status unknown for quota: few, resources: {COUNTED}"):
            async with quotas.reserve(CONTEXT, "imagestreams", "app"):
                pass


@pytest.mark.parametrize("where", ["other", ""])
async def test_other_namespaces_are_not_limited(where: str) -> None:
    cluster = await cluster_with("0")
    async with following(cluster) as (quotas,):
        assert await reserve(quotas, Context(resource="imagestreams", namespace=where))
    assert await used_of(cluster) == "0"


async def test_other_resources_are_not_counted() -> None:
    cluster = await cluster_with("0")
    async with following(cluster) as (quotas,), quotas.reserve(CONTEXT, "others", "app"):
        pass
    assert await used_of(cluster) == "0"


async def test_an_etcd_that_is_full_is_why_nothing_is_made() -> None:
    cluster = await cluster_with()
    async with following(cluster) as (quotas,):
        cluster.disturb(StorageFull("etcdserver: mvcc: database space exceeded"))
        with pytest.raises(InsufficientStorage, match="the etcd of the cluster is full"):
            async with quotas.reserve(CONTEXT, "imagestreams", "app"):
                pass
        cluster.disturb(None)


async def test_without_an_answer_nothing_is_made() -> None:
    cluster = await cluster_with()
    async with following(cluster) as (quotas,):
        cluster.disturb(Unreachable("it is away"))
        with pytest.raises(ServiceUnavailable, match="cannot be counted for quota few"):
            async with quotas.reserve(CONTEXT, "imagestreams", "app"):
                pass


@pytest.mark.parametrize(
    ("text", "number"),
    [("10", 10), ("0", 0), ("1k", 1000), ("1Ki", 1024), ("2M", 2_000_000), ("500m", "0.5")],
)
def test_quantities_are_read(text: str, number: object) -> None:
    assert parse_quantity(text) == Decimal(str(number))


@pytest.mark.parametrize("text", ["", "k", "1x", "one"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no quantity"):
        parse_quantity(text)
