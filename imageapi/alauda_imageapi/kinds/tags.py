"""The two halves of a tag: what it should be (spec) and what it was and is (status).

Functions over the document of one stream, without I/O (facts/image-api.md 3.1, 3.2, 3.5 and 3.7).
"""

from collections.abc import Iterator
from typing import Any

from alauda_imageapi.machinery import objects
from alauda_imageapi.machinery.objects import Object

LONGEST_HISTORY = 100
"""Events of one tag that are kept. Each push of the stream writes all of them."""


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


def add_event(stream: Object, tag: str, event: Object) -> bool:
    """Let a tag point to something; whether that is news.

    What differs in the place only is changed where it is, so that a history has each image once
    in a row.
    """
    named = status_tag(stream, tag)
    if named is None:
        named = {"tag": tag, "items": []}
        status = objects.child(stream, "status")
        status["tags"] = [*(status.get("tags") or []), named]
    now = newest_of(named)
    keys = ("dockerImageReference", "image", "generation")
    if now is not None:
        same_place, same_image, same_generation = (now.get(key) == event.get(key) for key in keys)
        if same_place and same_image and same_generation:
            return False
        if same_place or same_image:
            now |= {key: event[key] for key in keys if key in event}
            named.pop("conditions", None)
            return True
    named["items"] = [dict(event), *(named.get("items") or [])][:LONGEST_HISTORY]
    named.pop("conditions", None)
    return True


def follow(stream: Object, tag: str) -> None:
    """Let the tags that track another of their stream point to what it points to now."""
    event = newest(stream, tag)
    if event is None:
        return
    for follower in spec_tags(stream):
        if follower["name"] != tag and tracked(follower, stream) == tag:
            add_event(stream, follower["name"], event)


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


def remove(stream: Object, tag: str) -> bool:
    """Take both halves of a tag away; whether there was any."""
    spec = [item for item in spec_tags(stream) if item.get("name") != tag]
    status = [item for item in status_tags(stream) if item.get("tag") != tag]
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
