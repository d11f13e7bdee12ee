"""The XML that S3 speaks, as far as it is needed."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import unquote_plus
from xml.etree import ElementTree
from xml.sax.saxutils import escape

_MANGLED = "\ufffd"
_NOT_IN_XML = re.compile("[^\t\n\r\\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ENTITIES = {character: f"&#{ord(character)};" for character in "\t\n\r"}


class Unreadable(ValueError):
    """What the server sent is not the document that was asked for."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An object in a listing. ``etag`` has its quotes, or is empty where none was told."""

    key: str
    size: int
    modified_at: datetime
    etag: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """One page of a listing.

    Attributes:
        entries: Objects, in the byte order of their keys.
        prefixes: What keys have in common up to the delimiter, with it at the end.
        next: What of a query continues the listing; None at the end.
    """

    entries: list[Entry]
    prefixes: list[str]
    next: Mapping[str, str] | None


@dataclass(frozen=True, slots=True)
class MultipartUpload:
    """An upload that was neither completed nor aborted."""

    key: str
    id: str
    initiated_at: datetime


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a multipart upload that the server has."""

    number: int
    etag: str


def parse_error(body: bytes) -> tuple[str, str]:
    """Return the code and the message of an error; empty where there is none."""
    try:
        root = _parse(body)
    except Unreadable:
        return "", ""
    if _name(root) != "Error":
        return "", ""
    return _text(root, "Code"), _text(root, "Message")


def find_error(body: bytes, *, passing: Callable[[str], bool]) -> bytes | None:
    """Return the error in an answer that began as a success, as a document of its own.

    It is all of the answer, or tells of a key that is not deleted.

    Args:
        body: The answer's.
        passing: Tells whether the error of a code will be over; others of keys are not found.
    """
    if b"<Error" not in body:
        return None
    try:
        root = _parse(body)
    except Unreadable:
        return None
    if _name(root) == "Error":
        return body
    errors = (child for child in root if _name(child) == "Error")
    return next(
        (ElementTree.tostring(error) for error in errors if passing(_text(error, "Code"))), None
    )


def parse_listing(body: bytes) -> Listing:
    """Read an answer to ListObjectsV2.

    Raises:
        Unreadable: It is something else.
    """
    root = _parse(body, "ListBucketResult")
    decode = _decoder(root)
    entries, prefixes = [], []
    for child in root:
        match _name(child):
            case "Contents":
                modified = _time(_text(child, "LastModified"))
                key, size = decode(_text(child, "Key")), _number(child, "Size")
                entries.append(Entry(key, size, modified, _text(child, "ETag")))
            case "CommonPrefixes":
                prefixes.append(decode(_text(child, "Prefix")))
            case _:
                pass
    more = _text(root, "IsTruncated") == "true"
    following = _text(root, "NextContinuationToken")
    if more and not following:
        raise Unreadable("a listing goes on, and nothing says where")
    if more and decode is str and _MANGLED in following:
        return _without_mangled_end(entries, prefixes)
    return Listing(entries, prefixes, {"continuation-token": following} if more else None)


def parse_uploads(body: bytes) -> tuple[list[MultipartUpload], tuple[str, str] | None]:
    """Read an answer to ListMultipartUploads: a page, and the markers of the next.

    Raises:
        Unreadable: It is something else.
    """
    root = _parse(body, "ListMultipartUploadsResult")
    decode = _decoder(root)
    uploads = [
        MultipartUpload(
            decode(_text(child, "Key")), _text(child, "UploadId"), _time(_text(child, "Initiated"))
        )
        for child in root
        if _name(child) == "Upload"
    ]
    markers = (decode(_text(root, "NextKeyMarker")), _text(root, "NextUploadIdMarker"))
    return uploads, markers if _text(root, "IsTruncated") == "true" and any(markers) else None


def parse_parts(body: bytes) -> tuple[list[datetime], str | None]:
    """Read an answer to ListParts: when those of a page came, and the marker of the next.

    Raises:
        Unreadable: It is something else.
    """
    root = _parse(body, "ListPartsResult")
    moments = [_time(_text(child, "LastModified")) for child in root if _name(child) == "Part"]
    more = _text(root, "IsTruncated") == "true"
    return moments, _required(root, "NextPartNumberMarker") if more else None


def parse_upload_id(body: bytes) -> str:
    """Read an answer to CreateMultipartUpload.

    Raises:
        Unreadable: It is something else.
    """
    return _required(_parse(body, "InitiateMultipartUploadResult"), "UploadId")


def parse_copied(body: bytes) -> str:
    """Read an answer to CopyObject or UploadPartCopy: the ETag of what was made.

    Raises:
        Unreadable: It is something else.
    """
    return _required(_parse(body, "CopyObjectResult", "CopyPartResult"), "ETag")


def parse_completed(body: bytes) -> None:
    """Read an answer to CompleteMultipartUpload.

    Raises:
        Unreadable: It is something else.
    """
    _parse(body, "CompleteMultipartUploadResult")


def parse_deleted(body: bytes) -> list[tuple[str, str]]:
    """Read an answer to DeleteObjects: the keys that are still there, and why.

    Raises:
        Unreadable: It is something else.
    """
    root = _parse(body, "DeleteResult")
    return [
        (_text(child, "Key"), _text(child, "Code")) for child in root if _name(child) == "Error"
    ]


def render_parts(parts: Sequence[Part]) -> bytes:
    """Return what CompleteMultipartUpload wants."""
    lines = (
        f"<Part><PartNumber>{part.number}</PartNumber><ETag>{escape(part.etag)}</ETag></Part>"
        for part in parts
    )
    return f"<CompleteMultipartUpload>{''.join(lines)}</CompleteMultipartUpload>".encode()


def can_be_rendered(key: str) -> bool:
    """Tell whether XML can carry a key."""
    return _NOT_IN_XML.search(key) is None


def render_deletions(keys: Iterable[str]) -> bytes:
    """Return what DeleteObjects wants, of keys that can be rendered."""
    lines = (f"<Object><Key>{escape(key, _ENTITIES)}</Key></Object>" for key in keys)
    return f"<Delete><Quiet>true</Quiet>{''.join(lines)}</Delete>".encode()


def _decoder(root: ElementTree.Element) -> Callable[[str], str]:
    """Return what keys are read with: not every server encodes them when it is asked to."""
    return unquote_plus if _text(root, "EncodingType") == "url" else str


def _without_mangled_end(entries: list[Entry], prefixes: list[str]) -> Listing:
    """Leave out what is at the end of a page and can't be gone on from.

    versitygw does not encode what XML can't carry, and puts another character in its place. What
    follows such a key, or a token that is one, is not what follows the real one.
    """
    while entries and _MANGLED in entries[-1].key:
        entries.pop()
    while prefixes and _MANGLED in prefixes[-1]:
        prefixes.pop()
    last = max([*(entry.key for entry in entries[-1:]), *prefixes[-1:]], default=None)
    if last is None:
        raise Unreadable("a page of keys that XML can't carry, and the server encodes none")
    return Listing(entries, prefixes, {"start-after": last})


def _parse(body: bytes, *names: str) -> ElementTree.Element:
    try:
        # expat refuses entities that grow, and fetches nothing. Spaces are sent by servers that
        # need long for what follows.
        root = ElementTree.fromstring(body.lstrip())  # noqa: S314 -- see above
    except ElementTree.ParseError as error:
        raise Unreadable(f"not XML: {error}") from error
    if names and _name(root) not in names:
        raise Unreadable(f"{_name(root)[:64]} where {names[0]} was expected")
    return root


def _name(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _text(element: ElementTree.Element, name: str) -> str:
    for child in element:
        if _name(child) == name:
            return child.text or ""
    return ""


def _required(element: ElementTree.Element, name: str) -> str:
    text = _text(element, name)
    if not text:
        raise Unreadable(f"{_name(element)} without {name}")
    return text


def _number(element: ElementTree.Element, name: str) -> int:
    text = _text(element, name)
    if not (text.isascii() and text.isdigit()):
        raise Unreadable(f"{name} is no number")
    return int(text)


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise Unreadable("a time that is none") from error
    return time if time.tzinfo else time.replace(tzinfo=UTC)
