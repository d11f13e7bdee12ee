"""Answers are asked for once, remembered for a moment, and nobody waits for one who has gone."""

import asyncio

import pytest

from alauda_registry.auth.recent import Recent

pytestmark = pytest.mark.anyio


class Authority:
    """Counts what it is asked, and answers when told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.may_answer = asyncio.Event()
        self.trouble: Exception | None = None

    async def __call__(self) -> int:
        self.asked += 1
        number = self.asked
        await self.may_answer.wait()
        if self.trouble is not None:
            raise self.trouble
        return number


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def recent(clock: Clock) -> Recent[str, int]:
    return Recent(2.0, 3, clock)


async def test_all_who_ask_at_once_get_one_answer(
    recent: Recent[str, int], authority: Authority
) -> None:
    asking = [asyncio.create_task(recent.get("key", authority)) for _ in range(10)]
    await asyncio.sleep(0)
    authority.may_answer.set()

    assert await asyncio.gather(*asking) == [1] * 10
    assert authority.asked == 1


async def test_answer_is_good_for_a_moment_from_when_it_was_asked_for(
    recent: Recent[str, int], authority: Authority, clock: Clock
) -> None:
    asking = asyncio.create_task(recent.get("key", authority))
    await asyncio.sleep(0)
    # It says what was true when it was asked for, however long it took.
    clock.now = 1.5
    authority.may_answer.set()
    await asking

    clock.now = 1.9
    assert await recent.get("key", authority) == 1
    clock.now = 2.0
    assert await recent.get("key", authority) == 2


async def test_other_questions_have_other_answers(
    recent: Recent[str, int], authority: Authority
) -> None:
    authority.may_answer.set()

    assert await recent.get("one", authority) == 1
    assert await recent.get("other", authority) == 2


async def test_failure_reaches_all_who_wait_and_is_not_remembered(
    recent: Recent[str, int], authority: Authority
) -> None:
    authority.trouble = ConnectionError("away")
    asking = [asyncio.create_task(recent.get("key", authority)) for _ in range(3)]
    await asyncio.sleep(0)
    authority.may_answer.set()

    results = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(result) for result in results] == [ConnectionError] * 3
    assert authority.asked == 1
    authority.trouble = None
    assert await recent.get("key", authority) == 2


async def test_others_are_answered_when_the_first_has_gone(
    recent: Recent[str, int], authority: Authority
) -> None:
    first, second, third = (asyncio.create_task(recent.get("key", authority)) for _ in range(3))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    second.cancel()
    authority.may_answer.set()

    assert await third in (2, 3)
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_first_is_answered_when_another_has_gone(
    recent: Recent[str, int], authority: Authority
) -> None:
    first, second = (asyncio.create_task(recent.get("key", authority)) for _ in range(2))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.sleep(0)
    authority.may_answer.set()

    assert await first == 1
    assert authority.asked == 1


async def test_no_more_than_so_many_are_remembered(
    recent: Recent[str, int], authority: Authority
) -> None:
    authority.may_answer.set()
    for number in range(10):
        await recent.get(str(number), authority)

    assert len(recent) == 3
    assert await recent.get("9", authority) == 10
    assert await recent.get("0", authority) == 11
