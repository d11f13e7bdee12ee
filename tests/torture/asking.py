"""Asks any of some servers, and adds what they answer to a history."""

import random
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tests.integration.volumes import OCI_MANIFEST, digest_of
from tests.torture.histories import HERE, NEVER, Claim, History, Key, Thing
from tests.torture.linearizability import Kind
from tests.torture.talking import Answer, Line, Lost

MANIFEST_HEADERS = {"Content-Type": OCI_MANIFEST, "Accept": OCI_MANIFEST}

_EFFECTS = frozenset({Kind.WRITE, Kind.REMOVE, Kind.REMOVE_IF})

Outcomes = Mapping[int, Sequence[Claim]]
"""What each status that may be answered says; any other is a surprise."""


@dataclass(frozen=True, slots=True)
class Asker:
    """Somebody who asks; for one thread.

    Attributes:
        lines: Connections to each of the servers.
        history: Takes what was asked and answered.
    """

    lines: Sequence[Line]
    history: History
    chance: random.Random

    def change(
        self,
        method: str,
        path: str,
        outcomes: Outcomes,
        content: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Answer | None:
        """Ask for something, and add what the answer says to the history.

        Returns:
            The answer; None when it was lost, or is none of those that may come.
        """
        attempts = [
            claim for claims in outcomes.values() for claim in claims if claim.kind in _EFFECTS
        ]
        answer = self._ask(method, path, content, headers or {}, attempts)
        if answer is None:
            return None
        if answer.status not in outcomes:
            self.history.surprised(answer)
            self.history.attempted(answer.request, answer.began, NEVER, attempts)
            return None
        self.history.answered(answer, outcomes[answer.status])
        return answer

    def look(self, path: str) -> Answer | None:
        """Read a list; the caller adds what it says."""
        answer = self._ask("GET", path, b"", {}, [])
        if answer is not None and answer.status != 200:
            self.history.surprised(answer)
            return None
        return answer

    def look_at_manifest(
        self,
        name: str,
        reference: str,
        claims: Callable[[str | None], Sequence[Claim]],
        known: str | None = None,
    ) -> None:
        """Read a manifest, or ask whether it is there, and compare every byte with its digest.

        Args:
            name: The repository.
            reference: A tag or digest.
            claims: From the digest that is answered to what that says.
            known: The digest of one that need not be sent again.
        """
        method = "GET" if self.chance.random() < 0.8 else "HEAD"
        headers = dict(MANIFEST_HEADERS)
        if known is not None:
            headers["If-None-Match"] = f'"{known}"'
        answer = self._ask(method, f"/v2/{name}/manifests/{reference}", b"", headers, [])
        if answer is None:
            return
        digest = None if answer.status == 404 else answer.headers.get("docker-content-digest")
        if not _is_right(answer, method, digest, reference):
            self.history.surprised(answer)
            return
        self.history.answered(answer, claims(digest))

    def look_at_blob(self, name: str, digest: str) -> None:
        """Read a blob, or ask whether it is there, and compare every byte with its digest."""
        method = "GET" if self.chance.random() < 0.7 else "HEAD"
        answer = self._ask(method, f"/v2/{name}/blobs/{digest}", b"", {}, [])
        if answer is None:
            return
        told = None if answer.status == 404 else answer.headers.get("docker-content-digest")
        if not _is_right(answer, method, told, digest):
            self.history.surprised(answer)
            return
        key = Key(Thing.BLOB, name, digest)
        self.history.answered(answer, [Claim(key, Kind.READ, HERE if told else None)])

    def hang_up(self) -> None:
        """Close the connections."""
        for line in self.lines:
            line.hang_up()

    def _ask(
        self,
        method: str,
        path: str,
        content: bytes,
        headers: Mapping[str, str],
        attempts: Sequence[Claim],
    ) -> Answer | None:
        line = self.chance.choice(self.lines)
        try:
            return line.ask(method, path, content, headers)
        except Lost as lost:
            self.history.lost(lost, attempts)
            return None


def location_of(answer: Answer) -> str:
    """Return the path, with its query, that an answer leads to."""
    parts = urllib.parse.urlsplit(answer.headers["location"])
    return f"{parts.path}?{parts.query}"


def _is_right(answer: Answer, method: str, digest: str | None, reference: str) -> bool:
    """Tell whether content is what its digest says, and what was asked for."""
    match answer.status:
        case 404:
            return True
        case 200:
            is_intact = method == "HEAD" or digest_of(answer.content) == digest
        case 304:
            is_intact = digest is not None
        case _:
            return False
    return is_intact and (":" not in reference or digest == reference)
