"""What was found in a tree, on disk and out of memory, and what does not add up in it.

A tree may hold many millions of files, so what has to be compared with one another goes into a
database of its own: a temporary one that the system removes with the process. Everything
a repository needs to be judged is there when its last file has been read; it is then judged
and forgotten, except for what its links lead to.

What comes out are suspicions: reading takes time, and others write meanwhile.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from alauda_registry.oci.digest import Algorithm, Digest

_CACHE_KIBIBYTES = 32 * 1024

_ALGORITHMS = tuple(Algorithm)
_ENCODED_LENGTHS = tuple(len(algorithm.hasher().hexdigest()) for algorithm in _ALGORITHMS)
_NUMBERS = {algorithm.value: number for number, algorithm in enumerate(_ALGORITHMS)}


def key_of(algorithm: str, encoded: str) -> bytes | None:
    """Return a short form of a digest that sorts like it, or None when it is no digest."""
    number = _NUMBERS.get(algorithm)
    if number is None or len(encoded) != _ENCODED_LENGTHS[number]:
        return None
    try:
        raw = bytes.fromhex(encoded)
    except ValueError:
        return None
    return bytes((number,)) + raw if raw.hex() == encoded else None


def key(digest: Digest) -> bytes:
    """Return the short form of a digest."""
    return bytes((_NUMBERS[digest.algorithm],)) + bytes.fromhex(digest.encoded)


def digest_of(key: bytes) -> Digest:
    """Return the digest of a short form."""
    return Digest(_ALGORITHMS[key[0]], key[1:].hex())


class Condition(IntEnum):
    """What reading a manifest said."""

    FINE = 0
    MISSING = 1
    WRONG = 2
    INVALID_LINK = 3
    UNUSUAL = 4


class Doubt(StrEnum):
    """What has to be looked at again."""

    STRAY = "stray"
    TROUBLE = "trouble"
    LINK = "link"
    LAYER = "layer"
    MANIFEST = "manifest"
    NEED = "need"
    CHILD = "child"
    SIZE = "size"
    TAG = "tag"
    HISTORY = "history"
    REFERRER = "referrer"
    SUBJECT = "subject"
    UPLOAD = "upload"
    UNLINKED = "unlinked"
    BYTES = "bytes"


@dataclass(frozen=True, slots=True)
class Suspicion:
    """Something that looked wrong while the tree was read.

    Attributes:
        doubt: What it looked like.
        repository: Whose it is, or "".
        name: A path, a tag, or whatever else the doubt is about.
        digest: The content that it is about.
        other: Another content that has to do with it.
    """

    doubt: Doubt
    repository: str = ""
    name: str = ""
    digest: Digest | None = None
    other: Digest | None = None


_SCHEMA = """
CREATE TABLE blob(digest BLOB PRIMARY KEY, size INT, modified REAL, is_read INT) WITHOUT ROWID;
CREATE TABLE linked(digest BLOB, repository TEXT, layer BLOB);
CREATE TABLE needed(repository TEXT, manifest BLOB, digest BLOB);
CREATE TABLE layer(
    repository TEXT, digest BLOB, target BLOB, PRIMARY KEY(repository, digest)) WITHOUT ROWID;
CREATE TABLE revision(
    repository TEXT, digest BLOB, condition INT, PRIMARY KEY(repository, digest)) WITHOUT ROWID;
CREATE TABLE need(repository TEXT, manifest BLOB, digest BLOB, size INT);
CREATE TABLE child(repository TEXT, manifest BLOB, digest BLOB);
CREATE TABLE tag(repository TEXT, tag TEXT, target BLOB,
    PRIMARY KEY(repository, tag)) WITHOUT ROWID;
CREATE TABLE history(repository TEXT, tag TEXT, digest BLOB);
CREATE TABLE subject(repository TEXT, entry TEXT, manifest BLOB, content BLOB,
    PRIMARY KEY(repository, entry)) WITHOUT ROWID;
CREATE TABLE entry(repository TEXT, entry TEXT, manifest BLOB, content BLOB,
    PRIMARY KEY(repository, entry)) WITHOUT ROWID;
CREATE TABLE upload(repository TEXT, id TEXT, modified REAL,
    PRIMARY KEY(repository, id)) WITHOUT ROWID;
CREATE TABLE suspicion(number INTEGER PRIMARY KEY, seen REAL, doubt TEXT, repository TEXT,
    name TEXT, digest BLOB, other BLOB);
"""

_JUDGE = (
    # What a manifest needs, and the repository does not link or nobody has the bytes of.
    ("need", "repository, '', need.manifest, need.digest", """
        FROM need LEFT JOIN layer USING (repository, digest)
        LEFT JOIN blob ON blob.digest = layer.target WHERE blob.digest IS NULL"""),
    ("size", "DISTINCT repository, '', layer.target, need.manifest", """
        FROM need JOIN layer USING (repository, digest)
        JOIN blob ON blob.digest = layer.target WHERE blob.size != need.size"""),
    ("layer", """repository, CASE WHEN (repository, layer.digest) IN (
        SELECT repository, other FROM suspicion WHERE doubt = 'need') THEN 'needed' ELSE '' END,
        layer.digest, NULL""", """
        FROM layer LEFT JOIN blob ON blob.digest = layer.target
        WHERE blob.digest IS NULL AND layer.target IS NOT NULL"""),
    ("manifest", "repository, '', digest, NULL", "FROM revision WHERE condition IN (1, 2, 4)"),
    ("child", "repository, '', child.manifest, child.digest", """
        FROM child LEFT JOIN revision USING (repository, digest)
        WHERE ifnull(condition, 1) IN (1, 3)"""),
    ("tag", "tag.repository, tag, target, NULL", """
        FROM tag LEFT JOIN revision ON revision.repository = tag.repository
        AND revision.digest = tag.target
        WHERE tag.target IS NOT NULL AND ifnull(condition, 1) IN (1, 3)"""),
    ("tag", "DISTINCT history.repository, history.tag, NULL, NULL", """
        FROM history LEFT JOIN tag USING (repository, tag) WHERE tag.tag IS NULL"""),
    ("history", "repository, tag, history.digest, NULL", """
        FROM history LEFT JOIN revision USING (repository, digest)
        WHERE ifnull(condition, 1) IN (1, 3)"""),
    ("referrer", "entry.repository, entry.entry, entry.manifest, NULL", """
        FROM entry LEFT JOIN revision ON revision.repository = entry.repository
        AND revision.digest = entry.manifest
        LEFT JOIN subject ON subject.repository = entry.repository
        AND subject.entry = entry.entry
        WHERE ifnull(condition, 1) IN (1, 3) OR (condition = 0 AND subject.entry IS NULL)"""),
    ("subject", "repository, entry, subject.manifest, NULL", """
        FROM subject LEFT JOIN entry USING (repository, entry)
        WHERE entry.content IS NULL OR entry.content != subject.content"""),
    ("upload", "repository, id, NULL, NULL", "FROM upload WHERE modified < :uploads_before"),
)  # fmt: skip

_OF_REPOSITORIES = (
    "layer", "revision", "need", "child", "tag", "history", "subject", "entry", "upload",
)  # fmt: skip

_INSERTS = {
    "blob": "INSERT OR REPLACE INTO blob VALUES(?, ?, ?, 0)",
    "layer": "INSERT OR REPLACE INTO layer VALUES(?, ?, ?)",
    "revision": "INSERT OR REPLACE INTO revision VALUES(?, ?, ?)",
    "need": "INSERT INTO need VALUES(?, ?, ?, ?)",
    "child": "INSERT INTO child VALUES(?, ?, ?)",
    "tag": "INSERT OR REPLACE INTO tag VALUES(?, ?, ?)",
    "history": "INSERT INTO history VALUES(?, ?, ?)",
    "subject": "INSERT OR REPLACE INTO subject VALUES(?, ?, ?, ?)",
    "entry": "INSERT OR REPLACE INTO entry VALUES(?, ?, ?, ?)",
    "upload": "INSERT INTO upload VALUES(?, ?, ?) ON CONFLICT DO UPDATE "
    "SET modified = max(modified, excluded.modified)",
    "read": "UPDATE blob SET is_read = 1 WHERE digest = ?",
}

Row = tuple[str | bytes | int | float | None, ...]


class Ledger:
    """A database of what a tree holds, for as long as it is checked.

    Raises:
        sqlite3.Error: From every method, when the folder for temporary files is full.
    """

    def __init__(self, *, keeps_needs: bool = False) -> None:
        self._keeps_needs = keeps_needs
        # The empty name stands for a temporary file.
        self._database = sqlite3.connect("", isolation_level=None)
        for setting in ("journal_mode=OFF", "synchronous=OFF", "temp_store=FILE",
                        f"cache_size=-{_CACHE_KIBIBYTES}"):  # fmt: skip
            self._database.execute(f"PRAGMA {setting}")
        self._database.executescript(_SCHEMA)
        self._rows: dict[str, list[Row]] = {table: [] for table in _INSERTS}

    def close(self) -> None:
        """Drop everything."""
        self._database.close()

    def note(self, table: str, row: Row) -> None:
        """Take note of something; :meth:`write` writes it down."""
        self._rows[table].append(row)

    def write(self) -> None:
        """Write down what was noted."""
        self._database.execute("BEGIN")
        for table, rows in self._rows.items():
            if rows:
                self._database.executemany(_INSERTS[table], rows)
                rows.clear()
        self._database.execute("COMMIT")

    def suspect(self, suspicion: Suspicion, seen: float) -> None:
        """Take note of something to be looked at again."""
        digest, other = suspicion.digest, suspicion.other
        self._database.execute(
            "INSERT INTO suspicion VALUES(NULL, ?, ?, ?, ?, ?, ?)",
            (
                seen,
                suspicion.doubt.value,
                suspicion.repository,
                suspicion.name,
                None if digest is None else key(digest),
                None if other is None else key(other),
            ),
        )

    def judge(self, *, seen: float, uploads_before: float) -> None:
        """Compare what is known of the repositories that were read, and forget it.

        Args:
            seen: When they were read.
            uploads_before: Uploads that nobody wrote to since then are left over.
        """
        self.write()
        self._database.execute("BEGIN")
        values = {"seen": seen, "uploads_before": uploads_before}
        for doubt, columns, rest in _JUDGE:
            distinct = "DISTINCT" if columns.startswith("DISTINCT ") else ""
            self._database.execute(
                "INSERT INTO suspicion(seen, doubt, repository, name, digest, other) "
                f"SELECT {distinct} :seen, '{doubt}', {columns.removeprefix('DISTINCT ')} {rest}",
                values,
            )
        self._database.execute("INSERT INTO linked SELECT target, repository, digest FROM layer")
        self._database.execute("INSERT INTO linked SELECT digest, repository, NULL FROM revision")
        if self._keeps_needs:
            self._database.execute(
                "INSERT INTO needed SELECT repository, manifest, digest FROM need"
            )
        for table in _OF_REPOSITORIES:
            self._database.execute(f"DELETE FROM {table}")  # noqa: S608 -- a name of ours
        self._database.execute("COMMIT")

    def suspect_unlinked(self, *, seen: float, before: float) -> None:
        """Suspect the blobs that nothing links to, except those that came just now."""
        self._database.execute(
            "INSERT INTO suspicion(seen, doubt, repository, name, digest) "
            "SELECT ?, 'unlinked', '', '', digest FROM blob WHERE modified < ? "
            "AND digest NOT IN (SELECT digest FROM linked WHERE digest IS NOT NULL)",
            (seen, before),
        )

    def due(self, before: float, *, limit: int) -> list[tuple[int, Suspicion]]:
        """Return suspicions that are old enough to be looked at again, with their numbers."""
        rows = self._database.execute(
            "SELECT number, doubt, repository, name, digest, other FROM suspicion "
            "WHERE seen <= ? ORDER BY number LIMIT ?",
            (before, limit),
        )
        return [
            (
                number,
                Suspicion(
                    Doubt(doubt),
                    repository,
                    name,
                    None if digest is None else digest_of(digest),
                    None if other is None else digest_of(other),
                ),
            )
            for number, doubt, repository, name, digest, other in rows
        ]

    def drop(self, numbers: Sequence[int]) -> None:
        """Forget suspicions."""
        self._database.executemany(
            "DELETE FROM suspicion WHERE number = ?", [(number,) for number in numbers]
        )

    def latest_suspicion(self) -> float | None:
        """Return when the newest suspicion came up, or None when there is none."""
        (seen,) = self._database.execute(
            "SELECT seen FROM suspicion ORDER BY number DESC LIMIT 1"
        ).fetchone() or (None,)
        return None if seen is None else float(seen)

    def bytes_to_verify(self, after: Digest | None) -> int:
        """Return how many bytes the blobs have that were not compared to their digests."""
        (size,) = self._database.execute(
            "SELECT ifnull(sum(size), 0) FROM blob WHERE is_read = 0 AND digest > ?",
            (b"" if after is None else key(after),),
        ).fetchone()
        return int(size)

    def unverified(self, after: Digest | None, *, limit: int) -> Iterator[tuple[Digest, int]]:
        """Yield the next of them in their order, with their sizes."""
        for raw, size in self._database.execute(
            "SELECT digest, size FROM blob WHERE is_read = 0 AND digest > ? "
            "ORDER BY digest LIMIT ?",
            (b"" if after is None else key(after), limit),
        ):
            yield digest_of(raw), size

    def is_examined(self, digest: Digest) -> bool:
        """Tell whether a blob was looked into as a manifest, which compares it with its digest."""
        (found,) = self._database.execute(
            "SELECT count(*) FROM blob WHERE is_read = 1 AND digest = ?", (key(digest),)
        ).fetchone()
        return bool(found)

    def linking(self, digest: Digest, *, limit: int) -> tuple[list[str], int]:
        """Return some of the repositories that link to a blob, and how many there are."""
        found = self._database.execute(
            "SELECT DISTINCT repository FROM linked WHERE digest = ? ORDER BY 1 LIMIT ?",
            (key(digest), limit),
        ).fetchall()
        (count,) = self._database.execute(
            "SELECT count(DISTINCT repository) FROM linked WHERE digest = ?", (key(digest),)
        ).fetchone()
        return [name for (name,) in found], count

    def suspect_links(self, digest: Digest, *, seen: float, reason: str) -> None:
        """Suspect the links that lead to a blob."""
        self._database.execute(
            "INSERT INTO suspicion(seen, doubt, repository, name, digest) "
            "SELECT ?, 'layer', repository, ?, layer FROM linked "
            "WHERE digest = ? AND layer IS NOT NULL",
            (seen, reason, key(digest)),
        )

    def suspect_needs(self, digest: Digest, *, seen: float) -> None:
        """Suspect the manifests that need a blob, which the ledger has to keep."""
        self._database.execute(
            "INSERT INTO suspicion(seen, doubt, repository, name, digest, other) "
            "SELECT ?, 'need', repository, '', manifest, digest FROM needed "
            "WHERE (repository, digest) IN (SELECT repository, layer FROM linked "
            "WHERE digest = ? AND layer IS NOT NULL)",
            (seen, key(digest)),
        )

    def count_blobs(self) -> tuple[int, int]:
        """Return how many blobs there are, and how many bytes they take."""
        blobs, size = self._database.execute(
            "SELECT count(*), ifnull(sum(size), 0) FROM blob"
        ).fetchone()
        return int(blobs), int(size)
