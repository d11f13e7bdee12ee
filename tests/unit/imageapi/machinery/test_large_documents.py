"""Documents that take long to go through: how large they may become, and who waits for them."""

import threading
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
from typing_extensions import override

from alauda_imageapi.kinds import schemas
from alauda_imageapi.kinds.images import Images
from alauda_imageapi.kinds.imagestreammappings import ImageStreamMappings
from alauda_imageapi.kinds.imagestreams import ImageStreams
from alauda_imageapi.kinds.names import GROUP
from alauda_imageapi.machinery import aside, objects
from alauda_imageapi.machinery.application import ApiServer, Version
from alauda_imageapi.machinery.errors import MOST_CAUSES, StatusError
from alauda_imageapi.machinery.managed_fields import Manager
from alauda_imageapi.machinery.resources import Context
from alauda_imageapi.machinery.schema import Schema
from alauda_imageapi.machinery.sqlite import SQLiteStore
from alauda_imageapi.machinery.store import Key
from tests.unit.imageapi.apis import (
    APPLY_PATCH,
    BASE,
    DIGEST,
    JSON_PATCH,
    LIMITS,
    MERGE_PATCH,
    REGISTRY,
    STRATEGIC_PATCH,
    Api,
    image,
    mapping,
    stream,
)

pytestmark = pytest.mark.anyio

STREAMS = "namespaces/team/imagestreams"
TAGS = "namespaces/team/imagestreamtags"

# A few bytes, of which defaults make a hundred.
BLOATED = [{"name": f"t{number}"} for number in range(40_000)]


class Witness(dict[str, Schema]):
    """The fields of a kind, which remember by which threads they were looked up."""

    def __init__(self, fields: Mapping[str, Schema]) -> None:
        super().__init__(fields)
        self.threads: set[int] = set()

    @override
    def get(self, name: str, default: Any = None) -> Any:
        self.threads.add(threading.get_ident())
        return super().get(name, default)


class WitnessedStreams(ImageStreams):
    witness = Witness(schemas.IMAGE_STREAM.properties)
    schema: ClassVar[Schema] = replace(schemas.IMAGE_STREAM, properties=witness)


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A server of streams that know who reads them."""
    async with SQLiteStore.opened(tmp_path / "objects.db", LIMITS) as store:
        streams = WitnessedStreams(GROUP, store, Images(GROUP, store), REGISTRY)
        server = ApiServer(GROUP, [streams], Version("1", "34", "v1.34.0"))
        transport = httpx.ASGITransport(server)
        base = f"http://localhost{BASE}/"
        async with httpx.AsyncClient(transport=transport, base_url=base) as client:
            yield client


def annotated(size: int) -> dict[str, Any]:
    """Return a stream that is large with as few fields as can be."""
    tag = {"name": "v1", "annotations": {"a": "x" * size}}
    return stream(tags=[tag])


WRITES = [
    pytest.param("POST", "", stream("new"), id="POST"),
    pytest.param("PUT", "", stream(), id="PUT"),
    pytest.param("PATCH", MERGE_PATCH, {"metadata": {"labels": {"a": "b"}}}, id="merge"),
    pytest.param("PATCH", STRATEGIC_PATCH, {"metadata": {"labels": {"a": "b"}}}, id="strategic"),
    pytest.param(
        *("PATCH", JSON_PATCH, [{"op": "add", "path": "/metadata/labels", "value": {"a": "b"}}]),
        id="JSON",
    ),
    pytest.param("PATCH", APPLY_PATCH, stream(), id="apply"),
]


@pytest.mark.parametrize(("method", "kind", "body"), WRITES)
@pytest.mark.parametrize("size", [0, aside.LARGE], ids=["small", "large"])
async def test_large_documents_are_gone_through_by_other_threads(
    client: httpx.AsyncClient, method: str, kind: str, body: Any, size: int
) -> None:
    made = await client.post(STREAMS, json=annotated(size))
    assert made.status_code == 201, made.text
    if method != "PATCH":
        spec = annotated(size)["spec"]
        metadata = {**body["metadata"]}
        if method == "PUT":
            metadata["resourceVersion"] = made.json()["metadata"]["resourceVersion"]
        body = {**body, "metadata": metadata, "spec": spec}
    WitnessedStreams.witness.threads.clear()

    answer = await client.request(
        *(method, STREAMS if method == "POST" else f"{STREAMS}/app?fieldManager=me"),
        content=objects.encode(body),
        headers={"Content-Type": kind or "application/json"},
    )

    assert answer.is_success, answer.text
    mine, seen = threading.get_ident(), WitnessedStreams.witness.threads
    # The patch itself is small here.
    assert (mine not in seen or kind == APPLY_PATCH) if size else seen == {mine}
    assert bool(seen - {mine}) == bool(size)


@pytest.mark.parametrize(
    ("method", "path", "body", "kind"),
    [
        pytest.param("POST", STREAMS, stream("b", tags=BLOATED), "", id="POST"),
        pytest.param(
            *("PATCH", f"{STREAMS}/b?fieldManager=m", stream("b", tags=BLOATED), APPLY_PATCH),
            id="apply",
        ),
        pytest.param(
            "PATCH", f"{STREAMS}/app", {"spec": {"tags": BLOATED}}, MERGE_PATCH, id="merge"
        ),
        pytest.param(
            "PATCH", f"{STREAMS}/app", {"spec": {"tags": BLOATED}}, STRATEGIC_PATCH, id="strategic"
        ),
    ],
)
async def test_no_object_becomes_too_large_to_be_put_back(
    api: Api, method: str, path: str, body: Any, kind: str
) -> None:
    await api.make(STREAMS, stream())

    answer = await api.call(method, path, body, kind=kind)

    assert (answer.status_code, answer.json()["reason"]) == (413, "RequestEntityTooLarge")
    assert f"limit is {objects.LARGEST - 4096}" in answer.json()["message"]
    assert [item["metadata"]["name"] for item in (await api.get(STREAMS))["items"]] == ["app"]


async def test_a_stream_does_not_grow_too_large_by_its_tags(api: Api) -> None:
    half = {"a": "x" * (objects.LARGEST // 2)}

    def tag(name: str) -> dict[str, Any]:
        metadata = {"name": f"app:{name}", "annotations": half}
        return {"metadata": metadata, "tag": {"name": name}}

    await api.make(TAGS, tag("v1"))
    answer = await api.call("POST", TAGS, tag("v2"))

    assert answer.status_code == 413
    (left,) = (await api.get(f"{STREAMS}/app"))["spec"]["tags"]
    assert left["name"] == "v1"


async def test_what_pushes_made_larger_can_be_changed_and_not_grow(api: Api) -> None:
    events = [
        {
            "tag": f"t{number:05}",
            "items": [{"dockerImageReference": f"quay.io/acme/base:{number}", "generation": 1}],
        }
        for number in range(40_000)
    ]
    grown = stream(lookupPolicy={"local": False})
    grown["metadata"] |= {"namespace": "team", "uid": "u", "finalizers": ["a.b/c"], "generation": 1}
    await api.store.create(
        Key("imagestreams", "team", "app"), {**grown, "status": {"tags": events}}
    )

    refused = await api.call(
        *("PATCH", f"{STREAMS}/app", {"metadata": {"labels": {"a": "b"}}}), kind=MERGE_PATCH
    )
    released = await api.call(
        *("PATCH", f"{STREAMS}/app", {"metadata": {"finalizers": None}}), kind=MERGE_PATCH
    )

    assert refused.status_code == 413
    assert released.status_code == 200
    assert "finalizers" not in released.json()["metadata"]


def children(count: int) -> str:
    """Return the manifest of an index of so many images."""
    child = {"digest": DIGEST, "mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 3}
    return objects.encode({"manifests": [child] * count}).decode()


async def test_a_mapping_makes_no_image_that_is_too_large_to_be_put_back(api: Api) -> None:
    mapped = {**mapping("app", "v1"), "image": image(dockerImageManifest=children(15_000))}

    answer = await api.call("POST", "namespaces/team/imagestreammappings", mapped)

    assert answer.status_code == 413
    assert (await api.get("images"))["items"] == []
    assert (await api.get(STREAMS))["items"] == []


async def test_signatures_can_be_taken_from_an_image_that_is_too_large(api: Api) -> None:
    def signature(name: str) -> dict[str, Any]:
        # Each has another, and is no repetition.
        content = {"type": "AtomicImageV1", "content": name[0] * 1_200_000}
        return {"metadata": {"name": f"{DIGEST}@{name}"}, **content}

    signatures = [{**signature("one"), "content": "YWE="}, signature("two"), signature("three")]
    large = {"dockerImageManifest": "x" * 2_000_000, "kind": "Image", "apiVersion": "v1"}
    await api.store.create(Key("images", "", DIGEST), image(**large, signatures=signatures))

    deleted = await api.call("DELETE", f"imagesignatures/{DIGEST}@one")
    refused = await api.call("POST", "imagesignatures", signature("four"))

    assert deleted.status_code == 200
    assert refused.status_code == 413
    kept = (await api.get(f"images/{DIGEST}"))["signatures"]
    assert [found["metadata"]["name"][-3:] for found in kept] == ["two", "ree"]


class WitnessedImage(dict[str, Any]):
    """An image that remembers by which threads its manifest, and what came of it, was read."""

    def __init__(self, **fields: Any) -> None:
        super().__init__(image(**fields))
        self.threads: set[int] = set()

    @override
    def get(self, name: str, default: Any = None) -> Any:
        if name.startswith("dockerImageManifest"):
            self.threads.add(threading.get_ident())
        return super().get(name, default)


def index(count: int) -> str:
    """Return the manifest of an index of nothing that makes sense."""
    return objects.encode({"manifests": [{}] * count}).decode()


async def test_the_manifests_of_large_images_are_read_by_other_threads(api: Api) -> None:
    streams, images = api.kinds.streams, api.kinds.streams.images
    context = Context(resource="images", namespace="team")
    made, changed, mapped = (WitnessedImage(dockerImageManifest=index(50_000)) for _ in range(3))

    await images.prepare_create(context, made)
    await images.check(context, made, None)
    await images.check(context, changed, made)
    with pytest.raises(StatusError):
        await ImageStreamMappings(GROUP, streams).create(
            context, {**mapping("app", "v1"), "image": mapped}, Manager("me", "Update", "v1")
        )

    for witness in (made, changed, mapped):
        assert witness.threads
        assert threading.get_ident() not in witness.threads


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("images", image(dockerImageManifest=index(1000))),
        (
            "namespaces/team/imagestreammappings",
            {**mapping("app", "v1"), "image": image(dockerImageManifest=index(1000))},
        ),
        (STREAMS, stream(tags=[{"name": f"t{n}", "from": {"kind": "X"}} for n in range(1000)])),
    ],
    ids=["image", "mapping", "stream"],
)
async def test_not_all_is_told_that_is_wrong(api: Api, path: str, body: Any) -> None:
    answer = await api.call("POST", path, body)

    assert answer.status_code == 422
    assert len(answer.json()["details"]["causes"]) <= MOST_CAUSES
