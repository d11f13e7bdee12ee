"""What ends up in the log, and what must not."""

import asyncio
import io
import json
import logging
import os
import tracemalloc
from pathlib import Path

import pytest

from alauda_registry.serving.log_sink import LogSink
from alauda_registry.serving.logs import (
    AccessLog,
    Formatter,
    JSONFormatter,
    Level,
    TextFormatter,
    configure_logging,
    hide_secrets,
    request_id,
)

pytestmark = pytest.mark.anyio

HOSTILE = 'a"\n{"level":"error"}\x1b[31m\u2028'


def record(message: str, *arguments: object, error: Exception | None = None) -> logging.LogRecord:
    info = (type(error), error, None) if error else None
    return logging.LogRecord("a.logger", logging.WARNING, "", 0, message, arguments, info)


async def written(
    tmp_path: Path, *, is_json: bool, path: str = "/v2/", user_agent: bytes = b"docker/25"
) -> str:
    """What one request leaves in the log."""
    file = tmp_path / "log"
    descriptor = os.open(file, os.O_CREAT | os.O_WRONLY)
    log = AccessLog(
        is_json=is_json, fields={"service": "r"}, sink=LogSink(descriptor), clock=lambda: 1e9 + 0.5
    )
    log.write("GET", path, 200, 2, 0.0015, "127.0.0.1", user_agent, "id-1")
    await asyncio.sleep(0)
    os.close(descriptor)
    return file.read_text()


async def test_a_request_is_one_json_object(tmp_path: Path) -> None:
    line = await written(tmp_path, is_json=True)

    assert json.loads(line) == {
        "time": "2001-09-09T01:46:40.500Z",
        "level": "info",
        "logger": "access",
        "message": "request",
        "request_id": "id-1",
        "method": "GET",
        "path": "/v2/",
        "status": 200,
        "bytes": 2,
        "duration_ms": 1.5,
        "client": "127.0.0.1",
        "user_agent": "docker/25",
        "service": "r",
    }


async def test_a_request_is_one_line_of_text(tmp_path: Path) -> None:
    line = await written(tmp_path, is_json=False)

    assert line == (
        '2001-09-09T01:46:40.500Z info  GET /v2/ 200 2 B 1.5 ms 127.0.0.1 "docker/25" '
        "request_id=id-1\n"
    )


@pytest.mark.parametrize("is_json", [True, False], ids=["json", "text"])
async def test_no_request_can_forge_a_line(tmp_path: Path, is_json: bool) -> None:
    line = await written(
        tmp_path, is_json=is_json, path=HOSTILE, user_agent=HOSTILE.encode("utf-8")
    )

    assert line.count("\n") == 1
    assert line[:-1].isprintable()
    assert line.isascii()
    if is_json:
        assert json.loads(line)["path"] == HOSTILE


async def test_many_lines_are_written_whole_and_in_order() -> None:
    reader, writer = os.pipe()
    log = AccessLog(is_json=True, fields={}, sink=LogSink(writer))

    for number in range(100):
        log.write("GET", "/" + "x" * 100, 200, number, 0.0, "c", b"a", "id")
    await asyncio.sleep(0)

    os.close(writer)
    lines = os.read(reader, 2**16).splitlines()
    os.close(reader)
    assert [json.loads(line)["bytes"] for line in lines] == [*range(100)]


async def test_of_a_user_agent_only_the_beginning_is_noted_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "log"
    descriptor = os.open(file, os.O_CREAT | os.O_WRONLY)
    log = AccessLog(is_json=True, fields={}, sink=LogSink(descriptor))

    tracemalloc.start()
    for number in range(256):
        log.write("GET", "/", 200, 0, 0.0, "c", b"%03d" % number + b"x" * 60_000, "id")
    log.flush()
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    os.close(descriptor)
    assert len(json.loads(file.read_text().splitlines()[0])["user_agent"]) == 256
    assert kept < 2_000_000


async def test_a_log_that_nobody_reads_does_not_stop_the_server() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    log = AccessLog(is_json=True, fields={}, sink=LogSink(writer))

    log.write("GET", "/", 200, 0, 0.0, "c", b"a", "id")
    log.flush()

    os.close(writer)


def test_a_message_is_one_json_object_with_the_request_it_belongs_to() -> None:
    token = request_id.set("id-7")
    line = JSONFormatter({"service": "r"}).format(record("lost %s", "a\nb"))
    request_id.reset(token)

    content = json.loads(line)
    assert content.pop("time").endswith("Z")
    assert content == {
        "level": "warn",
        "logger": "a.logger",
        "message": "lost a\nb",
        "service": "r",
        "request_id": "id-7",
    }
    assert "\n" not in line


def test_a_text_message_is_one_line() -> None:
    line = TextFormatter().format(record("lost %s", HOSTILE))

    assert line.isprintable()
    assert line.endswith('warn  lost a"\\n{"level":"error"}\\x1b[31m\\u2028')


@pytest.mark.parametrize("formatter", [JSONFormatter({}), TextFormatter()], ids=["json", "text"])
def test_an_exception_comes_with_its_text_but_not_with_its_secrets(
    formatter: logging.Formatter,
) -> None:
    line = formatter.format(record("failed", error=ValueError("PUT /x?_state=abc&n=1")))

    assert "ValueError: PUT /x?_state=***&n=1" in line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Authorization: Bearer eyJ.a.b", "Authorization: Bearer ***"),
        ("got bearer eyJ.a.b, then", "got bearer ***, then"),
        ("Basic dXNlcjpwYXNz", "Basic ***"),
        (
            "/v2/a/blobs/uploads/1?_state=x.y-z_&digest=d",
            "/v2/a/blobs/uploads/1?_state=***&digest=d",
        ),
        ("an ordinary line", "an ordinary line"),
    ],
)
def test_secrets_are_blanked_out(text: str, expected: str) -> None:
    assert hide_secrets(text) == expected


@pytest.mark.parametrize(
    ("formatter", "is_json"),
    [(Formatter.JSON, True), (Formatter.TEXT, False), (Formatter.AUTO, True)],
)
@pytest.mark.usefixtures("untouched_logging")
def test_lines_are_json_unless_it_is_a_terminal(formatter: Formatter, is_json: bool) -> None:
    stream = io.StringIO()

    assert configure_logging(Level.INFO, formatter, {}, stream) is is_json
    logging.getLogger("x").info("a line")
    logging.getLogger("x").debug("not this one")

    lines = stream.getvalue().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("{") is is_json
