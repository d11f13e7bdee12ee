"""The proof bites: each mistake of ``mutations.py`` is found by cutting the power."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.torture.cuts import Proof
from tests.torture.mutations import MUTATIONS, Mutation
from tests.torture.promises import Broken


@pytest.fixture
def proof(memory: Path, mutation: Mutation) -> Iterator[Proof]:
    proof = Proof(memory, restarts=mutation.restarts)
    logging.disable(logging.CRITICAL)
    yield proof
    logging.disable(logging.NOTSET)
    proof.close()


def find(mutation: Mutation, proof: Proof) -> str | None:
    """Return which promise is broken first, or None when none is."""
    with mutation.planted():
        for program in mutation.programs:
            try:
                proof.check(program, mutation.ignores)
            except Broken as broken:
                return broken.promise
    return None


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_each_mistake_is_found(
    mutation: Mutation, proof: Proof, tell: Callable[[str], None]
) -> None:
    broken = find(mutation, proof)

    if mutation.harmless_because:
        tell(f"{mutation.name} | not found, and need not be: {mutation.harmless_because}")
        assert broken is None
    else:
        tell(f"{mutation.name} | {broken} | {proof.count.places} cuts")
        assert broken is not None
        assert proof.count.places <= mutation.within
