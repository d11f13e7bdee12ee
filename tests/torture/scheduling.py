"""An event loop and threads whose order is decided by a die, so that a history can be had again.

One thread runs at a time: that of the event loop, or one of those that work for it. Whoever is
about to touch the disk first calls :meth:`Schedule.pause`, where the die says who goes on. Time
is a number that moves when somebody touches the disk, or when everybody waits.

A thread that waits for another one in a way that is not known here does not pause; after
``_PATIENCE`` the others go on without it, and the history may then differ from run to run.
"""

import asyncio
import random
import selectors
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple

from typing_extensions import override

Ts = TypeVarTuple("Ts")
T = TypeVar("T")

_PATIENCE = 0.05
_LONGEST = 30.0
_LONGEST_NAP = 600
_PACES = (1.0, 1.0, 1.0, 0.02)
"""How often threads go on, compared with each other: some are slow all the time."""

_PACE_OF_TIME = 0.1
_LONGEST_WAIT = 50_000


class Stuck(AssertionError):
    """Everybody waits for somebody else."""


class _Worker:
    """A thread that works for one event loop at a time."""

    def __init__(self) -> None:
        # Locks that nobody holds for long: released to signal, acquired to wait for the signal.
        self._go = threading.Lock()
        self._stopped = threading.Lock()
        self._go.acquire()
        self._stopped.acquire()
        self._job: Callable[[], None] = lambda: None
        self.is_done = False
        self.nap = 0
        self.pace = 1.0
        threading.Thread(target=self._run, daemon=True, name="scheduled").start()

    def begin(self, job: Callable[[], None], pace: float) -> None:
        """Take a job, to be done when this is resumed."""
        self._job = job
        self.pace = pace
        self.is_done = False
        self.nap = 0

    def resume(self) -> None:
        """Let the thread go on."""
        self._go.release()

    def has_stopped(self, patience: float) -> bool:
        """Wait for the thread to pause or to be done, and tell whether it did."""
        return self._stopped.acquire(timeout=patience)

    def pause(self) -> None:
        """Stop, in the thread, until it is resumed."""
        self._stopped.release()
        self._go.acquire()

    def _run(self) -> None:
        while True:
            self._go.acquire()
            _current.worker = self
            self._job()
            self.is_done = True
            self._stopped.release()


class _Current(threading.local):
    worker: _Worker | None = None


_current = _Current()
_idle: list[_Worker] = []


class Schedule:
    """Says who goes on, and what time it is.

    Args:
        die: Decides.
        now: The time at the start, in seconds.
    """

    def __init__(self, die: random.Random, now: float) -> None:
        self._die = die
        self._owner = threading.get_ident()
        self._paused: list[_Worker] = []
        self._unknown: list[_Worker] = []
        self._ends: dict[_Worker, Callable[[], None]] = {}
        self._turns = 0
        self.now = now

    def begin(self, job: Callable[[], None], then: Callable[[], None]) -> None:
        """Have a job done in a thread, and something called in the event loop's after it."""
        worker = _idle.pop() if _idle else _Worker()
        worker.begin(job, self._die.choice(_PACES))
        self._ends[worker] = then
        self._paused.append(worker)

    def pause(self, chance: float = 1.0, nap: float = 0.01) -> None:
        """Let others go on, if the die says so.

        Args:
            chance: How likely that is.
            nap: How likely it is that others then have much time.
        """
        if chance < 1.0 and self._die.random() > chance:
            return
        if _current.worker is not None:
            if self._die.random() < nap:
                _current.worker.nap = self._turns + self._die.randint(10, _LONGEST_NAP)
            _current.worker.pause()
        elif threading.get_ident() == self._owner:
            while self._die.random() < 0.4 and (worker := self._choose(may_wait=True)):
                self._step(worker)

    def turn(self, timeout: float | None) -> None:
        """Let threads go on where the event loop would wait for as long as ``timeout``."""
        self._collect(0)
        worker = self._choose(may_wait=timeout is not None)
        if worker is not None:
            self._step(worker)
        elif timeout is not None:
            # A little more: the event loop waits for what is due at this very moment.
            self.now += timeout + 1e-6
        elif self._unknown:
            self._collect(_LONGEST)
        else:
            raise Stuck("the event loop waits for ever")

    def finish(self) -> None:
        """Let all threads come to their end."""
        while self._ends:
            worker = self._choose(may_wait=False)
            if worker is not None:
                self._step(worker)
            else:
                self._collect(_LONGEST)

    def _choose(self, *, may_wait: bool) -> _Worker | None:
        """Return who goes on; None when nobody does, as time goes by first."""
        self._turns += 1
        workers: list[_Worker | None] = [
            worker for worker in self._paused if worker.nap <= self._turns or not may_wait
        ]
        paces = [worker.pace for worker in workers if worker is not None]
        if may_wait:
            workers.append(None)
            paces.append(_PACE_OF_TIME)
        return self._die.choices(workers, paces)[0] if workers else None

    def _step(self, worker: _Worker) -> None:
        self._paused.remove(worker)
        worker.resume()
        if worker.has_stopped(_PATIENCE):
            self._settle(worker)
        else:
            self._unknown.append(worker)

    def _collect(self, patience: float) -> None:
        """Look for threads that were waiting for others and no longer do."""
        for worker in list(self._unknown):
            if worker.has_stopped(patience):
                self._unknown.remove(worker)
                self._settle(worker)
                return
        if patience and self._unknown:
            raise Stuck("a thread waits for something that nobody does")

    def _settle(self, worker: _Worker) -> None:
        if not worker.is_done:
            self._paused.append(worker)
            return
        _idle.append(worker)
        self._ends.pop(worker)()


class Signal:
    """Stands in for ``threading.Event``: whoever waits for it lets others go on."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._is_set = False

    def set(self) -> None:
        """Let those who wait go on."""
        self._is_set = True

    def wait(self) -> None:
        """Wait until it is set.

        Raises:
            Stuck: Nobody sets it.
        """
        for _ in range(_LONGEST_WAIT):
            if self._is_set:
                return
            self._schedule.pause()
        raise Stuck("a thread waits for a signal that nobody gives")


class _Selector(selectors.SelectSelector):
    """Waits for nothing but the schedule."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self._schedule = schedule

    @override
    def select(self, timeout: float | None = None) -> list[Any]:
        self._schedule.turn(timeout)
        return []


class ScheduledLoop(asyncio.SelectorEventLoop):
    """An event loop that shares one thread of execution with the threads that work for it."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        super().__init__(_Selector(schedule))

    @override
    def time(self) -> float:
        return self._schedule.now

    @override
    def run_in_executor(  # whichever executor it is, the threads are ours
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self.create_future()
        outcome: list[Callable[[], None]] = []

        def job() -> None:
            try:
                result = func(*args)
            except BaseException as error:  # noqa: BLE001 -- whoever waits for it gets it
                reason = error
                outcome.append(lambda: future.set_exception(reason))
            else:
                outcome.append(lambda: future.set_result(result))

        def then() -> None:
            if not future.cancelled():
                outcome[0]()

        self._schedule.begin(job, then)
        return future


class InlineLoop(asyncio.SelectorEventLoop):
    """An event loop that does at once what others would do in a thread."""

    @override
    def run_in_executor(  # as above
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except OSError as error:
            future.set_exception(error)
        return future


def run_scheduled(schedule: Schedule, work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on an event loop of the schedule's."""
    loop = ScheduledLoop(schedule)
    try:
        return loop.run_until_complete(work)
    finally:
        schedule.finish()
        loop.close()
