"""Which blobs belong to a stream (facts/image-api.md 3.11)."""

import asyncio

from alauda_imageapi.kinds import docker_metadata, tags
from alauda_imageapi.kinds.images import Images
from alauda_imageapi.machinery.objects import Object
from alauda_registry.oci import media_types

_AT_ONCE = 50


async def layers_of(stream: Object, images: Images) -> Object:
    """Return the layers of all images that a stream has or had, and those of its indexes."""
    blobs: Object = {}
    found: Object = {}
    waiting = list(tags.images_of(stream))
    while waiting:
        kept = await images.find_several(waiting)
        following: set[str] = set()
        for count, digest in enumerate(waiting, 1):
            stored = kept.get(digest)
            if stored is None:
                found[digest] = {"imageMissing": True, "layers": None, "config": None}
                continue
            image = stored.object()
            children = [child["digest"] for child in image.get("dockerImageManifests") or []]
            following |= {*children}
            found[digest] = _references(image, children)
            kind = image.get("dockerImageManifestMediaType") or media_types.DOCKER_MANIFEST
            blobs[digest] = {"size": None, "mediaType": kind}
            _add_blobs(blobs, image, found[digest]["config"])
            if count % _AT_ONCE == 0:
                # Others get on: a stream may have thousands, and each takes a while to decode.
                await asyncio.sleep(0)
        waiting = sorted(following - found.keys())
    metadata = {
        name: value for name, value in stream["metadata"].items() if name != "managedFields"
    }
    return {
        "kind": "ImageStreamLayers",
        "apiVersion": stream["apiVersion"],
        "metadata": metadata,
        "blobs": blobs,
        "images": found,
    }


def _references(image: Object, children: list[str]) -> Object:
    if children:
        return {"layers": None, "config": None, "manifests": children, "imageMissing": False}
    return {
        "layers": [layer["name"] for layer in _named_layers(image)],
        "config": docker_metadata.config_digest(image) or None,
        "imageMissing": False,
    }


def _named_layers(image: Object) -> list[Object]:
    """Return the layers that are known by a digest; images say of theirs whatever they like."""
    return [layer for layer in image.get("dockerImageLayers") or [] if layer.get("name")]


def _add_blobs(blobs: Object, image: Object, config: str | None) -> None:
    for layer in _named_layers(image):
        blobs[layer["name"]] = {
            "size": layer.get("size", 0),
            "mediaType": layer.get("mediaType", ""),
        }
    if config:
        is_docker = image.get("dockerImageManifestMediaType") == media_types.DOCKER_MANIFEST
        kind = media_types.DOCKER_CONFIG if is_docker else media_types.OCI_CONFIG
        blobs[config] = {"size": None, "mediaType": kind}
