"""What the kinds ask of whoever keeps the content that tags point to."""

from collections.abc import Sequence
from typing import Protocol


class Content(Protocol):
    """Keeps manifests and the tags that point to them."""

    async def untag(self, namespace: str, name: str, tags: Sequence[str]) -> None:
        """Take tags away, before they are gone from their stream; those that are gone are fine.

        Raises:
            Forbidden: It must not be.
            ServiceUnavailable: It does not work at the moment.
        """
        ...

    async def point(self, namespace: str, name: str, tag: str, digest: str) -> None:
        """Let a tag point to a manifest, if that is in the repository.

        Raises:
            ServiceUnavailable: It does not work at the moment.
        """
        ...

    async def has_tag(self, namespace: str, name: str, tag: str) -> bool:
        """Tell whether there is such a tag, perhaps again.

        Raises:
            ServiceUnavailable: It does not work at the moment.
        """
        ...


class NoContent:
    """For streams whose tags are kept nowhere else."""

    async def untag(self, namespace: str, name: str, tags: Sequence[str]) -> None:
        """There is nothing to do."""

    async def point(self, namespace: str, name: str, tag: str, digest: str) -> None:
        """There is nothing to do."""

    async def has_tag(self, namespace: str, name: str, tag: str) -> bool:
        """There is none."""
        del namespace, name, tag
        return False
