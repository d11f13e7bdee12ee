"""A table that processes share: what one of them counts the others know, and it never grows."""

import multiprocessing
import os
import signal
from multiprocessing.connection import Connection

import pytest

from alauda_registry.auth.failures import RECORDS, Failures, Record
from alauda_registry.auth.throttle import FREE_WITH_NAME, Throttle
from alauda_registry.oci.errors import TooManyRequests

_spawn = multiprocessing.get_context("spawn")

PROCESSES = 4
TRIES = 200


def guess(failures: Failures, pipe: Connection) -> None:
    """Be a process in which somebody guesses; tell how many tries were looked at."""
    throttle = Throttle(failures)
    pipe.send("ready")
    pipe.recv()
    made = 0
    for _ in range(TRIES):
        try:
            throttle.begin("192.0.2.1", "alice")
        except TooManyRequests:
            continue
        made += 1
    pipe.send(made)


def count(failures: Failures, pipe: Connection) -> None:
    """Be a process that counts as fast as it can."""
    pipe.send("ready")
    pipe.recv()
    for _ in range(TRIES):
        with failures.locked():
            record = failures.get(b"0" * 16)
            failures.put(b"0" * 16, Record(record.failures + 1))
    pipe.send(TRIES)


def hold(failures: Failures, pipe: Connection) -> None:
    """Be a process that is killed while it has locked the table."""
    with failures.locked():
        pipe.send("ready")
        pipe.recv()


def test_of_what_processes_count_at_once_nothing_is_lost() -> None:
    failures = Failures()

    counted = in_processes(count, failures)

    assert failures.get(b"0" * 16).failures == sum(counted) == PROCESSES * TRIES


def test_processes_let_as_many_tries_through_as_one() -> None:
    made = in_processes(guess, Failures())

    assert sum(made) == FREE_WITH_NAME


def in_processes(target: object, failures: Failures) -> list[int]:
    """Run the same in several processes at once; what each of them tells."""
    pairs = [_spawn.Pipe() for _ in range(PROCESSES)]
    processes = [
        _spawn.Process(target=target, args=(failures, theirs))  # type: ignore[arg-type]
        for _, theirs in pairs
    ]
    for process in processes:
        process.start()
    for ours, _ in pairs:
        assert ours.recv() == "ready"
    for ours, _ in pairs:
        ours.send("go")
    told = [ours.recv() for ours, _ in pairs]
    for process in processes:
        process.join()
    return told


def test_who_dies_holds_nobody_up() -> None:
    failures = Failures()
    ours, theirs = _spawn.Pipe()
    process = _spawn.Process(target=hold, args=(failures, theirs))
    process.start()
    assert ours.recv() == "ready"
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)

    with failures.locked():
        failures.put(b"0" * 16, Record(1))
    process.join()


def test_what_changed_longest_ago_gives_way() -> None:
    failures = Failures()
    size = os.fstat(failures.descriptor).st_size
    keys = [failures.key(b"%d" % number) for number in range(2 * RECORDS)]
    for number, key in enumerate(keys):
        failures.put(key, Record(1, last=float(number)))
        if number % 16 == 0:
            # Who goes on is not forgotten.
            failures.put(keys[0], Record(2, last=float(number)))

    kept = [failures.get(key).failures for key in keys]
    assert kept[0] == 2
    # The buckets are not filled evenly.
    assert RECORDS // 2 < sum(kept[1:]) <= RECORDS
    assert sum(kept[1:RECORDS]) < sum(kept[RECORDS:]) // 4
    assert os.fstat(failures.descriptor).st_size == size


def test_keys_are_of_their_table_and_parts_are_told_apart() -> None:
    failures = Failures()

    assert failures.key(b"a", b"b") == failures.key(b"a", b"b")
    assert failures.key(b"a", b"b") != failures.key(b"ab", b"")
    assert failures.key(b"a") != Failures().key(b"a")


def test_what_is_shared_is_closed_once() -> None:
    failures = Failures()
    failures.close()

    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(failures.descriptor)
    failures.close()
