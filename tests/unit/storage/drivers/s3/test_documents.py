"""What S3 servers answer, and what is none of it."""

from datetime import UTC, datetime
from xml.etree import ElementTree

import pytest
from hypothesis import given, strategies as st

from alauda_registry.storage.drivers.s3 import documents
from alauda_registry.storage.drivers.s3.documents import (
    Entry,
    Listing,
    MultipartUpload,
    Part,
    Unreadable,
)

NAMESPACE = ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
TIME = "2026-11-29T09:00:00.000Z"


@pytest.mark.parametrize("namespace", ["", NAMESPACE], ids=["plain", "AWS"])
def test_a_listing_has_entries_prefixes_and_where_it_goes_on(namespace: str) -> None:
    body = f"""<?xml version="1.0"?><ListBucketResult{namespace}>
        <IsTruncated>true</IsTruncated><NextContinuationToken>next</NextContinuationToken>
        <Contents><Key>a&amp;b</Key><Size>7</Size><LastModified>{TIME}</LastModified></Contents>
        <CommonPrefixes><Prefix>c/</Prefix></CommonPrefixes></ListBucketResult>"""

    found = documents.parse_listing(body.encode())

    entry = Entry("a&b", 7, datetime(2026, 11, 29, 9, tzinfo=UTC))
    assert found == Listing([entry], ["c/"], {"continuation-token": "next"})


def test_keys_that_were_encoded_are_decoded() -> None:
    body = f"""<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>
        <Contents><Key>a%01%2B+%C3%BC</Key><Size>7</Size><LastModified>{TIME}</LastModified>
        </Contents><CommonPrefixes><Prefix>%26/</Prefix></CommonPrefixes></ListBucketResult>"""

    found = documents.parse_listing(body.encode())

    assert ([entry.key for entry in found.entries], found.prefixes) == (["a\x01+ ü"], ["&/"])


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"<Error><Code>AccessDenied</Code></Error>", "AccessDenied"),
        (b'  \n<?xml version="1.0"?>\n  <Error xmlns="x"><Code>A</Code></Error>', "A"),
        (b"<DeleteResult><Error><Code>AccessDenied</Code></Error></DeleteResult>", None),
        (
            b"<DeleteResult xmlns='x'><Error><Code>AccessDenied</Code></Error>"
            b"<Error><Key>a</Key><Code>SlowDown</Code></Error></DeleteResult>",
            "SlowDown",
        ),
        (b"<Some><Error>", None),
        (b"<CopyObjectResult/>", None),
    ],
)
def test_an_error_is_found_in_what_began_as_a_success(body: bytes, code: str | None) -> None:
    found = documents.find_error(body, passing=lambda code: code == "SlowDown")

    assert (found and documents.parse_error(found)[0]) == code


def test_uploads_come_with_the_markers_of_the_next_page() -> None:
    body = f"""<ListMultipartUploadsResult><IsTruncated>true</IsTruncated>
        <NextKeyMarker>k</NextKeyMarker><NextUploadIdMarker>u</NextUploadIdMarker>
        <Upload><Key>a</Key><UploadId>1</UploadId><Initiated>{TIME}</Initiated></Upload>
        </ListMultipartUploadsResult>"""

    found = documents.parse_uploads(body.encode())

    began = datetime(2026, 11, 29, 9, tzinfo=UTC)
    assert found == ([MultipartUpload("a", "1", began)], ("k", "u"))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"<ListBucketResult>",
        b"<Other/>",
        b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
        b"<ListBucketResult><Contents><Key>a</Key><Size>x</Size></Contents></ListBucketResult>",
        b"<ListBucketResult><Contents><Key>a</Key><Size>1</Size></Contents></ListBucketResult>",
    ],
)
def test_what_is_no_listing_is_never_taken_for_an_empty_one(body: bytes) -> None:
    with pytest.raises(Unreadable):
        documents.parse_listing(body)


@given(st.binary(max_size=200))
def test_an_error_can_be_read_from_anything(body: bytes) -> None:
    documents.parse_error(body)


def test_an_error_has_a_code_and_a_message() -> None:
    body = b"<Error><Code>SlowDown</Code><Message>Please</Message></Error>"

    assert documents.parse_error(body) == ("SlowDown", "Please")


def test_what_was_not_deleted_is_told() -> None:
    body = b"<DeleteResult><Error><Key>a</Key><Code>AccessDenied</Code></Error></DeleteResult>"

    assert documents.parse_deleted(body) == [("a", "AccessDenied")]


def test_keys_and_etags_are_escaped() -> None:
    keys = ["a&b", "t\tn\nr\r", "ü"]
    document = ElementTree.fromstring(documents.render_deletions(keys))
    assert [element.text for element in document.iter("Key")] == keys
    assert b"<ETag>&lt;&gt;</ETag>" in documents.render_parts([Part(1, "<>")])


@given(st.text(min_size=1))
def test_only_what_xml_can_carry_is_rendered(key: str) -> None:
    if documents.can_be_rendered(key):
        document = ElementTree.fromstring(documents.render_deletions([key]))
        assert [element.text for element in document.iter("Key")] == [key]
    else:
        with pytest.raises((ElementTree.ParseError, UnicodeEncodeError)):
            ElementTree.fromstring(documents.render_deletions([key]))
