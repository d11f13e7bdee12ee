"""Media types the registry has to tell apart. All others are just content to it."""

from typing import Final

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_EMPTY: Final = "application/vnd.oci.empty.v1+json"
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP: Final = "application/vnd.oci.image.layer.v1.tar+gzip"

DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER_GZIP: Final = "application/vnd.docker.image.rootfs.diff.tar.gzip"

SCHEMA1: Final = "application/vnd.docker.distribution.manifest.v1+json"
SCHEMA1_SIGNED: Final = "application/vnd.docker.distribution.manifest.v1+prettyjws"

OCTET_STREAM: Final = "application/octet-stream"

INDEXES: Final = frozenset({OCI_INDEX, DOCKER_LIST})
"""Manifests that list other manifests."""

IMAGES: Final = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
"""Manifests that list a configuration and layers."""

SCHEMA1_MANIFESTS: Final = frozenset({SCHEMA1, SCHEMA1_SIGNED})
"""Manifests of the first generation, which are kept but not looked into."""

MANIFESTS: Final = IMAGES | INDEXES | SCHEMA1_MANIFESTS
"""Every type a manifest may be pushed as."""

_NON_DISTRIBUTABLE: Final = frozenset(
    {
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    }
)


def is_non_distributable(media_type: str) -> bool:
    """Tell whether layers of this type may stay where their URLs point to."""
    return media_type in _NON_DISTRIBUTABLE
