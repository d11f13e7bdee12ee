"""What goes on beside the requests, for as long as the server runs."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

logger = logging.getLogger(__name__)

_RESTART_SECONDS = 10.0
"""Until a duty that failed is tried again."""


@asynccontextmanager
async def running_in_background(
    *duties: Callable[[], Awaitable[None]], pause: float = _RESTART_SECONDS
) -> AsyncGenerator[None]:
    """Run duties for as long as the block lasts; one that fails is started again later."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_persist(duty, pause)) for duty in duties]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


async def _persist(duty: Callable[[], Awaitable[None]], pause: float) -> None:
    while True:
        try:
            await duty()
        except Exception:
            logger.exception("a background task failed; it is started again")
            await asyncio.sleep(pause)
        else:
            return
