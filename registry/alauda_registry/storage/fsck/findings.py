"""What can be wrong with a storage tree, and how much it matters."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any


class Severity(StrEnum):
    """How much something matters, the worst first."""

    BROKEN = "broken"
    GARBAGE = "garbage"
    NOTE = "note"


class Kind(StrEnum):
    """What can be wrong."""

    UNREADABLE = "unreadable"
    BLOB_CORRUPT = "blob-corrupt"
    BLOB_MISSING = "blob-missing"
    LINK_INVALID = "link-invalid"
    LINK_MISMATCH = "link-mismatch"
    MANIFEST_MISSING = "manifest-missing"
    MANIFEST_CORRUPT = "manifest-corrupt"
    MANIFEST_INVALID = "manifest-invalid"
    MANIFEST_INCOMPLETE = "manifest-incomplete"
    TAG_TO_NOTHING = "tag-to-nothing"
    REFERRER_MISSING = "referrer-missing"

    LINK_WITHOUT_DATA = "link-without-data"
    BLOB_UNLINKED = "blob-unlinked"
    HISTORY_TO_NOTHING = "history-to-nothing"
    TAG_EMPTY = "tag-empty"
    REFERRER_STALE = "referrer-stale"
    UPLOAD_LEFT = "upload-left"
    SCRATCH = "scratch"
    STRAY = "stray"

    LAYER_ABSENT = "layer-absent"
    CHILD_ABSENT = "child-absent"
    SIZE_DIFFERS = "size-differs"
    REFERRER_NOT_INDEXED = "referrer-not-indexed"
    MANIFEST_UNUSUAL = "manifest-unusual"

    @property
    def severity(self) -> Severity:
        """How much it matters."""
        if self in _NOTES:
            return Severity.NOTE
        return Severity.GARBAGE if self in _GARBAGE else Severity.BROKEN


_GARBAGE = frozenset(
    {
        Kind.LINK_WITHOUT_DATA,
        Kind.BLOB_UNLINKED,
        Kind.HISTORY_TO_NOTHING,
        Kind.TAG_EMPTY,
        Kind.REFERRER_STALE,
        Kind.UPLOAD_LEFT,
        Kind.SCRATCH,
        Kind.STRAY,
    }
)
_NOTES = frozenset(
    {
        Kind.LAYER_ABSENT,
        Kind.CHILD_ABSENT,
        Kind.SIZE_DIFFERS,
        Kind.REFERRER_NOT_INDEXED,
        Kind.MANIFEST_UNUSUAL,
    }
)

ADVICE = {
    Kind.UNREADABLE: "look at the disk (dmesg) and at who owns the files; in a bucket at the "
    "server's log and at who may read",
    Kind.BLOB_CORRUPT: "push it again; until --repair has put the bytes into quarantine, "
    "clients hear that it is here and do not",
    Kind.BLOB_MISSING: "push it again, or bring its data back from a backup",
    Kind.LINK_INVALID: "--repair writes it anew where the data is there, and otherwise puts it "
    "into quarantine",
    Kind.LINK_MISMATCH: "--repair writes it anew where the data is there, and otherwise puts it "
    "into quarantine",
    Kind.MANIFEST_MISSING: "push it again, or bring its data back from a backup; --repair puts "
    "the link into quarantine",
    Kind.MANIFEST_CORRUPT: "push it again, which replaces the bytes, or delete it",
    Kind.MANIFEST_INVALID: "nothing can be pulled by it: delete it",
    Kind.MANIFEST_INCOMPLETE: "push the image again, or delete it; layers may be missing on "
    "purpose: --allow-sparse",
    Kind.TAG_TO_NOTHING: "push the tag again; --repair puts it into quarantine, so that it is "
    "no longer listed",
    Kind.REFERRER_MISSING: "--repair writes its entry",
    Kind.LINK_WITHOUT_DATA: "garbage collection of registry:2 leaves these; --repair puts them "
    "into quarantine",
    Kind.BLOB_UNLINKED: "deleting images leaves these; they take space until collection exists",
    Kind.HISTORY_TO_NOTHING: "--repair puts them into quarantine",
    Kind.TAG_EMPTY: "listed as a tag and answered with 404; --repair puts it into quarantine",
    Kind.REFERRER_STALE: "--repair puts them into quarantine",
    Kind.UPLOAD_LEFT: "the registry removes idle uploads by itself when it runs",
    Kind.SCRATCH: "the registry removes its scratch when it starts",
    Kind.STRAY: "no registry looks at these; remove them by hand if nobody needs them",
    Kind.LAYER_ABSENT: "sparse on purpose",
    Kind.CHILD_ABSENT: "indexes may name images that were never pushed",
    Kind.SIZE_DIFFERS: "the bytes are right, but the manifest was pushed with another size",
    Kind.REFERRER_NOT_INDEXED: "another registry pushed it; the next request for referrers, or "
    "--repair, writes its entry",
    Kind.MANIFEST_UNUSUAL: "it is served as it is, but what it needs can't be checked",
}
"""What each means to whoever has to do something about it."""

REPAIRABLE = frozenset(
    {
        Kind.BLOB_CORRUPT,
        Kind.BLOB_MISSING,
        Kind.LINK_INVALID,
        Kind.LINK_MISMATCH,
        Kind.MANIFEST_MISSING,
        Kind.TAG_TO_NOTHING,
        Kind.REFERRER_MISSING,
        Kind.LINK_WITHOUT_DATA,
        Kind.HISTORY_TO_NOTHING,
        Kind.TAG_EMPTY,
        Kind.REFERRER_STALE,
        Kind.REFERRER_NOT_INDEXED,
    }
)
"""What ``--repair`` does something about."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong, and was still wrong when it was looked at again.

    Attributes:
        kind: What it is.
        path: The file or folder in the storage.
        message: What is wrong with it.
        repository: Whose it is, if it belongs to one.
        digest: The content that it is about.
        tag: The tag that it is about.
        size: How many bytes of the disk it takes.
        modified_at: When the file was written that was judged.
        repaired: What was done about it.
        failure: Why nothing could be done about it.
    """

    kind: Kind
    path: str
    message: str
    repository: str | None = None
    digest: str | None = None
    tag: str | None = None
    size: int | None = None
    modified_at: datetime | None = None
    repaired: str | None = None
    failure: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values, without the fields that say nothing."""
        fields: dict[str, Any] = {
            "severity": self.kind.severity.value,
            "kind": self.kind.value,
            "path": self.path,
            "message": self.message,
            "repairable": self.kind in REPAIRABLE,
        }
        for name in ("repository", "digest", "tag", "size", "repaired", "failure"):
            value = getattr(self, name)
            if value is not None:
                fields[name] = value
        return fields
