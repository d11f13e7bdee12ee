"""Our signatures are those that botocore makes of the same requests."""

from datetime import UTC, datetime
from urllib.parse import parse_qsl, urlsplit

import pytest
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given, strategies as st

from alauda_registry.storage.drivers.s3 import signing
from alauda_registry.storage.drivers.s3.signing import EMPTY_SHA256, Keys, encode_path, encode_query

HOST = "s3.example:9000"
REGION = "eu-west-1"
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
words = st.text(alphabet="abcXYZ019-_.~ /+=&%:ü", max_size=20)


def theirs(keys: Keys) -> Credentials:
    return Credentials(keys.access, keys.secret, keys.token)


@given(
    method=st.sampled_from(["GET", "HEAD", "PUT", "POST", "DELETE"]),
    path=st.text(alphabet="abc019-_.~/", max_size=40).map(lambda text: f"/{text}"),
    query=st.dictionaries(words.filter(bool), words, max_size=4),
    meta=st.dictionaries(st.sampled_from(["x-amz-acl", "x-amz-meta-a"]), st.just("value")),
    token=st.sampled_from([None, "a/token+of=a session"]),
)
def test_headers_are_those_of_botocore(
    method: str, path: str, query: dict[str, str], meta: dict[str, str], token: str | None
) -> None:
    keys = Keys("AKIDEXAMPLE", SECRET, token)
    encoded = encode_query(query)
    request = AWSRequest(method, f"https://{HOST}{encode_path(path)}?{encoded}", headers=dict(meta))
    request.headers["X-Amz-Content-SHA256"] = EMPTY_SHA256
    request.context["payload_signing_enabled"] = True
    S3SigV4Auth(theirs(keys), "s3", REGION).add_auth(request)
    now = datetime.strptime(request.headers["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)

    ours = signing.sign(
        keys,
        REGION,
        now,
        method=method,
        path=encode_path(path),
        query=encoded,
        headers={"host": HOST, **meta},
        sha256=EMPTY_SHA256,
    )

    assert signature(ours["authorization"]) == signature(request.headers["Authorization"])
    assert ours.get("x-amz-security-token") == token


def signature(authorization: str) -> dict[str, str]:
    _, _, rest = authorization.partition(" ")
    return dict(part.strip().split("=", 1) for part in rest.split(","))


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("token", [None, "a/token+of=a session"])
def test_a_presigned_url_is_the_one_of_botocore(method: str, token: str | None) -> None:
    keys = Keys("AKIDEXAMPLE", SECRET, token)
    query = {"response-content-type": "application/octet-stream"}
    url = f"https://{HOST}/bucket/docker/data"
    request = AWSRequest(method, f"{url}?{encode_query(query)}")
    S3SigV4QueryAuth(theirs(keys), "s3", REGION, expires=1200).add_auth(request)
    expected = dict(parse_qsl(urlsplit(request.url).query))
    stamp = datetime.strptime(expected["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)

    ours = signing.presign(
        keys,
        REGION,
        stamp,
        method=method,
        host=HOST,
        path="/bucket/docker/data",
        query=query,
        seconds=1200,
    )

    assert dict(parse_qsl(ours)) == expected


def test_keys_do_not_show_their_secrets() -> None:
    assert repr(Keys("AKID", "secret", "token")) == "Keys(access='AKID')"
