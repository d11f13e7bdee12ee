"""Objects of a cluster that is a dictionary and a list of changes: for tests without an API server.

Held to ``tests/contract/test_kube_resources.py`` like the real client.
"""

import asyncio
import copy
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

from alauda_registry.kube.errors import (
    AlreadyExists,
    Conflict,
    Expired,
    KubeError,
    NamespaceTerminating,
    NotFound,
    Rejected,
    TooLarge,
)
from alauda_registry.kube.resources import (
    GroupVersionResource,
    ListQuery,
    Manifest,
    Page,
    WatchEvent,
)

_LARGEST = 1536 * 1024
_NOW = "2026-01-01T00:00:00Z"

Where: TypeAlias = tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Change:
    revision: int
    of: GroupVersionResource
    type: str
    object: Manifest


@dataclass
class InMemoryResources:
    """Keeps whatever the test puts in.

    Args:
        namespaces: Those that there are, and whether each is ending; None: all, and none is.
        trouble: Raised by every call, if set; watches that are open end with it, too.
        lost_answers: So many answers to objects that are made, changed or deleted do not arrive,
            from now on.
        requests: What was asked so far: verb and resource.
    """

    namespaces: dict[str, bool] | None = None
    trouble: KubeError | None = None
    lost_answers: int = 0
    requests: list[tuple[str, str]] = field(default_factory=list)
    _log: list[_Change] = field(default_factory=list)
    _revision: int = 1
    _compacted: int = 0
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def compact(self, revision: int | None = None) -> None:
        """Forget what happened up to a revision, by default to now; open watches go on."""
        self._compacted = self._revision if revision is None else revision

    def disturb(self, trouble: KubeError | None) -> None:
        """Break every watch that is open, and answer nothing until there is no trouble any more."""
        self.trouble = trouble
        self._wake()

    async def get(self, of: GroupVersionResource, namespace: str, name: str) -> Manifest:
        """Return the latest state of an object."""
        await self._ask("get", of)
        return copy.deepcopy(self._require(of, namespace, name))

    async def list(self, of: GroupVersionResource, query: ListQuery) -> Page:
        """Return objects in the order of etcd's keys."""
        await self._ask("list", of)
        revision, start = self._revision, []
        if query.token:
            try:
                revision, *start = json.loads(query.token)
            except (ValueError, TypeError) as error:
                raise Rejected("continue key is not valid") from error
        elif query.revision:
            revision = int(query.revision)
        if revision < self._compacted:
            raise Expired(f"the API server does not know {of.resource} of {revision} any more")
        state = self._state(of, revision)
        found = [
            state[where]
            for where in sorted(state, key=_etcd_key)
            if [*_etcd_key(where)] > start
            and query.namespace in ("", where[0])
            and query.name in ("", where[1])
            and all(state[where].get(name) == value for name, value in query.fields)
        ]
        token, remaining = "", None
        if query.limit and len(found) > query.limit:
            remaining = len(found) - query.limit
            found = found[: query.limit]
            token = json.dumps([revision, *_etcd_key(_where(found[-1]))])
        if query.metadata_only:
            found = [{"metadata": item["metadata"]} for item in found]
        return Page(str(revision), copy.deepcopy(found), token, remaining)

    async def create(self, of: GroupVersionResource, manifest: Manifest) -> Manifest:
        """Make an object, and return it."""
        await self._ask("create", of)
        namespace, name = _where(manifest)
        if self.namespaces is not None and namespace:
            if namespace not in self.namespaces:
                raise NotFound(f'namespaces "{namespace}" not found', "namespaces")
            if self.namespaces[namespace]:
                raise NamespaceTerminating(f"namespace {namespace} is being terminated")
        if (namespace, name) in self._state(of, self._revision):
            raise AlreadyExists(f'{of.resource} "{name}" already exists')
        made = copy.deepcopy(manifest)
        made["metadata"] |= {"uid": str(uuid.uuid4()), "creationTimestamp": _NOW}
        return self._answer(self._write(of, "ADDED", made), AlreadyExists)

    async def update(
        self, of: GroupVersionResource, manifest: Manifest, *, subresource: str = ""
    ) -> Manifest:
        """Replace the object that is at the revision that the manifest has, and return it."""
        await self._ask("update", of)
        now = self._require(of, *_where(manifest))
        if subresource:
            metadata = {
                **now["metadata"],
                "resourceVersion": manifest["metadata"]["resourceVersion"],
            }
            manifest = {**now, subresource: manifest.get(subresource), "metadata": metadata}
        if manifest["metadata"]["resourceVersion"] != now["metadata"]["resourceVersion"]:
            raise Conflict("the object has been modified")
        made = copy.deepcopy(manifest)
        kept = ("uid", "creationTimestamp", "deletionTimestamp")
        made["metadata"] |= {key: now["metadata"][key] for key in kept if key in now["metadata"]}
        is_over = "deletionTimestamp" in made["metadata"] and not made["metadata"].get("finalizers")
        kind = "DELETED" if is_over else "MODIFIED"
        return self._answer(self._write(of, kind, made), Conflict)

    async def delete(
        self, of: GroupVersionResource, namespace: str, name: str, *, uid: str, revision: str
    ) -> Manifest | None:
        """Delete an object, and return what is left of it."""
        await self._ask("delete", of)
        now = self._require(of, namespace, name)
        metadata = now["metadata"]
        if (uid, revision) != (metadata["uid"], metadata["resourceVersion"]):
            raise Conflict("the object is another one, or has been modified")
        if not metadata.get("finalizers"):
            self._write(of, "DELETED", copy.deepcopy(now))
            if self.lost_answers:
                self.lost_answers -= 1
                refused = NotFound(f'{of.resource} "{name}" not found', of.resource)
                refused.is_repeated = True
                raise refused
            return None
        left = copy.deepcopy(now)
        left["metadata"]["deletionTimestamp"] = _NOW
        return copy.deepcopy(self._write(of, "MODIFIED", left))

    @asynccontextmanager
    async def watch(
        self, of: GroupVersionResource, revision: str, *, namespace: str = "", name: str = ""
    ) -> AsyncIterator[AsyncIterator[WatchEvent]]:
        """Follow what happens after a revision, until the API server ends it."""
        await self._ask("watch", of)
        yield self._events(of, int(revision), namespace, name)

    async def _events(
        self, of: GroupVersionResource, after: int, namespace: str, name: str
    ) -> AsyncIterator[WatchEvent]:
        if after < self._compacted:
            raise Expired(f"the API server does not know {of.resource} of {after} any more")
        seen = 0
        while True:
            news = self._news
            changes, seen = self._log[seen:], len(self._log)
            for change in changes:
                metadata = change.object["metadata"]
                is_wanted = namespace in ("", metadata.get("namespace", "")) and name in (
                    "",
                    metadata["name"],
                )
                if change.of == of and change.revision > after and is_wanted:
                    yield WatchEvent(change.type, copy.deepcopy(change.object))
            await news.wait()
            if self.trouble is not None:
                raise self.trouble

    async def _ask(self, verb: str, of: GroupVersionResource) -> None:
        self.requests.append((verb, of.resource))
        # Others get on meanwhile, as they do with a network.
        await asyncio.sleep(0)
        if self.trouble is not None:
            raise self.trouble

    def _answer(self, manifest: Manifest, second: type[KubeError]) -> Manifest:
        """Return an answer, or what the second try of a client hears that did not get the first."""
        if self.lost_answers:
            self.lost_answers -= 1
            refused = second("it was asked twice")
            refused.is_repeated = True
            raise refused
        return copy.deepcopy(manifest)

    def _require(self, of: GroupVersionResource, namespace: str, name: str) -> Manifest:
        found = self._state(of, self._revision).get((namespace, name))
        if found is None:
            raise NotFound(f'{of.resource} "{name}" not found', of.resource)
        return found

    def _write(self, of: GroupVersionResource, kind: str, manifest: Manifest) -> Manifest:
        if len(json.dumps(manifest)) > _LARGEST:
            raise TooLarge("etcdserver: request is too large")
        self._revision += 1
        manifest["metadata"]["resourceVersion"] = str(self._revision)
        self._log.append(_Change(self._revision, of, kind, manifest))
        self._wake()
        return manifest

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def _state(self, of: GroupVersionResource, revision: int) -> dict[Where, Manifest]:
        state: dict[Where, Manifest] = {}
        for change in self._until(of, revision):
            if change.type == "DELETED":
                del state[_where(change.object)]
            else:
                state[_where(change.object)] = change.object
        return state

    def _until(self, of: GroupVersionResource, revision: int) -> Iterator[_Change]:
        return (change for change in self._log if change.of == of and change.revision <= revision)


def _etcd_key(where: Where) -> Where:
    namespace, name = where
    return f"{namespace}/", name


def _where(manifest: Manifest) -> Where:
    metadata = manifest["metadata"]
    return metadata.get("namespace", ""), metadata["name"]
