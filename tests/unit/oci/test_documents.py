"""Decoding what somebody else wrote."""

import pytest

from alauda_registry.oci.documents import decode_object
from alauda_registry.oci.errors import ManifestInvalid


def test_an_object_is_decoded() -> None:
    content = '{"a": [1, 2.5, null, true, "\u00e4\U0001f600"]}'.encode()

    assert decode_object(content) == {"a": [1, 2.5, None, True, "\u00e4\U0001f600"]}


def test_an_escaped_pair_of_surrogates_is_one_character() -> None:
    assert decode_object(rb'{"a": "\ud83d\ude00"}') == {"a": "\U0001f600"}


def test_an_escaped_backslash_before_a_u_is_no_surrogate() -> None:
    assert decode_object(rb'{"a": "\\ud800"}') == {"a": r"\ud800"}


def test_the_last_of_several_fields_with_the_same_name_counts() -> None:
    assert decode_object(b'{"a": 1, "a": 2}') == {"a": 2}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        pytest.param(b"", "not JSON at line 1, column 1", id="empty"),
        pytest.param(b"{", "not JSON", id="cut off"),
        pytest.param(b"{} {}", "not JSON at line 1, column 4", id="two documents"),
        pytest.param(b"{'a': 1}", "not JSON", id="single quotes"),
        pytest.param(b'{"a": "\n"}', "not JSON", id="raw newline in a string"),
        pytest.param(b"\xef\xbb\xbf{}", "BOM", id="byte order mark"),
        pytest.param(b"\xff\xfe{\x00}\x00", "byte 0 is not UTF-8", id="UTF-16"),
        pytest.param(b'{"a": "\xff"}', "byte 7 is not UTF-8", id="no UTF-8"),
        pytest.param(b'{"a": "\xed\xa0\x80"}', "byte 7 is not UTF-8", id="encoded surrogate"),
        pytest.param(b'{"a": "\xc0\xaf"}', "byte 7 is not UTF-8", id="overlong encoding"),
        pytest.param(rb'{"a": "\ud800"}', "surrogate", id="lone high surrogate"),
        pytest.param(rb'{"a": ["\uDFFF"]}', "surrogate", id="lone low surrogate"),
        pytest.param(rb'{"\uD800": 1}', "surrogate", id="lone surrogate in a key"),
        pytest.param(rb'{"a": "\ude00\ud83d"}', "surrogate", id="pair the wrong way round"),
        pytest.param(b'{"a": NaN}', "NaN is not a JSON number", id="NaN"),
        pytest.param(b'{"a": -Infinity}', "-Infinity is not a JSON number", id="Infinity"),
        pytest.param(b'{"a": 1e400}', "too large", id="number beyond floating point"),
        pytest.param(b'{"a": ' + b"9" * 5000 + b"}", "too many digits", id="5000 digits"),
        pytest.param(b'{"a":' * 100_000, "nested too deep", id="deep objects"),
        pytest.param(b"[" * 100_000 + b"]" * 100_000, "nested too deep", id="deep arrays"),
        pytest.param(b"[]", "must be an object, not an array", id="array"),
        pytest.param(b"null", "must be an object, not null", id="null"),
        pytest.param(b'"text"', "must be an object, not a string", id="string"),
    ],
)
def test_what_is_no_sound_object_is_refused_with_the_reason(content: bytes, complaint: str) -> None:
    with pytest.raises(ManifestInvalid) as caught:
        decode_object(content)

    assert complaint in caught.value.message
