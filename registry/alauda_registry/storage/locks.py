"""The lock that keeps deletions and pushes of one repository apart.

A push checks that what its manifest refers to is there, and then publishes the manifest;
a deletion in between would leave the manifest dangling. So pushes of manifests hold the
repository's lock shared and deletions hold it alone.

In a bucket a lock costs requests, and pushes are many where deletions are few. So a push takes
none. The deletion of a tag or a blob is one request to the bucket, which is before or after a
push's; a lock only keeps two such deletions from both succeeding. The deletion of a manifest reads
tags before it deletes them, and may take one that a push has moved since. So a push looks whether
there was such a deletion while it wrote (:func:`deletions`), and writes again what is missing.
Whichever was first, the push counts as the later one, and nothing it wrote is lost.

Pushes overlap, so a deletion might wait for ever for a moment without any. It therefore
first closes a gate, which every push passes through: those under way finish, the next wait.
"""

import hashlib
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

from alauda_registry.storage.driver import ObjectStore, StorageDriver

WAIT_SECONDS = 40.0
"""Longer than a claim in a bucket outlives a process that died within some seconds of making it:
whoever waits for a dead one then takes its place, and need not be told to come again."""


@asynccontextmanager
async def pushing(driver: StorageDriver, name: str) -> AsyncGenerator[None, None]:
    """Hold off deletions in a repository.

    Raises:
        Busy: A deletion took too long.
    """
    if driver.objects is not None:
        yield
        return
    gate, repository = _names(name)
    async with AsyncExitStack() as held:
        async with driver.lock(gate, exclusive=False, wait=WAIT_SECONDS):
            await held.enter_async_context(
                driver.lock(repository, exclusive=False, wait=WAIT_SECONDS)
            )
        yield


@asynccontextmanager
async def deleting(driver: StorageDriver, name: str) -> AsyncGenerator[None, None]:
    """Hold off pushes of manifests, and other deletions, in a repository.

    In a bucket it holds off other deletions of tags and blobs only.

    Raises:
        Busy: The pushes or deletions under way took too long.
    """
    gate, repository = _names(name)
    if driver.objects is not None:
        async with driver.lock(repository, exclusive=True, wait=WAIT_SECONDS):
            yield
        return
    async with (
        driver.lock(gate, exclusive=True, wait=WAIT_SECONDS),
        driver.lock(repository, exclusive=True, wait=WAIT_SECONDS),
    ):
        yield


@asynccontextmanager
async def deleting_manifest(driver: StorageDriver, name: str) -> AsyncGenerator[None, None]:
    """Do as :func:`deleting`; in a bucket, let pushes notice, and hold off others of these.

    Raises:
        Busy: The pushes or deletions under way took too long.
    """
    if driver.objects is None:
        async with deleting(driver, name):
            yield
        return
    async with driver.lock(_names(name)[0], exclusive=True, wait=WAIT_SECONDS):
        yield


async def deletions(objects: ObjectStore, name: str) -> str:
    """Return a token that differs whenever a manifest was deleted from a repository in between.

    Raises:
        Busy: A deletion under way took too long.
    """
    return await objects.settled(_names(name)[0], wait=WAIT_SECONDS)


def _names(name: str) -> tuple[str, str]:
    # Names of repositories have slashes, and those of locks have none.
    key = hashlib.sha256(name.encode()).hexdigest()
    return f"gate-{key}", f"repository-{key}"
