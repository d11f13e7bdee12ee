"""Whatever is sent: a clean answer, with the error form of the specification, and never a 5xx."""

import json
from collections.abc import Iterator
from contextlib import nullcontext

import pytest
from hypothesis import given, settings, strategies as st

from alauda_registry.oci.digest import Digest
from alauda_registry.oci.media_types import OCI_INDEX, OCI_MANIFEST
from alauda_registry.server.app import create_app
from alauda_registry.server.state import ServerOptions
from alauda_registry.storage.drivers.inmemory import InMemoryDriver
from alauda_registry.storage.repositories import Registry
from tests.unit.server.asgi import RawClient

EMPTY = str(Digest.of(b"")).encode()
INDEX = b'{"schemaVersion":2,"manifests":[]}'

LONG = b"9" * 5000


def words(text: bytes, *others: bytes) -> st.SearchStrategy[bytes]:
    return st.sampled_from([*text.split(b" "), *others])


segments = words(
    b"a b v1 .. . %2e%2e %2F %00 \0 % %zz %ff \xff\xfe %0a %252f \\ UPPER + _catalog _oci "
    b"manifests blobs uploads tags list referrers sha256: 00000000-0000-4000-8000-000000000000",
    b"",
    b"x" * 300,
    EMPTY,
    b"sha256:" + b"0" * 64,
    b"sha512:" + b"f" * 128,
)
tails = words(
    b"manifests/v1 blobs/uploads/ tags/list",
    b"blobs/" + EMPTY,
    b"referrers/" + EMPTY,
    b"manifests/" + str(Digest.of(INDEX)).encode(),
)
paths = st.tuples(st.lists(segments, max_size=6), tails).map(
    lambda parts: b"/v2/" + b"/".join([*parts[0], parts[1]])
) | st.binary(max_size=30).map(lambda path: b"/" + path)

keys = words(b"n last digest mount from tag _state artifactType digest-algorithm x")
values = words(b"0 -1 a .. %00 %ff % && = \xff sha512 AAAA a/b %2e%2e%2f", b"", LONG, EMPTY)
queries = st.lists(st.tuples(keys, values).map(b"=".join), max_size=4).map(b"&".join)

header_names = words(
    b"range if-range if-none-match content-range content-length transfer-encoding content-type "
    b"accept host x-forwarded-host"
)
header_values = words(
    b'0-0 5-4 bytes=0-0 bytes=-0 bytes=9-1 bytes=0-1,2-3 * W/" \xff -1 1 \xb2 chunked',
    b"",
    LONG,
    LONG + b"-" + LONG,
    b"bytes=" + LONG + b"-",
    b'"' + EMPTY + b'"',
    b"text/html; charset=\xff",
    OCI_MANIFEST.encode(),
    OCI_INDEX.encode(),
)
headers = st.lists(st.tuples(header_names, header_values), max_size=5)
bodies = st.lists(
    st.sampled_from(
        [b"", b"{}", INDEX, b"[" * 5000, b"\xff", b"null", b'{"config":{"size":1e999}}']
    )
    | st.binary(max_size=50),
    max_size=3,
)
methods = st.sampled_from(
    ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW", "get"]
)


@pytest.fixture(scope="module", params=[ServerOptions(), ServerOptions(relative_urls=False)])
def client(request: pytest.FixtureRequest) -> Iterator[RawClient]:
    """One server for all examples, so that what one leaves behind is there for the next."""
    registry = Registry(InMemoryDriver())
    with RawClient(create_app(lambda: nullcontext(registry), request.param)) as client:
        client.request("POST", b"/v2/a/blobs/uploads/", query=b"digest=" + EMPTY)
        client.request("PUT", b"/v2/a/manifests/v1", body=[INDEX])
        yield client


@settings(max_examples=max(300, settings().max_examples))
@given(methods, paths, queries, headers, bodies, st.booleans())
def test_no_request_brings_the_server_down(
    client: RawClient,
    method: str,
    path: bytes,
    query: bytes,
    headers: list[tuple[bytes, bytes]],
    body: list[bytes],
    is_cut_off: bool,
) -> None:
    answer = client.request(
        method, path, query=query, headers=headers, body=body, is_cut_off=is_cut_off
    )

    assert 200 <= answer.status < 500
    assert answer.headers["docker-distribution-api-version"] == "registry/2.0"
    if answer.status >= 400 and method != "HEAD" and not is_cut_off:
        assert answer.headers["content-type"] == "application/json"
        errors = json.loads(answer.body)["errors"]
        assert all(error["code"].isupper() and error["message"] for error in errors)
