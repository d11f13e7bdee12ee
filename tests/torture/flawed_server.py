"""Our server with a flaw, which the proofs have to find; ``FLAW`` says which.

Run like the console command. Workers are spawned, and run what is outside of ``main`` again.
"""

import asyncio
import os
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from alauda_registry.oci.digest import Digest
from alauda_registry.storage import blobs, content, locks, manifests, tags
from alauda_registry.storage.driver import Stage, StorageDriver, Write, flatten
from alauda_registry.storage.drivers.filesystem import FilesystemDriver

_FRESH_SECONDS = 1.0
_LATE_SECONDS = 0.5


def cache_links() -> None:
    """Keep what a link holds for a second, as if nobody else could change it."""
    known: dict[str, tuple[float, Digest | None]] = {}
    read = content.read_link

    async def read_link(driver: StorageDriver, path: str) -> Digest | None:
        read_at, digest = known.get(path, (0.0, None))
        if time.monotonic() - read_at > _FRESH_SECONDS:
            digest = await read(driver, path)
            known[path] = time.monotonic(), digest
        return digest

    for module in (blobs, manifests, tags):
        vars(module)["read_link"] = read_link


def cache_blobs() -> None:
    """Remember for ever that a repository has a blob, as a cache of descriptors does."""
    known: set[tuple[str, Digest]] = set()
    look = blobs.BlobStore._target

    async def target(store: blobs.BlobStore, digest: Digest) -> Digest:
        key = str(store._name), digest
        if key not in known:
            found = await look(store, digest)
            if found == digest:
                known.add(key)
            return found
        return digest

    _replace(blobs.BlobStore, "_target", target)


def write_late() -> None:
    """Acknowledge moves of tags at once, and write them half a second later."""
    late: dict[str, bytes] = {}
    publish, read, delete = (
        FilesystemDriver.publish,
        FilesystemDriver.read,
        FilesystemDriver.delete,
    )
    tasks = set()

    async def flush(driver: FilesystemDriver, path: str) -> None:
        await asyncio.sleep(_LATE_SECONDS)
        if path in late:
            written = late[path]
            await publish(driver, Write(path, written))
            if late.get(path) == written:
                del late[path]

    async def is_there(driver: FilesystemDriver, path: str) -> bool:
        # A tag that is new shows in lists, and so it can't be late.
        return path.endswith("/current/link") and await content.read_link(driver, path) is not None

    async def publish_late(driver: FilesystemDriver, *stages: Stage) -> None:
        now = []
        for step in flatten(stages):
            if isinstance(step, Write) and await is_there(driver, step.path):
                late[step.path] = step.content
                task = asyncio.create_task(flush(driver, step.path))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            else:
                now.append(step)
        await publish(driver, *now)

    async def read_late(driver: FilesystemDriver, path: str) -> bytes:
        return late[path] if path in late else await read(driver, path)

    async def delete_late(driver: FilesystemDriver, path: str, *, durable: bool = True) -> None:
        late.pop(f"{path}/current/link", None)
        await delete(driver, path, durable=durable)

    _replace(FilesystemDriver, "publish", publish_late)
    _replace(FilesystemDriver, "read", read_late)
    _replace(FilesystemDriver, "delete", delete_late)


def hold_no_locks() -> None:
    """Let deletions and pushes of one repository go on at the same time."""

    @asynccontextmanager
    async def nothing(_driver: StorageDriver, _name: str) -> AsyncGenerator[None, None]:
        yield

    vars(locks)["pushing"] = vars(locks)["deleting"] = nothing


def _replace(owner: type, name: str, replacement: object) -> None:
    setattr(owner, name, replacement)


FLAWS = {
    "caches links": cache_links,
    "caches blobs": cache_blobs,
    "writes late": write_late,
    "holds no locks": hold_no_locks,
}

FLAWS[os.environ["FLAW"]]()

if __name__ == "__main__":
    from alauda_registry.server.cli import main

    sys.exit(main())
