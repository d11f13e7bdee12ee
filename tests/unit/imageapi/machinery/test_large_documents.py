"""Documents that take long to go through: how large they may become, and who waits for them."""

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from alauda_imageapi.kinds import schemas
from alauda_imageapi.kinds.images import Images
from alauda_imageapi.kinds.imagestreammappings import ImageStreamMappings
from alauda_imageapi.kinds.imagestreams import ImageStreams
from alauda_imageapi.kinds.names import GROUP
from alauda_imageapi.machinery import aside, objects
from alauda_imageapi.machinery.application import USER, ApiServer, Version
from alauda_imageapi.machinery.errors import MOST_CAUSES, StatusError
from alauda_imageapi.machinery.managed_fields import Manager
from alauda_imageapi.machinery.resources import Context
from alauda_imageapi.machinery.schema import Schema
from alauda_imageapi.machinery.sqlite import SQLiteStore
from alauda_imageapi.machinery.store import Key
from alauda_registry.kube.client import UserInfo
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


@pytest.fixture
async def grown(api: Api) -> Api:
    """An API with a stream that pushes have made too large."""
    events = [
        {
            "tag": f"t{number:05}",
            "items": [{"dockerImageReference": f"quay.io/acme/base:{number}", "generation": 1}],
        }
        for number in range(40_000)
    ]
    grown = stream(lookupPolicy={"local": True})
    owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d", "uid": "du"}
    grown["metadata"] |= {"namespace": "team", "uid": "u", "finalizers": ["a.b/c"], "generation": 1}
    grown["metadata"]["ownerReferences"] = [{**owner, "blockOwnerDeletion": True}]
    await api.store.create(
        Key("imagestreams", "team", "app"), {**grown, "status": {"tags": events}}
    )
    return api


async def size_of(api: Api) -> int:
    stored = await api.store.get(Key("imagestreams", "team", "app"))
    assert stored is not None
    return len(stored.body)


@pytest.mark.parametrize(
    "patch",
    [
        {"metadata": {"finalizers": None}},
        {"metadata": {"labels": {"a": "b"}}},
        {"spec": {"lookupPolicy": {"local": False}}},
        # What the garbage collector does to what it waits for.
        {"metadata": {"ownerReferences": [{"uid": "du", "blockOwnerDeletion": False}]}},
    ],
    ids=["finalizers", "labels", "spec", "owners"],
)
async def test_what_pushes_made_larger_can_be_changed(grown: Api, patch: Any) -> None:
    changed = await grown.call("PATCH", f"{STREAMS}/app", patch, kind=STRATEGIC_PATCH)

    assert changed.status_code == 200, changed.text


async def test_what_pushes_made_larger_does_not_grow_by_what_clients_send(grown: Api) -> None:
    large = "x" * (objects.LARGEST // 2)
    event = {"dockerImageReference": "quay.io/acme/base:9", "generation": 1}
    spec = [{"name": name, "annotations": {"a": large}} for name in ("v1", "v2")]
    status = [{"op": "add", "path": "/status/tags/-", "value": {"tag": "v1", "items": [event]}}]

    def put(tag: Any) -> list[Any]:
        return [{"op": "add", "path": "/spec/tags", "value": tag}]

    one = await grown.call("PATCH", f"{STREAMS}/app", put(spec[:1]), kind=JSON_PATCH)
    two = await grown.call("PATCH", f"{STREAMS}/app", put(spec), kind=JSON_PATCH)
    reported = await grown.call("PATCH", f"{STREAMS}/app/status", status, kind=JSON_PATCH)

    assert [answer.status_code for answer in (one, two, reported)] == [200, 413, 413]


async def test_what_pushes_made_larger_takes_no_owners_from_clients(grown: Api) -> None:
    await grown.patch(f"{STREAMS}/app", {"metadata": {"labels": {"a": "b"}}}, MERGE_PATCH)
    before = await size_of(grown)
    forged = {
        "manager": "they",
        "operation": "Apply",
        "apiVersion": "image.alauda.io/v1",
        "fieldsType": "FieldsV1",
        "fieldsV1": {f"f:{'x' * 1000}{number}": {} for number in range(1000)},
    }
    patch = [{"op": "add", "path": "/metadata/managedFields/-", "value": forged}]

    answer = await grown.call("PATCH", f"{STREAMS}/app", patch, kind=JSON_PATCH)

    assert answer.status_code == 200
    assert await size_of(grown) == before


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


class Busy:
    """Large documents of one user that are worked on until they are let go."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.started = threading.Event()
        self.at_once: list[int] = []
        self._running = 0

    def work(self) -> None:
        self._running += 1
        self.at_once.append(self._running)
        self.started.set()
        self.let_go.wait(30)
        self._running -= 1

    async def ask(self, user: str) -> None:
        with aside.on_behalf_of(user):
            await aside.run(aside.LARGE + 1, self.work)


async def test_large_documents_of_one_user_wait_for_each_other_alone(api: Api) -> None:
    async def named(scope: Scope, receive: Receive, send: Send) -> None:
        name = dict(scope["headers"])[b"user"].decode()
        await api.server({**scope, USER: UserInfo(name)}, receive, send)

    busy = Busy()
    asking = [asyncio.create_task(busy.ask("a")) for _ in range(1 + aside.MOST_WAITING)]
    transport = httpx.ASGITransport(named)
    base = f"http://localhost{BASE}/"
    async with httpx.AsyncClient(transport=transport, base_url=base) as client:
        try:
            await asyncio.to_thread(busy.started.wait, 30)
            large, small = objects.encode(annotated(aside.LARGE)), objects.encode(stream("small"))
            refused = await client.post(STREAMS, content=large, headers={"User": "a"})
            little = await client.post(STREAMS, content=small, headers={"User": "a"})
            async with asyncio.timeout(30):
                other = await client.post(STREAMS, content=large, headers={"User": "b"})
        finally:
            busy.let_go.set()
            await asyncio.gather(*asking)
        later = await client.post(STREAMS, content=large, headers={"User": "a"})

    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
    assert (little.status_code, other.status_code) == (201, 201)
    # It is there already, and was looked at.
    assert later.status_code == 409
    assert set(busy.at_once) == {1}
