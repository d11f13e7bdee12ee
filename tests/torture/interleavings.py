"""Every order in which the requests of a few clients can reach a bucket, one run for each.

One request happens at a time, and its answer is there at once: an answer that takes longer only
lets more happen before the next request, which is another order. After every effect somebody looks
who sees all of the bucket at one moment, which is more than any client does.

Orders that differ only in what nobody can tell apart are run once (sleep sets, after Godefroid,
"Partial-Order Methods for the Verification of Concurrent Systems").
"""

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from typing_extensions import override

from alauda_registry.storage.drivers.s3.transport import Answer, Request
from alauda_registry.storage.repositories import Registry
from tests.parts.fake_bucket import FakeBucket, FakeTransport
from tests.torture import histories
from tests.torture.bucket_proof import Objects, hollow_tags, start
from tests.torture.clients import HERE, Claim, Clients, Key, Operation, Outcome, Value
from tests.torture.histories import Thing
from tests.torture.linearizability import Kind
from tests.torture.programs import VERBS, Action
from tests.torture.replicas_of_bucket import SMALLEST_PART, Past, driver_over
from tests.torture.scheduling import Schedule, run_scheduled

_NOW = 1_700_000_000.0
_LINKS = "/_manifests/"
_LOCKS = "_driver/locks/"
_TURN = 1e-6
"""Between two questions and answers at least; effects are one apart."""
_LOOK = 0.9

Name = tuple[int, int]
"""A request: of which client, and which of its requests."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A request on its way to the bucket."""

    name: Name
    request: Request
    arrived: asyncio.Future[None]

    @property
    def is_read(self) -> bool:
        return self.request.method in {"GET", "HEAD"}

    @property
    def place(self) -> str:
        """Where in the bucket it has an effect, or what a list is asked of."""
        return self.request.key or self.request.query["prefix"]

    def matters_to(self, other: "_Waiting") -> bool:
        """Tell whether it makes a difference to somebody which of two requests is first."""
        if self.is_read and other.is_read:
            return False
        if self.place.startswith(other.place) or other.place.startswith(self.place):
            return True
        # A tag is absent without its manifest, and only who looks at both sees in which order they
        # came. Who has looked at a lock may be answered, and whatever happens to links is later.
        return all(one.is_lock or (one.is_link and not one.is_read) for one in (self, other)) and (
            self.kind != other.kind
        )

    @property
    def is_lock(self) -> bool:
        return self.place.startswith(_LOCKS)

    @property
    def is_link(self) -> bool:
        return _LINKS in self.place

    @property
    def kind(self) -> str:
        """What sort of thing it is about: a lock, a tag or a manifest."""
        return _LOCKS if self.is_lock else self.place.partition(_LINKS)[2].partition("/")[0]


Choose = Callable[[Sequence[_Waiting]], _Waiting]


class _Turns(Schedule):
    """Lets one request happen whenever everybody waits; time goes by when none is waiting."""

    def __init__(self, choose: Choose) -> None:
        super().__init__(random.Random(0), _NOW)
        self._choose_request = choose
        self.waiting: list[_Waiting] = []

    @override
    def turn(self, timeout: float | None) -> None:
        if timeout == 0:
            return
        if not self.waiting:
            super().turn(timeout)
            return
        chosen = self._choose_request(self.waiting)
        self.waiting.remove(chosen)
        chosen.arrived.set_result(None)


class _TurnsTransport(FakeTransport):
    """Leads one client's replica to the bucket, when it is its turn."""

    def __init__(self, bucket: FakeBucket, turns: _Turns, number: int) -> None:
        super().__init__(bucket)
        self._turns = turns
        self._number = number
        self._count = 0

    @override
    async def send(self, request: Request) -> Answer:
        self._count += 1
        arrived = asyncio.get_running_loop().create_future()
        self._turns.waiting.append(_Waiting((self._number, self._count), request, arrived))
        await arrived
        return self._bucket.handle(request)


@dataclass(slots=True)
class Run:
    """What happened in one order.

    Attributes:
        start: What there was before.
        known: What was known of that.
        past: What the bucket held after each effect.
        operations: What was asked for, and answered.
        failures: What no client should be told.
        order: The requests, for whoever reads a failure.
    """

    start: Objects
    known: dict[Key, Value]
    past: Past
    operations: list[Operation]
    failures: list[str]
    order: list[str]

    def reasons(self) -> list[str]:
        """Return what no registry that does one thing after the other would have said."""
        history = self._history()
        before = {
            histories.Key(Thing(thing), *rest): frozenset({value})
            for (thing, *rest), value in self.known.items()
        }
        return [*self.failures, *self._left(), *history.check(before).reasons()]

    def _left(self) -> list[str]:
        """Return the tags that are listed at the end and read as absent: everybody lives."""
        hollow = hollow_tags(self.past.states[-1] if self.past.states else self.start)
        return [f"{' '.join(tag)} is listed and leads nowhere" for tag in hollow.values()]

    def _history(self) -> histories.History:
        history = histories.History(writes_again=True)
        for operation in self.operations:
            assert operation.ended is not None
            assert operation.last_turn is not None
            ended = _moment(operation.ended, operation.last_turn)
            is_known = operation.outcome is not Outcome.NOTHING
            tell = history.acknowledged if is_known else history.attempted
            claims = [_claim(claim, operation.outcome) for claim in operation.claims]
            tell(operation.name, _moment(operation.begun, operation.turn), ended, claims)
        keys = {claim.key for operation in self.operations for claim in operation.claims}
        for number, state in enumerate([self.start, *self.past.states]):
            seen = [
                histories.Claim(histories.Key(Thing(thing), *rest), Kind.READ, value)
                for (thing, *rest), value in _look(state, keys)
            ]
            history.acknowledged(f"after {number}", number + _LOOK, number + _LOOK, seen)
        return history


def _moment(effects: int, turn: int) -> float:
    return effects + turn * _TURN


def _claim(claim: Claim, outcome: Outcome) -> histories.Claim:
    thing, *rest = claim.key
    key = histories.Key(Thing(thing), *rest)
    if outcome is Outcome.REFUSED:
        if claim.only_if is not None:
            return histories.Claim(key, Kind.READ_OTHER, claim.only_if)
        return histories.Claim(key, Kind.READ, None)
    if claim.value is not None:
        return histories.Claim(key, Kind.WRITE, claim.value)
    if claim.only_if is not None:
        return histories.Claim(key, Kind.REMOVE_IF, claim.only_if)
    return histories.Claim(key, Kind.REMOVE)


def _look(state: Objects, keys: set[Key]) -> Iterator[tuple[Key, Value]]:
    """Yield what a bucket says of some tags and manifests; a tag that leads nowhere is absent."""
    hollow = hollow_tags(state)
    for key in keys:
        thing, name, what = key
        folder = f"docker/registry/v2/repositories/{name}/_manifests"
        if thing == "tag":
            path = f"{folder}/tags/{what}/current/link"
            is_there = path in state and path not in hollow
            yield key, state[path].content.decode() if is_there else None
        elif thing == "manifest":
            path = f"{folder}/revisions/{what.replace(':', '/')}/link"
            yield key, HERE if path in state else None


def run(number: int, clients: Sequence[Sequence[Action]], choose: Choose) -> Run:
    """Let each client do what it wants at a replica of its own, in an order that is chosen."""
    objects, known = start(number)
    order: list[str] = []

    def chosen(waiting: Sequence[_Waiting]) -> _Waiting:
        one = choose(waiting)
        place = one.request.key or f"list {one.request.query.get('prefix')}"
        order.append(f"client {one.name[0]}: {one.request.method} {place}")
        return one

    turns = _Turns(chosen)
    bucket = FakeBucket(lambda: turns.now, smallest_part=SMALLEST_PART)
    bucket.objects.update(objects)
    past = Past(bucket)
    replicas = [
        Registry(driver_over(_TurnsTransport(bucket, turns, client)))
        for client in range(len(clients))
    ]
    talking = Clients(replicas, past)

    async def act(client: int) -> None:
        for action in clients[client]:
            await VERBS[action.verb](talking, client, action)

    async def work() -> None:
        async with asyncio.TaskGroup() as group:
            for client in range(len(clients)):
                group.create_task(act(client))

    run_scheduled(turns, work())
    return Run(objects, known, past, talking.operations, talking.failures, order)


@dataclass(slots=True)
class _Fork:
    """Where one of several requests may be the next.

    Attributes:
        ready: Those that may.
        asleep: Those that need not be tried: that was done before, to the same end.
        tried: Those that were tried here.
        current: The one that is being tried.
    """

    ready: dict[Name, _Waiting]
    asleep: dict[Name, _Waiting]
    tried: dict[Name, _Waiting] = field(default_factory=dict)
    current: Name | None = None

    def go_on(self) -> bool:
        """Turn to the next one that is worth it, and tell whether there is one."""
        if self.current is not None:
            self.tried[self.current] = self.ready[self.current]
        left = self.ready.keys() - self.tried.keys() - self.asleep.keys()
        self.current = min(left, default=None)
        return self.current is not None

    def asleep_behind(self) -> dict[Name, _Waiting]:
        """Return those that need not be tried after the current one either."""
        assert self.current is not None
        now = self.ready[self.current]
        known = self.asleep | self.tried
        return {name: one for name, one in known.items() if not one.matters_to(now)}


def every_order(number: int, clients: Sequence[Sequence[Action]]) -> Iterator[Run]:
    """Run clients in every order that makes a difference to somebody."""
    path: list[_Fork] = []
    depth, is_new = 0, True

    def choose(waiting: Sequence[_Waiting]) -> _Waiting:
        nonlocal depth, is_new
        ready = {one.name: one for one in waiting}
        if not is_new:
            return waiting[0]
        if depth == len(path):
            path.append(_Fork(ready, path[-1].asleep_behind() if path else {}))
            if not path[-1].go_on():
                # All that follows was run before.
                path.pop()
                is_new = False
                return waiting[0]
        name = path[depth].current
        depth += 1
        assert name is not None
        return ready[name]

    while True:
        depth, is_new = 0, True
        done = run(number, clients, choose)
        if is_new:
            yield done
        while path and not path[-1].go_on():
            path.pop()
        if not path:
            return


def any_order(number: int, clients: Sequence[Sequence[Action]], seed: int) -> Run:
    """Run clients in an order that follows from a number."""
    die = random.Random(seed)
    return run(number, clients, die.choice)
