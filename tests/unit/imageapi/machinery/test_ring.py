"""Following a ring: what concerns whom, found out once, and who is too slow."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field

import pytest

from alauda_imageapi.machinery.ring import Ring, RingWatch
from alauda_imageapi.machinery.store import (
    Choice,
    Compacted,
    Event,
    EventType,
    Key,
    Stored,
    StoreError,
)

pytestmark = pytest.mark.anyio

ROWS = 30
LONG = 60.0


@dataclass(frozen=True)
class Names:
    """Chooses by the first letter of a name, and counts how often it is asked."""

    letter: str
    asked: Counter[str] = field(default_factory=Counter, compare=False)

    def __call__(self, stored: Stored) -> bool:
        self.asked[stored.key.name] += 1
        if stored.key.name == "damaged":
            raise StoreError("the record is damaged")
        return stored.key.name.startswith(self.letter)


def change(ring: Ring, revision: int, name: str, namespace: str = "team") -> None:
    stored = Stored(Key("imagestreams", namespace, name), revision, b"{}")
    ring.add(Event(EventType.ADDED, stored, None))
    ring.wake()


def follow(ring: Ring, after: int = 0, choice: Choice | None = None) -> RingWatch:
    return RingWatch(lambda _: ring, "imagestreams", after, choice or Choice())


def names(events: list[Event]) -> list[str]:
    return [event.stored.key.name for event in events]


async def test_a_choice_is_made_once_for_all_who_have_made_it() -> None:
    ring, asked = Ring(ROWS, 10**6), Counter[str]()
    watches = [follow(ring, 0, Choice("", Names("a", asked))) for _ in range(100)]
    others = [follow(ring, 0, Choice("", Names("b", asked))) for _ in range(100)]

    change(ring, 1, "apple")

    assert [names([*await watch.next(0)]) for watch in watches] == [["apple"]] * 100
    assert [await watch.next(0) for watch in others] == [[]] * 100
    assert asked == {"apple": 2}


async def test_only_those_are_woken_whom_a_change_concerns() -> None:
    ring, woken = Ring(ROWS, 10**6), Counter[str]()

    async def wait(letter: str) -> None:
        watch = follow(ring, 0, Choice("", Names(letter)))
        while await watch.next(LONG):
            woken[letter] += 1

    waiting = [asyncio.ensure_future(wait(letter)) for letter in ("a", "b")]
    for number in range(5):
        await asyncio.sleep(0)
        change(ring, number + 1, "apple")
    await asyncio.sleep(0)
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)

    assert woken == {"a": 5}


async def test_whoever_waits_in_vain_has_seen_all_the_same() -> None:
    ring = Ring(ROWS, 10**6)
    watch = follow(ring, 0, Choice("elsewhere"))
    change(ring, 1, "apple")

    assert await watch.next(0) == []
    assert watch.revision == 1


async def test_who_shares_a_choice_may_begin_before_the_others() -> None:
    ring = Ring(ROWS, 10**6)
    for revision in range(1, 6):
        change(ring, revision, f"a{revision}")
    choice = Choice("team", Names("a"))

    late, early, middle = (follow(ring, after, choice) for after in (4, 1, 3))
    change(ring, 6, "a6")

    assert names([*await late.next(0)]) == ["a5", "a6"]
    assert names([*await early.next(0)]) == ["a2", "a3", "a4", "a5", "a6"]
    assert names([*await middle.next(0)]) == ["a4", "a5", "a6"]


async def test_who_begins_where_the_ring_has_not_come_to_sees_nothing_twice() -> None:
    ring = Ring(ROWS, 10**6)
    ring.advance(3)
    ahead = follow(ring, 5)
    change(ring, 4, "a4")
    behind = follow(ring, 3)
    change(ring, 5, "a5")
    assert await ahead.next(0) == []
    assert ahead.revision == 5

    change(ring, 6, "a6")

    assert names([*await ahead.next(0)]) == ["a6"]
    assert names([*await behind.next(0)]) == ["a4", "a5", "a6"]


async def test_who_falls_behind_what_is_known_is_told_without_asking() -> None:
    ring = Ring(ROWS, 10**6)
    slow, quick, other = follow(ring), follow(ring), follow(ring, 0, Choice("elsewhere"))
    seen = 0
    for revision in range(1, 2 * ROWS + 1):
        change(ring, revision, "apple")
        seen += len(await quick.next(0))
    assert not slow.lost.done()

    change(ring, 2 * ROWS + 1, "apple")

    assert slow.lost.done()
    with pytest.raises(Compacted):
        await slow.next(0)
    assert not quick.lost.done()
    assert seen + len(await quick.next(0)) == 2 * ROWS + 1
    # It had nothing to miss.
    assert not other.lost.done()
    assert await other.next(0) == []
    with pytest.raises(Compacted):
        follow(ring, 1)


async def test_a_ring_that_begins_again_ends_those_who_missed_something() -> None:
    ring = Ring(ROWS, 10**6)
    change(ring, 1, "apple")
    has_all, behind = follow(ring, 1), follow(ring, 0)
    ring.reset(1)
    change(ring, 2, "apricot")
    assert names([*await has_all.next(0)]) == ["apricot"]
    assert names([*await behind.next(0)]) == ["apple"]

    ring.reset(3)

    with pytest.raises(Compacted):
        await has_all.next(LONG)
    with pytest.raises(Compacted):
        await behind.next(LONG)


async def test_trouble_does_not_grow_with_those_who_are_told() -> None:
    ring = Ring(ROWS, 10**6)
    watch = follow(ring, 0, Choice("", Names("a")))
    change(ring, 1, "damaged")

    depths = []
    for _ in range(3):
        with pytest.raises(StoreError) as caught:
            await watch.next(0)
        depths.append(len(caught.traceback))

    # All that a traceback leads to is kept as long as its error.
    assert depths == [depths[0]] * 3


async def test_who_has_gone_on_to_another_ring_is_not_lost_with_the_first() -> None:
    history, live = Ring(ROWS, 10**6), Ring(ROWS, 10**6)
    for revision in range(1, 6):
        change(history, revision, "apple")
    live.reset(5)
    watch = RingWatch(lambda at: live if at >= 5 else history, "imagestreams", 0)
    stays = follow(history)
    assert len(await watch.next(0)) == 5
    assert await watch.next(0) == []

    for revision in range(6, 2 * ROWS + 2):
        change(history, revision, "apple")
    change(live, 6, "apricot")

    assert stays.lost.done()
    assert not watch.lost.done()
    assert names([*await watch.next(0)]) == ["apricot"]


async def test_what_cannot_be_read_is_trouble_for_those_alone_who_have_to() -> None:
    ring = Ring(ROWS, 10**6)
    readers = follow(ring, 0, Choice("", Names("a"))), follow(ring, 0, Choice("", Names("a")))
    all_of_them = follow(ring)
    change(ring, 1, "damaged")

    for reader in readers:
        with pytest.raises(StoreError, match="damaged"):
            await reader.next(LONG)
    assert names([*await all_of_them.next(0)]) == ["damaged"]
    later = follow(ring, 1, Choice("", Names("a")))
    change(ring, 2, "apple")
    assert names([*await later.next(0)]) == ["apple"]
