"""All that a client can ask of a registry over a bucket, each told apart by how it was answered."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import urljoin

import httpx

from tests.integration.volumes import (
    ACCEPT,
    EMPTY,
    OCI_EMPTY,
    OCI_LAYER,
    OCI_MANIFEST,
    Json,
    descriptor,
    digest_of,
)

MIB = 2**20
LARGE = 12 * MIB


class Failed(Exception):
    """The registry did not do what was asked.

    Attributes:
        answer: What it said; None when it broke off.
    """

    def __init__(self, step: str, answer: httpx.Response | None) -> None:
        said = f"{answer.status_code} {answer.text[:300]}" if answer else "broke off"
        super().__init__(f"{step}: {said}")
        self.answer = answer


@dataclass
class Acknowledged:
    """What the registry said that it has.

    Attributes:
        blobs: Repository and digest → content.
        manifests: Repository and digest → content.
        tags: Repository and tag → digest.
        gone: Paths of what was deleted.
    """

    blobs: dict[tuple[str, str], bytes] = field(default_factory=dict)
    manifests: dict[tuple[str, str], bytes] = field(default_factory=dict)
    tags: dict[tuple[str, str], str] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)


@dataclass
class Journey:
    """A client on its way through a registry; each of its steps can be tried again.

    Attributes:
        client: Connected to the registry.
        known: What was acknowledged so far.
    """

    client: httpx.Client
    known: Acknowledged = field(default_factory=Acknowledged)
    small: bytes = field(default_factory=lambda: os.urandom(100_000))
    large: bytes = field(default_factory=lambda: os.urandom(LARGE))
    chunked: bytes = field(default_factory=lambda: os.urandom(LARGE))
    kept: bytes = field(default_factory=lambda: os.urandom(LARGE))

    def prepare(self) -> None:
        """Push what is pulled, mounted and deleted later."""
        for name in ("kept", "doomed"):
            self._push(name, EMPTY)
            self._push(name, self.kept)
            self._put_manifest(name, "latest", self.manifest(self.kept))
        self._put_manifest("doomed", "tag", self.manifest(self.kept, doomed="tag"))
        self._put_manifest("doomed", "digest", self.manifest(self.kept, doomed="digest"))
        self._push("doomed", b"doomed blob")

    def steps(self) -> Mapping[str, Callable[[], None]]:
        """Return what can be asked for, by names."""
        return {
            "push a small blob": lambda: self._push("new", self.small),
            "push a large blob": lambda: self._push("new", self.large),
            "push a blob in chunks": self._push_in_chunks,
            "cancel an upload": self._cancel,
            "mount a blob": self._mount,
            "push a manifest": self._push_manifest,
            "move a tag": self._move_tag,
            "pull a manifest by tag": self._pull_manifest,
            "pull a blob": self._pull_blob,
            "look at a blob": self._look_at_blob,
            "list tags": self._list_tags,
            "list repositories": self._list_repositories,
            "list referrers": self._list_referrers,
            "delete a tag": lambda: self._delete("doomed", "manifests", "tag"),
            "delete a manifest": self._delete_manifest,
            "delete a blob": lambda: self._delete("doomed", "blobs", digest_of(b"doomed blob")),
        }

    def assert_all_is_there(self) -> None:
        """See that everything that was acknowledged is served, byte for byte."""
        for (name, digest), content in self.known.blobs.items():
            assert self._get(f"/v2/{name}/blobs/{digest}").content == content, f"{name} {digest}"
        for (name, digest), content in self.known.manifests.items():
            assert self._get(f"/v2/{name}/manifests/{digest}").content == content
        for (name, tag), digest in self.known.tags.items():
            answer = self._get(f"/v2/{name}/manifests/{tag}")
            assert answer.headers["Docker-Content-Digest"] == digest, f"{name}:{tag}"
        for path in self.known.gone:
            answer = self.client.get(path, headers={"Accept": ACCEPT})
            assert answer.status_code == 404, f"{path} is back"

    @staticmethod
    def manifest(*layers: bytes, **annotations: str) -> Json:
        return {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor(OCI_EMPTY, EMPTY),
            "layers": [descriptor(OCI_LAYER, layer) for layer in layers],
            "annotations": annotations,
        }

    def _ask(self, method: str, path: str, *expected: int, **more: object) -> httpx.Response:
        step = f"{method} {path}"
        try:
            answer = self.client.request(method, path, **more)  # type: ignore[arg-type]
        except httpx.TransportError as error:
            raise Failed(f"{step} ({error!r})", None) from error
        if answer.status_code not in expected:
            raise Failed(step, answer)
        return answer

    def _get(self, path: str) -> httpx.Response:
        return self._ask("GET", path, 200, headers={"Accept": ACCEPT})

    def _start(self, name: str) -> str:
        answer = self._ask("POST", f"/v2/{name}/blobs/uploads/", 202)
        return urljoin(str(answer.request.url), answer.headers["Location"])

    def _finish(self, name: str, location: str, content: bytes, rest: bytes) -> None:
        digest = digest_of(content)
        joint = "&" if "?" in location else "?"
        self._ask("PUT", f"{location}{joint}digest={digest}", 201, content=rest)
        self.known.blobs[name, digest] = content

    def _push(self, name: str, content: bytes) -> None:
        self._finish(name, self._start(name), content, content)

    def _push_in_chunks(self) -> None:
        location = self._start("new")
        half = LARGE // 2
        for chunk in (self.chunked[:half], self.chunked[half:]):
            answer = self._ask("PATCH", location, 202, content=_stream(chunk))
            location = urljoin(str(answer.request.url), answer.headers["Location"])
        self._finish("new", location, self.chunked, b"")

    def _cancel(self) -> None:
        location = self._start("new")
        answer = self._ask("PATCH", location, 202, content=self.small)
        self._ask("DELETE", urljoin(location, answer.headers["Location"]), 204)

    def _mount(self) -> None:
        digest = digest_of(self.kept)
        self._ask("POST", f"/v2/mounted/blobs/uploads/?mount={digest}&from=kept", 201)
        self.known.blobs["mounted", digest] = self.kept

    def _put_manifest(self, name: str, reference: str, document: Json) -> None:
        content = json.dumps(document).encode()
        headers = {"Content-Type": OCI_MANIFEST}
        path = f"/v2/{name}/manifests/{reference}"
        # Until there is an answer, nobody knows what a tag leads to.
        self.known.tags.pop((name, reference), None)
        self._ask("PUT", path, 201, content=content, headers=headers)
        self.known.manifests[name, digest_of(content)] = content
        if not reference.startswith("sha256:"):
            self.known.tags[name, reference] = digest_of(content)

    def _push_manifest(self) -> None:
        self._put_manifest("kept", "new", self.manifest(self.kept, new="yes"))

    def _move_tag(self) -> None:
        self._put_manifest("kept", "latest", self.manifest(self.kept, moved="yes"))

    def _pull_manifest(self) -> None:
        answer = self._get("/v2/doomed/manifests/latest")
        if digest_of(answer.content) != digest_of(json.dumps(self.manifest(self.kept)).encode()):
            raise AssertionError("another manifest was served")

    def _pull_blob(self) -> None:
        answer = self._get(f"/v2/kept/blobs/{digest_of(self.kept)}")
        if answer.content != self.kept:
            raise AssertionError("other bytes were served")

    def _look_at_blob(self) -> None:
        answer = self._ask("HEAD", f"/v2/kept/blobs/{digest_of(self.kept)}", 200)
        assert answer.headers["Content-Length"] == str(LARGE)

    def _list_tags(self) -> None:
        assert "latest" in self._get("/v2/kept/tags/list").json()["tags"]

    def _list_repositories(self) -> None:
        assert {"doomed", "kept"} <= set(self._get("/v2/_catalog").json()["repositories"])

    def _list_referrers(self) -> None:
        self._get(f"/v2/kept/referrers/{digest_of(b'no subject')}")

    def _delete(self, name: str, kind: str, reference: str) -> None:
        """Delete something, which an earlier try may have done without being believed."""
        path = f"/v2/{name}/{kind}/{reference}"
        # From here on nobody knows.
        self.known.blobs.pop((name, reference), None)
        self.known.manifests.pop((name, reference), None)
        self.known.tags.pop((name, reference), None)
        self._ask("DELETE", path, 202, 404)
        self.known.gone.add(path)

    def _delete_manifest(self) -> None:
        content = json.dumps(self.manifest(self.kept, doomed="digest")).encode()
        self.known.tags.pop(("doomed", "digest"), None)
        self._delete("doomed", "manifests", digest_of(content))
        self.known.gone.add("/v2/doomed/manifests/digest")


def _stream(content: bytes) -> Iterator[bytes]:
    """Yield chunks, so that the length is not announced."""
    for start in range(0, len(content), 256 * 1024):
        yield content[start : start + 256 * 1024]
