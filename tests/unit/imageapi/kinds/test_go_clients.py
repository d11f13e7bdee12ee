"""What typed clients of Go send: also each field that they were told nothing about, as its zero."""

from typing import Any

import pytest

from tests.unit.imageapi.apis import (
    APPLY_PATCH,
    DIGEST,
    MERGE_PATCH,
    Api,
    mapping,
    source,
    stream,
)

pytestmark = pytest.mark.anyio

TEAM = "namespaces/team"
STREAMS = f"{TEAM}/imagestreams"


def sent(kind: str, name: str, **fields: Any) -> dict[str, Any]:
    metadata = {"name": name, "creationTimestamp": None}
    return {"kind": kind, "apiVersion": "image.alauda.io/v1", "metadata": metadata, **fields}


def tag(name: str = "") -> dict[str, Any]:
    return {
        **source(name),
        "annotations": None,
        "generation": None,
        "importPolicy": {},
        "referencePolicy": {"type": ""},
    }


def image(name: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "creationTimestamp": None},
        "dockerImageReference": "quay.io/acme/base:9",
        "dockerImageMetadata": None,
        "dockerImageLayers": None,
    }


NO_IMAGE = {
    "metadata": {"creationTimestamp": None},
    "dockerImageMetadata": None,
    "dockerImageLayers": None,
}
STREAM = sent(
    "ImageStream",
    "app",
    spec={"lookupPolicy": {"local": False}, "tags": [tag("v1")]},
    status={"dockerImageRepository": ""},
)
STREAM_TAG = sent(
    "ImageStreamTag",
    "app:v1",
    tag=tag(),
    generation=0,
    lookupPolicy={"local": False},
    image=NO_IMAGE,
)
IMAGE_TAG = sent("ImageTag", "app:v1", spec=tag(), status=None, image=None)
CONDITION = {"status": "Unknown", "lastProbeTime": None, "lastTransitionTime": None}
SIGNATURE = sent(
    "ImageSignature",
    f"{DIGEST}@one",
    type="AtomicImageV1",
    content="YQ==",
    conditions=[{**CONDITION, "type": name} for name in ("Trusted", "ForImage")],
    created=None,
)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("images", {**sent("Image", DIGEST), **image(DIGEST)}),
        (STREAMS, STREAM),
        (f"{TEAM}/imagestreamtags", STREAM_TAG),
        (f"{TEAM}/imagestreamtags", {**STREAM_TAG, "tag": None}),
        (f"{TEAM}/imagetags", IMAGE_TAG),
        (
            f"{TEAM}/imagestreammappings",
            sent("ImageStreamMapping", "app", tag="v1", image=image(DIGEST)),
        ),
    ],
    ids=["image", "stream", "stream tag", "only a stream", "tag", "mapping"],
)
async def test_what_go_says_nothing_with_is_left_to_the_server(
    api: Api, path: str, body: dict[str, Any]
) -> None:
    await api.make(path, body)


async def test_a_tag_of_a_typed_client_is_as_one_that_says_little(api: Api) -> None:
    await api.make(f"{TEAM}/imagestreammappings", mapping("app", "v9"))
    await api.make("imagesignatures", SIGNATURE)
    little = (await api.make(STREAMS, stream("other", tags=[source("v1")])))["spec"]["tags"]

    whole = await api.make(f"{TEAM}/imagestreamtags", STREAM_TAG)
    await api.call("DELETE", f"{TEAM}/imagestreamtags/app:v1")
    again = await api.make(f"{TEAM}/imagetags", IMAGE_TAG)

    assert {**whole["tag"], "generation": 1} == little[0]
    assert {**again["spec"], "generation": 1} == little[0]


@pytest.mark.parametrize(("kind", "part"), [("imagestreamtags", "tag"), ("imagetags", "spec")])
async def test_empty_metadata_of_a_tag_is_what_was_left_out(api: Api, kind: str, part: str) -> None:
    labelled = stream(tags=[source("v1")])
    labelled["metadata"] |= {"labels": {"a": "b"}, "annotations": {"c": "d"}}
    before = await api.make(STREAMS, labelled)
    nothing: dict[str, Any] = {
        "labels": {},
        "annotations": {},
        "finalizers": [],
        "ownerReferences": [],
    }
    body = {"metadata": {"name": "app:v1", **nothing}, part: tag()}

    answer = await api.call("PUT", f"{TEAM}/{kind}/app:v1", body)

    assert answer.status_code == 200, answer.text
    assert answer.json()["metadata"]["labels"] == {"a": "b"}
    assert await api.get(f"{STREAMS}/app") == before


async def test_an_update_names_the_tag_that_it_is_of(api: Api) -> None:
    """As it came from another tag, which a client copies."""
    await api.make(STREAMS, stream(tags=[source("v1")]))
    copied = {"metadata": {"name": "app:v2"}, "tag": tag("v1")}

    answer = await api.call("PUT", f"{TEAM}/imagestreamtags/app:v2", copied)

    assert (answer.status_code, answer.json()["tag"]["name"]) == (201, "v2")


async def test_a_stream_may_be_sent_back_as_go_has_read_it(api: Api) -> None:
    before = await api.make(STREAMS, STREAM)
    metadata = {**STREAM["metadata"], "resourceVersion": before["metadata"]["resourceVersion"]}
    for part in ("", "/status"):
        answer = await api.call("PUT", f"{STREAMS}/app{part}", {**STREAM, "metadata": metadata})
        assert answer.status_code == 200, answer.text
        assert answer.json()["spec"] == before["spec"]
        assert answer.json()["metadata"]["generation"] == 1
        metadata["resourceVersion"] = answer.json()["metadata"]["resourceVersion"]


async def test_a_status_of_go_has_times_that_are_none(api: Api) -> None:
    made = await api.make(STREAMS, stream())
    event = {"created": None, "dockerImageReference": "a/b", "image": "", "generation": 0}
    condition = {"type": "ImportSuccess", "status": "False", "lastTransitionTime": None}
    made["status"]["tags"] = [
        {"tag": "v1", "items": [event], "conditions": [{**condition, "generation": 0}]},
        {"tag": "v2", "items": None},
    ]

    answer = await api.call("PUT", f"{STREAMS}/app/status", made)

    assert answer.status_code == 200, answer.text
    assert [named["tag"] for named in answer.json()["status"]["tags"]] == ["v1"]


async def test_what_is_put_again_changes_nothing(api: Api) -> None:
    made = await api.make(STREAMS, STREAM)
    metadata = {**STREAM["metadata"], "labels": {}, "annotations": {}}
    metadata["resourceVersion"] = made["metadata"]["resourceVersion"]

    for _ in range(2):
        api.clock.advance(seconds=5)
        answer = await api.call("PUT", f"{STREAMS}/app", {**STREAM, "metadata": metadata})

        assert answer.status_code == 200, answer.text
        assert answer.json() == made


async def test_a_status_that_is_put_again_changes_nothing(api: Api) -> None:
    made = await api.make(STREAMS, STREAM)
    annotated = {"metadata": {"annotations": {"a": "b"}}}

    api.clock.advance(seconds=5)
    put = await api.call("PUT", f"{STREAMS}/app/status", made)
    patched = await api.patch(f"{STREAMS}/app/status", annotated, MERGE_PATCH)

    assert put.json() == made
    assert patched == made


async def test_who_says_nothing_takes_no_field_away(api: Api) -> None:
    applied = f"{STREAMS}/app?fieldManager=they"
    wanted = stream(tags=[{**source("v1"), "referencePolicy": {"type": "Source"}}])
    made = await api.patch(applied, wanted, APPLY_PATCH, 201)
    metadata = {**STREAM["metadata"], "resourceVersion": made["metadata"]["resourceVersion"]}

    put = await api.call("PUT", f"{STREAMS}/app?fieldManager=me", {**STREAM, "metadata": metadata})

    assert [entry["manager"] for entry in put.json()["metadata"]["managedFields"]] == ["they"]
    wanted["spec"]["tags"][0]["referencePolicy"] = {"type": "Local"}
    await api.patch(applied, wanted, APPLY_PATCH)


async def test_who_makes_a_stream_owns_what_it_is_by_default(api: Api) -> None:
    made = await api.make(f"{STREAMS}?fieldManager=me", stream())

    (entry,) = made["metadata"]["managedFields"]
    assert entry["fieldsV1"] == {"f:spec": {"f:lookupPolicy": {"f:local": {}}}}
