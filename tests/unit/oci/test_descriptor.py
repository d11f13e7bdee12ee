"""Descriptors as clients write them, right and wrong."""

from typing import Any

import pytest

from alauda_registry.oci.descriptor import Descriptor
from alauda_registry.oci.digest import Algorithm, Digest
from alauda_registry.oci.errors import ManifestInvalid

DIGEST = Digest.of(b"layer")
MINIMAL: dict[str, Any] = {"mediaType": "text/plain", "digest": str(DIGEST), "size": 5}
FULL: dict[str, Any] = {
    **MINIMAL,
    "urls": ["https://example.com/layer"],
    "annotations": {"key": "value", "": ""},
    "data": "bGF5ZXI=",
    "platform": {
        "architecture": "arm64",
        "os": "linux",
        "os.version": "1",
        "variant": "v8",
        "os.features": ["x"],
    },
    "artifactType": "application/example",
}


def test_a_full_descriptor_is_read_field_by_field() -> None:
    assert Descriptor.from_json(FULL) == Descriptor(
        media_type="text/plain",
        digest=DIGEST,
        size=5,
        artifact_type="application/example",
        platform={
            "architecture": "arm64",
            "os": "linux",
            "os.version": "1",
            "variant": "v8",
            "os.features": ("x",),
        },
        annotations={"key": "value", "": ""},
        urls=("https://example.com/layer",),
        data="bGF5ZXI=",
    )


@pytest.mark.parametrize("value", [MINIMAL, FULL], ids=["minimal", "full"])
def test_a_descriptor_is_written_as_it_was_read(value: dict[str, Any]) -> None:
    assert Descriptor.from_json(value).to_json() == value


def test_a_descriptor_can_be_put_into_a_set() -> None:
    assert len({Descriptor.from_json(FULL), Descriptor.from_json(FULL)}) == 1


def test_unknown_fields_are_of_no_interest() -> None:
    value = {**MINIMAL, "custom": [1], "platform": {"os": "linux", "custom": {"deep": [None]}}}

    assert Descriptor.from_json(value) == Descriptor(
        "text/plain", DIGEST, 5, platform={"os": "linux"}
    )


@pytest.mark.parametrize("field", ["urls", "annotations", "data", "platform", "artifactType"])
def test_an_optional_field_that_is_null_counts_as_absent(field: str) -> None:
    assert Descriptor.from_json({**MINIMAL, field: None}) == Descriptor.from_json(MINIMAL)


@pytest.mark.parametrize("size", [0, 2**63 - 1])
def test_sizes_that_other_programs_can_hold_are_accepted(size: int) -> None:
    assert Descriptor.from_json({**MINIMAL, "size": size}).size == size


def test_sha512_descriptors_are_accepted() -> None:
    digest = Digest.of(b"layer", Algorithm.SHA512)

    assert Descriptor.from_json({**MINIMAL, "digest": str(digest)}).digest == digest


@pytest.mark.parametrize("value", [None, [], "text", 7, True], ids=repr)
def test_what_is_no_object_is_no_descriptor(value: object) -> None:
    with pytest.raises(ManifestInvalid, match=r"layers\[3\] must be an object"):
        Descriptor.from_json(value, where="layers[3]")


@pytest.mark.parametrize("field", ["mediaType", "digest", "size"])
def test_a_required_field_cannot_be_left_out(field: str) -> None:
    value = {key: kept for key, kept in MINIMAL.items() if key != field}

    with pytest.raises(ManifestInvalid, match=rf"config\.{field}"):
        Descriptor.from_json(value, where="config")


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("mediaType", "", r"mediaType is missing"),
        ("mediaType", 1, r"mediaType must be a string, not a number"),
        ("digest", ["x"], r"digest must be a string, not an array"),
        ("digest", "sha256:abc", r"digest: .*64 hexadecimal digits"),
        ("digest", "md5:" + "a" * 32, r"digest: .*use sha256 or sha512"),
        ("size", -1, r"size must be at least 0"),
        ("size", 2**63, r"size must be at least 0 and below"),
        ("size", True, r"size must be a whole number of bytes, not a truth value"),
        ("size", 5.0, r"size must be a whole number"),
        ("size", "5", r"size must be a whole number of bytes, not a string"),
        ("size", None, r"size must be a whole number of bytes, not null"),
        ("urls", "https://example.com", r"urls must be an array"),
        ("urls", ["x", 1], r"urls\[1\] must be a string"),
        ("annotations", [], r"annotations must be an object"),
        ("annotations", {"a": 1}, r"annotations\['a'\] must be a string, not a number"),
        ("annotations", {"a": None}, r"annotations\['a'\] must be a string, not null"),
        ("data", 1, r"data must be a string"),
        ("platform", "linux/amd64", r"platform must be an object"),
        ("platform", {"os": 1}, r"platform\.os must be a string"),
        ("platform", {"os.features": "x"}, r"platform\.os\.features must be an array"),
        ("artifactType", {}, r"artifactType must be a string, not an object"),
    ],
)
def test_a_wrong_field_is_named(field: str, value: object, complaint: str) -> None:
    with pytest.raises(ManifestInvalid, match=rf"descriptor\.{complaint}"):
        Descriptor.from_json({**MINIMAL, field: value})
