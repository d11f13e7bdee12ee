"""How findings are shown: as text for people, as JSON for programs, and a meter meanwhile."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn, Protocol

from typing_extensions import override

from alauda_registry.oci.digest import Digest
from alauda_registry.storage.fsck.check import Summary
from alauda_registry.storage.fsck.findings import ADVICE, Finding, Kind, Severity

if TYPE_CHECKING:
    from tqdm import tqdm


_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


class Report(Protocol):
    """Shows findings on the standard output."""

    def add(self, finding: Finding) -> None:
        """Show a finding."""
        ...

    def end(self, summary: Summary, *, hashed: bool, after: Digest | None) -> None:
        """Show what it comes to.

        Args:
            summary: What was seen.
            hashed: Whether blobs were compared with their digests.
            after: Only those behind this one; None when it was all of them.
        """
        ...


class JsonReport(Report):
    """Writes an object on each line: the findings, and then the summary."""

    @override
    def add(self, finding: Finding) -> None:
        _write(json.dumps(finding.to_json()))

    @override
    def end(self, summary: Summary, *, hashed: bool, after: Digest | None) -> None:
        counts = {
            severity.value: {
                kind.value: {
                    "count": summary.counts[kind],
                    "bytes": summary.sizes[kind],
                    "repaired": summary.repaired[kind],
                }
                for kind in Kind
                if kind.severity is severity and summary.counts[kind]
            }
            for severity in Severity
        }
        fields = {
            "result": "broken" if summary.broken else "sound",
            "hashed": hashed and after is None,
            "hashed_after": None if after is None else str(after),
            "repositories": summary.repositories,
            "manifests": summary.manifests,
            "blobs": summary.blobs,
            "bytes": summary.blob_bytes,
            "quarantined": summary.quarantined,
            "given_back": summary.given_back,
            "findings": counts,
        }
        _write(json.dumps({"summary": fields}))


class TextReport(Report):
    """Lists what is broken and what was repaired, and sums up the rest.

    Args:
        is_verbose: Whether garbage and notes are listed, too.
    """

    def __init__(self, is_verbose: bool) -> None:
        self._is_verbose = is_verbose

    @override
    def add(self, finding: Finding) -> None:
        is_told = finding.repaired or finding.failure
        if not (self._is_verbose or is_told or finding.kind.severity is Severity.BROKEN):
            return
        _write(
            f"{finding.kind.severity:7} {finding.kind:20} {_subject(finding)}: {finding.message}"
        )
        _write(f"        {finding.path}")
        if finding.repaired:
            _write(f"        repaired: {finding.repaired}")
        if finding.failure:
            _write(f"        not repaired: {finding.failure}")

    @override
    def end(self, summary: Summary, *, hashed: bool, after: Digest | None) -> None:
        if summary.counts:
            _write("")
        for kind in Kind:
            if summary.counts[kind]:
                self._kind(kind, summary)
        size = format_bytes(summary.blob_bytes)
        read = f"{summary.repositories} repositories, {summary.manifests} manifests"
        how = "hashed" if hashed else "not hashed"
        how = how if after is None else f"of which those behind {after} are hashed"
        _write(f"{read}, {summary.blobs} blobs of {size} in all, {how}")
        for path in summary.given_back:
            _write(f"put back, as a repair that was killed had just taken it: {path}")
        if summary.quarantined:
            _write(f"{summary.quarantined} files lie in _fsck/quarantine: remove it when you like")
        if summary.repairable and not summary.repaired.total():
            _write(f"{summary.repairable} of these can be repaired: add --repair")
        verdict = f"{summary.broken} broken" if summary.broken else "nothing is broken"
        _write(f"{verdict}, {summary.count(Severity.GARBAGE)} garbage")

    def _kind(self, kind: Kind, summary: Summary) -> None:
        count, size, repaired = summary.counts[kind], summary.sizes[kind], summary.repaired[kind]
        details = [format_bytes(size)] if size else []
        details += [f"{repaired} repaired"] if repaired else []
        more = f" ({', '.join(details)})" if details else ""
        _write(f"{kind.severity:7} {kind:20} {count}{more}: {ADVICE[kind]}")


class Meter:
    """Shows on a terminal how far something is.

    Args:
        is_shown: Whether it does.
    """

    def __init__(self, is_shown: bool) -> None:
        self._is_shown = is_shown
        self._bar: tqdm[NoReturn] | None = None

    def begin(self, phase: str, total: int | None, unit: str) -> None:
        """Show another phase; ``total`` is None when nobody knows."""
        self.close()
        if not self._is_shown:
            return
        from tqdm import tqdm

        self._bar = tqdm(
            desc=phase, total=total, unit=unit, unit_scale=True, leave=False, dynamic_ncols=True
        )

    def advance(self, count: int) -> None:
        """Show that so many units more are done."""
        if self._bar is not None:
            self._bar.update(count)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the terminal to others for a moment."""
        if self._bar is not None:
            self._bar.clear()
        yield

    def close(self) -> None:
        """Show nothing any more."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def format_bytes(count: int) -> str:
    """Write a number of bytes for people."""
    size = float(count)
    units = iter(_UNITS)
    unit = next(units)
    while size >= 1024 and unit != _UNITS[-1]:
        size, unit = size / 1024, next(units)
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


def _subject(finding: Finding) -> str:
    name = finding.repository or ""
    if finding.tag is not None:
        return f"{name}:{finding.tag}"
    if finding.digest is not None:
        return f"{name}@{finding.digest}" if name else finding.digest
    return name or "storage"


def _write(line: str) -> None:
    sys.stdout.write(f"{line}\n")
