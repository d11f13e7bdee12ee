"""Links, and the bytes they lead to.

What a repository has is said by links, and links are read from storage every time: what
one process acknowledged, every other one sees. Bytes are addressed by their digest and
never change, so they alone are cached.
"""

import logging
from collections import OrderedDict
from functools import lru_cache
from typing import Generic, Protocol, TypeVar

from alauda_registry.oci.digest import Digest
from alauda_registry.oci.errors import DigestInvalid
from alauda_registry.storage.driver import PathNotFound, StorageDriver

logger = logging.getLogger(__name__)


class Sized(Protocol):
    """Something with a length in bytes."""

    def __len__(self) -> int: ...


T = TypeVar("T", bound=Sized)


class ContentCache(Generic[T]):
    """The most recently used small contents, by digest.

    Args:
        maximum: How many bytes of content it may hold.
    """

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._size = 0
        self._items: OrderedDict[Digest, T] = OrderedDict()

    def get(self, digest: Digest) -> T | None:
        """Return the content, which becomes the most recently used."""
        item = self._items.get(digest)
        if item is not None:
            self._items.move_to_end(digest)
        return item

    def put(self, digest: Digest, item: T) -> None:
        """Remember the content, and forget the least recently used."""
        if digest in self._items:
            return
        self._items[digest] = item
        self._size += len(item)
        while self._size > self._maximum:
            _, oldest = self._items.popitem(last=False)
            self._size -= len(oldest)


async def read_link(driver: StorageDriver, path: str) -> Digest | None:
    """Return the digest a link holds, or None when there is no link that can be followed.

    A link that holds anything else, such as one that a crash of another registry left
    empty, is reported in the log and reads as absent.
    """
    try:
        content = await driver.read(path)
    except PathNotFound:
        return None
    try:
        return _parse_link(content)
    except (DigestInvalid, UnicodeDecodeError):
        logger.warning("a link holds no digest and is ignored: %s", path)
        return None


def is_intact(content: bytes, digest: Digest) -> bool:
    """Tell whether content read from storage is what its digest says, and report when not."""
    if Digest.of(content, digest.algorithm) == digest:
        return True
    logger.error("stored content does not match its digest and is not served: %s", digest)
    return False


@lru_cache(4096)
def _parse_link(content: bytes) -> Digest:
    """Parse what a link holds; the same few are read again and again."""
    return Digest.parse(content.decode("ascii"))
