"""The lock that keeps deletions and pushes of one repository apart.

A push checks that what its manifest refers to is there, and then publishes the manifest;
a deletion in between would leave the manifest dangling. So pushes of manifests hold the
repository's lock shared and deletions hold it alone.

Pushes overlap, so a deletion might wait for ever for a moment without any. It therefore
first closes a gate, which every push passes through: those under way finish, the next wait.
"""

import hashlib
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

from alauda_registry.storage.driver import StorageDriver

WAIT_SECONDS = 30.0


@asynccontextmanager
async def pushing(driver: StorageDriver, name: str) -> AsyncGenerator[None, None]:
    """Hold off deletions in a repository.

    Raises:
        Busy: A deletion took too long.
    """
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

    Raises:
        Busy: The pushes under way took too long.
    """
    gate, repository = _names(name)
    async with (
        driver.lock(gate, exclusive=True, wait=WAIT_SECONDS),
        driver.lock(repository, exclusive=True, wait=WAIT_SECONDS),
    ):
        yield


def _names(name: str) -> tuple[str, str]:
    # Names of repositories have slashes, and those of locks have none.
    key = hashlib.sha256(name.encode()).hexdigest()
    return f"gate-{key}", f"repository-{key}"
