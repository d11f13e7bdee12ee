"""Who has set which fields: ``metadata.managedFields``, and server-side apply on top of it.

Facts/apiserver.md 2.9 has the steps. What a manager applied before and does not apply now is
removed, unless somebody else owns it; what somebody else owns and has another value is a conflict.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alauda_imageapi.machinery import field_sets, metadata as meta, objects
from alauda_imageapi.machinery.errors import Cause, Conflict
from alauda_imageapi.machinery.field_sets import FieldSet, Path
from alauda_imageapi.machinery.objects import NotJSON, Object
from alauda_imageapi.machinery.schema import Schema, WrongType, conform

MOST_UPDATERS = 10
LONGEST_MANAGER = 128
MOST_SENT = 100
"""Entries that a client may send; more are far from what anybody could have read."""
_KUBECTL = "kubectl"
"""The manager of ``kubectl apply --server-side``, which takes over what it applied before."""
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_ANCIENT = "ancient-changes"


@dataclass(frozen=True, slots=True)
class Manager:
    """Who changes something, and how.

    Attributes:
        name: The field manager.
        operation: Apply or Update.
        api_version: What the fields are of.
        subresource: What it is done by, if it is not the object itself.
    """

    name: str
    operation: str
    api_version: str
    subresource: str = ""


@dataclass(frozen=True, slots=True)
class _Entry:
    manager: Manager
    time: str
    fields: FieldSet


def note_update(
    schema: Schema, old: Object | None, new: Object, manager: Manager, now: str
) -> list[Object]:
    """Return the managed fields of an object that was created or updated.

    Args:
        schema: Of the object.
        old: The object before; None when it is new.
        new: The object after.
        manager: Who did it.
        now: When.
    """
    entries = _begun(old, new, manager)
    before = field_sets.owned_values(schema, old or {})
    after = field_sets.owned_values(schema, new)
    changed = field_sets.changed_paths(before, after)
    gone = frozenset(before.keys() - after.keys())
    updated = [
        _Entry(entry.manager, entry.time, entry.fields - gone - changed)
        if entry.manager != manager
        else _Entry(manager, now if changed else entry.time, (entry.fields - gone) | changed)
        for entry in entries
    ]
    if changed and manager not in [entry.manager for entry in entries]:
        updated.append(_Entry(manager, now, changed))
    return _write(_cap(updated))


def forget(schema: Schema, old: Object, new: Object) -> list[Object]:
    """Return the managed fields of an object that the server took something away from."""
    gone = field_sets.owned_values(schema, old).keys() - field_sets.owned_values(schema, new).keys()
    entries = _entries(old)
    return _write([_Entry(entry.manager, entry.time, entry.fields - gone) for entry in entries])


def apply(
    schema: Schema,
    live: Object | None,
    applied: Object,
    manager: Manager,
    now: str,
    *,
    force: bool,
) -> Object:
    """Return what becomes of an object when a manager applies its wishes.

    Raises:
        Conflict: They contradict those of others.
    """
    entries = _entries(live)
    wanted = field_sets.owned_values(schema, applied)
    present = field_sets.owned_values(schema, live or {})
    fields = frozenset(wanted)
    missing = object()
    different = {path for path, value in wanted.items() if present.get(path, missing) != value}
    others = [entry for entry in entries if entry.manager != manager]
    contested = [(entry.manager, entry.fields & different) for entry in others]
    if not force and any(paths for _, paths in contested):
        own = _applied_before(schema, live, present) if manager.name == _KUBECTL else frozenset()
        contested = [(who, paths - own) for who, paths in contested]
        if any(paths for _, paths in contested):
            raise _conflict(contested)
    others = [_Entry(entry.manager, entry.time, entry.fields - different) for entry in others]
    merged: Object = _merge(schema, live or {}, applied)
    previous = frozenset[Path]().union(
        *(entry.fields for entry in entries if entry.manager == manager)
    )
    owned_by_others = frozenset[Path]().union(*(entry.fields for entry in others))
    doomed = previous - fields - owned_by_others
    merged = field_sets.without(schema, merged, doomed, fields | owned_by_others)
    before = next((entry for entry in entries if entry.manager == manager), None)
    is_same = before is not None and before.fields == fields
    stays = is_same and field_sets.owned_values(schema, merged) == present
    entry = _Entry(manager, before.time if before and stays else now, fields)
    merged["metadata"] = {**merged["metadata"], "managedFields": _write([*others, entry])}
    if manager.name == _KUBECTL:
        _keep_in_step(merged["metadata"], applied)
    return merged


def _applied_before(schema: Schema, live: Object | None, present: Mapping[Path, Any]) -> FieldSet:
    """Return what kubectl applied without the server, and what nobody has changed since."""
    metadata = (live or {}).get("metadata", {})
    text = (metadata.get("annotations") or {}).get(_LAST_APPLIED, "")
    try:
        applied = conform(schema, objects.parse_json(text.encode()))
    except (NotJSON, WrongType):
        return frozenset()
    if applied.get("apiVersion") != (live or {}).get("apiVersion"):
        return frozenset()
    wanted = field_sets.owned_values(schema, applied)
    return frozenset(wanted) - field_sets.changed_paths(present, wanted)


def _keep_in_step(metadata: Object, applied: Object) -> None:
    """Let what kubectl finds its changes by be what it has applied, if it is there.

    Args:
        metadata: Of what the object becomes.
        applied: What was applied.
    """
    annotations = {**(metadata.get("annotations") or {})}
    if not annotations.get(_LAST_APPLIED):
        return
    own = {**applied["metadata"]}
    own["annotations"] = {**(own.get("annotations") or {})}
    own["annotations"].pop(_LAST_APPLIED, None)
    annotations[_LAST_APPLIED] = objects.encode({**applied, "metadata": own}).decode() + "\n"
    if meta.check_annotations(annotations):
        del annotations[_LAST_APPLIED]
    metadata["annotations"] = annotations


def _merge(schema: Schema | None, live: Any, applied: Any) -> Any:
    if (
        schema is None
        or not field_sets.is_merged(schema, applied)
        or type(live) is not type(applied)
    ):
        return applied
    if isinstance(applied, dict):
        merged = dict(live)
        for name, value in applied.items():
            below = schema.of(name)
            merged[name] = _merge(below, live[name], value) if name in live else value
        return merged
    items = {field_sets.item_element(schema, item, place): item for place, item in enumerate(live)}
    for place, item in enumerate(applied):
        element = field_sets.item_element(schema, item, place)
        known = items.get(element)
        items[element] = item if known is None else _merge(schema.items, known, item)
    return list(items.values())


def _conflict(contested: Iterable[tuple[Manager, FieldSet]]) -> Conflict:
    causes, listed = [], []
    for who, paths in sorted((_describe(manager), paths) for manager, paths in contested if paths):
        places = sorted(map(field_sets.describe, paths))
        causes += [Cause("FieldManagerConflict", f"conflict with {who}", at) for at in places]
        listed += [f"conflicts with {who}:", *(f"- {place}" for place in places)]
    # Worded as kube-apiserver does: one is told in a line of its own.
    reason = "\n".join(listed)
    if len(causes) == 1:
        reason = f"{causes[0].message}: {causes[0].field}"
    plural = "s" if len(causes) > 1 else ""
    return Conflict(f"Apply failed with {len(causes)} conflict{plural}: {reason}", causes=causes)


def _describe(manager: Manager) -> str:
    part = f' with subresource "{manager.subresource}"' if manager.subresource else ""
    how = f" using {manager.api_version}" if manager.operation == "Update" else ""
    return f'"{manager.name}"{part}{how}'


def _begun(old: Object | None, new: Object, manager: Manager) -> list[_Entry]:
    """Return what an update goes out from: what the client sent, if that makes sense."""
    sent = new["metadata"].get("managedFields") or []
    if sent == [{}] and not manager.subresource:
        # This asks for a new beginning; an empty list is of a client that does not know of them.
        return []
    is_as_before = sent == (old or {}).get("metadata", {}).get("managedFields")
    is_of_no_use = manager.subresource or is_as_before or len(sent) > MOST_SENT
    if is_of_no_use or not all(map(_is_sound, sent)):
        return _entries(old)
    times: dict[Manager, str] = {}
    found = defaultdict[Manager, set[Path]](set)
    for entry in _entries(new):
        times[entry.manager] = entry.time
        found[entry.manager] |= entry.fields
    ours = [
        _Entry(who, times[who], frozenset(fields))
        for who, fields in found.items()
        if who.api_version == manager.api_version
    ]
    return ours or _entries(old)


def _is_sound(entry: Object) -> bool:
    name = entry.get("manager", "")
    return (
        len(name) <= LONGEST_MANAGER
        and name.isprintable()
        and entry.get("operation") in ("Apply", "Update")
        and bool(entry.get("apiVersion"))
        and entry.get("fieldsType") == "FieldsV1"
        and field_sets.is_field_set(entry.get("fieldsV1", {}))
    )


def _entries(document: Object | None) -> list[_Entry]:
    """Read what is stored, which was ours, or is sound."""
    found = []
    for entry in (document or {}).get("metadata", {}).get("managedFields") or []:
        manager = Manager(
            entry.get("manager", ""),
            entry.get("operation", ""),
            entry.get("apiVersion", ""),
            entry.get("subresource", ""),
        )
        fields = field_sets.parse_fields(entry.get("fieldsV1"))
        found.append(_Entry(manager, entry.get("time", ""), fields))
    return found


def _cap(entries: list[_Entry]) -> list[_Entry]:
    """Join the oldest updates when there are too many."""
    updates = sorted(
        (entry for entry in entries if entry.manager.operation == "Update" and entry.fields),
        key=lambda entry: entry.time,
    )
    surplus = len(updates) - MOST_UPDATERS
    if surplus <= 0:
        return entries
    old = updates[: surplus + 1]
    joined = frozenset[Path]().union(*(entry.fields for entry in old))
    ancient = Manager(_ANCIENT, "Update", old[-1].manager.api_version)
    # Which they are, not what is in them: that would be compared with each other's.
    gone = set(map(id, old))
    return [
        *(entry for entry in entries if id(entry) not in gone),
        _Entry(ancient, old[-1].time, joined),
    ]


def _write(entries: Sequence[_Entry]) -> list[Object]:
    written = []
    for entry in sorted(entries, key=lambda entry: (entry.manager.operation, entry.time)):
        if not entry.fields:
            continue
        manager = entry.manager
        written.append(
            {
                "manager": manager.name,
                "operation": manager.operation,
                "apiVersion": manager.api_version,
                **({"time": entry.time} if entry.time else {}),
                "fieldsType": "FieldsV1",
                "fieldsV1": field_sets.write_fields(entry.fields),
                **({"subresource": manager.subresource} if manager.subresource else {}),
            }
        )
    return written
