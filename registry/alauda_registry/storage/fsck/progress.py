"""How far hashing came, in a file, so that a check that was cut short goes on where it was."""

import contextlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

from alauda_registry.oci.digest import Digest
from alauda_registry.oci.errors import DigestInvalid


class OtherTree(Exception):
    """The file is about another tree, or is no such file at all."""


@dataclass
class Progress:
    """A file with a line for each stretch that was hashed.

    Attributes:
        after: The last blob that was hashed; None at the beginning.
        suspects: The blobs that did not match their digests.
    """

    path: Path
    after: Digest | None = None
    suspects: list[Digest] = field(default_factory=list)
    _file: IO[str] | None = None

    @classmethod
    def open(cls, path: Path, root: str) -> Self:
        """Read a file, or begin it.

        Args:
            path: The file.
            root: Which tree it is about.

        Raises:
            OSError: It can't be read or written.
            OtherTree: It is about another tree, or is something else.
        """
        progress = cls(path)
        text = path.read_text(errors="replace") if path.exists() else ""
        lines = [line for line in text.splitlines() if line]
        if lines:
            header = _decode(lines[0])
            if header.get("fsck") != root:
                told = header.get("fsck")
                about = "was not written by fsck" if told is None else f"is about {told}"
                raise OtherTree(f"{path} {about}: name another file, or remove it")
            for line in lines[1:]:
                progress._take(_decode(line))
        progress._file = path.open("a")
        if not lines:
            progress._write({"fsck": root})
        return progress

    def reached(self, digest: Digest, suspects: list[Digest]) -> None:
        """Write down that everything up to a blob was hashed.

        Raises:
            OSError: It can't be written.
        """
        self._write({"after": str(digest), "suspects": [str(suspect) for suspect in suspects]})

    def finish(self) -> None:
        """Remove the file: there is nothing to go on with."""
        self.close()
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Keep the file for the next check."""
        if self._file is not None:
            file, self._file = self._file, None
            # Where there is no room for the last line, the ones before it are good enough.
            with contextlib.suppress(OSError):
                file.close()

    def _take(self, fields: dict[str, Any]) -> None:
        try:
            after = Digest.parse(fields["after"])
            suspects = [Digest.parse(text) for text in fields["suspects"]]
        except (KeyError, TypeError, DigestInvalid):
            return
        self.after = after
        self.suspects += suspects

    def _write(self, fields: dict[str, Any]) -> None:
        if self._file is None:
            return
        # In front, too: a line that was cut short must not swallow the next one.
        self._file.write(f"\n{json.dumps(fields)}\n")
        self._file.flush()


def _decode(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
