"""Checks a tree that nobody stored: ``python -m tests.torture.generated_tree LINKS``.

Prints the most memory that the process took, in KiB. The tree has as many links as asked for,
half of them in one repository, and a manifest for every twenty of them.
"""

import asyncio
import hashlib
import json
import resource
import sys
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from typing_extensions import override

from alauda_registry.oci.digest import Algorithm, Digest
from alauda_registry.oci.media_types import OCI_LAYER_GZIP, OCI_MANIFEST
from alauda_registry.oci.reference import RepositoryName
from alauda_registry.storage import paths
from alauda_registry.storage.drivers.inmemory import InMemoryDriver
from alauda_registry.storage.fsck.check import Check
from alauda_registry.storage.fsck.files import BATCH, File, Outcome
from alauda_registry.storage.fsck.tree import Tree
from alauda_registry.storage.fsck.verdicts import Rules
from tests.unit.storage.fsck.checking import SilentWatcher

T = TypeVar("T")

LAYERS = 20
SMALL = 1000
"""Links of each repository but the first one."""


def layer(number: int) -> Digest:
    return Digest(Algorithm.SHA256, hashlib.sha256(b"%d" % number).hexdigest())


def manifest(first: int) -> bytes:
    blobs = [
        {"mediaType": OCI_LAYER_GZIP, "digest": str(layer(number)), "size": 1}
        for number in range(first, first + LAYERS)
    ]
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": blobs[0],
        "layers": blobs[1:],
    }
    return json.dumps(document).encode()


class GeneratedTree(Tree):
    """A tree of any size that is made up as it is read."""

    def __init__(self, links: int) -> None:
        self._links = links
        self._manifests: dict[Digest, int] = {}

    @override
    async def walk(self, folder: str) -> AsyncGenerator[Sequence[File], None]:
        if folder != paths.ROOT:
            return
        files = self._files()
        while batch := list(islice(files, BATCH)):
            yield batch

    @override
    def interrupt(self) -> None:
        """Nothing: there is nothing to wait for."""

    def _files(self) -> Iterator[File]:
        for number in range(self._links):
            yield File(paths.blob_data(layer(number)), 1, 1.0)
        for first in range(0, self._links, LAYERS):
            content = manifest(first)
            digest = Digest.of(content)
            yield File(paths.blob_data(digest), len(content), 1.0)
        half = self._links // 2
        yield from self._repository("big", 0, half)
        for start in range(half, self._links, SMALL):
            yield from self._repository(f"small/r{start}", start, min(start + SMALL, self._links))

    def _repository(self, name: str, start: int, end: int) -> Iterator[File]:
        repository = RepositoryName(name)
        for number in range(start, end):
            digest = layer(number)
            yield link(paths.blob_link(repository, digest), digest)
        for first in range(start, end, LAYERS):
            digest = Digest.of(manifest(first))
            self._manifests[digest] = first
            yield link(paths.revision_link(repository, digest), digest)

    @override
    async def examine(
        self, digests: Sequence[Digest], look: Callable[[Digest, bytes | None], T]
    ) -> list[T]:
        return [look(digest, manifest(self._manifests.pop(digest))) for digest in digests]

    @override
    async def verify(
        self, digests: Sequence[Digest], advance: Callable[[int], None]
    ) -> list[tuple[Digest, Outcome]]:
        return []


def link(path: str, digest: Digest) -> File:
    content = str(digest).encode()
    return File(path, len(content), 0, content)


async def check(links: int) -> None:
    a_check = Check(InMemoryDriver(), GeneratedTree(links), Rules(), SilentWatcher())
    found = [finding async for finding in a_check.findings()]
    a_check.close()
    assert found == []
    assert a_check.summary.blobs == links + links // LAYERS


if __name__ == "__main__":
    asyncio.run(check(int(sys.argv[1])))
    sys.stdout.write(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}\n")
