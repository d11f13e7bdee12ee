"""Pushes and deletions of a few clients at a bucket explain each other, whatever comes first.

Two clients meet in every order of their requests that makes a difference, three in some that a die
says. What whoever sees all of the bucket sees after each effect has to be explained as what clients
of three servers see is (``test_histories.py``), by the same checker.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import count, islice
from typing import Any

import pytest

from tests.torture import bucket_mutations
from tests.torture.bucket_mutations import DELETE
from tests.torture.bucket_proof import start
from tests.torture.interleavings import Run, any_order, every_order
from tests.torture.programs import Action
from tests.torture.replicas_of_bucket import small_parts

SHORT, LONG = 10, 3_000

Program = Sequence[Sequence[Action]]

# They find v1 and v2 point to one image, which DELETE deletes.
PUSH = Action("push", 0, 0, 1)
MOVE = Action("push", 0, 3, 1)
PUSH_BY_DIGEST = Action("push", 0, 0, 0)
DELETE_OTHER = Action("delete manifest", 0, 2)
DELETE_TAG = Action("delete tag", 0, 0, 0)

OF_TWO: dict[str, Program] = {
    "a manifest is pushed and deleted": [[PUSH], [DELETE]],
    "a tag is moved and the manifest it pointed to deleted": [[MOVE], [DELETE]],
    "a tag is moved and deleted": [[MOVE], [DELETE_TAG]],
    "two push one tag": [[PUSH], [MOVE]],
    "a tag is deleted, and with its manifest": [[DELETE_TAG], [DELETE]],
    "a tag is deleted twice": [[DELETE_TAG], [DELETE_TAG]],
    "a manifest is deleted twice": [[DELETE], [DELETE]],
    "a tag is moved and then deleted": [[MOVE, DELETE_TAG], [DELETE]],
    "a manifest is pushed, and deleted and pushed": [[PUSH], [DELETE, PUSH_BY_DIGEST]],
}
OF_THREE: dict[str, Program] = {
    "two push a tag and a manifest is deleted": [[MOVE], [PUSH], [DELETE]],
    "a tag is moved and deleted, as is its manifest": [[MOVE], [DELETE], [DELETE_TAG]],
    "manifests are deleted while tags move": [[MOVE, PUSH], [DELETE, DELETE_OTHER, DELETE]],
    "two delete, one pushes": [[PUSH], [DELETE], [DELETE_OTHER, DELETE]],
    "a tag is deleted while it is pushed twice": [[MOVE], [PUSH], [DELETE_TAG]],
    "everything at once": [[MOVE, DELETE_TAG], [PUSH, DELETE], [DELETE, PUSH_BY_DIGEST]],
}

pytestmark = pytest.mark.timeout(3600)


@pytest.fixture(autouse=True)
def _small_parts() -> Iterator[None]:
    with small_parts():
        yield


def hold(found: Run) -> None:
    assert found.reasons() == [], "\n".join(found.order)


@pytest.mark.parametrize("program", OF_TWO.values(), ids=OF_TWO)
def test_what_two_clients_do_is_explained_in_every_order(
    program: Program, is_long: bool, tell: Callable[[str], None]
) -> None:
    orders = 0
    for found in islice(every_order(0, program), None if is_long else 80):
        orders += 1
        hold(found)

    tell(f"{orders} orders of {program}")
    # Who waits for a lock does nothing meanwhile: there are a few orders of any two.
    assert orders > 5


@pytest.mark.parametrize("program", (OF_TWO | OF_THREE).values(), ids=OF_TWO | OF_THREE)
def test_what_clients_do_is_explained_in_orders_of_a_die(program: Program, is_long: bool) -> None:
    first = random.randrange(10**6)
    for seed in islice(count(first), LONG if is_long else SHORT):
        hold(any_order(0, program, seed))


@pytest.mark.parametrize(
    ("mutation", "program"),
    [
        (bucket_mutations.deletions_unnoticed, [[MOVE], [DELETE]]),
        (bucket_mutations.tags_forgotten, [[PUSH], [DELETE]]),
        (bucket_mutations.locks_ignored, [[DELETE_TAG], [DELETE_TAG]]),
    ],
    ids=["loses a tag", "leaves tags that lead nowhere", "holds no locks"],
)
def test_it_finds_a_registry_that(
    mutation: Callable[[], AbstractContextManager[Any]], program: Program
) -> None:
    start.cache_clear()
    try:
        with mutation():
            assert any(found.reasons() for found in every_order(0, program))
    finally:
        start.cache_clear()
