"""The ASGI application: from a request to a resource's verb, and back to an answer.

Every answer is JSON, errors are a Status whoever made them, and nothing redirects: the aggregator
of a cluster turns redirects into 502, and clients cannot read HTML (facts/apiserver.md 4.3).
"""

import asyncio
import json
import logging
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from alauda_imageapi.machinery import lists, objects
from alauda_imageapi.machinery.discovery import (
    AGGREGATED_TYPE,
    Discovery,
    aggregated_list,
    wants_aggregated,
)
from alauda_imageapi.machinery.errors import (
    InternalError,
    MethodNotAllowed,
    StatusError,
    no_such_resource,
)
from alauda_imageapi.machinery.long_answers import LongAnswer
from alauda_imageapi.machinery.metadata import Surroundings
from alauda_imageapi.machinery.objects import Object
from alauda_imageapi.machinery.openapi import OpenAPI
from alauda_imageapi.machinery.options import ListOptions, parse_revision
from alauda_imageapi.machinery.representations import Representation
from alauda_imageapi.machinery.resources import (
    Admission,
    Context,
    Group,
    Permission,
    Reservation,
    Resource,
    admit_all,
    allow_all,
    reserve_nothing,
    unavailable,
)
from alauda_imageapi.machinery.store import StoreUnavailable
from alauda_imageapi.machinery.stored import StoredResource
from alauda_imageapi.machinery.targets import Target, parse_segments, parse_target
from alauda_imageapi.machinery.watch_limits import WatchLimits, WatchSeats
from alauda_imageapi.machinery.watching import TroubleLog, WatchStream
from alauda_imageapi.machinery.writing import Writes
from alauda_registry.kube.client import ANONYMOUS, UserInfo
from alauda_registry.serving.exchange import ABORT

logger = logging.getLogger(__name__)

USER = "alauda.user"
"""Where whatever stands in front of the application says in the scope who asks."""

_PART = 64 * 1024
"""Bytes that are handed over at once to a client that may not read."""

_LONGEST_WARNINGS = 4096
_LONGEST_WARNING = 256

Guard = Callable[[Request[Any]], None]
"""Raises a StatusError when a request must not come in."""


@dataclass(frozen=True, slots=True)
class Version:
    """What ``/version`` says."""

    major: str
    minor: str
    git: str

    def document(self) -> Object:
        """Return it as kubectl reads it."""
        return {
            "major": self.major,
            "minor": self.minor,
            "gitVersion": self.git,
            "gitCommit": "",
            "gitTreeState": "clean",
            "buildDate": "",
            "goVersion": "",
            "compiler": "",
            "platform": "",
        }


@dataclass(slots=True)
class _Asked:
    """One request on its way."""

    request: Request[Any]
    target: Target
    resource: Resource
    context: Context
    query: Mapping[str, str] = field(default_factory=dict)


class ApiServer:
    """Serves the resources of one group.

    Args:
        group: The group.
        resources: What is in it; discovery has them in this order.
        version: Of the server.
        surroundings: Time and chance.
        guard: Looks at each request before anything else does.
        read_only: Refuse whatever changes anything.
        watch_limits: How many watches there may be.
        implicit_namespaces: Say of each namespace that it is there, as kubectl asks before it
            tells that an object is not.
        admit: Says what must not be made where.
        reserve: Counts what is made.
        allows: Says who may do what, where a request leads to something else, too.
    """

    def __init__(
        self,
        group: Group,
        resources: Sequence[Resource],
        version: Version,
        surroundings: Surroundings | None = None,
        guard: Guard = lambda _request: None,
        *,
        read_only: bool = False,
        watch_limits: WatchLimits | None = None,
        implicit_namespaces: bool = False,
        admit: Admission = admit_all,
        reserve: Reservation = reserve_nothing,
        allows: Permission = allow_all,
    ) -> None:
        self._group = group
        self._resources = {resource.name: resource for resource in resources}
        self._surroundings = surroundings or Surroundings()
        self._guard = guard
        self._read_only = read_only
        self._seats = WatchSeats(watch_limits or WatchLimits())
        self._streams: set[WatchStream] = set()
        self._troubles = TroubleLog()
        self._is_stopping = False
        self._implicit_namespaces = implicit_namespaces
        self._admit = admit
        self._reserve = reserve
        self._allows = allows
        self._openapi = OpenAPI(group, resources, version.git)
        self._writes = Writes(group)
        discovery = Discovery(group, resources)
        self._aggregated = _Aggregated(discovery.aggregated())
        self._no_groups = _Aggregated(aggregated_list([]))
        self._documents: dict[str, Object] = {
            "/api": {
                "kind": "APIVersions",
                "versions": [],
                "serverAddressByClientCIDRs": [],
            },
            "/apis": discovery.groups(),
            f"/apis/{group.name}": discovery.one_group(),
            f"/apis/{group.api_version}": discovery.resources(),
            "/version": version.document(),
            "/openapi/v3": self._openapi.v3_index(),
        }

    def stop(self) -> None:
        """End the watches, so that the server can stop."""
        self._is_stopping = True
        for stream in self._streams:
            stream.stop()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        request: Request[Any] = Request(scope, receive)
        warnings: list[str] = []
        try:
            self._guard(request)
            answer = await self._answer(request, warnings)
            if isinstance(answer, WatchStream):
                try:
                    await self._stream(answer, scope, receive, send)
                finally:
                    self._seats.leave(_user(request))
                return
        except StatusError as error:
            answer = error_answer(error)
        except StoreUnavailable as error:
            answer = error_answer(unavailable(error))
        except ClientDisconnect:
            return
        except Exception:
            # The end of the request: whatever it was, the client gets an answer.
            logger.exception("cannot answer %s: unforeseen trouble", request.method)
            answer = error_answer(InternalError("Internal error occurred: the log says which"))
        answer.headers.setdefault("Cache-Control", "no-cache, private")
        answer.headers.setdefault("Audit-Id", str(uuid.uuid4()))
        for warning in _warning_headers(warnings):
            answer.headers.append("Warning", warning)
        if request.method == "HEAD":
            answer.body = b""
        await answer(scope, receive, send)

    async def _answer(self, request: Request[Any], warnings: list[str]) -> "Response | WatchStream":
        segments = parse_segments(request.scope["raw_path"])
        path = "/" + "/".join(segments)
        if path in self._documents or path in ("/openapi/v2", self._openapi.v3_path):
            return self._fixed(request, path)
        if self._implicit_namespaces and segments[:-1] == ["api", "v1", "namespaces"]:
            return self._namespace(request, segments[-1])
        if segments[:3] != ["apis", self._group.name, self._group.version]:
            raise no_such_resource()
        target = parse_target(segments[3:])
        resource = self._resources.get(target.resource)
        if resource is None or (target.namespace and not resource.namespaced):
            raise no_such_resource()
        if target.subresource and resource.subresource(target.subresource) is None:
            raise no_such_resource()
        query = dict(reversed(request.query_params.multi_items()))
        context = Context(
            resource=resource.name,
            namespace=target.namespace,
            user=_user(request),
            warnings=warnings,
            surroundings=self._surroundings,
            admit=self._admit,
            reserve=self._reserve,
            allows=self._allows,
        )
        return await self._dispatch(_Asked(request, target, resource, context, query))

    async def _dispatch(self, asked: _Asked) -> "Response | WatchStream":
        method, target, resource = asked.request.method, asked.target, asked.resource
        needs_namespace = resource.namespaced and not target.namespace
        if needs_namespace and (target.name or method not in ("GET", "HEAD")):
            raise no_such_resource() if target.name else self._not_allowed(asked)
        part = resource.subresource(target.subresource)
        verb = _VERBS.get((method, bool(target.name)))
        allowed = part.verbs if part else resource.verbs
        if verb is None or verb not in allowed:
            raise self._not_allowed(asked)
        if verb == "list":
            return await self._list(asked)
        if verb == "get":
            return await self._get(asked)
        if self._read_only:
            raise self._not_allowed(asked, "the registry is read-only")
        # Before anything is done: who could not read the answer would do it again.
        shown = self._shown(asked)
        done = await self._writes.run(
            verb, asked.request, asked.query, resource, target, asked.context
        )
        if done.document.get("kind") == resource.kind:
            done.document = shown.one(done.document)
        return _json_answer(done.document, done.status)

    async def _get(self, asked: _Asked) -> Response:
        target, resource, context = asked.target, asked.resource, asked.context
        part = resource.subresource(target.subresource)
        revision = parse_revision(asked.query.get("resourceVersion", ""))
        if revision == 0:
            # Any state will do, and what is known is the cheapest.
            context = replace(context, recent=True)
        elif revision is not None and not (part and part.lists):
            # A list may be of a store with revisions of its own.
            await resource.reach(revision)
        shown = self._shown(asked)
        if part:
            context = replace(context, parameters=asked.query)
            document = await resource.get_part(context, target.name, target.subresource)
            # Some parts are the whole object, and others of a kind of their own.
            is_whole = document.get("kind") == resource.kind
            return _json_answer(shown.one(document) if is_whole else document)
        return _json_answer(shown.one(await resource.get(context, target.name)))

    async def _list(self, asked: _Asked) -> "Response | WatchStream":
        resource, context = asked.resource, asked.context
        options = ListOptions.parse(asked.query, resource.selectable)
        shown = self._shown(asked)
        if not options.watch or asked.request.method == "HEAD":
            body = await lists.render(resource, context, options, shown)
            return LongAnswer(body, media_type="application/json")
        if "watch" not in resource.verbs or not isinstance(resource, StoredResource):
            raise self._not_allowed(asked)
        stream = WatchStream(resource, context, options, shown)
        # Before it is open, which may take seconds; whoever sends it gives the seat back.
        self._seats.take(context.user)
        try:
            await stream.open()
        except BaseException:
            self._seats.leave(context.user)
            raise
        return stream

    def _shown(self, asked: _Asked) -> Representation:
        return Representation.choose(
            asked.request.headers.get("accept", ""),
            asked.query.get("includeObject", ""),
            asked.resource,
            self._surroundings,
        )

    def _not_allowed(self, asked: _Asked, why: str = "") -> MethodNotAllowed:
        message = "the server does not allow this method on the requested resource"
        details = {"group": self._group.name, "kind": asked.resource.name}
        return MethodNotAllowed(f"{message}: {why}" if why else message, details=details)

    def _fixed(self, request: Request[Any], path: str) -> Response:
        """Answer with a document that is always the same."""
        if request.method not in ("GET", "HEAD"):
            raise MethodNotAllowed("this can only be read")
        if path == "/openapi/v2":
            return _cached_answer(request, self._openapi.v2, self._openapi.v2_hash)
        if path == self._openapi.v3_path:
            return _cached_answer(request, self._openapi.v3, self._openapi.v3_hash)
        if path in ("/api", "/apis") and wants_aggregated(request.headers.get("accept", "")):
            found = self._aggregated if path == "/apis" else self._no_groups
            return _cached_answer(request, found.body, found.etag, AGGREGATED_TYPE)
        answer = _json_answer(self._documents[path])
        answer.headers["Vary"] = "Accept"
        return answer

    def _namespace(self, request: Request[Any], name: str) -> Response:
        """Answer with a namespace, which is there because it is asked for."""
        if request.method not in ("GET", "HEAD") or not name:
            raise MethodNotAllowed("namespaces are there without being made")
        metadata = {"name": name, "resourceVersion": "1"}
        return _json_answer(
            {
                "kind": "Namespace",
                "apiVersion": "v1",
                "metadata": metadata,
                "spec": {},
                "status": {"phase": "Active"},
            }
        )

    async def _stream(
        self, stream: WatchStream, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Send a watch until it is over, its client is gone or slow, or the server stops."""
        headers = [
            (b"content-type", b"application/json"),
            (b"cache-control", b"no-cache, private"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        # At once, so that the client knows that it watches although nothing happens.
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        sending = asyncio.ensure_future(_send_lines(stream, send))
        leaving = asyncio.ensure_future(_until_gone(receive))
        self._streams.add(stream)
        if self._is_stopping:
            stream.stop()
        tasks = (sending, leaving)
        try:
            await asyncio.wait((*tasks, stream.over), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._streams.discard(stream)
            for task in tasks:
                task.cancel()
            try:
                trouble, _ = await asyncio.gather(*tasks, return_exceptions=True)
            finally:
                stream.close()
        if stream.is_too_slow:
            logger.info("a watch of %s is ended: its client does not read", stream.resource)
        elif stream.trouble is not None:
            self._troubles.tell(stream.trouble)
        elif isinstance(trouble, Exception):
            logger.error("a watch is ended by trouble", exc_info=trouble)
        if stream.is_too_slow and ABORT in scope.get("extensions", {}):
            # Whatever is sent to it would wait behind all that it has not read.
            await send({"type": ABORT})
        else:
            await send({"type": "http.response.body", "body": b"", "more_body": False})


_VERBS: dict[tuple[str, bool], str] = {
    ("GET", True): "get",
    ("HEAD", True): "get",
    ("GET", False): "list",
    ("HEAD", False): "list",
    ("POST", False): "create",
    ("PUT", True): "update",
    ("PATCH", True): "patch",
    ("DELETE", True): "delete",
    ("DELETE", False): "deletecollection",
}


class _Aggregated:
    """A document with what it is recognised by."""

    def __init__(self, document: Object) -> None:
        self.body = objects.encode(document)
        self.etag = str(uuid.uuid5(uuid.NAMESPACE_OID, self.body.decode())).upper()


async def _send_lines(stream: WatchStream, send: Send) -> None:
    lines = stream.lines()
    try:
        async for some in lines:
            # A part that waits to be sent is a client's own, and the whole is shared.
            for begin in range(0, len(some), _PART):
                part = some[begin : begin + _PART]
                await send({"type": "http.response.body", "body": part, "more_body": True})
    finally:
        await lines.aclose()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _user(request: Request[Any]) -> UserInfo:
    user = request.scope.get(USER)
    return user if isinstance(user, UserInfo) else ANONYMOUS


def _json_answer(document: Any, status: int = 200) -> Response:
    return Response(objects.encode(document), status, media_type="application/json")


def error_answer(error: StatusError) -> Response:
    """Return the answer that tells a client what went wrong."""
    # Parts of names may come from anywhere, also halves of surrogate pairs.
    body = json.dumps(error.status()).encode()
    answer = Response(body, error.code, media_type="application/json")
    if error.retry_after is not None:
        answer.headers["Retry-After"] = str(error.retry_after)
    return answer


def _cached_answer(
    request: Request[Any], body: bytes, etag: str, media_type: str = "application/json"
) -> Response:
    headers = {"ETag": f'"{etag}"', "Vary": "Accept"}
    if f'"{etag}"' in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type=media_type)


def _warning_headers(warnings: list[str]) -> list[str]:
    found, total = [], 0
    for text in dict.fromkeys(warnings):
        plain = re.sub(r"[^\x20-\x7e]", "?", text)[:_LONGEST_WARNING]
        escaped = plain.replace("\\", "\\\\").replace('"', '\\"')
        total += len(escaped)
        if total > _LONGEST_WARNINGS:
            break
        found.append(f'299 - "{escaped}"')
    return found
