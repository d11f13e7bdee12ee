"""Signatures of requests: AWS Signature Version 4, as S3 wants it.

botocore signs, too, but takes longer for a signature than an S3 server in the same rack takes to
answer (the numbers are in the README's decision table). Keys of ours need no encoding beyond that
of a URL's path, so there is little to do. ``tests/unit/storage/drivers/s3/test_signing.py`` holds
this to botocore's signer.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from urllib.parse import quote

EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
UNSIGNED = "UNSIGNED-PAYLOAD"
_ALGORITHM = "AWS4-HMAC-SHA256"


@dataclass(frozen=True, slots=True)
class Keys:
    """What requests are signed with.

    Attributes:
        access: The access key's identifier.
        secret: The secret key.
        token: Of a session; None for keys that do not expire.
    """

    access: str
    secret: str = field(repr=False)
    token: str | None = field(default=None, repr=False)


def encode_path(path: str) -> str:
    """Return a path as it goes into the URL and the signature."""
    return quote(path, safe="/-_.~")


def encode_query(query: Mapping[str, str]) -> str:
    """Return a query in the order that the signature wants."""
    pairs = sorted((quote(name, safe="-_.~"), quote(query[name], safe="-_.~")) for name in query)
    return "&".join(f"{name}={value}" for name, value in pairs)


def sign(
    keys: Keys,
    region: str,
    now: datetime,
    *,
    method: str,
    path: str,
    query: str,
    headers: Mapping[str, str],
    sha256: str,
) -> dict[str, str]:
    """Return the headers that sign a request, on top of those it has.

    Args:
        keys: Whose request it is.
        region: The bucket's.
        now: The time, in UTC.
        method: Of HTTP.
        path: Of the URL, encoded.
        query: Of the URL, encoded and in order.
        headers: ``host`` and all that begin with ``x-amz-``; lower case.
        sha256: Of the body, in hex; or :data:`UNSIGNED`.
    """
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    added = {"x-amz-content-sha256": sha256, "x-amz-date": stamp}
    if keys.token is not None:
        added["x-amz-security-token"] = keys.token
    signed = sorted({**headers, **added}.items())
    names = ";".join(name for name, _ in signed)
    lines = "".join(f"{name}:{value}\n" for name, value in signed)
    canonical = f"{method}\n{path}\n{query}\n{lines}\n{names}\n{sha256}"
    scope, signature = _signature(keys, region, stamp, canonical)
    added["authorization"] = (
        f"{_ALGORITHM} Credential={keys.access}/{scope},SignedHeaders={names},Signature={signature}"
    )
    return added


def presign(
    keys: Keys,
    region: str,
    now: datetime,
    *,
    method: str,
    host: str,
    path: str,
    query: Mapping[str, str],
    seconds: int,
) -> str:
    """Return the query of a URL that anybody may use for a while.

    Args:
        keys: In whose name.
        region: The bucket's.
        now: The time, in UTC.
        method: The only one the URL is good for.
        host: Of the URL, with its port.
        path: Of the URL, encoded.
        query: What else is asked for.
        seconds: How long it is good for.
    """
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    everything = {
        **query,
        "X-Amz-Algorithm": _ALGORITHM,
        "X-Amz-Credential": f"{keys.access}/{_scope(region, stamp)}",
        "X-Amz-Date": stamp,
        "X-Amz-Expires": str(seconds),
        "X-Amz-SignedHeaders": "host",
    }
    if keys.token is not None:
        everything["X-Amz-Security-Token"] = keys.token
    encoded = encode_query(everything)
    canonical = f"{method}\n{path}\n{encoded}\nhost:{host}\n\nhost\n{UNSIGNED}"
    _, signature = _signature(keys, region, stamp, canonical)
    return f"{encoded}&X-Amz-Signature={signature}"


def _scope(region: str, stamp: str) -> str:
    return f"{stamp[:8]}/{region}/s3/aws4_request"


def _signature(keys: Keys, region: str, stamp: str, canonical: str) -> tuple[str, str]:
    scope = _scope(region, stamp)
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = f"{_ALGORITHM}\n{stamp}\n{scope}\n{digest}"
    key = _signing_key(keys.secret, stamp[:8], region)
    return scope, hmac.digest(key, text.encode(), "sha256").hex()


@lru_cache(8)
def _signing_key(secret: str, day: str, region: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for word in (day, region, "s3", "aws4_request"):
        key = hmac.digest(key, word.encode(), "sha256")
    return key
