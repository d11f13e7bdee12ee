"""Tells which operation of S3's API a request asks for, as its documentation names them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass(frozen=True, slots=True)
class Request:
    """What a request asks for.

    Attributes:
        method: HTTP's word.
        operation: S3's word, such as ``PutObject``.
        bucket: Empty where it is about none.
        key: Without a leading slash; empty where it is about a bucket.
        query: The first value of each parameter.
    """

    method: str
    operation: str
    bucket: str
    key: str
    query: Mapping[str, str]


_ON_BUCKETS = {
    ("GET", "list-type"): "ListObjectsV2",
    ("GET", "uploads"): "ListMultipartUploads",
    ("GET", "location"): "GetBucketLocation",
    ("GET", "versions"): "ListObjectVersions",
    ("POST", "delete"): "DeleteObjects",
}
_ON_BUCKETS_PLAIN = {
    "GET": "ListObjects",
    "HEAD": "HeadBucket",
    "PUT": "CreateBucket",
    "DELETE": "DeleteBucket",
}
_ON_OBJECTS = {
    ("PUT", "uploadId"): "UploadPart",
    ("POST", "uploads"): "CreateMultipartUpload",
    ("POST", "uploadId"): "CompleteMultipartUpload",
    ("GET", "uploadId"): "ListParts",
    ("DELETE", "uploadId"): "AbortMultipartUpload",
}
_ON_OBJECTS_PLAIN = {
    "GET": "GetObject",
    "HEAD": "HeadObject",
    "PUT": "PutObject",
    "DELETE": "DeleteObject",
}
_COPIES = {"PutObject": "CopyObject", "UploadPart": "UploadPartCopy"}
_COPY_SOURCE = re.compile(rb"\r\nx-amz-copy-source:", re.IGNORECASE)


def parse(head: bytes) -> Request:
    """Read the head of a request in path style."""
    method, target, _ = head.partition(b"\r\n")[0].decode("latin-1").split(" ", 2)
    parts = urlsplit(target)
    query = {
        name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()
    }
    bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
    operation = _operation(method, bucket, key, query)
    if _COPY_SOURCE.search(head):
        operation = _COPIES.get(operation, operation)
    return Request(method, operation, bucket, key, query)


def _operation(method: str, bucket: str, key: str, query: Mapping[str, str]) -> str:
    if not bucket:
        return "ListBuckets"
    special, plain = (_ON_OBJECTS, _ON_OBJECTS_PLAIN) if key else (_ON_BUCKETS, _ON_BUCKETS_PLAIN)
    for (of_method, parameter), name in special.items():
        if method == of_method and parameter in query:
            return name
    return plain.get(method, method)
