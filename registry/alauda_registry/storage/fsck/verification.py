"""Comparing all blobs with their digests, in byte order, while the tree is still read.

Hashing begins when the first blobs are known and goes on beside the walk, so that no core
waits for another. What does not match is kept until somebody asks for it: whose it is, is known
only when all links have been read.
"""

import asyncio
import threading
from collections import deque
from dataclasses import dataclass, field

from alauda_registry.oci.digest import Digest
from alauda_registry.storage.fsck.files import Outcome
from alauda_registry.storage.fsck.ledger import Ledger
from alauda_registry.storage.fsck.tree import Tree

_AT_ONCE = 8
"""How many batches are under way at least, and no more than twice as many as can be hashed."""

_FILES = 256
_BYTES = 32 * 1024 * 1024
_KEPT_WRONG = 1000


@dataclass(slots=True)
class Stretch:
    """Blobs that follow one another and were hashed.

    Attributes:
        last: The last of them.
        wrong: Those that do not match their digests.
    """

    last: Digest
    wrong: list[Digest] = field(default_factory=list)


class Verification:
    """Hashes what a ledger knows of.

    Args:
        tree: Hashes.
        ledger: Knows the blobs; those it learns of have to come behind those it knows.
        after: Hashing begins behind this blob.
    """

    def __init__(self, tree: Tree, ledger: Ledger, after: Digest | None) -> None:
        self._tree = tree
        self._ledger = ledger
        self._after = after
        # The first of them may be the largest, and those behind it are done by then.
        self._at_once = max(_AT_ONCE, 2 * tree.jobs)
        self._batches: deque[tuple[Digest, asyncio.Future[list[tuple[Digest, Outcome]]]]] = deque()
        self._stretches: deque[Stretch] = deque()
        self._failure: BaseException | None = None
        self._guard = threading.Lock()
        self._hashed = 0
        self._taken = 0

    def total(self) -> int:
        """Return how many bytes there are to be hashed, of all blobs known by now."""
        return self._taken + self._ledger.bytes_to_verify(self._after)

    def take_hashed(self) -> int:
        """Return how many bytes were hashed since the last time."""
        with self._guard:
            hashed, self._hashed = self._hashed, 0
        return hashed

    def go_on(self) -> None:
        """Begin with more, as far as that is known and not too much is under way."""
        kept = sum(len(stretch.wrong) for stretch in self._stretches)
        while self._failure is None and len(self._batches) < self._at_once and kept < _KEPT_WRONG:
            batch = self._next_batch()
            if not batch:
                return
            self._after = batch[-1]
            task = asyncio.ensure_future(self._tree.verify(batch, self._advance))
            self._batches.append((batch[-1], task))
            task.add_done_callback(self._take_in)

    async def stretches(self, *, patience: float | None) -> list[Stretch] | None:
        """Wait until more is hashed, and return it; None when all is.

        Args:
            patience: How long to wait, in seconds; None for as long as it takes.

        Raises:
            DriverError: Hashing can't go on.
        """
        self.go_on()
        if not self._stretches and self._failure is None:
            if not self._batches:
                return None
            await asyncio.wait([self._batches[0][1]], timeout=patience)
        if self._failure is not None:
            raise self._failure
        found = list(self._stretches)
        self._stretches.clear()
        return found

    async def stop(self) -> None:
        """Give up what is under way, and the tree with it."""
        if self._batches:
            # Blobs may take minutes, and threads that wait for them can't be cancelled.
            self._tree.interrupt()
        tasks = [task for _, task in self._batches]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _next_batch(self) -> list[Digest]:
        batch: list[Digest] = []
        room = _BYTES
        for digest, size in self._ledger.unverified(self._after, limit=_FILES):
            if batch and room < size:
                break
            batch.append(digest)
            room -= size
            self._taken += size
        return batch

    def _advance(self, count: int) -> None:
        with self._guard:
            self._hashed += count

    def _take_in(self, _: object) -> None:
        """Take in what is hashed from the beginning without a gap, and begin with more."""
        while self._batches and self._batches[0][1].done():
            last, task = self._batches.popleft()
            failure = asyncio.CancelledError() if task.cancelled() else task.exception()
            if failure is not None:
                self._failure = failure
                return
            wrong = [digest for digest, outcome in task.result() if outcome is not Outcome.GONE]
            if wrong or not self._stretches or self._stretches[-1].wrong:
                self._stretches.append(Stretch(last, wrong))
            else:
                self._stretches[-1].last = last
        self.go_on()
