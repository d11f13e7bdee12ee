"""Records: the custom resources that objects are kept in, and how they get in and out.

A record has the name of the object, encoded where Kubernetes does not take it, and the whole object
as one compressed field: labels, annotations and owner references of ours must not be found by
whoever acts on those of a custom resource. Only that there are finalizers shows, so that the record
waits, too. What is in ``kube/manifests/store-crds.yaml`` is made here.
"""

import hashlib
import re
import secrets
import zlib
from binascii import Error as NotBase64, a2b_base64, b2a_base64
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from alauda_imageapi.machinery import objects
from alauda_imageapi.machinery.objects import Object
from alauda_imageapi.machinery.store import Key, Stored, StoreUnavailable
from alauda_registry.kube.resources import GroupVersionResource, Manifest

GROUP = "store.image.alauda.io"
FINALIZER = f"{GROUP}/finalizers"
"""Of a record whose object has finalizers."""

SCHEMA = 1
"""How payloads are written. Raise it in a release after the one that reads the new way."""

_LONGEST_NAME = 253
_SMALL_WINDOW = 2**12
_CANONICAL = re.compile(r"sha256:([0-9a-f]{64})")
_DNS = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_AMBIGUOUS = re.compile(r"--|-_|_-")
_PREFIX = re.compile(r"[a-z0-9]{0,63}")


@dataclass(frozen=True, slots=True)
class RecordKind:
    """One kind of record.

    Attributes:
        resource: The plural name of the objects.
        kind: Of the records.
        of: What the records are called in paths.
        name: Returns what the record of an object is called.
    """

    resource: str
    kind: str
    of: GroupVersionResource
    name: Callable[[str], str]


def image_record_name(name: str) -> str:
    """Return what the record of an image is called; different for different names."""
    canonical = _CANONICAL.fullmatch(name)
    return f"sha256-{canonical[1]}" if canonical else f"x-{_hash(name)}"


def stream_record_name(name: str) -> str:
    """Return what the record of a stream is called; different for different names.

    An underscore becomes two hyphens. Names with which that would not be clear, or not a name that
    Kubernetes takes, end in three hyphens and a hash instead, which no other name has in it.
    """
    encoded = name.replace("_", "--")
    is_plain = len(encoded) <= _LONGEST_NAME and _DNS.fullmatch(encoded)
    if is_plain and not _AMBIGUOUS.search(name):
        return encoded
    prefix = _PREFIX.match(name)
    return f"{prefix[0] if prefix and prefix[0] else 'x'}---{_hash(name)}"


KINDS: Mapping[str, RecordKind] = {
    "images": RecordKind(
        "images",
        "ImageRecord",
        GroupVersionResource(GROUP, "v1", "imagerecords"),
        image_record_name,
    ),
    "imagestreams": RecordKind(
        "imagestreams",
        "ImageStreamRecord",
        GroupVersionResource(GROUP, "v1", "imagestreamrecords"),
        stream_record_name,
    ),
}


class Unreadable(StoreUnavailable):
    """A record is not as it was written, or was written by a newer version."""


def text(document: Object) -> bytes:
    """Return a document as it is kept: without a revision, which it does not have yet."""
    metadata = {**document["metadata"]}
    metadata.pop("resourceVersion", None)
    # In an order that has nothing but strings before the metadata, so that the place where the
    # revision goes is found without decoding anything.
    first = {name: document[name] for name in ("kind", "apiVersion") if name in document}
    return objects.encode({**first, "metadata": metadata, **_rest(document)})


def pack(body: bytes) -> str:
    """Return a document as its record has it; takes 30 ms for each MiB."""
    # To make room for a window that is larger than the document takes longer than all the rest.
    is_small = len(body) <= _SMALL_WINDOW
    compressing = zlib.compressobj(wbits=12, memLevel=5) if is_small else zlib.compressobj()
    packed = compressing.compress(body) + compressing.flush()
    return b2a_base64(packed, newline=False).decode()


@dataclass(frozen=True, slots=True)
class Origin:
    """What a record says besides its object.

    Attributes:
        uid: Of the record, not of the object.
        schema: How to read the payload.
        change: Which change made it what it is.
    """

    uid: str
    schema: int
    change: str


class Record(Stored):
    """An object as its record has it: the document is unpacked when it is asked for.

    Args:
        key: Where the object is.
        revision: Of the record.
        packed: Its payload.
        origin: What else it says.
        unpacked: What was unpacked lately.
    """

    def __init__(
        self, key: Key, revision: int, packed: bytes, origin: Origin, unpacked: "Unpacked"
    ) -> None:
        super().__init__(key, revision, packed)
        self.origin = origin
        self._unpacked = unpacked

    def at(self, revision: int) -> "Record":
        """Return the same document at a later revision."""
        return Record(self.key, revision, self._kept, self.origin, self._unpacked)

    @property
    @override
    def body(self) -> bytes:
        """The document.

        Raises:
            Unreadable: The record is damaged.
        """
        return self._unpacked.of(self).body

    @property
    @override
    def cache(self) -> dict[str, Any]:
        """Whatever follows from the document and is worth keeping for a while."""
        return self._unpacked.of(self).cache

    def unpack(self) -> bytes:
        """Return the document.

        Raises:
            Unreadable: The record is damaged.
        """
        try:
            text = _READERS[self.origin.schema](self._kept)
            _require_object(text)
            before, mark, after = text.partition(b'"metadata":{')
            if not mark:
                raise ValueError("there are no metadata")
        except (ValueError, RecursionError, zlib.error) as error:
            raise Unreadable(f"the record of {_say(self.key)} is damaged: {error}") from error
        revision = b'"resourceVersion":"%d"' % self.revision
        comma = b"" if after.startswith(b"}") else b","
        return b"".join((before, mark, revision, comma, after))


@dataclass(frozen=True, slots=True)
class _Document:
    body: bytes
    cache: dict[str, Any]


class Unpacked:
    """The documents that were unpacked lately, and what followed from them.

    Args:
        size: Bytes that they may take, about.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self.taken = 0
        """Bytes that they take, about."""
        self._documents: OrderedDict[tuple[str, int], _Document] = OrderedDict()

    def of(self, record: Record) -> _Document:
        """Return the document of a record.

        Raises:
            Unreadable: The record is damaged.
        """
        where = (record.origin.uid, record.revision)
        found = self._documents.get(where)
        if found is not None:
            self._documents.move_to_end(where)
            return found
        found = self._documents[where] = _Document(record.unpack(), {})
        # Twice, since what follows from it are mostly lines of watches, as long as itself.
        self.taken += 2 * len(found.body)
        while self.taken > self._size and len(self._documents) > 1:
            _, oldest = self._documents.popitem(last=False)
            self.taken -= 2 * len(oldest.body)
        return found


def write(kind: RecordKind, key: Key, document: Object, payload: str) -> Manifest:
    """Return the record of an object.

    Args:
        kind: Of the record.
        key: Where the object is.
        document: The object.
        payload: The same, packed.
    """
    metadata: Manifest = {"name": kind.name(key.name)}
    if key.namespace:
        metadata["namespace"] = key.namespace
    if document["metadata"].get("finalizers"):
        metadata["finalizers"] = [FINALIZER]
    return {
        "apiVersion": f"{kind.of.group}/{kind.of.version}",
        "kind": kind.kind,
        "metadata": metadata,
        "schema": SCHEMA,
        "object": key.name,
        # Tells whoever gets no answer whether it was his change that was made.
        "change": secrets.token_hex(8),
        "payload": payload,
    }


def read(kind: RecordKind, manifest: Manifest, unpacked: Unpacked) -> Record:
    """Return what a record is of.

    Raises:
        Unreadable: It is not one of ours, or of a newer version.
    """
    metadata = manifest["metadata"]
    namespace, name = metadata.get("namespace", ""), metadata["name"]
    where = f"{namespace}/{name}" if namespace else name
    schema = manifest.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        raise Unreadable(
            f"{kind.kind} {where} was written by a newer version (schema {schema}, and this one "
            f"reads up to {SCHEMA}): update every replica of the image API server"
        )
    try:
        if not isinstance(schema, int) or schema not in _READERS:
            raise ValueError(f"there is no schema {schema!r}")
        named, payload = manifest.get("object"), manifest.get("payload")
        if not isinstance(named, str) or not isinstance(payload, str):
            raise ValueError("it has no object or no payload")
        key = Key(kind.resource, namespace, named)
        if kind.name(key.name) != name:
            raise ValueError(f"the record of {key.name!r} has another name")
        packed = a2b_base64(payload, strict_mode=True)
        origin = Origin(metadata["uid"], schema, str(manifest.get("change", "")))
        return Record(key, int(metadata["resourceVersion"]), packed, origin, unpacked)
    except (ValueError, NotBase64) as error:
        raise Unreadable(
            f"{kind.kind} {where} is not as the image API server writes it ({error}): restore it "
            "from a backup, or delete it"
        ) from error


def _read_zlib(packed: bytes) -> bytes:
    # Nothing that we wrote is larger, but a record may come from anywhere once it was restored.
    unpacking = zlib.decompressobj()
    text = unpacking.decompress(packed, _LARGEST)
    if not unpacking.eof:
        raise ValueError("it is cut, or too large")
    return text


def _require_object(text: bytes) -> None:
    """See that a document has what is relied upon before its kind has looked at it.

    Raises:
        ValueError: It has not.
    """
    document = objects.decode(text)
    metadata = document.get("metadata") if isinstance(document, dict) else None
    if not isinstance(metadata, dict):
        raise ValueError("it is no object with metadata")
    for name in ("labels", "annotations"):
        words = metadata.get(name) or {}
        if not isinstance(words, dict) or not all(isinstance(of, str) for of in words.values()):
            raise ValueError(f"its {name} are none")


_LARGEST = 64 * 2**20

_READERS: Mapping[int, Callable[[bytes], bytes]] = {1: _read_zlib}
"""How to get JSON from a payload, for each schema that there ever was."""


def _rest(document: Object) -> Object:
    return {
        name: value
        for name, value in document.items()
        if name not in ("kind", "apiVersion", "metadata")
    }


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _say(key: Key) -> str:
    return f"{key.resource} {key.namespace}/{key.name}" if key.namespace else str(key.name)
