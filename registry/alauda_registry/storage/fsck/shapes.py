"""What each file of a tree is, told from its path.

``storage/paths.py`` spells every path; this module reads them back. What fits no shape was
not put there by a registry.
"""

import hashlib
import json
from collections.abc import Callable
from functools import lru_cache

from alauda_registry.oci.descriptor import Descriptor
from alauda_registry.oci.digest import Digest
from alauda_registry.oci.errors import DigestInvalid, ManifestInvalid, NameInvalid
from alauda_registry.oci.reference import RepositoryName, is_tag
from alauda_registry.storage import paths
from alauda_registry.storage.fsck.files import File
from alauda_registry.storage.fsck.ledger import Condition, Doubt, Ledger, Suspicion, key_of

_BLOBS = f"{paths.ROOT}/blobs/"
_OTHERS = f"{paths.ROOT}/_"
_REPOSITORIES = f"{paths.REPOSITORIES}/"


GROUP = 5000
"""Small repositories are judged together, when they have this many files."""


class Sorter:
    """Takes in the files of a tree and notes in a ledger what each of them is.

    Args:
        ledger: Where to note it.
        suspect: Told about what looks wrong by itself.
    """

    def __init__(self, ledger: Ledger, suspect: Callable[[Suspicion], None]) -> None:
        self._ledger = ledger
        self._suspect = suspect
        self._repository = ""
        self._files = 0
        self.repositories = 0
        """How many repositories there were so far."""
        self.manifests: list[tuple[str, Digest]] = []
        """Manifests whose content is to be looked at, and whose they are."""

    def take(self, file: File) -> bool:
        """Note what a file is, unless what came before has to be judged first."""
        path = file.path
        if file.trouble:
            self._suspect(Suspicion(Doubt.TROUBLE, name=path))
        elif path.startswith(_BLOBS):
            if not self._take_blob(file, path[len(_BLOBS) :].split("/")):
                self._suspect(Suspicion(Doubt.STRAY, name=path))
        elif path.startswith(_REPOSITORIES):
            repository, mark, inner = path[len(_REPOSITORIES) :].partition("/_")
            if not mark or not _is_repository(repository):
                self._suspect(Suspicion(Doubt.STRAY, name=path))
                return True
            if repository != self._repository:
                if self._files >= GROUP:
                    self._files = 0
                    return False
                self._repository = repository
                self.repositories += 1
            self._files += 1
            if not self._take_part(file, repository, inner.split("/")):
                self._suspect(Suspicion(Doubt.STRAY, name=path))
        elif not path.startswith(_OTHERS):
            self._suspect(Suspicion(Doubt.STRAY, name=path))
        return True

    def _take_blob(self, file: File, parts: list[str]) -> bool:
        if len(parts) != 4 or parts[3] != "data" or parts[1] != parts[2][:2]:
            return False
        digest = key_of(parts[0], parts[2])
        if digest is None:
            return False
        self._ledger.note("blob", (digest, file.size, file.modified))
        return True

    def _take_part(self, file: File, repository: str, parts: list[str]) -> bool:
        match parts:
            case ["layers", "empty"]:
                return True
            case ["layers", algorithm, encoded, "link"]:
                return self._take_layer(file, repository, algorithm, encoded)
            case ["manifests", "revisions", algorithm, encoded, "link"]:
                return self._take_revision(file, repository, algorithm, encoded)
            case ["manifests", "revisions", _, _, "signatures", *_]:
                return True
            case ["manifests", "tags", tag, "current", "link"]:
                return self._take_tag(file, repository, tag)
            case ["manifests", "tags", tag, "index", algorithm, encoded, "link"]:
                digest = key_of(algorithm, encoded)
                if digest is None or not is_tag(tag):
                    return False
                self._ledger.note("history", (repository, tag, digest))
                return True
            case ["referrers", "scanned" | "seen"]:
                return True
            case ["referrers", "by-subject", algorithm, encoded, name]:
                return self._take_entry(file, repository, algorithm, encoded, name)
            case ["uploads", upload_id, _, *_]:
                self._ledger.note("upload", (repository, upload_id, file.modified))
                return True
            case ["layers" | "manifests" | "referrers" | "uploads", *_]:
                return False
            case _:
                # A folder of somebody else, or of a later version.
                return True

    def _take_layer(self, file: File, repository: str, algorithm: str, encoded: str) -> bool:
        digest = key_of(algorithm, encoded)
        if digest is None:
            return False
        target = link_target(algorithm, encoded, digest, file.content or b"")
        if target is None:
            self._suspect(Suspicion(Doubt.LINK, repository, file.path))
        self._ledger.note("layer", (repository, digest, target))
        return True

    def _take_revision(self, file: File, repository: str, algorithm: str, encoded: str) -> bool:
        digest = key_of(algorithm, encoded)
        if digest is None:
            return False
        if link_target(algorithm, encoded, digest, file.content or b"") == digest:
            self.manifests.append((repository, Digest.parse(f"{algorithm}:{encoded}")))
        else:
            self._suspect(Suspicion(Doubt.LINK, repository, file.path))
            self._ledger.note("revision", (repository, digest, Condition.INVALID_LINK))
        return True

    def _take_tag(self, file: File, repository: str, tag: str) -> bool:
        if not is_tag(tag):
            return False
        target = parse_link(file.content or b"")
        if target is None:
            self._suspect(Suspicion(Doubt.TAG, repository, tag))
            self._ledger.note("tag", (repository, tag, None))
        else:
            key = key_of(target.algorithm.value, target.encoded)
            self._ledger.note("tag", (repository, tag, key))
        return True

    def _take_entry(
        self, file: File, repository: str, algorithm: str, encoded: str, name: str
    ) -> bool:
        of, _, rest = name.partition("-")
        manifest = key_of(of, rest.partition(".")[0])
        if manifest is None or key_of(algorithm, encoded) is None:
            return False
        entry = f"{algorithm}/{encoded}/{name}"
        content = fingerprint_of_entry(file.content or b"")
        self._ledger.note("entry", (repository, entry, manifest, content or b""))
        return True


def parse_link(content: bytes) -> Digest | None:
    """Return the digest that a link holds, or None when it holds anything else."""
    try:
        return Digest.parse(content.decode("ascii"))
    except (DigestInvalid, UnicodeDecodeError):
        return None


def link_target(algorithm: str, encoded: str, digest: bytes | None, content: bytes) -> bytes | None:
    """Return the key of what a link leads to, or None when it may not lead there.

    A link holds the digest that its path says. distribution stores what was pushed by its
    sha512 under its sha256, so such a path may hold that.

    Args:
        algorithm: The digest's, as the path says it.
        encoded: Its digits.
        digest: Its key; None when it is no digest.
        content: What the link holds.
    """
    if content == f"{algorithm}:{encoded}".encode():
        return digest
    if algorithm != "sha512":
        return None
    target = parse_link(content)
    if target is None or target.algorithm.value != "sha256":
        return None
    return key_of("sha256", target.encoded)


def is_right_link(path: str, content: bytes) -> bool:
    """Tell whether a link to a blob or a revision holds what it may hold at its path."""
    *_, folder, algorithm, encoded, _ = path.split("/")
    digest = key_of(algorithm, encoded)
    target = link_target(algorithm, encoded, digest, content)
    return target is not None and (folder != "revisions" or target == digest)


def fingerprint_of_entry(content: bytes) -> bytes | None:
    """Return what two entries of the referrers index have in common that say the same."""
    try:
        descriptor = Descriptor.from_json(json.loads(content))
    except (ValueError, RecursionError, ManifestInvalid):
        return None
    text = json.dumps(descriptor.to_json(), sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]


@lru_cache(1024)
def _is_repository(name: str) -> bool:
    try:
        RepositoryName.parse(name)
    except NameInvalid:
        return False
    return True
