"""Repository names, tags and references."""

import time

import pytest

from alauda_registry.oci.digest import Algorithm, Digest
from alauda_registry.oci.errors import DigestInvalid, ErrorCode, NameInvalid, TagInvalid
from alauda_registry.oci.reference import RepositoryName, Tag, parse_reference, tag_schema


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "0",
        "team/app",
        "team/app/blobs/uploads/manifests/tags",
        "a.b",
        "a_b",
        "a__b",
        "a-b",
        "a---b",
        "a-b.c_d__e/f",
        "127.0.0.1/x",
        "a" * 255,
        "/".join("a" * 128),
    ],
    ids=lambda text: text[:24],
)
def test_a_name_reads_back_as_it_was_written(text: str) -> None:
    name = RepositoryName.parse(text)

    assert name == text
    assert type(name) is RepositoryName


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("/", id="slash"),
        pytest.param("a/", id="trailing slash"),
        pytest.param("/a", id="leading slash"),
        pytest.param("a//b", id="empty component"),
        pytest.param(".", id="dot"),
        pytest.param("..", id="dots"),
        pytest.param("a/../b", id="parent"),
        pytest.param("a..b", id="two dots"),
        pytest.param(".a", id="leading dot"),
        pytest.param("a.", id="trailing dot"),
        pytest.param("a___b", id="three underscores"),
        pytest.param("_a", id="leading underscore"),
        pytest.param("a_", id="trailing underscore"),
        pytest.param("-a", id="leading dash"),
        pytest.param("a-", id="trailing dash"),
        pytest.param("a-.b", id="two separators"),
        pytest.param("Team/app", id="upper case"),
        pytest.param("a b", id="space"),
        pytest.param("a\n", id="newline"),
        pytest.param("a:b", id="colon"),
        pytest.param("a@b", id="at"),
        pytest.param("a%2fb", id="escaped slash"),
        pytest.param("a\0", id="NUL"),
        pytest.param("ä", id="letter of another script"),
        pytest.param("a\u0663", id="digit of another script"),
        pytest.param("a" * 256, id="256 characters"),
        pytest.param("a" * 100_000, id="very long"),
    ],
)
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(NameInvalid):
        RepositoryName.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "a" * 254 + "!",
        "a-" * 127 + "!",
        "a_" * 127,
        "a/" * 127,
        "a" + "-" * 253 + "!",
        "a" + "_" * 254,
        "a__" * 85,
    ],
    ids=lambda text: text[:6],
)
def test_a_hostile_name_is_refused_in_no_time(text: str) -> None:
    started = time.process_time()
    with pytest.raises(NameInvalid):
        RepositoryName.parse(text)

    assert time.process_time() - started < 0.1


@pytest.mark.parametrize(
    "text",
    ["latest", "1.4-alpine", "_", "A_b.C-9", "0", "sha256-abc", "v1.", "a" * 128],
    ids=lambda text: text[:12],
)
def test_a_tag_reads_back_as_it_was_written(text: str) -> None:
    tag = Tag.parse(text)

    assert tag == text
    assert type(tag) is Tag


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param(".a", id="leading dot"),
        pytest.param("..", id="dots"),
        pytest.param("-a", id="leading dash"),
        pytest.param("a" * 129, id="129 characters"),
        pytest.param("a/b", id="slash"),
        pytest.param("a:b", id="colon"),
        pytest.param("a+b", id="plus"),
        pytest.param("a b", id="space"),
        pytest.param("a\n", id="newline"),
        pytest.param("a\0", id="NUL"),
        pytest.param("é", id="letter of another script"),
    ],
)
def test_what_is_no_tag_is_refused_as_an_invalid_manifest(text: str) -> None:
    with pytest.raises(TagInvalid) as caught:
        Tag.parse(text)

    assert caught.value.code is ErrorCode.MANIFEST_INVALID
    assert caught.value.detail == {"tag": text}


def test_a_reference_without_a_colon_is_a_tag() -> None:
    reference = parse_reference("latest")

    assert type(reference) is Tag
    assert reference == "latest"


def test_a_reference_with_a_colon_is_a_digest() -> None:
    digest = Digest.of(b"x")

    assert parse_reference(str(digest)) == digest


def test_a_reference_with_a_colon_is_never_taken_for_a_tag() -> None:
    with pytest.raises(DigestInvalid):
        parse_reference("sha256:baddigeststring")


def test_a_reference_without_a_colon_is_never_taken_for_a_digest() -> None:
    with pytest.raises(TagInvalid):
        parse_reference("not/a/tag")


def test_the_tag_of_the_referrers_of_a_sha256_subject_has_all_of_its_digits() -> None:
    digest = Digest.of(b"x")

    assert tag_schema(digest) == Tag.parse(f"sha256-{digest.encoded}")


def test_the_tag_of_the_referrers_of_a_sha512_subject_is_cut_to_64_digits() -> None:
    digest = Digest.of(b"x", Algorithm.SHA512)

    assert tag_schema(digest) == Tag.parse(f"sha512-{digest.encoded[:64]}")
