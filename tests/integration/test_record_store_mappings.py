"""Pushes of many at once to one stream, through two replicas of the image API in a real cluster."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from alauda_imageapi.cluster.records.store import RecordStore
from alauda_imageapi.kinds.catalog import build_kinds
from alauda_imageapi.kinds.names import GROUP
from alauda_imageapi.machinery.application import ApiServer, Version
from tests.parts import record_store

pytestmark = [pytest.mark.anyio, pytest.mark.integration, pytest.mark.timeout(180)]

BASE = "/apis/image.alauda.io/v1"


def serve(store: RecordStore) -> httpx.AsyncClient:
    """Return a client of an image API over a store."""
    kinds = build_kinds(store, registry="registry.example")
    server = ApiServer(GROUP, kinds.resources, Version("1", "34", "v1.34.0"))
    transport = httpx.ASGITransport(server, raise_app_exceptions=True)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60)


@pytest.fixture
async def replicas(image_api_account: Path) -> AsyncIterator[list[httpx.AsyncClient]]:
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                serve(await stack.enter_async_context(record_store.opened(image_api_account)))
            )
            for _ in range(2)
        ]


async def test_a_hundred_pushes_of_one_stream_are_all_there(
    replicas: list[httpx.AsyncClient], namespace: str
) -> None:
    pushes = {f"v{number}": f"sha256:{random.randbytes(32).hex()}" for number in range(100)}

    await push(replicas, namespace, [*pushes.items()])

    for replica in replicas:
        stream = await replica.get(f"{BASE}/namespaces/{namespace}/imagestreams/app")
        tags = {tag["tag"]: tag["items"][0]["image"] for tag in stream.json()["status"]["tags"]}
        assert tags == pushes
        shown = await replica.get(f"{BASE}/namespaces/{namespace}/imagestreamtags")
        assert len(shown.json()["items"]) == 100


async def test_pushes_of_one_tag_have_one_order(
    replicas: list[httpx.AsyncClient], namespace: str
) -> None:
    """The history has each of them once, and its latest is what the tag is."""
    digests = [f"sha256:{random.randbytes(32).hex()}" for _ in range(20)]

    await push(replicas, namespace, [("v1", digest) for digest in digests])

    stream = await replicas[0].get(f"{BASE}/namespaces/{namespace}/imagestreams/app")
    (tag,) = stream.json()["status"]["tags"]
    assert sorted(item["image"] for item in tag["items"]) == sorted(digests)
    shown = await replicas[1].get(f"{BASE}/namespaces/{namespace}/imagestreamtags/app:v1")
    assert shown.json()["image"]["metadata"]["name"] == tag["items"][0]["image"]


async def push(
    replicas: list[httpx.AsyncClient], namespace: str, pushes: list[tuple[str, str]]
) -> None:
    """Push tags and digests at once, through one replica as well as the other."""
    path = f"{BASE}/namespaces/{namespace}/imagestreammappings"
    answers = await asyncio.gather(
        *(
            replicas[number % 2].post(path, json=mapping(tag, digest))
            for number, (tag, digest) in enumerate(pushes)
        )
    )
    assert {answer.status_code for answer in answers} == {201}


def mapping(tag: str, digest: str) -> dict[str, Any]:
    image = {
        "metadata": {"name": digest},
        "dockerImageReference": f"registry.example/team/app@{digest}",
    }
    return {"metadata": {"name": "app"}, "tag": tag, "image": image}
