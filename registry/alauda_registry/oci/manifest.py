"""Manifests: what was pushed, byte for byte, and what it refers to.

The bytes are what a digest names, so they are kept and never written anew; everything else
here is a view of them. The media type of a stored manifest is not stored beside it, as other
registries that share the storage would not know of it. So a manifest is accepted only if its
type can be told from its bytes again: ``Manifest.parse(content, None)`` finds the type the
manifest was pushed with. ``tests/property/test_manifest_parser.py`` holds the parser to that,
and to raising nothing but ``ManifestInvalid``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from alauda_registry.oci import documents
from alauda_registry.oci.descriptor import Descriptor
from alauda_registry.oci.digest import Digest
from alauda_registry.oci.documents import Fields
from alauda_registry.oci.errors import ManifestInvalid
from alauda_registry.oci.media_types import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    IMAGES,
    INDEXES,
    MANIFESTS,
    OCI_INDEX,
    OCI_MANIFEST,
    SCHEMA1,
    SCHEMA1_MANIFESTS,
    SCHEMA1_SIGNED,
    is_non_distributable,
)


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest or an index. Made by :meth:`parse`.

    Args:
        content: The exact bytes.
        media_type: One of :data:`~alauda_registry.oci.media_types.MANIFESTS`.
        config: An image's configuration.
        layers: An image's layers, or an artifact's files.
        manifests: An index's entries.
        subject: The manifest this one is about.
        artifact_type: What the artifact is.
        annotations: Anything its author wanted to say.
    """

    content: bytes
    media_type: str
    config: Descriptor | None = None
    layers: tuple[Descriptor, ...] = ()
    manifests: tuple[Descriptor, ...] = ()
    subject: Descriptor | None = None
    artifact_type: str | None = None
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)

    @classmethod
    def parse(cls, content: bytes, media_type: str | None) -> Self:
        """Check a manifest and find what it refers to.

        Args:
            content: The bytes as they were sent or stored.
            media_type: What the client says they are, without parameters; ``None`` to
                tell it from the content.

        Raises:
            ManifestInvalid: The content is not a manifest of that type.
        """
        if media_type is not None and media_type not in MANIFESTS:
            raise ManifestInvalid(
                "manifest invalid: the registry accepts no manifests of this media type; "
                f"push it as {OCI_MANIFEST} or {OCI_INDEX}",
                media_type=media_type,
            )
        fields = documents.decode_object(content)
        found = _media_type(fields)
        if media_type is None:
            media_type = found
        elif media_type != found:
            raise ManifestInvalid(
                f"manifest invalid: it was sent as {media_type}, but its content is that of "
                f"{found}; make Content-Type, mediaType and the other fields agree",
                media_type=media_type,
            )
        if media_type in SCHEMA1_MANIFESTS:
            return cls(content, media_type)
        _check_schema_version(fields)
        config = None
        artifact_type = documents.optional_text(fields, "artifactType", "manifest")
        if media_type in IMAGES:
            _refuse_fields(fields, media_type, "manifests")
            config = Descriptor.from_json(fields.get("config"), where="config")
            artifact_type = artifact_type or config.media_type
        else:
            _refuse_fields(fields, media_type, "config", "layers")
        subject = fields.get("subject")
        return cls(
            content=content,
            media_type=media_type,
            config=config,
            layers=_descriptors(fields, "layers") if media_type in IMAGES else (),
            manifests=_descriptors(fields, "manifests") if media_type in INDEXES else (),
            subject=None if subject is None else Descriptor.from_json(subject, where="subject"),
            artifact_type=artifact_type,
            annotations=documents.optional_annotations(fields, "manifest"),
        )

    def required_blobs(self) -> tuple[Descriptor, ...]:
        """Return the configuration and layers the repository has to hold, each once.

        Layers that may not be distributed and say where they can be had are left out.
        """
        config = () if self.config is None else (self.config,)
        layers = (
            layer
            for layer in self.layers
            if not (layer.urls and is_non_distributable(layer.media_type))
        )
        # By digest, as the same blob may be described in different ways; the first one counts.
        found: dict[Digest, Descriptor] = {}
        for blob in (*config, *layers):
            found.setdefault(blob.digest, blob)
        return tuple(found.values())

    def as_referrer(self, digest: Digest) -> Descriptor:
        """Return how this manifest is shown among the referrers of its subject.

        Args:
            digest: The digest this manifest was pushed with.
        """
        return Descriptor(
            media_type=self.media_type,
            digest=digest,
            size=len(self.content),
            artifact_type=self.artifact_type,
            annotations=self.annotations,
        )


def media_type_of(content: bytes) -> str:
    """Tell the media type of a stored manifest, which may break rules that pushes have to obey.

    Raises:
        ManifestInvalid: The content looks like no manifest at all.
    """
    return _media_type(documents.decode_object(content))


def _media_type(fields: Fields) -> str:
    stated = documents.optional_text(fields, "mediaType", "manifest")
    if stated is not None:
        if stated not in MANIFESTS:
            raise ManifestInvalid(
                "manifest invalid: manifest.mediaType is not the type of a manifest; "
                f"use {OCI_MANIFEST} or {OCI_INDEX}",
                media_type=stated,
            )
        return stated
    if _is_version(fields, 1):
        return SCHEMA1 if fields.get("signatures") is None else SCHEMA1_SIGNED
    if fields.get("config") is not None or fields.get("layers") is not None:
        return OCI_MANIFEST
    if "manifests" in fields:
        return OCI_INDEX
    raise ManifestInvalid(
        "manifest invalid: it has neither a config nor manifests; "
        f"send an image manifest ({OCI_MANIFEST}, {DOCKER_MANIFEST}) "
        f"or an index ({OCI_INDEX}, {DOCKER_LIST})"
    )


def _is_version(fields: Fields, version: int) -> bool:
    given = fields.get("schemaVersion")
    return type(given) is int and given == version


def _check_schema_version(fields: Fields) -> None:
    if not _is_version(fields, 2):
        raise ManifestInvalid("manifest invalid: manifest.schemaVersion must be the number 2")


def _refuse_fields(fields: Fields, media_type: str, *keys: str) -> None:
    # A document that is both an image and an index means different things to different
    # clients, so what one of them has checked another would not run.
    for key in keys:
        if fields.get(key) is not None:
            raise ManifestInvalid(
                f"manifest invalid: a manifest of type {media_type} must not have {key}; "
                "remove it, or push the manifest as what it is"
            )


def _descriptors(fields: Fields, key: str) -> tuple[Descriptor, ...]:
    if key not in fields:
        raise ManifestInvalid(f"manifest invalid: {key} is missing; write [] if there are none")
    value = fields[key]
    if value is None:
        return ()
    return tuple(
        Descriptor.from_json(item, where=f"{key}[{index}]")
        for index, item in enumerate(documents.require_array(value, key))
    )
