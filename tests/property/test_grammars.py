"""Names, tags and digests: everything the grammar makes is read, and read as it was written."""

import re

from hypothesis import example, given, strategies as st

from alauda_registry.oci.digest import Algorithm, Digest
from alauda_registry.oci.errors import DigestInvalid, NameInvalid, RegistryError, TagInvalid
from alauda_registry.oci.reference import RepositoryName, Tag, parse_reference, tag_schema

# As the specification writes them, straightforward and slow.
NAME = re.compile(
    r"\A[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*\Z", re.ASCII
)
TAG = re.compile(r"\A[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}\Z", re.ASCII)

algorithms = st.sampled_from(Algorithm)
names = st.from_regex(NAME).filter(lambda name: len(name) <= 255)
tags = st.from_regex(TAG)
near_names = st.text(alphabet="a0._-/A\n", max_size=24)


@given(content=st.binary(), algorithm=algorithms)
def test_a_digest_reads_back_as_it_was_written(content: bytes, algorithm: Algorithm) -> None:
    digest = Digest.of(content, algorithm)

    assert Digest.parse(str(digest)) == digest


@given(text=st.text() | st.from_regex(r"\Asha(256|512):[0-9a-fA-F\n]{60,130}\Z"))
@example(text="sha256:" + "a" * 64 + "\n")
def test_a_text_is_a_digest_that_reads_back_or_is_refused(text: str) -> None:
    try:
        digest = Digest.parse(text)
    except DigestInvalid:
        assert not re.fullmatch("sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}", text)
    else:
        assert str(digest) == text


@given(text=names)
def test_a_name_reads_back_as_it_was_written(text: str) -> None:
    assert RepositoryName.parse(text) == text


@given(text=near_names | st.text())
@example(text="a__b")
@example(text="a___b")
@example(text="a-_b")
@example(text="a\n")
def test_exactly_the_names_of_the_grammar_are_accepted(text: str) -> None:
    try:
        RepositoryName.parse(text)
    except NameInvalid:
        accepted = False
    else:
        accepted = True

    assert accepted == (NAME.match(text) is not None and len(text) <= 255)


@given(text=tags | st.text(alphabet="aZ0._-:\n", max_size=130) | st.text())
def test_exactly_the_tags_of_the_grammar_are_accepted(text: str) -> None:
    try:
        tag = Tag.parse(text)
    except TagInvalid:
        assert TAG.match(text) is None
    else:
        assert TAG.match(text) is not None
        assert tag == text


@given(text=tags | st.binary().map(lambda content: str(Digest.of(content))) | st.text())
def test_a_reference_reads_back_as_it_was_written_or_is_refused(text: str) -> None:
    try:
        reference = parse_reference(text)
    except RegistryError as error:
        assert isinstance(error, DigestInvalid if ":" in text else TagInvalid)  # noqa: PT017 -- either class may be right
    else:
        assert str(reference) == text
        assert isinstance(reference, Digest if ":" in text else Tag)


@given(content=st.binary(), algorithm=algorithms)
def test_referrers_are_listed_under_something_that_is_a_tag(
    content: bytes, algorithm: Algorithm
) -> None:
    tag = tag_schema(Digest.of(content, algorithm))

    assert Tag.parse(tag) == tag
