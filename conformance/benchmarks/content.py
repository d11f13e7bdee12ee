"""The bytes that are pushed and pulled: made once, hashed once, sent by the kernel.

All of it lies in one file that stays in the page cache, and a blob is a piece of that
file. So the load generator neither makes nor hashes nor copies anything while the
clock runs, and what is measured is the server.
"""

import hashlib
import json
import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MIB = 2**20
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"

DOCKER_CHUNK = 32 * 1024
"""What docker's client writes at once: the buffer size of Go's ``io.Copy``."""


@dataclass(frozen=True, slots=True)
class Slice:
    """A piece of an open file."""

    file: int
    offset: int
    size: int

    def read(self) -> bytes:
        """Read the piece."""
        return os.pread(self.file, self.size, self.offset)

    def pieces(self, size: int) -> Sequence["Slice"]:
        """Cut it into pieces of that size; the last one may be shorter."""
        return [
            Slice(self.file, self.offset + start, min(size, self.size - start))
            for start in range(0, self.size, size)
        ]


@dataclass(frozen=True, slots=True)
class Blob:
    """Content under its digest."""

    digest: str
    content: Slice


@dataclass(frozen=True, slots=True)
class Image:
    """An image to push or pull: manifest, config and layers."""

    repository: str
    tag: str
    manifest: Blob
    config: Blob
    layers: tuple[Blob, ...]


class Content:
    """The file that everything is cut from."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        self._size = os.fstat(self._file).st_size
        self._kept: dict[str, Slice] = {}
        self.index: dict[str, tuple[int, int]] = {}
        """Where each digest and tag lies, for the server that answers at once."""

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def random(self, size: int) -> Blob:
        """Add that many random bytes."""
        return self._blob(self._random(size))

    def reuse(self, name: str, size: int) -> Slice:
        """Add that many random bytes the first time, and give the same ones ever after."""
        if name not in self._kept:
            self._kept[name] = self._random(size)
        return self._kept[name]

    def piece(self, whole: Slice, offset: int, size: int) -> Blob:
        """Make a blob of a piece of a piece."""
        return self._blob(Slice(whole.file, whole.offset + offset, size))

    def add(self, content: bytes) -> Blob:
        """Add these bytes."""
        start = self._size
        self._append(content)
        return self._blob(Slice(self._file, start, len(content)))

    def cut(self, blob: Blob, size: int) -> Sequence[Blob]:
        """Make smaller blobs of a big one's bytes."""
        return [self._blob(piece) for piece in blob.content.pieces(size)]

    def image(self, repository: str, tag: str, layers: Sequence[Blob]) -> Image:
        """Add the config and the manifest of an image with these layers."""
        config = self.add(render_config(f"{repository}:{tag}", layers))
        manifest = self.add(render_manifest(config, layers))
        self.index[tag] = (manifest.content.offset, manifest.content.size)
        return Image(repository, tag, manifest, config, tuple(layers))

    def encode(self, blob: Blob) -> Slice:
        """Add the blob's bytes once more in HTTP's chunked coding, as docker would cut them."""
        start = self._size
        for piece in blob.content.pieces(DOCKER_CHUNK):
            self._append(b"%x\r\n%b\r\n" % (piece.size, piece.read()))
        self._append(b"0\r\n\r\n")
        return Slice(self._file, start, self._size - start)

    def _random(self, size: int) -> Slice:
        whole = Slice(self._file, self._size, size)
        for piece in whole.pieces(4 * MIB):
            self._append(os.urandom(piece.size))
        return whole

    def _append(self, content: bytes) -> None:
        if os.write(self._file, content) != len(content):
            raise OSError(f"{self.path} took only a part of what was written: is the disk full?")
        self._size += len(content)

    def _blob(self, content: Slice) -> Blob:
        blob = Blob(digest_of(content), content)
        self.index[blob.digest] = (content.offset, content.size)
        return blob


def digest_of(content: Slice) -> str:
    """Compute the digest of a piece of a file."""
    with mmap.mmap(content.file, content.offset + content.size, prot=mmap.PROT_READ) as mapped:
        view = memoryview(mapped)
        piece = view[content.offset : content.offset + content.size]
        try:
            return f"sha256:{hashlib.sha256(piece).hexdigest()}"
        finally:
            piece.release()
            view.release()


def render_config(name: str, layers: Sequence[Blob]) -> bytes:
    """Write a config of the size that real ones have."""
    history = [{"created_by": f"RUN step {number} of {name}"} for number in range(12)]
    return json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Env": ["PATH=/usr/local/bin:/usr/bin:/bin"], "Labels": {"name": name}},
            "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
            "history": history,
        }
    ).encode()


def render_manifest(
    config: Blob,
    layers: Sequence[Blob],
    *,
    subject: Blob | None = None,
    kind: str | None = None,
    note: str | None = None,
) -> bytes:
    """Write the manifest of an image, or of an artifact that refers to a subject."""
    manifest: dict[str, object] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": render_descriptor(CONFIG_TYPE, config),
        "layers": [render_descriptor(LAYER_TYPE, layer) for layer in layers],
    }
    if kind is not None:
        manifest["artifactType"] = kind
    if subject is not None:
        manifest["subject"] = render_descriptor(MANIFEST_TYPE, subject)
    if note is not None:
        manifest["annotations"] = {"org.opencontainers.image.title": note}
    return json.dumps(manifest).encode()


def render_descriptor(media_type: str, blob: Blob) -> dict[str, object]:
    """Describe a blob."""
    return {"mediaType": media_type, "digest": blob.digest, "size": blob.content.size}
