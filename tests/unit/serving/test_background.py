"""What goes on beside the requests."""

import asyncio
import logging

import pytest

from alauda_registry.serving.background import running_in_background

pytestmark = pytest.mark.anyio


async def test_a_duty_that_fails_is_started_again(caplog: pytest.LogCaptureFixture) -> None:
    attempts = 0
    succeeded = asyncio.Event()

    async def duty() -> None:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise RuntimeError("boom")
        succeeded.set()

    with caplog.at_level(logging.ERROR):
        async with running_in_background(duty, pause=0), asyncio.timeout(10):
            await succeeded.wait()

    assert attempts == 3
    assert caplog.text.count("RuntimeError: boom") == 2


async def test_duties_end_with_the_block() -> None:
    ended: list[int] = []

    async def duty() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(1)

    async with running_in_background(duty, duty):
        await asyncio.sleep(0)

    assert ended == [1, 1]
