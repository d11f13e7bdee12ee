"""How far hashing came, in a file, so that a check that was cut short goes on where it was."""

import contextlib
import json
import os
import stat
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
        # Nobody has to be at the other end of a pipe for it to be opened like this.
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK, 0o666)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OtherTree(f"{path} is no file: name another one")
        file = open(fd, "a+", errors="replace")  # noqa: SIM115 -- it stays open
        try:
            file.seek(0)
            progress._begin(file, root)
        except BaseException:
            file.close()
            raise
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

    def _begin(self, file: IO[str], root: str) -> None:
        lines = [line for line in file.read().splitlines() if line]
        if lines:
            header = _decode(lines[0])
            if header.get("fsck") != root:
                told = header.get("fsck")
                about = "was not written by fsck" if told is None else f"is about {told}"
                raise OtherTree(f"{self.path} {about}: name another file, or remove it")
            for line in lines[1:]:
                self._take(_decode(line))
        self._file = file
        if not lines:
            self._write({"fsck": root})

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
