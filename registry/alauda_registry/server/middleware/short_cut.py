"""A short way for what registries are asked for most: manifests, and small blobs.

A pull of many nodes is thousands of requests for a handful of manifests and configs. Such a
request needs two links from storage and bytes that are in memory, and the way through the
router would cost more than that. So they are answered here; whatever is not plain (conditions,
ranges, anything missing or wrong) takes the ordinary way and is answered there, by the same
headers. ``tests/unit/server/middleware/test_short_cut.py`` compares the two ways.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from starlette.types import ASGIApp, Receive, Scope, Send

from alauda_registry.oci.digest import Digest
from alauda_registry.oci.errors import RegistryError
from alauda_registry.oci.reference import Reference, RepositoryName, Tag, parse_reference
from alauda_registry.server.middleware.envelope import API_VERSION
from alauda_registry.server.routes.blobs import blob_headers
from alauda_registry.server.routes.manifests import manifest_headers
from alauda_registry.server.routing import SAFE_METHODS, Kind, parse_target
from alauda_registry.storage.driver import DriverError
from alauda_registry.storage.repositories import Registry

_NOT_PLAIN = frozenset({b"if-none-match", b"if-match", b"if-range", b"range"})
_KEPT = 4096
"""Paths and headers that are remembered. They follow from what is asked alone."""

_LONGEST_PATH = 1024

RawHeaders = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class _Wanted:
    name: RepositoryName
    is_blob: bool
    reference: Reference


class ShortCut:
    """Answers plain GETs and HEADs of what is in memory, and passes everything else on.

    Args:
        app: The application; its lifespan state has the registry.
        prefix: The path below which ``/v2/`` is served.
        headers: Added to each answer that does not have a header of that name.
    """

    def __init__(
        self, app: ASGIApp, *, prefix: str = "/", headers: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        self._app = app
        self._prefix = prefix.rstrip("/").encode()
        self._extra = {
            name.lower(): [value.encode("latin-1") for value in values]
            for name, values in (headers or {}).items()
        }
        self._wanted = lru_cache(_KEPT)(self._parse)
        self._manifest_headers = lru_cache(_KEPT)(self._render_manifest_headers)
        self._blob_headers = lru_cache(_KEPT)(self._render_blob_headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and scope["method"] in SAFE_METHODS:
            found = await self._find(scope)
            if found is not None:
                headers, content = found
                body = content if scope["method"] == "GET" else b""
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                await send({"type": "http.response.body", "body": body})
                return
        await self._app(scope, receive, send)

    async def _find(self, scope: Scope) -> tuple[RawHeaders, bytes] | None:
        """Return what the answer is made of, or None when it takes the ordinary way."""
        raw_path: bytes = scope["raw_path"]
        # Nothing longer can be a path of ours, and what is remembered must not fill the memory.
        wanted = self._wanted(raw_path) if len(raw_path) <= _LONGEST_PATH else None
        if wanted is None:
            return None
        for name, _ in scope["headers"]:
            if name in _NOT_PLAIN:
                return None
        registry: Registry = scope["state"]["registry"]
        repository = registry.repository(wanted.name)
        reference = wanted.reference
        try:
            if isinstance(reference, Tag):
                digest, manifest = await repository.manifests.get_tagged(reference)
            elif wanted.is_blob:
                content = await repository.blobs.cached(reference)
                if content is None:
                    return None
                return self._blob_headers(reference, len(content)), content
            else:
                digest, manifest = reference, await repository.manifests.get(reference)
        except (RegistryError, DriverError):
            return None
        headers = self._manifest_headers(digest, manifest.media_type, len(manifest.content))
        return headers, manifest.content

    def _parse(self, raw_path: bytes) -> _Wanted | None:
        if not raw_path.startswith(self._prefix):
            return None
        target = parse_target(raw_path[len(self._prefix) :])
        if target is None or target.kind not in (Kind.MANIFEST, Kind.BLOB):
            return None
        try:
            name = RepositoryName.parse(target.name)
            reference: Reference
            if target.kind is Kind.BLOB:
                reference = Digest.parse(target.reference)
            else:
                reference = parse_reference(target.reference)
        except RegistryError:
            return None
        return _Wanted(name, target.kind is Kind.BLOB, reference)

    def _render_manifest_headers(self, digest: Digest, media_type: str, length: int) -> RawHeaders:
        return self._render(manifest_headers(digest, media_type, length))

    def _render_blob_headers(self, digest: Digest, length: int) -> RawHeaders:
        return self._render(blob_headers(digest, length))

    def _render(self, given: Mapping[str, str]) -> RawHeaders:
        headers = {name.lower(): value for name, value in given.items()}
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        raw.append(API_VERSION)
        for name, values in self._extra.items():
            if name not in headers and name.encode("latin-1") != API_VERSION[0]:
                raw += [(name.encode("latin-1"), value) for value in values]
        return raw
