"""Replacing parts of the storage by ones that make mistakes, as long as a block runs.

Mistakes in what a driver is asked for go through ``FilesystemDriver.publish`` and its like; those
in how it makes things durable reach into ``durability.py`` and ``shared_syncs.py``, and fail
loudly when what they replace is not there any more.
"""

import contextlib
import json
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

from alauda_registry.oci.digest import Algorithm, Digest
from alauda_registry.oci.errors import DigestInvalid, ManifestUnknown
from alauda_registry.storage import locks, paths
from alauda_registry.storage.driver import (
    Ensure,
    FileWriter,
    Move,
    PathNotFound,
    Stage,
    Write,
    flatten,
)
from alauda_registry.storage.drivers.filesystem import FilesystemDriver
from alauda_registry.storage.hashing import HashProgress
from alauda_registry.storage.manifests import ManifestStore
from tests.torture.covering import storage_modules

Planted = Callable[[], AbstractContextManager[object]]
Publish = Callable[..., Awaitable[None]]


def instead_of_publish(mistaken: Callable[..., Awaitable[None]]) -> Planted:
    """Replace how a driver publishes; the mistaken way is given the right one first."""
    real = FilesystemDriver.publish

    async def publish(self: FilesystemDriver, *stages: Stage) -> None:
        await mistaken(real, self, stages)

    return lambda: mock.patch.object(FilesystemDriver, "publish", publish)


async def without_ensure(real: Publish, driver: FilesystemDriver, stages: Sequence[Stage]) -> None:
    """Take what others published for durable."""
    for stage in stages:
        kept = tuple(step for step in flatten([stage]) if not isinstance(step, Ensure))
        await real(driver, kept)


async def in_one_stage(real: Publish, driver: FilesystemDriver, stages: Sequence[Stage]) -> None:
    """Let everything become visible before any of it is durable."""
    await real(driver, tuple(flatten(stages)))


async def first_two_swapped(
    real: Publish, driver: FilesystemDriver, stages: Sequence[Stage]
) -> None:
    """Publish the revision of a manifest before its bytes."""
    order = (1, 0, 2) if len(stages) == 3 else range(len(stages))
    await real(driver, *(stages[place] for place in order))


async def last_two_swapped(
    real: Publish, driver: FilesystemDriver, stages: Sequence[Stage]
) -> None:
    """Publish the tags of a manifest before its revision."""
    order = (0, 2, 1) if len(stages) == 3 else range(len(stages))
    await real(driver, *(stages[place] for place in order))


async def link_first(real: Publish, driver: FilesystemDriver, stages: Sequence[Stage]) -> None:
    """Publish the link to a blob before its bytes."""
    is_blob = len(stages) == 2 and isinstance(stages[0], Move)
    await real(driver, *(reversed(stages) if is_blob else stages))


async def folder_first(real: Publish, driver: FilesystemDriver, stages: Sequence[Stage]) -> None:
    """Make the folder of a new tag before there is anything in it."""
    for stage in stages:
        steps = flatten([stage])
        await real(
            driver,
            tuple(replace(step, folder="") if isinstance(step, Write) else step for step in steps),
        )


async def in_place(real: Publish, driver: FilesystemDriver, stages: Sequence[Stage]) -> None:
    """Write files where they are seen, and sync them then."""
    for step in flatten(stages):
        if not isinstance(step, Write) or not step.durable:
            await real(driver, step)
            continue
        writer = await driver.append(step.path, create=True, wait=5)
        try:
            await writer.truncate(0)
            await writer.write([step.content])
            await writer.sync()
        finally:
            await writer.close()
        await real(driver, Ensure(step.path))


async def removed_first(real: Publish, driver: FilesystemDriver, stages: Sequence[Stage]) -> None:
    """Remove files before they are replaced."""
    for step in flatten(stages):
        if isinstance(step, Write):
            with contextlib.suppress(PathNotFound):
                await driver.delete(step.path, durable=False)
    await real(driver, *stages)


def deletions_not_synced() -> AbstractContextManager[object]:
    """Answer before a deletion is durable."""
    real = FilesystemDriver.delete

    async def delete(self: FilesystemDriver, path: str, *, durable: bool = True) -> None:
        await real(self, path, durable=False)

    return mock.patch.object(FilesystemDriver, "delete", delete)


def manifest_deleted_before_tags() -> AbstractContextManager[object]:
    """Delete a manifest before the tags that point to it."""

    async def delete(self: Any, digest: Digest) -> None:
        async with locks.deleting(self._driver, self._name):
            try:
                await self._driver.delete(paths.revision(self._name, digest))
            except PathNotFound as missing:
                raise ManifestUnknown(digest=str(digest)) from missing
            for tag in await self._tags.pointing_to(digest):
                await self._tags.remove(tag)

    return mock.patch.object(ManifestStore, "delete", delete)


def pushes_without_lock() -> AbstractContextManager[object]:
    """Let deletions come between the check and the push of a manifest."""

    @asynccontextmanager
    async def pushing(driver: object, name: str) -> AsyncGenerator[None, None]:
        yield

    return mock.patch.object(locks, "pushing", pushing)


def digests_of_any_boot() -> AbstractContextManager[object]:
    """Trust digests of bytes that were written before the machine was started."""

    def load(content: bytes, *, offset: int, algorithm: Algorithm) -> Digest | None:
        try:
            stored = json.loads(content)
            digests = [Digest.parse(text) for text in stored["digests"]]
        except (ValueError, KeyError, DigestInvalid):
            return None
        found = (digest for digest in digests if digest.algorithm == algorithm)
        return next(found, None) if stored["offset"] == offset else None

    return mock.patch.object(HashProgress, "load", staticmethod(load))


def digests_of_any_length() -> AbstractContextManager[object]:
    """Trust digests of fewer bytes, or more, than there are."""

    def load(content: bytes, *, offset: int, algorithm: Algorithm) -> Digest | None:
        try:
            digests = [Digest.parse(text) for text in json.loads(content)["digests"]]
        except (ValueError, KeyError, DigestInvalid):
            return None
        return next((digest for digest in digests if digest.algorithm == algorithm), None)

    return mock.patch.object(HashProgress, "load", staticmethod(load))


def pieces_not_synced() -> AbstractContextManager[object]:
    """Acknowledge a piece of an upload before its bytes are durable."""
    real = FilesystemDriver.append

    async def sync() -> None:
        pass

    async def append(self: FilesystemDriver, path: str, *, create: bool, wait: float) -> FileWriter:
        writer: Any = await real(self, path, create=create, wait=wait)
        writer.sync = sync
        return writer  # type: ignore[no-any-return] # the same as before, but for one method

    return mock.patch.object(FilesystemDriver, "append", append)


@contextlib.contextmanager
def paths_taken_for_durable(*modules: str) -> Iterator[None]:
    """Take what lies at a path for what was made durable there, whoever has replaced it."""

    def identify(fd: int) -> bytes:
        return os.readlink(f"/proc/self/fd/{fd}").encode()

    with ExitStack() as planted:
        for module in storage_modules():
            if module.__name__.rpartition(".")[2] in modules:
                planted.enter_context(mock.patch.object(module, "identify", identify))
        yield


def _defined(name: str) -> Any:
    """Return a class of the storage by its name."""
    for module in storage_modules():
        if name in vars(module) and vars(module)[name].__module__ == module.__name__:
            return vars(module)[name]
    raise LookupError(f"nothing in the storage is called {name} any more: adapt the mutation")


def sync_under_way_joined() -> AbstractContextManager[object]:
    """Take a sync that has begun for one that comes upon all changes."""
    kind = _defined("SharedSyncs")
    real = kind.sync

    def sync(self: Any, change: Any, fd: int) -> None:
        running = change.directory.running
        if running is None:
            real(self, change, fd)
        else:
            running.wait()

    return mock.patch.object(kind, "sync", sync)


def remembered_before_synced() -> AbstractContextManager[object]:
    """Let others rely on a directory while it is being synced."""
    kind = _defined("Changes")

    def make_durable(self: Any, files: Any) -> None:
        wanted, arrived = self._find(files)
        self._directories.remember(arrived)
        for path in sorted(wanted, key=len, reverse=True):
            self._sync(path, arrived.get(path))

    return mock.patch.object(kind, "make_durable", make_durable)
