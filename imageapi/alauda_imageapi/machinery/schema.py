"""What objects look like: one definition from which everything else is made.

Decoding, unknown fields, the OpenAPI documents, strategic merge patches and server-side apply all
read these; so what is published is what is checked. Lists say how they are merged, as Kubernetes
has it: a ``map`` by its keys, a ``set`` by value, and otherwise as a whole.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from alauda_imageapi.machinery.objects import Object

_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.[0-9]+)?"
    r"(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)


class WrongType(Exception):
    """A value is of another JSON type than its field; the message says where."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """The type of a value.

    Attributes:
        type: object, array, string, integer, boolean, or any.
        description: For ``kubectl explain``.
        properties: The fields of an object.
        values: What the fields of a map hold, whose names are free.
        items: What a list holds.
        keys: The fields that tell the items of a list apart.
        is_set: The list holds each value once.
        is_atomic: The object is replaced as a whole.
        format: Of a string or integer, as OpenAPI has it.
        definition: The name it is published under; inline without one.
        required: Fields that must be given, for the documents only.
    """

    type: str
    description: str = ""
    properties: Mapping[str, "Schema"] = field(default_factory=dict)
    values: "Schema | None" = None
    items: "Schema | None" = None
    keys: tuple[str, ...] = ()
    is_set: bool = False
    is_atomic: bool = False
    format: str = ""
    definition: str = ""
    required: tuple[str, ...] = ()

    def of(self, name: str) -> "Schema | None":
        """Return the type of a field; None when there is no such field."""
        return self.properties.get(name) or self.values

    def key_of(self, item: Any) -> Object | None:
        """Return what tells an item of a list apart; None when it cannot be told."""
        if not isinstance(item, dict) or any(item.get(key) is None for key in self.keys):
            return None
        return {key: item[key] for key in self.keys}


def text(description: str = "", **more: Any) -> Schema:
    """A string."""
    return Schema(type="string", description=description, **more)


def integer(description: str = "") -> Schema:
    """A whole number of 64 bits."""
    return Schema(type="integer", format="int64", description=description)


def boolean(description: str = "") -> Schema:
    """True or false."""
    return Schema(type="boolean", description=description)


def time(description: str = "") -> Schema:
    """A moment."""
    return Schema(type="string", format="date-time", description=description)


def struct(definition: str, description: str, /, **properties: Schema) -> Schema:
    """An object with known fields, published under a name."""
    return Schema(
        type="object", definition=definition, description=description, properties=properties
    )


def free(description: str = "") -> Schema:
    """Anything; replaced as a whole."""
    return Schema(type="any", description=description, is_atomic=True)


def texts(description: str = "") -> Schema:
    """A map of strings."""
    return Schema(type="object", values=text(), description=description)


def listed(items: Schema, description: str = "", *, keys: tuple[str, ...] = ()) -> Schema:
    """A list: merged by keys if there are any, otherwise replaced as a whole."""
    return Schema(type="array", items=items, keys=keys, description=description)


def text_set(description: str = "") -> Schema:
    """A list that holds each string once."""
    return Schema(type="array", items=text(), is_set=True, description=description)


def conform(schema: Schema, value: Any, path: str = "") -> Any:
    """Return a value with what its type does not know left out, and so is null.

    Raises:
        WrongType: Something in it is of another type.
    """
    match schema.type:
        case "any":
            return value
        case "object" if isinstance(value, dict):
            conformed: Object = {}
            for name, below in value.items():
                kind = schema.of(name)
                if kind is not None and below is not None:
                    conformed[name] = conform(kind, below, _join(path, name))
            return conformed
        case "array" if isinstance(value, list) and schema.items is not None:
            items = schema.items
            # A null in a list is the empty value, as Go has it.
            return [
                conform(items, _zero(items) if item is None else item, f"{path}[{index}]")
                for index, item in enumerate(value)
            ]
        case "string" if isinstance(value, str):
            if schema.format == "date-time" and not _is_time(value):
                raise WrongType(
                    f'{path}: "{value[:64]}" is not a time such as 2026-01-02T03:04:05Z'
                )
            return value
        case "integer" if isinstance(value, int) and not isinstance(value, bool):
            if not -(2**63) <= value < 2**63:
                raise WrongType(f"{path}: the number does not fit into 64 bits")
            return value
        case "boolean" if isinstance(value, bool):
            return value
        case _:
            raise WrongType(f"json: cannot unmarshal {_kind(value)} into {path} of {schema.type}")


def _is_time(text: str) -> bool:
    """Tell whether Go reads this as a moment.

    One that it does not keeps its programs from reading the whole list that it is in.
    """
    match = _TIME.fullmatch(text)
    try:
        return match is not None and bool(datetime.fromisoformat(match[1]))
    except ValueError:
        return False


def unknown_fields(schema: Schema, value: Any, path: str = "") -> Iterator[str]:
    """Yield the paths of fields that the type does not know."""
    if isinstance(value, dict) and schema.type == "object":
        for name, below in value.items():
            kind = schema.of(name)
            if kind is None:
                yield _join(path, name)
            else:
                yield from unknown_fields(kind, below, _join(path, name))
    elif isinstance(value, list) and schema.items is not None:
        for index, item in enumerate(value):
            yield from unknown_fields(schema.items, item, f"{path}[{index}]")


def _zero(schema: Schema) -> Any:
    return {"object": {}, "array": [], "string": "", "integer": 0, "boolean": False}.get(
        schema.type
    )


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "bool", int: "number", float: "number", str: "string", list: "array"}
    return names.get(type(value), "object")
