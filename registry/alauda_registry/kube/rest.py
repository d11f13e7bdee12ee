"""Objects of any kind at a real API server."""

import json
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus

import orjson

from alauda_registry.kube.apiserver import ApiServerClient
from alauda_registry.kube.errors import Unreachable
from alauda_registry.kube.refusals import refusal
from alauda_registry.kube.resources import (
    GroupVersionResource,
    ListQuery,
    Manifest,
    Page,
    WatchEvent,
)

_EVENTS = ("ADDED", "MODIFIED", "DELETED")
_METADATA_ONLY = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
_LIST_SECONDS = 30.0
_WATCH_SECONDS = (240, 300)
# Bookmarks come once a minute; client-go gives up on a connection after 45 s of silence, but it
# can ping.
_SILENCE_SECONDS = 100.0


class ApiServerResources:
    """Implements :class:`~alauda_registry.kube.resources.ResourceClient`.

    Args:
        client: Of the API server, open.
    """

    def __init__(self, client: ApiServerClient) -> None:
        self._client = client

    async def get(self, of: GroupVersionResource, namespace: str, name: str) -> Manifest:
        """Return the latest state of an object."""
        return _object(await self._ask("GET", of, namespace, name))

    async def list(self, of: GroupVersionResource, query: ListQuery) -> Page:
        """Return objects by namespace and name."""
        parameters: dict[str, str] = {}
        wanted = [*([("metadata.name", query.name)] if query.name else []), *query.fields]
        if wanted:
            parameters["fieldSelector"] = ",".join(f"{name}={value}" for name, value in wanted)
        if query.limit:
            parameters["limit"] = str(query.limit)
        if query.token:
            parameters["continue"] = query.token
        elif query.revision:
            parameters["resourceVersion"] = query.revision
            parameters["resourceVersionMatch"] = "Exact"
        found = _object(
            await self._client.request(
                "GET",
                of.path(query.namespace),
                f"listing {of.resource}",
                query=parameters,
                accept=_METADATA_ONLY if query.metadata_only else "",
                seconds=_LIST_SECONDS,
            )
        )
        metadata, items = found.get("metadata"), found.get("items")
        items = [] if items is None else items
        if not isinstance(metadata, dict) or not _has_revision(metadata):
            raise Unreachable(f"the API server's list of {of.resource} has no revision")
        if not isinstance(items, list) or not all(map(_is_object, items)):
            raise Unreachable(f"the API server's list of {of.resource} has something else in it")
        return Page(
            metadata["resourceVersion"],
            items,
            str(metadata.get("continue") or ""),
            metadata.get("remainingItemCount"),
        )

    async def create(self, of: GroupVersionResource, manifest: Manifest) -> Manifest:
        """Make an object, and return it."""
        namespace = manifest["metadata"].get("namespace", "")
        return _object(await self._ask("POST", of, namespace, body=manifest))

    async def update(
        self, of: GroupVersionResource, manifest: Manifest, *, subresource: str = ""
    ) -> Manifest:
        """Replace the object that is at the revision that the manifest has, and return it."""
        metadata = manifest["metadata"]
        name, namespace = metadata["name"], metadata.get("namespace", "")
        asked = self._ask("PUT", of, namespace, name, subresource, body=manifest)
        return _object(await asked)

    async def delete(
        self, of: GroupVersionResource, namespace: str, name: str, *, uid: str, revision: str
    ) -> Manifest | None:
        """Delete an object, and return what is left of it."""
        options = {
            "kind": "DeleteOptions",
            "apiVersion": "v1",
            "propagationPolicy": "Background",
            "preconditions": {"uid": uid, "resourceVersion": revision},
        }
        answer = _object(await self._ask("DELETE", of, namespace, name, body=options))
        return None if answer.get("kind") == "Status" else answer

    @asynccontextmanager
    async def watch(
        self, of: GroupVersionResource, revision: str, *, namespace: str = "", name: str = ""
    ) -> AsyncIterator[AsyncIterator[WatchEvent]]:
        """Follow what happens after a revision, until the API server ends it."""
        query = {
            "watch": "true",
            "resourceVersion": revision,
            "allowWatchBookmarks": "true",
            # So that a restart of ours does not have all of them end at the same time.
            "timeoutSeconds": str(random.randint(*_WATCH_SECONDS)),  # noqa: S311 -- spread only
        }
        if name:
            query["fieldSelector"] = f"metadata.name={name}"
        doing = f"watching {of.resource}"
        async with self._client.stream(
            of.path(namespace), doing, query=query, silence_seconds=_SILENCE_SECONDS
        ) as lines:
            yield _events(lines, doing)

    async def _ask(
        self,
        method: str,
        of: GroupVersionResource,
        namespace: str,
        name: str = "",
        subresource: str = "",
        *,
        body: Mapping[str, object] | None = None,
    ) -> bytes:
        doing = {"GET": "reading", "POST": "creating", "PUT": "updating", "DELETE": "deleting"}
        return await self._client.request(
            method,
            of.path(namespace, name, subresource),
            f"{doing[method]} {of.resource}",
            body=None if body is None else orjson.dumps(body),
        )


async def _events(lines: AsyncIterator[bytes], doing: str) -> AsyncIterator[WatchEvent]:
    async for line in lines:
        event = _object(line)
        found = event.get("object")
        if not isinstance(found, dict):
            raise Unreachable("the API server's event has no object")
        kind = event.get("type")
        if kind == "ERROR":
            code = found.get("code")
            code = code if isinstance(code, int) else HTTPStatus.INTERNAL_SERVER_ERROR
            raise refusal(code, doing, json.dumps(found).encode())
        is_known = kind == "BOOKMARK" or (kind in _EVENTS and _is_object(found))
        if not is_known or not _has_revision(found.get("metadata")):
            raise Unreachable(f"the API server's event is none of {doing}")
        yield WatchEvent(str(kind), found)


def _has_revision(metadata: object) -> bool:
    revision = metadata.get("resourceVersion") if isinstance(metadata, dict) else None
    return isinstance(revision, str) and revision.isascii() and revision.isdecimal()


def _is_object(found: object) -> bool:
    metadata = found.get("metadata") if isinstance(found, dict) else None
    return isinstance(metadata, dict) and isinstance(metadata.get("name"), str)


def _object(content: bytes) -> Manifest:
    try:
        document = orjson.loads(content)
    except ValueError as error:
        raise Unreachable(f"the API server's answer is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise Unreachable("the API server's answer is no object")
    return document
