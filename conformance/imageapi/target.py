"""The resource that is checked, and how it is asked.

Nothing here knows the image API: any namespaced resource will do whose objects have
``spec.lookupPolicy.local`` and ``spec.tags``, a list that is merged by ``name``. A custom resource
with such a schema shows whether a check is right.
"""

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

Object = dict[str, Any]

MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY = "application/apply-patch+yaml"
TABLE = "application/json;as=Table;g=meta.k8s.io;v=v1"
METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

_SECONDS = 30.0


class Failed(Exception):
    """The server does something else than it should; the message says what."""


@dataclass(frozen=True, slots=True)
class Place:
    """A namespace that only one check uses, in the resource that is checked.

    Args:
        client: Asks the server.
        group: Of the resource.
        version: Of the group.
        resource: The plural name.
        kind: Of the objects.
        namespace: The namespace.
    """

    client: httpx.Client
    group: str
    version: str
    resource: str
    kind: str
    namespace: str

    @property
    def collection(self) -> str:
        """The path of all objects of the namespace."""
        return f"/apis/{self.group}/{self.version}/namespaces/{self.namespace}/{self.resource}"

    def object(self, name: str = "app", **spec: Any) -> Object:
        """Return an object that may be sent."""
        return {
            "apiVersion": f"{self.group}/{self.version}",
            "kind": self.kind,
            "metadata": {"name": name},
            "spec": spec,
        }

    def ask(
        self, method: str, path: str = "", body: Any = None, *, kind: str = "", accept: str = ""
    ) -> httpx.Response:
        """Ask for a path below the collection, or for one that begins with a slash."""
        url = path if path.startswith("/") else f"{self.collection}{_joined(path)}"
        headers = {"Accept": accept or "application/json"}
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        if body is not None:
            headers["Content-Type"] = kind or "application/json"
        return self.client.request(
            method, url, content=None if body is None else content, headers=headers
        )

    def expect(
        self,
        status: int,
        method: str,
        path: str = "",
        body: Any = None,
        *,
        kind: str = "",
        accept: str = "",
    ) -> Any:
        """Ask, and return the document of an answer that has to have a status."""
        answer = self.ask(method, path, body, kind=kind, accept=accept)
        if answer.status_code != status:
            asked = f"{method} {path or self.resource}"
            raise Failed(f"{asked}: expected {status}, got {answer.status_code}: {answer.text}")
        document = answer.json()
        if status >= 400:
            equal(document.get("kind"), "Status", "the kind of an error")
            equal(document.get("code"), status, "the code of an error")
        return document

    def make(self, name: str = "app", labels: Object | None = None, **spec: Any) -> Any:
        """Make an object."""
        sent = self.object(name, **spec)
        if labels:
            sent["metadata"]["labels"] = labels
        return self.expect(201, "POST", "", sent)

    def label(self, name: str, **labels: str | None) -> Any:
        """Set labels, or take those away that are None."""
        return self.expect(200, "PATCH", name, {"metadata": {"labels": labels}}, kind=MERGE)

    @contextmanager
    def watch(self, query: str, accept: str = "") -> "Iterator[Iterator[Any]]":
        """Follow the collection; the events come from an iterator."""
        url = f"{self.collection}?watch=true&timeoutSeconds=20&{query}"
        headers = {"Accept": accept or "application/json"}
        with self.client.stream("GET", url, headers=headers) as answer:
            if answer.status_code != 200:
                answer.read()
                raise Failed(f"watch {query}: expected 200, got {answer.text}")
            yield (json.loads(line) for line in answer.iter_lines() if line)


@dataclass(frozen=True, slots=True)
class Target:
    """A resource of a server.

    Args:
        client: Asks the server.
        group: Of the resource.
        version: Of the group.
        resource: The plural name.
        kind: Of the objects.
    """

    client: httpx.Client
    group: str
    version: str
    resource: str
    kind: str

    def place(self) -> Place:
        """Return a place that nobody has used; its namespace is made where there are any."""
        namespace = f"check-{uuid.uuid4().hex[:12]}"
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
        self.client.post("/api/v1/namespaces", json=body)
        return Place(self.client, self.group, self.version, self.resource, self.kind, namespace)


def make_client(url: str, token: str = "", *, verify: bool = True) -> httpx.Client:
    """Return what asks a server."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx.Client(base_url=url, headers=headers, verify=verify, timeout=_SECONDS)


def equal(found: object, expected: object, what: str) -> None:
    """Require two values to be the same.

    Raises:
        Failed: They are not.
    """
    if found != expected:
        raise Failed(f"{what}: expected {expected!r}, got {found!r}")


def holds(condition: object, what: str) -> None:
    """Require a condition to hold.

    Raises:
        Failed: It does not.
    """
    if not condition:
        raise Failed(what)


def names(listed: Any) -> list[str]:
    """Return the names of what is in a list."""
    return [item["metadata"]["name"] for item in listed["items"]]


def events(stream: Iterator[Any], count: int) -> list[tuple[str, str]]:
    """Return type and name of the next events."""
    found = [next(stream) for _ in range(count)]
    return [(event["type"], event["object"]["metadata"].get("name", "")) for event in found]


def _joined(path: str) -> str:
    return path if path.startswith("?") or not path else f"/{path}"
