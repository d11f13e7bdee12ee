"""What ``fsck`` checks: a folder, or the bucket of a configuration."""

import argparse
import contextlib
import os
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from alauda_registry.server.configuration.bucket_settings import S3
from alauda_registry.server.configuration.settings import Settings
from alauda_registry.server.configuration.sources import load_settings
from alauda_registry.server.opening.roots import check_claim
from alauda_registry.serving.starting import CannotStart
from alauda_registry.storage import paths
from alauda_registry.storage.directory.rooted import RootedDirectory
from alauda_registry.storage.driver import StorageDriver
from alauda_registry.storage.drivers.filesystem import FilesystemDriver
from alauda_registry.storage.fsck.bucket import BucketTree
from alauda_registry.storage.fsck.directory import DirectoryTree
from alauda_registry.storage.fsck.tree import Tree
from alauda_registry.storage.fsck.verdicts import Rules

JOBS_MAXIMUM = 8
"""Each takes some 20 MB, and a container may have little of that on a machine with many cores."""

_TREE = "docker/registry/v2"
_LOCKS = "_driver/locks"
_FOLDERS = (
    "docker",
    "docker/registry",
    _TREE,
    f"{_TREE}/repositories",
    f"{_TREE}/blobs",
    f"{_TREE}/blobs/sha256",
    f"{_TREE}/blobs/sha512",
)


@dataclass(frozen=True, slots=True)
class Opened:
    """A storage to be checked.

    Attributes:
        driver: Reads single files again, and repairs.
        tree: Reads everything.
        locking: Whether locks can be had.
    """

    driver: StorageDriver
    tree: Tree
    locking: bool


class Target(Protocol):
    """What to check, and by which rules."""

    @property
    def rules(self) -> Rules:
        """What counts as wrong."""
        ...

    @property
    def id(self) -> str:
        """What names the storage.

        Raises:
            CannotStart: It has no name that can be read.
        """
        ...

    def opened(self) -> AbstractAsyncContextManager[Opened]:
        """Open the storage while the block runs.

        Raises:
            CannotStart: There is no registry in it, or it can't be used.
            DriverError: It can't be read.
        """
        ...


@dataclass(frozen=True, slots=True)
class FolderTarget:
    """A folder.

    Attributes:
        root: Where it is.
        rules: See :class:`Target`.
        jobs: How many processes hash.
        repair: Whether it is to be written to.
    """

    root: Path
    rules: Rules
    jobs: int
    repair: bool

    @property
    def id(self) -> str:
        """See :class:`Target`."""
        try:
            root = RootedDirectory(self.root, make=False)
        except OSError as error:
            raise CannotStart(f"cannot read {self.root}: {error}") from error
        root.close()
        volume = root.volume or self.root.stat().st_ino
        return f"{self.root.resolve()}, volume {volume}"

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[Opened, None]:
        """See :class:`Target`."""
        driver = FilesystemDriver(self.root, read_only=not self.repair)
        tree = DirectoryTree(self.root, jobs=self.jobs)
        try:
            # A lock is a file, too, and without --repair none is made.
            yield Opened(driver, tree, self.repair or os.access(self.root / _LOCKS, os.W_OK))
        finally:
            tree.close()
            await driver.aclose()


@dataclass(frozen=True, slots=True)
class BucketTarget:
    """A bucket, which is only read: nothing is written there, no lock either.

    Attributes:
        settings: How it is used.
        s3: Where it is.
        rules: See :class:`Target`.
        jobs: How many blobs are hashed at once, about.
    """

    settings: Settings
    s3: S3
    rules: Rules
    jobs: int

    @property
    def id(self) -> str:
        """See :class:`Target`."""
        return f"{self.s3.where} at {self.s3.endpoint or self.s3.region}"

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[Opened, None]:
        """See :class:`Target`."""
        # It takes a while, and memory; see there.
        from alauda_registry.server.opening import buckets

        driver = buckets.open_bucket(self.settings, self.s3)
        try:
            found, _ = await driver.page(paths.ROOT)
            if not found:
                raise CannotStart(
                    f"there is no registry in {self.s3.where}: nothing is below {_TREE}; "
                    "correct storage.s3.bucket or storage.s3.rootdirectory"
                )
            yield Opened(driver, BucketTree(driver, driver, jobs=self.jobs), locking=False)
        finally:
            await driver.aclose()


def find_target(options: argparse.Namespace) -> Target:
    """Find what the command line asks for.

    Raises:
        CannotStart: There is no such thing.
    """
    root, upload_age, allow_sparse = options.root, timedelta(hours=24), options.allow_sparse
    settings = None
    if root is None or options.config is not None:
        settings = load_settings(options.config, []).settings
        upload_age = settings.storage.maintenance.upload_purging.age
        allow_sparse = allow_sparse or settings.validation.allow_sparse
    rules = Rules(options.age, upload_age, allow_sparse, not options.no_hash)
    jobs = options.jobs or min(len(os.sched_getaffinity(0)), JOBS_MAXIMUM)
    if settings is not None and root is None:
        storage = settings.storage
        if storage.pvc is not None:
            check_claim(storage.pvc)
        if storage.s3 is not None:
            if options.repair:
                raise CannotStart(
                    f"fsck --repair changes folders, and not {storage.where} yet: push again what "
                    "is broken, or delete it; or repair a copy in a folder (aws s3 sync, mc "
                    "mirror) while no registry runs, and copy it back"
                )
            return BucketTarget(settings, storage.s3, rules, jobs)
        root = storage.root
        if root is None:
            raise CannotStart(
                "the configuration keeps nothing on a disk: there is nothing to check"
            )
    _require_tree(Path(root))
    if options.repair and os.geteuid() == 0 != Path(root).stat().st_uid:
        raise CannotStart(
            f"{root} belongs to user {Path(root).stat().st_uid}, and what root makes there the "
            "registry could not use: run the command as that user"
        )
    return FolderTarget(Path(root), rules, jobs, options.repair)


def _require_tree(root: Path) -> None:
    """See whether there is a registry in a folder, and otherwise where it may be.

    Raises:
        CannotStart: There is none.
    """
    try:
        names = sorted(os.listdir(root))
    except OSError as error:
        raise CannotStart(f"cannot read {root}: {error.strerror}") from error
    for folder in (root / name for name in _FOLDERS):
        if os.path.lexists(folder) and (folder.is_symlink() or not folder.is_dir()):
            what = "a symbolic link, and none is followed" if folder.is_symlink() else "no folder"
            raise CannotStart(f"{folder} is {what}: mount or move what belongs there in its place")
    if (root / _TREE).is_dir() or "_driver" in names:
        return
    for above in root.absolute().parents[:3]:
        if (above / _TREE).is_dir():
            raise CannotStart(f"{root} is inside of a registry's folder: say --root {above}")
    for name in names:
        with contextlib.suppress(OSError):
            if (root / name / _TREE).is_dir():
                raise CannotStart(f"there is no registry in {root}: did you mean {root / name}?")
    raise CannotStart(f"there is no registry in {root}: it has no folder {_TREE}")
