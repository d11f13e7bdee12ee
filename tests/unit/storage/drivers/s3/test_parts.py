"""Cutting streams into parts, within a budget of memory."""

import asyncio
from collections.abc import Sequence

import pytest

from alauda_registry.storage.driver import DriverError, OutOfSpace
from alauda_registry.storage.drivers.s3 import parts
from alauda_registry.storage.drivers.s3.appending import EVEN_PIECES
from alauda_registry.storage.drivers.s3.direct import EVEN_PARTS
from alauda_registry.storage.drivers.s3.parts import (
    LARGEST,
    MAXIMUM,
    MIB,
    SMALLEST,
    Budget,
    PartStream,
    part_size,
    short_size,
)

pytestmark = pytest.mark.anyio


class FakeSink:
    """Keeps parts when it is let."""

    def __init__(self) -> None:
        self.kept: dict[int, bytes] = {}
        self.under_way = 0
        self.most = 0
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.error: DriverError | None = None

    async def put(self, number: int, body: Sequence[bytes], sha256: str) -> None:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await self.go_on.wait()
            await asyncio.sleep(0.01)
            if self.error is not None:
                raise self.error
            self.kept[number] = b"".join(body)
        finally:
            self.under_way -= 1


def stream_into(sink: FakeSink, budget: Budget) -> PartStream:
    return PartStream(sink, budget, base=SMALLEST, even=64, at_once=3)


async def test_the_parts_are_the_stream() -> None:
    sink, budget = FakeSink(), Budget(64 * MIB)
    stream = stream_into(sink, budget)
    chunks = [bytes([number]) * 700_000 for number in range(40)]

    async def write() -> None:
        for chunk in chunks:
            await stream.write([chunk])
        await stream.finish()

    sink.go_on.clear()
    writing = asyncio.ensure_future(write())
    async with asyncio.timeout(30):
        while sink.most < 3:  # noqa: ASYNC110 -- no event tells
            await asyncio.sleep(0.01)
    sink.go_on.set()
    await writing

    assert b"".join(sink.kept[number] for number in sorted(sink.kept)) == b"".join(chunks)
    assert sorted(sink.kept) == list(range(1, len(sink.kept) + 1))
    assert all(len(sink.kept[number]) >= SMALLEST for number in list(sink.kept)[:-1])
    assert sink.most == 3
    assert not budget.is_short


async def test_an_upload_waits_for_its_own_parts_when_memory_is_short() -> None:
    sink, budget = FakeSink(), Budget(8 * MIB)
    stream = stream_into(sink, budget)
    sink.go_on.clear()
    await stream.write([bytes(5 * MIB)])

    writing = asyncio.ensure_future(stream.write([bytes(4 * MIB)]))
    await asyncio.sleep(0.05)
    assert not writing.done()

    sink.go_on.set()
    await writing
    await stream.finish()
    assert sum(map(len, sink.kept.values())) == 9 * MIB


async def test_an_upload_with_nothing_on_its_way_goes_on_whatever_others_hold() -> None:
    sink, budget = FakeSink(), Budget(1 * MIB)
    budget.take(100 * MIB)
    stream = stream_into(sink, budget)

    async with asyncio.timeout(5):
        for _ in range(12):
            await stream.write([bytes(MIB)])
        await stream.finish()

    assert [len(sink.kept[number]) for number in sorted(sink.kept)] == [5 * MIB, 5 * MIB, 2 * MIB]


async def test_a_part_that_can_not_be_kept_fails_the_upload() -> None:
    sink, budget = FakeSink(), Budget(64 * MIB)
    stream = stream_into(sink, budget)
    sink.error = DriverError("no", driver="s3", path="/a")
    await stream.write([bytes(6 * MIB)])

    with pytest.raises(DriverError):
        await stream.finish()
    await stream.drop()

    assert not budget.is_short


async def test_dropping_gives_all_memory_back() -> None:
    sink, budget = FakeSink(), Budget(1)
    stream = stream_into(sink, budget)
    sink.go_on.clear()
    writing = asyncio.ensure_future(stream.write([bytes(6 * MIB)]))
    await asyncio.sleep(0.05)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing

    await stream.drop()

    assert not budget.is_short
    assert sink.under_way == 0


async def test_there_are_never_more_parts_than_s3_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "MAXIMUM", 2)
    stream = stream_into(FakeSink(), Budget(64 * MIB))
    await stream.write([bytes(5 * MIB)])
    await stream.write([bytes(5 * MIB)])

    with pytest.raises(OutOfSpace, match="no space left") as caught:
        await stream.write([bytes(5 * MIB)])

    assert "storage.s3.chunksize" in (caught.value.advice or "")
    await stream.drop()


@pytest.mark.parametrize("even", [EVEN_PARTS, EVEN_PIECES])
def test_parts_grow_and_stay_within_bounds(even: int) -> None:
    sizes = [part_size(number, 8 * MIB, even=even) for number in range(1, MAXIMUM + 1)]

    assert sizes == sorted(sizes)
    assert sizes.count(8 * MIB) == even
    assert sizes[-1] == LARGEST
    # Half a tebibyte and more for the smallest setting but one.
    assert sum(sizes) > 550 * 1024 * MIB
    assert part_size(MAXIMUM, 512 * MIB, even=even) == 512 * MIB


def test_parts_are_small_while_memory_is_short_and_grow_before_there_are_too_many() -> None:
    sizes = [short_size(number) for number in range(1, MAXIMUM + 1)]

    assert sizes == sorted(sizes)
    assert set(sizes[:1000]) == {SMALLEST}
    assert sizes[-1] == LARGEST
    assert sum(sizes) > 300 * 1024 * MIB


async def test_what_is_too_little_for_a_part_is_counted_until_it_is_gone() -> None:
    budget = Budget(4 * MIB)
    stream = stream_into(FakeSink(), budget)
    await stream.write([bytes(4 * MIB)])

    assert len(b"".join(await stream.take_rest())) == 4 * MIB

    assert budget.is_short
    await stream.drop()
    assert not budget.is_short
