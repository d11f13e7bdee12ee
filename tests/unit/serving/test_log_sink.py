"""Lines on their way to whoever reads them, or does not."""

import fcntl
import os
import pty
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from alauda_registry.serving.log_sink import LogSink

LINE = b"x" * 99 + b"\n"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    # One page, which is as small as a pipe gets.
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    yield reader, writer
    os.close(reader)
    os.close(writer)


def read_lines(reader: int, count: int) -> list[bytes]:
    content = b""
    while content.count(b"\n") < count:
        content += os.read(reader, 65536)
    return content.splitlines(keepends=True)


def test_a_line_is_written_at_once(pipe: tuple[int, int]) -> None:
    reader, writer = pipe

    LogSink(writer).write(LINE)

    os.set_blocking(reader, False)
    assert os.read(reader, 1000) == LINE


def test_lines_wait_for_a_slow_reader_and_come_in_order(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    sink = LogSink(writer)
    lines = [b"%099d\n" % number for number in range(500)]

    for line in lines:
        sink.write(line)

    assert read_lines(reader, 500) == lines


def test_what_does_not_fit_is_dropped_and_counted(
    pipe: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    reader, writer = pipe
    sink = LogSink(writer, backlog=1000)
    began = time.monotonic()

    for _ in range(100):
        sink.write(LINE)

    assert time.monotonic() - began < 20
    kept = 4096 // 100 + 10
    assert read_lines(reader, kept) == [LINE] * kept
    wait_until_logged(caplog)
    assert caplog.messages == [f"{100 - kept} lines were dropped: nobody read the log in time"]


def wait_until_logged(caplog: pytest.LogCaptureFixture) -> None:
    deadline = time.monotonic() + 10
    while not caplog.messages and time.monotonic() < deadline:
        time.sleep(0.01)


def test_a_line_longer_than_the_pipe_comes_whole(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    sink = LogSink(writer)
    long = b"y" * 20_000 + b"\n"

    sink.write(long)
    sink.write(LINE)

    assert read_lines(reader, 2) == [long, LINE]


def test_the_end_waits_for_a_reader(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    sink = LogSink(writer)
    for _ in range(200):
        sink.write(LINE)
    lines: list[bytes] = []

    reading = threading.Thread(target=lambda: lines.extend(read_lines(reader, 200)))
    reading.start()
    sink.close()
    os.write(writer, b"the end\n")
    reading.join()

    assert lines[:200] == [LINE] * 200


def test_the_end_does_not_wait_for_ever(pipe: tuple[int, int]) -> None:
    sink = LogSink(pipe[1])
    for _ in range(200):
        sink.write(LINE)

    began = time.monotonic()
    sink.close()

    assert 0.5 < time.monotonic() - began < 20


def test_the_descriptor_stays_as_others_want_it(pipe: tuple[int, int]) -> None:
    LogSink(pipe[1]).write(LINE)

    assert os.get_blocking(pipe[1])


def test_a_socket_that_nobody_reads_holds_nobody_up() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sink = LogSink(ours.fileno(), backlog=1000)
        began = time.monotonic()

        for _ in range(10_000):
            sink.write(LINE)

        assert time.monotonic() - began < 20
        assert theirs.recv(100) == LINE
        sink.close()


def test_a_terminal_shows_lines() -> None:
    ours, theirs = pty.openpty()

    LogSink(theirs).write(b"a line\n")

    assert os.read(ours, 100) == b"a line\r\n"
    os.close(ours)
    os.close(theirs)


def test_a_pipe_of_another_user_is_set_not_to_wait(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_arguments: object) -> int:
        raise PermissionError

    monkeypatch.setattr(os, "open", refuse)
    sink = LogSink(pipe[1], backlog=1000)

    for _ in range(100):
        sink.write(LINE)

    assert read_lines(pipe[0], 50) == [LINE] * 50
    # What is said later would be found in another test's log.
    wait_until_logged(caplog)


def test_a_full_disk_loses_lines_and_nothing_else() -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)

    LogSink(descriptor).write(LINE)

    os.close(descriptor)
