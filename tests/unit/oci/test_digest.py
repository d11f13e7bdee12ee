"""Digests: what is one, what is not, and what content hashes to."""

import pytest

from alauda_registry.oci.digest import Algorithm, Digest
from alauda_registry.oci.errors import DigestInvalid

EMPTY_SHA256 = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
EMPTY_SHA512 = (
    "sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce"
    "47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e"
)


@pytest.mark.parametrize("text", [EMPTY_SHA256, EMPTY_SHA512], ids=["sha256", "sha512"])
def test_a_digest_reads_back_as_it_was_written(text: str) -> None:
    assert str(Digest.parse(text)) == text


def test_a_digest_knows_its_algorithm_and_its_digits() -> None:
    assert Digest.parse(EMPTY_SHA256) == Digest(Algorithm.SHA256, EMPTY_SHA256[7:])


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [(Algorithm.SHA256, EMPTY_SHA256), (Algorithm.SHA512, EMPTY_SHA512)],
    ids=["sha256", "sha512"],
)
def test_content_hashes_to_its_published_digest(algorithm: Algorithm, expected: str) -> None:
    assert Digest.of(b"", algorithm) == Digest.parse(expected)


def test_content_is_hashed_with_sha256_unless_told_otherwise() -> None:
    assert str(Digest.of(b"")) == EMPTY_SHA256


def test_hashing_in_pieces_gives_the_digest_of_the_whole() -> None:
    hasher = Algorithm.SHA512.hasher()
    hasher.update(b"half")
    fork = hasher.copy()
    hasher.update(memoryview(b" and half"))

    assert hasher.hexdigest() == Digest.of(b"half and half", Algorithm.SHA512).encoded
    assert fork.hexdigest() == Digest.of(b"half", Algorithm.SHA512).encoded


def test_digests_of_different_algorithms_never_equal_each_other() -> None:
    digests = {Digest.of(b"x"), Digest.of(b"x", Algorithm.SHA512), Digest.of(b"x")}

    assert len(digests) == 2


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        pytest.param("", "write it as <algorithm>", id="empty"),
        pytest.param("latest", "write it as <algorithm>", id="no colon"),
        pytest.param(":" + "a" * 64, "use sha256 or sha512", id="no algorithm"),
        pytest.param("sha256:", "64 hexadecimal digits, not 0", id="no digits"),
        pytest.param("sha256:" + "a" * 63, "64 hexadecimal digits, not 63", id="too short"),
        pytest.param("sha256:" + "a" * 65, "64 hexadecimal digits, not 65", id="too long"),
        pytest.param("sha256:baddigeststring", "64 hexadecimal digits", id="not hexadecimal"),
        pytest.param("sha512:" + "a" * 64, "128 hexadecimal digits, not 64", id="half a sha512"),
        pytest.param("sha256:" + "A" * 64, "lower-case", id="upper case"),
        pytest.param("SHA256:" + "a" * 64, "use sha256 or sha512", id="upper-case algorithm"),
        pytest.param("sha384:" + "a" * 96, "use sha256 or sha512", id="sha384"),
        pytest.param("md5:" + "a" * 32, "use sha256 or sha512", id="md5"),
        pytest.param(EMPTY_SHA256 + "\n", "64 hexadecimal digits, not 65", id="newline"),
        pytest.param("sha256:" + "a" * 63 + "\n", "lower-case", id="newline for a digit"),
        pytest.param(" " + EMPTY_SHA256, "use sha256 or sha512", id="leading space"),
        pytest.param("sha256:" + "٣" * 64, "lower-case", id="digits of another script"),
        pytest.param("sha256:" + "a" * 63 + "/", "lower-case", id="slash"),
        pytest.param("sha256:" + "a" * 63 + "\0", "lower-case", id="NUL"),
    ],
)
def test_what_is_no_digest_is_refused_with_the_reason(text: str, complaint: str) -> None:
    with pytest.raises(DigestInvalid) as caught:
        Digest.parse(text)

    assert complaint in caught.value.message
    assert caught.value.detail == {"digest": text}
