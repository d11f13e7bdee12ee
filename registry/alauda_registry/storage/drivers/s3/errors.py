"""What an S3 server's refusals mean, and what to do about them.

Each has a class, which decides the answer to clients and whether it is worth trying again, and
advice for whoever runs the registry. Advice names settings, and never a host, a key or a bucket,
since it is shown by ``/readyz`` to everybody who asks.
"""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import aiohttp

from alauda_registry.storage.driver import DriverError, OutOfSpace, Unreachable

NAME = "s3"


class Throttled(Unreachable):
    """The server asks for fewer requests."""

    code = "SLOW_DOWN"


class TimedOut(Unreachable):
    """The server did not answer in time."""

    code = "TIMEOUT"


class Truncated(Unreachable):
    """The server sent fewer bytes than it said it would, or others than it has."""

    code = "TRUNCATED"


class Ended(Unreachable):
    """The server does not know a multipart upload any more that was in use."""

    code = "UPLOAD_ENDED"


class Untrusted(Unreachable):
    """The server's certificate is not one to trust."""

    code = "CERTIFICATE_INVALID"


class CredentialsAway(Unreachable):
    """Whoever gives us credentials does not answer."""

    code = "CREDENTIALS_AWAY"
    advice = (
        "the service that gives the credentials (STS, or the container's metadata) does not "
        "answer: look at it and the network"
    )


class Refused(Unreachable):
    """The server will refuse this for as long as nobody corrects the configuration.

    Args:
        what: What it said.
        path: What it was about.
        code: The value of the label in the metrics.
        advice: What to do.
    """

    def __init__(self, what: str, *, path: str, code: str, advice: str) -> None:
        super().__init__(what, driver=NAME, path=path)
        self.code = code
        self.advice = advice


@dataclass(frozen=True, slots=True)
class _Meaning:
    code: str
    advice: str


_CREDENTIALS = (
    "the credentials have expired: renew them; with files or an instance's role look why they are "
    "not renewed"
)
_KEYS = "the access key is not known: correct storage.s3.accesskey, or the file it is read from"
_SIGNATURE = (
    "the signature does not match: correct storage.s3.secretkey, or the file it is read from, "
    "and storage.s3.region"
)
_REGION = "the bucket is in another region: correct storage.s3.region"
_BUCKET = "the bucket does not exist: create it, or correct storage.s3.bucket"
_CLOCK = "this machine's clock and the S3 server's differ too much: set them"
_ACCESS = (
    "the credentials do not allow it: give them the rights that the manual lists, on the bucket "
    "in storage.s3.bucket"
)
_CERTIFICATE = (
    "the S3 server's certificate is not signed by an authority that is trusted, or not for that "
    "name: give its CA in storage.s3.trustedca, or correct storage.s3.regionendpoint"
)
_SLOW = "the S3 server asks for fewer requests: wait, or raise its limits"
_AWAY = "the S3 server does not answer: look at it, the network, and storage.s3.regionendpoint"
_SICK = "the S3 server answers with errors of its own: look at its log"
_ENDED = (
    "something ended a multipart upload that was in use: look for a lifecycle rule of the bucket, "
    "and for a registry with a short storage.maintenance.uploadpurging.age, then push again"
)
_FULL = "the S3 server has no room left: free space or add some"
_QUOTA = "the bucket is at its quota: free space or raise the quota"

_REFUSED: Mapping[str, _Meaning] = MappingProxyType(
    {
        "AccessDenied": _Meaning("ACCESS_DENIED", _ACCESS),
        "AllAccessDisabled": _Meaning("ACCESS_DENIED", _ACCESS),
        "AuthorizationHeaderMalformed": _Meaning("WRONG_REGION", _REGION),
        "ExpiredToken": _Meaning("CREDENTIALS_EXPIRED", _CREDENTIALS),
        "ExpiredTokenException": _Meaning("CREDENTIALS_EXPIRED", _CREDENTIALS),
        "IllegalLocationConstraintException": _Meaning("WRONG_REGION", _REGION),
        "InvalidAccessKeyId": _Meaning("UNKNOWN_ACCESS_KEY", _KEYS),
        "InvalidToken": _Meaning("CREDENTIALS_EXPIRED", _CREDENTIALS),
        "NoSuchBucket": _Meaning("NO_SUCH_BUCKET", _BUCKET),
        "PermanentRedirect": _Meaning("WRONG_REGION", _REGION),
        "RequestTimeTooSkewed": _Meaning("CLOCK_SKEWED", _CLOCK),
        "SignatureDoesNotMatch": _Meaning("WRONG_SIGNATURE", _SIGNATURE),
        "TemporaryRedirect": _Meaning("WRONG_REGION", _REGION),
        # versitygw's word, with status 404.
        "XAdminUserNotFound": _Meaning("UNKNOWN_ACCESS_KEY", _KEYS),
        "TokenRefreshRequired": _Meaning("CREDENTIALS_EXPIRED", _CREDENTIALS),
    }
)

CREDENTIAL_CODES = frozenset(
    {
        *("AccessDenied", "ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId"),
        *("InvalidToken", "SignatureDoesNotMatch", "TokenRefreshRequired"),
    }
)
"""What may have ended when the files with the credentials are read again."""

_THROTTLED = frozenset(
    {
        *("SlowDown", "SlowDownRead", "SlowDownWrite", "Throttling", "ThrottlingException"),
        *("RequestLimitExceeded", "BandwidthLimitExceeded", "TooManyRequests", "ServerBusy"),
    }
)
_PASSING = frozenset(
    {
        *("InternalError", "ServiceUnavailable", "RequestTimeout", "RequestTimeoutException"),
        *("OperationAborted", "ConditionalRequestConflict", "BadDigest", "IncompleteBody"),
        # versitygw, when the folder of a key is deleted at this moment.
        *("XAmzContentSHA256Mismatch", "ExistingObjectIsDirectory"),
    }
)
_SPOILT = frozenset({"InvalidPart", "InvalidPartOrder"})
"""The parts are not those that the server said it had: the upload has to begin anew."""

_FULL_CODES = frozenset({"XMinioStorageFull", "InsufficientStorage", "StorageFull"})
_QUOTA_CODES = frozenset({"QuotaExceeded", "XMinioAdminBucketQuotaExceeded", "EntityTooLargeQuota"})


def is_passing(status: int, code: str) -> bool:
    """Tell whether the same request may succeed a moment later."""
    if code in _FULL_CODES or code in _QUOTA_CODES or code in _REFUSED:
        return False
    return status in (408, 425, 429, 500, 502, 503, 504) or code in _PASSING or code in _THROTTLED


def refusal(status: int, code: str, message: str, path: str) -> DriverError:
    """Return the driver's error for an answer that is not a success."""
    text = f"{status} {code}: {message}"[:256].rstrip(": ")
    if code in _FULL_CODES or status == 507:
        return OutOfSpace(driver=NAME, path=path, advice=_FULL)
    if code in _QUOTA_CODES:
        return OutOfSpace(driver=NAME, path=path, advice=_QUOTA)
    meaning = _REFUSED.get(code)
    if meaning is None and status in (301, 307):
        meaning = _REFUSED["PermanentRedirect"]
    if meaning is None and status in (401, 403):
        meaning = _REFUSED["AccessDenied"]
    if meaning is not None:
        return Refused(text, path=path, code=meaning.code, advice=meaning.advice)
    error: DriverError
    if status == 429 or code in _THROTTLED:
        error = Throttled(text, driver=NAME, path=path)
        error.advice = _SLOW
    elif code in _SPOILT:
        error = Truncated(text, driver=NAME, path=path)
        error.advice = _SICK
    elif code == "NoSuchUpload":
        error = Ended(text, driver=NAME, path=path)
        error.advice = _ENDED
    elif status == 404 and not code:
        error = Unreachable(f"{text} not S3's", driver=NAME, path=path)
        error.advice = _AWAY
    elif is_passing(status, code) or status >= 500:
        error = Unreachable(text, driver=NAME, path=path)
        error.advice = _SICK
    else:
        error = DriverError(text, driver=NAME, path=path)
    return error


def failure(error: Exception, path: str) -> DriverError:
    """Return the driver's error for an exchange that did not come to its end."""
    what = f"{type(error).__name__}: {error}"[:256].rstrip(": ")
    found: DriverError
    match error:
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientConnectorSSLError():
            found, found.advice = Untrusted(what, driver=NAME, path=path), _CERTIFICATE
        case ssl.SSLError():
            found, found.advice = Untrusted(what, driver=NAME, path=path), _CERTIFICATE
        case CredentialsAway():
            found = CredentialsAway(what, driver=NAME, path=path)
        case TimeoutError():
            found, found.advice = TimedOut(what, driver=NAME, path=path), _AWAY
        case aiohttp.ClientPayloadError():
            found, found.advice = Truncated(what, driver=NAME, path=path), _SICK
        case _:
            found, found.advice = Unreachable(what, driver=NAME, path=path), _AWAY
    return found
