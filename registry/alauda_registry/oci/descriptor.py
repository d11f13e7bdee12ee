"""Descriptors: how one document points at another.

What is read here was written by a client, so every field is checked before anything relies
on it. Fields the registry does not know are not kept: the bytes of the manifest are what is
stored and served, a descriptor is only the view the registry has of them. Image
specification, "Content Descriptors".
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from alauda_registry.oci import documents
from alauda_registry.oci.digest import Digest
from alauda_registry.oci.documents import Fields
from alauda_registry.oci.errors import DigestInvalid, ManifestInvalid

SIZE_LIMIT = 2**63
"""Sizes are signed 64-bit integers to most clients, so none may reach this."""

Platform = Mapping[str, str | tuple[str, ...]]
"""Where an image runs: those fields of the image specification that are given."""


@dataclass(frozen=True, slots=True)
class Descriptor:
    """The type, digest and size of some content, and what else is said of it.

    Args:
        media_type: What the content is.
        digest: The content's digest.
        size: The content's length in bytes.
        artifact_type: What the artifact is that a manifest describes.
        platform: Where an image runs.
        annotations: Anything its author wanted to say.
        urls: Where else the content can be had.
        data: The content itself in base64, as it was written.
    """

    media_type: str
    digest: Digest
    size: int
    artifact_type: str | None = None
    platform: Platform | None = field(default=None, hash=False)
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    urls: tuple[str, ...] = ()
    data: str | None = None

    @classmethod
    def from_json(cls, value: object, *, where: str = "descriptor") -> Self:
        """Check a decoded JSON value and turn it into a descriptor.

        Args:
            value: What the JSON decoder made of it.
            where: How messages call it, such as ``layers[2]``.

        Raises:
            ManifestInvalid: A field is missing or wrong; the message says which.
        """
        fields = documents.require_object(value, where)
        return cls(
            media_type=documents.require_text(fields, "mediaType", where),
            digest=_digest(fields, where),
            size=_size(fields, where),
            artifact_type=documents.optional_text(fields, "artifactType", where),
            platform=_platform(fields, where),
            annotations=documents.optional_annotations(fields, where),
            urls=documents.optional_texts(fields, "urls", where),
            data=documents.optional_text(fields, "data", where),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the descriptor as JSON values, without the fields that say nothing."""
        fields: dict[str, Any] = {
            "mediaType": self.media_type,
            "digest": str(self.digest),
            "size": self.size,
        }
        if self.urls:
            fields["urls"] = list(self.urls)
        if self.annotations:
            fields["annotations"] = dict(self.annotations)
        if self.data is not None:
            fields["data"] = self.data
        if self.platform is not None:
            fields["platform"] = {
                key: value if isinstance(value, str) else list(value)
                for key, value in self.platform.items()
            }
        if self.artifact_type is not None:
            fields["artifactType"] = self.artifact_type
        return fields


_PLATFORM_TEXTS = ("architecture", "os", "os.version", "variant")
_PLATFORM_LISTS = ("os.features", "features")


def _digest(fields: Fields, where: str) -> Digest:
    text = documents.require_text(fields, "digest", where)
    try:
        return Digest.parse(text)
    except DigestInvalid as error:
        raise ManifestInvalid(
            f"manifest invalid: {where}.digest: {error.message}", digest=text
        ) from error


def _size(fields: Fields, where: str) -> int:
    size = fields.get("size")
    # A truth value is an int to Python, and to nobody else.
    if not isinstance(size, int) or isinstance(size, bool):
        documents.refuse(f"{where}.size", "a whole number of bytes", size)
    if not 0 <= size < SIZE_LIMIT:
        raise ManifestInvalid(
            f"manifest invalid: {where}.size must be at least 0 and below 2**63 bytes"
        )
    return size


def _platform(fields: Fields, where: str) -> Platform | None:
    value = fields.get("platform")
    if value is None:
        return None
    where = f"{where}.platform"
    given = documents.require_object(value, where)
    platform: dict[str, str | tuple[str, ...]] = {}
    for key in _PLATFORM_TEXTS:
        text = documents.optional_text(given, key, where)
        if text is not None:
            platform[key] = text
    for key in _PLATFORM_LISTS:
        texts = documents.optional_texts(given, key, where)
        if texts:
            platform[key] = texts
    return platform
