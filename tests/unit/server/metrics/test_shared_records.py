"""Records in shared memory: whole ones only, whatever happens to their writers."""

import os
import threading
from collections.abc import Iterator

import pytest

from alauda_registry.server.metrics.shared_records import SharedRecords


@pytest.fixture
def descriptor() -> Iterator[int]:
    made = os.memfd_create("test")
    yield made
    os.close(made)


def test_each_has_its_own_and_the_latest_counts(descriptor: int) -> None:
    records = SharedRecords(descriptor)

    records.write(0, b"old")
    records.write(1, b"another's")
    records.write(0, b"new")

    assert [records.read(index) for index in range(3)] == [b"new", b"another's", b""]


def test_a_record_that_was_not_finished_leaves_the_one_before(descriptor: int) -> None:
    records = SharedRecords(descriptor)
    records.write(0, b"a" * 100)
    records.write(0, b"b" * 100)

    # The newer one lies in the first place.
    os.pwrite(descriptor, b"c", 50)

    assert records.read(0) == b"a" * 100
    records.write(0, b"d")
    assert records.read(0) == b"d"


def test_a_reader_never_sees_half_a_record(descriptor: int) -> None:
    records = SharedRecords(descriptor)
    records.write(0, b"0" * 100_000)
    seen: set[bytes] = set()
    is_done = threading.Event()

    def read() -> None:
        while not is_done.is_set():
            seen.add(records.read(0))

    reading = threading.Thread(target=read)
    reading.start()
    for number in range(300):
        records.write(0, b"%d" % (number % 10) * 100_000)
    is_done.set()
    reading.join()

    assert {(len(content), len(set(content))) for content in seen} == {(100_000, 1)}


def test_no_room_is_an_error_and_the_record_stays(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("records") / "file"
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR)
    records = SharedRecords(descriptor)
    records.write(0, b"kept")

    with pytest.raises(OSError, match="too large"):
        records.write(0, bytes(5_000_000))

    assert records.read(0) == b"kept"
    records.close()
