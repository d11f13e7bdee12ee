"""What is known of the programs that the tests start, and how they end."""

import os
import signal
import subprocess

from tests.parts.processes import (
    cpu_seconds,
    family_of,
    peak_memory,
    state_of,
    stop,
    wait_until,
)


def test_a_family_begins_with_the_process_itself() -> None:
    assert family_of(os.getpid())[0] == os.getpid()


def wait_for_child(process: subprocess.Popen[bytes]) -> list[int]:
    wait_until(lambda: len(family_of(process.pid)) == 2, "the child")
    return family_of(process.pid)


def test_own_peak_memory_is_at_least_a_megabyte() -> None:
    assert peak_memory(os.getpid()) > 1_000_000


def test_what_a_family_has_computed_counts_together() -> None:
    process = subprocess.Popen(["sh", "-c", "(while true; do :; done) & wait"])
    _, child = wait_for_child(process)
    try:
        wait_until(lambda: cpu_seconds(process.pid) > 0.1, "the child's work")
    finally:
        os.kill(child, signal.SIGKILL)
        process.wait()


def test_whoever_ignores_being_stopped_ends_with_all_that_it_started() -> None:
    process = subprocess.Popen(["sh", "-c", "trap '' TERM; sleep 600 & wait"])
    _, child = wait_for_child(process)

    assert stop(process, seconds=0.1) == -9
    wait_until(lambda: state_of(child) in ("", "Z"), "the end of the child")
