"""What clients push to and from: few repositories and tags, so that clients meet.

Blobs that manifests need are never deleted, and those that are deleted lie in repositories
without manifests: so whatever manifest is served, all of its blobs have to be.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass

from tests.integration.volumes import digest_of
from tests.torture.histories import Key, Thing
from tests.torture.images import Image, make_artifact, make_image


@dataclass(frozen=True, slots=True)
class World:
    """All that clients push to and from."""

    repositories: tuple[str, ...]
    tags: tuple[str, ...]
    images: tuple[Image, ...]
    artifacts: tuple[Image, ...]
    blob_repositories: tuple[str, ...]
    blobs: Mapping[str, bytes]

    @property
    def subject(self) -> Image:
        """What the artifacts point at."""
        return self.images[0]

    def needed(self) -> dict[str, bytes]:
        """Return the blobs that the manifests need."""
        return {
            digest: content
            for image in (*self.images, *self.artifacts)
            for digest, content in image.blobs.items()
        }

    def keys(self) -> list[Key]:
        """Return every register that the clients touch."""
        manifests = [image.digest for image in (*self.images, *self.artifacts)]
        return [
            *(Key(Thing.TAG, name, tag) for name in self.repositories for tag in self.tags),
            *(Key(Thing.MANIFEST, name, one) for name in self.repositories for one in manifests),
            *(Key(Thing.BLOB, name, one) for name in self.blob_repositories for one in self.blobs),
        ]


def make_world(chance: random.Random, *, repositories: int, tags: int) -> World:
    """Make what clients push: small things mostly, and a few that arrive in pieces."""
    images = tuple(make_image(chance) for _ in range(10))
    sizes = [*[2_000] * 7, *[200_000] * 3, 3_000_000]
    contents = [chance.randbytes(size + number) for number, size in enumerate(sizes)]
    return World(
        repositories=tuple(f"team/app-{number}" for number in range(repositories)),
        tags=tuple(f"v{number}" for number in range(tags)),
        images=images,
        artifacts=tuple(make_artifact(chance, images[0]) for _ in range(4)),
        blob_repositories=tuple(f"blobs/store-{number}" for number in range(repositories)),
        blobs={digest_of(content): content for content in contents},
    )
