"""What becomes of a tag when its source is written (facts/image-api.md 3.6)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from alauda_imageapi.kinds.names import PullSpec
from alauda_imageapi.kinds.tag_events import TagEvents
from alauda_imageapi.machinery import errors
from alauda_imageapi.machinery.errors import Cause
from alauda_imageapi.machinery.objects import Object
from alauda_imageapi.machinery.resources import Access, Context
from alauda_imageapi.machinery.store import Key

if TYPE_CHECKING:
    from alauda_imageapi.kinds.imagestreams import ImageStreams


class Resolver:
    """Resolves the changed tags of one stream.

    Args:
        streams: Where other streams are.
        context: Of the request.
        stream: The stream, which gets the events.
    """

    def __init__(self, streams: "ImageStreams", context: Context, stream: Object) -> None:
        self._streams = streams
        self._context = context
        self._stream = stream
        self._events = TagEvents(stream)
        self._sources: dict[tuple[str, str], TagEvents | None] = {self._place: self._events}
        self._allowed: dict[tuple[str, str], bool] = {}

    async def resolve(self, tag: Object) -> Sequence[Cause]:
        """Let a tag point to its source, if that is to be had now; what is wrong with it."""
        source = tag.get("from")
        # What is wrong with the form of it is found by the check of the whole stream.
        if not source or not source.get("name") or not tag.get("name"):
            return ()
        kind = source.get("kind")
        if kind == "DockerImage":
            if tag.get("reference"):
                self._point(tag, {"dockerImageReference": source["name"], "image": ""})
            return ()
        if kind not in ("ImageStreamTag", "ImageStreamImage"):
            return ()
        where = f"spec.tags[{tag['name']}].from.name"
        separator = ":" if kind == "ImageStreamTag" else "@"
        name, found, wanted = source["name"].partition(separator)
        if not found:
            name, wanted = self._stream["metadata"]["name"], source["name"]
        if not name or not wanted or separator in wanted:
            form = "<stream>:<tag>" if separator == ":" else "<stream>@<digest>"
            return [errors.invalid(where, source["name"], f"must be of the form {form}")]
        elsewhere = source.get("namespace") or self._place[0]
        if not await self._may_pull(elsewhere, name):
            # Also when it is not there: who may not pull need not know.
            detail = f"{elsewhere}/{name}: it takes the right to get imagestreams/layers there"
            return [errors.forbidden(f"spec.tags[{tag['name']}].from", detail)]
        events = await self._find(elsewhere, name)
        if events is None:
            return [errors.not_found_value(where, source["name"])]
        if kind == "ImageStreamTag":
            event = events.newest(wanted)
        else:
            event = events.image(wanted)
            if event is None:
                detail = "names no image of the stream, or several"
                return [errors.invalid(where, source["name"], detail)]
            event = {**event, "created": self._context.surroundings.timestamp()}
        # A tag that is not there yet may come, and then is not followed across streams.
        if event is not None:
            self._point(tag, event if tag.get("reference") else self._moved(event, events.stream))
        return ()

    async def _may_pull(self, namespace: str, name: str) -> bool:
        """Tell whether the client may have what is in a stream; in its own namespace it may."""
        if namespace == self._place[0]:
            return True
        if (namespace, name) not in self._allowed:
            access = Access("get", self._streams.name, "layers", namespace, name)
            allowed = await self._context.allows(self._context.user, access)
            self._allowed[namespace, name] = allowed
        return self._allowed[namespace, name]

    @property
    def _place(self) -> tuple[str, str]:
        metadata = self._stream["metadata"]
        return metadata["namespace"], metadata["name"]

    async def _find(self, namespace: str, name: str) -> TagEvents | None:
        """Return what a stream has, which is read once for all tags that are from it."""
        if (namespace, name) not in self._sources:
            stored = await self._streams.store.get(Key(self._streams.name, namespace, name))
            found = TagEvents(stored.object()) if stored else None
            self._sources[namespace, name] = found
        return self._sources[namespace, name]

    def _point(self, tag: Object, event: Object) -> None:
        created = event.get("created") or self._context.surroundings.timestamp()
        self._events.point(
            tag["name"], {**event, "created": created, "generation": tag["generation"]}
        )

    def _moved(self, event: Object, stream: Object) -> Object:
        """Let what lies in this registry be pulled through the stream that it is tagged in."""
        place = PullSpec.parse(event.get("dockerImageReference", ""))
        source = self._streams.repository(stream)
        if place is None or not place.digest or f"{place.registry}/{place.path}" != source:
            return event
        destination = self._streams.repository(self._stream)
        return {**event, "dockerImageReference": f"{destination}@{place.digest}"}
