"""The content that the checks push: random blobs, and manifests around them.

Everything random comes from here, so that no check finds what an earlier run has left behind.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Json: TypeAlias = dict[str, Any]
"""An object out of somebody else's JSON. What is in it is for the expectations to find out."""

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
OCI_FOREIGN_LAYER = "application/vnd.oci.image.layer.nondistributable.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


@dataclass(frozen=True, slots=True)
class Manifest:
    """The bytes of a manifest or index, and what they are."""

    content: bytes
    media_type: str

    @property
    def digest(self) -> str:
        """The sha256 digest of the bytes."""
        return digest_of(self.content)

    def descriptor(self, **fields: object) -> Json:
        """Return a descriptor of the manifest."""
        return descriptor(self.content, self.media_type, **fields)


def random_blob(size: int = 512) -> bytes:
    """Return bytes that no registry has seen."""
    return os.urandom(size)


def digest_of(content: bytes, algorithm: str = "sha256") -> str:
    """Return the digest of some bytes as the specification writes it."""
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


def descriptor(content: bytes, media_type: str, **fields: object) -> Json:
    """Return a descriptor of some bytes."""
    return {"mediaType": media_type, "digest": digest_of(content), "size": len(content), **fields}


def image(
    config: Mapping[str, object], layers: Sequence[Mapping[str, object]], **fields: object
) -> Manifest:
    """Return an image manifest; random annotations make it one of its kind."""
    content = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config,
        "layers": layers,
        "annotations": {"org.example.nonce": os.urandom(8).hex()},
        **fields,
    }
    return Manifest(json.dumps(content).encode(), OCI_MANIFEST)


def index(manifests: Sequence[Mapping[str, object]], **fields: object) -> Manifest:
    """Return an image index; random annotations make it one of its kind."""
    content = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": manifests,
        "annotations": {"org.example.nonce": os.urandom(8).hex()},
        **fields,
    }
    return Manifest(json.dumps(content).encode(), OCI_INDEX)
