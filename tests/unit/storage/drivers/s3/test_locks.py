"""What a process leaves locked in a bucket when it dies, and how long others wait for it."""

import asyncio
import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest
from typing_extensions import override

from alauda_registry.oci.reference import RepositoryName
from alauda_registry.storage import locks
from alauda_registry.storage.driver import Busy, StorageDriver
from alauda_registry.storage.drivers.s3.client import S3Client
from alauda_registry.storage.drivers.s3.credentials import GivenKeys
from alauda_registry.storage.drivers.s3.driver import S3Driver
from alauda_registry.storage.drivers.s3.signing import Keys
from alauda_registry.storage.drivers.s3.transport import Answer, Request
from tests.parts.fake_bucket import BUCKET, FakeBucket, FakeTransport
from tests.torture.scheduling import Schedule, run_scheduled

NAME = RepositoryName("team/app")

Lock = Callable[[StorageDriver, str], AbstractAsyncContextManager[None]]


class Times:
    """A bucket whose time is the event loop's, which moves when everybody waits."""

    def __init__(self, now: float) -> None:
        self.schedule = Schedule(random.Random(0), now)
        self.bucket = FakeBucket(lambda: self.schedule.now)
        self.driver = self.driver_over(FakeTransport(self.bucket))

    def driver_over(self, transport: FakeTransport) -> S3Driver:
        return S3Driver(S3Client(transport, BUCKET, GivenKeys(Keys("key", "secret"))))

    async def leave_locked(self, lock: Lock) -> None:
        """Hold a lock as a process does that dies at this moment."""
        async with lock(self.driver, NAME):
            held = dict(self.bucket.objects)
        for key, stored in held.items():
            self.bucket.put(key, stored.content)

    async def renew(self) -> None:
        """Do what its last renewal did."""
        for key, stored in list(self.bucket.objects.items()):
            self.bucket.put(key, stored.content, stored.etag)


class Weakening(FakeTransport):
    """A server before which something makes the ETags weak, so that no condition is ever met."""

    @override
    async def send(self, request: Request) -> Answer:
        answer = await super().send(request)
        headers = dict(answer.headers)
        if "etag" in headers:
            headers["etag"] = f"W/{headers['etag']}"
        return Answer(answer.status, headers, answer.body)


class Untold(FakeTransport):
    """A server whose answer to a write is lost, and somebody else writes before the next try.

    Attributes:
        joins: Whether that happens to the next write.
    """

    joins = False

    @override
    async def send(self, request: Request) -> Answer:
        answer = await super().send(request)
        if request.method == "PUT" and self.joins:
            self.joins = False
            # As a renewal does.
            stored = self._bucket.objects[request.key]
            self._bucket.put(request.key, stored.content + b" ")
            raise TimeoutError
        return answer


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("renewed_after", [0.0, 8.0])
@pytest.mark.parametrize("lock", [locks.deleting, locks.deleting_manifest])
def test_whoever_waits_outlasts_one_that_died(
    lock: Lock, renewed_after: float, fraction: float
) -> None:
    times = Times(1_700_000_000.0 + fraction)

    async def wait() -> None:
        async with lock(times.driver, NAME):
            pass

    async def work() -> None:
        await times.leave_locked(lock)
        waiting = asyncio.ensure_future(wait())
        await asyncio.sleep(renewed_after)
        await times.renew()
        await waiting

    run_scheduled(times.schedule, work())


@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.99])
def test_a_push_outlasts_a_deletion_that_died(fraction: float) -> None:
    times = Times(1_700_000_000.0 + fraction)

    async def work() -> None:
        await times.leave_locked(locks.deleting_manifest)
        await locks.deletions(times.driver, NAME)

    run_scheduled(times.schedule, work())


@pytest.mark.parametrize("wait", [0, 5])
def test_a_lock_that_can_never_be_changed_is_waited_for_no_longer_than_asked(
    wait: float, caplog: pytest.LogCaptureFixture
) -> None:
    times = Times(1_700_000_000.0)
    driver = times.driver_over(Weakening(times.bucket))

    async def work() -> None:
        async with driver.lock("some", exclusive=True, wait=0):
            pass
        assert "each write of /_driver/locks/some was refused" in caplog.text
        # Which was not let go, but is nobody's any more.
        await asyncio.sleep(60)
        began = asyncio.get_running_loop().time()
        with pytest.raises(Busy):
            async with driver.lock("some", exclusive=True, wait=wait):
                pass
        assert wait <= asyncio.get_running_loop().time() - began < wait + 1

    run_scheduled(times.schedule, work())


def test_one_that_is_taken_without_an_answer_and_then_busy_is_given_up() -> None:
    times = Times(1_700_000_000.0)
    transport = Untold(times.bucket)
    driver = times.driver_over(transport)

    async def work() -> None:
        async with times.driver.lock("some", exclusive=False, wait=0):
            transport.joins = True
            with pytest.raises(Busy):
                async with driver.lock("some", exclusive=False, wait=0):
                    pass
        async with times.driver.lock("some", exclusive=True, wait=0):
            pass

    run_scheduled(times.schedule, work())


def test_one_that_lives_is_waited_for_no_longer_than_that() -> None:
    times = Times(1_700_000_000.0)

    async def work() -> None:
        async with locks.deleting(times.driver, NAME):
            began = asyncio.get_running_loop().time()
            with pytest.raises(Busy):
                async with locks.deleting(times.driver, NAME):
                    pass
            assert asyncio.get_running_loop().time() - began < locks.WAIT_SECONDS + 1

    run_scheduled(times.schedule, work())
