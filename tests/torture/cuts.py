"""Cutting the power at every place of a history, and looking what is left.

After each effect several adversaries say what the disk may look like. A tree that was not seen
since the promises last changed is made on a real file system, a registry is started on it, and
asked for everything. Every so often one is also started for good, and then once more; its uploads
are finished, everything is pushed again, and what is left over is swept away.
"""

import contextlib
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from alauda_registry.storage import hashing
from alauda_registry.storage.drivers.filesystem import FilesystemDriver
from alauda_registry.storage.repositories import Registry, StorageOptions
from tests.torture.clients import HERE, Key
from tests.torture.covering import stamped
from tests.torture.programs import EPOCH, History, Program, run
from tests.torture.promises import (
    Answers,
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
from tests.torture.replay import Disk, survivors
from tests.torture.scheduling import InlineLoop
from tests.torture.trees import Node, OnDisk, Tree, read_tree

T = TypeVar("T")

_READING = StorageOptions(read_only=True)
_EXPIRING = StorageOptions(upload_age=timedelta(days=-1))
_HOUR = 3600.0
_SERVED = "served"
_UPLOADS = "/_uploads"
_DRIVER = "/_driver"


@dataclass(slots=True)
class Count:
    """How much was looked at.

    Attributes:
        histories: Histories.
        places: Places in them at which the power was cut.
        trees: What adversaries left there, each once.
        restarts: How many of these trees were started twice and pushed to.
    """

    histories: int = 0
    places: int = 0
    trees: int = 0
    restarts: int = 0

    def add(self, other: "Count") -> None:
        """Count what somebody else looked at."""
        self.histories += other.histories
        self.places += other.places
        self.trees += other.trees
        self.restarts += other.restarts


class Proof:
    """Cuts the power again and again.

    Args:
        folder: Where trees are made; best in memory.
        restarts: How likely it is that a tree is started twice and pushed to.

    Attributes:
        count: How much was looked at so far.
    """

    def __init__(self, folder: Path, *, restarts: float) -> None:
        self.count = Count()
        self._folder = folder
        self._restarts = restarts
        self._loop = InlineLoop()
        self._clock = EPOCH
        self._boot = ""

    def close(self) -> None:
        """Release the event loop."""
        self._loop.close()

    def check(self, program: Program, ignores: Callable[[str], bool] | None = None) -> None:
        """Run a program and cut the power at every place of its history.

        Args:
            program: What clients do.
            ignores: Of which paths syncing has no effect while they do.

        Raises:
            Broken: What was left broke a promise.
        """
        with TemporaryDirectory(dir=self._folder) as folder:
            history = run(program, Path(folder), ignores)
        die = random.Random(program.seed)
        with TemporaryDirectory(dir=self._folder) as folder, self._restarted(folder) as disk:
            self._check_history(history, disk, die)
        self.count.histories += 1

    def _check_history(self, history: History, on_disk: OnDisk, die: random.Random) -> None:
        promises = Promises(history)
        disk = Disk(history.tree)
        seen = _Seen()
        before: Expected | None = None
        for place, (effect, now) in enumerate(history.effects, 1):
            disk.apply(effect, now)
            self.count.places += 1
            expected = promises.at(place)
            if expected is not before:
                before, seen = expected, _Seen()
            self._clock = now / 1e9 + _HOUR
            for adversary, tree in survivors(disk, die, each=promises.is_kept_from(place)):
                new = seen.look_at(tree)
                if not new:
                    continue
                self.count.trees += 1
                self._boot = "the same" if adversary == "everything arrived" else "another"
                try:
                    self._check_tree(tree, new, expected, on_disk)
                    if die.random() < self._restarts:
                        manner = die.choice(list(Manner))
                        self._check_restarts(tree, expected, on_disk, manner)
                except Broken as broken:
                    broken.add_note(_describe(history, place, adversary))
                    raise
        if history.failures:
            raise Broken("clients are told what they can understand", history.failures)

    def _check_tree(
        self, tree: Tree, new: frozenset[str], expected: Expected, on_disk: OnDisk
    ) -> None:
        if _SERVED in new:
            check_tree(tree, expected)
        on_disk.hold(tree)
        self._run(self._start_and_ask(on_disk.root, expected, new))
        on_disk.take_note_of_changes("/_driver")

    def _check_restarts(
        self, tree: Tree, expected: Expected, on_disk: OnDisk, manner: Manner
    ) -> None:
        self.count.restarts += 1
        differences = on_disk.differences()
        if differences:
            raise Broken("reading changes nothing", differences)
        with TemporaryDirectory(dir=self._folder) as folder:
            again = OnDisk(Path(folder))
            again.hold(tree)
            self._run(self._start_again(again.root, expected, manner))

    async def _start_and_ask(self, root: Path, expected: Expected, new: frozenset[str]) -> None:
        async with _started(root, _READING) as (registry, driver):
            if _SERVED in new:
                check_answers(await ask(registry, driver, expected.values), expected)
            if _UPLOADS in new:
                await check_uploads(registry, expected)

    async def _start_again(self, root: Path, expected: Expected, manner: Manner) -> None:
        async with _started(root) as (registry, driver):
            first = await ask(registry, driver, expected.values)
            check_answers(first, expected)
        async with _started(root) as (registry, driver):
            second = await ask(registry, driver, expected.values)
            _require_same(first, second)
            pushed = await finish_uploads(registry, expected, manner)
        async with _started(root) as (registry, driver):
            _require_same(first, await ask(registry, driver, expected.values), but=pushed)
            everything = await push_everything(registry)
            check_answers(await self._known(registry, driver, everything), everything)
        everything_and_uploads = everything.values | {wanted: {HERE} for wanted in pushed}
        check_tree(read_tree(root), replace(everything, values=everything_and_uploads))
        self._clock += 25 * _HOUR
        async with _started(root, _EXPIRING) as (registry, driver):
            await registry.expire_uploads()
            check_answers(await self._known(registry, driver, everything), everything)
        left = [path for path in read_tree(root) if _is_garbage(path)]
        if left:
            raise Broken("what is left over can be removed", left)

    async def _known(
        self, registry: Registry, driver: FilesystemDriver, everything: Expected
    ) -> Answers:
        answers = await ask(registry, driver, everything.values)
        return {wanted: value for wanted, value in answers.items() if wanted in everything.values}

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(work)

    @contextlib.contextmanager
    def _restarted(self, folder: str) -> Iterator[OnDisk]:
        """Let the storage find itself started later, after the machine was."""
        disk = OnDisk(Path(folder))
        real = hashing.boot_id

        def other() -> str:
            return real() if self._boot == "the same" else "another"

        with stamped(disk.stamps, lambda: self._clock):
            hashing.boot_id = other  # type: ignore[assignment] # as if it were another machine's
            try:
                yield disk
            finally:
                hashing.boot_id = real


class _Seen:
    """The trees that were looked at since the promises last changed, part by part.

    What is served does not depend on the uploads, and neither on the driver's own files; so
    of a tree only those parts have to be asked for that were not seen before.
    """

    def __init__(self) -> None:
        self._parts: dict[str, set[frozenset[tuple[str, Node]]]] = {}

    def look_at(self, tree: Tree) -> frozenset[str]:
        """Return the parts of a tree that are new."""
        parts: dict[str, list[tuple[str, Node]]] = {_SERVED: [], _UPLOADS: [], _DRIVER: []}
        for item in tree.items():
            path = item[0]
            kind = (
                _DRIVER if path.startswith(_DRIVER) else _UPLOADS if _UPLOADS in path else _SERVED
            )
            parts[kind].append(item)
        new = set()
        for kind, items in parts.items():
            seen = self._parts.setdefault(kind, set())
            part = frozenset(items)
            if part not in seen:
                seen.add(part)
                new.add(kind)
        return frozenset(new)


@contextlib.asynccontextmanager
async def _started(
    root: Path, options: StorageOptions | None = None
) -> AsyncIterator[tuple[Registry, FilesystemDriver]]:
    driver = FilesystemDriver(root)
    registry = Registry(driver, options)
    try:
        yield registry, driver
    finally:
        await registry.aclose()


def _require_same(first: Answers, second: Answers, but: set[Key] = frozenset()) -> None:  # type: ignore[assignment]
    changed = {
        wanted
        for wanted in first.keys() | second.keys()
        if first.get(wanted) != second.get(wanted) and wanted not in but
    }
    if changed:
        raise Broken("a second start is clean", changed)


def _is_garbage(path: str) -> bool:
    folder, _, name = path.rpartition("/")
    return folder.endswith(("/scratch", "/_uploads")) and bool(name)


def _describe(history: History, place: int, adversary: str) -> str:
    """Say what had happened before a cut, for people."""
    lines = [f"cut after {place} of {len(history.effects)} effects, {adversary}; before:"]
    lines += [
        f"  {operation.name}: from {operation.begun} to {operation.ended}, {operation.outcome.name}"
        for operation in history.operations
        if operation.begun <= place
    ]
    first = max(0, place - 12)
    for number, (effect, _) in enumerate(history.effects[first:place], first + 1):
        lines.append(f"  {number}: {effect}"[:200])
    return "\n".join(lines)
