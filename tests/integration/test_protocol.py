"""The protocol from the outside: bytes into a socket, bytes out of it, on both event loops.

A server runs in a thread, with a tiny application whose behaviour is chosen by the path. It is
patient but where time is the subject: a client of these tests may be kept from its processor for
longer than the limits there. Whatever a client does wrong here must leave no error in the log.
"""

import asyncio
import json
import logging
import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from alauda_registry.server.errors import render_refusal
from alauda_registry.server.middleware.envelope import API_VERSION
from alauda_registry.serving.exchange import ABORT
from alauda_registry.serving.protocol import HttpProtocol, ProtocolLimits, Refusal
from alauda_registry.serving.sendfile import RELAY
from tests.parts.certificates import Authority

pytestmark = pytest.mark.integration

LIMITS = ProtocolLimits(
    header_bytes=8192,
    header_fields=100,
    target_bytes=2048,
    header_timeout=0.4,
    body_timeout=0.4,
    send_timeout=0.6,
    drain_bytes=64 * 1024,
    drain_timeout=0.4,
)
PATIENT = replace(LIMITS, header_timeout=30, body_timeout=30, send_timeout=30, drain_timeout=2)
TRIES = 5
"""Of what must be in time; a server that is wrong is so each time."""

# More than the kernel buffers for a client that does not read.
FILE = os.urandom(12_000_000)
MEBIBYTE = bytes(2**20)


@dataclass
class App:
    """Answers by path, and notes what became of each request."""

    file: Path
    notes: dict[str, list[Any]] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)
    scopes: dict[str, Any] = field(default_factory=dict)

    def observe_refusal(self, refusal: Refusal) -> list[tuple[bytes, bytes]]:
        self.refusals.append(refusal)
        refusal_header = b"x-refusal", b"%d" % len(self.refusals)
        return [API_VERSION, refusal_header, (b"content-type", b"never/this")]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        self.scopes[path] = scope
        handler = getattr(self, path.split("/")[1])
        await handler(self.notes.setdefault(path, []), scope, receive, send)

    async def echo(self, notes: list[Any], scope: Any, receive: Any, send: Any) -> None:
        """Answer with the body of the request."""
        body = b""
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                notes.append("disconnect")
                return
            body += message["body"]
            more = message["more_body"]
        await answer(send, 200, body)
        notes.append("answered")

    async def refuse(self, notes: list[Any], scope: Any, receive: Any, send: Any) -> None:
        """Answer without looking at the body."""
        await answer(send, 403, b"no")
        notes.append("answered")

    async def refuse_the_gone(self, notes: list[Any], scope: Any, receive: Any, send: Any) -> None:
        """Answer without looking at the body, nor at whether the client is still there."""
        time.sleep(0.2)  # noqa: ASYNC251 -- the event loop must not find out meanwhile
        await answer(send, 403, b"no")
        notes.append("answered")

    async def slow(self, notes: list[Any], scope: Any, receive: Any, send: Any) -> None:
        """Answer when other bytes have had time to arrive."""
        await asyncio.sleep(0.2)
        await answer(send, 200, b"slow")

    async def slow_reader(self, notes: list[Any], scope: Any, receive: Any, send: Any) -> None:
        """Read when much has had time to arrive."""
        await asyncio.sleep(0.3)
        size = 0
        more = True
        while more:
            message = await receive()
            notes.append(len(message["body"]))
            size += len(message["body"])
            more = message["more_body"]
        await answer(send, 200, b"%d" % size)

    async def early(self, notes: list[Any], scope: Any, receive: Any, send: Any) -> None:
        """Begin to answer, then read until the client is gone."""
        await start(send, 200, 10)
        await body(send, b"x", True)
        while (await receive())["type"] != "http.disconnect":
            continue
        notes.append("disconnect")

    async def promise(self, notes: list[Any], scope: Any, receive: Any, send: Any) -> None:
        """Say what the answer will be, but read before giving it."""
        await start(send, 200, 10)
        while (await receive())["type"] != "http.disconnect":
            continue
        notes.append("disconnect")

    async def split(self, notes: list[Any], scope: Any, receive: Any, send: Any) -> None:
        """Try to smuggle an answer into a header."""
        evil = bytes.fromhex(scope["query_string"].decode())
        headers = [(b"content-length", b"0"), (b"x-evil", b"a" + evil + b"b")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

    async def stream(self, notes: list[Any], scope: Any, receive: Any, send: Any) -> None:
        """Send 64 MiB from memory."""
        await start(send, 200, 64 * 2**20)
        for number in range(64):
            await body(send, MEBIBYTE, number < 63)
        notes.append("returned")

    async def file_(self, notes: list[Any], scope: Any, receive: Any, send: Any) -> None:
        """Send the file with what the query says, ``count`` of it, from ``offset`` on."""
        query = dict(pair.split("=") for pair in scope["query_string"].decode().split("&") if pair)
        offset = int(query.get("offset", 0))
        count = int(query.get("count", len(FILE) - offset))
        length = None if "chunked" in query else int(query.get("length", count))
        await start(send, 200, length)
        for _ in range(int(query.get("front", 0))):
            await body(send, MEBIBYTE, True)
        with self.file.open("rb") as file:
            message = {"type": "http.response.zerocopysend", "file": file, "more_body": False}
            if "whole" not in query:
                message |= {"offset": offset, "count": count}
            try:
                await send(message)
            finally:
                notes.append("returned")


async def start(send: Any, status: int, length: int | None) -> None:
    headers = [] if length is None else [(b"content-length", b"%d" % length)]
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def body(send: Any, content: bytes, more: bool) -> None:
    await send({"type": "http.response.body", "body": content, "more_body": more})


async def answer(send: Any, status: int, content: bytes) -> None:
    await start(send, status, len(content))
    await body(send, content, False)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def errors(self) -> Any:
        assert self.headers["docker-distribution-api-version"] == "registry/2.0"
        return json.loads(self.body)["errors"]


class Client:
    """One connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.received = b""

    def send(self, *parts: bytes) -> None:
        self.socket.sendall(b"".join(parts))

    def send_until_refused(self, part: bytes, *, pause: float = 0, times: int = 10_000) -> None:
        """Send until the other side no longer wants it, or it is clear that it always will."""
        refused = False
        for _ in range(times):
            time.sleep(pause)
            try:
                self.socket.sendall(part)
            except (ConnectionResetError, BrokenPipeError):
                refused = True
                break
        assert refused, "the server takes everything"

    def send_until_answered(self, part: bytes) -> None:
        """Send slowly, until there is something to read."""
        end = time.monotonic() + 30
        while not select.select([self.socket], [], [], 0.05)[0]:
            assert time.monotonic() < end, "there is no answer"
            self.socket.sendall(part)

    def read_head(self) -> Answer:
        while b"\r\n\r\n" not in self.received:
            data = self.socket.recv(65536)
            assert data, f"closed after {self.received!r}"
            self.received += data
        head, _, self.received = self.received.partition(b"\r\n\r\n")
        status_line, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (ln.partition(": ") for ln in lines)}
        return Answer(int(status_line.split(" ")[1]), headers, b"")

    def read_answer(self) -> Answer:
        result = self.read_head()
        length = int(result.headers["content-length"])
        while len(self.received) < length:
            data = self.socket.recv(1024 * 1024)
            assert data, f"closed {length - len(self.received)} bytes before the end"
            self.received += data
        result.body, self.received = self.received[:length], self.received[length:]
        return result

    def read_rest(self) -> bytes:
        """Read to the end of the connection, which must not be a reset."""
        while data := self.socket.recv(1024 * 1024):
            self.received += data
        rest, self.received = self.received, b""
        return rest


@dataclass
class Service:
    port: int
    app: App

    @contextmanager
    def client(self, *, receive_buffer: int | None = None) -> Iterator[Client]:
        with socket.socket() as connection:
            if receive_buffer is not None:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            connection.settimeout(40)
            connection.connect(("127.0.0.1", self.port))
            yield Client(connection)

    def wait_for_note(self, path: str, note: Any) -> None:
        wait_until(lambda: note in self.app.notes.get(path, []))


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "it did not happen within 30 seconds"
        time.sleep(0.01)


@contextmanager
def serving(
    loop: str,
    app: App,
    *,
    limits: ProtocolLimits = PATIENT,
    keep_alive: int = 30,
    **options: Any,
) -> Iterator[Service]:
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        http=HttpProtocol.configured(limits, render_refusal, app.observe_refusal),
        loop=loop,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_keep_alive=keep_alive,
        timeout_graceful_shutdown=5,
        **options,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    wait_until(lambda: server.started)
    try:
        yield Service(listener.getsockname()[1], app)
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> App:
    file = tmp_path_factory.mktemp("protocol") / "file"
    file.write_bytes(FILE)
    return App(file)


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def service(request: pytest.FixtureRequest, app: App) -> Iterator[Service]:
    app.notes.clear()
    with serving(request.param, app) as service:
        yield service


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def hasty(request: pytest.FixtureRequest, app: App) -> Iterator[Service]:
    """A server that waits for nothing."""
    app.notes.clear()
    with serving(request.param, app, limits=LIMITS, keep_alive=1) as service:
        yield service


@pytest.fixture(autouse=True)
def quiet_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail a test whose client made the server log an error."""
    yield
    records = caplog.get_records("call")
    assert [record for record in records if record.levelno >= logging.WARNING] == []


def request(method: str, target: str, *fields: str, content: bytes = b"") -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: registry", *fields, "", ""]
    return "\r\n".join(lines).encode() + content


def put(target: str, length: int, *fields: str, content: bytes = b"") -> bytes:
    return request("PUT", target, f"Content-Length: {length}", *fields, content=content)


# Refusals are told to whoever wants to know.


@pytest.mark.parametrize(
    ("sent", "method", "path"),
    [
        (b"nonsense\r\n\r\n", "-", "-"),
        (b"GET /a%20b?c HTTP/1.1\r\n\r\n", "GET", "/a%20b"),
        (b"PUT /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "PUT", "/x"),
        (b"\r\n", "-", "-"),
    ],
    ids=["nonsense", "no-host", "two-hosts", "nothing-in-time"],
)
def test_a_refusal_is_observed_and_carries_what_the_observer_says(
    hasty: Service, sent: bytes, method: str, path: str
) -> None:
    with hasty.client() as client:
        # Of the request before, nothing must be said.
        client.send(put("/echo/before", 3, content=b"one"))
        client.read_answer()
        client.send(sent)
        answer = client.read_answer()
        port = client.socket.getsockname()[1]

    refusal = hasty.app.refusals[-1]
    assert (refusal.method, refusal.path, refusal.scope) == (method, path, None)
    assert (refusal.status, refusal.size) == (answer.status, len(answer.body))
    assert refusal.client == ("127.0.0.1", port)
    assert refusal.reason == answer.errors[0]["message"]
    assert answer.headers["x-refusal"] == str(len(hasty.app.refusals))
    assert answer.headers["content-type"] == "application/json"


def test_a_refusal_of_what_the_application_has_begun_names_its_request(hasty: Service) -> None:
    with hasty.client() as client:
        client.send(put("/echo/refused", 3, content=b"o"))
        answer = client.read_answer()

    refusal = hasty.app.refusals[-1]
    assert (answer.status, refusal.status, refusal.method) == (408, 408, "PUT")
    assert refusal.scope is hasty.app.scopes["/echo/refused"]


# What a request may look like.


def test_one_connection_serves_one_request_after_the_other(service: Service) -> None:
    with service.client() as client:
        client.send(put("/echo/again", 3, content=b"one"))
        first = client.read_answer()
        client.send(put("/echo/again", 3, content=b"two"))
        second = client.read_answer()

    assert (first.body, second.body) == (b"one", b"two")


def test_pipelined_requests_are_answered_in_order(service: Service) -> None:
    with service.client() as client:
        client.send(
            request("GET", "/slow/first"),
            put("/echo/second", 3, content=b"two"),
            request("GET", "/refuse/third"),
        )
        bodies = [client.read_answer().body for _ in range(3)]

    assert bodies == [b"slow", b"two", b"no"]


def test_more_pipelined_requests_than_allowed_end_with_the_first_answer(service: Service) -> None:
    with service.client() as client:
        client.send(*[request("GET", "/slow/flood")] * 50)
        first = client.read_answer()
        rest = client.read_rest()

    assert (first.body, rest) == (b"slow", b"")


def test_header_names_arrive_in_lower_case_and_values_as_they_were(service: Service) -> None:
    with service.client() as client:
        client.send(request("GET", "/refuse/headers?a=%2B", "X-Some: Value", "Empty:"))
        client.read_answer()

    scope = service.app.scopes["/refuse/headers"]
    assert scope["headers"] == [(b"host", b"registry"), (b"x-some", b"Value"), (b"empty", b"")]
    assert scope["query_string"] == b"a=%2B"


def test_path_is_decoded_and_kept_raw(service: Service) -> None:
    with service.client() as client:
        client.send(request("GET", "/refuse/%C3%A4%2Fb"))
        client.read_answer()

    scope = service.app.scopes["/refuse/ä/b"]
    assert scope["raw_path"] == b"/refuse/%C3%A4%2Fb"


def test_chunked_body_arrives_whole_and_its_trailers_nowhere(service: Service) -> None:
    chunks = b"3\r\none\r\n3;extension=1\r\ntwo\r\n0\r\nX-Trailer: evil\r\n\r\n"
    with service.client() as client:
        client.send(request("PUT", "/echo/chunks", "Transfer-Encoding: chunked", content=chunks))
        first = client.read_answer()
        client.send(request("GET", "/refuse/after-trailers"))
        client.read_answer()

    assert first.body == b"onetwo"
    for path in ("/echo/chunks", "/refuse/after-trailers"):
        assert b"x-trailer" not in dict(service.app.scopes[path]["headers"])


def test_body_that_comes_byte_by_byte_arrives_whole(service: Service) -> None:
    content = os.urandom(5000)
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in content) + b"0\r\n\r\n"
    with service.client() as client:
        client.send(request("PUT", "/echo/bytes", "Transfer-Encoding: chunked", content=chunks))

        assert client.read_answer().body == content


def test_client_waits_for_an_application_that_does_not_read(service: Service) -> None:
    size = 16 * 2**20
    with service.client() as client:
        client.send(put("/slow_reader/wait", size), bytes(size))
        received = client.read_answer().body

    assert received == b"%d" % size
    # One read of the event loop, 256 KiB, may come on top.
    assert max(service.app.notes["/slow_reader/wait"]) <= LIMITS.body_buffer + 256 * 1024


def test_upgrade_is_ignored(service: Service) -> None:
    upgrade = ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"]
    with service.client() as client:
        client.send(request("GET", "/refuse/upgrade", *upgrade), request("GET", "/echo/next"))
        statuses = [client.read_answer().status for _ in range(2)]

    assert statuses == [403, 200]


# What is refused.

REFUSED = {
    "garbage": (b"\x16\x03\x01\x02\x00\x01\x00", 400),
    "http2-preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "unknown-method": (b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "http2-version": (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    "no-version": (b"GET /\r\n\r\n", 505),
    "no-host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two-hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "folded-field": (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", 400),
    "space-before-colon": (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
    "nul-in-value": (b"GET / HTTP/1.1\r\nHost: a\0\r\n\r\n", 400),
    "nul-in-target": (b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "raw-bytes-in-target": (b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "fragment": (b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "target-without-path": (b"GET http://a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "connect": (b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "length-not-a-number": (put("/echo/x", 0).replace(b": 0", b": zero"), 400),
    "length-negative": (put("/echo/x", -1), 400),
    "length-signed": (put("/echo/x", 0).replace(b": 0", b": +3"), 400),
    "length-too-large": (put("/echo/x", 10**30), 400),
    "length-of-5000-digits": (put("/echo/x", 0).replace(b": 0", b": " + b"0" * 5000), 400),
    "length-twice": (put("/echo/x", 3, "Content-Length: 3"), 400),
    "length-twice-different": (put("/echo/x", 3, "Content-Length: 4"), 400),
    "length-list": (put("/echo/x", 0).replace(b": 0", b": 3, 3"), 400),
    "length-and-chunked": (put("/echo/x", 3, "Transfer-Encoding: chunked"), 400),
    "chunked-and-length": (
        request("PUT", "/echo/x", "Transfer-Encoding: chunked", "Content-Length: 3"),
        400,
    ),
    "chunked-twice": (request("PUT", "/echo/x", *["Transfer-Encoding: chunked"] * 2), 400),
    "chunked-in-1.0": (
        b"PUT /echo/x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        400,
    ),
    "gzip-coding": (request("PUT", "/echo/x", "Transfer-Encoding: gzip, chunked"), 501),
    "unknown-coding": (request("PUT", "/echo/x", "Transfer-Encoding: chunkedx"), 501),
    "unknown-expectation": (put("/echo/x", 3, "Expect: 200-ok"), 417),
    "upgrade-with-body": (put("/echo/x", 3, "Connection: upgrade", "Upgrade: h2c"), 400),
    "bad-chunk-size": (request("PUT", "/echo/x", "Transfer-Encoding: chunked", content=b"zz"), 400),
    "huge-chunk-size": (
        request("PUT", "/echo/x", "Transfer-Encoding: chunked", content=b"f" * 20),
        400,
    ),
    "long-target": (request("GET", "/" + "a" * LIMITS.target_bytes), 414),
    "long-field": (request("GET", "/", "X: " + "a" * LIMITS.header_bytes), 431),
    "many-bytes": (request("GET", "/", *["X: " + "a" * 200] * 50), 431),
    "many-fields": (request("GET", "/", *["X: a"] * LIMITS.header_fields), 431),
    "many-trailers": (
        request(
            "PUT", "/echo/x", "Transfer-Encoding: chunked", content=b"0\r\n" + b"X: a\r\n" * 2000
        ),
        431,
    ),
}


@pytest.mark.parametrize(("sent", "status"), REFUSED.values(), ids=REFUSED.keys())
def test_bad_request_is_answered_with_json_and_the_end(
    service: Service, sent: bytes, status: int
) -> None:
    with service.client() as client:
        client.send(sent)
        answer = client.read_answer()
        rest = client.read_rest()

    assert (answer.status, rest) == (status, b"")
    assert answer.headers["connection"] == "close"
    assert answer.headers["content-type"] == "application/json"
    assert [set(error) for error in answer.errors] == [{"code", "message", "detail"}]


def test_flood_of_headers_is_refused_at_the_limit(service: Service) -> None:
    with service.client() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n", b"X: a\r\n" * (LIMITS.header_fields + 1))
        answer = client.read_answer()
        client.send_until_refused(b"X: a\r\n" * 1000)

    assert answer.status == 431


def test_field_without_an_end_is_refused_at_the_limit(service: Service) -> None:
    with service.client() as client:
        client.send(b"GET / HTTP/1.1\r\nX: ")
        for _ in range(LIMITS.header_bytes // 1024 + 2):
            client.send(b"a" * 1024)
            time.sleep(0.005)

        assert client.read_answer().status == 431


def test_line_ends_without_a_request_are_refused(hasty: Service) -> None:
    with hasty.client() as client:
        client.send(b"\r\n" * 10)
        answer = client.read_answer()

    assert answer.status == 408


def test_largest_allowed_head_is_served(service: Service) -> None:
    fields = ["X: " + "a" * 195] * 35
    with service.client() as client:
        client.send(request("GET", "/echo/" + "a" * 1000, *fields))

        assert client.read_answer().status == 200


def test_garbage_in_the_middle_of_a_body_disconnects_the_application(service: Service) -> None:
    path = "/echo/broken-chunks"
    with service.client() as client:
        client.send(request("PUT", path, "Transfer-Encoding: chunked", content=b"3\r\none\r\n"))
        time.sleep(0.05)
        client.send(b"garbage")
        answer = client.read_answer()
        client.read_rest()

    assert answer.status == 400
    service.wait_for_note(path, "disconnect")


def test_answer_to_a_request_that_was_refused_meanwhile_is_dropped(service: Service) -> None:
    chunks = b"3\r\none\r\ngarbage"
    with service.client() as client:
        client.send(request("PUT", "/slow/refused", "Transfer-Encoding: chunked", content=chunks))
        answer = client.read_answer()
        rest = client.read_rest()
        # The application has answered by then.
        time.sleep(0.3)

    assert (answer.status, rest) == (400, b"")


def test_garbage_after_the_answer_has_begun_just_ends_the_connection(service: Service) -> None:
    path = "/early/broken-chunks"
    with service.client() as client:
        client.send(request("PUT", path, "Transfer-Encoding: chunked"))
        client.read_head()
        client.send(b"garbage")
        rest = client.read_rest()

    assert rest == b"x"
    service.wait_for_note(path, "disconnect")


def test_garbage_before_anything_of_the_answer_is_out_is_refused(service: Service) -> None:
    with service.client() as client:
        client.send(request("PUT", "/promise/broken-chunks", "Transfer-Encoding: chunked"))
        time.sleep(0.05)
        client.send(b"garbage")
        answer = client.read_answer()
        rest = client.read_rest()

    assert (answer.status, rest) == (400, b"")


def test_garbage_behind_a_request_lets_its_answer_out_first(service: Service) -> None:
    with service.client() as client:
        client.send(request("GET", "/slow/garbage"), b"\x00garbage")
        answer = client.read_answer()
        rest = client.read_rest()

    assert (answer.status, answer.body, rest) == (200, b"slow", b"")
    assert answer.headers["connection"] == "close"


def test_trouble_behind_a_good_request_is_logged_without_a_traceback(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "alauda_registry")
    with service.client() as client:
        client.send(request("GET", "/slow/trouble"), b"\x00")
        client.read_answer()

    assert [(record.levelname, record.exc_info) for record in caplog.records] == [("INFO", None)]
    assert "hanging up on ('127.0.0.1'" in caplog.text


# Time.


def test_head_that_drips_is_timed_out(hasty: Service) -> None:
    with hasty.client() as client:
        began = time.monotonic()
        client.send(b"GET / HTTP/1.1\r\n")
        client.send_until_answered(b"X: a\r\n")
        took = time.monotonic() - began
        answer = client.read_answer()

    assert answer.status == 408
    assert LIMITS.header_timeout <= took


def test_second_head_is_timed_out_too(hasty: Service) -> None:
    with hasty.client() as client:
        client.send(request("GET", "/echo/half"), b"GET /ec")
        first = client.read_answer()
        second = client.read_answer()
        rest = client.read_rest()

    assert (first.status, second.status, rest) == (200, 408, b"")


def test_connection_without_a_byte_is_closed_without_one(hasty: Service) -> None:
    with hasty.client() as client:
        assert client.read_rest() == b""


def test_kept_alive_connection_is_closed_without_a_word(hasty: Service) -> None:
    with hasty.client() as client:
        client.send(request("GET", "/echo/idle"))
        client.read_answer()

        assert client.read_rest() == b""


def test_stalled_body_is_timed_out(hasty: Service) -> None:
    path = "/echo/stalled"
    with hasty.client() as client:
        client.send(put(path, 10, content=b"half"))
        answer = client.read_answer()
        rest = client.read_rest()

    assert (answer.status, rest) == (408, b"")
    assert answer.errors[0]["code"] == "UNSUPPORTED"
    hasty.wait_for_note(path, "disconnect")


def test_stalled_body_after_the_answer_has_begun_ends_the_connection(hasty: Service) -> None:
    path = "/early/stalled"
    with hasty.client() as client:
        client.send(put(path, 10, content=b"half"))
        client.read_head()
        rest = client.read_rest()

    assert rest == b"x"
    hasty.wait_for_note(path, "disconnect")


def test_slow_body_that_moves_is_not_timed_out(hasty: Service) -> None:
    def is_served() -> bool:
        with suppress(ConnectionError, AssertionError), hasty.client() as client:
            client.send(put("/echo/drip", 12))
            for _ in range(12):
                time.sleep(0.1)
                client.send(b"x")
            return client.read_answer().body == b"x" * 12
        return False

    assert any(is_served() for _ in range(TRIES))


@pytest.mark.parametrize("path", ["/stream/unread", "/file_/unread"])
def test_client_that_does_not_read_is_cut_off(hasty: Service, path: str) -> None:
    with hasty.client(receive_buffer=4096) as client:
        client.send(request("GET", path))
        hasty.wait_for_note(path, "returned")
        with pytest.raises((ConnectionResetError, AssertionError)):
            client.read_answer()


def test_slow_reader_that_moves_is_not_cut_off(hasty: Service) -> None:
    def received() -> int:
        size = 0
        with suppress(ConnectionError), hasty.client(receive_buffer=65536) as client:
            client.send(request("GET", "/file_/slow"))
            client.read_head()
            size = len(client.received)
            while data := client.socket.recv(min(60_000, len(FILE) - size)):
                size += len(data)
                time.sleep(0.01)
                if size == len(FILE):
                    break
        return size

    assert any(received() == len(FILE) for _ in range(TRIES))


# Answers that do not wait for the body.


def test_client_that_was_not_told_to_continue_is_hung_up_on(service: Service) -> None:
    with service.client() as client:
        client.send(put("/refuse/expect", 3, "Expect: 100-continue"))
        answer = client.read_answer()
        rest = client.read_rest()

    assert (answer.status, answer.headers["connection"], rest) == (403, "close", b"")


def test_bytes_behind_a_refused_expectation_are_not_taken_for_a_request(service: Service) -> None:
    with service.client() as client:
        client.send(put("/refuse/expect-smuggle", 3, "Expect: 100-continue"))
        answer = client.read_answer()
        client.send(request("GET", "/refuse/smuggled"))
        rest = client.read_rest()

    assert (answer.status, rest) == (403, b"")
    assert "/refuse/smuggled" not in service.app.scopes


def test_client_is_told_to_continue_when_the_application_reads(service: Service) -> None:
    with service.client() as client:
        client.send(put("/echo/expect", 3, "Expect: 100-continue"))
        interim = client.read_head()
        client.send(b"one")
        answer = client.read_answer()

    assert (interim.status, answer.status, answer.body) == (100, 200, b"one")


def test_client_that_does_not_wait_is_not_told_to_continue(service: Service) -> None:
    with service.client() as client:
        client.send(put("/echo/eager", 3, "Expect: 100-continue", content=b"one"))
        first = client.read_answer()
        client.send(put("/echo/eager", 3, content=b"two"))
        second = client.read_answer()

    assert [(first.status, first.body), (second.status, second.body)] == [
        (200, b"one"),
        (200, b"two"),
    ]


def test_http_1_0_has_no_expectations(service: Service) -> None:
    with service.client() as client:
        client.send(b"PUT /echo/1.0 HTTP/1.0\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        time.sleep(0.05)
        client.send(b"one")
        answer = client.read_answer()
        rest = client.read_rest()

    assert (answer.status, answer.body, rest) == (200, b"one", b"")


def test_small_rest_of_a_refused_body_is_dropped_and_the_connection_kept(service: Service) -> None:
    size = LIMITS.drain_bytes - 10
    with service.client() as client:
        client.send(put("/refuse/small", size))
        first = client.read_answer()
        client.send(bytes(size), request("GET", "/echo/after-drop"))
        second = client.read_answer()

    assert (first.status, second.status) == (403, 200)
    assert "connection" not in first.headers


def test_large_rest_of_a_refused_body_ends_the_connection(service: Service) -> None:
    with service.client() as client:
        client.send(put("/refuse/large", 2**30, content=bytes(30_000)))
        answer = client.read_answer()
        client.send(bytes(30_000))
        rest = client.read_rest()

    assert (answer.status, answer.headers["connection"], rest) == (403, "close", b"")


def test_endless_chunks_of_a_refused_body_end_the_connection(service: Service) -> None:
    with service.client() as client:
        client.send(request("PUT", "/refuse/endless", "Transfer-Encoding: chunked"))
        answer = client.read_answer()
        client.send_until_refused(b"ffff\r\n" + bytes(0xFFFF) + b"\r\n")

    assert answer.status == 403


def test_client_that_keeps_sending_a_little_is_hung_up_on(hasty: Service) -> None:
    with hasty.client() as client:
        client.send(put("/refuse/little", 2**30))
        client.read_answer()

        client.send_until_refused(b"x", pause=0.05, times=100)


def test_rest_of_a_refused_body_that_never_comes_ends_the_connection(hasty: Service) -> None:
    took: list[float] = []
    # Before the second that idle connections have.
    while not took or (took[-1] >= 0.9 and len(took) < TRIES):
        with hasty.client() as client:
            client.send(put("/refuse/never", 100))
            began = time.monotonic()
            client.read_answer()
            client.read_rest()
            took.append(time.monotonic() - began)

    assert took[-1] < 0.9


def test_client_that_sends_all_before_it_reads_gets_the_refusal(hasty: Service) -> None:
    with hasty.client() as client:
        client.send(put("/refuse/all", LIMITS.drain_bytes * 2))
        client.send(bytes(LIMITS.drain_bytes))
        time.sleep(0.1)
        answer = client.read_answer()
        rest = client.read_rest()

    assert (answer.status, rest) == (403, b"")


# Clients that go away.


def test_aborted_body_disconnects_the_application(service: Service) -> None:
    path = "/echo/aborted"
    with service.client() as client:
        client.send(put(path, 10, content=b"half"))
        time.sleep(0.05)

    service.wait_for_note(path, "disconnect")


@pytest.mark.parametrize("path", ["/echo/half", "/slow/half"])
def test_client_that_has_said_all_gets_its_answer_and_the_end(service: Service, path: str) -> None:
    with service.client() as client:
        client.send(put(path, 4, content=b"slow"))
        client.socket.shutdown(socket.SHUT_WR)
        answer = client.read_answer()
        rest = client.read_rest()

    assert (answer.status, answer.body, rest) == (200, b"slow", b"")


def test_pipelined_requests_of_a_client_that_has_said_all_are_answered(service: Service) -> None:
    with service.client() as client:
        client.send(request("GET", "/slow/a"), request("GET", "/slow/b"))
        client.socket.shutdown(socket.SHUT_WR)
        bodies = [client.read_answer().body for _ in range(2)]
        rest = client.read_rest()

    assert (bodies, rest) == ([b"slow", b"slow"], b"")


def test_client_that_goes_away_during_a_pipelined_request_disconnects_the_first(
    service: Service,
) -> None:
    path = "/early/first-of-two"
    with service.client() as client:
        client.send(put(path, 0), request("GET", "/echo/second-of-two"))
        client.read_head()

    service.wait_for_note(path, "disconnect")


@pytest.mark.parametrize("path", ["/stream/gone", "/file_/gone"])
def test_client_that_goes_away_ends_the_answer(service: Service, path: str) -> None:
    with service.client(receive_buffer=4096) as client:
        client.send(request("GET", path))
        client.read_head()

    service.wait_for_note(path, "returned")


def test_a_client_who_is_gone_is_refused_in_silence(service: Service) -> None:
    path = "/refuse_the_gone/early"
    with service.client() as client:
        client.send(put(path, 2**30, content=b"half"))

    service.wait_for_note(path, "answered")


def test_broken_connections_leave_no_descriptor_behind(hasty: Service) -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    wait_until(lambda: count_connections(hasty.port) == 0)
    before = count()
    for _ in range(10):
        for sent in (
            b"\x00",
            put("/echo/leak", 10, content=b"half"),
            put("/refuse/leak", 2**30, content=b"half"),
            request("GET", "/file_/leak"),
            request("GET", "/stream/leak"),
        ):
            with hasty.client(receive_buffer=4096) as client:
                client.send(sent)
                time.sleep(0.005)

    wait_until(lambda: count() <= before)


def count_connections(port: int) -> int:
    """Count the connections the server still has, as the kernel sees them."""
    suffix = f":{port:04X}"
    lines = Path("/proc/self/net/tcp").read_text().splitlines()[1:]
    return sum(line.split()[1].endswith(suffix) and line.split()[3] == "01" for line in lines)


# Files.


def test_file_is_sent_whole(service: Service) -> None:
    with service.client() as client:
        client.send(request("GET", "/file_/whole"))
        answer = client.read_answer()
        client.send(request("GET", "/echo/after-file"))
        second = client.read_answer()

    assert answer.body == FILE
    assert second.status == 200


def test_file_without_a_range_is_sent_from_its_position_to_its_end(service: Service) -> None:
    with service.client() as client:
        client.send(request("GET", "/file_/positions?whole=1"))

        assert client.read_answer().body == FILE


def test_range_of_a_file_is_sent(service: Service) -> None:
    with service.client() as client:
        client.send(request("GET", "/file_/range?offset=1000000&count=1500000"))

        assert client.read_answer().body == FILE[1_000_000:2_500_000]


def test_file_comes_behind_what_was_written_before(service: Service) -> None:
    length = 12 * 2**20 + 100
    with service.client(receive_buffer=65536) as client:
        client.send(request("GET", f"/file_/behind?front=12&count=100&length={length}"))
        time.sleep(0.2)

        assert client.read_answer().body == MEBIBYTE * 12 + FILE[:100]


def test_file_can_be_a_chunk(service: Service) -> None:
    with service.client() as client:
        client.send(request("GET", "/file_/chunk?chunked=1&count=16", "Connection: close"))
        head = client.read_head()
        rest = client.read_rest()

    assert head.headers["transfer-encoding"] == "chunked"
    assert rest == b"10\r\n" + FILE[:16] + b"\r\n0\r\n\r\n"


def test_nothing_of_a_file_is_sent_in_answer_to_head(service: Service) -> None:
    with service.client() as client:
        client.send(request("HEAD", "/file_/head"), request("GET", "/echo/after-head"))
        head = client.read_head()
        second = client.read_answer()

    assert head.headers["content-length"] == str(len(FILE))
    assert second.status == 200


def test_pipelined_files_come_one_after_the_other(service: Service) -> None:
    targets = [f"/file_/pipelined?offset={offset}&count=900000" for offset in range(0, 5000, 1000)]
    with service.client(receive_buffer=65536) as client:
        client.send(*[request("GET", target) for target in targets])
        bodies = [client.read_answer().body for _ in targets]

    assert bodies == [FILE[offset : offset + 900_000] for offset in range(0, 5000, 1000)]


def test_file_that_is_not_in_the_page_cache_is_sent(service: Service) -> None:
    with service.app.file.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with service.client() as client:
        client.send(request("GET", "/file_/cold"))

        assert client.read_answer().body == FILE


@pytest.mark.parametrize(
    ("query", "sent"),
    [
        pytest.param("count=10&length=5", b"", id="longer-than-announced"),
        pytest.param("count=10&length=15", FILE[:10], id="shorter-than-announced"),
        pytest.param("offset=11999990&count=20", FILE[-10:], id="longer-than-the-file"),
    ],
)
def test_file_that_does_not_fit_its_announcement_ends_the_connection(
    service: Service, query: str, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with service.client() as client:
        client.send(request("GET", f"/file_/misfit?{query}"))
        rest = client.read_rest()

    assert rest.partition(b"\r\n\r\n")[2] == sent
    assert [record.message for record in caplog.records] == ["Exception in ASGI application\n"]
    caplog.clear()


@pytest.mark.parametrize("evil", [b"\r\n", b"\n", b"\r", b"\0"])
def test_header_of_the_application_can_not_break_the_answer(
    service: Service, evil: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with service.client() as client:
        client.send(request("GET", f"/split/answer?{evil.hex()}"))
        rest = client.read_rest()

    assert b"x-evil" not in rest
    assert [record.message for record in caplog.records] == ["Exception in ASGI application\n"]
    caplog.clear()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_over_tls_no_file_can_be_sent_and_refusals_still_are(
    loop: str, app: App, tmp_path: Path
) -> None:
    certificate = Authority().issue(tmp_path)
    options: dict[str, Any] = {
        "ssl_certfile": certificate.certificate,
        "ssl_keyfile": certificate.key,
    }
    context = ssl.create_default_context(cafile=certificate.authority)
    with serving(loop, app, limits=LIMITS, **options) as service:
        with service.client() as plain:
            plain.socket = context.wrap_socket(plain.socket, server_hostname="localhost")
            with plain.socket:
                plain.send(put("/refuse/tls", 2**30))
                answer = plain.read_answer()
                rest = plain.read_rest()
        with service.client() as plain:
            plain.socket = context.wrap_socket(plain.socket, server_hostname="localhost")
            with plain.socket:
                plain.send(b"\x00")
                refused = plain.read_answer()

    assert app.scopes["/refuse/tls"]["extensions"] == {ABORT: {}, RELAY: {}}
    assert (answer.status, answer.headers["connection"], rest) == (403, "close", b"")
    assert refused.status == 400
