"""Whether a history of a register could have happened one operation at a time.

A register holds a value or nothing. Clients write, remove and read it at the same time, and each
operation takes effect at some moment between its invocation and its answer. A history is
linearizable when such moments can be found for all of its operations at once: then nobody saw
anything stale, and nothing that was acknowledged was lost.

The search goes along the events of the history and carries every configuration that can explain
it so far. When an operation is answered, what can't have seen it take effect is left out; when no
configuration is left, nothing explains the history (Lowe, "Testing for linearizability", with
Wing and Gong's search between two answers).

What such a search costs grows fast with the number of writes under way at a time, so it does not
try the orders that make no difference. A write may take effect right before the next one, where
nobody sees it. So as soon as any write takes effect, all others under way are *satisfied*: they
may have done so unseen, and may still do so later, until they are *used*. A removal of a value
that is not there is satisfied in the same way. Of two configurations that hold the same, the one
with more satisfied and less used can do all that the other can, which is therefore dropped.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from typing_extensions import override

Value = str | None
"""What a register holds; None is nothing."""


class Kind(Enum):
    """What an operation does to a register, or says about it."""

    WRITE = "write"
    """Lets it hold the value."""
    REMOVE = "remove"
    """Empties it; it was not empty."""
    REMOVE_IF = "remove if"
    """Empties it if it holds the value."""
    READ = "read"
    """It holds the value, or nothing when that is None."""
    READ_SOME = "read some"
    """It holds something."""
    READ_OTHER = "read other than"
    """It does not hold the value."""


_LOOKS = frozenset({Kind.READ, Kind.READ_SOME, Kind.READ_OTHER})


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation on one register.

    Attributes:
        began: When it was invoked.
        ended: When it was answered, or when it can no longer take effect.
        kind: What it does or says.
        value: What it does that with.
        is_certain: Whether it was acknowledged. One that was not may have happened.
        note: Who did it and where, for whoever reads a failure.
        shows: What a write may let the register hold before its effect, any number of times and in
            any order.
        shows_from: From when on.
    """

    began: float
    ended: float
    kind: Kind
    value: Value = None
    is_certain: bool = True
    note: str = ""
    shows: frozenset[Value] = frozenset()
    shows_from: float = 0.0

    @override
    def __str__(self) -> str:
        doubt = "" if self.is_certain else " (not acknowledged)"
        doubt += f" (shows from {self.shows_from:.6f} on)" if self.shows else ""
        value = "" if self.value is None and self.kind is not Kind.READ else f" {self.value}"
        return f"{self.began:.6f} {self.ended:.6f} {self.kind.value}{value}{doubt} {self.note}"


@dataclass(frozen=True, slots=True)
class Contradiction:
    """An operation that nothing explains.

    Attributes:
        operation: The first one whose answer can't be.
        held: What the register could hold when it was answered, had it not been for it.
        before: The operations that were under way at the same time, and the last ones before.
    """

    operation: Operation
    held: frozenset[Value]
    before: tuple[Operation, ...]

    @override
    def __str__(self) -> str:
        held = ", ".join(sorted(str(value) for value in self.held))
        lines = [f"nothing explains: {self.operation}", f"it could hold only: {held}", "after:"]
        return "\n  ".join([*lines, *map(str, self.before)])


class Result(NamedTuple):
    """What a check found.

    Attributes:
        contradiction: Why the history is not linearizable; None when it is.
        final: What the register may hold at the end.
    """

    contradiction: Contradiction | None
    final: frozenset[Value]


_SHOWN = 12


def check(history: Iterable[Operation], initial: Iterable[Value] = (None,)) -> Result:
    """Tell whether a history is linearizable.

    Args:
        history: The operations on one register, in any order.
        initial: What it may hold at the beginning.
    """
    operations = sorted(history, key=lambda operation: operation.began)
    search = _Search(initial)
    # At equal times an invocation comes first: the two may have overlapped.
    events = [(operation.began, 0, number) for number, operation in enumerate(operations)]
    events += [(operation.ended, 1, number) for number, operation in enumerate(operations)]
    for _, is_answer, number in sorted(events):
        if not is_answer:
            search.begin(number, operations[number])
        elif not search.end(number):
            return Result(_contradiction(operations, number, search), frozenset())
    return Result(None, frozenset(search.configurations.held()))


class _Configuration(NamedTuple):
    """What can explain a history so far; operations under way are bits."""

    held: Value
    satisfied: int
    used: int


class _Configurations:
    """Those of the configurations that no other one can stand in for."""

    def __init__(self, found: Iterable[_Configuration] = ()) -> None:
        self._by_value: dict[Value, list[_Configuration]] = {}
        for configuration in found:
            self.add(configuration)

    def __iter__(self) -> Iterator[_Configuration]:
        for known in self._by_value.values():
            yield from known

    def held(self) -> Iterable[Value]:
        return self._by_value.keys()

    def add(self, new: _Configuration) -> bool:
        """Add one, and tell whether it was worth it."""
        known = self._by_value.setdefault(new.held, [])
        for old in known:
            if not new.satisfied & ~old.satisfied and not old.used & ~new.used:
                return False
        known[:] = [old for old in known if old.satisfied & ~new.satisfied or new.used & ~old.used]
        known.append(new)
        return True


class _Search:
    """The configurations that explain a history so far."""

    def __init__(self, initial: Iterable[Value]) -> None:
        self.configurations = _Configurations(_Configuration(value, 0, 0) for value in initial)
        self._bits: dict[int, int] = {}
        self._under_way: dict[int, Operation] = {}
        self._writes = 0
        self._free: list[int] = []

    def begin(self, number: int, operation: Operation) -> None:
        bit = self._free.pop() if self._free else 1 << len(self._under_way)
        self._bits[number] = bit
        self._under_way[bit] = operation
        if operation.kind is Kind.WRITE:
            self._writes |= bit
        self.configurations = _Configurations(
            found._replace(satisfied=found.satisfied | bit)
            if not operation.is_certain or _is_satisfied(operation, found.held)
            else found
            for found in self.configurations
        )

    def end(self, number: int) -> bool:
        """Keep what explains an answer, and tell whether anything does."""
        bit = self._bits.pop(number)
        explained = self._explained(bit, self._under_way[bit].ended)
        del self._under_way[bit]
        self._writes &= ~bit
        self._free.append(bit)
        left = [
            _Configuration(held, satisfied & ~bit, used & ~bit)
            for held, satisfied, used in explained
        ]
        if left:
            self.configurations = _Configurations(left)
        return bool(left)

    def _explained(self, wanted: int, now: float) -> list[_Configuration]:
        """Let operations take effect, in any order, until the wanted one is over."""
        explained = []
        is_look = self._under_way[wanted].kind in _LOOKS
        seen = _Configurations()
        pending = list(self.configurations)
        while pending:
            found = pending.pop()
            if found.satisfied & wanted:
                explained.append(found)
                # One that may have gone unseen may also take effect now, for the last time.
                if is_look or found.used & wanted:
                    continue
            for bit, operation in self._under_way.items():
                if found.used & bit:
                    continue
                reached = list(self._before(found, bit, operation, now))
                if (after := self._after(found, bit, operation)) is not None:
                    reached.append(after)
                pending += filter(seen.add, reached)
        return explained

    def _after(
        self, found: _Configuration, bit: int, operation: Operation
    ) -> _Configuration | None:
        """Let an operation take effect; None when it can't, or changes nothing."""
        match operation.kind:
            case Kind.WRITE:
                held = operation.value
            case Kind.REMOVE if found.held is not None:
                held = None
            case Kind.REMOVE_IF if found.held == operation.value:
                held = None
            case _:
                return None
        satisfied = found.satisfied | bit
        if operation.kind is not Kind.REMOVE_IF:
            satisfied |= self._writes
        return self._look(_Configuration(held, satisfied, found.used | bit))

    def _before(
        self, found: _Configuration, bit: int, operation: Operation, now: float
    ) -> Iterator[_Configuration]:
        """Yield what a write may let it hold for a while; its effect is still to come."""
        if operation.shows_from > now:
            return
        for held in operation.shows:
            satisfied = found.satisfied | self._writes
            if operation.is_certain and held != operation.value:
                satisfied &= ~bit
            yield self._look(_Configuration(held, satisfied, found.used))

    def _look(self, found: _Configuration) -> _Configuration:
        """Let those look who are about to."""
        satisfied = found.satisfied
        for bit, operation in self._under_way.items():
            if not satisfied & bit and _is_satisfied(operation, found.held):
                satisfied |= bit
        return found._replace(satisfied=satisfied)


def _is_satisfied(operation: Operation, held: Value) -> bool:
    """Tell whether an operation can be over without a change while the register holds this."""
    match operation.kind:
        case Kind.READ:
            return held == operation.value
        case Kind.READ_SOME:
            return held is not None
        case Kind.READ_OTHER | Kind.REMOVE_IF:
            return held != operation.value
        case _:
            return False


def _contradiction(operations: Sequence[Operation], number: int, search: _Search) -> Contradiction:
    refuted = operations[number]
    known = [found for found in operations if found.began <= refuted.ended and found is not refuted]
    overlapping = [found for found in known if found.ended >= refuted.began]
    before = [found for found in known if found.ended < refuted.began]
    before.sort(key=lambda operation: operation.ended)
    shown = (*before[-_SHOWN:], *overlapping)
    return Contradiction(refuted, frozenset(search.configurations.held()), shown)
