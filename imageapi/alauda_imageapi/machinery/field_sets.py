"""Which fields an object has, as server-side apply counts them.

A path is a tuple of elements as FieldsV1 writes them: ``f:name`` is a field, ``k:{…}`` an item of
a list by its keys, ``v:…`` a value of a set. What is replaced as a whole is one path. The algorithm
is that of ``sigs.k8s.io/structured-merge-diff`` in our own words (facts/apiserver.md 2.9).
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from alauda_imageapi.machinery.objects import Object
from alauda_imageapi.machinery.schema import Schema

Path: TypeAlias = tuple[str, ...]
FieldSet: TypeAlias = frozenset[Path]

_write_json = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
"""As `json.dumps`, which makes an encoder each time."""

_NEVER_OWNED: FieldSet = frozenset(
    {
        *(("f:apiVersion",), ("f:kind",)),
        *(
            ("f:metadata", f"f:{name}")
            for name in (
                *("name", "namespace", "uid", "creationTimestamp", "generation", "managedFields"),
                *("resourceVersion", "selfLink", "generateName", "deletionTimestamp"),
                "deletionGracePeriodSeconds",
            )
        ),
    }
)


def owned_values(schema: Schema, document: Object) -> dict[Path, Any]:
    """Return the paths an object consists of, each with what it is compared by."""
    found: dict[Path, Any] = {}
    _collect(schema, document, (), found)
    return {
        path: value
        for path, value in found.items()
        if path and path[:1] not in _NEVER_OWNED and path[:2] not in _NEVER_OWNED
    }


def parse_fields(fields: Any) -> FieldSet:
    """Read FieldsV1; what makes no sense in it is left out."""
    found: set[Path] = set()
    level: list[tuple[Path, Any]] = [((), fields)]
    while level:
        path, node = level.pop()
        if not isinstance(node, dict):
            continue
        if path and (not node or "." in node):
            found.add(path)
        level += [((*path, name), below) for name, below in node.items() if name != "."]
    return frozenset(found)


def is_field_set(fields: Any) -> bool:
    """Tell whether this is FieldsV1 all through."""
    level = [fields]
    while level:
        node = level.pop()
        if not isinstance(node, dict):
            return False
        if not all(name == "." or _is_element(name) for name in node):
            return False
        level += node.values()
    return True


def _is_element(text: str) -> bool:
    kind, colon, rest = text.partition(":")
    if not colon or kind == "f":
        return bool(colon)
    try:
        value = json.loads(rest)
    except (ValueError, RecursionError):
        return False
    if kind == "k":
        return isinstance(value, dict) and bool(value)
    return kind == "v" or (kind == "i" and type(value) is int)


def write_fields(fields: FieldSet) -> Object:
    """Write FieldsV1."""
    root: Object = {}
    for path in sorted(fields):
        node = root
        for element in path:
            node = node.setdefault(element, {})
        # A member that has others below it is marked; those come later in this order.
        node["."] = {}
    _tidy(root)
    return root


def without(schema: Schema, document: Any, doomed: FieldSet, kept: FieldSet) -> Any:
    """Return a document without paths, except where something below them is kept."""
    held = {path[:end] for path in kept for end in range(1, len(path) + 1)}
    return _prune(schema, document, (), doomed - held, held)


def repeated_items(schema: Schema | None, value: Any, path: Path = ()) -> Iterator[str]:
    """Yield where lists that hold each item once hold one twice."""
    if schema is None or not is_merged(schema, value):
        return
    if isinstance(value, dict):
        for name, below in value.items():
            yield from repeated_items(schema.of(name), below, (*path, f"f:{name}"))
        return
    seen = set[str]()
    for index, item in enumerate(value):
        element = item_element(schema, item, index)
        if element in seen:
            yield f"{describe(path)}: duplicate entries for key {describe((element,))}"
        seen.add(element)
        if schema.keys:
            yield from repeated_items(schema.items, item, (*path, element))


def describe(path: Path) -> str:
    """Write a path as messages have it: ``.spec.tags[name="v1"].from``."""
    text = ""
    for element in path:
        kind, _, rest = element.partition(":")
        if kind == "f":
            text += f".{rest}"
        elif kind == "k":
            keys = json.loads(rest)
            text += "[" + ",".join(f"{name}={json.dumps(keys[name])}" for name in keys) + "]"
        else:
            text += f"[={rest}]"
    return text


def item_element(schema: Schema, item: Any, index: int) -> str:
    """Return the element that an item of a list is found by."""
    if schema.keys:
        key = schema.key_of(item)
        if key is not None:
            return "k:" + _write_json(key)
        return f"i:{index}"
    return "v:" + _write_json(item)


def is_merged(schema: Schema | None, value: Any) -> bool:
    """Tell whether a value has parts that different managers may own."""
    if schema is None or schema.is_atomic:
        return False
    if isinstance(value, dict):
        return schema.type == "object"
    return isinstance(value, list) and bool(schema.keys or schema.is_set)


def _collect(schema: Schema | None, value: Any, path: Path, found: dict[Path, Any]) -> None:
    if schema is None or not is_merged(schema, value):
        found[path] = value
    elif isinstance(value, dict):
        if not value:
            found[path] = {}
        for name, below in value.items():
            _collect(schema.of(name), below, (*path, f"f:{name}"), found)
    else:
        for index, item in enumerate(value):
            place = (*path, item_element(schema, item, index))
            # The item itself is a member, whatever is in it.
            found[place] = True
            if schema.keys:
                _collect(schema.items, item, place, found)


def _prune(schema: Schema | None, value: Any, path: Path, doomed: FieldSet, held: set[Path]) -> Any:
    if schema is None or not is_merged(schema, value):
        return value
    if isinstance(value, dict):
        kept = {
            name: _prune(schema.of(name), below, (*path, f"f:{name}"), doomed, held)
            for name, below in value.items()
            if (*path, f"f:{name}") not in doomed
        }
        # What was taken apart to the last field has nobody left who wants it.
        return {
            name: below
            for name, below in kept.items()
            if below not in ({}, []) or value[name] in ({}, []) or (*path, f"f:{name}") in held
        }
    kept_items = []
    for index, item in enumerate(value):
        place = (*path, item_element(schema, item, index))
        if place not in doomed:
            kept_items.append(
                _prune(schema.items, item, place, doomed, held) if schema.keys else item
            )
    return kept_items


def _tidy(node: Object) -> None:
    for below in node.values():
        _tidy(below)
        if below.keys() == {"."}:
            below.clear()


def changed_paths(before: Mapping[Path, Any], after: Mapping[Path, Any]) -> FieldSet:
    """Return the paths that are new or have another value."""
    missing = object()
    return frozenset(path for path, value in after.items() if before.get(path, missing) != value)
