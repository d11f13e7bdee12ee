"""The two halves of a tag: what it should be (spec) and what it was and is (status).

Functions over the document of one stream, without I/O (facts/image-api.md 3.1, 3.2 and 3.5).
"""

from collections.abc import Container, Iterator
from typing import Any

from alauda_imageapi.machinery import objects
from alauda_imageapi.machinery.objects import Object


def spec_tags(stream: Object) -> list[Object]:
    """Return what tags there should be."""
    tags: list[Object] = stream.get("spec", {}).get("tags") or []
    return tags


def status_tags(stream: Object) -> list[Object]:
    """Return what tags there are."""
    tags: list[Object] = stream.get("status", {}).get("tags") or []
    return tags


def spec_tag(stream: Object, tag: str) -> Object | None:
    """Return what a tag should be, if anybody said."""
    return next((item for item in spec_tags(stream) if item.get("name") == tag), None)


def status_tag(stream: Object, tag: str) -> Object | None:
    """Return what a tag is, if it is anything."""
    return next((item for item in status_tags(stream) if item.get("tag") == tag), None)


def newest(stream: Object, tag: str) -> Object | None:
    """Return what a tag points to."""
    found = status_tag(stream, tag)
    return newest_of(found) if found else None


def newest_of(named: Object) -> Object | None:
    """Return the latest event of a history."""
    items: list[Object] = named.get("items") or []
    return items[0] if items else None


def images_of(stream: Object) -> Iterator[str]:
    """Yield the images that a stream has or had, each once."""
    seen = {
        event["image"]
        for named in status_tags(stream)
        for event in named.get("items") or []
        if event.get("image")
    }
    yield from sorted(seen)


def tracked(spec: Object, stream: Object) -> str | None:
    """Return the tag of the same stream that a tag follows, if it does."""
    source = spec.get("from") or {}
    metadata = stream["metadata"]
    if source.get("kind") != "ImageStreamTag":
        return None
    if source.get("namespace") not in (None, "", metadata.get("namespace")):
        return None
    name, colon, tag = source.get("name", "").rpartition(":")
    return tag if not colon or name == metadata["name"] else None


def remove(stream: Object, gone: Container[str]) -> bool:
    """Take both halves of tags away; whether there was any."""
    spec = [item for item in spec_tags(stream) if item.get("name") not in gone]
    status = [item for item in status_tags(stream) if item.get("tag") not in gone]
    is_news = len(spec) < len(spec_tags(stream)) or len(status) < len(status_tags(stream))
    if is_news:
        objects.child(stream, "spec")["tags"] = spec
        objects.child(stream, "status")["tags"] = status
    return is_news


def forget_image(stream: Object, image: str) -> bool:
    """Take an image out of all histories; whether it was in any."""
    is_news = False
    for named in status_tags(stream):
        items = named.get("items") or []
        kept = [event for event in items if event.get("image") != image]
        if len(kept) < len(items):
            named["items"], is_news = kept, True
    if is_news:
        status = stream["status"]
        status["tags"] = [
            named for named in status["tags"] if named.get("items") or named.get("conditions")
        ]
    return is_news


def tidy(stream: Object) -> None:
    """Put tags in order, each once, and leave out what says nothing."""
    spec, status = objects.child(stream, "spec"), objects.child(stream, "status")
    by_name = {item.get("name", ""): item for item in spec_tags(stream)}
    by_tag = {
        item.get("tag", ""): item
        for item in status_tags(stream)
        if item.get("items") or item.get("conditions")
    }
    for part, found in ((spec, by_name), (status, by_tag)):
        if found:
            part["tags"] = [found[name] for name in sorted(found)]
        else:
            part.pop("tags", None)


def is_changed(tag: Object, old: Object | None, namespace: str) -> bool:
    """Tell whether a tag has another source than before, or is to be read again."""
    if old is None:
        return True
    if "from" not in tag:
        return False
    if tag.get("generation") == 0:
        return True
    return _source(tag, namespace) != _source(old, namespace)


def _source(tag: Object, namespace: str) -> tuple[Any, ...]:
    source = tag.get("from") or {}
    return (
        source.get("namespace") or namespace,
        source.get("name"),
        bool(tag.get("reference")),
        tag.get("importPolicy", {}).get("importMode"),
    )
