"""Everything a client can be told went wrong, in the words of the distribution specification.

* RegistryError
  x NameInvalid                NAME_INVALID
  x NameUnknown                NAME_UNKNOWN
  x DigestInvalid              DIGEST_INVALID
  x SizeInvalid                SIZE_INVALID
  x BlobUnknown                BLOB_UNKNOWN
  x BlobUploadUnknown          BLOB_UPLOAD_UNKNOWN
  x BlobUploadInvalid          BLOB_UPLOAD_INVALID
  x BlobUploadOutOfOrder       BLOB_UPLOAD_INVALID
  x RangeNotSatisfiable        SIZE_INVALID
  x ManifestUnknown            MANIFEST_UNKNOWN
  x ManifestInvalid            MANIFEST_INVALID
  x ManifestTooLarge           MANIFEST_INVALID
  x TagInvalid                 MANIFEST_INVALID
  x ManifestBlobUnknown        MANIFEST_BLOB_UNKNOWN
  x PaginationNumberInvalid    UNSUPPORTED
  x Unauthorized               UNAUTHORIZED
  x Denied                     DENIED
  x Unsupported                UNSUPPORTED
  x ReadOnly                   UNSUPPORTED
  x TooManyRequests            TOOMANYREQUESTS
  x StorageFull                UNAVAILABLE
  x StorageUnavailable         UNAVAILABLE
  x AuthorityUnavailable       UNAVAILABLE
  x RequestInvalid             UNSUPPORTED

These are the only exceptions that may cross from the library into a server. Which HTTP
status a class is answered with is the server's affair, and it decides by class, because
one code may need two statuses. Every class derives directly from :class:`RegistryError`,
so that ``RegistryError.__subclasses__()`` is the whole list.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Sequence

    from alauda_registry.oci.digest import Digest

LONGEST_TEXT = 1024
"""Characters of one message or detail. Clients' own words are echoed, but not megabytes of them."""


LISTED_MAXIMUM = 1000
"""Errors in one answer. An answer must not be larger than what it is about."""


class ErrorCode(StrEnum):
    """Error codes of the specification, section "Error Codes", and those distribution added.

    ``UNKNOWN`` belongs to no class here: it is what an answer to unforeseen trouble says.
    """

    BLOB_UNKNOWN = "BLOB_UNKNOWN"
    BLOB_UPLOAD_INVALID = "BLOB_UPLOAD_INVALID"
    BLOB_UPLOAD_UNKNOWN = "BLOB_UPLOAD_UNKNOWN"
    DENIED = "DENIED"
    DIGEST_INVALID = "DIGEST_INVALID"
    MANIFEST_BLOB_UNKNOWN = "MANIFEST_BLOB_UNKNOWN"
    MANIFEST_INVALID = "MANIFEST_INVALID"
    MANIFEST_UNKNOWN = "MANIFEST_UNKNOWN"
    NAME_INVALID = "NAME_INVALID"
    NAME_UNKNOWN = "NAME_UNKNOWN"
    SIZE_INVALID = "SIZE_INVALID"
    TOOMANYREQUESTS = "TOOMANYREQUESTS"
    UNAUTHORIZED = "UNAUTHORIZED"
    UNAVAILABLE = "UNAVAILABLE"
    UNKNOWN = "UNKNOWN"
    UNSUPPORTED = "UNSUPPORTED"


class RegistryError(Exception):
    """A request cannot be served, for a reason the client may be told.

    Args:
        message: What happened and what to do about it, where the class's own text is not
            precise enough.
        detail: Extra facts for the client, such as the digest that was asked for. They are
            sent as they are, so they must never carry paths, hosts or credentials.
    """

    code: ClassVar[ErrorCode]
    message: str

    def __init__(self, message: str | None = None, **detail: str) -> None:
        self.message = _presentable(message or type(self).message)
        self.detail: Mapping[str, str] = {key: _presentable(value) for key, value in detail.items()}
        super().__init__(self.message)

    def errors(self) -> list[dict[str, Any]]:
        """Return the entries this error adds to the ``errors`` list of an answer."""
        entry: dict[str, Any] = {"code": str(self.code), "message": self.message}
        if self.detail:
            entry["detail"] = dict(self.detail)
        return [entry]


class NameInvalid(RegistryError):
    """The repository name breaks the grammar of the specification."""

    code = ErrorCode.NAME_INVALID
    message = (
        "invalid repository name: use lower-case letters and digits, separated by single "
        "'.', '_', '__', '-' or '/', at most 255 characters"
    )


class NameUnknown(RegistryError):
    """No such repository, or none that this client may know of."""

    code = ErrorCode.NAME_UNKNOWN
    message = "repository name not known to registry: check the name, or push to it first"


class DigestInvalid(RegistryError):
    """The digest is malformed or unsupported, or the content does not hash to it."""

    code = ErrorCode.DIGEST_INVALID
    message = "provided digest did not match uploaded content: upload the content again"


class SizeInvalid(RegistryError):
    """The length that was announced is not the length that was received."""

    code = ErrorCode.SIZE_INVALID
    message = "provided length did not match content length: send exactly what is announced"


class BlobUnknown(RegistryError):
    """The blob is not linked into this repository."""

    code = ErrorCode.BLOB_UNKNOWN
    message = "blob unknown to registry: check the digest, or push the blob to this repository"


class BlobUploadUnknown(RegistryError):
    """The upload session never existed, was cancelled or finished, or has expired."""

    code = ErrorCode.BLOB_UPLOAD_UNKNOWN
    message = "blob upload unknown to registry: start a new upload"


class BlobUploadInvalid(RegistryError):
    """The upload session cannot go on."""

    code = ErrorCode.BLOB_UPLOAD_INVALID
    message = "blob upload invalid: start a new upload"


class BlobUploadOutOfOrder(RegistryError):
    """A chunk does not start where the last one ended."""

    code = ErrorCode.BLOB_UPLOAD_INVALID
    message = (
        "chunk does not continue the upload: ask the upload's location how much has "
        "arrived, and go on from there"
    )


class RangeNotSatisfiable(RegistryError):
    """The range that was asked for lies outside the blob.

    Args:
        message: What to say instead of the usual text.
        size: The blob's size in bytes, which the answer has to name.
        detail: As for every :class:`RegistryError`.
    """

    code = ErrorCode.SIZE_INVALID
    message = "range not satisfiable: ask for bytes within the size of the blob"

    def __init__(self, message: str | None = None, *, size: int, **detail: str) -> None:
        super().__init__(message, **detail)
        self.size = size


class ManifestUnknown(RegistryError):
    """There is no manifest at the tag or digest."""

    code = ErrorCode.MANIFEST_UNKNOWN
    message = "manifest unknown to registry: check the tag or digest, or push the manifest first"


class ManifestInvalid(RegistryError):
    """The manifest is not JSON, has a wrong media type or breaks the schema."""

    code = ErrorCode.MANIFEST_INVALID
    message = "manifest invalid: check it against the image specification and push it again"


class ManifestTooLarge(RegistryError):
    """The manifest is over the size limit."""

    code = ErrorCode.MANIFEST_INVALID
    message = "manifest too large: move big content into blobs, or ask for a higher limit"


class TagInvalid(RegistryError):
    """The tag breaks the grammar of the specification."""

    code = ErrorCode.MANIFEST_INVALID
    message = (
        "invalid tag: use letters, digits, '_', '.' and '-', at most 128 characters, "
        "and do not begin with '.' or '-'"
    )


class ManifestBlobUnknown(RegistryError):
    """The manifest refers to blobs the repository does not hold; each has its own entry.

    Args:
        missing: The digests of those blobs, at least one. Of very many the first are listed.
    """

    code = ErrorCode.MANIFEST_BLOB_UNKNOWN
    message = (
        "manifest refers to a blob unknown to this repository: push the blob, then the "
        "manifest again"
    )

    def __init__(self, missing: "Sequence[Digest]") -> None:
        rest = len(missing) - LISTED_MAXIMUM
        super().__init__(f"{type(self).message}; {rest} more are missing" if rest > 0 else None)
        self.missing = tuple(missing[:LISTED_MAXIMUM])

    @override
    def errors(self) -> list[dict[str, Any]]:
        return [
            {"code": str(self.code), "message": self.message, "detail": {"digest": str(digest)}}
            for digest in self.missing
        ]


class PaginationNumberInvalid(RegistryError):
    """The number of entries asked for is no number, negative or over the limit."""

    code = ErrorCode.UNSUPPORTED
    message = "invalid number of results requested: send a whole number within the limit as n"


class Unauthorized(RegistryError):
    """There are no credentials, or they are not good for this request.

    Args:
        message: What to say instead of the usual text.
        error: What was wrong with a token, in the words of RFC 6750 (``invalid_token``,
            ``insufficient_scope``); None when none was shown.
        needed: What would have to be allowed, in distribution's form.
        detail: As for every :class:`RegistryError`.
    """

    code = ErrorCode.UNAUTHORIZED
    message = "authentication required: log in and try again"

    def __init__(
        self,
        message: str | None = None,
        *,
        error: str | None = None,
        needed: "Sequence[Mapping[str, str]]" = (),
        **detail: str,
    ) -> None:
        super().__init__(message, **detail)
        self.error = error
        self.needed = needed

    @override
    def errors(self) -> list[dict[str, Any]]:
        return _with_needs(super().errors(), self.needed)


class Denied(RegistryError):
    """The client is known, but may not do this.

    Args:
        message: What to say instead of the usual text.
        needed: What would have to be allowed, in distribution's form.
        detail: As for every :class:`RegistryError`.
    """

    code = ErrorCode.DENIED
    message = "requested access to the resource is denied: ask its owner for the permission"

    def __init__(
        self,
        message: str | None = None,
        *,
        needed: "Sequence[Mapping[str, str]]" = (),
        **detail: str,
    ) -> None:
        super().__init__(message, **detail)
        self.needed = needed

    @override
    def errors(self) -> list[dict[str, Any]]:
        return _with_needs(super().errors(), self.needed)


class Unsupported(RegistryError):
    """The registry does not do this, or was told not to."""

    code = ErrorCode.UNSUPPORTED
    message = "the operation is unsupported by this registry"


class ReadOnly(RegistryError):
    """The registry or its storage is read-only, so nothing can be pushed or deleted."""

    code = ErrorCode.UNSUPPORTED
    message = "the registry is read-only: pull only, or try again when maintenance is over"


class TooManyRequests(RegistryError):
    """The client is over its rate.

    Args:
        message: What to say instead of the usual text.
        retry_after: Seconds to wait before trying again.
        detail: As for every :class:`RegistryError`.
    """

    code = ErrorCode.TOOMANYREQUESTS
    message = "too many requests: wait as long as Retry-After says, then try again"

    def __init__(self, message: str | None = None, *, retry_after: int, **detail: str) -> None:
        super().__init__(message, **detail)
        self.retry_after = retry_after


class StorageFull(RegistryError):
    """There is no room left for what is being pushed."""

    code = ErrorCode.UNAVAILABLE
    message = "the registry's storage is full: free space or enlarge it, then push again"


class StorageUnavailable(RegistryError):
    """The storage cannot be reached at the moment.

    Args:
        message: What to say instead of the usual text.
        retry_after: Seconds to wait before trying again.
        detail: As for every :class:`RegistryError`.
    """

    code = ErrorCode.UNAVAILABLE
    message = "the registry's storage cannot be reached: try again later"

    def __init__(self, message: str | None = None, *, retry_after: int = 5, **detail: str) -> None:
        super().__init__(message, **detail)
        self.retry_after = retry_after


class AuthorityUnavailable(RegistryError):
    """Whoever knows who may do what cannot be reached at the moment. Nobody is let in meanwhile.

    Args:
        message: What to say instead of the usual text.
        retry_after: Seconds to wait before trying again.
        detail: As for every :class:`RegistryError`.
    """

    code = ErrorCode.UNAVAILABLE
    message = "it cannot be found out at the moment who may do this: try again later"

    def __init__(self, message: str | None = None, *, retry_after: int = 5, **detail: str) -> None:
        super().__init__(message, **detail)
        self.retry_after = retry_after


class RequestInvalid(RegistryError):
    """A request outside of the specification, such as one for a token, cannot be understood."""

    code = ErrorCode.UNSUPPORTED
    message = "the request cannot be understood"


def _with_needs(
    entries: list[dict[str, Any]], needed: "Sequence[Mapping[str, str]]"
) -> list[dict[str, Any]]:
    """Name what is needed in the first entry, as distribution does."""
    if needed:
        entries[0]["detail"] = [
            {key: _presentable(value) for key, value in access.items()} for access in needed
        ]
    return entries


def _presentable(text: str) -> str:
    """Cut a text to a sensible length and make sure that it can be sent as UTF-8.

    What a client sent may hold lone surrogates, which no answer could be encoded with.
    """
    if len(text) > LONGEST_TEXT:
        text = text[: LONGEST_TEXT - 1] + "…"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
