"""Image: one record for each manifest, named by its digest (facts/image-api.md 2.1 and 3.3)."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, ClassVar

from typing_extensions import override

from alauda_imageapi.kinds import docker_metadata, schemas, signatures
from alauda_imageapi.kinds.names import (
    MANAGED_SIGNATURE,
    MANIFEST_BLOB_STORED,
    PullSpec,
    annotation,
    in_openshift,
    is_digest,
)
from alauda_imageapi.machinery import aside, errors
from alauda_imageapi.machinery.errors import Cause
from alauda_imageapi.machinery.objects import Object
from alauda_imageapi.machinery.resources import NAME_COLUMN, Column, Context
from alauda_imageapi.machinery.schema import Schema
from alauda_imageapi.machinery.store import Key, Stored
from alauda_imageapi.machinery.stored import StoredResource

_ALIAS = "sha256-"
"""What names of images begin with where tools write a dash for the colon."""

_IMMUTABLE = ("dockerImageMetadata", "dockerImageMetadataVersion", "dockerImageLayers")


class Images(StoredResource):
    """``images``."""

    name = "images"
    singular = "image"
    kind = "Image"
    namespaced = False
    verbs = (
        *("create", "delete", "deletecollection", "get"),
        *("list", "patch", "update", "watch"),
    )
    schema: ClassVar[Schema] = schemas.IMAGE
    columns = (NAME_COLUMN, Column("Image Reference", "Where the image can be pulled from."))

    @override
    async def prepare_create(self, context: Context, document: Object) -> None:
        now = context.surroundings.timestamp()
        await aside.run(aside.weigh(document), prepare_image, document, now)
        document["metadata"].pop("generation", None)

    @override
    async def prepare_update(
        self, context: Context, document: Object, old: Object, subresource: str
    ) -> None:
        if document.get("dockerImageManifest"):
            now = context.surroundings.timestamp()
            await aside.run(aside.weigh(document), docker_metadata.complete, document, now)
        _drop_stored_content(document)

    @override
    def only_part(self, new: Object, old: Object, subresource: str) -> Object:
        if not old:
            return new
        part = dict(new)
        for name in (*_IMMUTABLE, "dockerImageSignatures"):
            if name in old:
                part[name] = old[name]
            elif name in _IMMUTABLE:
                part.pop(name, None)
        _keep_content(part, old)
        return part

    @override
    async def check(
        self, context: Context, document: Object, old: Object | None
    ) -> Iterable[Cause]:
        return await aside.run(
            aside.weigh(document), lambda: errors.first(check_image(document, ""))
        )

    @override
    def check_name(self, name: str) -> Iterable[Cause]:
        yield from super().check_name(name)
        if name.startswith(_ALIAS):
            # It could neither be read nor deleted.
            yield errors.invalid("metadata.name", name, "a digest has a colon: sha256:...")

    @override
    async def find(self, context: Context, name: str) -> Stored | None:
        if name.startswith(_ALIAS):
            name = name.replace("-", ":", 1)
        return await super().find(context, name)

    async def find_named(self, context: Context, digest: str) -> Stored | None:
        """Return an image that a stream has named.

        That of a moment ago, where it will do, but never none instead: images are not followed
        together with streams, and may be known later.
        """
        if context.recent:
            return (await self.find_several([digest])).get(digest)
        return await self.store.get(self.key(context, digest))

    async def find_several(self, names: Iterable[str]) -> Mapping[str, Stored]:
        """Return those of some images that there are."""
        found = await self.store.get_several(Key(self.name, "", name) for name in names)
        return {key.name: stored for key, stored in found.items()}

    @override
    def row(self, document: Object, now: datetime) -> list[Any]:
        return [document["metadata"]["name"], document.get("dockerImageReference", "")]


def prepare_image(image: Object, now: str) -> None:
    """Derive what follows from the manifest of a new image."""
    were_given = bool(image.get("dockerImageLayers"))
    docker_metadata.complete(image, now)
    docker_metadata.order_layers(image, were_given=were_given)
    _drop_stored_content(image)
    for signature in image.get("signatures") or []:
        # What old releases of OpenShift have put there; signatures have none of their own.
        annotations = (signature.get("metadata") or {}).get("annotations") or {}
        annotations.pop(in_openshift(MANAGED_SIGNATURE), None)


def without_content(image: Object) -> Object:
    """Return an image as others show it: without raw manifest and configuration."""
    raw = ("dockerImageManifest", "dockerImageConfig")
    return {name: value for name, value in image.items() if name not in raw}


def check_image(image: Mapping[str, Any], path: str) -> Iterable[Cause]:
    """Yield what breaks the rules.

    Args:
        image: The Image.
        path: Of the field it is in, with a dot behind, or empty.
    """
    reference = image.get("dockerImageReference", "")
    if not reference:
        yield errors.required(f"{path}dockerImageReference")
    elif PullSpec.parse(reference) is None:
        yield errors.invalid(f"{path}dockerImageReference", reference, "is no pull spec")
    manifests = image.get("dockerImageManifests") or []
    if manifests and image.get("dockerImageLayers"):
        detail = "dockerImageLayers may not be set when dockerImageManifests is"
        yield errors.invalid(f"{path}dockerImageLayers", "", detail)
    for index, manifest in enumerate(manifests):
        yield from _check_manifest(manifest, f"{path}dockerImageManifests[{index}]")
    for index, signature in enumerate(image.get("signatures") or []):
        yield from signatures.check_signature(signature, f"{path}signatures[{index}]")
    for index, signed in enumerate(image.get("dockerImageSignatures") or []):
        if not signatures.is_base64(signed):
            yield errors.invalid(f"{path}dockerImageSignatures[{index}]", "", "is not base64")


def _check_manifest(manifest: Object, where: str) -> Iterable[Cause]:
    if not is_digest(manifest.get("digest", "")):
        yield errors.invalid(f"{where}.digest", manifest.get("digest", ""), "is no digest")
    major, slash, minor = manifest.get("mediaType", "").partition("/")
    if not (major and slash and minor):
        yield errors.invalid(f"{where}.mediaType", manifest.get("mediaType", ""), "is no type")
    for name in ("architecture", "os"):
        if not manifest.get(name):
            yield errors.required(f"{where}.{name}")
    if manifest.get("manifestSize", 0) < 0:
        yield errors.invalid(f"{where}.manifestSize", manifest["manifestSize"], "is negative")


def _keep_content(document: Object, old: Object) -> None:
    """Let raw manifest and configuration be changed to what they are by digest only."""
    for name, expected in (
        ("dockerImageManifest", document["metadata"]["name"]),
        ("dockerImageConfig", docker_metadata.config_digest(old)),
    ):
        given = document.get(name)
        if given and given != old.get(name) and docker_metadata.content_digest(given) != expected:
            _restore(document, old, name)


def _restore(document: Object, old: Object, name: str) -> None:
    if name in old:
        document[name] = old[name]
    else:
        del document[name]


def _drop_stored_content(image: Object) -> None:
    if annotation(image["metadata"], MANIFEST_BLOB_STORED) == "true":
        image.pop("dockerImageManifest", None)
        image.pop("dockerImageConfig", None)
