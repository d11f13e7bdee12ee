"""Mistakes that a power cut turns into losses, and programs in which they do.

A mistake is either that syncing some path has no effect, or one of those in ``planting.py``.
"""

import random
import re
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

from alauda_registry.storage import paths
from tests.torture import planting
from tests.torture.planting import Planted, instead_of_publish
from tests.torture.programs import Action, Program


@dataclass(frozen=True, slots=True)
class Mutation:
    """A mistake.

    Attributes:
        name: What is done wrong.
        programs: In which it matters.
        ignored: A pattern of paths; syncing them has no effect.
        planted: Makes the mistake for as long as it is entered.
        harmless_because: Why nothing is lost by it, where nothing is.
        restarts: How likely it is that a tree is started twice and pushed to.
        within: Within how many cuts it has to be found.
    """

    name: str
    programs: tuple[Program, ...]
    ignored: str = ""
    planted: Planted = nullcontext
    harmless_because: str = ""
    restarts: float = 0.0
    within: int = 2_000

    def ignores(self, path: str) -> bool:
        """Tell whether syncing a path has no effect."""
        return bool(self.ignored) and re.fullmatch(self.ignored, path) is not None


def _program(*clients: tuple[Action, ...], start: int = 0) -> tuple[Program, ...]:
    return (Program(start, clients, seed=0),)


def _in_many_orders(
    *clients: tuple[Action, ...], orders: int, start: int = 0, slow: str = ""
) -> tuple[Program, ...]:
    return tuple(Program(start, clients, seed, slow=slow) for seed in range(orders))


_PUSH_IMAGE = Action("push", 0, 0, 1)
_PUSH_INDEX = Action("push", 0, 3, 1)
_PUSH_ELSEWHERE = Action("push", 1, 1, 1)
_DELETE_IMAGE = Action("delete manifest", 0, 0)
_DELETE_INDEX = Action("delete manifest", 0, 3)
_SOON = Action("wait")
_LATER = Action("wait", more=4)
_ALL_THE_TIME = (_SOON,) * 60
"""Somebody who waits again and again; else the slow go on as soon as nobody has work."""

FIRST_PUSH = _program((_PUSH_IMAGE,), start=1)
PUSH = _program((_PUSH_ELSEWHERE,))
RETAG = _program((Action("push", 0, 3, 3),))
REFERRERS = _program((Action("push", 0, 4, 0), _LATER, Action("list referrers")))
DELETE = _program((_DELETE_IMAGE,), (Action("delete tag", 0, 0, 1),))
UPLOADS = _program(
    (Action("abandon", 0, 2, 0), Action("finish", 0)), (Action("push blob", 1, 1, 2),)
)
MOUNT = _program((Action("mount", 1, 1), Action("mount", 1, 0), Action("push", 1, 0, 5)))
SECRET = _program((Action("learn secret"),), (Action("learn secret"),))
SAME = _in_many_orders(
    (Action("push blob", 1, 0), Action("push blob", 1, 1)),
    (Action("push", 1, 0, 5),),
    _ALL_THE_TIME,
    orders=10,
    slow=".*/_layers.*",
)
SAME_TAG = _in_many_orders((_PUSH_IMAGE, Action("confirm")), (_SOON, _PUSH_INDEX), orders=20)
TOGETHER = _in_many_orders(
    (Action("push", 1, 4, 0), _LATER),
    (_LATER,),
    (_PUSH_INDEX, Action("push", 1, 3, 1), _LATER),
    (_LATER,),
    (Action("push", 1, 3, 2), _LATER),
    orders=10,
    start=1,
)
NEW_TAGS = _in_many_orders(
    (_PUSH_INDEX, Action("push", 0, 3, 2)),
    (_LATER,),
    (Action("push", 0, 4, 2),),
    (),
    (Action("push", 0, 4, 1),),
    orders=24,
    start=1,
)
REPLACED = _in_many_orders(
    (_PUSH_INDEX, _DELETE_INDEX, _PUSH_INDEX),
    (_PUSH_INDEX, _DELETE_INDEX, _PUSH_INDEX),
    (_PUSH_INDEX, _DELETE_INDEX),
    orders=6,
)
DELETE_AGAINST_PUSH = _in_many_orders(
    (_DELETE_IMAGE, _DELETE_IMAGE),
    (_PUSH_IMAGE, Action("push", 0, 0, 2)),
    (Action("push", 0, 0, 3),),
    orders=6,
)

_DIGEST = "sha(256|512)/[0-9a-f]+"


def _unsynced() -> Iterator[Mutation]:
    yield Mutation("a small file's bytes are not synced", PUSH, "/_driver/scratch/.+")
    yield Mutation("an upload's bytes are not synced", UPLOADS, ".*/_uploads/.*/data")
    yield Mutation("the folder of a blob is not synced", PUSH, ".*/blobs/.*/[0-9a-f]{64}")
    yield Mutation("the folder of a blob's link is not synced", PUSH, f".*/_layers/{_DIGEST}")
    yield Mutation("the folder of a revision is not synced", PUSH, f".*/revisions/{_DIGEST}")
    yield Mutation("the folder of a tag's link is not synced", RETAG, ".*/current")
    yield Mutation("the folder of a referrers entry is not synced", REFERRERS, ".*/by-subject/.*")
    yield Mutation("the folder of the secret is not synced", SECRET, ".*/_registry")
    yield Mutation("the root is not synced", FIRST_PUSH, "/")
    yield Mutation(
        "folders above new ones are not synced",
        FIRST_PUSH,
        rf"{paths.ROOT}(/[a-z]+)*(/_[a-z]+)?(/[a-z]+)?(/sha256)?(/[0-9a-f]{{2}})?",
    )
    yield Mutation("deletions are not synced", DELETE, planted=planting.deletions_not_synced)
    yield Mutation(
        "acknowledged pieces are not synced", UPLOADS, planted=planting.pieces_not_synced
    )


def _misordered() -> Iterator[Mutation]:
    for name, programs, mistaken in (
        ("all steps are one stage", PUSH + MOUNT, planting.in_one_stage),
        ("a blob's link comes before its bytes", FIRST_PUSH, planting.link_first),
        ("a revision comes before its bytes", PUSH, planting.first_two_swapped),
        ("a tag comes before its revision", PUSH, planting.last_two_swapped),
        ("a tag's folder comes before its link", FIRST_PUSH, planting.folder_first),
        ("files are written in place", RETAG, planting.in_place),
        ("files are removed before they are replaced", RETAG, planting.removed_first),
        ("what others published is not synced", SAME, planting.without_ensure),
    ):
        yield Mutation(name, programs, planted=instead_of_publish(mistaken))
    yield Mutation(
        "a manifest is deleted before its tags",
        DELETE,
        planted=planting.manifest_deleted_before_tags,
    )
    yield Mutation(
        "pushes do not hold off deletions",
        DELETE_AGAINST_PUSH,
        planted=planting.pushes_without_lock,
    )


def _mistaken_for_durable() -> Iterator[Mutation]:
    yield Mutation(
        "a folder that took another's place is taken for it",
        REPLACED,
        planted=partial(planting.paths_taken_for_durable, "durability"),
    )
    yield Mutation(
        "a file that took another's place is taken for it",
        SAME_TAG,
        planted=partial(planting.paths_taken_for_durable, "publishing"),
    )
    yield Mutation(
        "folders are remembered before they are synced",
        TOGETHER,
        planted=planting.remembered_before_synced,
    )
    yield Mutation(
        "a sync under way is joined",
        NEW_TAGS,
        planted=planting.sync_under_way_joined,
        # One order in four shows it.
        within=5_000,
    )
    yield Mutation(
        "digests of another length are trusted",
        UPLOADS,
        planted=planting.digests_of_any_length,
        restarts=0.5,
    )
    yield Mutation(
        "digests from before a boot are trusted",
        UPLOADS,
        planted=planting.digests_of_any_boot,
        restarts=0.5,
        harmless_because="their bytes were synced before they were written: one guard is enough",
    )


MUTATIONS = (*_unsynced(), *_misordered(), *_mistaken_for_durable())


def programs_of_mutations(orders: int | None = None) -> list[Program]:
    """Return the programs in which mistakes are found.

    Args:
        orders: Of those that are there in many orders, so many that a die says; without, all.
    """
    found: set[Program] = set()
    for programs in dict.fromkeys(mutation.programs for mutation in MUTATIONS):
        found |= set(random.sample(programs, min(orders or len(programs), len(programs))))
    return sorted(found, key=repr)
