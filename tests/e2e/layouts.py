"""Makes images out of nothing, as OCI layouts, which every client reads without a registry.

The content is random, so no two tests share a blob unless they mean to.
"""

import gzip
import hashlib
import io
import json
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
BARE_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Layout:
    """An OCI layout in a folder; ``digest`` is that of its only tag."""

    path: Path
    digest: str

    def archive(self) -> Path:
        """Pack the layout into one file, for clients that load archives."""
        archive = self.path.with_suffix(".tar")
        with tarfile.open(archive, "w") as packed:
            for name in ("oci-layout", "index.json", "blobs"):
                packed.add(self.path / name, name)
        return archive

    def blobs(self) -> dict[str, bytes]:
        """Return everything in the layout, manifests included, by digest."""
        return {f"sha256:{file.name}": file.read_bytes() for file in self._folder().iterdir()}

    def children(self) -> list[str]:
        """Return the digests that the tagged index lists."""
        index = json.loads((self._folder() / self.digest.removeprefix("sha256:")).read_text())
        return [child["digest"] for child in index["manifests"]]

    def _folder(self) -> Path:
        return self.path / "blobs" / "sha256"


def image(path: Path, *, architecture: str = "amd64", layer: Path | None = None) -> Layout:
    """Make an image with the tag ``1`` and two random layers.

    Args:
        path: The folder to make.
        architecture: What it is for.
        layer: A tar file that is its only layer instead; it is moved into the layout.
    """
    return _tagged(path, _image(path, architecture, layers=2, layer=layer))


def multi_platform(path: Path) -> Layout:
    """Make an index of three images, each for another platform, with the tag ``1``."""
    children = [
        _image(path, architecture, layers=1) | {"platform": _platform(architecture)}
        for architecture in ("amd64", "arm64", "s390x")
    ]
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": children}
    return _tagged(path, _descriptor(path, INDEX, json.dumps(index).encode()))


def tarball(name: str = "content", size: int = 4096) -> bytes:
    """Return a tar archive with one random file in it."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = size
        archive.addfile(entry, io.BytesIO(os.urandom(size)))
    return packed.getvalue()


def sparse_tarball(path: Path, size: int) -> Path:
    """Write a tar archive with one big file, which takes next to no disk.

    Every MiB of it says which one it is, so that content in the wrong order or left
    out changes the digest.
    """
    entry = tarfile.TarInfo("big")
    entry.size = size
    with path.open("wb") as archive:
        archive.write(entry.tobuf())
        for offset in range(0, size, 2**20):
            archive.seek(tarfile.BLOCKSIZE + offset)
            archive.write(offset.to_bytes(8, "big"))
        archive.truncate(tarfile.BLOCKSIZE + size + 2 * tarfile.BLOCKSIZE)
    return path


def digest_of(path: Path) -> str:
    """Return the digest of a file, however big."""
    with path.open("rb") as content:
        return f"sha256:{hashlib.file_digest(content, 'sha256').hexdigest()}"


def _image(path: Path, architecture: str, *, layers: int, layer: Path | None = None) -> Json:
    if layer is None:
        contents = [tarball(f"file-{number}") for number in range(layers)]
        diff_ids = [f"sha256:{hashlib.sha256(content).hexdigest()}" for content in contents]
        packed = [gzip.compress(content, mtime=0) for content in contents]
        descriptors = [_descriptor(path, LAYER, content) for content in packed]
    else:
        descriptors = [_moved(path, BARE_LAYER, layer)]
        diff_ids = [descriptors[0]["digest"]]
    config = {
        **_platform(architecture),
        "config": {"Cmd": ["/content"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": _descriptor(path, CONFIG, json.dumps(config).encode()),
        "layers": descriptors,
    }
    return _descriptor(path, MANIFEST, json.dumps(manifest).encode())


def _platform(architecture: str) -> Json:
    return {"os": "linux", "architecture": architecture}


def _descriptor(path: Path, media_type: str, content: bytes) -> Json:
    digest = hashlib.sha256(content).hexdigest()
    blob = _blob(path, f"sha256:{digest}")
    blob.write_bytes(content)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}


def _moved(path: Path, media_type: str, file: Path) -> Json:
    digest = digest_of(file)
    size = file.stat().st_size
    file.rename(_blob(path, digest))
    return {"mediaType": media_type, "digest": digest, "size": size}


def _blob(path: Path, digest: str) -> Path:
    blob = path / "blobs" / digest.replace(":", "/")
    blob.parent.mkdir(parents=True, exist_ok=True)
    return blob


def _tagged(path: Path, descriptor: Json) -> Layout:
    (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    named = descriptor | {"annotations": {"org.opencontainers.image.ref.name": "1"}}
    (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))
    return Layout(path, str(descriptor["digest"]))
