"""Fills a registry over HTTP with all sorts of content, and says what it must serve then."""

import hashlib
import json
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
ACCEPT = ", ".join([OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST])

EMPTY = b"{}"
Json = dict[str, Any]


def digest_of(content: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


def descriptor(media_type: str, content: bytes, algorithm: str = "sha256", **more: object) -> Json:
    digest = digest_of(content, algorithm)
    return {"mediaType": media_type, "digest": digest, "size": len(content), **more}


@dataclass
class Volume:
    """What was pushed; keys of blobs and manifests are names and digests."""

    blobs: dict[tuple[str, str], bytes] = field(default_factory=dict)
    manifests: dict[tuple[str, str], tuple[bytes, str]] = field(default_factory=dict)
    tags: dict[str, dict[str, str]] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)

    def names(self) -> list[str]:
        """Return the names of the repositories in catalog order."""
        return sorted(self.tags, key=lambda name: name.split("/"))


@dataclass
class Pusher:
    """Pushes to a registry and remembers what."""

    client: httpx.Client
    volume: Volume = field(default_factory=Volume)

    def start(self, name: str) -> str:
        answer = self.client.post(f"/v2/{name}/blobs/uploads/")
        assert answer.status_code == 202, answer.text
        return urllib.parse.urljoin(str(answer.request.url), answer.headers["Location"])

    def blob(self, name: str, content: bytes, algorithm: str = "sha256") -> str:
        digest = digest_of(content, algorithm)
        location = self.start(name)
        separator = "&" if "?" in location else "?"
        answer = self.client.put(f"{location}{separator}digest={digest}", content=content)
        assert answer.status_code == 201, answer.text
        self.volume.blobs[name, digest] = content
        return digest

    def mount(self, name: str, digest: str, source: str) -> None:
        answer = self.client.post(f"/v2/{name}/blobs/uploads/?mount={digest}&from={source}")
        assert answer.status_code == 201, answer.text
        self.volume.blobs[name, digest] = self.volume.blobs[source, digest]

    def manifest(self, name: str, document: Json | bytes, *tags: str, sha512: bool = False) -> str:
        content = document if isinstance(document, bytes) else json.dumps(document).encode()
        digest = digest_of(content, "sha512" if sha512 else "sha256")
        media_type = json.loads(content)["mediaType"]
        query = "".join(f"&tag={tag}" for tag in tags if sha512).replace("&", "?", 1)
        for reference in [digest] if sha512 else tags or [digest]:
            answer = self.client.put(
                f"/v2/{name}/manifests/{reference}{query}",
                content=content,
                headers={"Content-Type": media_type},
            )
            assert answer.status_code == 201, answer.text
        self.volume.manifests[name, digest] = content, media_type
        self.volume.tags.setdefault(name, {}).update(dict.fromkeys(tags, digest))
        return digest

    def image(self, name: str, *tags: str, **more: object) -> str:
        """Push an image with a config and a layer of its own."""
        config, layer = f'{{"of": "{name} {tags}"}}'.encode(), f"layer of {name} {tags}".encode()
        self.blob(name, config)
        self.blob(name, layer)
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor("application/vnd.oci.image.config.v1+json", config),
            "layers": [descriptor(OCI_LAYER, layer)],
        }
        return self.manifest(name, manifest | more, *tags)

    def artifact(self, name: str, *tags: str, layers: list[Json] | None = None, **more: Any) -> str:
        """Push a manifest that needs no blobs but the empty one and those in ``layers``."""
        if (name, digest_of(EMPTY)) not in self.volume.blobs:
            self.blob(name, EMPTY)
        sha512 = bool(more.pop("sha512", False))
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor(OCI_EMPTY, EMPTY),
            "layers": layers or [],
        }
        return self.manifest(name, manifest | more, *tags, sha512=sha512)

    def entry(self, name: str, digest: str, **more: object) -> Json:
        """Return a descriptor of a manifest that was pushed."""
        content, media_type = self.volume.manifests[name, digest]
        return {"mediaType": media_type, "digest": digest, "size": len(content), **more}

    def delete(self, path: str) -> None:
        answer = self.client.delete(path)
        assert answer.status_code == 202, answer.text
        self.volume.gone.append(path)

    def referrers(self, name: str) -> tuple[str, list[Json]]:
        """Push an image and artifacts about it; returns its digest and their descriptors."""
        subject = self.image(name, "subject")
        found = []
        for number in range(6):
            artifact_type = f"application/vnd.example.{('signature', 'sbom')[number % 2]}"
            annotations = {"number": str(number)}
            digest = self.artifact(
                name,
                subject=self.entry(name, subject),
                artifactType=artifact_type,
                annotations=annotations,
            )
            shown = self.entry(name, digest, artifactType=artifact_type, annotations=annotations)
            found.append(shown)
        return subject, sorted(found, key=lambda entry: str(entry["digest"]))

    def everything(self) -> None:
        """Push what the registries of both projects have to understand in the same way."""
        for name in ("a", "a/b", "a/b/c", "a-b", "a.b", "a/b-c", "library/deep/er/name", "z0"):
            self.image(name, "latest", "v1.0")
        children = [
            self.artifact("multi", annotations={"architecture": name}) for name in ("amd64", "arm")
        ]
        platforms = [
            self.entry("multi", child, platform={"os": "linux", "architecture": architecture})
            for child, architecture in zip(children, ("amd64", "arm"), strict=True)
        ]
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": platforms}
        self.manifest("multi", index, "latest", "1", "1.0")
        self._docker("docker/image")
        self.blob("long", b"by sha512", "sha512")
        self.artifact("long", "latest", layers=[descriptor(OCI_LAYER, b"by sha512", "sha512")])
        self.blob("empty", b"")
        self.artifact("empty", "latest", layers=[descriptor(OCI_LAYER, b"")])
        self.artifact("tags", *(f"v{number}.{number % 7}-rc" for number in range(150)))
        self.artifact("tags", "v1.1-rc", "moved", annotations={"moved": "yes"})
        self.mount("mounted", digest_of(EMPTY), "tags")
        self.artifact("mounted", "latest")
        self._deletions("deleted")

    def _docker(self, name: str) -> None:
        config, layer = b'{"docker": true}', bytes(range(256)) * 5000
        self.blob(name, config)
        self.blob(name, layer)
        image = {
            "schemaVersion": 2,
            "mediaType": DOCKER_MANIFEST,
            "config": descriptor(DOCKER_CONFIG, config),
            "layers": [descriptor(DOCKER_LAYER, layer)],
        }
        # Indented as docker does it, since every byte counts.
        digest = self.manifest(name, json.dumps(image, indent=3).encode(), "image")
        platform = {"os": "linux", "architecture": "amd64"}
        listed = {
            "schemaVersion": 2,
            "mediaType": DOCKER_LIST,
            "manifests": [self.entry(name, digest, platform=platform)],
        }
        self.manifest(name, listed, "list")

    def _deletions(self, name: str) -> None:
        kept = self.artifact(name, "kept", "tag")
        doomed = self.artifact(name, "one", "two", annotations={"doomed": "yes"})
        self.blob(name, b"doomed")
        self.delete(f"/v2/{name}/manifests/{doomed}")
        self.delete(f"/v2/{name}/manifests/tag")
        self.delete(f"/v2/{name}/blobs/{digest_of(b'doomed')}")
        self.volume.gone += [f"/v2/{name}/manifests/{tag}" for tag in ("one", "two")]
        del self.volume.manifests[name, doomed]
        del self.volume.blobs[name, digest_of(b"doomed")]
        self.volume.tags[name] = {"kept": kept}


def assert_served(client: httpx.Client, volume: Volume, *, in_order: bool = True) -> None:
    """Compare every byte with what a registry answers.

    Args:
        client: Connected to it.
        volume: What it has to serve.
        in_order: Whether it pages and sorts its lists by names. On a bucket distribution does
            so by keys, where ``1.0/`` comes before ``1/``, and a page may repeat a name.
    """
    headers = {"Accept": ACCEPT}
    for (name, digest), content in volume.blobs.items():
        answer = client.get(f"/v2/{name}/blobs/{digest}")
        assert (answer.status_code, answer.content) == (200, content), f"{name} {digest}"
        described = client.head(f"/v2/{name}/blobs/{digest}")
        assert described.headers["Content-Length"] == str(len(content))
    for (name, digest), (content, media_type) in volume.manifests.items():
        _assert_manifest(
            client.get(f"/v2/{name}/manifests/{digest}", headers=headers),
            content,
            media_type,
            digest,
        )
    for name, tags in volume.tags.items():
        url = f"/v2/{name}/tags/list"
        listed = read_all(client, f"{url}?n=40" if in_order else url, "tags")
        assert (listed if in_order else sorted(listed)) == sorted(tags), name
        for tag, digest in tags.items():
            content, media_type = volume.manifests[name, digest]
            answer = client.get(f"/v2/{name}/manifests/{tag}", headers=headers)
            _assert_manifest(answer, content, media_type, digest)
    for path in volume.gone:
        assert client.get(path, headers=headers).status_code == 404, path
    names = read_all(client, f"/v2/_catalog?n={3 if in_order else 100}", "repositories")
    assert names == volume.names() if in_order else sorted(names) == sorted(volume.names())


def _assert_manifest(answer: httpx.Response, content: bytes, media_type: str, digest: str) -> None:
    assert (answer.status_code, answer.content) == (200, content), f"{answer.url} {answer.text}"
    assert answer.headers["Content-Type"] == media_type
    assert answer.headers["Docker-Content-Digest"] == digest


def read_all(client: httpx.Client, url: str, key: str) -> list[str]:
    """Read a list page by page."""
    found: list[str] = []
    while url:
        answer = client.get(url)
        assert answer.status_code == 200, answer.text
        found += answer.json()[key] or []
        url = answer.links["next"]["url"] if "next" in answer.links else ""
    return found


@contextmanager
def connected(url: str) -> Iterator[httpx.Client]:
    """Connect to a registry."""
    with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
        yield client
