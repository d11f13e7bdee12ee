"""Small images out of a random number generator: the same seed makes the same bytes."""

import json
import random
from dataclasses import dataclass

from tests.integration.volumes import (
    EMPTY,
    OCI_EMPTY,
    OCI_LAYER,
    OCI_MANIFEST,
    Json,
    descriptor,
    digest_of,
)

OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
ARTIFACT_TYPE = "application/vnd.example.signature"


@dataclass(frozen=True, slots=True)
class Image:
    """A manifest and the blobs that it needs, by digest."""

    manifest: bytes
    blobs: dict[str, bytes]

    @property
    def digest(self) -> str:
        """What the manifest is known by."""
        return digest_of(self.manifest)

    @property
    def descriptor(self) -> Json:
        """How others point at it."""
        return descriptor(OCI_MANIFEST, self.manifest)


def make_image(chance: random.Random, *, layer_size: int = 3_000) -> Image:
    """Make an image with a config and a layer."""
    config = json.dumps({"created by": chance.getrandbits(64)}).encode()
    layer = chance.randbytes(layer_size)
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(OCI_CONFIG, config),
        "layers": [descriptor(OCI_LAYER, layer)],
    }
    return Image(
        json.dumps(manifest).encode(), {digest_of(content): content for content in (config, layer)}
    )


def make_artifact(chance: random.Random, subject: Image) -> Image:
    """Make something that points at an image."""
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": ARTIFACT_TYPE,
        "config": descriptor(OCI_EMPTY, EMPTY),
        "layers": [],
        "subject": subject.descriptor,
        "annotations": {"number": str(chance.getrandbits(64))},
    }
    return Image(json.dumps(manifest).encode(), {digest_of(EMPTY): EMPTY})
