"""Programs for several clients, and the histories that come of running them.

A program is plain data that hypothesis makes up and makes smaller when something is found; the
same program always has the same history.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import strategies as st

from alauda_registry.storage.drivers.filesystem import FilesystemDriver
from alauda_registry.storage.repositories import Registry
from tests.torture.clients import (
    BLOBS,
    HERE,
    MANIFESTS,
    REPOSITORIES,
    TAGS,
    Clients,
    Key,
    Operation,
    Upload,
    Value,
    key,
)
from tests.torture.covering import watching
from tests.torture.effects import Effect
from tests.torture.recording import Recorder
from tests.torture.scheduling import Schedule, run_scheduled
from tests.torture.trees import OnDisk, Tree, read_tree
from tests.unit.storage.pushing import push, push_blob, put

EPOCH = 1_800_000_000.0
COARSE = 2_000_000_000
"""The longest step of time stamps, in nanoseconds."""


@dataclass(frozen=True, slots=True)
class Action:
    """What a client does next.

    Attributes:
        verb: One of :data:`VERBS`.
        repository: The number of the repository it is about.
        what: The number of the blob or manifest.
        more: What else there is to decide.
        patience: After how many seconds the client goes away.
    """

    verb: str
    repository: int = 0
    what: int = 0
    more: int = 0
    patience: float | None = None


@dataclass(frozen=True, slots=True)
class Program:
    """What all clients do.

    Attributes:
        start: Which of :data:`STARTS` they find.
        clients: The actions of each client; they take turns in using the two processes.
        seed: Decides who goes on, and what the adversaries do.
        tick: In steps of how many nanoseconds time stamps move.
        slow: A pattern of paths; while one of them is synced, others get far.
    """

    start: int
    clients: tuple[tuple[Action, ...], ...]
    seed: int
    tick: int = 1
    slow: str = ""


@dataclass(slots=True)
class History:
    """What happened, and what clients were told.

    Attributes:
        tree: What there was before.
        known: What was known of that.
        effects: What was done, and when.
        operations: What was asked for.
        uploads: The upload sessions that were begun.
        failures: What was answered in a way that no client should see.
    """

    tree: Tree
    known: dict[Key, Value]
    effects: list[tuple[Effect, int]]
    operations: list[Operation]
    uploads: list[Upload]
    failures: list[str]


def _push(clients: Clients, process: int, action: Action) -> Awaitable[None]:
    tags = [tag for number, tag in enumerate(TAGS) if action.more >> number & 1]
    return clients.push_manifest(
        process,
        action.repository,
        MANIFESTS[action.what % len(MANIFESTS)],
        tags,
        whole=action.more < 4,
    )


VERBS: dict[str, Callable[[Clients, int, Action], Awaitable[None]]] = {
    "push": _push,
    "push blob": lambda clients, process, action: clients.push_blob(
        process, action.repository, BLOBS[action.what % len(BLOBS)], action.more % 3
    ),
    "mount": lambda clients, process, action: clients.mount(
        process, action.repository, BLOBS[action.what % len(BLOBS)]
    ),
    "abandon": lambda clients, process, action: clients.abandon(
        process,
        action.repository,
        BLOBS[action.what % len(BLOBS)],
        ("leave", "cancel", "break off")[action.more % 3],
    ),
    "finish": lambda clients, process, action: clients.finish(process, action.repository),
    "confirm": lambda clients, process, action: clients.confirm(
        process, action.repository, TAGS[action.more % len(TAGS)]
    ),
    "delete tag": lambda clients, process, action: clients.delete_tag(
        process, action.repository, TAGS[action.more % len(TAGS)]
    ),
    "delete manifest": lambda clients, process, action: clients.delete_manifest(
        process, action.repository, MANIFESTS[action.what % len(MANIFESTS)]
    ),
    "delete blob": lambda clients, process, action: clients.delete_blob(
        process, action.repository, BLOBS[action.what % len(BLOBS)]
    ),
    "list referrers": lambda clients, process, action: clients.list_referrers(
        process, action.repository
    ),
    "learn secret": lambda clients, process, action: clients.learn_secret(process),
    "wait": lambda clients, process, action: clients.wait(1 + action.more),
}

_verbs = st.sampled_from(["push"] * 4 + [*VERBS])
_actions = st.builds(
    Action,
    _verbs,
    st.integers(0, 1),
    st.integers(0, len(MANIFESTS) - 1),
    st.integers(0, 5),
    st.none() | st.none() | st.none() | st.floats(0.001, 0.1),
)


def programs(longest: int) -> st.SearchStrategy[Program]:
    """Return programs of up to so many actions for each client."""
    return st.builds(
        Program,
        st.integers(0, len(STARTS) - 1),
        st.lists(
            st.lists(_actions, min_size=1, max_size=longest).map(tuple), min_size=1, max_size=3
        ).map(tuple),
        st.integers(0, 2**16),
        st.sampled_from([1, COARSE]),
    )


async def _prepare_one(registry: Registry) -> dict[Key, Value]:
    """An image with two tags and a signature, and blobs of nothing in the other repository."""
    first, second = (registry.repository(name) for name in REPOSITORIES)
    for blob in BLOBS[:2]:
        await push_blob(first, blob.content)
    await push(first, MANIFESTS[0].content, *TAGS)
    await put(first, MANIFESTS[2].content)
    await first.referrers.page(MANIFESTS[0].digest, artifact_type=None, limit=100)
    await push_blob(second, BLOBS[2].content)
    name, other = REPOSITORIES
    return {
        key("blob", name, BLOBS[0].digest): HERE,
        key("blob", name, BLOBS[1].digest): HERE,
        key("blob", other, BLOBS[2].digest): HERE,
        key("manifest", name, MANIFESTS[0].digest): HERE,
        key("manifest", name, MANIFESTS[2].digest): HERE,
        **{key("tag", name, tag): str(MANIFESTS[0].digest) for tag in TAGS},
    }


async def _prepare_nothing(registry: Registry) -> dict[Key, Value]:
    """A volume that was never used."""
    return {}


STARTS = (_prepare_one, _prepare_nothing)


@cache
def start(number: int) -> tuple[Tree, dict[Key, Value]]:
    """Return what a program finds, and what is known of it."""
    with TemporaryDirectory() as folder:
        driver = FilesystemDriver(Path(folder))
        known = asyncio.run(_prepare_and_close(Registry(driver), STARTS[number]))
        return read_tree(Path(folder)), known


async def _prepare_and_close(
    registry: Registry, prepare: Callable[[Registry], Awaitable[dict[Key, Value]]]
) -> dict[Key, Value]:
    known = await prepare(registry)
    await registry.aclose()
    return known


def run(program: Program, folder: Path, ignores: Callable[[str], bool] | None = None) -> History:
    """Run a program in an empty folder, and return its history.

    Args:
        program: What the clients do.
        folder: Where; it is left as it is at the end.
        ignores: Of which paths syncing has no effect.
    """
    tree, known = start(program.start)
    OnDisk(folder).hold(tree)
    schedule = Schedule(random.Random(program.seed), EPOCH)
    stamps = {path: node.stamp for path, node in tree.items()}
    recorder = Recorder(
        folder, stamps, schedule, tick=program.tick, slow=program.slow, ignores=ignores
    )
    with watching(recorder):
        registries = [Registry(FilesystemDriver(folder, openat2=False)) for _ in range(2)]
        clients = Clients(registries, recorder)
        run_scheduled(schedule, _run_all(clients, program.clients, registries))
    return History(
        tree, known, recorder.effects, clients.operations, clients.uploads, clients.failures
    )


async def _run_all(
    clients: Clients, programs: Iterable[Iterable[Action]], registries: Iterable[Registry]
) -> None:
    async with asyncio.TaskGroup() as group:
        for number, actions in enumerate(programs):
            group.create_task(_run_one(clients, number, actions))
    for registry in registries:
        await registry.aclose()


async def _run_one(clients: Clients, number: int, actions: Iterable[Action]) -> None:
    for action in actions:
        with contextlib.suppress(TimeoutError):
            # What a process starts with, it waits for.
            patience = None if action.verb == "learn secret" else action.patience
            async with asyncio.timeout(patience):
                await VERBS[action.verb](clients, number, action)
