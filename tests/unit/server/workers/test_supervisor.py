"""What the supervisor does when the system refuses it something."""

import errno
import logging
import os
import socket
import time
from collections.abc import Iterator
from multiprocessing import resource_tracker

import pytest

from alauda_registry.server.configuration.settings import Settings
from alauda_registry.server.workers.supervisor import Supervisor, _spawn


class NoProcess:
    """A process that there is no room for."""

    def __init__(self, **_options: object) -> None:
        pass

    def start(self) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))


@pytest.fixture
def supervisor(monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    # It keeps a descriptor for as long as the process lives.
    resource_tracker.ensure_running()
    monkeypatch.setattr(_spawn, "Process", NoProcess)
    with socket.socket() as sock:
        made = Supervisor(Settings.model_validate({"workers": 2}), sock, "nowhere")
        yield made
    made._wake_reader.close()
    made._wake_writer.close()
    made._counts.close()
    made._failures.close()


def test_a_worker_that_cannot_be_replaced_at_once_takes_nobody_along(
    supervisor: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor._was_ready = True
    descriptors = len(os.listdir("/proc/self/fd"))
    began = time.monotonic()

    for _ in range(3):
        for slot in supervisor._slots:
            slot.start_at = 0.0
        supervisor._start_missing()

    assert [slot.process for slot in supervisor._slots] == [None, None]
    # It is tried again, and not all the time.
    assert all(0 < slot.start_at - began < 40 for slot in supervisor._slots)
    assert "worker 1 could not be started: [Errno 11]" in caplog.text
    assert {record.levelno for record in caplog.records} == {logging.ERROR}
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_a_server_that_never_served_ends_with_the_reason(supervisor: Supervisor) -> None:
    with pytest.raises(BlockingIOError):
        supervisor._start_missing()
