"""Guessing gets slower and slower, and only for whoever guesses."""

import pytest

from alauda_registry.auth.throttle import (
    FORGOTTEN_AFTER,
    FREE_FROM_ADDRESS,
    FREE_WITH_NAME,
    KEPT,
    LONGEST_WAIT,
    Throttle,
)
from alauda_registry.oci.errors import TooManyRequests
from tests.unit.auth.clocks import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def throttle(clock: Clock) -> Throttle:
    return Throttle(clock)


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


def test_memory_is_bounded(throttle: Throttle) -> None:
    for number in range(3 * KEPT):
        fail(throttle, f"10.{number >> 16}.{(number >> 8) & 255}.{number & 255}", f"u{number}")

    assert len(throttle._names) == len(throttle._addresses) == KEPT
