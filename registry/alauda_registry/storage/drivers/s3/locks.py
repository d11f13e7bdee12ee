"""Named locks that all replicas respect: an object each, changed only if it is as it was read.

Whoever holds one renews it as long as he lives, and stops what he is doing when he could not for
some time: before others take it for nobody's.
"""

import asyncio
import contextlib
import json
import logging
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from alauda_registry.storage.driver import Busy, DriverError, PathNotFound
from alauda_registry.storage.drivers.s3.client import Conflict, S3Client
from alauda_registry.storage.drivers.s3.errors import NAME, TimedOut
from alauda_registry.storage.drivers.s3.files import CLAIM_SECONDS
from alauda_registry.storage.threads import see_through

logger = logging.getLogger(__name__)

FOLDER = "/_driver/locks"
_RENEWAL_SECONDS = 8.0
SAFE_SECONDS = 20.0
"""Who could not renew a lock for this long stops; others wait for longer."""

_POLL_SECONDS = (0.02, 0.5)


@dataclass(frozen=True, slots=True)
class _State:
    """Who holds a lock: one alone, or any number together."""

    etag: str = ""
    exclusive: str = ""
    shared: frozenset[str] = field(default_factory=frozenset)

    def with_holder(self, holder: str, *, exclusive: bool) -> "_State | None":
        """Return the state with one holder more, or None when that can't be."""
        if self.exclusive or (exclusive and self.shared):
            return None
        if exclusive:
            return _State(self.etag, holder)
        return _State(self.etag, "", self.shared | {holder})

    def without(self, holder: str) -> "_State":
        return _State(
            self.etag, "" if self.exclusive == holder else self.exclusive, self.shared - {holder}
        )

    def is_held_by(self, holder: str) -> bool:
        return holder == self.exclusive or holder in self.shared

    def dump(self) -> bytes:
        return json.dumps(
            {
                "id": secrets.token_hex(8),
                "exclusive": self.exclusive,
                "shared": sorted(self.shared),
            }
        ).encode()


class Locks:
    """The locks of one bucket."""

    def __init__(self, client: S3Client) -> None:
        self._client = client

    @asynccontextmanager
    async def hold(self, name: str, *, exclusive: bool, wait: float) -> AsyncGenerator[None, None]:
        """Hold a lock.

        Raises:
            Busy: It was still held after ``wait`` seconds.
            TimedOut: It could not be renewed, and what was done under it was stopped.
        """
        holder = secrets.token_hex(8)
        try:
            await self._acquire(name, holder, exclusive=exclusive, wait=wait)
        except asyncio.CancelledError:
            # It may be held all the same, and others would wait until that ends by itself.
            await see_through(self._let_go(name, holder))
            raise
        loop = asyncio.get_running_loop()
        limit = asyncio.timeout_at(loop.time() + SAFE_SECONDS)
        try:
            async with limit:
                renewal = asyncio.ensure_future(self._renew(name, holder, limit))
                try:
                    yield
                finally:
                    renewal.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await renewal
        except TimeoutError as error:
            if not limit.expired():
                raise
            what = "a lock could not be renewed"
            raise TimedOut(what, driver=NAME, path=_path(name)) from error
        finally:
            await see_through(self._let_go(name, holder))

    async def settled(self, name: str, *, wait: float) -> str:
        """See ``ObjectStore.settled``."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        pause, longest = _POLL_SECONDS
        while True:
            state = await self._read(name)
            if not state.exclusive:
                return state.etag
            if loop.time() >= deadline:
                raise Busy(driver=NAME, path=_path(name))
            await asyncio.sleep(pause)
            pause = min(pause * 2, longest)

    async def _acquire(self, name: str, holder: str, *, exclusive: bool, wait: float) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        pause, longest = _POLL_SECONDS
        is_refused = False
        while True:
            taken = (await self._read(name)).with_holder(holder, exclusive=exclusive)
            if taken is not None:
                try:
                    await self._write(name, taken)
                except Conflict:
                    is_refused = True
                except DriverError:
                    # As above.
                    await see_through(self._let_go(name, holder))
                    raise
                else:
                    return
            if loop.time() >= deadline:
                if is_refused:
                    # As above: the last of several tries may be refused because of the first.
                    await see_through(self._let_go(name, holder))
                raise Busy(driver=NAME, path=_path(name))
            await asyncio.sleep(pause)
            pause = min(pause * 2, longest)

    async def _renew(self, name: str, holder: str, limit: asyncio.Timeout) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_RENEWAL_SECONDS)
            began = loop.time()
            with contextlib.suppress(DriverError, Conflict):
                state = await self._read(name)
                if not state.is_held_by(holder):
                    return
                await self._write(name, state)
                limit.reschedule(began + SAFE_SECONDS)

    async def _let_go(self, name: str, holder: str) -> None:
        """Release a lock; what was done under it is done, whether or not that works."""
        try:
            await self._release(name, holder)
        except DriverError as error:
            logger.warning("a lock is held until that ends by itself: %s", error)

    async def _release(self, name: str, holder: str) -> None:
        for _ in range(8):
            state = await self._read(name)
            if not state.is_held_by(holder):
                return
            with contextlib.suppress(Conflict):
                await self._write(name, state.without(holder))
                return
        logger.warning(
            "a lock is held until that ends by itself: each write of %s was refused, as when "
            "something between us and the S3 server changes ETags",
            _path(name),
        )

    async def _read(self, name: str) -> _State:
        try:
            info, content = await self._client.get(_path(name))
        except PathNotFound:
            return _State()
        try:
            stored = json.loads(content)
            state = _State(info.etag, stored["exclusive"], frozenset(stored["shared"]))
        except (ValueError, KeyError, TypeError):
            return _State(info.etag)
        if info.age >= CLAIM_SECONDS:
            return _State(info.etag)
        return state

    async def _write(self, name: str, state: _State) -> None:
        await self._client.put(_path(name), (state.dump(),), instead_of=state.etag)


def _path(name: str) -> str:
    return f"{FOLDER}/{name}"
