"""What the tags of one stream point to, for whoever looks at or changes many of them.

A stream may have thousands of tags, and a request may change each of them: whoever went through all
of them for each would keep everybody else waiting for seconds (facts/image-api.md 3.6 and 3.7).
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from functools import cached_property

from alauda_imageapi.kinds import tags
from alauda_imageapi.machinery import objects
from alauda_imageapi.machinery.objects import Object

LONGEST_HISTORY = 100
"""Events of one tag that are kept. Each push of the stream writes all of them."""

_KEYS = ("dockerImageReference", "image", "generation")


class TagEvents:
    """The events of a stream's tags; everybody who adds some has to do so here.

    Args:
        stream: Its document, which gets what is added. What its tags should be stays as it is.
    """

    def __init__(self, stream: Object) -> None:
        self.stream = stream
        self._named = {
            # Of several that have the same name, the first one counts.
            named.get("tag", ""): named
            for named in reversed(tags.status_tags(stream))
        }

    def newest(self, tag: str) -> Object | None:
        """Return what a tag points to."""
        named = self._named.get(tag)
        return tags.newest_of(named) if named else None

    def image(self, wanted: str) -> Object | None:
        """Return the latest event of the one image whose digest begins like this."""
        found: set[str] = set()
        for digest in self._beginning(wanted):
            found.add(digest)
            if len(found) > 1:
                return None
        return self._images[found.pop()] if found else None

    def point(self, tag: str, event: Object) -> bool:
        """Let a tag point to something, and those that track it, too; whether that is news."""
        if not self._add(tag, event):
            return False
        newest = self._named[tag]["items"][0]
        for follower in self._followers.get(tag, ()):
            self._add(follower, newest)
        return True

    def _add(self, tag: str, event: Object) -> bool:
        """Add an event to a history.

        What differs in the place only is changed where it is, so that a history has each image
        once in a row.
        """
        named = self._named.get(tag)
        if named is None:
            named = self._named[tag] = {"tag": tag, "items": []}
            status = objects.child(self.stream, "status")
            status["tags"] = status.get("tags") or []
            status["tags"].append(named)
        now = tags.newest_of(named)
        if now is not None:
            same_place, same_image, same_generation = (
                now.get(key) == event.get(key) for key in _KEYS
            )
            if same_place and same_image and same_generation:
                return False
            if same_place or same_image:
                # In another object: the image it had leads to this one, if it was asked for before.
                changed = {**now, **{key: event[key] for key in _KEYS if key in event}}
                named["items"] = [changed, *named["items"][1:]]
                named.pop("conditions", None)
                self._note_image(changed)
                return True
        added = dict(event)
        named["items"] = [added, *(named.get("items") or [])][:LONGEST_HISTORY]
        named.pop("conditions", None)
        self._note_image(added)
        return True

    @cached_property
    def _followers(self) -> dict[str, list[str]]:
        """The tags that track another of the stream, by that."""
        found: dict[str, list[str]] = {}
        for follower in tags.spec_tags(self.stream):
            name, followed = follower.get("name"), tags.tracked(follower, self.stream)
            # One without a name is found by the check of the whole stream.
            if name and followed and name != followed:
                found.setdefault(followed, []).append(name)
        return found

    @cached_property
    def _images(self) -> dict[str, Object]:
        """The latest event of each image."""
        return {
            event["image"]: event
            for named in tags.status_tags(self.stream)
            for event in reversed(named.get("items") or [])
            if event.get("image")
        }

    @cached_property
    def _beginnings(self) -> list[tuple[str, str]]:
        """What may be said for each image, in order: the digest, and that without its algorithm."""
        return sorted(pair for digest in self._images for pair in _said_for(digest))

    def _beginning(self, wanted: str) -> Iterator[str]:
        for index in range(bisect_left(self._beginnings, (wanted, "")), len(self._beginnings)):
            said, digest = self._beginnings[index]
            if not said.startswith(wanted):
                return
            yield digest

    def _note_image(self, event: Object) -> None:
        """Keep what is known of images true, once it is known at all."""
        digest = event.get("image")
        if not digest or "_images" not in self.__dict__:
            return
        if digest not in self._images and "_beginnings" in self.__dict__:
            for pair in _said_for(digest):
                insort(self._beginnings, pair)
        self._images[digest] = event


def _said_for(digest: str) -> list[tuple[str, str]]:
    return [(digest, digest), (digest.partition(":")[2], digest)]


def is_prefix(wanted: str, digest: str) -> bool:
    """Tell whether this is the beginning of a digest, with or without the algorithm."""
    return any(said.startswith(wanted) for said, _ in _said_for(digest))
