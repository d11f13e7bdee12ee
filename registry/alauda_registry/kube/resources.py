"""Reading, writing and following objects of any kind, as the API server has them.

``tests/contract/test_kube_resources.py`` is the executable half of this file. Objects are JSON as
it came; nothing is remembered and nothing is tried again behind the caller's back, but once when
a connection broke.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias
from urllib.parse import quote

from alauda_registry.kube.errors import NotFound

Manifest: TypeAlias = dict[str, Any]
"""An object, as JSON has it."""


@dataclass(frozen=True, slots=True)
class GroupVersionResource:
    """What objects of one kind are called in paths.

    Attributes:
        group: Empty for Kubernetes' oldest kinds, such as namespaces.
        version: Such as ``v1``.
        resource: In the plural.
    """

    group: str
    version: str
    resource: str

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """Return where an object is, or a part of it, or all of them are.

        Raises:
            NotFound: Nothing can be called so. Quoted, a slash would still lead elsewhere: the API
                server takes a path apart after it has decoded it.
        """
        parts = ["apis", self.group, self.version] if self.group else ["api", self.version]
        if namespace:
            parts += ["namespaces", namespace]
        parts.append(self.resource)
        parts += [part for part in (name, subresource) if part]
        for part in parts:
            if part in (".", "..") or "/" in part or "%" in part:
                raise NotFound(f"nothing is called {part!r}", self.resource)
        return "/" + "/".join(quote(part, safe=":") for part in parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListQuery:
    """Which objects, and at what revision.

    Attributes:
        namespace: Empty for those of all.
        name: Of a single object; empty for all.
        fields: Those that objects have to have, with their values, such as a Secret's ``type``;
            which ones can be asked for is up to the kind.
        metadata_only: Leave out everything but their metadata.
        limit: Of objects in one page; 0 for all at once.
        token: Goes on after a page that was not the last.
        revision: The state exactly then; empty for the state now.
    """

    namespace: str = ""
    name: str = ""
    fields: tuple[tuple[str, str], ...] = ()
    metadata_only: bool = False
    limit: int = 0
    token: str = ""
    revision: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """Some objects, as they were at one revision.

    Attributes:
        revision: The same for all pages of a list.
        items: Without ``kind`` and ``apiVersion``, perhaps.
        token: For the next page; empty when there is none.
        remaining: How many objects the next pages have; None when that is not said.
    """

    revision: str
    items: Sequence[Manifest]
    token: str = ""
    remaining: int | None = None


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """A line of a watch.

    Attributes:
        type: ``ADDED``, ``MODIFIED``, ``DELETED`` or ``BOOKMARK``.
        object: The state after it; of what was deleted the last one, with the revision of the
            deletion. A bookmark has nothing but a revision.
    """

    type: str
    object: Manifest

    @property
    def revision(self) -> int:
        """Of the change, or up to which nothing else has changed."""
        return int(self.object["metadata"]["resourceVersion"])


class ResourceClient(Protocol):
    """Works on objects with our own credentials.

    Every call raises a :class:`~alauda_registry.kube.errors.KubeError` when the API server did not
    do it: ``Unreachable`` when it may do so later, ``StorageFull`` of these
    when somebody has to make room for what it keeps, ``NotServed`` when it does not know the kind.
    Whether a change that ended in ``Unreachable`` was made is not known.
    """

    async def get(self, of: GroupVersionResource, namespace: str, name: str) -> Manifest:
        """Return the latest state of an object.

        Raises:
            NotFound: There is none.
        """
        ...

    async def list(self, of: GroupVersionResource, query: ListQuery) -> Page:
        """Return objects by namespace and name, the latest state of them unless told otherwise.

        Raises:
            Expired: That revision, or the rest of that list, is not known any more.
            Rejected: The token is none.
        """
        ...

    async def create(self, of: GroupVersionResource, manifest: Manifest) -> Manifest:
        """Make an object, and return it.

        Raises:
            AlreadyExists: There is one; when an answer was lost on the way, perhaps this one.
            NotFound: There is no such namespace.
            NamespaceTerminating: The namespace is ending.
            TooLarge: It is larger than the API server, or etcd, takes.
        """
        ...

    async def update(
        self, of: GroupVersionResource, manifest: Manifest, *, subresource: str = ""
    ) -> Manifest:
        """Replace the object that is at the revision that the manifest has, and return it.

        Args:
            of: What it is.
            manifest: The whole object.
            subresource: The only part that is replaced, such as ``status``.

        Raises:
            Conflict: It is at another; when an answer was lost on the way, perhaps by this call.
            NotFound: There is none.
            TooLarge: It is larger than the API server, or etcd, takes.
        """
        ...

    async def delete(
        self, of: GroupVersionResource, namespace: str, name: str, *, uid: str, revision: str
    ) -> Manifest | None:
        """Delete an object, and return what is left of it: it may have to wait for finalizers.

        Raises:
            Conflict: It is another one, or at another revision.
            NotFound: There is none.
        """
        ...

    def watch(
        self, of: GroupVersionResource, revision: str, *, namespace: str = "", name: str = ""
    ) -> "AbstractAsyncContextManager[AsyncIterator[WatchEvent]]":
        """Follow what happens after a revision, until the API server ends it.

        Args:
            of: What is watched.
            revision: The last that is known.
            namespace: Empty for all of them.
            name: Of a single object; empty for all.

        The events may raise:
            Expired: What happened since is not known any more.
            Unreachable: The connection broke, or nothing came for longer than bookmarks take.
        """
        ...
