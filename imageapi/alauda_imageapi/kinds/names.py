"""Names that the kinds share: the group, annotations, and how pull specs are written.

The grammar of names is that of the distribution specification, since what is pushed must show.
OpenShift's own is narrower in places (``a__b`` is none of its streams).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from alauda_imageapi.machinery.resources import Group

GROUP: Final = Group("image.alauda.io", "v1")
DOCKER_IMAGE_VERSION: Final = "image.alauda.io/1.0"

MANAGED: Final = "alauda.io/image.managed"
LAYERS_ORDER: Final = "image.alauda.io/dockerLayersOrder"
EXCLUDE_SECRET: Final = "alauda.io/image.excludeSecret"  # noqa: S105 -- a name
MANIFEST_BLOB_STORED: Final = "image.alauda.io/manifestBlobStored"
MANAGED_SIGNATURE: Final = "image.alauda.io/managed-signature"

LONGEST_NAME: Final = 255

_COMPONENT = re.compile(r"[a-z0-9]++(?:(?:\.|__?|-++)[a-z0-9]++)*+")
_HOST = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9a-fA-F:.]+\])(?::\d{1,5})?")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*:[0-9a-fA-F]{32,}")


@dataclass(frozen=True, slots=True)
class PullSpec:
    """Where an image is: ``[registry/]path[:tag][@digest]``."""

    registry: str
    path: str
    tag: str
    digest: str

    @classmethod
    def parse(cls, text: str) -> "PullSpec | None":
        """Read one; None if it is none."""
        rest, at, digest = text.partition("@")
        if at and not _DIGEST.fullmatch(digest):
            return None
        parts = rest.split("/")
        last, colon, tag = parts[-1].partition(":")
        if colon and not _TAG.fullmatch(tag):
            return None
        parts[-1] = last
        registry = ""
        if len(parts) > 1 and (parts[0] == "localhost" or {".", ":"} & set(parts[0])):
            registry = parts.pop(0)
            if not _HOST.fullmatch(registry):
                return None
        path = "/".join(parts)
        if len(path) > LONGEST_NAME or not all(_COMPONENT.fullmatch(part) for part in parts):
            return None
        return cls(registry, path, tag, digest)


def annotation(metadata: Mapping[str, Any], name: str) -> str | None:
    """Return an annotation, also of what came from OpenShift; ours counts where both are there."""
    found: Mapping[str, str] = metadata.get("annotations") or {}
    return found.get(name, found.get(in_openshift(name)))


def in_openshift(name: str) -> str:
    """Return what OpenShift calls an annotation of ours."""
    return name.replace("alauda.io/", "openshift.io/")


def is_component(name: str) -> bool:
    """Tell whether this can be the name of a stream."""
    return _COMPONENT.fullmatch(name) is not None


def is_digest(text: str) -> bool:
    """Tell whether this names content."""
    return _DIGEST.fullmatch(text) is not None
