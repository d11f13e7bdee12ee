"""Guessing gets slower and slower, and only for whoever guesses."""

import os

import pytest

from alauda_registry.auth.failures import Failures
from alauda_registry.auth.throttle import (
    FORGOTTEN_AFTER,
    FREE_FROM_ADDRESS,
    FREE_WITH_NAME,
    LONGEST_WAIT,
    MOST_REFUSED,
    REMEMBERED_FOR,
    Throttle,
)
from alauda_registry.oci.errors import TooManyRequests
from tests.unit.auth.clocks import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def throttle(clock: Clock) -> Throttle:
    return Throttle(now=clock)


def fail(throttle: Throttle, address: str, name: str) -> None:
    throttle.begin(address, name)
    throttle.failed(address)


def wait_of(throttle: Throttle, address: str, name: str) -> int:
    """How long one is told to wait; a try that may be made is counted."""
    try:
        fail(throttle, address, name)
    except TooManyRequests as error:
        return error.retry_after
    return 0


def test_the_first_failures_are_free_and_each_further_one_doubles_the_wait(
    throttle: Throttle, clock: Clock
) -> None:
    for _ in range(FREE_WITH_NAME):
        assert wait_of(throttle, "192.0.2.1", "alice") == 0
    waits = []
    for _ in range(7):
        waits.append(wait_of(throttle, "192.0.2.1", "alice"))
        clock.now += waits[-1]
        assert wait_of(throttle, "192.0.2.1", "alice") == 0

    assert waits == [1, 2, 4, 8, 16, LONGEST_WAIT, LONGEST_WAIT]


def test_tries_that_are_refused_do_not_make_it_longer(throttle: Throttle, clock: Clock) -> None:
    for _ in range(FREE_WITH_NAME):
        fail(throttle, "192.0.2.1", "alice")

    assert {wait_of(throttle, "192.0.2.1", "alice") for _ in range(100)} == {1}
    clock.now += 1
    assert wait_of(throttle, "192.0.2.1", "alice") == 0


def test_nobody_is_locked_out_by_somebody_elsewhere(throttle: Throttle) -> None:
    for number in range(1000):
        wait_of(throttle, f"198.51.100.{number % 250}", "alice")

    assert wait_of(throttle, "192.0.2.1", "alice") == 0


def test_other_names_at_the_same_address_go_on_for_a_while(throttle: Throttle) -> None:
    for _ in range(100):
        wait_of(throttle, "192.0.2.1", "mallory")

    assert wait_of(throttle, "192.0.2.1", "alice") == 0


def test_many_names_from_one_address_are_slowed_down_as_well(
    throttle: Throttle, clock: Clock
) -> None:
    made = sum(wait_of(throttle, "192.0.2.1", f"user{number}") == 0 for number in range(1000))

    assert made == FREE_FROM_ADDRESS
    in_an_hour = 0
    for number in range(3600):
        clock.now += 1
        in_an_hour += wait_of(throttle, "192.0.2.1", f"other{number}") == 0
    assert in_an_hour < 3600 / LONGEST_WAIT + 10


def test_an_ipv6_network_is_one_address(throttle: Throttle) -> None:
    for number in range(1000):
        wait_of(throttle, f"2001:db8::{number:x}", f"user{number}")

    assert wait_of(throttle, "2001:db8::ffff", "alice") > 0
    assert wait_of(throttle, "2001:db8:0:1::1", "alice") == 0


@pytest.mark.parametrize("prefix", ["::ffff:", "64:ff9b::"])
def test_an_ipv4_address_is_itself_also_where_it_is_written_as_one_of_ipv6(
    throttle: Throttle, prefix: str
) -> None:
    for number in range(FREE_FROM_ADDRESS + 5):
        wait_of(throttle, f"{prefix}198.51.100.1", f"user{number}")

    assert wait_of(throttle, "198.51.100.1", "alice") > 0
    assert wait_of(throttle, f"{prefix}198.51.100.2", "alice") == 0


def test_who_gets_it_right_begins_anew_and_the_address_does_not(throttle: Throttle) -> None:
    for number in range(FREE_FROM_ADDRESS):
        fail(throttle, "192.0.2.1", f"user{number}")

    assert wait_of(throttle, "192.0.2.1", "mallory") > 0
    throttle.succeeded("192.0.2.1", "mallory")
    assert wait_of(throttle, "192.0.2.1", "mallory") > 0

    for _ in range(FREE_WITH_NAME - 1):
        fail(throttle, "192.0.2.2", "alice")
    throttle.begin("192.0.2.2", "alice")
    throttle.succeeded("192.0.2.2", "alice")
    for _ in range(FREE_WITH_NAME):
        assert wait_of(throttle, "192.0.2.2", "alice") == 0


def test_several_at_once_count_before_they_have_failed(throttle: Throttle) -> None:
    for _ in range(FREE_WITH_NAME):
        throttle.begin("192.0.2.1", "alice")

    with pytest.raises(TooManyRequests):
        throttle.begin("192.0.2.1", "alice")


def test_it_is_forgotten_after_a_while(throttle: Throttle, clock: Clock) -> None:
    for _ in range(50):
        wait_of(throttle, "192.0.2.1", "alice")
    clock.now += FORGOTTEN_AFTER + 1

    for _ in range(FREE_WITH_NAME):
        assert wait_of(throttle, "192.0.2.1", "alice") == 0


def test_workers_count_together(clock: Clock) -> None:
    failures = Failures()
    workers = [Throttle(failures, clock) for _ in range(3)]

    made = sum(wait_of(workers[number % 3], "192.0.2.1", "alice") == 0 for number in range(100))

    assert made == FREE_WITH_NAME
    assert [wait_of(worker, "192.0.2.1", "alice") for worker in workers] == [1, 1, 1]
    assert wait_of(Throttle(now=clock), "192.0.2.1", "alice") == 0, "a replica"


def test_whether_something_was_right_is_known_to_all_workers_for_a_while(clock: Clock) -> None:
    failures = Failures()
    here, there = (Throttle(failures, clock) for _ in range(2))
    right, wrong = here.mark(b"right"), here.mark(b"wrong")

    here.remember(right, is_right=True)
    here.remember(wrong, is_right=False)

    assert [there.outcome(there.mark(shown)) for shown in (b"right", b"wrong", b"else")] == [
        True,
        False,
        None,
    ]
    clock.now += REMEMBERED_FOR
    assert [there.outcome(mark) for mark in (right, wrong)] == [None, None]


def test_who_is_known_is_let_in_until_there_were_too_many_guesses(
    throttle: Throttle, clock: Clock
) -> None:
    mark = throttle.mark(b"right", b"192.0.2.1")
    for address, name in (("192.0.2.1", "alice"), ("192.0.2.1", "bob"), ("192.0.2.2", "alice")):
        throttle.let_in(address, name, mark)
    for _ in range(FREE_WITH_NAME):
        fail(throttle, "192.0.2.1", "alice")
    for _ in range(MOST_REFUSED - 1):
        assert wait_of(throttle, "192.0.2.1", "alice") > 0
    assert throttle.knows("192.0.2.1", "alice", mark)

    assert wait_of(throttle, "192.0.2.1", "alice") > 0

    assert not throttle.knows("192.0.2.1", "alice", mark)
    # It is about this name at this address.
    assert throttle.knows("192.0.2.1", "bob", mark)
    assert throttle.knows("192.0.2.2", "alice", mark)
    clock.now += FORGOTTEN_AFTER + 1
    throttle.let_in("192.0.2.1", "alice", mark)
    assert throttle.knows("192.0.2.1", "alice", mark)


def test_who_is_let_in_again_does_not_get_another_hundred_guesses(throttle: Throttle) -> None:
    mark = throttle.mark(b"right", b"192.0.2.1")
    throttle.let_in("192.0.2.1", "alice", mark)
    for _ in range(FREE_WITH_NAME):
        fail(throttle, "192.0.2.1", "alice")
    for _ in range(MOST_REFUSED):
        assert throttle.knows("192.0.2.1", "alice", mark)
        throttle.let_in("192.0.2.1", "alice", mark)
        assert wait_of(throttle, "192.0.2.1", "alice") > 0

    assert not throttle.knows("192.0.2.1", "alice", mark)


def test_who_is_refused_with_names_without_end_displaces_no_record(clock: Clock) -> None:
    """Or the record of the address would go, and all would be free again."""
    failures = Failures()
    throttle = Throttle(failures, clock)
    for number in range(FREE_FROM_ADDRESS):
        fail(throttle, "192.0.2.1", f"user{number}")
    before = os.pread(failures.descriptor, os.fstat(failures.descriptor).st_size, 0)
    clock.now += 0.5

    assert all(wait_of(throttle, "192.0.2.1", f"other{number}") > 0 for number in range(100))

    assert os.pread(failures.descriptor, len(before) + 1, 0) == before


@pytest.mark.parametrize("name", ["", "a" * 10_000, "\N{SNOWMAN}", "\ud800"])
def test_no_name_is_too_strange(throttle: Throttle, name: str) -> None:
    for _ in range(FREE_WITH_NAME):
        fail(throttle, "192.0.2.1", name)

    assert wait_of(throttle, "192.0.2.1", name) == 1
