"""The real process: how it starts, what it refuses, how it ends, and how workers work together."""

import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.parts.certificates import Authority
from tests.parts.processes import free_port, inherited, listens, stop, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


@dataclass(frozen=True)
class Serving:
    """A server that serves."""

    process: subprocess.Popen[bytes]
    log: Path
    port: int

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def get(self, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
        connection = self.connect()
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def lines(self, logger: str = "") -> list[dict[str, Any]]:
        """The log so far."""
        found = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [line for line in found if line["logger"].endswith(logger)]

    def workers(self) -> list[int]:
        """The processes that serve."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(child) for child in children if b"spawn_main" in command_of(child)]


def command_of(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def start(log: Path, *arguments: str | Path, **variables: str) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "alauda_registry", "serve", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=inherited(PYTHONPATH=os.pathsep.join(sys.path), **variables),
            start_new_session=True,
        )


@contextmanager
def serving(tmp_path: Path, *arguments: str | Path, **variables: str) -> Iterator[Serving]:
    log = tmp_path / "log"
    process = start(
        log, "--root", tmp_path / "root", "--listen", "127.0.0.1:0", *arguments, **variables
    )
    try:
        pattern = re.compile(r"serving https?://127\.0\.0\.1:(\d+) from")
        wait_until(
            lambda: process.poll() is not None or bool(pattern.search(log.read_text())),
            "the server",
        )
        found = pattern.search(log.read_text())
        assert found, log.read_text()
        yield Serving(process, log, int(found[1]))
    finally:
        stop(process)
    assert "Traceback" not in log.read_text()


def push_slowly(server: Serving) -> tuple[http.client.HTTPConnection, Callable[[], int]]:
    """Begin an upload and leave it unfinished; the function finishes it."""
    connection = server.connect()
    connection.request("POST", "/v2/a/blobs/uploads/")
    location = connection.getresponse()
    where = location.headers["Location"]
    location.read()
    connection.putrequest("PATCH", where)
    connection.putheader("Content-Length", "10")
    connection.putheader("Content-Type", "application/octet-stream")
    connection.endheaders(b"12345")

    def finish() -> int:
        connection.send(b"67890")
        with connection.getresponse() as answer:
            return answer.status

    return connection, finish


def test_it_serves_and_says_where(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        status, headers, _body = server.get("/v2/", **{"X-Request-Id": "mine"})

        assert status == 200
        assert headers["x-request-id"] == "mine"
        assert server.get("/healthz")[0] == 200
        ready = json.loads(server.get("/readyz")[2])
        assert (ready["status"], ready["reason"]) == ("ready", "")
        assert ready["storage"].keys() == {"size", "free", "reserved"}
        assert [line["request_id"] for line in server.lines("access")] == ["mine"]


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly(tmp_path: Path, workers: str, number: signal.Signals) -> None:
    with serving(tmp_path, "--workers", workers) as server:
        idle = server.connect()
        idle.request("GET", "/v2/")
        idle.getresponse().read()

        # Ctrl-C at a terminal reaches every process of the group.
        os.killpg(server.process.pid, number)

        assert server.process.wait(20) == 0
        idle.close()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_runs_may_finish_and_what_is_new_is_refused(tmp_path: Path, workers: str) -> None:
    with serving(tmp_path, "--workers", workers) as server:
        connection, finish = push_slowly(server)
        # Taken by the application, not only by the kernel.
        wait_until(lambda: in_flight(server) == 2, "the upload to run")

        server.process.terminate()
        wait_until(lambda: is_refused(server.port), "the server to refuse connections")

        assert finish() == 202
        assert server.process.wait(20) == 0
        connection.close()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_during_the_drain_delay_it_accepts_but_is_not_ready(tmp_path: Path, workers: str) -> None:
    def statuses(server: Serving) -> set[str]:
        return {json.loads(server.get("/readyz")[2])["status"] for _ in range(8)}

    with serving(tmp_path, "--workers", workers, REGISTRY_HTTP_DRAINDELAY="10s") as server:
        server.process.terminate()
        # Each worker is told by itself.
        wait_until(lambda: statuses(server) == {"draining"}, "readiness to end")

        assert server.get("/readyz")[0] == 503
        assert server.get("/v2/")[0] == 200
        assert server.process.wait(40) == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_nobody_is_waited_for_longer_than_the_drain_timeout(tmp_path: Path, workers: str) -> None:
    with serving(tmp_path, "--workers", workers, REGISTRY_HTTP_DRAINTIMEOUT="1s") as server:
        connection, _finish = push_slowly(server)

        server.process.terminate()

        assert server.process.wait(20) == 0
        connection.close()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_second_signal_does_not_wait(tmp_path: Path, workers: str) -> None:
    with serving(tmp_path, "--workers", workers) as server:
        connection, _finish = push_slowly(server)
        wait_until(lambda: in_flight(server) == 2, "the upload to run")
        server.process.terminate()
        wait_until(lambda: is_refused(server.port), "the server to refuse connections")

        # A repetition at once is the same signal, sent to the process and to its group.
        wait_until(lambda: is_ended_by_another_signal(server), "the server to end", seconds=20)

        assert server.process.wait(20) == 0
        connection.close()


def test_a_worker_that_dies_is_replaced_and_nobody_is_refused(tmp_path: Path) -> None:
    with serving(tmp_path, "--workers", "2") as server:
        before = server.workers()

        os.kill(before[0], signal.SIGKILL)
        wait_until(
            lambda: before[0] not in server.workers() and len(server.workers()) == 2,
            "another worker",
        )

        assert {server.get("/v2/")[0] for _ in range(20)} == {200}
        assert [
            line["message"] for line in server.lines("supervisor") if line["level"] == "error"
        ] == [
            next(
                line["message"]
                for line in server.lines("supervisor")
                if "worker 0 ended unexpectedly (killed by SIGKILL)" in line["message"]
            )
        ]


def test_a_worker_that_dies_before_others_serve_is_replaced(tmp_path: Path) -> None:
    port = free_port()
    address = f"127.0.0.1:{port}"
    process = start(
        tmp_path / "log", "--root", tmp_path / "root", "--listen", address, "--workers", "2"
    )
    server = Serving(process, tmp_path / "log", port)
    try:
        wait_until(lambda: len(server.workers()) == 2, "the workers")
        early, late = server.workers()
        os.kill(late, signal.SIGSTOP)
        wait_until(partial(listens, port), "the first worker")
        assert server.get("/v2/")[0] == 200
        os.kill(early, signal.SIGKILL)
        wait_until(partial(is_replaced, server, early), "another worker")
        os.kill(late, signal.SIGCONT)

        wait_until(lambda: " with 2 workers" in server.log.read_text(), "both workers")

        assert server.get("/v2/")[0] == 200
    finally:
        stop(process)


def test_workers_do_not_outlive_their_parent(tmp_path: Path) -> None:
    with serving(tmp_path, "--workers", "2") as server:
        workers = server.workers()

        server.process.kill()

        wait_until(lambda: not any(command_of(str(pid)) for pid in workers), "the workers to end")


def test_counts_of_all_workers_are_added_up(tmp_path: Path) -> None:
    with serving(tmp_path, "--workers", "2") as server:
        prefixes, asked = set[str](), 0
        while len(prefixes) < 2 and asked < 400:
            connections = [server.connect() for _ in range(8)]
            for _ in range(5):
                for connection in connections:
                    connection.request("GET", "/v2/")
                    connection.getresponse().read()
            for connection in connections:
                connection.close()
            asked += 40
            prefixes = {line["request_id"].split("-")[0] for line in server.lines("access")}
        sample = f'registry_http_requests_total{{code="200",handler="base",method="GET"}} {asked}.0'

        wait_until(lambda: sample in counts(server), "the sum of both workers")

        assert len(prefixes) == 2
        # The other worker has answered the last question and may still have to say so.
        wait_until(lambda: in_flight(server) == 1, "nothing else to be in flight")


def test_counts_of_a_worker_that_died_are_kept(tmp_path: Path) -> None:
    sample = 'registry_http_requests_total{code="200",handler="base",method="GET"} 40.0'
    with serving(tmp_path, "--workers", "2") as server:
        for _ in range(40):
            server.get("/v2/")
        wait_until(lambda: sample in counts(server), "the sum of both workers")

        for victim in server.workers():
            os.kill(victim, signal.SIGKILL)
            wait_until(partial(is_replaced, server, victim), "another worker")

        assert sample in counts(server)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_log_that_nobody_reads_holds_nobody_up(tmp_path: Path, workers: str) -> None:
    port = free_port()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "alauda_registry", "serve", "--root", tmp_path / "root"),
            *("--listen", f"127.0.0.1:{port}", "--workers", workers),
        ],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=inherited(PYTHONPATH=os.pathsep.join(sys.path)),
        start_new_session=True,
    )
    try:
        wait_until(lambda: listens(port), "the server")
        server = Serving(process, tmp_path / "log", port)

        # The pipe holds 64 KiB.
        statuses = {server.get("/v2/" + "x" * 2000)[0] for _ in range(200)}

        assert statuses == {404}
        process.terminate()
        assert process.wait(20) == 0
    finally:
        stop(process)
        assert process.stderr
        process.stderr.close()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_runs_when_the_time_to_drain_is_over_is_told_to_come_again(
    tmp_path: Path, workers: str
) -> None:
    with serving(tmp_path, "--workers", workers, REGISTRY_HTTP_DRAINTIMEOUT="1s") as server:
        connection, _finish = push_slowly(server)
        wait_until(lambda: in_flight(server) == 2, "the upload to run")

        server.process.terminate()
        answer = connection.getresponse()

        assert answer.status == 503
        assert json.loads(answer.read())["errors"][0]["code"] == "UNAVAILABLE"
        assert server.process.wait(20) == 0
        connection.close()
        assert [line["status"] for line in server.lines("access")][-1] == 503


def test_connections_are_shared_evenly(tmp_path: Path) -> None:
    def shares(server: Serving) -> list[int]:
        connections = [server.connect() for _ in range(16)]
        for connection in connections:
            connection.connect()
        prefixes = []
        for connection in connections:
            connection.request("GET", "/v2/")
            answer = connection.getresponse()
            answer.read()
            prefixes.append(answer.headers["X-Request-Id"].split("-")[0])
        for connection in connections:
            connection.close()
        return sorted(Counter(prefixes).values())

    with serving(tmp_path, "--workers", "2") as server:
        # A worker that is kept from its processor gets less, but not each time.
        seen = [shares(server) for _ in range(5)]

        assert any(len(one) == 2 and min(one) >= 5 for one in seen), seen


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_renewed_certificate_is_served_and_no_connection_drops(
    tmp_path: Path, workers: str
) -> None:
    pair = Authority().issue(tmp_path / "tls")
    with serving(
        tmp_path,
        *("--workers", workers, "--tls-certificate", pair.certificate, "--tls-key", pair.key),
    ) as server:
        old = pair.authority.read_bytes()
        context = ssl.create_default_context(cadata=old.decode())
        kept = [
            http.client.HTTPSConnection("127.0.0.1", server.port, context=context, timeout=30)
            for _ in range(4)
        ]
        assert [status_of(connection) for connection in kept] == [200] * 4

        Authority().issue(tmp_path / "tls")
        server.process.send_signal(signal.SIGHUP)
        renewed = ssl.PEM_cert_to_DER_cert(pair.certificate.read_text())
        wait_until(lambda: shown(server, 4) == {renewed}, "the renewed certificate")

        assert [status_of(connection) for connection in kept] == [200] * 4
        for connection in kept:
            connection.close()


def test_a_certificate_that_does_not_fit_is_reported_and_the_old_one_stays(tmp_path: Path) -> None:
    pair = Authority().issue(tmp_path / "tls")
    arguments = ("--tls-certificate", pair.certificate, "--tls-key", pair.key)
    with serving(tmp_path, *arguments) as server:
        before = shown(server)

        pair.key.write_text("no key")
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: bool(server.lines("tls")), "a line in the log")

        assert "keeping the certificate in use" in server.lines("tls")[0]["message"]
        assert shown(server) == before


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_hangup_ends_nothing_where_there_is_no_certificate(tmp_path: Path, workers: str) -> None:
    with serving(tmp_path, "--workers", workers) as server:
        before = server.workers()

        os.killpg(server.process.pid, signal.SIGHUP)

        assert {server.get("/v2/")[0] for _ in range(20)} == {200}
        assert server.workers() == before
        server.process.terminate()
        assert server.process.wait(20) == 0


def test_plain_http_to_a_tls_port_harms_nobody(tmp_path: Path) -> None:
    pair = Authority().issue(tmp_path / "tls")
    arguments = ("--tls-certificate", pair.certificate, "--tls-key", pair.key, "--workers", "2")
    with serving(tmp_path, *arguments) as server:
        for _ in range(4):
            with socket.create_connection(("127.0.0.1", server.port)) as connection:
                connection.sendall(b"GET /v2/ HTTP/1.1\r\n\r\n")

        assert len(shown(server)) == 1


def test_every_answer_says_what_it_is_and_which_request_it_answers(tmp_path: Path) -> None:
    variables = {"REGISTRY_HTTP_HEADERS": "{X-A: b}", "REGISTRY_LIMITS_WRITE": "{maxrunning: 1}"}
    with serving(tmp_path, **variables) as server:
        connection, finish = push_slowly(server)
        wait_until(lambda: in_flight(server) == 2, "the upload to run")
        heads = [
            head_of_answer(server.port, request)
            for request in (
                b"GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n",
                b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
                b"GET /v2/x HTTP/1.1\r\nHost: a\r\n\r\n",
                b"POST /v2/b/blobs/uploads/ HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
                b"GET /v2/?q HTTP/1.1\r\n\r\n",
                b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
                b"GET /v2/ HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
                b"nonsense\r\n\r\n",
            )
        ]
        assert finish() == 202
        connection.close()
        lines = server.lines("access")

    statuses = [int(head.split(b" ")[1]) for head in heads]
    assert statuses == [200, 200, 404, 429, 400, 414, 431, 400]
    ids = []
    for head in heads:
        assert head.count(b"docker-distribution-api-version: registry/2.0\r\n") == 1
        assert b"x-a: b\r\n" in head
        ids.append(head.partition(b"x-request-id: ")[2].partition(b"\r\n")[0].decode())
    logged = {line["request_id"]: (line["method"], line["path"][:9]) for line in lines}
    assert [logged.get(found) for found in ids] == [
        ("GET", "/v2/"),
        None,
        ("GET", "/v2/x"),
        ("POST", "/v2/b/blo"),
        ("GET", "/v2/"),
        ("GET", "/aaaaaaaa"),
        ("GET", "/v2/"),
        ("-", "-"),
    ]


def test_requests_over_the_limit_get_429_but_probes_never(tmp_path: Path) -> None:
    with serving(tmp_path, REGISTRY_LIMITS_WRITE="{maxrunning: 1}") as server:
        connection, finish = push_slowly(server)
        wait_until(lambda: in_flight(server) == 2, "the upload to run")
        second = server.connect()
        second.request("POST", "/v2/b/blobs/uploads/")
        answer = second.getresponse()
        body = json.loads(answer.read())

        assert answer.status == 429
        assert answer.headers["Retry-After"] == "1"
        assert body["errors"][0]["code"] == "TOOMANYREQUESTS"
        assert server.get("/readyz")[0] == 200
        assert finish() == 202
        for used in (connection, second):
            used.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--listen", ":0"], "--allow-plain-http"),
        (["--listen", ":0", "--allow-plain-http"], "--allow-anonymous"),
        (["--root", "/dev/null/x"], "cannot use /dev/null/x"),
        (["--tls-certificate", "/absent", "--tls-key", "/absent"], "cannot read /absent"),
        (["--workers", "0"], "--workers"),
        (["--config", "/absent"], "cannot read /absent"),
    ],
)
def test_what_cannot_be_served_ends_with_one_line_and_exit_code_1(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    log = tmp_path / "log"

    assert start(log, "--root", tmp_path / "r", *arguments).wait(30) == 1

    assert message in log.read_text()
    assert log.read_text().count("\n") == 1


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_root_that_storage_cannot_use_ends_with_what_is_wrong_and_exit_code_1(
    tmp_path: Path, workers: str
) -> None:
    log = tmp_path / "log"
    root = tmp_path / "root"
    root.mkdir()
    (root / "_driver").write_text("in the way")

    process = start(log, "--root", root, "--listen", "127.0.0.1:0", "--workers", workers)

    assert process.wait(30) == 1
    assert f"cannot use {root}: /_driver: Not a directory; remove it" in log.read_text()
    assert "Traceback" not in log.read_text()
    if workers == "1":
        assert log.read_text().count("\n") == 1


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_taken_port_ends_with_one_line_and_exit_code_1(tmp_path: Path, workers: str) -> None:
    log = tmp_path / "log"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        process = start(log, "--root", tmp_path, "--listen", address, "--workers", workers)

        assert process.wait(30) == 1

    assert "another program listens there" in log.read_text()
    assert log.read_text().count("\n") == 1


def test_a_flag_that_does_not_exist_ends_with_exit_code_2(tmp_path: Path) -> None:
    assert start(tmp_path / "log", "--rot", "x").wait(30) == 2


def test_memory_serves_without_a_folder(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = start(log, "--listen", "127.0.0.1:0", REGISTRY_STORAGE="inmemory")
    try:
        wait_until(lambda: "from memory" in log.read_text(), "the server")
    finally:
        assert stop(process) == 0


def head_of_answer(port: int, sent: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(sent)
        received = b""
        while b"\r\n\r\n" not in received:
            part = connection.recv(65536)
            assert part, received
            received += part
    return received.partition(b"\r\n\r\n")[0] + b"\r\n"


def in_flight(server: Serving) -> float:
    found = re.search(r"^imageregistry_http_in_flight_requests (\S+)", counts(server), re.MULTILINE)
    return float(found[1]) if found else 0


def counts(server: Serving) -> str:
    return server.get("/metrics")[2].decode()


def is_replaced(server: Serving, worker: int) -> bool:
    workers = server.workers()
    return worker not in workers and len(workers) == 2


def is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def is_ended_by_another_signal(server: Serving) -> bool:
    server.process.terminate()
    return server.process.poll() is not None


def status_of(connection: http.client.HTTPConnection) -> int:
    connection.request("GET", "/v2/")
    answer = connection.getresponse()
    answer.read()
    return answer.status


def shown(server: Serving, times: int = 1) -> set[bytes | None]:
    """The certificates that new connections get."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    found = set()
    for _ in range(times):
        with (
            socket.create_connection(("127.0.0.1", server.port), timeout=30) as plain,
            context.wrap_socket(plain) as connection,
        ):
            found.add(connection.getpeercert(binary_form=True))
    return found
