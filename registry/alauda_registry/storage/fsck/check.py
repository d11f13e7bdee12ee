"""One check from its beginning to its end: reading, comparing, hashing, and looking again.

Blobs are read before the links to them: what a push makes meanwhile then looks like a link
without data, which another look clears up at once, and not like data without a link, which
only another check of everything could. They are hashed while the links are read, since neither
takes all cores; what that says is taken in when it is known whose the blobs are.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing
from dataclasses import dataclass, field, replace
from typing import Protocol

from alauda_registry.oci.digest import Digest
from alauda_registry.storage import locks, paths
from alauda_registry.storage.driver import Busy, DriverError, StorageDriver
from alauda_registry.storage.fsck.findings import REPAIRABLE, Finding, Kind, Severity
from alauda_registry.storage.fsck.ledger import Doubt, Ledger, Suspicion
from alauda_registry.storage.fsck.manifests import examine
from alauda_registry.storage.fsck.repairs import Repairer
from alauda_registry.storage.fsck.shapes import Sorter
from alauda_registry.storage.fsck.tree import Tree
from alauda_registry.storage.fsck.verdicts import Judge, Rules
from alauda_registry.storage.fsck.verification import Stretch, Verification

SETTLE_SECONDS = 1.0
"""How long after it was first seen something is looked at again."""

_DUE_AT_ONCE = 100
_TOLD_SECONDS = 0.5
_SCRATCH = "/_driver/scratch"
_NAMED = 3


class Watcher(Protocol):
    """Is told how far the check has come."""

    def begin(self, phase: str, total: int | None, unit: str) -> None:
        """A phase begins; ``total`` is how many units it has, or None when nobody knows."""
        ...

    def advance(self, count: int) -> None:
        """So many units more are done."""
        ...

    def reached(self, digest: Digest, suspects: Sequence[Digest]) -> None:
        """All blobs up to this one are hashed; among those since the last time are suspects."""
        ...


@dataclass(slots=True)
class Summary:
    """What a check has seen.

    Attributes:
        repositories: How many repositories there are.
        manifests: How many manifests they have.
        blobs: How many blobs there are, manifests included.
        blob_bytes: How many bytes they take.
        quarantined: How many files are in quarantine.
        counts: How many findings there are of each kind.
        sizes: How many bytes those take.
        repaired: How many findings of each kind were put right.
        given_back: What a repair that was killed had taken, and this one put back.
    """

    repositories: int = 0
    manifests: int = 0
    blobs: int = 0
    blob_bytes: int = 0
    quarantined: int = 0
    counts: Counter[Kind] = field(default_factory=Counter)
    sizes: Counter[Kind] = field(default_factory=Counter)
    repaired: Counter[Kind] = field(default_factory=Counter)
    given_back: list[str] = field(default_factory=list)

    def add(self, finding: Finding) -> None:
        """Count a finding."""
        self.counts[finding.kind] += 1
        self.sizes[finding.kind] += finding.size or 0
        self.repaired[finding.kind] += finding.repaired is not None

    def count(self, severity: Severity) -> int:
        """Return how many findings there are that matter that much, repaired or not."""
        return sum(count for kind, count in self.counts.items() if kind.severity is severity)

    @property
    def broken(self) -> int:
        """How much is broken, and still is."""
        fixed = sum(
            count for kind, count in self.repaired.items() if kind.severity is Severity.BROKEN
        )
        return self.count(Severity.BROKEN) - fixed

    @property
    def repairable(self) -> int:
        """How many findings could be put right and were not."""
        return sum(
            count - self.repaired[kind] for kind, count in self.counts.items() if kind in REPAIRABLE
        )


class Check:
    """Checks a storage once.

    Args:
        driver: The storage.
        tree: The way to read all of it.
        rules: What counts as wrong.
        watcher: Told how far it has come.
        repairer: Puts right what is found; None to leave everything alone.
        locking: Whether locks can be had; without them nothing is written, not even a lock.
        after: Hashing goes on behind this blob.
        suspects: What an earlier check, cut short, had found when it came there.
        settle_seconds: How long after it was first seen something is looked at again.
        now: The time, in seconds since 1970.
        clock: Another time, in seconds, that nobody sets.
    """

    def __init__(
        self,
        driver: StorageDriver,
        tree: Tree,
        rules: Rules,
        watcher: Watcher,
        *,
        repairer: Repairer | None = None,
        locking: bool = True,
        after: Digest | None = None,
        suspects: Sequence[Digest] = (),
        settle_seconds: float = SETTLE_SECONDS,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._driver = driver
        self._tree = tree
        self._rules = rules
        self._watcher = watcher
        self._repairer = repairer
        self._locking = locking
        self._suspects = suspects
        self._settle_seconds = settle_seconds
        self._now = now
        self._clock = clock
        self._judge = Judge(driver, rules, now)
        self._ledger = Ledger(keeps_needs=repairer is not None)
        self._verification = Verification(tree, self._ledger, after)
        self._undecided: deque[tuple[float, Stretch]] = deque()
        self._has_blobs = False
        self.summary = Summary()

    def close(self) -> None:
        """Drop what was noted."""
        self._ledger.close()

    async def findings(self) -> AsyncGenerator[Finding, None]:
        """Yield what is wrong as it is found; each finding is counted in the summary.

        Raises:
            Busy: Somebody else is repairing.
            DriverError: The storage can't be read, or not be prepared for repairs.
            sqlite3.Error: The folder for temporary files is full.
        """
        async with AsyncExitStack() as held:
            if self._repairer is not None:
                # Another run must not take this one for one that was cut short.
                await held.enter_async_context(
                    self._driver.lock("fsck-repair", exclusive=True, wait=0)
                )
                self.summary.given_back = await self._repairer.begin()
            held.push_async_callback(self._verification.stop)
            for part in (self._read, self._verify, self._finish):
                async with aclosing(part()) as found:
                    async for finding in found:
                        self.summary.add(finding)
                        yield finding

    async def _read(self) -> AsyncGenerator[Finding, None]:
        self._watcher.begin("reading", None, "files")
        started = self._now()
        sorter = Sorter(self._ledger, self._suspect)
        async with aclosing(self._tree.walk(paths.ROOT)) as batches:
            async for batch in batches:
                for file in batch:
                    while not sorter.take(file):
                        await self._examine(sorter)
                        self._compare()
                await self._examine(sorter)
                if self._rules.hashing:
                    self._verification.go_on()
                self._watcher.advance(len(batch))
                async for finding in self._look_again():
                    yield finding
        self._compare()
        self._ledger.suspect_unlinked(
            seen=self._clock(), before=started - self._rules.age.total_seconds()
        )
        async with aclosing(self._tree.walk(_SCRATCH)) as batches:
            async for batch in batches:
                for file in batch:
                    self._suspect(Suspicion(Doubt.STRAY, name=file.path))
        async with aclosing(self._tree.walk(paths.QUARANTINE)) as batches:
            async for batch in batches:
                self.summary.quarantined += len(batch)
        self.summary.repositories = sorter.repositories
        self.summary.blobs, self.summary.blob_bytes = self._ledger.count_blobs()

    def _suspect(self, suspicion: Suspicion) -> None:
        self._ledger.suspect(suspicion, self._clock())

    async def _examine(self, sorter: Sorter) -> None:
        """Look into the manifests that came up, and write down what came up so far."""
        found, sorter.manifests = sorter.manifests, []
        if found:
            digests = [digest for _, digest in found]
            examined = await self._tree.examine(digests, examine)
            for (repository, _), manifest in zip(found, examined, strict=True):
                manifest.note(self._ledger, repository)
            self.summary.manifests += len(found)
        self._ledger.write()

    def _compare(self) -> None:
        uploads_before = self._now() - self._rules.upload_age.total_seconds()
        self._ledger.judge(seen=self._clock(), uploads_before=uploads_before)

    async def _verify(self) -> AsyncGenerator[Finding, None]:
        """Take in what hashing says of the blobs that have not been looked into so far."""
        if not self._rules.hashing:
            return
        for digest in self._suspects:
            self._suspect(Suspicion(Doubt.BYTES, digest=digest))
        self._watcher.begin("hashing", self._verification.total(), "B")
        while (found := await self._verification.stretches(patience=_TOLD_SECONDS)) is not None:
            self._watcher.advance(self._verification.take_hashed())
            for stretch in found:
                # Some were hashed before it was known that they are manifests, and those have
                # been told of: they are not quarantined, as the revision would lead to nothing.
                stretch.wrong = [
                    digest for digest in stretch.wrong if not self._ledger.is_examined(digest)
                ]
                for digest in stretch.wrong:
                    self._suspect(Suspicion(Doubt.BYTES, digest=digest))
                self._undecided.append((self._clock(), stretch))
            async for finding in self._look_again():
                yield finding

    async def _finish(self) -> AsyncGenerator[Finding, None]:
        """Look at everything again that is left."""
        self._watcher.begin("looking again", None, "")
        while (latest := self._ledger.latest_suspicion()) is not None:
            await asyncio.sleep(max(0.0, latest + self._settle_seconds - self._clock()))
            async for finding in self._look_again():
                yield finding

    async def _look_again(self) -> AsyncGenerator[Finding, None]:
        """Look at what came up some time ago."""
        before = self._clock() - self._settle_seconds
        while due := self._ledger.due(before, limit=_DUE_AT_ONCE):
            for _, suspicion in due:
                finding = await self._decide(suspicion)
                if finding is not None:
                    yield self._explain(finding)
            self._ledger.drop([number for number, _ in due])
        # Whoever stops here and goes on behind these has been told of them.
        while self._undecided and (
            self._undecided[0][0] <= before or not self._undecided[0][1].wrong
        ):
            _, stretch = self._undecided.popleft()
            self._watcher.reached(stretch.last, stretch.wrong)

    async def _decide(self, suspicion: Suspicion) -> Finding | None:
        failure = None
        # A repairer never works without locks: they failed, and it says so.
        # Sizes are not repaired, and to be told apart from corrupt bytes they need those hashed.
        is_locked = suspicion.repository and suspicion.doubt is not Doubt.SIZE
        if is_locked and (self._locking or self._repairer is not None):
            try:
                async with self._lock(suspicion.repository):
                    return await self._act_on(await self._judge.decide(suspicion))
            except Busy as busy:
                failure = str(busy)
            except DriverError as error:
                failure = str(error)
                self._locking = False
        finding = await self._judge.decide(suspicion)
        if finding is not None and suspicion.repository:
            finding = await self._judge.decide(suspicion)
        if failure is None:
            return await self._act_on(finding)
        if finding is None or self._repairer is None:
            return finding
        return replace(finding, failure=failure)

    def _lock(self, repository: str) -> AbstractAsyncContextManager[None]:
        if self._repairer is not None:
            return locks.deleting(self._driver, repository)
        return locks.pushing(self._driver, repository)

    async def _act_on(self, finding: Finding | None) -> Finding | None:
        if finding is None or self._repairer is None:
            return finding
        self._has_blobs = self._has_blobs or self._ledger.count_blobs()[0] > 0
        if not self._has_blobs:
            return replace(finding, failure="not one blob is there: is something not mounted?")
        return await self._repair(self._repairer, finding)

    async def _repair(self, repairer: Repairer, finding: Finding) -> Finding:
        try:
            done = await repairer.repair(finding)
        except DriverError as error:
            return replace(finding, failure=str(error))
        if done is not None and finding.kind is Kind.BLOB_CORRUPT and finding.digest is not None:
            digest = Digest.parse(finding.digest)
            self._ledger.suspect_links(digest, seen=self._clock(), reason="corrupt")
            # What was taken away is put right, and what needs it is not.
            self._ledger.suspect_needs(digest, seen=self._clock())
        return replace(finding, repaired=done)

    def _explain(self, finding: Finding) -> Finding:
        """Say whose a corrupt blob is."""
        if finding.kind is not Kind.BLOB_CORRUPT or finding.digest is None:
            return finding
        names, count = self._ledger.linking(Digest.parse(finding.digest), limit=_NAMED)
        whose = ", ".join(names) + (f" and {count - len(names)} more" if count > _NAMED else "")
        return replace(finding, message=f"{finding.message}; in {whose or 'no repository'}")
