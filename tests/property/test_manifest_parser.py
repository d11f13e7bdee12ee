"""Whatever is sent, the parser accepts it or says ``ManifestInvalid``, and nothing else."""

import json
from typing import Any

from hypothesis import example, given, strategies as st

from alauda_registry.oci.descriptor import SIZE_LIMIT, Descriptor
from alauda_registry.oci.digest import Algorithm, Digest
from alauda_registry.oci.errors import ManifestInvalid
from alauda_registry.oci.manifest import Manifest, media_type_of
from alauda_registry.oci.media_types import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    MANIFESTS,
    OCI_INDEX,
    OCI_MANIFEST,
)

media_types = st.none() | st.sampled_from(sorted(MANIFESTS))
texts = st.text(max_size=8)
annotations = st.dictionaries(texts, texts, max_size=3)
digests = st.builds(Digest.of, st.binary(max_size=4), st.sampled_from(Algorithm))
platforms = st.dictionaries(
    st.sampled_from(["architecture", "os", "os.version", "variant"]), texts.filter(bool)
)

descriptors = st.builds(
    Descriptor,
    media_type=texts.filter(bool),
    digest=digests,
    size=st.integers(0, SIZE_LIMIT - 1),
    artifact_type=st.none() | texts.filter(bool),
    platform=st.none() | platforms,
    annotations=annotations,
    urls=st.lists(texts, max_size=2).map(tuple),
    data=st.none() | texts.filter(bool),
)
pointers = descriptors.map(Descriptor.to_json)

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(texts, below, max_size=3),
    max_leaves=8,
)

about = {"subject": pointers, "annotations": annotations, "artifactType": texts}
images = st.fixed_dictionaries(
    {"schemaVersion": st.just(2), "config": pointers, "layers": st.lists(pointers, max_size=2)},
    optional={"mediaType": st.sampled_from([OCI_MANIFEST, DOCKER_MANIFEST]), **about},
)
indexes = st.fixed_dictionaries(
    {"schemaVersion": st.just(2), "manifests": st.lists(pointers, max_size=2)},
    optional={"mediaType": st.sampled_from([OCI_INDEX, DOCKER_LIST]), **about},
)
manifests = images | indexes


@st.composite
def spoiled_manifests(draw: st.DrawFn) -> Any:
    """A manifest in which one value, however deep, was replaced by something else."""
    document: Any = draw(manifests)
    target = document
    while True:
        if isinstance(target, dict):
            key: Any = draw(st.sampled_from([*sorted(target), "config", "layers", "manifests"]))
        else:
            key = draw(st.integers(0, len(target) - 1))
        below = target.get(key) if isinstance(target, dict) else target[key]
        if not (isinstance(below, dict | list) and below) or draw(st.booleans()):
            target[key] = draw(json_values)
            return document
        target = below


def check(content: bytes, media_type: str | None) -> None:
    try:
        manifest = Manifest.parse(content, media_type)
    except ManifestInvalid as error:
        json.dumps(error.errors(), ensure_ascii=False).encode()
        return
    assert manifest.content == content
    assert media_type in (None, manifest.media_type)
    assert media_type_of(content) == manifest.media_type
    assert Manifest.parse(content, None) == manifest
    for blob in manifest.required_blobs():
        assert blob == manifest.config or blob in manifest.layers
    shown = manifest.as_referrer(Digest.of(content)).to_json()
    json.dumps(shown, allow_nan=False, ensure_ascii=False).encode()


@given(content=st.binary(), media_type=media_types)
@example(content=b"[" * 200_000, media_type=None)
@example(content=b'{"config":' * 200_000, media_type=None)
@example(content=b'{"schemaVersion": ' + b"1" * 5000 + b"}", media_type=None)
@example(content=b'{"config": "\\ud800"}', media_type=None)
@example(content=b"\xef\xbb\xbf{}", media_type=None)
def test_any_bytes_are_a_manifest_or_invalid(content: bytes, media_type: str | None) -> None:
    check(content, media_type)


@given(value=json_values, media_type=media_types)
def test_any_json_is_a_manifest_or_invalid(value: object, media_type: str | None) -> None:
    check(json.dumps(value).encode(), media_type)


@given(document=spoiled_manifests(), media_type=media_types)
def test_any_spoiled_manifest_is_a_manifest_or_invalid(
    document: object, media_type: str | None
) -> None:
    check(json.dumps(document).encode(), media_type)


@given(document=manifests, position=st.integers(0), byte=st.binary(max_size=2))
def test_a_manifest_with_a_spoiled_byte_is_a_manifest_or_invalid(
    document: object, position: int, byte: bytes
) -> None:
    content = json.dumps(document, ensure_ascii=False).encode()
    position %= len(content)

    check(content[:position] + byte + content[position + 1 :], None)


@given(document=manifests)
def test_a_manifest_that_keeps_the_rules_is_accepted(document: dict[str, Any]) -> None:
    content = json.dumps(document).encode()

    manifest = Manifest.parse(content, None)

    assert [pointer.to_json() for pointer in (*manifest.layers, *manifest.manifests)] == [
        *document.get("layers", []),
        *document.get("manifests", []),
    ]
    check(content, manifest.media_type)


@given(descriptor=descriptors)
def test_a_descriptor_reads_back_as_it_was_written(descriptor: Descriptor) -> None:
    assert Descriptor.from_json(json.loads(json.dumps(descriptor.to_json()))) == descriptor


@given(value=json_values)
def test_any_json_is_a_descriptor_or_invalid(value: object) -> None:
    try:
        descriptor = Descriptor.from_json(value)
    except ManifestInvalid:
        return
    assert Descriptor.from_json(descriptor.to_json()) == descriptor
