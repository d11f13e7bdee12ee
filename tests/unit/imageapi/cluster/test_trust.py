"""The ConfigMap that says whom to believe, as it comes, changes and goes."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from alauda_imageapi.cluster.trust import CONFIG_MAPS, NAME, NAMESPACE, FollowedTrust
from alauda_registry.kube.errors import Forbidden
from alauda_registry.kube.inmemory_resources import InMemoryResources
from tests.parts.certificates import Authority

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def followed(
    cluster: InMemoryResources, on_change: Callable[[], object] = lambda: None
) -> AsyncIterator[FollowedTrust]:
    trust = FollowedTrust(cluster, on_change)
    following = asyncio.ensure_future(trust.run())
    try:
        yield trust
    finally:
        following.cancel()


async def eventually(holds: Callable[[], object]) -> None:
    with anyio.fail_after(30):
        while not holds():  # noqa: ASYNC110 -- no event tells
            await anyio.sleep(0.01)


def config_map(directory: Path, **changes: str) -> dict[str, object]:
    names = ("client-ca-file", "requestheader-client-ca-file")
    data = {name: Authority().issue(directory / name).authority.read_text() for name in names} | {
        "requestheader-allowed-names": '["front-proxy-client"]',
        "requestheader-username-headers": '["X-Remote-User"]',
    }
    changed = {name.replace("_", "-"): value for name, value in changes.items()}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "data": data | changed,
    }


async def test_it_is_waited_for_and_said_what_is_missing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cluster, changes = InMemoryResources(), []
    with caplog.at_level(logging.WARNING):
        async with followed(cluster, lambda: changes.append(1)) as trust:
            await eventually(lambda: "is not there" in trust.trouble)
            assert "extension-apiserver-authentication-reader" in trust.trouble
            assert not trust.current.proxy_authorities

            await cluster.create(CONFIG_MAPS, config_map(tmp_path))

            await eventually(lambda: not trust.trouble)
            stored = await cluster.get(CONFIG_MAPS, NAMESPACE, NAME)
            labelled = {**stored["metadata"], "labels": {"a": "b"}}
            await cluster.update(CONFIG_MAPS, {**stored, "metadata": labelled})
            await asyncio.sleep(0.05)
    assert len(trust.current.proxy_authorities) == 1
    assert len(trust.current.bundles) == 2
    assert changes == [1]
    assert caplog.text.count("is not there") == 1


async def test_what_is_deleted_or_spoilt_stays_in_use(tmp_path: Path) -> None:
    cluster = InMemoryResources()
    await cluster.create(CONFIG_MAPS, config_map(tmp_path))
    async with followed(cluster) as trust:
        await eventually(lambda: not trust.trouble)
        before = trust.current
        stored = await cluster.get(CONFIG_MAPS, NAMESPACE, NAME)
        spoilt = {**stored, "data": {"requestheader-client-ca-file": "nonsense"}}
        stored = await cluster.update(CONFIG_MAPS, spoilt)
        metadata = stored["metadata"]
        await cluster.delete(
            *(CONFIG_MAPS, NAMESPACE, NAME),
            uid=metadata["uid"],
            revision=metadata["resourceVersion"],
        )
        await asyncio.sleep(0.05)

        assert trust.current is before
        assert trust.trouble == ""


async def test_a_cluster_without_front_proxy_is_told_what_to_give(tmp_path: Path) -> None:
    cluster = InMemoryResources()
    await cluster.create(CONFIG_MAPS, config_map(tmp_path, requestheader_client_ca_file=""))
    async with followed(cluster) as trust:
        await eventually(lambda: "--requestheader-client-ca-file" in trust.trouble)

        assert trust.current.client_authorities


async def test_an_account_that_may_not_read_it_is_told_so() -> None:
    cluster = InMemoryResources()
    cluster.disturb(Forbidden("the API server answers 403 to listing configmaps: no"))
    async with followed(cluster) as trust:
        await eventually(lambda: "answers 403" in trust.trouble)


async def test_a_config_map_without_anything_is_not_said_to_be_absent(tmp_path: Path) -> None:
    cluster = InMemoryResources()
    async with followed(cluster) as trust:
        await eventually(lambda: "is not there" in trust.trouble)

        await cluster.create(CONFIG_MAPS, {**config_map(tmp_path), "data": {}})

        await eventually(lambda: "--requestheader-client-ca-file" in trust.trouble)


async def test_a_config_map_without_anything_is_complained_of_from_the_beginning(
    tmp_path: Path,
) -> None:
    cluster = InMemoryResources()
    await cluster.create(CONFIG_MAPS, {**config_map(tmp_path), "data": {}})
    async with followed(cluster) as trust:
        await eventually(lambda: "--requestheader-client-ca-file" in trust.trouble)
