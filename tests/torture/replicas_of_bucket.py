"""Replicas of the registry over one bucket, whose requests to it interleave as a die says.

Every request travels to the server, has its effect at one moment, and travels back, all in a
time that only the event loop knows. On its way an answer may be lost, and at any moment a replica
may die: whatever it still wants to do has no effect, and clients go on with another one.
"""

import asyncio
import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import aiohttp
from typing_extensions import override

from alauda_registry.storage.driver import Busy, DriverError, Unreachable
from alauda_registry.storage.drivers.s3 import appending, parts
from alauda_registry.storage.drivers.s3.client import S3Client
from alauda_registry.storage.drivers.s3.credentials import GivenKeys
from alauda_registry.storage.drivers.s3.driver import S3Driver, S3Options
from alauda_registry.storage.drivers.s3.signing import Keys
from alauda_registry.storage.drivers.s3.transport import Answer, Request, Transport
from alauda_registry.storage.repositories import Registry, StorageOptions
from tests.parts.fake_bucket import BUCKET, FakeBucket, FakeTransport, Stored
from tests.torture.clients import SECRET, Claim, Clients

SMALLEST_PART = 16 * 1024
"""Parts are that small here, so that small blobs have several."""

_TYPICAL_SECONDS = 0.02
_STALLED_SECONDS = (1.0, 60.0)


@dataclass(frozen=True, slots=True)
class Trouble:
    """How likely it is, for each request, that something goes wrong.

    Attributes:
        lost: The answer is lost after the effect.
        refused: The connection breaks before it.
        stalled: It takes long, there or back.
        deadly: The replica dies with it, before or after the effect.
    """

    lost: float = 0.0
    refused: float = 0.0
    stalled: float = 0.0
    deadly: float = 0.0


NO_TROUBLE = Trouble()


@dataclass(slots=True)
class Replica:
    """One process, which lives until it does not."""

    number: int
    is_alive: bool = True


class TroubledTransport(FakeTransport):
    """Leads a replica to the bucket, through all that may happen on the way.

    Args:
        bucket: Where it leads.
        replica: Whose it is.
        die: Decides.
        trouble: How often.
    """

    def __init__(
        self, bucket: FakeBucket, replica: Replica, die: random.Random, trouble: Trouble
    ) -> None:
        super().__init__(bucket)
        self._replica = replica
        self._die = die
        self._trouble = trouble

    @override
    async def send(self, request: Request) -> Answer:
        trouble, chance = self._trouble, self._die.random
        await self._travel()
        if chance() < trouble.deadly / 2:
            self._replica.is_alive = False
        self._require_alive()
        if chance() < trouble.refused:
            raise aiohttp.ServerDisconnectedError
        answer = self._bucket.handle(request)
        if chance() < trouble.deadly / 2:
            self._replica.is_alive = False
        await self._travel()
        self._require_alive()
        if chance() < trouble.lost:
            raise aiohttp.ServerDisconnectedError
        return answer

    async def _travel(self) -> None:
        seconds = self._die.expovariate(1 / _TYPICAL_SECONDS)
        if self._die.random() < self._trouble.stalled:
            seconds = self._die.uniform(*_STALLED_SECONDS)
        await asyncio.sleep(seconds)

    def _require_alive(self) -> None:
        if not self._replica.is_alive:
            raise ConnectionResetError("this process is no more")


def driver_over(transport: Transport) -> S3Driver:
    """Return a driver whose parts are small, as :func:`small_parts` lets them be."""
    client = S3Client(transport, BUCKET, GivenKeys(Keys("key", "secret")))
    return S3Driver(client, S3Options(redirect=False, part_size=SMALLEST_PART))


@contextlib.contextmanager
def small_parts() -> Iterator[None]:
    """Let the driver take small parts for large enough, as the fake bucket does."""
    smallest = parts.SMALLEST
    try:
        for module in (parts, appending):
            vars(module)["SMALLEST"] = SMALLEST_PART
        yield
    finally:
        for module in (parts, appending):
            vars(module)["SMALLEST"] = smallest


@dataclass(slots=True)
class Past:
    """What the bucket held after each effect.

    Attributes:
        effects: The requests that had them, in their order.
        states: What there was after each.
    """

    bucket: FakeBucket
    effects: list[Request] = field(default_factory=list)
    states: list[dict[str, Stored]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.bucket.on_effect = self._note

    def _note(self, request: Request) -> None:
        self.effects.append(request)
        self.states.append(dict(self.bucket.objects))


class Replicas:
    """Keeps some replicas alive: whoever asks for one that died gets another in its place.

    Args:
        bucket: What they share.
        count: How many.
        die: Decides what happens to their requests.
        trouble: How often.
    """

    def __init__(
        self, bucket: FakeBucket, count: int, die: random.Random, trouble: Trouble
    ) -> None:
        self._bucket = bucket
        self._die = die
        self._trouble = trouble
        self._all: list[tuple[Replica, Registry]] = []
        self._current = [self._start(number) for number in range(count)]

    @property
    def deaths(self) -> int:
        """How many have died so far, whether anybody has asked for them since or not."""
        return sum(not replica.is_alive for replica, _ in self._all)

    def __len__(self) -> int:
        return len(self._current)

    def __getitem__(self, number: int) -> Registry:
        replica, registry = self._current[number]
        if not replica.is_alive:
            replica, registry = self._current[number] = self._start(number)
        return registry

    def _start(self, number: int) -> tuple[Replica, Registry]:
        replica = Replica(number)
        transport = TroubledTransport(self._bucket, replica, self._die, self._trouble)
        started = replica, Registry(driver_over(transport), StorageOptions())
        self._all.append(started)
        return started

    async def aclose(self) -> None:
        """End those that are alive in good order, and the others as well."""
        for _, registry in self._all:
            with contextlib.suppress(DriverError):
                await registry.aclose()


class BucketClients(Clients):
    """Clients who may be told that the storage is out of reach, and then know nothing."""

    patience = 30
    bearable = (Busy, Unreachable)

    @override
    async def learn_secret(self, process: int) -> None:
        """Do so however often a process has to be started for that."""
        async with self.operation("learn the secret", Claim(SECRET, None)) as operation:
            while True:
                with contextlib.suppress(Busy, Unreachable):
                    secret = await self._registries[process % len(self._registries)].secret()
                    break
            operation.claims[:] = [Claim(SECRET, secret.hex())]
