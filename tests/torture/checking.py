"""Looks at all that a quiet registry serves, over HTTP alone, and holds it together.

Nobody else may use the registry meanwhile. What is seen goes into the history, where it has to
agree with what was acknowledged; what can't be right whatever was acknowledged is a surprise.
"""

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from typing_extensions import override

from tests.integration.volumes import digest_of
from tests.torture.asking import MANIFEST_HEADERS
from tests.torture.histories import HERE, Claim, History, Key, Thing
from tests.torture.linearizability import Kind, Value
from tests.torture.talking import Answer, Line

_SHOWN = 10


@dataclass
class Sweep:
    """One look at everything.

    Attributes:
        line: The connection to the registry.
        history: Takes what is seen.
        subjects: Manifests whose referrers are listed.
        hollow: The tags that are listed and can't be read, as a push to them was cut short.
    """

    line: Line
    history: History
    subjects: Iterable[str] = ()
    hollow: set[Key] = field(default_factory=set)
    _blobs: dict[tuple[str, str], bool] = field(default_factory=dict)
    _referrers: dict[tuple[str, str], set[str]] = field(default_factory=dict)

    def look(self, keys: Iterable[Key], pushed_to: set[str]) -> None:
        """Compare what is served with what is listed, and what it hangs together with.

        Args:
            keys: What clients touched, or as much of it as shall be looked at.
            pushed_to: All repositories that clients touched.
        """
        keys = set(keys)
        names = {key.repository for key in keys}
        catalog = set(self._catalog())
        if not catalog <= pushed_to:
            self.history.surprised(f"nobody pushed to {catalog - pushed_to}: the catalog has them")
        for name in sorted(names):
            tags = {key.name for key in keys if key[:2] == (Thing.TAG, name)}
            if self._look_at_tags(name, tags) and name not in catalog:
                self.history.surprised(f"the catalog lacks {name}, which has tags")
        for key in sorted(keys):
            if key.thing is Thing.MANIFEST:
                self._look_at_manifest(key.repository, key.name)
            elif key.thing is Thing.BLOB:
                self._look_at_blob(key.repository, key.name)
        for name in sorted(names):
            for subject in self.subjects:
                self._look_at_referrers(name, subject)

    def _catalog(self) -> list[str]:
        answer = self.line.ask("GET", "/v2/_catalog?n=1000")
        found: list[str] = json.loads(answer.content)["repositories"]
        return found

    def _look_at_tags(self, name: str, tags: set[str]) -> bool:
        """See that every tag that is listed is served, and no other; tell whether any is."""
        answer = self.line.ask("GET", f"/v2/{name}/tags/list")
        listed = set(json.loads(answer.content)["tags"] or []) if answer.status == 200 else set()
        for tag in sorted(tags | listed):
            key = Key(Thing.TAG, name, tag)
            manifest = self.line.ask("GET", f"/v2/{name}/manifests/{tag}", b"", MANIFEST_HEADERS)
            digest = self._read_manifest(name, manifest)
            self.history.answered(manifest, [Claim(key, Kind.READ, digest)])
            if (tag in listed) == (digest is not None):
                continue
            if tag in listed and self.history.may_be_hollow(key):
                self.hollow.add(key)
            else:
                self.history.surprised(f"{answer.request} lists {sorted(listed)}, and {manifest}")
        return bool(listed)

    def _look_at_manifest(self, name: str, wanted: str) -> None:
        answer = self.line.ask("GET", f"/v2/{name}/manifests/{wanted}", b"", MANIFEST_HEADERS)
        digest = self._read_manifest(name, answer)
        if digest not in {None, wanted}:
            self.history.surprised(answer)
        claim = Claim(Key(Thing.MANIFEST, name, wanted), Kind.READ, digest and HERE)
        self.history.answered(answer, [claim])

    def _read_manifest(self, name: str, answer: Answer) -> str | None:
        """Return the digest of a manifest that is served, whose blobs all are, too."""
        if answer.status == 404:
            return None
        digest = answer.headers.get("docker-content-digest", "")
        if answer.status != 200 or digest_of(answer.content) != digest:
            self.history.surprised(answer)
            return None
        manifest = json.loads(answer.content)
        for blob in [manifest["config"], *manifest["layers"]]:
            if not self._look_at_blob(name, blob["digest"]):
                self.history.surprised(f"{answer} dangles: {blob['digest']} is not served")
        if "subject" in manifest:
            of_subject = self._referrers.setdefault((name, manifest["subject"]["digest"]), set())
            of_subject.add(digest)
        return digest

    def _look_at_blob(self, name: str, digest: str) -> bool:
        if (name, digest) in self._blobs:
            return self._blobs[name, digest]
        answer = self.line.ask("GET", f"/v2/{name}/blobs/{digest}")
        is_here = answer.status == 200
        if answer.status not in {200, 404} or (is_here and digest_of(answer.content) != digest):
            self.history.surprised(f"{answer.request}: {answer.status}, or not what was pushed")
        key = Key(Thing.BLOB, name, digest)
        self.history.answered(answer, [Claim(key, Kind.READ, HERE if is_here else None)])
        self._blobs[name, digest] = is_here
        return is_here

    def _look_at_referrers(self, name: str, subject: str) -> None:
        """See that the referrers that are listed are those that are served."""
        answer = self.line.ask("GET", f"/v2/{name}/referrers/{subject}")
        listed = {entry["digest"] for entry in json.loads(answer.content)["manifests"]}
        if listed != self._referrers.get((name, subject), set()):
            self.history.surprised(f"{answer}: served are {self._referrers.get((name, subject))}")


@dataclass
class Books:
    """Keeps account of what may be there, from one quiet moment to the next.

    Attributes:
        history: What clients did and saw since the last one.
        subjects: Manifests whose referrers are listed.
        holds: What each register may have held then.
        operations: How many operations were looked at in all.
        seconds: How long the search took in all.
        left_hollow: The tags that were left without a link at any time.
    """

    history: History
    subjects: Iterable[str]
    holds: Mapping[Key, frozenset[Value]] = field(default_factory=dict)
    operations: int = 0
    seconds: float = 0.0
    left_hollow: set[Key] = field(default_factory=set)

    def keys(self) -> set[Key]:
        """Return every register that anybody ever touched."""
        return {*self.holds, *self.history.keys()}

    def balance(self, addresses: Iterable[str], keys: Iterable[Key] | None = None) -> None:
        """Look at what is served now, and see that the history explains it and itself.

        Args:
            addresses: The servers, which nobody else uses now.
            keys: What is looked at; everything by default.

        Raises:
            AssertionError: Something was served that can't be.
        """
        seen = self.keys()
        pushed_to = {key.repository for key in seen}
        hollow = set[Key]()
        for address in addresses:
            line = Line(address)
            sweep = Sweep(line, self.history, self.subjects)
            try:
                sweep.look(seen if keys is None else keys, pushed_to)
            finally:
                line.hang_up()
            hollow |= sweep.hollow
        began = time.monotonic()
        verdict = self.history.check(self.holds)
        self.seconds += time.monotonic() - began
        self.operations += verdict.operations
        trouble = [*map(str, verdict.reasons()), *self.history.surprises]
        assert not trouble, "\n".join(trouble[:_SHOWN])
        self.holds = verdict.after
        self.left_hollow |= hollow
        self.history.forget(hollow)

    @override
    def __str__(self) -> str:
        return (
            f"{self.history.counts.total()} requests, {self.history.counts['lost']} of them lost; "
            f"{self.operations} operations on {len(self.holds)} keys checked in "
            f"{self.seconds:.1f} s; {len(self.left_hollow)} tags left without a link"
        )
