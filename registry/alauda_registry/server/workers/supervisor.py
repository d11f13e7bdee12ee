"""Several workers behind one socket: started, watched, replaced and stopped by this process.

The parent binds the socket and hands it to workers that are spawned, not forked, so that nothing of
the parent's is shared by accident. It serves nothing itself and imports nothing of the application:
a worker that dies takes nobody along. What the workers have counted lies in memory that the parent
holds, so that the counts of one that died are not lost.
"""

import contextlib
import logging
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, MutableSequence
from contextlib import contextmanager
from ctypes import Array, c_char
from dataclasses import dataclass, field
from multiprocessing import connection, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from types import FrameType

from alauda_registry.auth.failures import Failures
from alauda_registry.server.configuration.settings import Settings
from alauda_registry.server.metrics.shared_records import SharedRecords
from alauda_registry.serving.listening import BACKLOG
from alauda_registry.serving.signals import GRACE_SECONDS, REPEAT_SECONDS
from alauda_registry.serving.starting import CannotStart

logger = logging.getLogger(__name__)

_STEADY_SECONDS = 30.0
"""A worker that lived this long died of something new: the next one starts at once."""
_LONGEST_PAUSE_SECONDS = 10.0
_VOLUME_BYTES = 128

_spawn = multiprocessing.get_context("spawn")


@dataclass(slots=True)
class _Slot:
    """The place of one worker, and who is in it."""

    index: int
    process: SpawnProcess | None = None
    pipe: Connection | None = None
    is_ready: bool = False
    started_at: float = 0.0
    failures: int = 0
    start_at: float = field(default=0.0)


class Supervisor:
    """Keeps the configured number of workers alive until told to stop."""

    def __init__(
        self,
        settings: Settings,
        sock: socket.socket,
        location: str,
        extension: str | None = None,
    ) -> None:
        self._settings = settings
        self._extension = extension
        self._socket = sock
        self._location = location
        self._slots = [_Slot(index) for index in range(settings.workers)]
        self._loads: MutableSequence[int] = _spawn.RawArray("i", settings.workers)
        self._was_ready = False
        self._deadline: float | None = None
        self._stopping_since = 0.0
        self._counts = SharedRecords()
        self._failures = Failures()
        self._volume = _spawn.RawArray(c_char, _VOLUME_BYTES)
        self._wake_reader, self._wake_writer = socket.socketpair()

    def run(self) -> int:
        """Supervise until every worker has stopped; the exit code of the whole."""
        # Connections queue up while workers start or are replaced, instead of being refused.
        self._socket.listen(BACKLOG)
        with self._capture_signals():
            failed = self._supervise()
        self._wake_reader.close()
        self._wake_writer.close()
        self._counts.close()
        self._failures.close()
        return 1 if failed else 0

    def _supervise(self) -> bool:
        failed = False
        while True:
            for number in self._take_signals():
                self._handle_signal(number)
            failed = self._reap() or failed
            alive = [slot for slot in self._slots if slot.process is not None]
            if self._is_stopping and not alive:
                return failed
            if not self._is_stopping:
                self._start_missing()
            elif self._deadline is not None and time.monotonic() > self._deadline:
                for slot in alive:
                    logger.error("worker %d does not stop; killing it", slot.index)
                    _send(slot, signal.SIGKILL)
            self._wait()

    @property
    def _is_stopping(self) -> bool:
        return self._deadline is not None

    def _start_missing(self) -> None:
        for slot in self._slots:
            if slot.process is None and time.monotonic() >= slot.start_at:
                slot.started_at = time.monotonic()
                try:
                    self._start(slot)
                except OSError as error:
                    # No room for another process or descriptor. The others go on serving.
                    if not self._was_ready:
                        raise
                    self._plan_restart(slot, f"could not be started: {error}")

    def _start(self, slot: _Slot) -> None:
        ours, theirs = _spawn.Pipe()
        process = _spawn.Process(
            target=run_worker,
            args=(
                *(self._settings, slot.index, self._socket, theirs),
                *(self._loads, self._counts, self._volume, self._extension, self._failures),
            ),
            name=f"worker-{slot.index}",
            # Should this process end by a mistake of ours, its workers are told to stop.
            daemon=True,
        )
        # Ctrl-C reaches the whole process group; stopping the workers is the parent's affair,
        # also while one is still importing.
        try:
            resource_tracker.ensure_running()
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            process.start()
        except OSError:
            ours.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            theirs.close()
        slot.process, slot.pipe = process, ours
        slot.is_ready = False

    def _reap(self) -> bool:
        """Take leave of workers that have ended; tell whether that is the end of us, too."""
        failed = False
        for slot in self._slots:
            process = slot.process
            if process is None or slot.pipe is None:
                continue
            if not slot.is_ready and slot.pipe.poll() and _is_message(slot.pipe):
                slot.is_ready = True
                self._announce()
            exit_code = process.exitcode
            if exit_code is None:
                continue
            process.join()
            process.close()
            slot.pipe.close()
            slot.process = slot.pipe = None
            if self._is_stopping:
                continue
            # One that served before the others did could start.
            if not (self._was_ready or slot.is_ready):
                logger.error("worker %d could not start; the log above says why", slot.index)
                failed = True
                self._stop()
                continue
            lived = f"{time.monotonic() - slot.started_at:.0f} s"
            self._plan_restart(
                slot, f"ended unexpectedly ({_describe_exit(exit_code)}) after {lived}"
            )
        return failed

    def _plan_restart(self, slot: _Slot, what: str) -> None:
        lived = time.monotonic() - slot.started_at
        slot.failures = 0 if lived > _STEADY_SECONDS else slot.failures + 1
        pause = min(_LONGEST_PAUSE_SECONDS, 0.1 * 2**slot.failures) if slot.failures > 1 else 0.0
        slot.start_at = time.monotonic() + pause
        logger.error(
            "worker %d %s; starting another one%s",
            slot.index,
            what,
            f" in {pause:.1f} s" if pause else "",
        )

    def _announce(self) -> None:
        if not self._was_ready and all(slot.is_ready for slot in self._slots):
            self._was_ready = True
            logger.info("serving %s with %d workers", self._location, len(self._slots))

    def _handle_signal(self, number: int) -> None:
        if number == signal.SIGHUP:
            for slot in self._slots:
                # A worker that still starts would end by it, and reads its files only now.
                if slot.is_ready:
                    _send(slot, signal.SIGHUP)
        elif self._is_stopping:
            if time.monotonic() > self._stopping_since + REPEAT_SECONDS:
                self._hurry()
        else:
            logger.info("stopping on %s", signal.Signals(number).name)
            self._stop()

    def _stop(self) -> None:
        http = self._settings.http
        self._stopping_since = time.monotonic()
        allowed = (http.drain_delay + http.drain_timeout).total_seconds()
        self._deadline = self._stopping_since + allowed + GRACE_SECONDS
        # The workers' own copies keep the socket open for as long as they accept.
        self._socket.close()
        self._signal_all(signal.SIGTERM)

    def _hurry(self) -> None:
        for slot in self._slots:
            if slot.pipe is not None:
                with contextlib.suppress(OSError):
                    slot.pipe.send_bytes(b"hurry")

    def _signal_all(self, number: signal.Signals) -> None:
        for slot in self._slots:
            _send(slot, number)

    def _wait(self) -> None:
        """Sleep until a worker ends or speaks, a signal comes, or it is time to start another."""
        now = time.monotonic()
        times = [slot.start_at for slot in self._slots if slot.process is None]
        if self._deadline is not None:
            times = [max(self._deadline, now + 1)]
        awaited: list[Connection | socket.socket | int] = [self._wake_reader]
        for slot in self._slots:
            if slot.process is not None:
                awaited.append(slot.process.sentinel)
                if not slot.is_ready and slot.pipe is not None:
                    awaited.append(slot.pipe)
        connection.wait(awaited, max(0.0, min(times) - now) if times else None)

    def _take_signals(self) -> list[int]:
        try:
            return list(self._wake_reader.recv(64))
        except BlockingIOError:
            return []

    @contextmanager
    def _capture_signals(self) -> Iterator[None]:
        """Turn signals into bytes on a socket, so that none is lost and none interrupts."""
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        old_wakeup = signal.set_wakeup_fd(self._wake_writer.fileno())
        for number in numbers:
            signal.signal(number, _ignore)
        try:
            yield
        finally:
            # The process ends now, and with success: a late signal must not change that.
            for number in numbers:
                signal.signal(number, signal.SIG_IGN)
            signal.set_wakeup_fd(old_wakeup)


def run_worker(
    settings: Settings,
    index: int,
    sock: socket.socket,
    parent: Connection,
    loads: MutableSequence[int],
    counts: SharedRecords | None = None,
    volume: "Array[c_char] | None" = None,
    extension: str | None = None,
    failures: Failures | None = None,
) -> None:
    """Be a worker; runs in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    # Not before: the parent has no use for the application.
    from alauda_registry.server.workers.siblings import Siblings
    from alauda_registry.server.workers.worker import Worker

    siblings = Siblings(index, parent, loads, counts, volume, failures)

    def announce() -> None:
        # Without a parent we end in order, as soon as we have begun.
        with contextlib.suppress(OSError):
            parent.send_bytes(b"ready")

    try:
        Worker(settings, siblings, extension).serve(sock, announce)
    except CannotStart as error:
        logger.error("%s", error)  # noqa: TRY400,RUF100 -- it says what to do
        sys.exit(1)


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Nothing: the wake-up socket has the number."""


def _is_message(pipe: Connection) -> bool:
    """Whether the worker spoke; it may have died instead."""
    try:
        pipe.recv_bytes()
    except (EOFError, OSError):
        return False
    return True


def _send(slot: _Slot, number: signal.Signals) -> None:
    if slot.process is not None and slot.process.exitcode is None and slot.process.pid:
        os.kill(slot.process.pid, number)


def _describe_exit(exit_code: int) -> str:
    if exit_code < 0:
        return f"killed by {signal.Signals(-exit_code).name}"
    return f"exit code {exit_code}"
