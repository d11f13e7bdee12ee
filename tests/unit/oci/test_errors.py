"""What a client is told."""

import json
import re

import pytest

from alauda_registry.oci import errors
from alauda_registry.oci.digest import Digest
from alauda_registry.oci.errors import (
    BlobUnknown,
    ErrorCode,
    ManifestBlobUnknown,
    NameInvalid,
    RangeNotSatisfiable,
    RegistryError,
    StorageUnavailable,
    TooManyRequests,
)


def test_an_error_says_its_code_message_and_detail() -> None:
    error = BlobUnknown("no such blob, push it", digest="sha256:abc")

    assert error.errors() == [
        {
            "code": "BLOB_UNKNOWN",
            "message": "no such blob, push it",
            "detail": {"digest": "sha256:abc"},
        }
    ]
    assert str(error) == "no such blob, push it"


def test_an_error_without_a_message_says_what_its_class_says() -> None:
    assert BlobUnknown().errors() == [{"code": "BLOB_UNKNOWN", "message": BlobUnknown.message}]


def test_every_missing_blob_has_an_entry_of_its_own() -> None:
    one, two = Digest.of(b"1"), Digest.of(b"2")

    error = ManifestBlobUnknown([one, two])

    assert error.missing == (one, two)
    assert error.errors() == [
        {
            "code": "MANIFEST_BLOB_UNKNOWN",
            "message": ManifestBlobUnknown.message,
            "detail": {"digest": str(digest)},
        }
        for digest in (one, two)
    ]


def test_errors_carry_the_numbers_that_answers_have_to_name() -> None:
    assert RangeNotSatisfiable(size=7).size == 7
    assert TooManyRequests(retry_after=3).retry_after == 3
    assert StorageUnavailable(retry_after=9).retry_after == 9
    assert StorageUnavailable().retry_after > 0


def test_a_long_text_is_cut_before_it_is_sent_back() -> None:
    error = NameInvalid(name="a" * 100_000)

    assert len(error.detail["name"]) == errors.LONGEST_TEXT


def test_half_a_character_can_be_sent_back() -> None:
    error = NameInvalid("no: \udcff", name="a\ud800")

    answer = json.dumps(error.errors(), ensure_ascii=False).encode()
    assert json.loads(answer) == [
        {"code": "NAME_INVALID", "message": "no: \\udcff", "detail": {"name": "a\\ud800"}}
    ]


def test_every_class_derives_directly_from_the_base() -> None:
    classes = {
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, RegistryError)
    }

    assert classes - {RegistryError} == set(RegistryError.__subclasses__())


def test_the_documented_tree_is_the_real_one() -> None:
    documented = re.findall(r"^  x (\w+) +(\w+)$", errors.__doc__ or "", flags=re.MULTILINE)

    assert dict(documented) == {
        error.__name__: error.code.value for error in RegistryError.__subclasses__()
    }


def test_every_code_but_that_of_unforeseen_trouble_has_a_class() -> None:
    used = {error.code for error in RegistryError.__subclasses__()}

    assert set(ErrorCode) - used == {ErrorCode.UNKNOWN}


@pytest.mark.parametrize("code", ErrorCode, ids=str)
def test_a_code_is_upper_case_letters_and_underscores(code: ErrorCode) -> None:
    assert re.fullmatch("[A-Z_]+", code)
