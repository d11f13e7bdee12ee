"""What the storage has shows in the API: pushes, deletions, races and what was there before."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from alauda_imageapi.machinery.store import Key, StoreUnavailable
from alauda_imageapi.recorder import StorageContent, StorageRecorder
from alauda_registry.oci.digest import Digest
from alauda_registry.oci.errors import StorageUnavailable
from alauda_registry.oci.manifest import Manifest
from alauda_registry.oci.media_types import OCI_INDEX, OCI_MANIFEST
from alauda_registry.oci.reference import RepositoryName, Tag
from alauda_registry.storage.drivers.inmemory import InMemoryDriver
from alauda_registry.storage.repositories import Registry, StorageOptions
from tests.unit.imageapi.apis import REGISTRY, Api, opened

pytestmark = pytest.mark.anyio

STREAMS = "namespaces/team/imagestreams"
APP = RepositoryName("team/app")
V1, V2 = Tag("v1"), Tag("v2")


class Pushes:
    """A registry whose pushes and deletions are recorded, as its server does it."""

    def __init__(self, registry: Registry, recorder: StorageRecorder) -> None:
        self.registry = registry
        self.recorder = recorder

    async def store(self, name: RepositoryName, content: str, *tags: Tag) -> Digest:
        """Push a manifest that nobody hears of."""
        manifest = Manifest.parse(content.encode(), None)
        digest = Digest.of(content.encode())
        await self.registry.repository(name).manifests.put(manifest, digest, tags)
        return digest

    async def push(self, name: RepositoryName, content: str, *tags: Tag) -> Digest:
        digest = await self.store(name, content, *tags)
        await self.recorder.pushed(name, digest, tags)
        return digest

    async def untag(self, name: RepositoryName, tag: Tag) -> None:
        await self.registry.repository(name).tags.delete(tag)
        await self.recorder.deleted(name, tag)

    async def delete(self, name: RepositoryName, digest: Digest) -> None:
        await self.registry.repository(name).manifests.delete(digest)
        await self.recorder.deleted(name, digest)


@pytest.fixture
def registry() -> Registry:
    return Registry(InMemoryDriver(), StorageOptions(allow_sparse=True))


@pytest.fixture
async def api(tmp_path: Path, registry: Registry) -> AsyncIterator[Api]:
    async with opened(tmp_path, content=StorageContent(registry, may_untag=True)) as found:
        yield found


@pytest.fixture
def pushes(api: Api, registry: Registry) -> Pushes:
    recorder = StorageRecorder(api.kinds, registry, REGISTRY, api.clock.surroundings())
    return Pushes(registry, recorder)


def index(*children: Digest, note: str = "") -> str:
    entries = [{"mediaType": OCI_MANIFEST, "digest": str(child), "size": 3} for child in children]
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": entries,
            "annotations": {"note": note},
        }
    )


async def tags_of(api: Api, name: str = "app") -> dict[str, list[str]]:
    answer = await api.call("GET", f"{STREAMS}/{name}")
    if answer.status_code == 404:
        return {}
    return {
        named["tag"]: [event["image"] for event in named["items"]]
        for named in answer.json()["status"].get("tags", [])
    }


async def images_of(api: Api) -> list[str]:
    return [item["metadata"]["name"] for item in (await api.get("images"))["items"]]


async def test_a_push_by_tag_makes_stream_tag_and_image(api: Api, pushes: Pushes) -> None:
    digest = await pushes.push(APP, index(), V1)

    assert await tags_of(api) == {"v1": [str(digest)]}
    found = await api.get(f"images/{digest}")
    assert found["dockerImageReference"] == f"localhost:5000/team/app@{digest}"
    assert found["dockerImageManifestMediaType"] == OCI_INDEX
    tag = await api.get("namespaces/team/imagestreamtags/app:v1")
    assert tag["image"]["metadata"]["name"] == str(digest)


async def test_a_push_by_digest_makes_an_image_only(api: Api, pushes: Pushes) -> None:
    digest = await pushes.push(APP, index())

    assert (await images_of(api), await tags_of(api)) == ([str(digest)], {})


async def test_a_tag_that_moves_remembers_where_it_was(api: Api, pushes: Pushes) -> None:
    one = await pushes.push(APP, index(note="1"), V1)
    two = await pushes.push(APP, index(note="2"), V1)
    await pushes.push(APP, index(note="2"), V1)

    assert await tags_of(api) == {"v1": [str(two), str(one)]}


async def test_the_images_of_an_index_are_images_too(api: Api, pushes: Pushes) -> None:
    child = await pushes.store(APP, index(note="child"))
    parent = await pushes.push(APP, index(child), V1)

    assert await images_of(api) == sorted([str(child), str(parent)])


async def test_an_index_that_clients_could_not_put_back_shows_without_its_images(
    api: Api, pushes: Pushes
) -> None:
    child = await pushes.push(APP, index())

    parent = await pushes.push(APP, index(*[child] * 17_000), V1)

    assert await tags_of(api) == {"v1": [str(parent)]}
    assert "dockerImageManifests" not in await api.get(f"images/{parent}")


async def test_a_tag_that_is_deleted_is_gone_and_its_image_stays(api: Api, pushes: Pushes) -> None:
    digest = await pushes.push(APP, index(), V1, V2)

    await pushes.untag(APP, V1)

    assert await tags_of(api) == {"v2": [str(digest)]}
    assert await images_of(api) == [str(digest)]


async def test_a_manifest_that_is_deleted_takes_tags_history_and_image(
    api: Api, pushes: Pushes
) -> None:
    one = await pushes.push(APP, index(note="1"), V1, V2)
    two = await pushes.push(APP, index(note="2"), V2)

    await pushes.delete(APP, one)

    assert await tags_of(api) == {"v2": [str(two)]}
    assert await images_of(api) == [str(two)]


async def test_an_image_that_another_repository_has_stays(api: Api, pushes: Pushes) -> None:
    one = await pushes.push(APP, index(), V1)
    await pushes.push(RepositoryName("other/app"), index())

    await pushes.delete(APP, one)

    assert await images_of(api) == [str(one)]


async def test_a_deletion_may_be_told_of_again(api: Api, pushes: Pushes) -> None:
    digest = await pushes.push(APP, index(), V1)
    await pushes.registry.repository(APP).manifests.delete(digest)

    for _ in range(2):
        await pushes.recorder.deleted(APP, V1)
        await pushes.recorder.deleted(APP, digest)

    assert (await tags_of(api), await images_of(api)) == ({}, [])


async def test_news_that_come_late_tell_what_is_so_now(api: Api, pushes: Pushes) -> None:
    one = await pushes.store(APP, index(note="1"), V1)
    two = await pushes.store(APP, index(note="2"), V1)

    await pushes.recorder.pushed(APP, two, [V1])
    await pushes.recorder.pushed(APP, one, [V1])

    assert await tags_of(api) == {"v1": [str(two)]}


async def test_many_pushes_and_deletions_at_once_end_as_the_storage_does(
    api: Api, pushes: Pushes
) -> None:
    async def churn(number: int) -> None:
        for turn in range(3):
            tag = Tag(f"v{(number + turn) % 4}")
            await pushes.push(APP, index(note=f"{number}-{turn}"), tag)
            if (number + turn) % 3 == 0:
                await pushes.recorder.deleted(APP, tag)

    await asyncio.gather(*(churn(number) for number in range(12)))

    stored = {
        tag: str(await pushes.registry.repository(APP).tags.resolve(Tag(tag)))
        for tag in ("v0", "v1", "v2", "v3")
    }
    shown = {tag: history[0] for tag, history in (await tags_of(api)).items()}
    assert shown == stored


@pytest.mark.parametrize("name", ["app", "a/b/c"])
async def test_names_that_are_no_streams_show_as_images(
    api: Api, pushes: Pushes, name: str
) -> None:
    digest = await pushes.push(RepositoryName(name), index(), V1)

    assert await images_of(api) == [str(digest)]
    assert (await api.get("imagestreams"))["items"] == []


@pytest.mark.parametrize("name", ["team/a__b", "team/a--b", "a.b_c/x-1.2"])
async def test_every_name_of_two_parts_is_a_stream(api: Api, pushes: Pushes, name: str) -> None:
    await pushes.push(RepositoryName(name), index(), V1)

    listed = (await api.get("imagestreams"))["items"]
    found = [f"{item['metadata']['namespace']}/{item['metadata']['name']}" for item in listed]
    assert found == [name]


async def test_what_is_there_already_is_brought_in(api: Api, pushes: Pushes) -> None:
    child = await pushes.store(APP, index(note="child"))
    one = await pushes.store(APP, index(child), V1)
    two = await pushes.store(RepositoryName("other/app"), index(note="2"), V2)
    gone = await pushes.push(APP, index(note="gone"), V2)
    await pushes.registry.repository(APP).manifests.delete(gone)

    await pushes.recorder.reconcile()

    assert await tags_of(api) == {"v1": [str(one)]}
    assert {str(child), str(one), str(two)} <= set(await images_of(api))
    before = (await api.get("imagestreams"))["metadata"]["resourceVersion"]
    await pushes.recorder.reconcile()
    assert (await api.get("imagestreams"))["metadata"]["resourceVersion"] == before


async def test_tags_that_were_not_pushed_are_left_alone_by_it(api: Api, pushes: Pushes) -> None:
    reference = {"kind": "DockerImage", "name": "quay.io/a/b:1"}
    tag = {"name": "ref", "from": reference, "reference": True}
    await api.make(STREAMS, {"metadata": {"name": "app"}, "spec": {"tags": [tag]}})
    await pushes.store(APP, index(), V1)

    await pushes.recorder.reconcile()

    assert sorted(await tags_of(api)) == ["ref", "v1"]


async def test_kubectl_deletes_the_tag_of_the_storage_too(api: Api, pushes: Pushes) -> None:
    await pushes.push(APP, index(), V1, V2)

    await api.call("DELETE", "namespaces/team/imagestreamtags/app:v1")

    page = await pushes.registry.repository(APP).tags.page(limit=None)
    assert page.names == ["v2"]
    await api.call("DELETE", f"{STREAMS}/app")
    page = await pushes.registry.repository(APP).tags.page(limit=None)
    assert page.names == []
    await pushes.recorder.reconcile()
    assert await tags_of(api) == {}


async def test_a_mapping_of_what_is_in_the_repository_tags_it_there(
    api: Api, pushes: Pushes
) -> None:
    digest = await pushes.push(APP, index())
    sent = {"metadata": {"name": "app"}, "image": {"metadata": {"name": str(digest)}}}

    await api.make("namespaces/team/imagestreammappings", {**sent, "tag": "v1"})
    await api.make("namespaces/other/imagestreammappings", {**sent, "tag": "v1"})
    await pushes.recorder.reconcile()

    assert await pushes.registry.repository(APP).tags.resolve(V1) == digest
    assert await tags_of(api) == {"v1": [str(digest)]}


async def test_kubectl_deletes_no_tag_where_that_is_switched_off(
    tmp_path: Path, registry: Registry
) -> None:
    content = StorageContent(registry, may_untag=False)
    async with opened(tmp_path, content=content) as api:
        pushes = Pushes(registry, StorageRecorder(api.kinds, registry, REGISTRY))
        await pushes.push(APP, index(), V1)

        tag = await api.call("DELETE", "namespaces/team/imagestreamtags/app:v1")
        stream = await api.call("DELETE", f"{STREAMS}/app")

        assert (tag.status_code, stream.status_code) == (403, 403)
        assert list(await tags_of(api)) == ["v1"]


async def test_a_push_that_is_not_recorded_is_not_acknowledged(
    api: Api, registry: Registry
) -> None:
    class Away:
        def order(self, key: Key) -> tuple[str, str]:
            raise AssertionError(f"{key} is in no page")

        def __getattr__(self, _name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
            async def fail(*_: Any, **_more: Any) -> Any:
                raise StoreUnavailable("away")

            return fail

    images, streams = api.kinds.images, api.kinds.streams
    store = images.store
    images.store = streams.store = Away()
    pushes = Pushes(registry, StorageRecorder(api.kinds, registry, REGISTRY))

    with pytest.raises(StorageUnavailable):
        await pushes.push(APP, index(), V1)
    images.store = streams.store = store
    await pushes.push(APP, index(), V1)

    assert list(await tags_of(api)) == ["v1"]


async def test_a_huge_history_is_cut(api: Api, pushes: Pushes) -> None:
    for number in range(105):
        await pushes.push(APP, index(note=str(number)), V1)

    assert len((await tags_of(api))["v1"]) == 100


async def test_an_image_without_its_manifest_is_not_made(api: Api, pushes: Pushes) -> None:
    await pushes.recorder.pushed(APP, Digest.of(b"nothing"), [V1])

    assert await api.store.get(Key("images", "", str(Digest.of(b"nothing")))) is None
    assert await tags_of(api) == {}
