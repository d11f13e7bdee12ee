"""What the settings of a bucket make of the requests to it."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from alauda_registry.storage.driver import DriverError, Move, Write
from alauda_registry.storage.drivers.s3 import client as clients
from alauda_registry.storage.drivers.s3.driver import S3Driver
from alauda_registry.storage.drivers.s3.errors import Untrusted
from alauda_registry.storage.drivers.s3.parts import MIB
from alauda_registry.storage.drivers.s3.transport import Request
from tests.parts.certificates import Authority
from tests.parts.fake_bucket import FakeBucket, FakeTransport
from tests.unit.server.opening.opening_buckets import Listener, listening, opened

pytestmark = pytest.mark.anyio

ENCRYPTION = "x-amz-server-side-encryption"
KMS_KEY = "x-amz-server-side-encryption-aws-kms-key-id"
STORAGE_CLASS = "x-amz-storage-class"
ACL = "x-amz-acl"
SAID = (ENCRYPTION, KMS_KEY, STORAGE_CLASS, ACL)


async def put(driver: S3Driver) -> None:
    await driver.publish(Write("/small", b"content"))


async def put_on_condition(driver: S3Driver) -> None:
    async with driver.lock("some", exclusive=True, wait=0):
        pass


async def put_at_once(driver: S3Driver) -> None:
    writer = await driver.create("/blob")
    await writer.write([b"content"])
    await writer.commit()
    await writer.abort()


async def put_in_parts(driver: S3Driver) -> None:
    writer = await driver.create("/blob")
    for _ in range(20):
        await writer.write([bytes(MIB)])
    await writer.commit()
    await writer.abort()


async def append(driver: S3Driver, size: int = 3 * MIB) -> None:
    writer = await driver.append("/upload", create=True, wait=0)
    for _ in range(size // MIB):
        await writer.write([bytes(MIB)])
    await writer.close()


async def copy(driver: S3Driver) -> None:
    await append(driver)
    await driver.publish(Move("/upload", "/blob"))


async def copy_in_parts(driver: S3Driver) -> None:
    await append(driver, 20 * MIB)
    await driver.publish(Move("/upload", "/blob"))


Way = Callable[[S3Driver], Awaitable[None]]

WAYS: dict[Way, str] = {
    put: "PutObject",
    put_on_condition: "PutObject",
    put_at_once: "PutObject",
    put_in_parts: "CreateMultipartUpload",
    append: "PutObject",
    copy: "CopyObject",
    copy_in_parts: "CreateMultipartUpload",
}
"""Each way to make an object, and the request that makes the last one."""


def operation_of(request: Request) -> str | None:
    """Return the name of a request that makes an object; None for others."""
    if request.method == "POST":
        return "CreateMultipartUpload" if "uploads" in request.query else None
    if request.method != "PUT" or "uploadId" in request.query:
        return None
    return "CopyObject" if "x-amz-copy-source" in request.headers else "PutObject"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, {}),
        ({"ENCRYPT": "true"}, {ENCRYPTION: "AES256"}),
        ({"ENCRYPT": "true", "KEYID": "a-key"}, {ENCRYPTION: "aws:kms", KMS_KEY: "a-key"}),
        ({"KEYID": "a-key"}, {}),
        ({"STORAGECLASS": "standard_ia"}, {STORAGE_CLASS: "STANDARD_IA"}),
        ({"STORAGECLASS": "NONE"}, {}),
        ({"OBJECTACL": "bucket-owner-full-control"}, {ACL: "bucket-owner-full-control"}),
    ],
    ids=str,
)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_every_object_is_made_as_the_settings_say(
    way: Way, variables: dict[str, str], expected: dict[str, str]
) -> None:
    bucket = FakeBucket(lambda: 1_700_000_000.0)
    seen: list[Request] = []
    bucket.on_request = seen.append
    driver = opened(REGION="eu-west-1", **variables)
    driver.client.transport = FakeTransport(bucket)

    await way(driver)

    making = [request for request in seen if operation_of(request)]
    assert WAYS[way] in map(operation_of, making)
    for request in seen:
        found = {name: value for name, value in request.headers.items() if name in SAID}
        assert found == (expected if request in making else {}), request


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"BUCKET": "images"}, "images.s3.eu-west-1.amazonaws.com:443"),
        ({"FORCEPATHSTYLE": "true"}, "s3.eu-west-1.amazonaws.com:443"),
        ({"BUCKET": "my.images"}, "s3.eu-west-1.amazonaws.com:443"),
        ({"USEDUALSTACK": "true"}, "images.s3.dualstack.eu-west-1.amazonaws.com:443"),
        ({"ACCELERATE": "true"}, "images.s3-accelerate.amazonaws.com:443"),
        # Clients are sent to another place, and we go on to this one.
        ({"REDIRECTENDPOINT": "https://cdn.example"}, "images.s3.eu-west-1.amazonaws.com:443"),
    ],
    ids=str,
)
async def test_requests_go_where_the_settings_say(
    variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "ATTEMPTS", 1)
    async with listening() as proxy:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
        driver = opened(REGION="eu-west-1", **variables)
        with pytest.raises(DriverError):
            await driver.client.head("/a")
        await driver.aclose()

    assert proxy.lines == [f"CONNECT {expected} HTTP/1.1"]


@pytest.mark.parametrize(
    ("variables", "line", "host"),
    [
        ({}, "GET http://s3.example:9000/images/a HTTP/1.1", "s3.example:9000"),
        (
            {"VIRTUALHOSTEDSTYLE": "true"},
            "GET http://images.s3.example:9000/a HTTP/1.1",
            "images.s3.example:9000",
        ),
        (
            {"FORCEPATHSTYLE": "false", "ROOTDIRECTORY": "/some/where"},
            "GET http://images.s3.example:9000/some/where/a HTTP/1.1",
            "images.s3.example:9000",
        ),
    ],
    ids=str,
)
async def test_the_bucket_is_in_the_path_or_before_the_host(
    variables: dict[str, str], line: str, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with listening() as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        driver = opened(REGIONENDPOINT="http://s3.example:9000", **variables)
        await driver.client.get("/a")
        await driver.aclose()

    assert proxy.lines == [line]
    assert proxy.header("host") == [host]


async def ask_in_both_ways(listener: Listener, driver: S3Driver) -> None:
    await driver.client.get("/a")
    _, answer = await driver.client.open("/a")
    answer.close()
    await driver.aclose()
    assert len(listener.heads) == 2


@pytest.mark.parametrize(
    ("variables", "expected"),
    [({}, "alauda-image-registry"), ({"USERAGENT": "ours/2"}, "ours/2")],
    ids=str,
)
async def test_the_servers_log_says_who_asked(variables: dict[str, str], expected: str) -> None:
    async with listening() as listener:
        endpoint = f"http://127.0.0.1:{listener.port}"
        await ask_in_both_ways(listener, opened(REGIONENDPOINT=endpoint, **variables))

    assert listener.header("user-agent") == [expected] * 2


async def test_keys_that_expire_are_shown_with_their_token() -> None:
    async with listening() as listener:
        endpoint = f"http://127.0.0.1:{listener.port}"
        await ask_in_both_ways(listener, opened(REGIONENDPOINT=endpoint, SESSIONTOKEN="a-session"))

    assert listener.header("x-amz-security-token") == ["a-session"] * 2


@pytest.mark.parametrize(
    ("trusted", "host", "is_trusted"),
    [
        ("its own", "127.0.0.1", True),
        ("its own", "127.0.0.2", False),
        ("another", "127.0.0.1", False),
        ("the system's", "127.0.0.1", False),
        ("any", "127.0.0.2", True),
    ],
)
async def test_a_certificate_is_looked_at_unless_told_otherwise(
    trusted: str, host: str, *, is_trusted: bool, tmp_path: Path
) -> None:
    own = Authority().issue(tmp_path / "own")
    variables = {
        "its own": {"TRUSTEDCA": str(own.authority)},
        "another": {"TRUSTEDCA": str(Authority().issue(tmp_path / "another").authority)},
        "the system's": {},
        "any": {"SKIPVERIFY": "true"},
    }[trusted]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own.certificate, own.key)
    async with listening(context, host) as listener:
        driver = opened(REGIONENDPOINT=f"https://{host}:{listener.port}", **variables)
        try:
            if is_trusted:
                await driver.client.get("/a")
            else:
                with pytest.raises(Untrusted) as caught:
                    await driver.client.get("/a")
                assert "storage.s3.trustedca" in str(caught.value.advice)
        finally:
            await driver.aclose()


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, 512),
        ({"limits_read_maxrunning": "3", "limits_write_maxrunning": "0"}, 512),
        # Those of reads, six for each write, and some to spare.
        ({"limits_read_maxrunning": "3", "limits_write_maxrunning": "2"}, 3 + 12 + 16),
        (
            {"limits_read_maxrunning": "4", "limits_write_maxrunning": "3", "workers": "4"},
            6 + 16,
        ),
    ],
    ids=str,
)
async def test_there_are_connections_for_all_requests_that_may_run(
    limits: dict[str, str], expected: int
) -> None:
    async with listening() as listener:
        listener.may_answer.clear()
        driver = opened(REGIONENDPOINT=f"http://127.0.0.1:{listener.port}", **limits)
        asking = [asyncio.ensure_future(driver.client.get("/a")) for _ in range(expected + 5)]
        async with asyncio.timeout(20):
            await listener.until(expected)
        await asyncio.sleep(0.1)
        assert listener.connections == expected
        listener.may_answer.set()
        await asyncio.gather(*asking)
        await driver.aclose()
