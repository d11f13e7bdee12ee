"""A thousand watches through a real kube-apiserver: who gets what, and what a slow one costs.

Counted, and not timed: how long events take is a benchmark (``image-api-watches``).
"""

import asyncio
import base64
import os
import re
import select
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from alauda_imageapi.cluster.records import encoding
from alauda_imageapi.cluster.records.encoding import KINDS
from alauda_imageapi.machinery.store import Key
from alauda_imageapi.machinery.watch_limits import WatchLimits
from alauda_registry.kube.apiserver import ApiServerClient
from alauda_registry.kube.rest import ApiServerResources
from tests.parts import image_api
from tests.parts.control_plane import ControlPlane
from tests.parts.image_api import API, ImageApi
from tests.parts.processes import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

WATCHES, GROUPS = 1000, 50
ALL = "all"
ROUNDS = 2
MERGE = {"Content-Type": "application/merge-patch+json"}
EVENT = re.compile(rb'"example\.com/write":"(\d+)"')
READ = 256 * 1024

LARGE = 160_000
"""Bytes of text that does not compress to fewer than three quarters."""

RING_BYTES = 2**20
"""Of changes, as they are stored, that the image API server of these tests knows: so that a watch
can be behind all of them without hundreds of megabytes. Twice as many at most, and 20 changes."""

WITH_A_SMALL_RING = f"""
import functools, sys
from alauda_imageapi.cluster import command
from alauda_imageapi.cluster.records import store
store.RecordLimits = functools.partial(store.RecordLimits, ring_bytes={RING_BYTES})
sys.exit(command.main())
"""


@pytest.fixture(scope="module")
def api(
    control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ImageApi]:
    directory = tmp_path_factory.mktemp("many-watches")
    program = (sys.executable, "-c", WITH_A_SMALL_RING)
    with image_api.running(control_plane, directory, program=program) as found:
        yield found
    for log in directory.glob("*.log"):
        assert "Traceback" not in log.read_text()


class Watch:
    """One watch, on a connection of its own.

    Args:
        url: Of who serves it.
        context: Of TLS.
        path: With the query.
        headers: Who asks.
        buffer: What the kernel keeps of what is not read; its own choice by default.
    """

    def __init__(
        self, url: str, context: ssl.SSLContext, path: str, headers: str = "", buffer: int = 0
    ) -> None:
        host, _, port = url.partition("//")[2].partition(":")
        plain = socket.socket()
        if buffer:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        plain.connect((host, int(port)))
        self.socket = context.wrap_socket(plain, server_hostname=host)
        self.socket.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n".encode())
        self.head = b""
        while b"\r\n\r\n" not in self.head:
            self.head += self.socket.recv(READ)
        assert self.head.startswith(b"HTTP/1.1 200"), self.head
        self.socket.setblocking(False)
        self.is_over = False
        self.seen: list[int] = []
        self._parts: list[bytes] = []

    def read(self) -> None:
        """Take the events that have come."""
        while not self.is_over:
            try:
                data = self.socket.recv(READ)
            except ssl.SSLWantReadError:
                return
            self.is_over = not data or data.endswith(b"\r\n0\r\n\r\n")
            *ended, rest = data.split(b"\n")
            for line in ended:
                # A line of a megabyte comes in a hundred parts.
                if event := EVENT.search(b"".join([*self._parts, line])):
                    self.seen.append(int(event[1]))
                self._parts.clear()
            self._parts.append(rest)


def read_until(watches: list[Watch], counts: list[int]) -> None:
    """Read until every watch has had so many events; the test's own time is the limit."""
    missing = {watch.socket.fileno(): watch for watch in watches}
    expected = dict(zip(missing, counts, strict=True))
    with select.epoll() as poll:
        for number in missing:
            poll.register(number, select.EPOLLIN)
        while missing:
            for number, _ in poll.poll(1):
                watch = missing[number]
                watch.read()
                assert not watch.is_over
                if len(watch.seen) >= expected[number]:
                    del missing[number]
                    poll.unregister(number)


def admin_context(plane: ControlPlane) -> ssl.SSLContext:
    folder = plane.authority.parent
    context = ssl.create_default_context(cafile=plane.authority)
    context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    return context


def test_a_thousand_watchers_have_all_that_they_want_and_in_order(
    api: ImageApi, namespace: str
) -> None:
    path = f"{API}/namespaces/{namespace}/imagestreams"
    groups = [*map(str, range(GROUPS)), ALL]
    for group in groups:
        made = {"metadata": {"name": f"s-{group}", "labels": {"group": group}}}
        api.plane.api.post(path, json=made).raise_for_status()
    revision = api.plane.api.get(path).json()["metadata"]["resourceVersion"]
    context = admin_context(api.plane)

    def open_one(number: int) -> Watch:
        selector = quote(f"group in ({number % GROUPS},{ALL})")
        query = f"watch=true&resourceVersion={revision}&labelSelector={selector}"
        return Watch(api.plane.url, context, f"{API}/imagestreams?{query}")

    with ExitStack() as stack:
        with ThreadPoolExecutor(8) as pool:
            watches = list(pool.map(open_one, range(WATCHES)))
        for watch in watches:
            stack.callback(watch.socket.close)
        expected: dict[str, list[int]] = {group: [] for group in groups}
        for write, group in enumerate(groups * ROUNDS):
            body = {"metadata": {"annotations": {"example.com/write": str(write)}}}
            answer = api.plane.api.patch(f"{path}/s-{group}", json=body, headers=MERGE)
            assert answer.is_success, answer.text
            for one in groups if group == ALL else [group]:
                expected[one].append(write)
        wanted = [expected[str(number % GROUPS)] for number in range(WATCHES)]
        read_until(watches, [len(writes) for writes in wanted])

    assert [watch.seen for watch in watches] == wanted


def test_who_does_not_read_is_cut_off_and_the_others_notice_nothing(api: ImageApi) -> None:
    (replica,) = api.replicas
    path, context = f"{API}/images", ssl.create_default_context(cafile=api.tls.authority)
    folder = api.plane.authority.parent
    context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    revision = api.plane.api.get(path).json()["metadata"]["resourceVersion"]
    query = f"watch=true&resourceVersion={revision}"
    # Straight to our server: kube-apiserver would read for it.
    slow = Watch(replica.url, context, f"{path}?{query}", buffer=4096)
    quick = Watch(api.plane.url, admin_context(api.plane), f"{path}?{query}")
    # Enough to forget the first of them, and those that the kernel keeps for the slow one.
    count = 80
    try:
        asyncio.run(write_images(api, count, lambda number: read_until([quick], [number + 1])))
        read_to_the_end(slow)
    finally:
        slow.socket.close()
        quick.socket.close()
        api.plane.api.delete(path).raise_for_status()

    assert quick.seen == list(range(count))
    assert len(slow.seen) < count // 2
    assert "a watch of images is ended: its client does not read" in replica.log.read_text()


def test_ten_thousand_watches_of_one_client_leave_room_for_others(
    api: ImageApi, tmp_path: Path
) -> None:
    (replica,) = api.replicas
    rule = {"apiGroups": ["image.alauda.io"], "resources": ["images"], "verbs": ["watch"]}
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole"}
    api.plane.apply({**role, "metadata": {"name": "watches-images"}, "rules": [rule]})
    api.plane.bind("watches-images", None, group="watchers")
    greedy, modest = (
        user_context(api, tmp_path / name, name, "watchers") for name in ("greedy", "modest")
    )
    revision = api.plane.api.get(f"{API}/images").json()["metadata"]["resourceVersion"]
    path = f"{API}/images?watch=true&resourceVersion={revision}"
    most = WatchLimits().per_user

    def open_one(_: int) -> Watch:
        return Watch(replica.url, greedy, path)

    with (
        ExitStack() as watches,
        httpx.Client(verify=greedy, base_url=replica.url, timeout=30) as client,
    ):
        wait_until(lambda: client.get(f"{path}&timeoutSeconds=-1").is_success, "the role")
        with ThreadPoolExecutor(8) as pool:
            for watch in pool.map(open_one, range(most)):
                watches.callback(watch.socket.close)
        refused = client.get(path)
        for _ in range(10_000 - most - 1):
            refused = client.get(path)
            assert refused.status_code == 429, refused.text
        assert refused.json()["details"]["retryAfterSeconds"] == 1
        assert "you have 1024 watches here" in refused.json()["message"]

        other = Watch(replica.url, modest, path)
        watches.callback(other.socket.close)
        asyncio.run(write_images(api, 1, lambda _: read_until([other], [1])))
    with httpx.Client(verify=greedy, base_url=replica.url, timeout=30) as client:
        wait_until(
            lambda: client.get(f"{path}&timeoutSeconds=-1").is_success, "room for who has gone"
        )
    api.plane.api.delete(f"{API}/images").raise_for_status()


def user_context(api: ImageApi, folder: Path, name: str, group: str) -> ssl.SSLContext:
    """Return what shows the certificate of a user to our server."""
    pair = api.plane.users.issue_to_user(folder, name=name, groups=[group])
    context = ssl.create_default_context(cafile=api.tls.authority)
    context.load_cert_chain(pair.certificate, pair.key)
    return context


async def write_images(api: ImageApi, count: int, written: Callable[[int], None]) -> None:
    """Write large images one after the other, as the server would, and say so each time."""
    kind = KINDS["images"]
    async with ApiServerClient(api.kubeconfig) as client:
        for number in range(count):
            name = f"sha256:{os.urandom(32).hex()}"
            metadata = {"name": name, "annotations": {"example.com/write": str(number)}}
            text = base64.b64encode(os.urandom(LARGE * 3 // 4)).decode()
            image = {"metadata": metadata, "dockerImageManifest": text}
            payload = encoding.pack(encoding.text(image))
            record = encoding.write(kind, Key("images", "", name), image, payload)
            await ApiServerResources(client).create(kind.of, record)
            written(number)


def read_to_the_end(watch: Watch) -> None:
    """Read what is left of a watch that was cut off."""
    watch.socket.settimeout(30)
    with suppress(ConnectionError, ssl.SSLError):
        while not watch.is_over:
            watch.read()
