"""Sixteen connections that ask for one thing again and again.

GETs are ``wrk``'s work. It cannot read the answer to a HEAD, for it waits for the body
that the length announces, so HEADs have a loop of their own, as bare as Python allows.
"""

import re
import select
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from contextlib import ExitStack

CONNECTIONS = 16
WARM_UP_SECONDS = 0.5


class ProgramMissing(Exception):
    """A program that the benchmarks run is not installed."""


class LoadFailed(Exception):
    """A server did not answer every request as it should."""


def find_program(name: str) -> str:
    """Find a program that a Debian package of the same name installs.

    Raises:
        ProgramMissing: It is not on the PATH.
    """
    path = shutil.which(name)
    if path is None:
        raise ProgramMissing(f"{name} is not on the PATH: apt-get install {name}")
    return path


def get_rate(port: int, target: str, headers: Mapping[str, str], seconds: float) -> float:
    """Measure the GETs answered in a second.

    Raises:
        LoadFailed: An answer had another status than 2xx or 3xx, or the connection broke.
    """
    _run_wrk(port, target, headers, WARM_UP_SECONDS)
    return _run_wrk(port, target, headers, seconds)


def head_rate(port: int, target: str, headers: Mapping[str, str], seconds: float) -> float:
    """Measure the HEADs answered in a second.

    Raises:
        LoadFailed: An answer had another status than 200, or the connection broke.
    """
    lines = [f"HEAD {target} HTTP/1.1", "Host: localhost"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    request = "\r\n".join([*lines, "", ""]).encode("ascii")
    _repeat(port, request, WARM_UP_SECONDS)
    return _repeat(port, request, seconds)


def _run_wrk(port: int, target: str, headers: Mapping[str, str], seconds: float) -> float:
    # wrk counts whole seconds; a fraction would be refused.
    command = [find_program("wrk"), "-t1", f"-c{CONNECTIONS}", f"-d{max(1, round(seconds))}s"]
    for name, value in headers.items():
        command += ["-H", f"{name}: {value}"]
    command.append(f"http://127.0.0.1:{port}{target}")
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rate = re.search(r"^Requests/sec:\s*([0-9.]+)", said, re.MULTILINE)
    if rate is None or re.search(r"Non-2xx|Socket errors: connect [1-9]", said):
        raise LoadFailed(f"GET {target}: {said}")
    return float(rate.group(1))


def _repeat(port: int, request: bytes, seconds: float) -> float:
    with ExitStack() as stack:
        poll = stack.enter_context(select.epoll())
        sockets = {}
        for _ in range(CONNECTIONS):
            one = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sockets[one.fileno()] = one
            poll.register(one, select.EPOLLIN)
            one.sendall(request)
        start = time.perf_counter()
        answered = 0
        while time.perf_counter() < start + seconds:
            for number, _ in poll.poll(1):
                one = sockets[number]
                answer = one.recv(65536)
                if not answer.startswith(b"HTTP/1.1 200") or not answer.endswith(b"\r\n\r\n"):
                    raise LoadFailed(f"HEAD was answered {answer!r}")
                answered += 1
                one.send(request)
        return answered / (time.perf_counter() - start)
