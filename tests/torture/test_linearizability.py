"""The checker of histories accepts what could have happened, and nothing else."""

import random
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings, strategies as st

from tests.torture.linearizability import Contradiction, Kind, Operation, Value, check

WRITE, REMOVE, REMOVE_IF = Kind.WRITE, Kind.REMOVE, Kind.REMOVE_IF
READ, READ_SOME, READ_OTHER = Kind.READ, Kind.READ_SOME, Kind.READ_OTHER


def certain(began: float, ended: float, kind: Kind, value: Value = None) -> Operation:
    return Operation(began, ended, kind, value)


def maybe(began: float, ended: float, kind: Kind, value: Value = None) -> Operation:
    return Operation(began, ended, kind, value, is_certain=False)


def shows(
    began: float, ended: float, *values: Value, since: float = 0, value: Value = "a"
) -> Operation:
    shown = frozenset(values)
    return Operation(began, ended, WRITE, value, shows=shown, shows_from=since)


POSSIBLE = {
    "nothing happens": [],
    "what was written is read": [certain(0, 1, WRITE, "a"), certain(2, 3, READ, "a")],
    "a write is read while it is under way": [
        certain(0, 5, WRITE, "a"),
        certain(1, 2, READ, "a"),
    ],
    "a write is not read yet while it is under way": [
        certain(0, 5, WRITE, "a"),
        certain(1, 2, READ),
        certain(3, 4, READ, "a"),
    ],
    "two writes at a time end in either order": [
        certain(0, 5, WRITE, "a"),
        certain(1, 4, WRITE, "b"),
        certain(6, 7, READ, "a"),
    ],
    "a removal empties": [
        certain(0, 1, WRITE, "a"),
        certain(2, 3, REMOVE),
        certain(4, 5, READ),
    ],
    "a removal comes between two readers": [
        certain(0, 1, WRITE, "a"),
        certain(2, 9, REMOVE),
        certain(3, 4, READ, "a"),
        certain(5, 6, READ),
    ],
    "a removal of another value changes nothing": [
        certain(0, 1, WRITE, "a"),
        certain(2, 3, REMOVE_IF, "b"),
        certain(4, 5, READ, "a"),
    ],
    "a removal of the value empties": [
        certain(0, 1, WRITE, "a"),
        certain(2, 3, REMOVE_IF, "a"),
        certain(4, 5, READ),
    ],
    "a write that was not acknowledged happened": [
        maybe(0, 1, WRITE, "a"),
        certain(2, 3, READ, "a"),
    ],
    "a write that was not acknowledged did not happen": [
        maybe(0, 1, WRITE, "a"),
        certain(2, 3, READ),
    ],
    "a removal that was not acknowledged happened": [
        certain(0, 1, WRITE, "a"),
        maybe(2, 3, REMOVE),
        certain(4, 5, READ),
    ],
    "a write whose end nobody knows happens late": [
        maybe(0, float("inf"), WRITE, "a"),
        certain(1, 2, READ),
        certain(3, 4, READ, "a"),
    ],
    "something and another are what was written": [
        certain(0, 1, WRITE, "a"),
        certain(2, 3, READ_SOME),
        certain(2, 3, READ_OTHER, "b"),
    ],
    "what shows before a write comes and goes and comes": [
        shows(0, 9, "a", None),
        certain(1, 2, READ, "a"),
        certain(3, 4, READ),
        certain(5, 6, READ, "a"),
        certain(7, 8, READ),
        certain(10, 11, READ, "a"),
    ],
    "what shows before a write is removed": [
        shows(0, 9, "a"),
        certain(1, 2, READ, "a"),
        certain(3, 4, REMOVE),
        certain(5, 6, READ),
        certain(7, 8, READ, "a"),
    ],
    "an answer and a question at the same moment overlap": [
        certain(0, 1, WRITE, "a"),
        certain(1, 2, WRITE, "b"),
        certain(3, 4, READ, "a"),
    ],
}

IMPOSSIBLE = {
    "nobody wrote what is read": [certain(0, 1, READ, "a")],
    "what was acknowledged is missed": [certain(0, 1, WRITE, "a"), certain(2, 3, READ)],
    "an old value is read after a new one was acknowledged": [
        certain(0, 1, WRITE, "a"),
        certain(2, 3, WRITE, "b"),
        certain(4, 5, READ, "a"),
    ],
    "a value is read before it is written": [
        certain(0, 1, READ, "a"),
        certain(2, 3, WRITE, "a"),
    ],
    "the old value is read after the new one, while it is being written": [
        certain(0, 1, WRITE, "a"),
        certain(2, 9, WRITE, "b"),
        certain(3, 4, READ, "b"),
        certain(5, 6, READ, "a"),
    ],
    "what was removed is read": [
        certain(0, 1, WRITE, "a"),
        certain(2, 3, REMOVE),
        certain(4, 5, READ, "a"),
    ],
    "what was removed by value is read": [
        certain(0, 1, WRITE, "a"),
        certain(2, 3, REMOVE_IF, "a"),
        certain(4, 5, READ_SOME),
    ],
    "one value is removed twice": [
        certain(0, 1, WRITE, "a"),
        certain(2, 5, REMOVE),
        certain(3, 6, REMOVE),
    ],
    "nothing is removed": [certain(0, 1, REMOVE)],
    "two readers disagree on the order of two writes": [
        certain(0, 9, WRITE, "a"),
        certain(0, 9, WRITE, "b"),
        certain(1, 2, READ, "a"),
        certain(3, 4, READ, "b"),
        certain(5, 6, READ, "a"),
    ],
    "what was not acknowledged comes and goes": [
        maybe(0, 9, WRITE, "a"),
        certain(1, 2, READ, "a"),
        certain(3, 4, READ),
    ],
    "what can no longer take effect does": [
        maybe(0, 1, WRITE, "a"),
        certain(2, 3, READ),
        certain(4, 5, READ, "a"),
    ],
    "what shows before a write stays": [
        shows(0, 5, None),
        certain(6, 7, READ),
    ],
    "what shows before a write does so too early": [
        shows(0, 5, None, since=3),
        certain(0, 1, READ, "a"),
        certain(1.5, 2, READ),
    ],
    "what shows before a write does so too late": [
        shows(0, 5, "a"),
        certain(1, 2, READ, "a"),
        certain(3, 4, REMOVE),
        certain(6, 7, READ),
        certain(8, 9, READ, "a"),
    ],
    "it holds something after it was emptied": [
        certain(0, 1, WRITE, "a"),
        certain(2, 3, REMOVE),
        certain(4, 5, READ_SOME),
    ],
    "it holds what it does not": [
        certain(0, 1, WRITE, "a"),
        certain(2, 3, READ_OTHER, "a"),
    ],
}


@pytest.mark.parametrize("history", POSSIBLE.values(), ids=POSSIBLE.keys())
def test_what_could_have_happened_is_accepted(history: list[Operation]) -> None:
    assert check(history).contradiction is None


@pytest.mark.parametrize("history", IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_what_could_not_have_happened_is_refused(history: list[Operation]) -> None:
    assert check(history).contradiction is not None


def test_a_contradiction_names_the_answer_and_what_came_before() -> None:
    written = certain(0, 1, WRITE, "a")
    missed = certain(2, 3, READ)

    found = check([written, missed]).contradiction

    assert found is not None
    assert found == Contradiction(missed, frozenset({"a"}), (written,))
    assert "nothing explains: 2.000000 3.000000 read None" in str(found)


def test_a_history_goes_on_where_another_ended() -> None:
    first = check([maybe(0, 1, WRITE, "a"), maybe(0, 1, WRITE, "b")])

    assert first.final == {None, "a", "b"}
    assert check([certain(2, 3, READ, "b")], first.final).final == {"b"}
    assert check([certain(2, 3, READ, "c")], first.final).contradiction is not None


values = st.sampled_from(["a", "b"])
operations = st.builds(
    lambda began, length, kind, value, is_certain: Operation(
        began,
        began + length,
        kind,
        None if kind in (REMOVE, READ_SOME) else value,
        is_certain or kind not in (WRITE, REMOVE, REMOVE_IF),
    ),
    st.integers(0, 6),
    st.integers(1, 4),
    st.sampled_from(Kind),
    values | st.none(),
    st.booleans(),
).filter(lambda found: found.value is not None or found.kind not in (WRITE, REMOVE_IF))


@given(st.lists(operations, max_size=5))
@settings(max_examples=300)
def test_it_finds_what_trying_every_order_finds(history: list[Operation]) -> None:
    assert (check(history).contradiction is None) == is_explained_by_some_order(history)


shaky = st.builds(
    lambda write, shown, since: replace(write, shows=shown, shows_from=since),
    operations.filter(lambda found: found.kind is WRITE),
    st.frozensets(values | st.none(), min_size=1),
    st.integers(0, 9),
)


@given(st.lists(operations, max_size=3), st.lists(shaky, max_size=2))
@settings(max_examples=300)
def test_it_finds_what_trying_every_order_of_what_shows_before_finds(
    history: list[Operation], writes: list[Operation]
) -> None:
    history = [*history, *writes]

    assert (check(history).contradiction is None) == is_explained_by_some_order(history)


def is_explained_by_some_order(history: Sequence[Operation]) -> bool:
    """Try whatever may happen next, one after the other."""
    tried = set()
    pending: list[tuple[frozenset[int], Value, float]] = [
        (frozenset(range(len(history))), None, float("-inf"))
    ]
    while pending:
        state = left, held, latest = pending.pop()
        if not any(history[number].is_certain for number in left):
            return True
        if state in tried:
            continue
        tried.add(state)
        for number in left:
            found = history[number]
            # Moments can be chosen one behind the other unless a later one is over already.
            now = max(latest, found.began)
            if now <= found.ended:
                pending += [(left - {number}, value, now) for value in happening(found, held)]
            now = max(now, found.shows_from)
            if now <= found.ended:
                pending += [(left, value, now) for value in found.shows]
    return False


def happening(found: Operation, held: Value) -> list[Value]:
    """Return what is held after an operation, if that can happen now."""
    can_be, after = {
        WRITE: (True, found.value),
        REMOVE: (held is not None, None),
        REMOVE_IF: (True, None if held == found.value else held),
        READ: (held == found.value, held),
        READ_SOME: (held is not None, held),
        READ_OTHER: (held != found.value, held),
    }[found.kind]
    return [after] if can_be else []


@pytest.mark.parametrize(("clients", "count"), [(2, 40_000), (6, 20_000), (12, 4_000)])
def test_it_copes_with_long_histories_of_many_clients(clients: int, count: int) -> None:
    history = simulated(clients, count=count, chance=random.Random(clients))
    end = max(found.ended for found in history)
    began = time.monotonic()

    assert check(history).contradiction is None
    rate = count / (time.monotonic() - began)
    assert check([*history, certain(end + 1, end + 2, READ, "never")]).contradiction is not None

    sys.stdout.write(f"{clients} clients: {rate:.0f} operations per second\n")
    # A hundredth of what a quiet machine does: so much would still be enough.
    assert rate > {2: 1_400, 6: 400, 12: 60}[clients]


def simulated(clients: int, *, count: int, chance: random.Random) -> list[Operation]:
    """What clients of a correct register may see, who hit it whenever they are idle."""
    idle_at = [0.0] * clients
    moments = []
    for number in range(count):
        client = min(range(clients), key=idle_at.__getitem__)
        began = idle_at[client] + chance.random() / 10
        ended = began + chance.expovariate(1)
        idle_at[client] = ended
        moments.append((chance.uniform(began, ended), began, ended, number))
    history = []
    held: Value = None
    for _, began, ended, number in sorted(moments):
        doing = chance.random()
        if doing < 0.3:
            held = f"value {number % 40}"
            history.append(certain(began, ended, WRITE, held))
        elif doing < 0.4 and held is not None:
            history.append(certain(began, ended, REMOVE))
            held = None
        elif doing < 0.5:
            doomed = f"value {chance.randrange(40)}"
            history.append(certain(began, ended, REMOVE_IF, doomed))
            held = None if held == doomed else held
        else:
            history.append(certain(began, ended, READ, held))
    return history
