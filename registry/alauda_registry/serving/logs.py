r"""Logs: text for people at a terminal, one JSON object a line for programs.

Whatever a client sent is escaped, so that no request can forge a line, and what could be used to
act in somebody's name (credentials, signed upload state) never gets here. Each line that belongs to
a request carries its id, which the client has in ``X-Request-Id``.

The line of a request is built and written by hand: it is a large part of what a small answer costs,
and the logging module would take ten times as long. Lines of one turn of the event loop are
written together and at the latest at its end, so a crash loses none of those before it, as long as
somebody reads the log (``log_sink.py``).
"""

import asyncio
import io
import json
import logging
import re
import sys
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from enum import StrEnum
from json.encoder import encode_basestring_ascii as quote

from typing_extensions import override

from alauda_registry.serving.log_sink import LogSink, SinkHandler, standard_error

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the request that the current task serves."""


class Level(StrEnum):
    """How much is logged."""

    ERROR = "error"
    WARN = "warn"
    INFO = "info"
    DEBUG = "debug"


class Formatter(StrEnum):
    """What a log line looks like."""

    AUTO = "auto"
    TEXT = "text"
    JSON = "json"


_LEVELS = {
    Level.ERROR: logging.ERROR,
    Level.WARN: logging.WARNING,
    Level.INFO: logging.INFO,
    Level.DEBUG: logging.DEBUG,
}
_SECRETS = re.compile(
    r"(?i)(_state=|\bauthorization:\s*(?:\w+\s+)?|\b(?:basic|bearer)\s+)[^\s&\"',]+"
)
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
_AGENTS_KEPT = 256
_AGENT_BYTES = 256
_ATOMIC = 4096
"""Pipes keep writes up to this length whole when several workers share one."""


def configure_logging(
    level: Level,
    formatter: Formatter,
    fields: Mapping[str, str],
    stream: io.TextIOBase | None = None,
) -> bool:
    """Send every logger's lines to standard error.

    Returns:
        Whether lines are JSON.
    """
    target = stream or sys.stderr
    is_json = formatter is Formatter.JSON or (formatter is Formatter.AUTO and not target.isatty())
    handler = logging.StreamHandler(stream) if stream else SinkHandler(standard_error())
    handler.setFormatter(JSONFormatter(fields) if is_json else TextFormatter())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(_LEVELS[level])
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    logging.getLogger("uvicorn.error").addFilter(_is_worth_telling)
    # What uvicorn tells about its own coming and going is told by us, once for all workers.
    logging.getLogger("uvicorn.error").setLevel(max(logging.WARNING, root.level))
    logging.getLogger("asyncio").setLevel(max(logging.WARNING, root.level))
    return is_json


class JSONFormatter(logging.Formatter):
    """One object a line, with the configured fields."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        super().__init__()
        self._fields = dict(fields)

    @override
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _timestamp(record.created),
            "level": _level_name(record),
            "logger": record.name,
            "message": hide_secrets(record.getMessage()),
            **self._fields,
        }
        if found := request_id.get():
            line["request_id"] = found
        if record.exc_info:
            line["exception"] = hide_secrets(self.formatException(record.exc_info))
        return json.dumps(line)


class TextFormatter(logging.Formatter):
    """For people: time, level, message, request; a traceback on lines of its own."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        message = _CONTROL.sub(_escape, hide_secrets(record.getMessage()))
        found = request_id.get()
        line = f"{_timestamp(record.created)} {_level_name(record):5} {message}"
        if found:
            line = f"{line} request_id={found}"
        if record.exc_info:
            line = f"{line}\n{hide_secrets(self.formatException(record.exc_info))}"
        return line


class AccessLog:
    """Writes one line for each request.

    Args:
        is_json: JSON, or text.
        fields: Added to every JSON line.
        sink: Where to; standard error by default.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        *,
        is_json: bool,
        fields: Mapping[str, str],
        sink: LogSink | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._is_json = is_json
        self._tail = "".join(f",{json.dumps(k)}:{json.dumps(v)}" for k, v in fields.items()) + "}\n"
        self._sink = sink or standard_error()
        self._clock = clock
        self._second = -1
        self._date = ""
        self._lines: list[str] = []
        self._agents: dict[bytes, str] = {}

    def write(
        self,
        method: str,
        path: str,
        status: int,
        size: int,
        seconds: float,
        client: str,
        user_agent: bytes,
        request: str,
    ) -> None:
        """Note a request that has been answered; ``path`` comes without its query."""
        now = self._clock()
        second = int(now)
        if second != self._second:
            self._second = second
            self._date = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        user_agent = user_agent[:_AGENT_BYTES]
        agent = self._agents.get(user_agent)
        if agent is None:
            if len(self._agents) >= _AGENTS_KEPT:
                self._agents.clear()
            agent = self._agents[user_agent] = quote(user_agent.decode("latin-1"))
        if not self._lines:
            asyncio.get_running_loop().call_soon(self.flush)
        # Only what a client chose needs quoting: the parser admits no quotes in a method, and the
        # rest was made here.
        if self._is_json:
            self._lines.append(
                f'{{"time":"{self._date}.{int((now - second) * 1000):03d}Z","level":"info",'
                f'"logger":"access","message":"request","request_id":"{request}",'
                f'"method":"{method}","path":{quote(path)},"status":{status},"bytes":{size},'
                f'"duration_ms":{seconds * 1000:.3f},"client":"{client}","user_agent":{agent}'
                f"{self._tail}"
            )
        else:
            self._lines.append(
                f"{self._date}.{int((now - second) * 1000):03d}Z info  {method} "
                f"{quote(path)[1:-1]} {status} {size} B {seconds * 1000:.1f} ms {client} {agent} "
                f"request_id={request}\n"
            )

    def flush(self) -> None:
        """Write what has been noted, in as few pieces as stay whole beside those of others."""
        lines, self._lines = self._lines, []
        piece: list[str] = []
        length = 0
        for line in lines:
            length += len(line)
            if length > _ATOMIC and piece:
                self._emit("".join(piece))
                piece, length = [], len(line)
            piece.append(line)
        if piece:
            self._emit("".join(piece))

    def _emit(self, piece: str) -> None:
        self._sink.write(piece.encode("ascii", "backslashreplace"))


def hide_secrets(text: str) -> str:
    """Blank out what must not be in a log, should a message quote a header or an upload URL."""
    return _SECRETS.sub(r"\1***", text)


def _is_worth_telling(record: logging.LogRecord) -> bool:
    """Not so the traceback of a request that was cut short because its time was up."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


def _timestamp(seconds: float) -> str:
    whole = int(seconds)
    date = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
    return f"{date}.{int((seconds - whole) * 1000):03d}Z"


def _level_name(record: logging.LogRecord) -> str:
    return "warn" if record.levelno == logging.WARNING else record.levelname.lower()
