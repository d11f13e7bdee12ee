"""Which blobs belong to a stream (facts/image-api.md 3.11)."""

from alauda_imageapi.kinds import docker_metadata, tags
from alauda_imageapi.kinds.images import Images
from alauda_imageapi.machinery.objects import Object
from alauda_imageapi.machinery.store import Key
from alauda_registry.oci import media_types


async def layers_of(stream: Object, images: Images) -> Object:
    """Return the layers of all images that a stream has or had, and those of its indexes."""
    blobs: Object = {}
    found: Object = {}
    waiting = list(tags.images_of(stream))
    while waiting:
        digest = waiting.pop()
        if digest in found:
            continue
        stored = await images.store.get(Key(images.name, "", digest))
        if stored is None:
            found[digest] = {"imageMissing": True, "layers": None, "config": None}
            continue
        image = stored.object()
        children = [child["digest"] for child in image.get("dockerImageManifests") or []]
        waiting += children
        found[digest] = _references(image, children)
        kind = image.get("dockerImageManifestMediaType") or media_types.DOCKER_MANIFEST
        blobs[digest] = {"size": None, "mediaType": kind}
        _add_blobs(blobs, image, found[digest]["config"])
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
        "layers": [layer["name"] for layer in image.get("dockerImageLayers") or []],
        "config": docker_metadata.config_digest(image) or None,
        "imageMissing": False,
    }


def _add_blobs(blobs: Object, image: Object, config: str | None) -> None:
    for layer in image.get("dockerImageLayers") or []:
        blobs[layer["name"]] = {
            "size": layer.get("size", 0),
            "mediaType": layer.get("mediaType", ""),
        }
    if config:
        is_docker = image.get("dockerImageManifestMediaType") == media_types.DOCKER_MANIFEST
        kind = media_types.DOCKER_CONFIG if is_docker else media_types.OCI_CONFIG
        blobs[config] = {"size": None, "mediaType": kind}
