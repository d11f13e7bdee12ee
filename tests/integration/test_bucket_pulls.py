"""Large blobs out of a bucket through the registry, in whatever way the S3 server sends them.

Their bytes go from one socket to the other in the kernel; over TLS they can't. What breaks off is
asked for again from there on, and a client that gets all bytes gets the right ones.
"""

import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from typing_extensions import override

from conformance.s3proxy import proxy
from conformance.s3proxy.proxy import Proxy, Toxic
from tests.integration.volumes import Pusher, connected, digest_of
from tests.parts import registry, s3, toxics
from tests.parts.processes import wait_until
from tests.parts.tools import require

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

MIB = 2**20
CONTENT = random.Random(7).randbytes(8 * MIB + 11)
URL = f"/v2/some/blobs/{digest_of(CONTENT)}"


@dataclass
class Pulling:
    """A registry that passes blobs through, what is between it and the bucket, and a client."""

    server: registry.Server
    proxy: Proxy
    client: httpx.Client

    def descriptors(self) -> int:
        """Return how many descriptors the registry's processes have."""
        pids = [self.server.pid, *self.server.workers()]
        return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids)

    def assert_nothing_is_left(self, before: int) -> None:
        """See that all descriptors are closed, but for connections that are kept."""
        self.client.get("/v2/")
        wait_until(lambda: self.descriptors() <= before + 2, "descriptors to be closed", 20)


@pytest.fixture
def bucket(start_s3: Callable[[s3.Kind], s3.S3Server]) -> Iterator[s3.Bucket]:
    require("versitygw")
    bucket = start_s3("versitygw").create_bucket()
    yield bucket
    bucket.remove()


@pytest.fixture
def pulling(bucket: s3.Bucket, tmp_path: Path) -> Iterator[Pulling]:
    with running(bucket, tmp_path) as pulling:
        assert Pusher(pulling.client).blob("some", CONTENT) == digest_of(CONTENT)
        assert pulling.client.get(URL).content == CONTENT
        pulling.proxy.forget()
        yield pulling


@contextmanager
def running(bucket: s3.Bucket, directory: Path) -> Iterator[Pulling]:
    with (
        proxy.before(bucket.server.address) as before,
        registry.running(
            directory / "us",
            storage=bucket.variables(before.endpoint),
            settings={"REGISTRY_STORAGE_REDIRECT_DISABLE": "true"},
        ) as server,
        connected(server.url) as client,
    ):
        yield Pulling(server, before, client)


@pytest.mark.parametrize(
    "toxic",
    [toxics.CutAnswer(3 * MIB), toxics.CutAnswer(3 * MIB, resets=True), toxics.CutAnswer(0)],
    ids=repr,
)
def test_what_breaks_off_is_resumed(pulling: Pulling, toxic: Toxic) -> None:
    before = pulling.descriptors()
    rule = pulling.proxy.add(toxic, "GetObject", key="/data$", times=2)
    answer = pulling.client.get(URL)
    assert answer.content == CONTENT
    assert rule.hits == 2
    asked = [seen for seen in pulling.proxy.seen if seen.request.key.endswith("/data")]
    assert len(asked) == 3
    pulling.assert_nothing_is_left(before)


def test_what_breaks_off_for_good_is_never_passed_for_whole(pulling: Pulling) -> None:
    pulling.proxy.add(toxics.CutAnswer(MIB), "GetObject", key="/data$", times=1)
    pulling.proxy.add(toxics.CutAnswer(0), "GetObject", key="/data$")
    with pytest.raises(httpx.RemoteProtocolError):
        pulling.client.get(URL)
    pulling.proxy.clear()
    assert pulling.client.get(URL).content == CONTENT


def test_blob_that_is_replaced_under_way_is_not_mixed(pulling: Pulling, bucket: s3.Bucket) -> None:
    (key,) = filter(lambda key: key.endswith("/data"), bucket.sizes())
    pulling.proxy.add(toxics.CutAnswer(MIB), "GetObject", key="/data$", times=1)
    pulling.proxy.add(_Replace(bucket, key), "GetObject", key="/data$", times=1)
    with pytest.raises(httpx.RemoteProtocolError):
        pulling.client.get(URL)


@dataclass(frozen=True)
class _Replace(Toxic):
    bucket: s3.Bucket
    key: str

    @override
    async def act(self, exchange: proxy.Exchange) -> None:
        self.bucket.write(self.key, bytes(len(CONTENT)))
        await exchange.forward()


@pytest.mark.parametrize(
    ("first", "last"), [(0, 99_999), (1, len(CONTENT) - 1), (5 * MIB, 6 * MIB), (8 * MIB, 8 * MIB)]
)
def test_ranges(pulling: Pulling, first: int, last: int) -> None:
    answer = pulling.client.get(URL, headers={"Range": f"bytes={first}-{last}"})
    assert answer.status_code == 206
    assert answer.content == CONTENT[first : last + 1]


def test_a_hundred_megabytes_again_and_again(bucket: s3.Bucket, tmp_path: Path) -> None:
    content = random.Random(8).randbytes(100 * 10**6 + 1)
    with running(bucket, tmp_path) as pulling:
        url = f"/v2/some/blobs/{Pusher(pulling.client).blob('some', content)}"
        assert pulling.client.get(url).content == content
        before = pulling.descriptors()
        for _ in range(3):
            assert pulling.client.get(url).content == content
        pulling.assert_nothing_is_left(before)


def test_slow_clients_get_everything_and_hold_up_nobody(pulling: Pulling) -> None:
    before = pulling.descriptors()
    with pulling.client.stream("GET", URL) as slow:
        received = bytearray()
        for chunk in slow.iter_raw(256 * 1024):
            received += chunk
            if len(received) < 4 * MIB:
                time.sleep(0.02)
            if len(received) == MIB:
                with connected(pulling.server.url) as other:
                    assert other.get(URL).content == CONTENT
    assert received == CONTENT
    pulling.assert_nothing_is_left(before)


def test_a_slow_server_is_waited_for(pulling: Pulling) -> None:
    pulling.proxy.add(toxics.Bandwidth(4 * MIB), "GetObject", key="/data$")
    assert pulling.client.get(URL).content == CONTENT


def test_clients_that_go_free_their_connections(pulling: Pulling) -> None:
    """Whether they read nothing, or all that came: nobody writes to them then."""
    before, connections = pulling.descriptors(), pulling.proxy.connections
    pulling.proxy.add(_Stuck(), "GetObject", key="/data$")
    host, _, port = pulling.server.url.removeprefix("http://").partition(":")
    for count in (1000, MIB):
        with socket.create_connection((host, int(port))) as client:
            client.sendall(f"GET {URL} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
            received = 0
            while received < count:
                received += len(client.recv(count))
        wait_until(lambda: pulling.proxy.connections <= connections, "the connection to end", 20)
    pulling.assert_nothing_is_left(before)


class _Stuck(Toxic):
    """Sends a part of the body, and then nothing until the client goes."""

    @override
    async def act(self, exchange: proxy.Exchange) -> None:
        await exchange.send_request()
        await exchange.send_answer(limit=MIB)
        await exchange.outlast_client()
