"""What an Image says about itself, derived from its manifest and configuration.

Both are whatever somebody pushed, so nothing here trusts their shape: what cannot be read is left
out, and the write goes on (facts/image-api.md 2.2 and 3.3).
"""

import hashlib
from collections.abc import Iterable
from typing import Any

from alauda_imageapi.kinds.names import (
    DOCKER_IMAGE_VERSION,
    LAYERS_ORDER,
    annotation,
    in_openshift,
)
from alauda_imageapi.machinery import objects
from alauda_imageapi.machinery.objects import NotJSON, Object
from alauda_registry.oci import media_types

_CONFIG_TEXTS = (
    *("Hostname", "Domainname", "User", "Cpuset", "Image", "VolumesFrom", "WorkingDir"),
)
_CONFIG_NUMBERS = ("Memory", "MemorySwap", "CpuShares")
_CONFIG_FLAGS = (
    *("AttachStdin", "AttachStdout", "AttachStderr", "Tty", "OpenStdin", "StdinOnce"),
    "NetworkDisabled",
)
_CONFIG_LISTS = ("PortSpecs", "Env", "Cmd", "Dns", "Entrypoint", "SecurityOpts", "OnBuild")
_CONFIG_MAPS = ("ExposedPorts", "Volumes")
_LARGEST = 2**63 - 1


def complete(image: Object, now: str) -> None:
    """Fill in what follows from the manifest of an image.

    Args:
        image: The Image, with ``dockerImageManifest`` and perhaps ``dockerImageConfig``.
        now: The time, for what has no time of its own.
    """
    manifest = _read(image.get("dockerImageManifest"))
    if manifest:
        entries = _objects(manifest.get("manifests"))
        if entries or _kind(image, manifest) in media_types.INDEXES:
            _complete_index(image, manifest, entries, now)
        else:
            _complete_image(image, manifest)
    metadata = image.setdefault("dockerImageMetadata", {})
    if isinstance(metadata, dict):
        metadata |= {"kind": "DockerImage", "apiVersion": DOCKER_IMAGE_VERSION}
        for name, empty in (("Id", ""), ("Created", None), ("ContainerConfig", {})):
            metadata.setdefault(name, empty)
    image["dockerImageMetadataVersion"] = "1.0"


def order_layers(image: Object, *, were_given: bool) -> None:
    """Put the layers in order, the lowest first, and say so."""
    layers = image.get("dockerImageLayers")
    if not layers:
        return
    metadata = image["metadata"]
    order = annotation(metadata, LAYERS_ORDER)
    kind = image.get("dockerImageManifestMediaType")
    # Those who gave layers and no order wrote them as the oldest manifests have them.
    if were_given and (order == "descending" or (order is None and kind in media_types.IMAGES)):
        layers.reverse()
    annotations = metadata.setdefault("annotations", {})
    annotations[LAYERS_ORDER] = "ascending"
    # It would be about the order in which they came.
    annotations.pop(in_openshift(LAYERS_ORDER), None)


def config_digest(image: Object) -> str:
    """Return the digest of an image's configuration, where that is known."""
    metadata = image.get("dockerImageMetadata")
    if image.get("dockerImageManifestMediaType") not in media_types.IMAGES:
        return ""
    found = metadata.get("Id") if isinstance(metadata, dict) else None
    return found if isinstance(found, str) else ""


def content_digest(text: str) -> str:
    """Return the digest of a manifest or a configuration."""
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _complete_index(image: Object, manifest: Object, entries: list[Object], now: str) -> None:
    image["dockerImageManifestMediaType"] = _kind(image, manifest)
    image["dockerImageManifests"] = [_child(entry) for entry in entries]
    image["dockerImageMetadata"] = {"Id": image["metadata"]["name"], "Created": now}


def _child(entry: Object) -> Object:
    platform = _object(entry.get("platform"))
    child = {
        "digest": _text(entry.get("digest")),
        "mediaType": _text(entry.get("mediaType")),
        "manifestSize": _size(entry.get("size")),
        # Attestations and other artifacts have no platform.
        "architecture": _text(platform.get("architecture")) or "unknown",
        "os": _text(platform.get("os")) or "unknown",
    }
    variant = _text(platform.get("variant"))
    return {**child, "variant": variant} if variant else child


def _complete_image(image: Object, manifest: Object) -> None:
    layers: list[Object] = [
        {
            "name": _text(layer.get("digest")),
            "size": _size(layer.get("size")),
            "mediaType": _text(layer.get("mediaType")),
        }
        for layer in _objects(manifest.get("layers"))
    ]
    if layers and not image.get("dockerImageLayers"):
        image["dockerImageLayers"] = layers
    image["dockerImageManifestMediaType"] = _kind(image, manifest)
    text = image.get("dockerImageConfig")
    descriptor = _object(manifest.get("config"))
    metadata: Object = _object(image.get("dockerImageMetadata"))
    metadata["Id"] = _text(descriptor.get("digest")) or metadata.get("Id", "")
    sizes = {layer["name"]: layer["size"] for layer in layers}
    length = len(text.encode()) if isinstance(text, str) else _size(descriptor.get("size"))
    metadata["Size"] = min(sum(sizes.values()) + length, _LARGEST)
    config = _read(text)
    if config:
        metadata |= _from_config(config)
    image["dockerImageMetadata"] = metadata


def _from_config(config: Object) -> Object:
    found: Object = {
        "Created": _text(config.get("created")) or None,
        "ContainerConfig": _docker_config(config.get("container_config")),
        "Config": _docker_config(config.get("config")),
    }
    for name in ("Parent", "Comment", "Container", "Author", "Architecture"):
        if value := _text(config.get(name.lower())):
            found[name] = value
    if value := _text(config.get("docker_version")):
        found["DockerVersion"] = value
    return found


def _docker_config(value: Any) -> Object:
    given = _object(value)
    found: Object = {}
    for names, kind in (
        (_CONFIG_TEXTS, str),
        (_CONFIG_NUMBERS, int),
        (_CONFIG_FLAGS, bool),
        (_CONFIG_LISTS, list),
        (_CONFIG_MAPS, dict),
    ):
        found |= {
            name: given[name] for name in names if isinstance(given.get(name), kind) and given[name]
        }
    labels = {name: text for name, text in _object(given.get("Labels")).items() if text is not None}
    return {**found, "Labels": labels} if labels else found


def _kind(image: Object, manifest: Object) -> str:
    stated = _text(manifest.get("mediaType")) or _text(image.get("dockerImageManifestMediaType"))
    if stated:
        return stated
    return media_types.OCI_INDEX if "manifests" in manifest else media_types.OCI_MANIFEST


def _read(text: Any) -> Object:
    if not isinstance(text, str) or not text:
        return {}
    try:
        return _object(objects.parse_json(text.encode()))
    except NotJSON:
        return {}


def _object(value: Any) -> Object:
    return dict(value) if isinstance(value, dict) else {}


def _objects(value: Any) -> list[Object]:
    items: Iterable[Any] = value if isinstance(value, list) else ()
    return [item for item in items if isinstance(item, dict)]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _size(value: Any) -> int:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value if is_number and 0 <= value < 2**62 else 0
