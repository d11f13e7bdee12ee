"""Manifests of every accepted type, and what makes one unacceptable."""

import json
from typing import Any

import pytest

from alauda_registry.oci.descriptor import Descriptor
from alauda_registry.oci.digest import Algorithm, Digest
from alauda_registry.oci.errors import ManifestInvalid
from alauda_registry.oci.manifest import Manifest, media_type_of
from alauda_registry.oci.media_types import (
    DOCKER_CONFIG,
    DOCKER_LAYER_GZIP,
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_EMPTY,
    OCI_INDEX,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    SCHEMA1,
    SCHEMA1_SIGNED,
)

FOREIGN_LAYER = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"


def descriptor(media_type: str, content: bytes, **more: object) -> dict[str, Any]:
    digest = str(Digest.of(content))
    return {"mediaType": media_type, "digest": digest, "size": len(content), **more}


CONFIG = descriptor(OCI_CONFIG, b"config")
LAYER = descriptor(OCI_LAYER_GZIP, b"layer")
CHILD = descriptor(OCI_MANIFEST, b"child", platform={"os": "linux", "architecture": "amd64"})
SUBJECT = descriptor(OCI_MANIFEST, b"subject")

IMAGE: dict[str, Any] = {"schemaVersion": 2, "config": CONFIG, "layers": [LAYER]}
INDEX: dict[str, Any] = {"schemaVersion": 2, "manifests": [CHILD]}
SCHEMA1_BODY: dict[str, Any] = {"schemaVersion": 1, "name": "a", "tag": "b", "fsLayers": []}

DOCUMENTS: dict[str, dict[str, Any]] = {
    OCI_MANIFEST: IMAGE,
    OCI_INDEX: INDEX,
    DOCKER_MANIFEST: {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": descriptor(DOCKER_CONFIG, b"config"),
        "layers": [descriptor(DOCKER_LAYER_GZIP, b"layer")],
    },
    DOCKER_LIST: {"schemaVersion": 2, "mediaType": DOCKER_LIST, "manifests": [CHILD]},
    SCHEMA1: SCHEMA1_BODY,
    SCHEMA1_SIGNED: {**SCHEMA1_BODY, "signatures": [{"header": {}}]},
}


def parse(document: object, media_type: str | None = None) -> Manifest:
    return Manifest.parse(json.dumps(document).encode(), media_type)


def without(document: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name != key}


@pytest.mark.parametrize("media_type", DOCUMENTS)
def test_the_type_of_an_accepted_manifest_can_be_told_from_its_bytes(media_type: str) -> None:
    pushed = parse(DOCUMENTS[media_type], media_type)

    assert Manifest.parse(pushed.content, None) == pushed
    assert media_type_of(pushed.content) == media_type


def test_the_exact_bytes_are_kept() -> None:
    content = b"\n " + json.dumps({**IMAGE, "custom": 1}, indent=3).encode() + b" \t"

    assert Manifest.parse(content, OCI_MANIFEST).content == content


def test_an_image_refers_to_its_config_and_layers() -> None:
    manifest = parse(IMAGE, OCI_MANIFEST)

    assert manifest.config == Descriptor.from_json(CONFIG)
    assert manifest.layers == (Descriptor.from_json(LAYER),)
    assert manifest.manifests == ()


def test_an_index_refers_to_its_entries() -> None:
    manifest = parse(INDEX, OCI_INDEX)

    assert manifest.manifests == (Descriptor.from_json(CHILD),)
    assert manifest.config is None
    assert manifest.layers == ()


@pytest.mark.parametrize("media_type", [SCHEMA1, SCHEMA1_SIGNED])
def test_the_first_generation_of_manifests_is_not_looked_into(media_type: str) -> None:
    manifest = parse({**DOCUMENTS[media_type], "config": 1, "subject": 2}, media_type)

    assert manifest == Manifest(manifest.content, media_type)


@pytest.mark.parametrize("document", [IMAGE, INDEX], ids=["image", "index"])
def test_subject_and_annotations_are_read(document: dict[str, Any]) -> None:
    manifest = parse({**document, "subject": SUBJECT, "annotations": {"a": "b"}})

    assert manifest.subject == Descriptor.from_json(SUBJECT)
    assert manifest.annotations == {"a": "b"}


@pytest.mark.parametrize("key", ["subject", "annotations", "artifactType", "mediaType"])
def test_an_optional_field_that_is_null_counts_as_absent(key: str) -> None:
    manifest = parse({**IMAGE, key: None}, OCI_MANIFEST)

    plain = parse(IMAGE)
    assert (manifest.subject, manifest.annotations, manifest.artifact_type) == (
        plain.subject,
        plain.annotations,
        plain.artifact_type,
    )


def test_layers_that_are_null_are_none() -> None:
    assert parse({**IMAGE, "layers": None}, OCI_MANIFEST).layers == ()


def test_entries_that_are_null_are_none() -> None:
    assert parse({**INDEX, "manifests": None}, OCI_INDEX).manifests == ()


@pytest.mark.parametrize(
    ("document", "artifact_type"),
    [
        pytest.param({**IMAGE, "artifactType": "a/b"}, "a/b", id="image that says it"),
        pytest.param(IMAGE, OCI_CONFIG, id="image that does not"),
        pytest.param({**IMAGE, "artifactType": ""}, OCI_CONFIG, id="image that says nothing"),
        pytest.param({**INDEX, "artifactType": "a/b"}, "a/b", id="index that says it"),
        pytest.param(INDEX, None, id="index that does not"),
    ],
)
def test_the_artifact_type_falls_back_to_the_type_of_the_config(
    document: dict[str, Any], artifact_type: str | None
) -> None:
    assert parse(document).artifact_type == artifact_type


def test_a_referrer_is_shown_with_its_size_type_and_annotations() -> None:
    manifest = parse({**IMAGE, "subject": SUBJECT, "annotations": {"a": "b"}})
    digest = Digest.of(manifest.content, Algorithm.SHA512)

    assert manifest.as_referrer(digest).to_json() == {
        "mediaType": OCI_MANIFEST,
        "digest": str(digest),
        "size": len(manifest.content),
        "annotations": {"a": "b"},
        "artifactType": OCI_CONFIG,
    }


def test_an_index_without_an_artifact_type_is_shown_without_one() -> None:
    manifest = parse({**INDEX, "subject": SUBJECT})

    assert "artifactType" not in manifest.as_referrer(Digest.of(manifest.content)).to_json()


def test_config_and_layers_have_to_be_in_the_repository() -> None:
    assert parse(IMAGE).required_blobs() == (
        Descriptor.from_json(CONFIG),
        Descriptor.from_json(LAYER),
    )


def test_a_blob_that_is_used_twice_is_required_once() -> None:
    empty = descriptor(OCI_EMPTY, b"{}")

    manifest = parse({**IMAGE, "config": empty, "layers": [LAYER, empty, LAYER]})

    assert [blob.digest for blob in manifest.required_blobs()] == [
        Digest.of(b"{}"),
        Digest.of(b"layer"),
    ]


def test_a_blob_that_is_described_in_two_ways_is_required_once() -> None:
    manifest = parse({**IMAGE, "layers": [LAYER, {**LAYER, "size": 99}]})

    assert [blob.size for blob in manifest.required_blobs()] == [6, 5]


@pytest.mark.parametrize(
    ("media_type", "urls", "required"),
    [
        pytest.param(FOREIGN_LAYER, ["https://example.com/x"], False, id="foreign with urls"),
        pytest.param(FOREIGN_LAYER, [], True, id="foreign without urls"),
        pytest.param(OCI_LAYER_GZIP, ["https://example.com/x"], True, id="ordinary with urls"),
    ],
)
def test_a_layer_may_be_missing_only_if_it_is_foreign_and_has_urls(
    media_type: str, urls: list[str], *, required: bool
) -> None:
    manifest = parse({**IMAGE, "layers": [descriptor(media_type, b"layer", urls=urls)]})

    assert (Digest.of(b"layer") in {blob.digest for blob in manifest.required_blobs()}) is required


def test_a_config_is_required_whatever_it_claims_to_be() -> None:
    manifest = parse({**IMAGE, "config": descriptor(FOREIGN_LAYER, b"c", urls=["x"])})

    assert Digest.of(b"c") in {blob.digest for blob in manifest.required_blobs()}


@pytest.mark.parametrize("document", [INDEX, SCHEMA1_BODY], ids=["index", "schema 1"])
def test_what_has_no_layers_requires_no_blobs(document: dict[str, Any]) -> None:
    assert parse({**document, "subject": SUBJECT}).required_blobs() == ()


@pytest.mark.parametrize(
    "media_type",
    ["application/json", "", "text/html", "application/vnd.oci.image.layer.v1.tar", "*/*"],
)
def test_a_type_that_no_manifest_has_is_refused(media_type: str) -> None:
    with pytest.raises(ManifestInvalid, match="accepts no manifests of this media type") as caught:
        parse(IMAGE, media_type)

    assert caught.value.detail == {"media_type": media_type}


@pytest.mark.parametrize(
    ("document", "media_type"),
    [
        pytest.param(IMAGE, OCI_INDEX, id="image sent as index"),
        pytest.param(INDEX, OCI_MANIFEST, id="index sent as image"),
        pytest.param({**IMAGE, "mediaType": OCI_INDEX}, OCI_MANIFEST, id="mediaType differs"),
        pytest.param({**IMAGE, "mediaType": DOCKER_MANIFEST}, OCI_MANIFEST, id="docker as OCI"),
        pytest.param(IMAGE, DOCKER_MANIFEST, id="docker without mediaType"),
        pytest.param(INDEX, DOCKER_LIST, id="docker list without mediaType"),
        pytest.param(SCHEMA1_BODY, OCI_MANIFEST, id="schema 1 as OCI"),
        pytest.param(IMAGE, SCHEMA1, id="OCI as schema 1"),
        pytest.param(SCHEMA1_BODY, SCHEMA1_SIGNED, id="schema 1 without its signatures"),
    ],
)
def test_a_manifest_has_to_be_what_it_is_sent_as(document: dict[str, Any], media_type: str) -> None:
    with pytest.raises(ManifestInvalid, match=f"sent as {media_type.partition('+')[0]}"):
        parse(document, media_type)


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        pytest.param({}, "neither a config nor manifests", id="empty object"),
        pytest.param({"schemaVersion": 2}, "neither a config nor manifests", id="only a version"),
        pytest.param({**IMAGE, "mediaType": "a/b"}, "not the type of a manifest", id="odd type"),
        pytest.param({**IMAGE, "mediaType": 1}, "mediaType must be a string", id="type no text"),
        pytest.param(without(IMAGE, "schemaVersion"), "schemaVersion", id="no schema version"),
        pytest.param({**IMAGE, "schemaVersion": "2"}, "schemaVersion", id="version as text"),
        pytest.param({**IMAGE, "schemaVersion": 3}, "schemaVersion", id="unknown version"),
        pytest.param({**INDEX, "schemaVersion": True}, "schemaVersion", id="truth as version"),
        pytest.param(without(IMAGE, "config"), "config must be an object", id="no config"),
        pytest.param({**IMAGE, "config": []}, "config must be an object", id="config no object"),
        pytest.param({**IMAGE, "config": {}}, r"config\.mediaType is missing", id="empty config"),
        pytest.param(without(IMAGE, "layers"), "layers is missing", id="no layers"),
        pytest.param({**IMAGE, "layers": {}}, "layers must be an array", id="layers no array"),
        pytest.param({**IMAGE, "layers": [LAYER, {}]}, r"layers\[1\]\.mediaType", id="layer"),
        pytest.param(
            {**INDEX, "manifests": ["x"]}, r"manifests\[0\] must be an object", id="entry"
        ),
        pytest.param({**IMAGE, "subject": {}}, r"subject\.mediaType is missing", id="subject"),
        pytest.param(
            {**IMAGE, "subject": "x"}, "subject must be an object", id="subject no object"
        ),
        pytest.param({**IMAGE, "annotations": {"a": 1}}, r"annotations\['a'\]", id="annotation"),
        pytest.param({**IMAGE, "artifactType": 1}, "artifactType", id="artifact type"),
    ],
)
def test_what_breaks_the_schema_is_refused_with_the_reason(
    document: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ManifestInvalid, match=complaint):
        parse(document)


@pytest.mark.parametrize(
    ("document", "key"),
    [
        pytest.param({**IMAGE, "manifests": []}, "manifests", id="image with manifests"),
        pytest.param(
            {**INDEX, "mediaType": OCI_INDEX, "config": CONFIG}, "config", id="index with config"
        ),
        pytest.param(
            {**INDEX, "mediaType": OCI_INDEX, "layers": []}, "layers", id="index with layers"
        ),
    ],
)
def test_a_document_cannot_be_image_and_index_at_once(document: dict[str, Any], key: str) -> None:
    with pytest.raises(ManifestInvalid, match=f"must not have {key}"):
        parse(document)


def test_the_type_of_a_stored_manifest_is_told_even_if_it_could_not_be_pushed() -> None:
    assert media_type_of(b'{"schemaVersion": 2, "config": {}}') == OCI_MANIFEST
