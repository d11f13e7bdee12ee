"""What a manifest asks of the repository that it is in."""

from dataclasses import dataclass

from alauda_registry.oci.digest import Digest
from alauda_registry.oci.errors import ManifestInvalid
from alauda_registry.oci.manifest import Manifest
from alauda_registry.oci.reference import RepositoryName
from alauda_registry.storage import paths
from alauda_registry.storage.fsck.ledger import Condition, Ledger, key
from alauda_registry.storage.fsck.shapes import fingerprint_of_entry
from alauda_registry.storage.referrers import index_entry

_NAME = RepositoryName("any")
_INDEX = paths.referrers_index(_NAME)


@dataclass(frozen=True, slots=True)
class Examined:
    """A manifest, as far as others have to do with it.

    Attributes:
        digest: What it is known by.
        condition: What is wrong with it.
        needs: The keys and sizes of the config and the layers.
        children: The keys of an index's entries.
        entry: Where in the referrers index it has a place, or "".
        entry_content: What stands there.
    """

    digest: Digest
    condition: Condition
    needs: tuple[tuple[bytes, int], ...] = ()
    children: tuple[bytes, ...] = ()
    entry: str = ""
    entry_content: bytes = b""

    def note(self, ledger: Ledger, repository: str) -> None:
        """Note it as a manifest of a repository."""
        digest = key(self.digest)
        ledger.note("revision", (repository, digest, self.condition))
        if self.condition is not Condition.MISSING:
            ledger.note("read", (digest,))
        for blob, size in self.needs:
            ledger.note("need", (repository, digest, blob, size))
        for child in self.children:
            ledger.note("child", (repository, digest, child))
        if self.entry:
            ledger.note("subject", (repository, self.entry, digest, self.entry_content))


def examine(digest: Digest, content: bytes | None) -> Examined:
    """Look at the content of a manifest; None stands for one that is gone."""
    if content is None:
        return Examined(digest, Condition.MISSING)
    if Digest.of(content, digest.algorithm) != digest:
        return Examined(digest, Condition.WRONG)
    try:
        manifest = Manifest.parse(content, None)
    except ManifestInvalid:
        return Examined(digest, Condition.UNUSUAL)
    # The name does not matter: what is kept of the path is what follows it.
    entry = index_entry(_NAME, manifest, digest)
    return Examined(
        digest,
        Condition.FINE,
        tuple((key(blob.digest), blob.size) for blob in manifest.required_blobs()),
        tuple(key(child.digest) for child in manifest.manifests),
        "" if entry is None else entry.path.removeprefix(f"{_INDEX}/"),
        b"" if entry is None else fingerprint_of_entry(entry.content) or b"",
    )
