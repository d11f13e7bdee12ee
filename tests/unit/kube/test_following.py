"""List, then watch, for ever."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import pytest
from typing_extensions import override

from alauda_registry.kube.errors import Unreachable
from alauda_registry.kube.following import Followed
from alauda_registry.kube.inmemory_resources import InMemoryResources
from alauda_registry.kube.resources import GroupVersionResource, Manifest, WatchEvent

pytestmark = pytest.mark.anyio

CONFIG_MAPS = GroupVersionResource("", "v1", "configmaps")


def config_map(name: str, namespace: str = "team", **data: str) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace},
        "data": data,
    }


@asynccontextmanager
async def running(followed: Followed) -> AsyncIterator[None]:
    task = asyncio.ensure_future(followed.run())
    try:
        yield
    finally:
        task.cancel()


async def eventually(holds: Callable[[], object]) -> None:
    with anyio.fail_after(30):
        while not holds():  # noqa: ASYNC110 -- no event tells
            await anyio.sleep(0.01)


async def test_what_is_there_and_what_happens_is_seen() -> None:
    cluster = InMemoryResources()
    await cluster.create(CONFIG_MAPS, config_map("a"))
    followed = Followed(cluster, CONFIG_MAPS)
    async with running(followed):
        await eventually(lambda: followed.get("a", "team"))

        made = await cluster.create(CONFIG_MAPS, config_map("b"))
        await eventually(lambda: followed.get("b", "team"))
        changed = await cluster.update(CONFIG_MAPS, made | {"data": {"x": "y"}})
        await eventually(lambda: followed.get("b", "team") == changed)
        metadata = changed["metadata"]
        await cluster.delete(
            *(CONFIG_MAPS, "team", "b"), uid=metadata["uid"], revision=metadata["resourceVersion"]
        )
        await eventually(lambda: followed.get("b", "team") is None)

    assert cluster.requests.count(("list", "configmaps")) == 1


async def test_only_what_is_asked_for_is_seen() -> None:
    cluster = InMemoryResources()
    followed = Followed(cluster, CONFIG_MAPS, namespace="team", name="a")
    async with running(followed):
        await eventually(lambda: followed.is_known)
        for name, namespace in (("a", "other"), ("b", "team"), ("a", "team")):
            await cluster.create(CONFIG_MAPS, config_map(name, namespace))
        await eventually(lambda: followed.get("a", "team"))

        assert followed.get("a", "other") is None
        assert followed.get("b", "team") is None


async def test_while_nobody_answers_the_last_state_stays() -> None:
    cluster = InMemoryResources()
    await cluster.create(CONFIG_MAPS, config_map("a"))
    followed = Followed(cluster, CONFIG_MAPS)
    async with running(followed):
        await eventually(lambda: followed.get("a", "team"))

        cluster.disturb(Unreachable("away"))
        await eventually(lambda: followed.trouble == "away")
        assert followed.is_known
        assert followed.get("a", "team")
        cluster.disturb(None)
        await cluster.create(CONFIG_MAPS, config_map("b"))

        await eventually(lambda: followed.get("b", "team"))
        assert followed.trouble == ""


async def test_a_past_that_is_forgotten_is_read_anew() -> None:
    cluster = InMemoryResources()
    made = await cluster.create(CONFIG_MAPS, config_map("a"))
    followed = Followed(cluster, CONFIG_MAPS)
    async with running(followed):
        await eventually(lambda: followed.get("a", "team"))
        cluster.disturb(Unreachable("away"))
        await eventually(lambda: followed.trouble)
        # After a longer absence it would look again more seldom.
        followed._pause = 100
        cluster.trouble = None
        metadata = made["metadata"]
        await cluster.delete(
            *(CONFIG_MAPS, "team", "a"), uid=metadata["uid"], revision=metadata["resourceVersion"]
        )
        cluster.compact()

        await eventually(lambda: followed.get("a", "team") is None)
    assert cluster.requests.count(("list", "configmaps")) == 2


async def test_watches_that_are_ended_at_once_are_opened_more_and_more_seldom() -> None:
    class Impatient(InMemoryResources):
        @override
        @asynccontextmanager
        async def watch(
            self, of: GroupVersionResource, revision: str, *, namespace: str = "", name: str = ""
        ) -> AsyncIterator[AsyncIterator[WatchEvent]]:
            self.compact()
            async with super().watch(of, "0", namespace=namespace, name=name) as events:
                yield events

    cluster = Impatient()
    async with running(Followed(cluster, CONFIG_MAPS)):
        await anyio.sleep(1)

    assert cluster.requests.count(("watch", "configmaps")) <= 3
