"""Random histories of two writers at once: lists, watches and the past tell one story of them.

Each store is opened twice, as by two replicas. Who follows from any moment has every change once
and in order, each with the state before it, and comes to what a list shows; a list of the past is
what was listed then (facts/apiserver.md 3.1 and 4.2).
"""

import asyncio
import random
import tempfile
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import pytest
from hypothesis import given, settings, strategies as st

from alauda_imageapi.cluster.records.store import RecordStore
from alauda_imageapi.cluster.records.watch_cache import RecordLimits
from alauda_imageapi.machinery.sqlite import SQLiteStore
from alauda_imageapi.machinery.sqlite_file import StoreLimits
from alauda_imageapi.machinery.store import (
    Changed,
    Event,
    EventType,
    Exists,
    Key,
    Missing,
    ObjectStore,
    Watch,
)
from alauda_registry.kube.inmemory_resources import InMemoryResources
from tests.parts import record_store
from tests.parts.control_plane import ControlPlane

RESOURCE = "imagestreams"
NAMES = ("a", "b", "c")

Step: TypeAlias = tuple[int, str, str]
"""Which replica does what to which object."""
State: TypeAlias = dict[str, tuple[int, int]]
"""Revision and content of each object."""

steps = st.tuples(
    st.integers(0, 1), st.sampled_from(["create", "update", "delete"]), st.sampled_from(NAMES)
)
histories = st.lists(st.lists(steps, min_size=1, max_size=4), min_size=1, max_size=8)


@asynccontextmanager
async def sqlite() -> AsyncGenerator[Sequence[ObjectStore]]:
    limits = StoreLimits(poll_seconds=0.001)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "objects.db")
        async with SQLiteStore.opened(path, limits) as one, SQLiteStore.opened(path, limits) as two:
            yield one, two


@asynccontextmanager
async def records() -> AsyncGenerator[Sequence[ObjectStore]]:
    cluster, limits = InMemoryResources(), RecordLimits(snapshots=1)
    async with (
        RecordStore.opened(cluster, limits) as one,
        RecordStore.opened(cluster, limits) as two,
    ):
        yield one, two


@dataclass
class Story:
    """What was seen of a history.

    Attributes:
        stores: Two replicas of one.
        namespace: Of the objects.
        count: Of changes that were tried.
        revisions: Of those that were made.
        listed: What was listed after each of the steps.
        watches: Those that were begun, with what was listed then.
    """

    stores: Sequence[ObjectStore]
    namespace: str
    count: int = 0
    revisions: list[int] = field(default_factory=list)
    listed: list[tuple[int, State]] = field(default_factory=list)
    watches: list[tuple[int, State, Watch]] = field(default_factory=list)

    async def change(self, step: Step) -> None:
        replica, verb, name = step
        store, key = self.stores[replica], Key(RESOURCE, self.namespace, name)
        self.count += 1
        document = {"metadata": {"name": name, "namespace": self.namespace}, "n": self.count}
        now = await store.get(key)
        expected = now.revision if now else 1
        try:
            if verb == "create":
                done = await store.create(key, document)
            elif verb == "update":
                done = await store.update(key, document, expected=expected)
            else:
                done = await store.delete(key, expected=expected)
        except (Exists, Changed, Missing):
            return
        self.revisions.append(done.revision)

    async def look(self, store: ObjectStore, revision: int | None = None) -> tuple[int, State]:
        found = await store.snapshot(RESOURCE, revision, namespace=self.namespace)
        assert [item.key.name for item in found.items] == sorted(
            item.key.name for item in found.items
        )
        return found.revision, {
            item.key.name: (item.revision, item.object()["n"]) for item in found.items
        }

    async def follow(self) -> None:
        """Begin to watch, at one replica from what the other listed."""
        replica = len(self.watches) % 2
        revision, state = await self.look(self.stores[replica])
        await self.stores[1 - replica].reach(RESOURCE, revision)
        watch = await self.stores[1 - replica].watch(RESOURCE, revision)
        self.watches.append((revision, state, watch))

    async def check(self) -> None:
        lists = [await self.look(store) for store in self.stores]
        assert lists[0][1] == lists[1][1]
        for revision, state in self.listed:
            for store in self.stores:
                assert await self.look(store, revision) == (revision, state)
        for after, state, watch in self.watches:
            wanted = sorted(made for made in self.revisions if made > after)
            events = await self._take(watch, wanted[-1] if wanted else after)
            assert [event.revision for event in events] == wanted
            for event in events:
                _replay(event, state)
            assert state == lists[0][1]

    async def _take(self, watch: Watch, last: int) -> list[Event]:
        events: list[Event] = []
        async with asyncio.timeout(20):
            while watch.revision < last:
                events += await watch.next(1)
        return [event for event in events if event.stored.key.namespace == self.namespace]


def _replay(event: Event, state: State) -> None:
    """Bring a state to what it is after an event, of which it has to be the state before."""
    name, stored, previous = event.stored.key.name, event.stored, event.previous
    before = None if previous is None else (previous.revision, previous.object()["n"])
    assert before == state.pop(name, None)
    assert (event.type is EventType.ADDED) is (before is None)
    if event.type is not EventType.DELETED:
        state[name] = stored.revision, stored.object()["n"]


async def tell(stores: Sequence[ObjectStore], namespace: str, history: list[list[Step]]) -> None:
    """Let a history happen, what is in one list at once, and check what is told of it."""
    story = Story(stores, namespace)
    await story.follow()
    for batch in history:
        await asyncio.gather(*map(story.change, batch))
        await story.follow()
        story.listed.append(await story.look(stores[len(story.listed) % 2]))
    await story.check()


@pytest.mark.parametrize("opened", [sqlite, records])
@settings(max_examples=100)
@given(history=histories)
def test_lists_and_watches_tell_one_story(
    opened: Callable[[], AbstractAsyncContextManager[Sequence[ObjectStore]]],
    history: list[list[Step]],
) -> None:
    async def play() -> None:
        async with opened() as stores:
            await tell(stores, "team", history)

    asyncio.run(play())


@pytest.mark.integration
@pytest.mark.timeout(180)
@pytest.mark.parametrize("seed", range(4))
def test_lists_and_watches_of_a_cluster_tell_one_story(
    control_plane: ControlPlane, image_api_account: Path, seed: int
) -> None:
    chance = random.Random(seed)
    namespace = control_plane.new_namespace("story")
    verbs = ("create", "update", "update", "delete")

    def step() -> Step:
        return chance.randrange(2), chance.choice(verbs), chance.choice(NAMES)

    history = [[step() for _ in range(chance.randint(1, 4))] for _ in range(12)]

    async def play() -> None:
        async with AsyncExitStack() as stack:
            stores = [
                await stack.enter_async_context(
                    record_store.opened(
                        image_api_account, RecordLimits(reach_seconds=5, snapshots=1)
                    )
                )
                for _ in range(2)
            ]
            await tell(stores, namespace, history)

    asyncio.run(play())
