"""What clients did and saw, key by key, and whether a registry that is never stale explains it.

A tag is a register that holds a digest; a manifest and a blob of a repository are registers
that hold something or nothing. Each is linearizable or not for itself, whatever the others do,
so each has a history of its own.
"""

import bisect
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple

from tests.torture.linearizability import Contradiction, Kind, Operation, Value, check
from tests.torture.talking import Answer, Lost

HERE = "here"
"""What the register of a manifest or blob holds when the repository has it."""

NEVER = float("inf")
_NOTHING = frozenset[Value]({None})


class Thing(StrEnum):
    """What a key stands for."""

    TAG = "tag"
    MANIFEST = "manifest"
    BLOB = "blob"


class Key(NamedTuple):
    """One register: something in a repository, by its tag or digest."""

    thing: Thing
    repository: str
    name: str


class Claim(NamedTuple):
    """What an answer says of a key."""

    key: Key
    kind: Kind
    value: Value = None


@dataclass
class History:
    """What happened so far; clients in many threads add to it.

    Attributes:
        surprises: Answers that no client should get, whatever the others do.
        counts: How often each sort of request was answered, by method and status.
        hollow: Tags that a push which was cut short left as garbage: a folder without a link. They
            are listed, can't be read, and can be deleted.
        writes_again: Whether a push that meets the deletion of a manifest of its repository may
            lose its tag, and write tag and manifest again, until it is answered. Over a bucket
            pushes take no lock, and do so.
    """

    writes_again: bool = False
    hollow: set[Key] = field(default_factory=set)
    surprises: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    _operations: dict[Key, list[Operation]] = field(default_factory=lambda: defaultdict(list))
    _listed: dict[Key, list[Operation]] = field(default_factory=lambda: defaultdict(list))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answered(self, answer: Answer, claims: Iterable[Claim]) -> None:
        """Add what an answer says."""
        method = answer.request.partition(" ")[0]
        self.counts[f"{method} {answer.status}"] += 1
        self._add(answer.request, answer.began, answer.ended, claims, is_certain=True)

    def listed(self, answer: Answer, keys: Iterable[Key]) -> None:
        """Add what an answer lists: what is there, or is just being written."""
        with self._lock:
            for key in keys:
                self._listed[key].append(
                    Operation(answer.began, answer.ended, Kind.READ_SOME, note=answer.request)
                )

    def lost(self, lost: Lost, attempts: Iterable[Claim]) -> None:
        """Add what may have happened until a connection broke off."""
        self.attempted(str(lost), lost.began, lost.ended, attempts)

    def acknowledged(
        self, request: str, began: float, ended: float, claims: Iterable[Claim]
    ) -> None:
        """Add what some other client was told."""
        self.counts[request] += 1
        self._add(request, began, ended, claims, is_certain=True)

    def attempted(
        self, request: str, began: float, ended: float, attempts: Iterable[Claim]
    ) -> None:
        """Add what may have happened."""
        self.counts["lost"] += 1
        self._add(request, began, ended, attempts, is_certain=False)

    def surprised(self, what: object) -> None:
        """Add what should not have been answered."""
        self.surprises.append(str(what))

    def keys(self) -> set[Key]:
        """Return the keys that something happened to."""
        return self._operations.keys() | self._listed.keys()

    def forget(self, hollow: set[Key]) -> None:
        """Begin anew, after a check; what was counted stays.

        Args:
            hollow: The tags that are garbage now.
        """
        self.hollow = hollow
        self._operations.clear()
        self._listed.clear()

    def may_be_hollow(self, key: Key) -> bool:
        """Tell whether a push to a tag may have left its folder alone."""
        return key in self.hollow or any(
            found.kind is Kind.WRITE and not found.is_certain
            for found in self._operations.get(key, [])
        )

    def check(self, before: Mapping[Key, frozenset[Value]] | None = None) -> "Verdict":
        """Tell whether a registry that is never stale explains what happened.

        Args:
            before: What the registers may have held at the beginning; nothing by default.
        """
        contradictions: dict[Key, Contradiction] = {}
        after = dict(before or {})
        count = 0
        for key in self.keys():
            operations = self._operations.get(key, [])
            listed = self._listed.get(key, [])
            if key.thing is Thing.TAG and self.may_be_hollow(key):
                operations, listed = [_also_of_nothing(found) for found in operations], []
            if key.thing is not Thing.BLOB and self.writes_again:
                deletions = self._deletions(key.repository)
                operations = _written_again(key, operations, deletions)
            seen = operations + _not_being_written(listed, operations)
            count += len(seen)
            contradiction, final = check(seen, after.get(key, _NOTHING))
            after[key] = final
            if contradiction is not None:
                contradictions[key] = contradiction
        return Verdict(contradictions, after, count, len(after))

    def _deletions(self, repository: str) -> list[Operation]:
        """Return the deletions of manifests of a repository; one that finds none is one, too."""
        return [
            found
            for key, operations in self._operations.items()
            if key.thing is Thing.MANIFEST and key.repository == repository
            for found in operations
            if found.note.lower().startswith("delete ")
        ]

    def _add(
        self,
        request: str,
        began: float,
        ended: float,
        claims: Iterable[Claim],
        *,
        is_certain: bool,
    ) -> None:
        with self._lock:
            for key, kind, value in claims:
                operation = Operation(began, ended, kind, value, is_certain, request)
                self._operations[key].append(operation)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check of histories found.

    Attributes:
        contradictions: What nothing explains, by key.
        after: What the registers may hold at the end.
        operations: How many operations were looked at.
        keys: Of how many keys.
    """

    contradictions: Mapping[Key, Contradiction]
    after: Mapping[Key, frozenset[Value]]
    operations: int
    keys: int

    def reasons(self) -> list[str]:
        """Return one text for each key whose history can't be."""
        return [f"{' '.join(key)}: {why}" for key, why in self.contradictions.items()]


def _also_of_nothing(operation: Operation) -> Operation:
    """Let a removal be one of a folder, too, which was there without a link."""
    if operation.kind is not Kind.REMOVE:
        return operation
    return replace(operation, kind=Kind.WRITE, value=None)


def _written_again(
    key: Key, operations: list[Operation], deletions: list[Operation]
) -> list[Operation]:
    """Let writes show before they count once they have met the deletion of a manifest.

    The tag may be gone in between: because it was deleted with another manifest, that it pointed to
    when this was looked at, or because the very manifest was deleted before the tag was written.
    """
    gone = _NOTHING if key.thing is Thing.TAG else frozenset[Value]()
    found = []
    for operation in operations:
        met = [
            deletion.began
            for deletion in deletions
            if deletion.began <= operation.ended and deletion.ended >= operation.began
        ]
        if met and operation.kind is Kind.WRITE and operation.value is not None:
            shows = gone | {operation.value}
            found.append(replace(operation, shows=shows, shows_from=min(met)))
        else:
            found.append(operation)
    return found


def _not_being_written(listed: list[Operation], operations: list[Operation]) -> list[Operation]:
    """Leave out what was listed while somebody wrote it.

    A tag's folder is made before its link, and lists show the folder.
    """
    writes = sorted((found.began, found.ended) for found in operations if found.kind is Kind.WRITE)
    longest = max((ended - began for began, ended in writes), default=0.0)
    kept = []
    for found in listed:
        first = bisect.bisect_left(writes, (found.began - longest, 0.0))
        last = bisect.bisect_right(writes, (found.ended, NEVER))
        if not any(ended >= found.began for _, ended in writes[first:last]):
            kept.append(found)
    return kept
