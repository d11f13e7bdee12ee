"""A server that may open no more files: it says so, and goes on when it may again."""

import os
import resource
import socket
from pathlib import Path

import httpx
import pytest

from tests.integration.disks import HASTE
from tests.integration.volumes import Pusher, assert_served, connected
from tests.parts import registry as server_part
from tests.parts.processes import children_of, wait_until

pytestmark = pytest.mark.integration


def descriptors(pid: int) -> int:
    return max(map(int, os.listdir(f"/proc/{pid}/fd"))) + 1


def test_a_server_takes_as_many_open_files_as_it_may(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        with server_part.running(tmp_path, workers=2) as server:
            processes = [server.pid, *children_of(server.pid, b"spawn_main")]
            limits = {resource.prlimit(pid, resource.RLIMIT_NOFILE) for pid in processes}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)

    assert limits == {(before[1], before[1])}


def test_a_server_that_may_open_nothing_answers_and_recovers(tmp_path: Path) -> None:
    """Only the connections that it has are left to it."""
    with (
        server_part.running(tmp_path, settings=HASTE) as server,
        connected(server.url) as client,
    ):
        pusher = Pusher(client)
        pusher.image("app", "kept")
        before = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (3, before[1]))

        pull = client.get("/v2/app/manifests/kept")
        push = client.post("/v2/app/blobs/uploads/")
        delete = client.delete("/v2/app/manifests/kept")
        alive = client.get("/healthz")
        wait_until(lambda: client.get("/readyz").status_code == 503, "the probe to fail")
        reason = client.get("/readyz").text
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, before)
        wait_until(lambda: client.get("/readyz").status_code == 200, "the probe to succeed")
        assert_served(client, pusher.volume)
        pusher.image("app", "new")
        log = server.log.read_text()

    assert {answer.status_code for answer in (pull, push, delete)} == {503}
    assert {answer.headers["Retry-After"] for answer in (pull, push, delete)} == {"5"}
    assert alive.status_code == 200
    assert "ulimit -n" in log
    assert "Traceback" not in log
    assert "does not answer" in reason


@pytest.mark.parametrize("workers", [1, 2])
def test_connections_that_were_too_many_are_served_when_others_are_closed(
    tmp_path: Path, workers: int
) -> None:
    with (
        server_part.running(tmp_path, workers=workers) as server,
        connected(server.url) as client,
    ):
        pusher = Pusher(client)
        pusher.image("app", "kept")
        # A worker that still starts would end for want of files, and the server with it.
        wait_until(lambda: "serving http" in server.log.read_text(), "all workers")
        processes = [server.pid] if workers == 1 else children_of(server.pid, b"spawn_main")
        for pid in processes:
            limit = descriptors(pid) + 8
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, limit))
        host, _, port = server.address.rpartition(":")
        idle = [socket.create_connection((host, int(port)), 5) for _ in range(60)]

        exhausted = client.get("/healthz").status_code
        for connection in idle:
            connection.close()
        wait_until(lambda: is_served(server.url), "new connections")
        assert_served(client, pusher.volume)
        log = server.log.read_text()

    assert exhausted == 200
    assert "Traceback" not in log


def is_served(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", trust_env=False, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False
