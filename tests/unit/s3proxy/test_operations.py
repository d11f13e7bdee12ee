"""Requests are told apart by what they ask of S3."""

import pytest

from conformance.s3proxy.operations import Request, parse

HEADS = {
    "ListBuckets": "GET / HTTP/1.1",
    "HeadBucket": "HEAD /images HTTP/1.1",
    "CreateBucket": "PUT /images HTTP/1.1",
    "DeleteBucket": "DELETE /images HTTP/1.1",
    "ListObjectsV2": "GET /images?list-type=2&prefix=a HTTP/1.1",
    "ListObjects": "GET /images?prefix=a HTTP/1.1",
    "ListMultipartUploads": "GET /images?uploads HTTP/1.1",
    "DeleteObjects": "POST /images?delete HTTP/1.1",
    "GetObject": "GET /images/a/b HTTP/1.1",
    "HeadObject": "HEAD /images/a/b HTTP/1.1",
    "PutObject": "PUT /images/a/b?x-id=PutObject HTTP/1.1",
    "CopyObject": "PUT /images/a/b HTTP/1.1\r\nX-Amz-Copy-Source: images/c",
    "DeleteObject": "DELETE /images/a/b HTTP/1.1",
    "CreateMultipartUpload": "POST /images/a/b?uploads HTTP/1.1",
    "UploadPart": "PUT /images/a/b?partNumber=1&uploadId=x HTTP/1.1",
    "UploadPartCopy": (
        "PUT /images/a/b?uploadId=x&partNumber=1 HTTP/1.1\r\nx-amz-copy-source: images/c"
    ),
    "ListParts": "GET /images/a/b?uploadId=x HTTP/1.1",
    "CompleteMultipartUpload": "POST /images/a/b?uploadId=x HTTP/1.1",
    "AbortMultipartUpload": "DELETE /images/a/b?uploadId=x HTTP/1.1",
}


@pytest.mark.parametrize(("operation", "head"), HEADS.items(), ids=HEADS.keys())
def test_an_operation_is_told_by_method_target_and_headers(operation: str, head: str) -> None:
    assert parse(f"{head}\r\nHost: localhost\r\n\r\n".encode()).operation == operation


def test_bucket_and_key_are_decoded() -> None:
    request = parse(b"PUT /images/a%2Bb/c?partNumber=7&uploadId=u%2F1 HTTP/1.1\r\n\r\n")

    assert request == Request(
        "PUT", "UploadPart", "images", "a+b/c", {"partNumber": "7", "uploadId": "u/1"}
    )
