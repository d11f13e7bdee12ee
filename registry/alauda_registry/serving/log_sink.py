"""Where lines of the log go without anybody waiting for whoever reads them.

A pipe that is not read is full after 64 KiB, and a write to it waits for ever: one that is done by
the event loop would stop the server, its health and its end included. So lines are written only as
far as they can be at once. The rest waits in memory, up to a limit, while a thread looks for room;
what is over that is dropped and counted, and the log tells when it moves again.
"""

import atexit
import contextlib
import functools
import logging
import os
import select
import socket
import stat
import threading
import time
from collections import deque
from collections.abc import Callable

from typing_extensions import override

logger = logging.getLogger(__name__)

BACKLOG_BYTES = 1024 * 1024
PATIENCE_SECONDS = 1.0
"""How long the end of the process waits for a reader that takes nothing."""

_PAUSE_SECONDS = 0.01


class LogSink:
    """Writes lines to a descriptor and never waits.

    Args:
        descriptor: Stays as it is: other processes may share it.
        backlog: Bytes that may wait for room.
    """

    def __init__(self, descriptor: int, backlog: int = BACKLOG_BYTES) -> None:
        self._limit = backlog
        self._descriptor, self._send, self._release = _find_way(descriptor)
        self._lock = threading.RLock()
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._dropped = 0
        self._pusher: threading.Thread | None = None

    def write(self, lines: bytes) -> None:
        """Write whole lines; up to 4096 bytes stay whole beside those of other processes."""
        with self._lock:
            if self._size + len(lines) > self._limit:
                self._dropped += lines.count(b"\n")
                return
            self._waiting.append(lines)
            self._size += len(lines)
            self._push()
            if self._waiting and self._pusher is None:
                self._pusher = threading.Thread(target=self._keep_pushing, daemon=True)
                self._pusher.start()

    def close(self) -> None:
        """Write what waits as long as somebody takes it, then give up the rest."""
        size, deadline = self._size, time.monotonic() + PATIENCE_SECONDS
        while self._size and time.monotonic() < deadline:
            self._push_when_ready()
            if self._size < size:
                size, deadline = self._size, time.monotonic() + PATIENCE_SECONDS
        with self._lock:
            self._waiting.clear()
            self._size = self._dropped = self._limit = 0
            self._release()

    def _push(self) -> None:
        while self._waiting:
            lines = self._waiting[0]
            try:
                written = self._send(lines)
            except BlockingIOError:
                return
            except OSError:
                # Nobody reads the log any more, or its disk is full: serve on.
                self._dropped += lines.count(b"\n")
                written = len(lines)
            self._size -= written
            if written < len(lines):
                self._waiting[0] = lines[written:]
            else:
                self._waiting.popleft()

    def _push_when_ready(self) -> None:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        poll.poll(PATIENCE_SECONDS * 1000)
        with self._lock:
            self._push()
        # Also where room for something is not yet room for this.
        time.sleep(_PAUSE_SECONDS)

    def _keep_pushing(self) -> None:
        dropped = 0
        while self._pusher is not None:
            self._push_when_ready()
            with self._lock:
                if not self._waiting:
                    self._pusher = None
                    dropped, self._dropped = self._dropped, 0
        if dropped:
            logger.warning("%d lines were dropped: nobody read the log in time", dropped)


class SinkHandler(logging.Handler):
    """Hands the lines of loggers to a sink."""

    def __init__(self, sink: LogSink) -> None:
        super().__init__()
        self._sink = sink

    @override
    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001,RUF100 -- as every handler: a bad line must not stop a request
            self.handleError(record)
        else:
            self._sink.write(f"{line}\n".encode("utf-8", "backslashreplace"))


@functools.cache
def standard_error() -> LogSink:
    """The one way to standard error for everything in this process."""
    sink = LogSink(2)
    atexit.register(sink.close)
    return sink


def _find_way(descriptor: int) -> tuple[int, Callable[[bytes], int], Callable[[], None]]:
    """Return what to wait for, what writes as much as it can at once, and what ends that."""
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISSOCK(mode):
        # It has a flag for each call.
        sender = socket.socket(fileno=os.dup(descriptor))
        write = functools.partial(_send_at_once, sender)
        return sender.fileno(), write, sender.close
    if stat.S_ISFIFO(mode) or os.isatty(descriptor):
        try:
            # Opened again it can be set not to wait for us alone.
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY
            own = os.open(f"/proc/self/fd/{descriptor}", flags)
        except OSError:
            # It belongs to another user, so probably to a container's log, where we are alone.
            with contextlib.suppress(OSError):
                os.set_blocking(descriptor, False)
        else:
            return own, functools.partial(os.write, own), functools.partial(os.close, own)
    return descriptor, functools.partial(os.write, descriptor), lambda: None


def _send_at_once(sender: socket.socket, content: bytes) -> int:
    return sender.send(content, socket.MSG_DONTWAIT)
