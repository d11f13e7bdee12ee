"""What many images and many watchers cost, counted."""

import gc
import json
import tracemalloc
import weakref
from collections.abc import Iterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message
from typing_extensions import override

from alauda_imageapi.cluster.records import encoding
from alauda_imageapi.cluster.records.encoding import KINDS
from alauda_imageapi.cluster.records.store import RecordStore
from alauda_imageapi.machinery.long_answers import PART
from alauda_imageapi.machinery.metadata import Surroundings
from alauda_imageapi.machinery.representations import Form, Representation
from alauda_imageapi.machinery.store import Key
from alauda_registry.kube.inmemory_resources import InMemoryResources
from conformance.benchmarks.image_objects import make_image
from tests.unit.imageapi.apis import (
    DIGEST,
    MERGE_PATCH,
    METADATA,
    Api,
    Lines,
    image,
    open_records,
    opened,
    stream,
)

pytestmark = pytest.mark.anyio

STREAMS = "namespaces/team/imagestreams"
FROM_NOW = "watch=true&sendInitialEvents=false&resourceVersionMatch=NotOlderThan"


class Bodies(Lines):
    """A client that keeps the very bytes that it is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.bodies: list[bytes] = []

    @override
    async def send(self, message: Message) -> None:
        if body := message.get("body"):
            self.bodies.append(body)
        await super().send(message)


@pytest.mark.parametrize("accept", ["application/json", METADATA], ids=["plain", "metadata"])
async def test_an_event_is_encoded_once_for_all_who_watch(api: Api, accept: str) -> None:
    selectors = ["", "&labelSelector=of%3Dteam", "&labelSelector=of+in+(team,all)"]
    async with AsyncExitStack() as stack:
        watches = [Bodies() for _ in range(30)]
        for number, lines in enumerate(watches):
            path = f"{STREAMS}?{FROM_NOW}{selectors[number % len(selectors)]}"
            await stack.enter_async_context(api.watch(path, lines=lines, accept=accept))
            await lines.started()
        made = stream("a")
        made["metadata"]["labels"] = {"of": "team"}
        await api.make(STREAMS, made)
        await api.patch(f"{STREAMS}/a", {"metadata": {"labels": {"n": "1"}}}, MERGE_PATCH)
        for lines in watches:
            assert await lines.take(2) == [("ADDED", "a"), ("MODIFIED", "a")]

    # Not equal bytes, but the same.
    assert len({id(body) for lines in watches for body in lines.bodies}) == 2


async def test_a_long_list_is_handed_over_in_parts(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        await api.make("images", image(dockerImageManifest="x" * 1_000_000))
        lines = Bodies()
        async with api.watch("images", lines=lines):
            assert await lines.started() == 200
            listed = await lines.next()

    assert max(map(len, lines.bodies)) <= PART
    assert int(lines.headers[b"content-length"]) == sum(map(len, lines.bodies))
    assert len(listed["items"][0]["dockerImageManifest"]) == 1_000_000


async def test_who_watches_one_object_by_its_name_reads_no_other(tmp_path: Path) -> None:
    cluster, streams = InMemoryResources(), KINDS["imagestreams"]
    async with opened(tmp_path, open_store=partial(open_records, cluster=cluster)) as api:
        for name in ("a", "b"):
            await api.make(STREAMS, stream(name))
        query = f"{FROM_NOW}&fieldSelector=metadata.name%3Da"
        async with api.watch(f"{STREAMS}?{query}") as lines:
            await lines.started()
            record = await cluster.get(streams.of, "team", "b")
            # Whoever reads it is in trouble.
            await cluster.update(streams.of, {**record, "payload": "AA=="})
            await api.patch(f"{STREAMS}/a", {"metadata": {"labels": {"n": "1"}}}, MERGE_PATCH)

            assert await lines.take(1) == [("MODIFIED", "a")]


async def test_an_image_takes_little_more_memory_than_its_record() -> None:
    cluster, kind, count = InMemoryResources(), KINDS["images"], 100
    packed = 0
    images = [make_image(number) for number in range(count)]
    for made in images:
        key = Key("images", "", made["metadata"]["name"])
        payload = encoding.pack(encoding.text(made))
        # Four characters of text for three bytes.
        packed += len(payload) * 3 // 4
        await cluster.create(kind.of, encoding.write(kind, key, made, payload))
    names = [made["metadata"]["name"] for made in images]
    images.clear()
    gc.collect()
    tracemalloc.start()
    try:
        async with RecordStore.opened(cluster) as store:
            known = await store.get(Key("images", "", names[-1]), recent=True)
            assert known is not None
            gc.collect()
            taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert taken / count < packed / count + 1500


class Document(dict[str, Any]):
    """A document of which is known whether it is still there."""


@pytest.mark.parametrize("form", [Form.TABLE, Form.METADATA])
async def test_a_list_has_one_document_at_a_time(api: Api, form: Form) -> None:
    (images,) = (found for found in api.kinds.resources if found.name == "images")
    shown = Representation(form, images, "Metadata", Surroundings())
    made: list[weakref.ref[Document]] = []
    alive = []

    def documents() -> Iterator[Document]:
        for _ in range(20):
            document = Document(image(DIGEST))
            made.append(weakref.ref(document))
            alive.append(sum(one() is not None for one in made))
            yield document

    listed = shown.many(documents(), {})

    assert len(listed["rows" if form is Form.TABLE else "items"]) == 20
    # The one before, and this one.
    assert max(alive) <= 2
    assert json.dumps(listed).count(DIGEST) >= 20
