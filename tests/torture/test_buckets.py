"""Nothing acknowledged is lost in a bucket, wherever a replica dies and however others interleave.

Hypothesis makes the programs up. Each runs on two replicas over one bucket, whose requests take
effect in any order, whose answers get lost, and which die between any two of them; and after
every single effect a replica is started on what is in the bucket.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import count

import pytest
from hypothesis import HealthCheck, given, seed, settings

from tests.torture import bucket_mutations
from tests.torture.bucket_proof import (
    BucketProof,
    Count,
    hollow_in_spite_of_deletion,
    hollow_tags,
    run,
    start,
)
from tests.torture.mutations import programs_of_mutations
from tests.torture.programs import Program, programs
from tests.torture.promises import Broken
from tests.torture.replicas_of_bucket import NO_TROUBLE, Trouble, small_parts

SHORT, LONG = 1_000, 150_000

TROUBLES = (
    NO_TROUBLE,
    Trouble(lost=0.05, refused=0.05),
    Trouble(deadly=0.02),
    Trouble(lost=0.02, stalled=0.02, deadly=0.01),
)

DIRECTED = programs_of_mutations()


@pytest.fixture(autouse=True)
def _small_parts() -> Iterator[None]:
    with small_parts():
        yield


def prove(number: int, places: int) -> Count:
    """Look at a bucket after at least so many effects of programs that follow from a number."""
    proof = BucketProof(restarts=0.02)

    @settings(max_examples=20, deadline=None, database=None, suppress_health_check=[*HealthCheck])
    @given(programs(longest=4))
    def check(program: Program) -> None:
        proof.check(program, TROUBLES[program.seed % len(TROUBLES)])

    try:
        for more in count(number * 1_000_000):
            if proof.count.places >= places:
                return proof.count
            seed(more)(check)()
    finally:
        proof.close()
    raise AssertionError("numbers do not end")


@pytest.mark.timeout(7200)
def test_nothing_acknowledged_is_lost_after_whichever_effect_a_replica_dies(
    is_long: bool, tell: Callable[[str], None]
) -> None:
    total = prove(random.randrange(1000), LONG if is_long else SHORT)

    tell(f"buckets, programs made up by hypothesis: {total}")
    assert total.places >= (LONG if is_long else SHORT)


@pytest.mark.timeout(3600)
def test_nothing_is_lost_in_the_programs_that_mutations_are_found_in(
    is_long: bool, tell: Callable[[str], None]
) -> None:
    proof = BucketProof(restarts=0.1 if is_long else 0.01)

    for number, program in enumerate(DIRECTED):
        for trouble in TROUBLES if is_long else [TROUBLES[number % len(TROUBLES)]]:
            proof.check(program, trouble)

    proof.close()
    tell(f"buckets, programs that mutations are found in: {proof.count}")
    assert proof.count.places > 500


def check_all(proof: BucketProof, mutation: bucket_mutations.Mutation) -> None:
    for program in mutation.programs(100):
        proof.check(program, mutation.trouble)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("mutation", bucket_mutations.MUTATIONS, ids=lambda one: one.plant.__name__)
def test_the_proof_finds(mutation: bucket_mutations.Mutation) -> None:
    proof = BucketProof(restarts=0.0)
    start.cache_clear()
    try:
        with mutation.plant(), pytest.raises(Broken):
            check_all(proof, mutation)
    finally:
        start.cache_clear()
        proof.close()


def test_the_same_program_has_the_same_history() -> None:
    program = next(program for program in DIRECTED if len(program.clients) > 1)
    (first, past, _), (second, again, _) = (run(program, TROUBLES[3]) for _ in range(2))

    assert [(request.method, request.query.keys()) for request in past.effects] == [
        (request.method, request.query.keys()) for request in again.effects
    ]
    assert [op.outcome for op in first.operations] == [op.outcome for op in second.operations]


@pytest.mark.parametrize(
    ("looks_again", "expected"), [(True, False), (False, True)], ids=["looks again", "does not"]
)
def test_tags_of_pushes_that_died_are_left_only_by_a_deletion_that(
    looks_again: bool, expected: bool
) -> None:
    """Pushes that do not look for deletions end as those that die before they do."""
    clients = ((bucket_mutations.PUSH_TWO_TAGS,), (bucket_mutations.DELETE,))
    plant = nullcontext if looks_again else bucket_mutations.tags_seen_once
    start.cache_clear()
    try:
        with bucket_mutations.deletions_unnoticed(), plant():
            ended = [run(Program(0, clients, number), NO_TROUBLE) for number in range(150)]
    finally:
        start.cache_clear()

    assert any(hollow_tags(past.states[-1]) for _, past, _ in ended)
    assert any(hollow_in_spite_of_deletion(*one[:2]) for one in ended) == expected
