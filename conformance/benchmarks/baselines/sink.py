"""Takes every upload and sends every blob without looking: the ceiling of ``client.py``.

Bodies that come are thrown away by the kernel, bodies that go are sent by the kernel,
and no disk is written. A thread for each connection, for there are never more than
sixteen. Run as ``python -m conformance.benchmarks.baselines.sink PORT CONTENT INDEX``.
"""

import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping

Index = Mapping[str, tuple[int, int]]

WORKERS = 2
_UPLOAD = "/v2/any/blobs/uploads/any"
_DISCARDED = bytearray(8 * 2**20)


class Exchange:
    """One connection."""

    def __init__(self, connection: socket.socket, content: int, index: Index) -> None:
        self._connection = connection
        self._content = content
        self._index = index
        self._received = b""

    def run(self) -> None:
        """Answer one request after the other until the client leaves."""
        with self._connection:
            while head := self._read_head():
                method, target, _ = head[0].split(" ", 2)
                self._take_body([line.lower() for line in head[1:]])
                if method in {"GET", "HEAD"}:
                    self._send_content(method, target.rpartition("/")[2])
                else:
                    self._answer(201 if method == "PUT" else 202)

    def _read_head(self) -> list[str]:
        while b"\r\n\r\n" not in self._received:
            content = self._connection.recv(65536)
            if not content:
                return []
            self._received += content
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        return head.decode("latin-1").split("\r\n")

    def _take_body(self, headers: list[str]) -> None:
        if "transfer-encoding: chunked" in headers:
            self._take_chunks()
            return
        for line in headers:
            if line.startswith("content-length:"):
                size = int(line.partition(":")[2])
                early = min(size, len(self._received))
                self._received = self._received[early:]
                self._discard(size - early)

    def _take_chunks(self) -> None:
        # The client sends nothing after a chunked body before it has its answer, so
        # the body ends where what arrived ends in the empty chunk.
        tail = self._received
        view = memoryview(_DISCARDED)
        while not tail.endswith(b"\r\n0\r\n\r\n"):
            got = self._connection.recv_into(_DISCARDED)
            tail = (tail + bytes(view[max(0, got - 16) : got]))[-16:]
        self._received = b""

    def _discard(self, size: int) -> None:
        while size:
            got = self._connection.recv_into(
                _DISCARDED, min(size, len(_DISCARDED)), socket.MSG_TRUNC | socket.MSG_WAITALL
            )
            if not got:
                return
            size -= got

    def _send_content(self, method: str, reference: str) -> None:
        offset, size = self._index.get(reference, (0, 0))
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode()
        self._connection.sendall(head, socket.MSG_MORE if size and method == "GET" else 0)
        sent = size if method == "HEAD" else 0
        while sent < size:
            sent += os.sendfile(
                self._connection.fileno(), self._content, offset + sent, size - sent
            )

    def _answer(self, status: int) -> None:
        answer = f"HTTP/1.1 {status} OK\r\nLocation: {_UPLOAD}\r\nContent-Length: 0\r\n\r\n"
        self._connection.sendall(answer.encode())


def main(port: int, content_path: str, index_path: str) -> None:
    """Share one listening socket between the workers."""
    with open(index_path, encoding="utf-8") as file:
        index: Index = json.load(file)
    content = os.open(content_path, os.O_RDONLY)
    listener = socket.create_server(("127.0.0.1", port), backlog=1024)
    children = [child for _ in range(WORKERS - 1) if (child := os.fork())]
    signal.signal(signal.SIGTERM, lambda *_: _stop(children))
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        exchange = Exchange(connection, content, index)
        threading.Thread(target=exchange.run, daemon=True).start()


def _stop(children: list[int]) -> None:
    for child in children:
        os.kill(child, signal.SIGTERM)
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
