"""Files that grow, as one read of their key showed them: what an upload has brought so far."""

from collections.abc import AsyncGenerator

from typing_extensions import override

from alauda_registry.storage.driver import Snapshot, require_valid
from alauda_registry.storage.drivers.s3.client import S3Client
from alauda_registry.storage.drivers.s3.errors import NAME
from alauda_registry.storage.drivers.s3.files import Composition, compose
from alauda_registry.storage.drivers.s3.reading import PiecesReader


class FileSnapshot(Snapshot):
    """A file as one read of its key showed it.

    Args:
        client: The bucket.
        path: The file.
        composition: What it is made of.
        copies_at_once: How many parts are copied at once.
    """

    def __init__(
        self, client: S3Client, path: str, composition: Composition, copies_at_once: int
    ) -> None:
        self._client = client
        self._path = path
        self._composition = composition
        self._copies_at_once = copies_at_once

    @property
    @override
    def size(self) -> int:
        return self._composition.size

    @property
    @override
    def note(self) -> bytes:
        return self._composition.note

    @override
    def stream(self) -> AsyncGenerator[bytes, None]:
        return PiecesReader(self._client, self._path, self._composition).stream()

    @override
    async def copy(self, target: str) -> None:
        await compose(
            self._client,
            self._path,
            self._composition.pieces,
            target,
            copies_at_once=self._copies_at_once,
        )

    @override
    async def delete(self, *others: str) -> None:
        for other in others:
            require_valid(other, driver=NAME)
        names = {piece.name for piece in self._composition.pieces if piece.name}
        pieces = (self._path + name for name in sorted(names))
        await self._client.delete(self._path, *pieces, *others)
