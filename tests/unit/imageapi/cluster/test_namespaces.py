"""Where nothing is made."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest

from alauda_imageapi.cluster.namespaces import NAMESPACES, NamespaceLifecycle
from alauda_imageapi.kinds.names import GROUP
from alauda_imageapi.machinery.errors import Forbidden, NotFound, ServiceUnavailable
from alauda_imageapi.machinery.resources import Context
from alauda_registry.kube.errors import Unreachable
from alauda_registry.kube.inmemory_resources import InMemoryResources

pytestmark = pytest.mark.anyio


def namespace(name: str, phase: str = "Active") -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name},
        "status": {"phase": phase},
    }


def context(name: str) -> Context:
    return Context(resource="imagestreams", namespace=name)


@asynccontextmanager
async def followed(cluster: InMemoryResources) -> AsyncIterator[NamespaceLifecycle]:
    lifecycle = NamespaceLifecycle(cluster, GROUP)
    following = asyncio.ensure_future(lifecycle.run())
    try:
        with anyio.fail_after(5):
            while lifecycle.trouble:
                await anyio.lowlevel.checkpoint()
        yield lifecycle
    finally:
        following.cancel()


async def test_a_namespace_that_is_followed_is_not_asked_for() -> None:
    cluster = InMemoryResources()
    await cluster.create(NAMESPACES, namespace("team"))
    async with followed(cluster) as lifecycle:
        cluster.requests.clear()

        await lifecycle.admit(context("team"), "app")

        assert ("get", "namespaces") not in cluster.requests


async def test_a_namespace_that_is_not_known_yet_is_asked_for() -> None:
    cluster = InMemoryResources()
    lifecycle = NamespaceLifecycle(cluster, GROUP)
    await cluster.create(NAMESPACES, namespace("team"))

    await lifecycle.admit(context("team"), "app")

    assert cluster.requests[-1] == ("get", "namespaces")


async def test_nothing_is_made_where_nothing_is() -> None:
    lifecycle = NamespaceLifecycle(InMemoryResources(), GROUP)

    with pytest.raises(NotFound) as caught:
        await lifecycle.admit(context("team"), "app")

    assert caught.value.message == 'namespaces "team" not found'
    assert caught.value.details == {"name": "team", "kind": "namespaces"}


async def test_nothing_is_made_where_all_is_ending() -> None:
    cluster = InMemoryResources()
    await cluster.create(NAMESPACES, namespace("team", "Terminating"))
    async with followed(cluster) as lifecycle:
        with pytest.raises(Forbidden) as caught:
            await lifecycle.admit(context("team"), "app")

    assert [cause.reason for cause in caught.value.causes] == ["NamespaceTerminating"]


async def test_a_namespace_that_came_back_is_not_refused_for_its_past() -> None:
    cluster = InMemoryResources()
    await cluster.create(NAMESPACES, namespace("team", "Terminating"))
    async with followed(cluster) as lifecycle:
        # Nothing is followed any more, and what is known is old.
        pass
    old = await cluster.get(NAMESPACES, "", "team")
    await cluster.update(NAMESPACES, old | {"status": {"phase": "Active"}})

    await lifecycle.admit(context("team"), "app")


async def test_when_nobody_can_be_asked_nothing_is_made() -> None:
    cluster = InMemoryResources()
    cluster.disturb(Unreachable("away"))

    with pytest.raises(ServiceUnavailable):
        await NamespaceLifecycle(cluster, GROUP).admit(context("team"), "app")


async def test_what_belongs_to_no_namespace_is_made() -> None:
    await NamespaceLifecycle(InMemoryResources(), GROUP).admit(context(""), "sha256:a")
