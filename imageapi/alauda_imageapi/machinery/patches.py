"""JSON patch, JSON merge patch and strategic merge patch (facts/apiserver.md 2.9).

All of them turn one document into another; whether the result is an object that may be kept is
decided elsewhere. Strategic merge reads from the schema which lists are merged by a key.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import jsonpatch
from jsonpointer import JsonPointer, JsonPointerException

from alauda_imageapi.machinery import aside, errors, objects
from alauda_imageapi.machinery.errors import BadRequest, Invalid, RequestEntityTooLarge
from alauda_imageapi.machinery.schema import Schema

MOST_OPERATIONS = 10_000
_MOST_PARTS = 200_000
"""Of all paths of a patch. Each takes a few microseconds."""
_AT_ONCE = 100
"""Operations and parts of paths after which others have their turn: 10 000 take half a second."""
_MOST_COPIED = 3 * 2**20
_OPERATIONS: Mapping[str, Any] = jsonpatch.JsonPatch.operations
# The library lets some errors through when a path leads through what has no parts.
_FAILURES = (
    *(jsonpatch.JsonPatchException, JsonPointerException),
    *(TypeError, KeyError, ValueError, IndexError, AttributeError),
)


async def apply_json_patch(document: Any, patch: Any) -> Any:
    """Apply a list of operations (RFC 6902); others have their turn meanwhile.

    Raises:
        BadRequest: It is no such list.
        Invalid: An operation fails, or a test does.
        RequestEntityTooLarge: It has, or copies, too much.
    """
    if not isinstance(patch, list) or not all(isinstance(step, dict) for step in patch):
        raise BadRequest("a JSON patch is a list of operations")
    if len(patch) > MOST_OPERATIONS:
        raise RequestEntityTooLarge(
            "Request entity too large: The allowed maximum operations in a JSON patch is "
            f"{MOST_OPERATIONS}, got {len(patch)}"
        )
    parts = sum(map(_count_parts, patch))
    if parts > _MOST_PARTS:
        raise RequestEntityTooLarge(
            "Request entity too large: the paths of a JSON patch may have "
            f"{_MOST_PARTS} parts, got {parts}"
        )
    patched = await aside.run(aside.weigh(document), objects.copy, document)
    copied, done = 0, 0
    for number, step in enumerate(patch):
        done += 1 + _count_parts(step)
        if done > _AT_ONCE:
            done = 0
            await asyncio.sleep(0)
        named = step.get("op"), step.get("path")
        if not all(isinstance(part, str) for part in named) or named[0] not in _OPERATIONS:
            raise BadRequest("an operation of a JSON patch has a known op and a path")
        try:
            if step["op"] == "copy":
                value = JsonPointer(step["from"]).resolve(patched)
                copied += len(objects.encode(value))
                if copied > _MOST_COPIED:
                    raise RequestEntityTooLarge("the JSON patch copies more than 3 MiB")
            patched = _OPERATIONS[step["op"]](step).apply(patched)
        except _FAILURES as error:
            raise _failed(number, step) from error
    return patched


def apply_merge_patch(document: Any, patch: Any) -> Any:
    """Apply a merge patch (RFC 7386)."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(document) if isinstance(document, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = apply_merge_patch(merged.get(name), value)
    return merged


def apply_strategic_patch(schema: Schema, document: Any, patch: Any) -> Any:
    """Apply a strategic merge patch.

    Raises:
        BadRequest: A directive in it makes no sense.
    """
    if not isinstance(patch, dict):
        raise BadRequest("a strategic merge patch is an object")
    return _merge_object(schema, document if isinstance(document, dict) else {}, patch)


def _merge_object(schema: Schema, document: objects.Object, patch: objects.Object) -> Any:
    directive = patch.get("$patch")
    if directive == "replace":
        return {name: value for name, value in patch.items() if name != "$patch"}
    if directive == "delete":
        return {}
    if directive not in (None, "merge"):
        raise BadRequest(f"unrecognized $patch directive: {directive!r}")
    merged = dict(document)
    if (kept := patch.get("$retainKeys")) is not None:
        if not isinstance(kept, list):
            raise BadRequest("$retainKeys is a list of names")
        merged = {name: value for name, value in merged.items() if name in kept}
    for name, value in patch.items():
        if name.startswith("$deleteFromPrimitiveList/"):
            _drop_values(merged, name.partition("/")[2], value)
        elif name in ("$patch", "$retainKeys") or name.startswith("$setElementOrder/"):
            continue
        elif value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merge(schema.of(name), merged.get(name), value)
    for name, value in patch.items():
        if name.startswith("$setElementOrder/"):
            _reorder(schema, merged, name.partition("/")[2], value)
    return merged


def _merge(schema: Schema | None, document: Any, patch: Any) -> Any:
    if isinstance(patch, dict):
        if schema is None or schema.is_atomic:
            return apply_merge_patch(None, patch)
        return _merge_object(schema, document if isinstance(document, dict) else {}, patch)
    if isinstance(patch, list) and schema is not None:
        now = document if isinstance(document, list) else []
        if schema.keys:
            return _merge_items(schema, now, patch)
        if schema.is_set:
            return list({_mark(schema, value): value for value in (*now, *patch)}.values())
    return patch


def _merge_items(schema: Schema, document: list[Any], patch: list[Any]) -> list[Any]:
    items = schema.items or Schema(type="any")
    if any(isinstance(item, dict) and item.get("$patch") == "replace" for item in patch):
        return [item for item in patch if not isinstance(item, dict) or "$patch" not in item]
    merged: dict[bytes, Any] = {_mark(schema, item): item for item in document}
    for item in patch:
        if schema.key_of(item) is None:
            names = ", ".join(schema.keys)
            raise BadRequest(f"an item of the patch does not have its merge key {names}")
        mark = _mark(schema, item)
        if item.get("$patch") == "delete":
            merged.pop(mark, None)
        else:
            merged[mark] = _merge_object(items, merged.get(mark, {}), item)
    return list(merged.values())


def _drop_values(merged: objects.Object, name: str, values: Any) -> None:
    now = merged.get(name)
    if isinstance(now, list) and isinstance(values, list):
        dropped = set(map(objects.encode, values))
        merged[name] = [value for value in now if objects.encode(value) not in dropped]


def _reorder(schema: Schema, merged: objects.Object, name: str, order: Any) -> None:
    kind, now = schema.of(name), merged.get(name)
    if kind is None or not isinstance(now, list) or not isinstance(order, list):
        return
    wanted = {_mark(kind, item): place for place, item in enumerate(order)}
    merged[name] = sorted(now, key=lambda item: wanted.get(_mark(kind, item), len(wanted)))


def _mark(schema: Schema, item: Any) -> bytes:
    """Return what an item is told by: its key, or all of it."""
    key = schema.key_of(item) if schema.keys else None
    return objects.encode(item if key is None else key)


def _count_parts(step: objects.Object) -> int:
    paths = (step.get(name) for name in ("path", "from"))
    return sum(path.count("/") for path in paths if isinstance(path, str))


def _failed(number: int, step: objects.Object) -> Invalid:
    what = f"operation {number} of the JSON patch failed: {step['op']} {step['path'][:256]}"
    return Invalid(
        f"the server rejected our request due to an error in our request: {what}",
        causes=[errors.invalid("patch", "", what)],
    )
