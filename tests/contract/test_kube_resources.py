"""The executable half of ``kube.resources``: every client of objects passes all of it.

The objects are records of the image API, which take what nobody else's kinds do.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from alauda_registry.kube.apiserver import ApiServerClient
from alauda_registry.kube.errors import (
    AlreadyExists,
    Conflict,
    Expired,
    Forbidden,
    NamespaceTerminating,
    NotFound,
    NotServed,
    Rejected,
    TooLarge,
)
from alauda_registry.kube.inmemory_resources import InMemoryResources
from alauda_registry.kube.resources import (
    GroupVersionResource,
    ListQuery,
    Manifest,
    ResourceClient,
    WatchEvent,
)
from alauda_registry.kube.rest import ApiServerResources
from tests.parts import record_store
from tests.parts.control_plane import ControlPlane

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

OF = GroupVersionResource("store.image.alauda.io", "v1", "imagestreamrecords")


@dataclass
class Cluster:
    """A client, and a namespace that nobody else uses."""

    client: ResourceClient
    namespace: str
    names: list[str] = field(default_factory=list)

    def manifest(self, name: str, **more: Any) -> Manifest:
        metadata = {"name": name, "namespace": self.namespace}
        return {
            "apiVersion": "store.image.alauda.io/v1",
            "kind": "ImageStreamRecord",
            "metadata": metadata,
            "schema": 1,
            "object": name,
            "change": "",
            "payload": "AA==",
            **more,
        }

    async def make(self, name: str, **more: Any) -> Manifest:
        return await self.client.create(OF, self.manifest(name, **more))

    async def list(self, **query: Any) -> list[str]:
        page = await self.client.list(OF, ListQuery(namespace=self.namespace, **query))
        return [item["metadata"]["name"] for item in page.items]


@pytest.fixture(params=["inmemory", "apiserver"])
async def cluster(request: pytest.FixtureRequest) -> AsyncIterator[Cluster]:
    if request.param == "inmemory":
        yield Cluster(InMemoryResources({"team": False, "ending": True}), "team")
        return
    plane: ControlPlane = request.getfixturevalue("control_plane")
    config: Path = request.getfixturevalue("image_api_account")
    namespace = plane.new_namespace()
    async with ApiServerClient(config) as client:
        yield Cluster(ApiServerResources(client), namespace)
    # They are no records that could be read, and no list leaves those out.
    await record_store.empty(config, namespace)


async def test_what_was_made_is_read(cluster: Cluster) -> None:
    made = await cluster.make("app", payload="YQ==")

    found = await cluster.client.get(OF, cluster.namespace, "app")

    assert found == made
    assert found["payload"] == "YQ=="
    assert found["metadata"]["uid"]
    assert int(found["metadata"]["resourceVersion"]) > 0


async def test_what_is_not_there_is_said_to_be_missing(cluster: Cluster) -> None:
    with pytest.raises(NotFound) as caught:
        await cluster.client.get(OF, cluster.namespace, "app")

    assert caught.value.resource == "imagestreamrecords"


async def test_no_name_leads_elsewhere(cluster: Cluster) -> None:
    await cluster.make("app")
    where = cluster.namespace

    for namespace in (f"{where}?", f"{where}#", f"../namespaces/{where}", f"{where}%2f.", ".."):
        with pytest.raises(NotFound):
            await cluster.client.get(OF, namespace, "app")
    for name in ("app?x=y", "app#", "./app", "app/status", "app%3f"):
        with pytest.raises(NotFound):
            await cluster.client.get(OF, where, name)
    assert not (await cluster.client.list(OF, ListQuery(namespace=f"{where}?x=y"))).items


async def test_a_namespace_that_is_not_there_is_said_to_be_missing(cluster: Cluster) -> None:
    manifest = cluster.manifest("app")
    manifest["metadata"]["namespace"] = f"no-{uuid.uuid4().hex[:10]}"

    with pytest.raises(NotFound) as caught:
        await cluster.client.create(OF, manifest)

    assert caught.value.resource == "namespaces"


async def test_an_object_is_made_once(cluster: Cluster) -> None:
    await cluster.make("app")

    with pytest.raises(AlreadyExists):
        await cluster.make("app")


async def test_only_the_expected_revision_is_replaced(cluster: Cluster) -> None:
    made = await cluster.make("app")
    changed = await cluster.client.update(OF, {**made, "payload": "YQ=="})

    with pytest.raises(Conflict):
        await cluster.client.update(OF, {**made, "payload": "Yg=="})

    assert int(changed["metadata"]["resourceVersion"]) > int(made["metadata"]["resourceVersion"])
    assert await cluster.client.get(OF, cluster.namespace, "app") == changed


async def test_what_is_gone_is_not_replaced(cluster: Cluster) -> None:
    made = await cluster.make("app")
    await _delete(cluster, made)

    with pytest.raises(NotFound):
        await cluster.client.update(OF, made)
    with pytest.raises(NotFound):
        await _delete(cluster, made)


async def test_only_the_expected_revision_is_deleted(cluster: Cluster) -> None:
    made = await cluster.make("app")
    changed = await cluster.client.update(OF, {**made, "payload": "YQ=="})

    with pytest.raises(Conflict):
        await _delete(cluster, made)
    assert await _delete(cluster, changed) is None
    assert await cluster.list() == []


async def test_what_has_finalizers_stays_until_they_are_gone(cluster: Cluster) -> None:
    manifest = cluster.manifest("app")
    manifest["metadata"]["finalizers"] = ["store.image.alauda.io/finalizers"]
    made = await cluster.client.create(OF, manifest)

    left = await _delete(cluster, made)
    assert left is not None
    assert left["metadata"]["deletionTimestamp"]
    assert await cluster.list() == ["app"]

    await cluster.client.update(OF, {**left, "metadata": {**left["metadata"], "finalizers": []}})
    assert await cluster.list() == []


async def test_what_is_too_large_is_refused(cluster: Cluster) -> None:
    with pytest.raises(TooLarge):
        await cluster.make("app", payload="A" * (1600 * 1024))


async def test_a_list_has_pages_of_one_state(cluster: Cluster) -> None:
    for name in ("c", "a", "b"):
        await cluster.make(name)

    first = await cluster.client.list(OF, ListQuery(namespace=cluster.namespace, limit=2))
    await cluster.make("d")
    query = ListQuery(namespace=cluster.namespace, limit=2, token=first.token)
    second = await cluster.client.list(OF, query)

    assert [item["metadata"]["name"] for item in (*first.items, *second.items)] == ["a", "b", "c"]
    assert (second.revision, second.token) == (first.revision, "")
    assert (first.remaining, second.remaining) == (1, None)


async def test_a_token_that_is_none_is_rejected(cluster: Cluster) -> None:
    for token in ("nonsense", "1", "e30"):
        with pytest.raises(Rejected):
            await cluster.list(limit=2, token=token)


async def test_a_list_of_the_past_is_what_was_seen_then(cluster: Cluster) -> None:
    made = await cluster.make("app", payload="YQ==")
    revision = made["metadata"]["resourceVersion"]
    await cluster.client.update(OF, {**made, "payload": "Yg=="})
    await cluster.make("other")

    query = ListQuery(namespace=cluster.namespace, revision=revision)
    page = await cluster.client.list(OF, query)

    assert page.revision == revision
    assert [item["payload"] for item in page.items] == ["YQ=="]


async def test_a_list_can_be_of_one_name_and_of_metadata(cluster: Cluster) -> None:
    await cluster.make("app")
    made = await cluster.make("other", payload="YQ==")

    assert await cluster.list(name="other") == ["other"]
    page = await cluster.client.list(OF, ListQuery(namespace=cluster.namespace, metadata_only=True))
    assert len(page.items) == 2
    assert "payload" not in page.items[1]
    assert page.items[1]["metadata"]["uid"] == made["metadata"]["uid"]


async def test_a_watch_has_what_happens_after_a_revision(cluster: Cluster) -> None:
    before = await cluster.make("app")
    revision = before["metadata"]["resourceVersion"]
    changed = await cluster.client.update(OF, {**before, "payload": "YQ=="})
    await _delete(cluster, changed)
    other = await cluster.make("other", payload="A" * 300_000)

    async with cluster.client.watch(OF, revision, namespace=cluster.namespace) as events:
        found = await _take(events, 3)

    assert [(event.type, event.object["metadata"]["name"]) for event in found] == [
        ("MODIFIED", "app"),
        ("DELETED", "app"),
        ("ADDED", "other"),
    ]
    revisions = [event.revision for event in found]
    assert revisions == sorted(set(revisions))
    assert int(changed["metadata"]["resourceVersion"]) == revisions[0]
    assert int(other["metadata"]["resourceVersion"]) == revisions[2]
    assert found[1].object["payload"] == "YQ=="
    assert found[2].object == other


async def test_a_watch_hears_of_what_happens_now(cluster: Cluster) -> None:
    made = await cluster.make("app")
    revision = made["metadata"]["resourceVersion"]
    async with cluster.client.watch(OF, revision, namespace=cluster.namespace) as events:
        taking = asyncio.create_task(_take(events, 1))
        await asyncio.sleep(0.1)
        await cluster.make("other")
        (event,) = await taking

    assert event.object["metadata"]["name"] == "other"


async def test_what_is_forgotten_is_expired() -> None:
    client = InMemoryResources()
    cluster = Cluster(client, "team")
    made = await cluster.make("app")
    await cluster.make("other")
    client.compact()

    with pytest.raises(Expired):
        await cluster.list(revision=made["metadata"]["resourceVersion"])
    async with client.watch(OF, made["metadata"]["resourceVersion"]) as events:
        with pytest.raises(Expired):
            await anext(events)


async def test_old_watch_of_an_api_server_is_expired(
    control_plane: ControlPlane, image_api_account: Path
) -> None:
    async with ApiServerClient(image_api_account) as client:
        resources = ApiServerResources(client)
        await resources.list(OF, ListQuery())
        with pytest.raises(Expired, match="410"):
            async with resources.watch(OF, "1") as events:
                await anext(events)


async def test_nothing_is_made_in_a_namespace_that_ends(
    control_plane: ControlPlane, image_api_account: Path
) -> None:
    namespace = control_plane.new_namespace()
    path = f"/api/v1/namespaces/{namespace}"
    found = control_plane.api.get(path).json()
    found["metadata"]["finalizers"] = ["example.org/waits"]
    assert control_plane.api.put(path, json=found).is_success
    control_plane.api.delete(path)
    async with ApiServerClient(image_api_account) as client:
        cluster = Cluster(ApiServerResources(client), namespace)
        with pytest.raises(NamespaceTerminating):
            await cluster.make("app")
    found = control_plane.api.get(path).json()
    found["metadata"]["finalizers"] = []
    control_plane.api.put(path, json=found)


async def test_unknown_kind_is_not_taken_for_an_absent_object(
    control_plane: ControlPlane, image_api_account: Path
) -> None:
    unknown = GroupVersionResource("store.image.alauda.io", "v1", "unheard")
    async with ApiServerClient(control_plane.admin) as client:
        with pytest.raises(NotServed):
            await ApiServerResources(client).get(unknown, "default", "app")
        with pytest.raises(NotServed):
            await ApiServerResources(client).list(unknown, ListQuery())


async def test_client_without_rights_may_not_read(control_plane: ControlPlane) -> None:
    async with ApiServerClient(control_plane.user("nobody")) as client:
        with pytest.raises(Forbidden, match=r"403 to reading imagestreamrecords: .*nobody"):
            await ApiServerResources(client).get(OF, "default", "app")


async def _delete(cluster: Cluster, manifest: Manifest) -> Manifest | None:
    metadata = manifest["metadata"]
    return await cluster.client.delete(
        OF,
        cluster.namespace,
        metadata["name"],
        uid=metadata["uid"],
        revision=metadata["resourceVersion"],
    )


async def _take(events: AsyncIterator[WatchEvent], count: int) -> list[WatchEvent]:
    found: list[WatchEvent] = []
    async for event in events:
        if event.type != "BOOKMARK":
            found.append(event)
        if len(found) == count:
            break
    return found
