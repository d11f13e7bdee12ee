"""Pushes through the stores, for tests that are about something else."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from typing_extensions import override

from alauda_registry.oci.digest import Algorithm, Digest
from alauda_registry.oci.errors import BlobUnknown
from alauda_registry.oci.manifest import Manifest
from alauda_registry.oci.media_types import OCI_EMPTY, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST
from alauda_registry.oci.reference import RepositoryName, Tag
from alauda_registry.storage.repositories import Repository
from alauda_registry.storage.uploads import Piece

NAME = RepositoryName("team/app")
EMPTY = b"{}"


class Body(AsyncIterator[bytes]):
    """Chunks on their way in, which remember how many of them were asked for.

    Args:
        chunks: What arrives.
        error: What happens after that instead of an end.
        on_ask: Awaited before each chunk, with how many were asked for before.
    """

    def __init__(
        self,
        *chunks: bytes,
        error: Exception | None = None,
        on_ask: Callable[[int], Awaitable[object]] | None = None,
    ) -> None:
        self._chunks = chunks
        self._error = error
        self._on_ask = on_ask
        self.asked = 0

    @override
    async def __anext__(self) -> bytes:
        if self._on_ask is not None:
            await self._on_ask(self.asked)
        self.asked += 1
        if self.asked <= len(self._chunks):
            return self._chunks[self.asked - 1]
        if self._error is not None:
            raise self._error
        raise StopAsyncIteration


def piece(
    *chunks: bytes,
    start: int | None = None,
    length: int | None = None,
    error: Exception | None = None,
) -> Piece:
    return Piece(Body(*chunks, error=error), start, length)


async def push_blob(
    repository: Repository, content: bytes, algorithm: Algorithm = Algorithm.SHA256
) -> Digest:
    digest = Digest.of(content, algorithm)
    session = await repository.uploads.start(algorithm=algorithm)
    await session.commit(digest, piece(content))
    return digest


async def read_blob(repository: Repository, digest: Digest) -> bytes:
    blob = await repository.blobs.open(digest)
    try:
        return b"".join([chunk async for chunk in blob.stream()])
    finally:
        blob.close()


def descriptor(
    content: bytes, media_type: str, algorithm: Algorithm = Algorithm.SHA256, **more: object
) -> dict[str, Any]:
    digest = str(Digest.of(content, algorithm))
    return {"mediaType": media_type, "digest": digest, "size": len(content), **more}


def image(*layers: bytes, config: bytes = EMPTY, **fields: object) -> bytes:
    """Return an image manifest; its fields can be replaced and more can be added."""
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(config, OCI_EMPTY),
        "layers": [descriptor(layer, OCI_LAYER_GZIP) for layer in layers],
        **fields,
    }
    return json.dumps(manifest).encode()


def index(*children: bytes, **fields: object) -> bytes:
    manifests = [descriptor(child, OCI_MANIFEST) for child in children]
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests, **fields}
    return json.dumps(document).encode()


async def put(
    repository: Repository,
    content: bytes,
    *tags: str,
    algorithm: Algorithm = Algorithm.SHA256,
) -> Digest:
    """Push a manifest and nothing of what it refers to."""
    digest = Digest.of(content, algorithm)
    parsed = Manifest.parse(content, None)
    await repository.manifests.put(parsed, digest, [Tag.parse(tag) for tag in tags])
    return digest


async def push(
    repository: Repository,
    content: bytes,
    *tags: str,
    blobs: Sequence[bytes] = (EMPTY,),
    algorithm: Algorithm = Algorithm.SHA256,
) -> Digest:
    """Push a manifest, and first the blobs it refers to."""
    for blob in blobs:
        try:
            await repository.blobs.stat(Digest.of(blob))
        except BlobUnknown:
            await push_blob(repository, blob)
    return await put(repository, content, *tags, algorithm=algorithm)
