"""Checks storages for tests: makes a registry of all sorts, and says what a check of it finds."""

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from typing_extensions import override

from alauda_registry.oci.digest import Algorithm, Digest
from alauda_registry.oci.media_types import OCI_LAYER_GZIP, OCI_MANIFEST
from alauda_registry.oci.reference import RepositoryName
from alauda_registry.storage.driver import StorageDriver
from alauda_registry.storage.fsck.bucket import BucketTree
from alauda_registry.storage.fsck.check import Check, Summary, Watcher
from alauda_registry.storage.fsck.directory import DirectoryTree
from alauda_registry.storage.fsck.findings import Finding
from alauda_registry.storage.fsck.repairs import Repairer
from alauda_registry.storage.fsck.tree import DriverTree, Tree
from alauda_registry.storage.fsck.verdicts import Rules
from alauda_registry.storage.repositories import Registry
from tests.unit.storage.pushing import (
    EMPTY,
    descriptor,
    image,
    index,
    piece,
    push,
    push_blob,
    put,
)

APP = RepositoryName("team/app")
OTHER = RepositoryName("team/app/other")
FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"

LAYERS = [b"first layer", b"second layer" * 10_000, b"third layer"]
IMAGE = image(*LAYERS[:2])
OLD_IMAGE = image(LAYERS[0], annotations={"old": "yes"})
CHILD = image(LAYERS[2])
INDEX = index(CHILD)
SUBJECT = descriptor(IMAGE, OCI_MANIFEST)
REFERRER = image(subject=SUBJECT, artifactType="type/sbom")
SHA512_LAYER = b"by its sha512"
LONG_IMAGE = image(
    layers=[descriptor(SHA512_LAYER, OCI_LAYER_GZIP, Algorithm.SHA512)], annotations={"l": "512"}
)
FOREIGN_IMAGE = image(
    layers=[descriptor(b"elsewhere", FOREIGN, urls=["https://example.com/layer"])]
)
NO_AGE = Rules(age=timedelta(0))


class SilentWatcher(Watcher):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.phases: list[str] = []
        self.advanced = 0
        self.stretches: list[tuple[Digest, Sequence[Digest]]] = []

    @override
    def begin(self, phase: str, total: int | None, unit: str) -> None:
        self.phases.append(phase)

    @override
    def advance(self, count: int) -> None:
        self.advanced += count

    @override
    def reached(self, digest: Digest, suspects: Sequence[Digest]) -> None:
        self.stretches.append((digest, suspects))


@dataclass(frozen=True)
class Checked:
    """What a check said."""

    findings: list[Finding]
    summary: Summary
    watcher: SilentWatcher

    def found(self) -> list[tuple[str, str]]:
        """Return kinds and paths, sorted; of repeated ones each only once."""
        return sorted({(finding.kind.value, finding.path) for finding in self.findings})


async def check(
    driver: StorageDriver,
    root: Path | None = None,
    *,
    rules: Rules = NO_AGE,
    run: str | None = None,
    locking: bool = True,
    settle_seconds: float = 0,
    after: Digest | None = None,
    suspects: Sequence[Digest] = (),
) -> Checked:
    """Check a storage to the end.

    Args:
        driver: The storage.
        root: Its directory, to be read straight; None reads it through the driver.
        rules: What counts as wrong.
        run: The name of the repairs; None for no repairs.
        locking: Whether it takes locks.
        settle_seconds: When things are looked at again.
        after: Where hashing begins.
        suspects: What was found before.
    """
    watcher = SilentWatcher()
    tree: Tree = DriverTree(driver) if root is None else DirectoryTree(root, jobs=2)
    if driver.objects is not None:
        tree = BucketTree(driver, driver.objects, jobs=2)
    repairer = None if run is None else Repairer(driver, run)
    a_check = Check(
        driver,
        tree,
        rules,
        watcher,
        repairer=repairer,
        locking=locking,
        after=after,
        suspects=suspects,
        settle_seconds=settle_seconds,
    )
    try:
        async with aclosing(a_check.findings()) as findings:
            found = [finding async for finding in findings]
    finally:
        if isinstance(tree, DirectoryTree):
            tree.close()
        a_check.close()
    return Checked(found, a_check.summary, watcher)


async def fill(driver: StorageDriver) -> None:
    """Push all sorts of content, none of which is wrong."""
    registry = Registry(driver)
    app, other = registry.repository(APP), registry.repository(OTHER)
    await push(app, OLD_IMAGE, "v1", "old", blobs=[EMPTY, LAYERS[0]])
    await push(app, IMAGE, "v1", "latest", blobs=LAYERS[:2])
    await push(app, CHILD, blobs=[LAYERS[2]])
    await put(app, INDEX, "multi")
    await put(app, REFERRER)
    await put(app, FOREIGN_IMAGE, "foreign")
    for blob in (EMPTY, LAYERS[0]):
        assert await other.blobs.mount(Digest.of(blob), APP)
    await put(other, OLD_IMAGE, "copied")
    await push_blob(other, SHA512_LAYER, Algorithm.SHA512)
    await put(other, LONG_IMAGE, "long", algorithm=Algorithm.SHA512)
    await put(registry.repository(RepositoryName("only/an-index")), index(), "empty")
    session = await app.uploads.start()
    await session.append(piece(b"the first half"))
