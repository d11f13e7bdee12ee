"""The registry under test, as a client sees it: requests, credentials, and the everyday pushes.

Only the everyday pushes are here, with expectations that make a check fail early when its material
doesn't arrive. What a check is about it asks itself.
"""

import base64
import re
import secrets
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import quote

import httpx
from typing_extensions import override

from conformance.oci import expect, material
from conformance.oci.material import Json, Manifest

TIMEOUT = 60.0
"""Seconds to wait for one answer, large enough for a slow remote registry."""

MANIFEST_TYPES = (
    material.OCI_MANIFEST,
    material.OCI_INDEX,
    material.DOCKER_MANIFEST,
    material.DOCKER_LIST,
)


class Credentials(httpx.Auth):
    """Answers a challenge, Basic or Bearer, with a user name and a password."""

    requires_response_body = True

    def __init__(self, username: str, password: str) -> None:
        self._basic = ""
        if username:
            self._basic = "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()

    @override
    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Send the request as it is, and again with credentials when the registry asks for them."""
        answer = yield request
        if answer.status_code != httpx.codes.UNAUTHORIZED:
            return
        scheme, _, rest = answer.headers.get("WWW-Authenticate", "").partition(" ")
        if scheme.lower() == "bearer":
            parameters = dict(re.findall(r'(\w+)="([^"]*)"', rest))
            granted = yield self._token_request(parameters)
            token = granted.json() if granted.is_success else {}
            value = token.get("token") or token.get("access_token")
            if value:
                request.headers["Authorization"] = f"Bearer {value}"
                yield request
        elif self._basic:
            request.headers["Authorization"] = self._basic
            yield request

    def _token_request(self, parameters: Mapping[str, str]) -> httpx.Request:
        asked = {name: parameters[name] for name in ("service", "scope") if name in parameters}
        headers = {"Authorization": self._basic} if self._basic else {}
        return httpx.Request("GET", parameters.get("realm", ""), params=asked, headers=headers)


class Registry:
    """A registry at a URL. Close it when all checks have run.

    The ``transport`` is for the tests of the checks: one that spoils what a good registry answers.
    """

    def __init__(
        self,
        url: str,
        *,
        username: str = "",
        password: str = "",
        prefix: str = "conformance",
        allow_sparse: bool = False,
        verify: bool = True,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.base = httpx.URL(url.rstrip("/") + "/")
        self.allow_sparse = allow_sparse
        # Not deeper than that: some registries know namespaces and names, and nothing below.
        self._prefix = f"{prefix}/{secrets.token_hex(4)}"
        self._http = httpx.Client(
            auth=Credentials(username, password),
            timeout=TIMEOUT,
            follow_redirects=True,
            verify=verify,
            trust_env=False,
            transport=transport,
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def repository(self, check_id: str) -> "Repository":
        """Return a repository that no other check of no other run uses."""
        return Repository(self, f"{self._prefix}-{check_id}-{secrets.token_hex(2)}")

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | list[tuple[str, str]] | None = None,
        content: bytes | Iterable[bytes] | None = None,
    ) -> httpx.Response:
        """Send a request to an absolute URL, or to a path of the registry."""
        target = url if "://" in url else self.base.join(url.lstrip("/"))
        return self._http.request(method, target, headers=headers, content=content)


class Stream:
    """A body of unknown length, which the client sends in HTTP chunks."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __iter__(self) -> Iterator[bytes]:
        """Yield the body in two pieces."""
        half = len(self._content) // 2
        yield self._content[:half]
        yield self._content[half:]


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository of the registry under test."""

    registry: Registry
    name: str

    def sibling(self, name: str) -> "Repository":
        """Return another repository of the same registry."""
        return Repository(self.registry, f"{self.name}-{name}")

    def below(self, name: str) -> "Repository":
        """Return the repository with some more components in its name."""
        return Repository(self.registry, f"{self.name}/{name}")

    def ask(
        self,
        method: str,
        tail: str,
        *,
        headers: Mapping[str, str] | list[tuple[str, str]] | None = None,
        content: bytes | Iterable[bytes] | None = None,
    ) -> httpx.Response:
        """Send a request to ``/v2/<name>/<tail>``."""
        return self.registry.request(
            method, f"v2/{self.name}/{tail}", headers=headers, content=content
        )

    def get_manifest(self, reference: str, method: str = "GET") -> httpx.Response:
        """Ask for a manifest of any type."""
        return self.ask(
            method, f"manifests/{reference}", headers={"Accept": ", ".join(MANIFEST_TYPES)}
        )

    def start_upload(self, query: str = "") -> str:
        """Start an upload session and return its location."""
        answer = self.ask("POST", f"blobs/uploads/{query}")
        expect.status(answer, 202)
        return expect.location(answer)

    def send_chunk(self, location: str, content: bytes, start: int) -> httpx.Response:
        """Send one chunk, whatever comes of it."""
        return self.registry.request(
            "PATCH", location, headers=chunk_headers(content, start), content=content
        )

    def close_upload(
        self,
        location: str,
        digest: str,
        content: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Close an upload session, whatever comes of it."""
        sent = {"Content-Type": "application/octet-stream", **(headers or {})}
        return self.registry.request(
            "PUT", with_query(location, "digest", digest), headers=sent, content=content
        )

    def push_blob(self, content: bytes, algorithm: str = "sha256") -> str:
        """Push a blob by POST and PUT; return its digest."""
        digest = material.digest_of(content, algorithm)
        expect.status(self.close_upload(self.start_upload(), digest, content), 201)
        return digest

    def put_manifest(
        self, manifest: Manifest, reference: str | None = None, query: str = ""
    ) -> httpx.Response:
        """Send a manifest, whatever comes of it; by its digest unless a reference is given."""
        return self.ask(
            "PUT",
            f"manifests/{reference or manifest.digest}{query}",
            headers={"Content-Type": manifest.media_type},
            content=manifest.content,
        )

    def push_manifest(self, manifest: Manifest, reference: str | None = None) -> Manifest:
        """Push a manifest whose blobs are there."""
        expect.status(self.put_manifest(manifest, reference), 201)
        return manifest

    def make_image(self, **fields: object) -> Manifest:
        """Push the blobs of an image and return its manifest, which isn't pushed."""
        return material.image(self.make_config(), [self.make_layer()], **fields)

    def make_config(self, media_type: str = material.OCI_CONFIG) -> Json:
        """Push a config blob and return its descriptor."""
        content = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'
        self.push_blob(content)
        return material.descriptor(content, media_type)

    def make_layer(self, media_type: str = material.OCI_LAYER) -> Json:
        """Push a random layer and return its descriptor."""
        content = material.random_blob()
        self.push_blob(content)
        return material.descriptor(content, media_type)

    def push_image(self, reference: str | None = None, **fields: object) -> Manifest:
        """Push an image with its blobs."""
        return self.push_manifest(self.make_image(**fields), reference)


def with_query(location: str, name: str, value: str) -> str:
    """Add a parameter to a location and leave those it has as they are."""
    return f"{location}{'&' if '?' in location else '?'}{name}={quote(value, safe=':')}"


def chunk_headers(content: bytes, start: int) -> dict[str, str]:
    """Return the headers that say where a chunk belongs."""
    return {
        "Content-Type": "application/octet-stream",
        "Content-Range": f"{start}-{start + len(content) - 1}",
    }
