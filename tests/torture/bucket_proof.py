"""Runs programs on replicas over one bucket, and looks at the bucket after every single effect.

An operation of S3 is atomic and survives, so there is one thing that can be in the bucket after
each; but the process that asked for it may end there. So what is checked is what any replica
finds that starts at that moment: the links lead to bytes, what was acknowledged is served, and
what was deleted is not. At some moments it also goes on: uploads are finished, everything is
pushed again, and what is left over can be swept away.
"""

import asyncio
import contextlib
import random
import re
from collections.abc import Coroutine, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any

from alauda_registry.oci.errors import ManifestUnknown
from alauda_registry.oci.reference import RepositoryName, Tag
from alauda_registry.storage.driver import Busy, Unreachable
from alauda_registry.storage.repositories import Registry, StorageOptions
from tests.parts.fake_bucket import FakeBucket, FakeTransport, Stored
from tests.torture.clients import HERE, Claim, Key, Outcome, Value, key
from tests.torture.effects import Stamp
from tests.torture.programs import STARTS, VERBS, Action, History, Program
from tests.torture.promises import (
    Broken,
    Expected,
    Manner,
    Promises,
    ask,
    check_answers,
    check_tree,
    check_uploads,
    finish_uploads,
    push_everything,
)
from tests.torture.replicas_of_bucket import (
    SMALLEST_PART,
    BucketClients,
    Past,
    Replicas,
    Trouble,
    driver_over,
)
from tests.torture.scheduling import InlineLoop, Schedule, run_scheduled
from tests.torture.trees import Node, Tree

Objects = dict[str, Stored]

_NOW = 1_700_000_000.0
"""Long ago, as what is too old is told by the clock of this machine."""
_LATER = 7 * 86_400.0
"""By then no claim of a replica that has died is worth anything."""

_TAG = re.compile(
    r"(?P<manifests>docker/registry/v2/repositories/(?P<name>.+)/_manifests)"
    r"/tags/(?P<tag>[^/]+)/current/link"
)
_NO_STAMP = Stamp(0, 0, 0)
_READING = StorageOptions(read_only=True)
_EXPIRING = StorageOptions(upload_age=timedelta(days=-1))


@dataclass(slots=True)
class Count:
    """How much was looked at; ``hollow`` are the states with a tag that leads to nothing."""

    histories: int = 0
    places: int = 0
    states: int = 0
    restarts: int = 0
    deaths: int = 0
    hollow: int = 0


class BucketProof:
    """Checks programs, one after the other.

    Args:
        restarts: How likely it is, for each state, that a replica is started for good on it.

    Attributes:
        count: How much was looked at so far.
    """

    def __init__(self, *, restarts: float) -> None:
        self.count = Count()
        self._restarts = restarts
        self._loop = InlineLoop()

    def close(self) -> None:
        """Release the event loop."""
        self._loop.close()

    def check(self, program: Program, trouble: Trouble) -> None:
        """Run a program, and look at all that the bucket held meanwhile.

        Raises:
            Broken: A promise was not kept.
        """
        history, past, deaths = run(program, trouble)
        die = random.Random(program.seed)
        promises = Promises(history)
        self.count.histories += 1
        self.count.deaths += deaths
        seen: set[frozenset[tuple[str, bytes]]] = set()
        before: Expected | None = None
        for place, state in enumerate(past.states, 1):
            self.count.places += 1
            expected = promises.at(place)
            if expected is not before:
                before, seen = expected, set()
            what = frozenset((path, stored.content) for path, stored in state.items())
            if what in seen:
                continue
            seen.add(what)
            self.count.states += 1
            try:
                self._check_state(state, expected)
                if die.random() < self._restarts:
                    self.count.restarts += 1
                    self._go_on(state, expected, die.choice(list(Manner)))
            except Broken as broken:
                broken.add_note(_describe(history, past, place))
                raise
        if deaths == 0 and trouble.lost == 0 and past.bucket.uploads:
            raise Broken("whoever lives and is answered leaves no upload", past.bucket.uploads)
        if deaths == 0 and past.states and hollow_tags(past.states[-1]):
            raise Broken("whoever lives leaves no tag that leads to nothing", past.effects[-1])
        if seen_by_deletion := hollow_in_spite_of_deletion(history, past):
            raise Broken("a deletion takes the tags of pushes that died", seen_by_deletion)
        if history.failures:
            raise Broken("clients are told what they can understand", history.failures)

    def _check_state(self, state: Objects, expected: Expected) -> None:
        hollow = hollow_tags(state)
        if hollow:
            self.count.hollow += 1
        for wanted in hollow.values():
            if None not in expected.values.get(wanted, {None}):
                raise Broken("an acknowledged tag is there", wanted)
        self._loop.run_until_complete(_whole(_read_hollow(state, hollow.values())))
        # What reads as absent counts as absent.
        solid = {path: stored for path, stored in state.items() if path not in hollow}
        check_tree(tree_of(solid), expected)
        self._loop.run_until_complete(_whole(_start_and_ask(solid, expected)))

    def _go_on(self, state: Objects, expected: Expected, manner: Manner) -> None:
        self._loop.run_until_complete(_whole(_go_on_later(state, expected, manner)))


async def _whole(work: Coroutine[Any, Any, None]) -> None:
    """Do something, and end what it has left running in the background."""
    try:
        await work
    finally:
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


@contextlib.contextmanager
def _decided_by(number: int) -> Iterator[None]:
    """Let the pauses between tries follow from a number as well."""
    state = random.getstate()
    random.seed(number)
    try:
        yield
    finally:
        random.setstate(state)


def hollow_tags(state: Objects) -> dict[str, Key]:
    """Return the links of tags whose manifests are gone.

    A push writes a tag and looks again whether somebody deleted the manifest meanwhile. When it
    ends in between, the tag is left, and reads as absent.
    """
    found = {}
    for path, stored in state.items():
        link = _TAG.fullmatch(path)
        if link is None:
            continue
        digest = stored.content.decode().replace(":", "/")
        if f"{link['manifests']}/revisions/{digest}/link" not in state:
            found[path] = key("tag", link["name"], link["tag"])
    return found


def hollow_in_spite_of_deletion(history: History, past: Past) -> list[str]:
    """Return the links that led to a manifest before a deletion that succeeded removed it.

    Only what is written later than that may be left, by a push that died then.
    """
    found = []
    for path in hollow_tags(past.states[-1]) if past.states else ():
        digest = past.states[-1][path].content.decode()
        repository = path.partition("/_manifests/")[0]
        revision = f"{repository}/_manifests/revisions/{digest.replace(':', '/')}/link"
        gone = _last_effect(past, revision, "DELETE")
        manifest = key("manifest", repository.partition("/repositories/")[2], digest)
        is_acknowledged = any(
            Claim(manifest, None) in operation.claims
            and operation.outcome is Outcome.DONE
            and operation.begun < gone <= (operation.ended or 0)
            for operation in history.operations
        )
        if is_acknowledged and _last_effect(past, path, "PUT") < gone:
            found.append(path)
    return found


def _last_effect(past: Past, path: str, method: str) -> int:
    """Return the number of the last effect of a kind that a key met; 0 for none."""
    numbers = range(len(past.effects), 0, -1)
    asked = ((number, past.effects[number - 1]) for number in numbers)
    return next(
        (number for number, request in asked if (request.method, request.key) == (method, path)), 0
    )


async def _read_hollow(state: Objects, tags: Iterable[Key]) -> None:
    registry = Registry(driver_over(FakeTransport(_restored(state))), _READING)
    for _, name, tag in tags:
        with contextlib.suppress(ManifestUnknown):
            await registry.repository(RepositoryName(name)).tags.resolve(Tag(tag))
            raise Broken("a tag that leads to nothing reads as absent", (name, tag))


async def _start_and_ask(state: Objects, expected: Expected) -> None:
    driver = driver_over(FakeTransport(_restored(state)))
    registry = Registry(driver, _READING)
    check_answers(await ask(registry, driver, expected.values), expected)
    await check_uploads(registry, expected)


async def _go_on_later(state: Objects, expected: Expected, manner: Manner) -> None:
    bucket = _restored(state)
    driver = driver_over(FakeTransport(bucket))
    registry = Registry(driver)
    pushed = await finish_uploads(registry, expected, manner)
    everything = await push_everything(registry)
    answers = await ask(registry, driver, everything.values)
    known = {one: value for one, value in answers.items() if one in everything.values}
    check_answers(known, everything)
    values = everything.values | {one: {HERE} for one in pushed}
    check_tree(tree_of(bucket.objects), Expected(values, everything.blobs, []))
    if bucket.uploads:
        raise Broken("whoever lives leaves no multipart upload", bucket.uploads)
    await Registry(driver, _EXPIRING).expire_uploads()
    left = [path for path in bucket.objects if "/_uploads/" in path or "~" in path]
    if left or bucket.uploads:
        raise Broken("what is left over can be removed", (left, bucket.uploads))


def run(program: Program, trouble: Trouble) -> tuple[History, Past, int]:
    """Run a program on two replicas, and return its history, the bucket's, and who died."""
    objects, known = start(program.start)
    die = random.Random(program.seed)
    schedule = Schedule(die, _NOW)
    bucket = FakeBucket(lambda: schedule.now, smallest_part=SMALLEST_PART)
    bucket.objects.update(objects)
    past = Past(bucket)
    replicas = Replicas(bucket, 2, die, trouble)
    clients = BucketClients(replicas, past)

    async def work() -> None:
        async with asyncio.TaskGroup() as group:
            for number, actions in enumerate(program.clients):
                group.create_task(_run_one(clients, number, actions))
        await replicas.aclose()

    with _decided_by(program.seed):
        run_scheduled(schedule, _whole(work()))
    history = History(
        tree_of(objects), known, [], clients.operations, clients.uploads, clients.failures
    )
    return history, past, replicas.deaths


async def _run_one(clients: BucketClients, number: int, actions: Iterable[Action]) -> None:
    for action in actions:
        # What a client only looks at may be out of reach, too.
        with contextlib.suppress(TimeoutError, Unreachable, Busy):
            # What a process starts with, it waits for.
            patience = None if action.verb == "learn secret" else action.patience
            async with asyncio.timeout(patience):
                await VERBS[action.verb](clients, number, action)


@cache
def start(number: int) -> tuple[Objects, dict[Key, Value]]:
    """Return what a program finds, and what is known of it."""
    bucket = FakeBucket(lambda: _NOW, smallest_part=SMALLEST_PART)
    loop = InlineLoop()
    try:
        registry = Registry(driver_over(FakeTransport(bucket)))
        known = loop.run_until_complete(STARTS[number](registry))
        loop.run_until_complete(registry.aclose())
    finally:
        loop.close()
    return dict(bucket.objects), known


def tree_of(state: Objects) -> Tree:
    """Return a bucket as the tree of files that it stands for."""
    return {f"/{path}": Node(_NO_STAMP, stored.content) for path, stored in state.items()}


def _restored(state: Objects) -> FakeBucket:
    bucket = FakeBucket(lambda: _NOW + _LATER, smallest_part=SMALLEST_PART)
    bucket.objects.update(state)
    return bucket


def _describe(history: History, past: Past, place: int) -> str:
    """Say what had happened before a state, for people."""
    lines = [f"after {place} of {len(past.effects)} effects; before:"]
    lines += [
        f"  {operation.name}: from {operation.begun} to {operation.ended}, {operation.outcome.name}"
        for operation in history.operations
        if operation.begun <= place
    ]
    first = max(0, place - 12)
    for number, request in enumerate(past.effects[first:place], first + 1):
        lines.append(f"  {number}: {request.method} {request.key} {dict(request.query)}"[:200])
    return "\n".join(lines)
