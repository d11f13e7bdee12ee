"""What a refusal of an S3 server means to clients, to probes and to whoever runs the registry."""

import ssl

import aiohttp
import pytest

from alauda_registry.storage.driver import DriverError, OutOfSpace, Unreachable
from alauda_registry.storage.drivers.s3.errors import (
    Ended,
    Refused,
    Throttled,
    TimedOut,
    Truncated,
    Untrusted,
    failure,
    is_passing,
    refusal,
)


@pytest.mark.parametrize(
    ("status", "code", "kind", "words"),
    [
        (403, "AccessDenied", Refused, "do not allow it"),
        (403, "", Refused, "do not allow it"),
        (403, "InvalidAccessKeyId", Refused, "storage.s3.accesskey"),
        (404, "XAdminUserNotFound", Refused, "storage.s3.accesskey"),
        (403, "SignatureDoesNotMatch", Refused, "storage.s3.secretkey"),
        (403, "RequestTimeTooSkewed", Refused, "clock"),
        (400, "ExpiredToken", Refused, "expired"),
        (404, "NoSuchBucket", Refused, "storage.s3.bucket"),
        (404, "NoSuchUpload", Ended, "uploadpurging.age"),
        (404, "", Unreachable, "storage.s3.regionendpoint"),
        (301, "PermanentRedirect", Refused, "storage.s3.region"),
        (400, "AuthorizationHeaderMalformed", Refused, "storage.s3.region"),
        (503, "SlowDown", Throttled, "fewer requests"),
        (429, "", Throttled, "fewer requests"),
        (500, "InternalError", Unreachable, "errors of its own"),
        (507, "XMinioStorageFull", OutOfSpace, "no room"),
        (403, "QuotaExceeded", OutOfSpace, "quota"),
    ],
)
def test_each_refusal_says_what_to_do(
    status: int, code: str, kind: type[DriverError], words: str
) -> None:
    error = refusal(status, code, "as the server says", "/a")

    assert type(error) is kind
    assert words in (error.advice or "")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TimeoutError(), TimedOut),
        (aiohttp.ServerTimeoutError(), TimedOut),
        (ConnectionResetError(), Unreachable),
        (aiohttp.ServerDisconnectedError(), Unreachable),
        (aiohttp.ClientPayloadError(), Truncated),
        (ssl.SSLCertVerificationError(), Untrusted),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_each_failure_has_its_class_and_advice(error: Exception, kind: type[DriverError]) -> None:
    found = failure(error, "/a")

    assert type(found) is kind
    assert found.advice


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (503, "SlowDown", True),
        (500, "", True),
        (400, "RequestTimeout", True),
        (409, "ConditionalRequestConflict", True),
        (403, "AccessDenied", False),
        (404, "NoSuchKey", False),
        (412, "PreconditionFailed", False),
        (503, "XMinioStorageFull", False),
    ],
)
def test_only_what_passes_is_tried_again(status: int, code: str, *, expected: bool) -> None:
    assert is_passing(status, code) is expected
