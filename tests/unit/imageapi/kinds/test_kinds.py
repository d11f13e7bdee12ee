"""The kinds: what pushes, imports and users make of streams, tags and images."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from alauda_imageapi.kinds.content import NoContent
from alauda_imageapi.kinds.imagestreammappings import point_tag
from alauda_imageapi.kinds.tag_events import TagEvents
from alauda_imageapi.machinery.errors import Forbidden
from alauda_imageapi.machinery.metadata import Surroundings
from alauda_imageapi.machinery.resources import Access, Context
from alauda_imageapi.machinery.store import Key
from alauda_registry.kube.client import UserInfo
from tests.unit.imageapi.apis import (
    DIGEST,
    MERGE_PATCH,
    TABLE,
    Api,
    image,
    mapping,
    opened,
    source,
    stream,
)

pytestmark = pytest.mark.anyio

TEAM = "namespaces/team"
STREAMS = f"{TEAM}/imagestreams"
TAGS = f"{TEAM}/imagestreamtags"
MAPPINGS = f"{TEAM}/imagestreammappings"
OTHER = "sha256:" + "b" * 64

MANIFEST = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "x/y", "digest": "sha256:" + "c" * 64, "size": 99},
        "layers": [
            {"mediaType": "a/b", "digest": "sha256:" + "1" * 64, "size": 10},
            {"mediaType": "a/b", "digest": "sha256:" + "2" * 64, "size": 20},
            {"mediaType": "a/b", "digest": "sha256:" + "1" * 64, "size": 10},
        ],
    }
)
INDEX = json.dumps({"manifests": []})
PLACELESS = json.dumps({"manifests": [{"mediaType": "a/b"}]})
CONFIG = json.dumps(
    {
        "architecture": "amd64",
        "os": "linux",
        "created": "2025-01-01T00:00:00Z",
        "author": "me",
        "config": {"Env": ["A=b"], "Labels": {"l": "1"}, "Unknown": 1, "User": 7},
        "history": [],
    }
)


def events(found: Any) -> dict[str, list[tuple[str, int]]]:
    return {
        named["tag"]: [(event["image"], event["generation"]) for event in named["items"]]
        for named in found["status"].get("tags", [])
    }


async def test_a_mapping_makes_image_stream_and_tag(api: Api) -> None:
    answer = await api.make(MAPPINGS, mapping("app", "v1"))

    assert (answer["kind"], answer["status"]) == ("Status", "Success")
    found = await api.get(f"{STREAMS}/app")
    assert found["status"] == {
        "dockerImageRepository": "localhost:5000/team/app",
        "tags": [
            {
                "tag": "v1",
                "items": [
                    {
                        "created": "2026-01-02T03:04:05Z",
                        "dockerImageReference": f"quay.io/acme/base@{DIGEST}",
                        "image": DIGEST,
                        "generation": 1,
                    }
                ],
            }
        ],
    }
    assert (await api.get(f"images/{DIGEST}"))["dockerImageMetadata"]["kind"] == "DockerImage"
    dashed = DIGEST.replace(":", "-")
    assert (await api.get(f"images/{dashed}"))["metadata"]["name"] == DIGEST


async def test_a_mapping_by_its_digest_alone_gets_the_registrys_reference(api: Api) -> None:
    sent = {
        "metadata": {"name": "app"},
        "tag": "v1",
        "image": {
            "metadata": {"name": DIGEST},
            "dockerImageManifestMediaType": "application/vnd.oci.image.index.v1+json",
        },
    }

    await api.make(MAPPINGS, sent)

    found = await api.get(f"images/{DIGEST}")
    assert found["dockerImageReference"] == f"localhost:5000/team/app@{DIGEST}"
    layers = await api.get(f"{STREAMS}/app/layers")
    assert layers["images"][DIGEST] == {"layers": [], "config": None, "imageMissing": False}


async def test_the_same_mapping_twice_is_written_once(api: Api) -> None:
    await api.make(MAPPINGS, mapping("app", "v1"))
    before = await api.get(f"{STREAMS}/app")

    await api.make(MAPPINGS, mapping("app", "v1"))

    assert await api.get(f"{STREAMS}/app") == before


async def test_a_tag_that_moves_remembers_where_it_was(api: Api) -> None:
    for digest in (DIGEST, OTHER, DIGEST):
        await api.make(MAPPINGS, mapping("app", "v1", digest))

    found = await api.get(f"{STREAMS}/app")

    assert events(found)["v1"] == [(DIGEST, 1), (OTHER, 1), (DIGEST, 1)]


async def test_a_hundred_mappings_at_once_all_come_through(api: Api) -> None:
    answers = await asyncio.gather(
        *(api.call("POST", MAPPINGS, mapping("app", f"v{n}")) for n in range(100))
    )

    assert {answer.status_code for answer in answers} == {201}
    assert len((await api.get(f"{STREAMS}/app"))["status"]["tags"]) == 100


async def test_mappings_that_wait_are_written_together_and_in_order(api: Api) -> None:
    await api.make(MAPPINGS, mapping("app", "v1"))
    before = int((await api.get(f"{STREAMS}/app"))["metadata"]["resourceVersion"])
    digests = [f"sha256:{number:064}" for number in range(60)]

    await asyncio.gather(*(api.make(MAPPINGS, mapping("app", "v1", digest)) for digest in digests))

    found = await api.get(f"{STREAMS}/app")
    history = [digest for digest, _ in events(found)["v1"]]
    # An image each, and few writes of the stream.
    assert int(found["metadata"]["resourceVersion"]) - before - len(digests) < 20
    assert history == [*reversed(digests), DIGEST]


async def test_tagging_from_another_namespace_takes_the_right_to_pull_there(
    tmp_path: Path,
) -> None:
    asked: list[Access] = []

    async def allows(user: UserInfo, access: Access) -> bool:
        asked.append(access)
        return access.namespace == "open"

    def tag(namespace: str) -> dict[str, Any]:
        found = {"kind": "ImageStreamTag", "name": "app:v1", "namespace": namespace}
        return stream("copy", tags=[{"name": "v1", "from": found}])

    async with opened(tmp_path, allows=allows) as api:
        for namespace in ("team", "open", "closed"):
            path = f"namespaces/{namespace}/imagestreammappings"
            await api.make(path, mapping("app", "v1"))
        await api.make("namespaces/one/imagestreams", tag("open"))
        refused = await api.make("namespaces/two/imagestreams", tag("closed"), 422)
        absent = await api.make("namespaces/two/imagestreams", tag("absent"), 422)
        await api.make(STREAMS, tag("team"))
        made = await api.get("namespaces/one/imagestreams/copy")

    assert events(made)["v1"] == [(DIGEST, 1)]
    where = ("open", "closed", "absent")
    assert asked == [Access("get", "imagestreams", "layers", name, "app") for name in where]
    for answer, name in ((refused, "closed"), (absent, "absent")):
        (cause,) = answer["details"]["causes"]
        assert cause == {
            "reason": "FieldValueForbidden",
            "message": (
                f"Forbidden: {name}/app: it takes the right to get imagestreams/layers there"
            ),
            "field": "spec.tags[v1].from",
        }


async def test_what_is_wrong_with_one_edit_is_not_held_against_those_that_wait_with_it(
    api: Api,
) -> None:
    streams = api.kinds.streams
    context = Context(resource="imagestreams", namespace="team", surroundings=Surroundings())
    reached = asyncio.Event()

    async def hold(document: dict[str, Any]) -> bool:
        reached.set()
        await asyncio.sleep(0.05)
        return point_tag(TagEvents(document), "first", DIGEST, "x/y:1", "")

    async def spoil(document: dict[str, Any]) -> bool:
        document["status"] = "spoilt"
        raise Forbidden("not this one")

    async def point(document: dict[str, Any]) -> bool:
        return point_tag(TagEvents(document), "last", DIGEST, "x/y:1", "")

    first = asyncio.ensure_future(streams.edit(context, "app", hold, create=True))
    await reached.wait()
    spoilt = asyncio.ensure_future(streams.edit(context, "app", spoil, create=True))
    cut_off = asyncio.ensure_future(streams.edit(context, "app", point, create=True))
    last = asyncio.ensure_future(streams.edit(context, "app", point, create=True))
    await asyncio.sleep(0)
    cut_off.cancel()
    results = await asyncio.gather(first, spoilt, cut_off, last, return_exceptions=True)

    assert isinstance(results[1], Forbidden)
    assert isinstance(results[2], asyncio.CancelledError)
    assert set(events(await api.get(f"{STREAMS}/app"))) == {"first", "last"}


@pytest.mark.parametrize(
    ("sent", "field"),
    [
        (mapping("app", ""), "tag"),
        (mapping("", "v1"), "metadata.name"),
        (mapping("App", "v1"), "metadata.name"),
        (mapping("app", "v1", ""), "image.metadata.name"),
        (
            mapping("app", "v1", image={"metadata": {"name": "a"}, "dockerImageReference": "A B"}),
            "image.dockerImageReference",
        ),
        (mapping("a" * 251, "v1"), "metadata.name"),
        (mapping("app", "v1", image={"dockerImageManifest": INDEX}), "image.metadata.name"),
        (
            mapping("app", "v1", image=image(dockerImageManifest=PLACELESS)),
            "image.dockerImageManifests[0].digest",
        ),
    ],
    ids=["tag", "name", "case", "image", "reference", "length", "index", "child"],
)
async def test_a_mapping_that_cannot_be_is_invalid(
    api: Api, sent: dict[str, Any], field: str
) -> None:
    answer = await api.make(MAPPINGS, sent, 422)

    assert field in [cause["field"] for cause in answer["details"]["causes"]]
    for kind in ("imagestreams", "images"):
        assert (await api.get(kind))["items"] == []


@pytest.mark.parametrize("query", ["", "?dryRun=All"], ids=["real", "trial"])
async def test_a_mapping_makes_a_stream_only_where_there_is_room(
    tmp_path: Path, query: str
) -> None:
    asked: list[tuple[str, str, bool]] = []

    @asynccontextmanager
    async def reserve(context: Context, resource: str, name: str) -> AsyncIterator[None]:
        asked.append((resource, name, context.dry_run))
        if name == "full":
            raise Forbidden("exceeded quota: few")
        yield

    async with opened(tmp_path, reserve=reserve) as api:
        for name, status in (("app", 201), ("full", 403)):
            await api.make(f"{MAPPINGS}{query}", mapping(name, "v1"), status)

    # What was refused together with others is tried once more alone.
    assert set(asked) == {("imagestreams", name, bool(query)) for name in ("app", "full")}


async def test_an_image_says_what_its_manifest_and_config_say(api: Api) -> None:
    sent = image(dockerImageManifest=MANIFEST, dockerImageConfig=CONFIG)
    sent["metadata"]["annotations"] = {"image.alauda.io/manifestBlobStored": "true"}

    found = await api.make("images", sent)

    assert found["dockerImageMetadata"] == {
        "kind": "DockerImage",
        "apiVersion": "image.alauda.io/1.0",
        "Id": "sha256:" + "c" * 64,
        "Size": 30 + len(CONFIG),
        "Created": "2025-01-01T00:00:00Z",
        "ContainerConfig": {},
        "Config": {"Env": ["A=b"], "Labels": {"l": "1"}},
        "Author": "me",
        "Architecture": "amd64",
    }
    assert [layer["size"] for layer in found["dockerImageLayers"]] == [10, 20, 10]
    assert "dockerImageManifest" not in found
    assert "dockerImageConfig" not in found
    annotations = found["metadata"]["annotations"]
    assert annotations["image.alauda.io/dockerLayersOrder"] == "ascending"


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ({}, ["top", "base"]),
        ({"image.openshift.io/dockerLayersOrder": "ascending"}, ["base", "top"]),
        ({"image.openshift.io/dockerLayersOrder": "descending"}, ["top", "base"]),
        (
            {
                "image.openshift.io/dockerLayersOrder": "descending",
                "image.alauda.io/dockerLayersOrder": "ascending",
            },
            ["base", "top"],
        ),
    ],
    ids=["none", "ascending", "descending", "both"],
)
async def test_layers_are_in_the_order_that_openshift_said_they_are(
    api: Api, annotations: dict[str, str], expected: list[str]
) -> None:
    sent = image(
        dockerImageManifestMediaType="application/vnd.oci.image.manifest.v1+json",
        dockerImageLayers=[
            {"name": name, "size": 1, "mediaType": "a/b"} for name in ("base", "top")
        ],
    )
    sent["metadata"]["annotations"] = annotations

    found = await api.make("images", sent)

    assert [layer["name"] for layer in found["dockerImageLayers"]] == expected
    assert found["metadata"]["annotations"] == {"image.alauda.io/dockerLayersOrder": "ascending"}


async def test_content_that_openshift_has_as_blobs_is_not_kept(api: Api) -> None:
    sent = image(dockerImageManifest=MANIFEST, dockerImageConfig=CONFIG)
    sent["metadata"]["annotations"] = {"image.openshift.io/manifestBlobStored": "true"}

    found = await api.make("images", sent)

    assert not found.keys() & {"dockerImageManifest", "dockerImageConfig"}


async def test_what_openshift_manages_is_pulled_through_the_stream_it_is_mapped_in(
    api: Api,
) -> None:
    sent = mapping("app", "v1")
    sent["image"]["metadata"]["annotations"] = {"openshift.io/image.managed": "true"}
    for name in ("other", "app"):
        await api.make(MAPPINGS, {**sent, "metadata": {"name": name}})

    found = await api.get(f"{STREAMS}/app")

    (event,) = found["status"]["tags"][0]["items"]
    assert event["dockerImageReference"] == f"localhost:5000/team/app@{DIGEST}"


async def test_signatures_that_openshift_managed_come_along(api: Api) -> None:
    annotations = {"image.openshift.io/managed-signature": "true"}
    metadata = {"name": f"{DIGEST}@one", "annotations": annotations}
    signature = {"metadata": metadata, "type": "AtomicImageV1", "content": "YQ=="}

    found = await api.make("images", image(signatures=[signature]))

    assert not found["signatures"][0]["metadata"].get("annotations")


@pytest.mark.parametrize(
    "manifest",
    ["{", "[]", "3", '{"layers": 3}', '{"layers": [3, {"size": "x"}], "config": []}', "[" * 9999],
    ids=["no JSON", "list", "number", "no layers", "odd layers", "deep"],
)
async def test_an_odd_manifest_is_kept_without_being_understood(api: Api, manifest: str) -> None:
    found = await api.make("images", image(dockerImageManifest=manifest, dockerImageConfig="{"))

    assert found["dockerImageManifest"] == manifest


async def test_what_an_image_is_cannot_be_changed(api: Api) -> None:
    made = await api.make("images", image(dockerImageManifest=MANIFEST))
    patch = {
        "dockerImageLayers": [],
        "dockerImageMetadata": {"Size": 1},
        "dockerImageManifest": "x",
    }

    changed = await api.patch(f"images/{DIGEST}", patch, MERGE_PATCH)

    assert changed == made


async def test_an_index_lists_its_images(api: Api) -> None:
    child = {"digest": OTHER, "mediaType": "a/b", "size": 5, "platform": {"architecture": "arm64"}}
    index = json.dumps({"schemaVersion": 2, "manifests": [child]})
    await api.make("images", image(OTHER, dockerImageManifest=MANIFEST))
    sent = mapping("app", "v1", image=image(dockerImageManifest=index))
    await api.make(MAPPINGS, sent)

    found = await api.get(f"images/{DIGEST}")
    layers = await api.get(f"{STREAMS}/app/layers")

    assert found["dockerImageManifests"] == [
        {
            "digest": OTHER,
            "mediaType": "a/b",
            "manifestSize": 5,
            "architecture": "arm64",
            "os": "unknown",
        }
    ]
    assert layers["images"][DIGEST]["manifests"] == [OTHER]
    assert len(layers["images"][OTHER]["layers"]) == 3
    assert layers["blobs"]["sha256:" + "2" * 64] == {"size": 20, "mediaType": "a/b"}
    by_prefix = await api.get(f"{TEAM}/imagestreamimages/app@sha256:bb")
    assert by_prefix["metadata"]["name"] == "app@sha256:bb"
    assert by_prefix["image"]["metadata"]["name"] == OTHER
    for name, status in (("app@ff", 404), ("none@ff", 404), ("app", 400), ("a@b@c", 400)):
        answer = await api.call("GET", f"{TEAM}/imagestreamimages/{name}")
        assert answer.status_code == status


async def test_generations_follow_what_is_wanted(api: Api) -> None:
    await api.make(STREAMS, stream(tags=[source("a", generation=7), source("b")]))
    await api.make(MAPPINGS, mapping("app", "c"))
    patched = await api.patch(
        f"{STREAMS}/app",
        {"spec": {"tags": [source("a", "x/y:2"), source("b", generation=5), source("d")]}},
        MERGE_PATCH,
    )
    again = await api.patch(
        f"{STREAMS}/app",
        {
            "spec": {
                "tags": [
                    source("a", "x/y:2", annotations={"k": "v"}),
                    source("b", generation=0),
                    source("d"),
                ]
            }
        },
        MERGE_PATCH,
    )
    labelled = await api.patch(f"{STREAMS}/app", {"metadata": {"labels": {"a": "b"}}}, MERGE_PATCH)

    def generations(found: Any) -> tuple[int, dict[str, int]]:
        tags = {tag["name"]: tag["generation"] for tag in found["spec"]["tags"]}
        return found["metadata"]["generation"], tags

    assert generations(patched) == (2, {"a": 2, "b": 1, "d": 2})
    assert generations(again) == (3, {"a": 2, "b": 3, "d": 2})
    assert generations(labelled) == generations(again)


async def test_a_reference_points_at_once(api: Api) -> None:
    made = await api.make(STREAMS, stream(tags=[source("a", "x/y:1", reference=True)]))

    assert made["status"]["tags"][0]["items"] == [
        {
            "created": "2026-01-02T03:04:05Z",
            "dockerImageReference": "x/y:1",
            "image": "",
            "generation": 1,
        }
    ]
    # It has no image, so there is no ImageStreamTag, but an ImageTag.
    assert (await api.call("GET", f"{TAGS}/app:a")).status_code == 404
    assert (await api.get(f"{TEAM}/imagetags/app:a"))["spec"]["reference"] is True


async def test_a_tag_follows_another_of_its_stream(api: Api) -> None:
    follower = {"name": "latest", "from": {"kind": "ImageStreamTag", "name": "v1"}}
    await api.make(STREAMS, stream(tags=[follower]))
    await api.make(MAPPINGS, mapping("app", "v1"))
    await api.make(MAPPINGS, mapping("app", "v1", OTHER))

    found = await api.get(f"{STREAMS}/app")

    assert [digest for digest, _ in events(found)["latest"]] == [OTHER, DIGEST]


async def test_a_tag_of_another_stream_is_copied_once(api: Api) -> None:
    reference = f"localhost:5000/base/src@{DIGEST}"
    sent = mapping("src", "v1", image=image(dockerImageReference=reference))
    await api.make("namespaces/base/imagestreammappings", sent)
    origin = {"kind": "ImageStreamTag", "namespace": "base", "name": "src:v1"}
    by_digest = {"kind": "ImageStreamImage", "namespace": "base", "name": f"src@{DIGEST[:20]}"}
    tags: list[Any] = [{"name": "a", "from": origin}, {"name": "b", "from": by_digest}]
    tags.append({"name": "c", "from": origin, "reference": True})

    made = await api.make(STREAMS, stream(tags=tags))
    await api.make("namespaces/base/imagestreammappings", mapping("src", "v1", OTHER))

    found = {
        named["tag"]: named["items"][0]["dockerImageReference"] for named in made["status"]["tags"]
    }
    moved = f"localhost:5000/team/app@{DIGEST}"
    assert found == {"a": moved, "b": moved, "c": reference}
    assert events(await api.get(f"{STREAMS}/app")) == events(made)


@pytest.mark.parametrize(
    ("origin", "field"),
    [
        ({"kind": "ImageStreamTag", "name": "none:v1"}, "spec.tags[a].from.name"),
        ({"kind": "ImageStreamTag", "name": "x:y:z"}, "spec.tags[a].from.name"),
        ({"kind": "ImageStreamImage", "name": "app@sha256:1"}, "spec.tags[a].from.name"),
        ({"kind": "DockerImage", "name": "No Spec"}, "spec.tags[0].from.name"),
        ({"kind": "DockerImage"}, "spec.tags[0].from.name"),
        ({"kind": "Pod", "name": "x"}, "spec.tags[0].from.kind"),
    ],
)
async def test_a_source_that_cannot_be_is_invalid(
    api: Api, origin: dict[str, str], field: str
) -> None:
    answer = await api.make(STREAMS, stream(tags=[{"name": "a", "from": origin}]), 422)

    assert [cause["field"] for cause in answer["details"]["causes"]] == [field]


async def test_a_tag_shows_its_image_with_the_tags_annotations(api: Api) -> None:
    await api.make(MAPPINGS, mapping("app", "v1"))
    body = {"metadata": {"annotations": {"a": "b"}}, "tag": source("v1")}
    changed = await api.patch(f"{TAGS}/app:v1", body, MERGE_PATCH, 201)

    found = await api.get(f"{TAGS}/app:v1")

    assert found["metadata"]["annotations"] == {"a": "b"}
    assert found["image"]["metadata"]["annotations"]["a"] == "b"
    assert found["tag"]["annotations"] == {"a": "b"}
    assert changed == found


@pytest.mark.parametrize(
    ("method", "gone"),
    [("PATCH", None), ("PATCH", {"a": None}), ("PUT", None), ("PUT", {})],
    ids=["patched away", "patched empty", "left out", "empty"],
)
async def test_the_last_annotation_of_a_tag_can_be_taken_away(
    api: Api, method: str, gone: Any
) -> None:
    made = {"metadata": {"name": "app:v1", "annotations": {"a": "b"}}, "tag": source("v1")}
    body = await api.make(TAGS, made)
    body["metadata"]["annotations"] = gone
    if method == "PATCH":
        body = {"metadata": {"annotations": gone}}

    answer = await api.call(
        method, f"{TAGS}/app:v1", body, kind=MERGE_PATCH if method == "PATCH" else ""
    )

    assert answer.status_code == 200, answer.text
    assert "annotations" not in answer.json()["metadata"]
    (tag,) = (await api.get(f"{STREAMS}/app"))["spec"]["tags"]
    assert "annotations" not in tag


async def test_an_update_of_a_tag_takes_the_annotations_of_its_metadata(api: Api) -> None:
    made = {"metadata": {"name": "app:v1", "annotations": {"a": "b"}}, "tag": source("v1")}
    body = await api.make(TAGS, made)
    body["metadata"]["annotations"] = {"c": "d"}

    changed = await api.call("PUT", f"{TAGS}/app:v1", body)
    without = {"metadata": {"name": "app:v1", "annotations": {"e": "f"}}}
    again = await api.call("PUT", f"{TAGS}/app:v1", without)

    assert changed.json()["tag"]["annotations"] == {"c": "d"}
    assert again.json()["tag"] == {**changed.json()["tag"], "annotations": {"e": "f"}}


async def test_a_local_tag_is_pulled_through_the_registry(api: Api) -> None:
    await api.make(MAPPINGS, mapping("app", "v1"))
    tag = source("v1", referencePolicy={"type": "Local"})
    await api.patch(f"{TAGS}/app:v1", {"tag": tag}, MERGE_PATCH, 201)

    found = await api.get(f"{TAGS}/app:v1")
    listed = await api.get(TAGS)

    expected = f"localhost:5000/team/app@{DIGEST}"
    assert found["image"]["dockerImageReference"] == expected
    assert listed["items"][0]["image"] == {
        "metadata": {"name": DIGEST},
        "dockerImageReference": expected,
    }


async def test_tags_are_made_through_their_own_kind(api: Api) -> None:
    sent = {"metadata": {"name": "app:v1"}, "tag": source("v1")}
    made = await api.make(TAGS, sent)
    again = await api.make(TAGS, sent, 409)
    put = await api.call(
        "PUT", f"{TAGS}/app:v2", {"metadata": {"name": "app:v2"}, "tag": source("v2")}
    )

    assert made["tag"]["from"]["name"] == "quay.io/acme/base:9"
    assert again["reason"] == "AlreadyExists"
    assert put.status_code == 201
    found = await api.get(f"{STREAMS}/app")
    assert [tag["name"] for tag in found["spec"]["tags"]] == ["v1", "v2"]


@pytest.mark.parametrize(
    ("method", "name", "body", "status"),
    [
        ("GET", "app", None, 400),
        ("GET", "app:v1:x", None, 400),
        ("GET", "app:v1@x", None, 400),
        ("GET", "none:v1", None, 404),
        ("DELETE", "app:none", None, 404),
        ("DELETE", "none:v1", None, 404),
        ("PATCH", "app:none", {"metadata": {"annotations": {"a": "b"}}}, 400),
        ("PATCH", "app:v1", {"metadata": {"labels": {"a": "b"}}}, 422),
        ("PATCH", "app:v1", {"metadata": {"resourceVersion": "1"}}, 409),
        ("PATCH", "none:v1", {"metadata": {"resourceVersion": "1"}}, 404),
    ],
)
async def test_what_tags_cannot_is_the_clients_mistake(
    api: Api, method: str, name: str, body: Any, status: int
) -> None:
    await api.make(MAPPINGS, mapping("app", "v1"))

    answer = await api.call(method, f"{TAGS}/{name}", body, kind=MERGE_PATCH if body else "")

    assert answer.status_code == status, answer.text


@pytest.mark.parametrize("kind", ["imagestreamtags", "imagetags"])
async def test_deleting_a_tag_takes_both_halves(api: Api, kind: str) -> None:
    await api.make(STREAMS, stream(tags=[source("v1"), source("v2")]))
    await api.make(MAPPINGS, mapping("app", "v1"))

    answer = await api.call("DELETE", f"{TEAM}/{kind}/app:v1")

    assert answer.json()["status"] == "Success"
    found = await api.get(f"{STREAMS}/app")
    assert [tag["name"] for tag in found["spec"]["tags"]] == ["v2"]
    assert "tags" not in found["status"]
    assert (await api.call("GET", f"images/{DIGEST}")).status_code == 200


async def test_an_image_tag_without_a_spec_keeps_what_it_is(api: Api) -> None:
    await api.make(STREAMS, stream(tags=[source("v1")]))
    await api.make(MAPPINGS, mapping("app", "v1"))

    changed = await api.patch(f"{TEAM}/imagetags/app:v1", {"spec": None}, MERGE_PATCH)

    assert changed["spec"] is None
    assert changed["status"]["items"][0]["image"] == DIGEST


async def test_a_status_is_written_apart(api: Api) -> None:
    await api.make(STREAMS, stream(tags=[source("v1")]))
    await api.make(MAPPINGS, mapping("app", "v1"))
    await api.make(MAPPINGS, mapping("app", "v2", OTHER))
    found = await api.get(f"{STREAMS}/app/status")
    found["status"]["tags"] = [named for named in found["status"]["tags"] if named["tag"] == "v2"]
    found["spec"] = {}

    pruned = await api.call("PUT", f"{STREAMS}/app/status", found)

    assert events(pruned.json()) == {"v2": [(OTHER, 1)]}
    assert [tag["name"] for tag in pruned.json()["spec"]["tags"]] == ["v1"]


async def test_a_status_that_does_not_say_when_is_shown(api: Api) -> None:
    """Or whoever writes one such keeps everybody else from a table of all tags."""
    await api.make(STREAMS, stream())
    item = {"image": DIGEST, "dockerImageReference": "quay.io/acme/base:9"}
    status = {"status": {"tags": [{"tag": "v1", "items": [item]}]}}
    await api.patch(f"{STREAMS}/app/status", status, MERGE_PATCH)

    for kind in ("imagestreams", "imagestreamtags", "imagetags"):
        table = await api.get(kind, Accept=TABLE)
        assert len(table["rows"]) == 1, kind


@pytest.mark.parametrize(
    "moment",
    [
        *("2026-13-02T03:04:05Z", "2026-02-30T03:04:05Z", "2026-01-02T24:04:05Z"),
        *("2026-01-02t03:04:05z", "2026-01-02T03:04:05+99:00", "\u0662026-01-02T03:04:05Z"),
    ],
)
async def test_what_go_reads_as_no_moment_is_refused(api: Api, moment: str) -> None:
    """Its programs could not read a list with it in it."""
    await api.make(STREAMS, stream())
    item = {"image": DIGEST, "dockerImageReference": "quay.io/acme/base:9", "created": moment}
    status = {"status": {"tags": [{"tag": "v1", "items": [item]}]}}

    await api.patch(f"{STREAMS}/app/status", status, MERGE_PATCH, 422)


@pytest.mark.parametrize("text", ["not base64!", "YQ", "YQ=", "YQ==YQ==", "\N{SNOWMAN}"])
async def test_what_go_reads_as_no_bytes_is_refused_in_images(api: Api, text: str) -> None:
    for more in (
        {"dockerImageSignatures": [text]},
        {"signatures": [{"metadata": {"name": f"{DIGEST}@a"}, "type": "x", "content": text}]},
    ):
        answer = await api.call("POST", "images", image(**more))
        assert answer.status_code in (400, 422), answer.text


async def test_signatures_are_added_to_and_taken_from_their_image(api: Api) -> None:
    await api.make("images", image())
    signature = {
        "metadata": {"name": f"{DIGEST}@one"},
        "type": "AtomicImageV1",
        "content": "c2lnbmVk",
    }
    made = await api.make("imagesignatures", signature)
    again = await api.make("imagesignatures", signature, 409)
    found = await api.get(f"images/{DIGEST}")
    gone = await api.call("DELETE", f"imagesignatures/{DIGEST}@one")

    assert again["reason"] == "AlreadyExists"
    assert [item["content"] for item in found["signatures"]] == ["c2lnbmVk"]
    assert gone.status_code == 200
    assert gone.json()["details"]["uid"] == made["metadata"]["uid"]
    assert "signatures" not in await api.get(f"images/{DIGEST}")
    assert (await api.call("DELETE", f"imagesignatures/{DIGEST}@one")).status_code == 404
    bad = {**signature, "metadata": {"name": "x"}, "content": "not base64!"}
    assert len((await api.make("imagesignatures", bad, 422))["details"]["causes"]) == 2


@pytest.mark.parametrize(
    "preconditions", [{"uid": "other"}, {"resourceVersion": "1"}], ids=["uid", "revision"]
)
@pytest.mark.parametrize("kind", ["imagesignatures", "imagestreamtags", "imagetags"])
async def test_what_is_not_stored_by_itself_has_preconditions(
    api: Api, kind: str, preconditions: dict[str, str]
) -> None:
    await api.make(MAPPINGS, mapping("app", "v1"))
    signature = {"metadata": {"name": f"{DIGEST}@one"}, "type": "a", "content": "YQ=="}
    signed = await api.make("imagesignatures", signature)
    path, uid = f"imagesignatures/{DIGEST}@one", signed["metadata"]["uid"]
    if kind != "imagesignatures":
        path, uid = f"{TEAM}/{kind}/app:v1", (await api.get(f"{STREAMS}/app"))["metadata"]["uid"]

    refused = await api.call("DELETE", path, {"preconditions": preconditions})
    done = await api.call("DELETE", path, {"preconditions": {"uid": uid}})

    assert (refused.status_code, refused.json()["reason"]) == (409, "Conflict")
    assert (done.status_code, done.json()["details"]["uid"]) == (200, uid)


@pytest.mark.parametrize("which", ["uid", "resourceVersion"])
async def test_a_stream_that_was_made_again_keeps_its_tag(tmp_path: Path, which: str) -> None:
    class Meanwhile(NoContent):
        """Where others are faster while a tag is taken away."""

        is_first = True

        @override
        async def untag(self, namespace: str, name: str, tags: Sequence[str]) -> None:
            if self.is_first:
                self.is_first = False
                await api.call("DELETE", f"{STREAMS}/app")
                await api.make(MAPPINGS, mapping("app", "v1", OTHER))

    async with opened(tmp_path, content=Meanwhile()) as api:
        await api.make(MAPPINGS, mapping("app", "v1"))
        wanted = (await api.get(f"{STREAMS}/app"))["metadata"][which]

        answer = await api.call("DELETE", f"{TAGS}/app:v1", {"preconditions": {which: wanted}})

        assert answer.status_code == 409, answer.text
        assert events(await api.get(f"{STREAMS}/app")) == {"v1": [(OTHER, 1)]}


async def test_the_table_of_streams_shows_the_latest_tags_first(api: Api) -> None:
    for minutes, tag in enumerate(["v1", "v2", "a-very-long-name-of-a-tag", "v3", "v4"]):
        await api.make(MAPPINGS, mapping("app", tag, f"sha256:{minutes:064}"))
        api.clock.advance(minutes=1)
    api.clock.advance(hours=3)

    table = await api.get("imagestreams", Accept=TABLE)

    shown = "v4,v3,a-very-long-name-of-a-tag,v2,v1"
    assert table["rows"][0]["cells"] == ["app", "localhost:5000/team/app", shown, "3 hours ago"]


async def test_a_stream_shows_where_others_reach_it(tmp_path: Path) -> None:
    async with opened(tmp_path, public_registry="registry.example") as api:
        made = await api.make(STREAMS, stream(dockerImageRepository="quay.io/acme/app"))
        # What a client has read it sends back, and it is not kept.
        answer = await api.call("PUT", f"{STREAMS}/app", {**made, "spec": {}})
        table = await api.get("imagestreams", Accept=TABLE)
        key = Key("imagestreams", "team", "app")
        kept = await api.store.get(key)

    assert made["status"] == {
        "dockerImageRepository": "localhost:5000/team/app",
        "publicDockerImageRepository": "registry.example/team/app",
    }
    assert answer.json()["status"] == made["status"]
    assert table["rows"][0]["cells"][1] == "registry.example/team/app"
    assert kept is not None
    assert kept.object()["status"] == {}


async def test_an_image_may_say_of_its_layers_what_it_likes(api: Api) -> None:
    layers = [{"digest": f"sha256:{n}", "size": 2**62 - 1, "mediaType": "a/b"} for n in range(9)]
    huge = image(DIGEST, dockerImageManifest=json.dumps({"schemaVersion": 2, "layers": layers}))
    nameless = image(OTHER, dockerImageLayers=[{"size": 1}, {"name": "sha256:1", "size": 2}])

    for tag, made in (("huge", huge), ("nameless", nameless)):
        await api.make(MAPPINGS, {"metadata": {"name": "app"}, "tag": tag, "image": made})
    found = await api.get(f"{STREAMS}/app/layers")
    shown = await api.get(f"{TEAM}/imagestreamimages/app@{OTHER}")

    # The sum of them is no number that JSON of Kubernetes has.
    assert (await api.get(f"images/{DIGEST}"))["dockerImageMetadata"]["Size"] == 2**63 - 1
    assert found["images"][OTHER]["layers"] == ["sha256:1"]
    assert shown["image"]["metadata"]["name"] == OTHER


async def test_tags_without_a_name_are_refused(api: Api) -> None:
    nameless = {"from": {"kind": "DockerImage", "name": "quay.io/acme/base:9"}}
    spec = await api.make(STREAMS, stream(tags=[source("a", reference=True), nameless]), 422)
    made = await api.make(STREAMS, stream())
    event = {"created": "2026-01-02T03:04:05Z", "dockerImageReference": "a/b:1", "image": DIGEST}
    answer = await api.call(
        "PUT", f"{STREAMS}/app/status", {**made, "status": {"tags": [{"items": [event]}]}}
    )

    assert [cause["field"] for cause in spec["details"]["causes"]] == ["spec.tags[0].name"]
    assert (answer.status_code, answer.json()["details"]["causes"][0]["field"]) == (
        422,
        "status.tags[0].tag",
    )
    assert (await api.get("imagestreamtags"))["items"] == []


async def test_no_image_is_made_that_could_not_be_read(api: Api) -> None:
    refused = await api.make("images", image("sha256-" + "a" * 64), 422)

    assert refused["details"]["causes"][0]["field"] == "metadata.name"


async def test_a_list_of_tags_does_not_grow_with_the_square_of_their_number(api: Api) -> None:
    await api.make(STREAMS, stream(tags=[{"name": f"t{number}"} for number in range(300)]))

    answer = await api.call("GET", f"{TEAM}/imagetags")

    assert len(answer.json()["items"]) == 300
    assert "managedFields" not in answer.json()["items"][0]["metadata"]
    # With 4000 tags it would be gigabytes.
    assert len(answer.content) < 300 * 1024
