"""Server-side apply, patches and selectors, for whatever objects and texts there are."""

import asyncio
import contextlib
import re
from typing import Any

import pytest
from hypothesis import given, strategies as st

from alauda_imageapi.kinds import schemas
from alauda_imageapi.machinery import field_sets, managed_fields, objects, patches, selectors
from alauda_imageapi.machinery.errors import (
    BadRequest,
    Conflict,
    Invalid,
    RequestEntityTooLarge,
)
from alauda_imageapi.machinery.managed_fields import Manager
from alauda_imageapi.machinery.objects import NotJSON

SCHEMA = schemas.IMAGE_STREAM
NOW = "2026-01-02T03:04:05Z"

words = st.text("ab/.:", min_size=1, max_size=3)
labels = st.dictionaries(words, words, max_size=3)
sources = st.fixed_dictionaries({}, optional={"kind": words, "name": words})
one_tag = st.fixed_dictionaries(
    {}, optional={"from": sources, "annotations": labels, "reference": st.just(True)}
)
tag_lists = st.dictionaries(st.sampled_from("abc"), one_tag, max_size=3).map(
    lambda found: [{"name": name, **tag} for name, tag in found.items()]
)
specs = st.fixed_dictionaries(
    {},
    optional={
        "tags": tag_lists,
        "lookupPolicy": st.fixed_dictionaries({"local": st.booleans()}),
        "dockerImageRepository": words,
    },
)
metadatas = st.fixed_dictionaries(
    {"name": st.just("app")},
    optional={"labels": labels, "finalizers": st.lists(words, unique=True, max_size=2)},
)
streams = st.fixed_dictionaries({"metadata": metadatas}, optional={"spec": specs})

scalars = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=5)
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=12,
)


def apply(live: Any, wanted: Any, name: str, *, force: bool = False) -> Any:
    manager = Manager(name, "Apply", "image.alauda.io/v1")
    return managed_fields.apply(SCHEMA, live, wanted, manager, NOW, force=force)


def values(document: Any) -> dict[Any, Any]:
    return field_sets.owned_values(SCHEMA, document)


def told(document: Any) -> dict[Any, Any]:
    """Without empty objects: an empty list in one makes it another, and nobody owns that."""
    return {path: value for path, value in values(document).items() if value != {}}


@given(streams)
def test_field_sets_are_written_as_they_are_read(stream: Any) -> None:
    fields = frozenset(values(stream))

    assert field_sets.parse_fields(field_sets.write_fields(fields)) == fields


@given(streams)
def test_applying_the_same_twice_changes_nothing(stream: Any) -> None:
    once = apply(None, stream, "one")

    assert apply(once, stream, "one") == once


@given(streams, streams)
def test_what_is_applied_is_what_there_is_when_nobody_else_wants_anything(
    before: Any, after: Any
) -> None:
    applied = apply(apply(None, before, "one"), after, "one")

    found, wanted = values(applied), told(after)
    assert {path: found.get(path) for path in wanted} == wanted
    # Nothing is left of what was wanted before; empty objects say nothing.
    assert {path for path in found.keys() - wanted.keys() if found[path] != {}} == set()


@given(streams, streams)
def test_what_another_wants_stays(mine: Any, theirs: Any) -> None:
    live = apply(apply(None, mine, "me"), theirs, "they", force=True)

    gone = apply(live, {"metadata": {"name": "app"}}, "me")

    found, wanted = values(gone), told(theirs)
    assert {path: found.get(path) for path in wanted} == wanted


@given(streams, streams)
def test_there_is_a_conflict_exactly_when_a_value_of_others_would_change(
    mine: Any, theirs: Any
) -> None:
    live = apply(None, mine, "me")
    ours = values(mine)
    differs = any(path in ours and ours[path] != value for path, value in values(theirs).items())

    try:
        apply(live, theirs, "they")
    except Conflict:
        assert differs
    else:
        assert not differs


@given(streams, streams)
def test_updates_own_what_they_changed_and_nothing_that_is_gone(old: Any, new: Any) -> None:
    manager = Manager("one", "Update", "image.alauda.io/v1")
    old["metadata"]["managedFields"] = managed_fields.note_update(SCHEMA, None, old, manager, NOW)
    other = Manager("two", "Update", "image.alauda.io/v1")

    entries = managed_fields.note_update(SCHEMA, old, new, other, NOW)

    owned = {entry["manager"]: field_sets.parse_fields(entry["fieldsV1"]) for entry in entries}
    present = frozenset(values(new))
    changed = field_sets.changed_paths(values(old), values(new))
    assert owned.get("two", frozenset()) == changed
    assert owned.get("one", frozenset()) == present - changed


def merge_difference(before: Any, after: Any) -> Any:
    """The merge patch that leads from one object to another, which has no null in it."""
    if not isinstance(before, dict) or not isinstance(after, dict):
        return after
    patch = {name: None for name in before if name not in after}
    for name, value in after.items():
        if name not in before or before[name] != value:
            patch[name] = merge_difference(before.get(name), value)
    return patch


def without_nulls(document: Any) -> Any:
    if isinstance(document, dict):
        found = document.items()
        return {name: without_nulls(value) for name, value in found if value is not None}
    return document


@given(st.dictionaries(st.text(max_size=3), documents), st.dictionaries(words, documents))
def test_a_merge_patch_leads_where_its_difference_says(before: Any, after: Any) -> None:
    target = without_nulls(after)

    assert patches.apply_merge_patch(before, merge_difference(before, target)) == target


@given(streams, streams)
def test_a_strategic_patch_leaves_tags_alone_that_it_does_not_name(before: Any, patch: Any) -> None:
    patched = patches.apply_strategic_patch(SCHEMA, before, patch)

    def by_name(found: Any) -> dict[str, Any]:
        return {tag["name"]: tag for tag in found.get("spec", {}).get("tags", [])}

    named = by_name(patch)
    untouched = {name: tag for name, tag in by_name(before).items() if name not in named}
    assert {name: tag for name, tag in by_name(patched).items() if name not in named} == untouched
    assert by_name(patched).keys() == by_name(before).keys() | named.keys()


@given(documents, documents)
def test_no_patch_is_more_than_the_clients_mistake(document: Any, patch: Any) -> None:
    with contextlib.suppress(BadRequest, Invalid, RequestEntityTooLarge):
        asyncio.run(patches.apply_json_patch(document, patch))
    with contextlib.suppress(BadRequest):
        patches.apply_strategic_patch(SCHEMA, document, patch)
    patches.apply_merge_patch(document, patch)


operations = st.fixed_dictionaries(
    {"op": st.sampled_from(["add", "remove", "replace", "move", "copy", "test"])},
    optional={
        "path": st.sampled_from(["", "/", "/a", "/a/0", "/a/-", "/a/b", "/~2", "x", "/a/01"]),
        "from": st.sampled_from(["", "/a", "/a/0", "/none", "x", "/~"]),
        "value": documents,
    },
)


@given(documents, st.lists(operations, max_size=5))
def test_no_json_patch_is_more_than_the_clients_mistake(document: Any, patch: Any) -> None:
    with contextlib.suppress(BadRequest, Invalid, RequestEntityTooLarge):
        asyncio.run(patches.apply_json_patch({"a": document}, patch))


@given(st.text("ab=!,() \\in./", max_size=20))
def test_a_selector_is_read_or_refused(text: str) -> None:
    for parse in (selectors.parse_labels, selectors.parse_fields):
        with contextlib.suppress(BadRequest):
            parse(text).matches({"a": "b"})


def test_no_label_selector_is_read_in_several_ways() -> None:
    # Two repeats of blanks that follow one another take the square of their number.
    assert re.findall(r"[*+](?!\+)", re.sub(r"[*+]\+", "", selectors._CONDITION.pattern)) == []
    for text in ("a" + " " * 16_000 + "x", "a =" + " " * 16_000 + "("):
        with pytest.raises(BadRequest):
            selectors.parse_labels(text)


@given(st.sampled_from("ab"), st.lists(st.sampled_from("xyz"), min_size=1), labels)
def test_in_and_notin_are_opposites(key: str, wanted: list[str], found: dict[str, str]) -> None:
    listed = ",".join(wanted)
    is_in = selectors.parse_labels(f"{key} in ({listed})")
    is_not = selectors.parse_labels(f"{key} notin ({listed})")

    assert is_in.matches(found) == (found.get(key) in wanted) == (not is_not.matches(found))


@given(documents)
def test_what_is_read_can_be_written(document: Any) -> None:
    assert objects.parse_json(objects.encode(document)) == document


@given(st.binary(max_size=40))
def test_bytes_are_read_or_refused(text: bytes) -> None:
    with contextlib.suppress(NotJSON):
        objects.encode(objects.parse_json(text))
