"""How objects are shown: as they are, their metadata only, or as rows of a table.

The client's Accept header decides (facts/apiserver.md 2.3). JSON is all we write.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from alauda_imageapi.machinery import objects
from alauda_imageapi.machinery.errors import BadRequest, NotAcceptable
from alauda_imageapi.machinery.metadata import Surroundings
from alauda_imageapi.machinery.objects import Object
from alauda_imageapi.machinery.resources import Resource

META_VERSION = "meta.k8s.io/v1"
_TYPES = frozenset({"application/json", "application/*", "*/*"})
_LONGEST_HEADER = 8 * 1024


class Form(Enum):
    """What is shown of objects."""

    PLAIN = auto()
    TABLE = auto()
    METADATA = auto()


_FORMS = {
    "Table": Form.TABLE,
    "PartialObjectMetadata": Form.METADATA,
    "PartialObjectMetadataList": Form.METADATA,
}


@dataclass(frozen=True, slots=True)
class Clause:
    """One choice of an Accept header."""

    media_type: str
    parameters: dict[str, str]


def parse_accept(header: str) -> Iterator[Clause]:
    """Yield what a client accepts, best first."""
    found = []
    for index, text in enumerate((header or "*/*")[:_LONGEST_HEADER].split(",")):
        media_type, *rest = (part.strip() for part in text.split(";"))
        parameters = dict(part.split("=", 1) for part in rest if "=" in part)
        try:
            quality = float(parameters.pop("q", "1"))
        except ValueError:
            quality = 0.0
        found.append((-quality, index, Clause(media_type.lower(), parameters)))
    return (clause for quality, _, clause in sorted(found, key=lambda item: item[:2]) if quality)


def choose_form(header: str) -> Form:
    """Return what a client wants to see of objects.

    Raises:
        NotAcceptable: It is something that we cannot write.
    """
    for clause in parse_accept(header):
        if clause.media_type not in _TYPES:
            continue
        wanted = clause.parameters.get("as")
        if wanted is None:
            return Form.PLAIN
        if (
            wanted in _FORMS
            and clause.parameters.get("g") == "meta.k8s.io"
            and clause.parameters.get("v") == "v1"
        ):
            return _FORMS[wanted]
    raise NotAcceptable("only the following media types are accepted: application/json")


@dataclass(frozen=True, slots=True)
class Representation:
    """Shows the objects of a resource in one form.

    Attributes:
        form: What is shown.
        resource: Whose objects they are.
        include: What a row of a table has besides its cells: None, Metadata or Object.
        surroundings: Tell how old things are.
    """

    form: Form
    resource: Resource
    include: str
    surroundings: Surroundings

    @classmethod
    def choose(
        cls, accept: str, include: str, resource: Resource, surroundings: Surroundings
    ) -> "Representation":
        """Return what the client asked for.

        Raises:
            BadRequest: Rows cannot include that.
            NotAcceptable: We cannot write it.
        """
        form = choose_form(accept)
        if include not in ("", "None", "Metadata", "Object"):
            raise BadRequest(f"unrecognized includeObject value: {include[:64]!r}")
        return cls(form, resource, include or "Metadata", surroundings)

    def one(self, document: Object) -> Object:
        """Show one object."""
        match self.form:
            case Form.METADATA:
                return _partial(document)
            case Form.TABLE:
                metadata = {"resourceVersion": document["metadata"].get("resourceVersion", "")}
                return self._table([document], metadata)
            case _:
                return document

    def many(self, documents: Iterable[Object], metadata: Object) -> Object:
        """Show a list; each document is let go before the next one is asked for."""
        if self.form is Form.TABLE:
            return self._table(documents, metadata)
        return {
            "kind": "PartialObjectMetadataList",
            "apiVersion": META_VERSION,
            "metadata": metadata,
            "items": [_partial(document) for document in documents],
        }

    def event(self, document: Object, *, with_columns: bool) -> Object:
        """Show one object of a watch; a table has its columns in the first event only."""
        shown = self.one(document)
        if self.form is Form.TABLE and not with_columns:
            shown = {**shown, "columnDefinitions": None}
        return shown

    def bookmark(self, metadata: Object) -> Object:
        """Show that nothing has happened up to a revision."""
        if self.form is Form.PLAIN:
            resource = self.resource
            return {
                "kind": resource.kind,
                "apiVersion": resource.group.api_version,
                "metadata": {**metadata, "creationTimestamp": None},
            }
        partial = {
            "kind": "PartialObjectMetadata",
            "apiVersion": META_VERSION,
            "metadata": {**metadata, "creationTimestamp": None},
        }
        if self.form is Form.METADATA:
            return partial
        table = self._table([], {"resourceVersion": metadata["resourceVersion"]})
        return {**table, "rows": [{"cells": [], "object": partial}]}

    def _table(self, documents: Iterable[Object], metadata: Object) -> Object:
        now = self.surroundings.now()
        rows = []
        for document in documents:
            row: dict[str, Any] = {"cells": self.resource.row(document, now)}
            if self.include == "Object":
                row["object"] = document
            elif self.include == "Metadata":
                row["object"] = _partial(document)
            rows.append(row)
        return {
            "kind": "Table",
            "apiVersion": META_VERSION,
            "metadata": metadata,
            "columnDefinitions": [
                {
                    "name": column.name,
                    "type": column.type,
                    "format": column.format,
                    "description": column.description,
                    "priority": column.priority,
                }
                for column in self.resource.columns
            ],
            "rows": rows,
        }


def render_list(resource: Resource, bodies: list[bytes], metadata: Object) -> bytes:
    """Put a list together from objects that are written already."""
    head = objects.encode(
        {
            "kind": f"{resource.kind}List",
            "apiVersion": resource.group.api_version,
            "metadata": metadata,
        }
    )
    return b"".join((head[:-1], b',"items":[', b",".join(bodies), b"]}"))


def _partial(document: Object) -> Object:
    return {
        "kind": "PartialObjectMetadata",
        "apiVersion": META_VERSION,
        "metadata": document["metadata"],
    }
