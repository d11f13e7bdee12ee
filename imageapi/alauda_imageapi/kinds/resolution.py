"""What becomes of a tag when its source is written (facts/image-api.md 3.6)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from alauda_imageapi.kinds import tags
from alauda_imageapi.kinds.names import PullSpec
from alauda_imageapi.machinery import errors
from alauda_imageapi.machinery.errors import Cause
from alauda_imageapi.machinery.objects import Object
from alauda_imageapi.machinery.resources import Context
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
        stream = await self._find(source.get("namespace"), name)
        if stream is None:
            return [errors.not_found_value(where, source["name"])]
        if kind == "ImageStreamTag":
            event = tags.newest(stream, wanted)
        else:
            event = _find_image(stream, wanted)
            if event is None:
                detail = "names no image of the stream, or several"
                return [errors.invalid(where, source["name"], detail)]
            event = {**event, "created": self._context.surroundings.timestamp()}
        # A tag that is not there yet may come, and then is not followed across streams.
        if event is not None:
            self._point(tag, event if tag.get("reference") else self._moved(event, stream))
        return ()

    async def _find(self, namespace: str | None, name: str) -> Object | None:
        own = self._stream["metadata"]
        namespace = namespace or own["namespace"]
        if (namespace, name) == (own["namespace"], own["name"]):
            return self._stream
        stored = await self._streams.store.get(Key(self._streams.name, namespace, name))
        return stored.object() if stored else None

    def _point(self, tag: Object, event: Object) -> None:
        created = event.get("created") or self._context.surroundings.timestamp()
        event = {**event, "created": created, "generation": tag["generation"]}
        if tags.add_event(self._stream, tag["name"], event):
            tags.follow(self._stream, tag["name"])

    def _moved(self, event: Object, stream: Object) -> Object:
        """Let what lies in this registry be pulled through the stream that it is tagged in."""
        place = PullSpec.parse(event.get("dockerImageReference", ""))
        source = self._streams.repository(stream)
        if place is None or not place.digest or f"{place.registry}/{place.path}" != source:
            return event
        destination = self._streams.repository(self._stream)
        return {**event, "dockerImageReference": f"{destination}@{place.digest}"}


def _find_image(stream: Object, wanted: str) -> Object | None:
    """Return the latest event of the one image whose digest begins like this."""
    found = {
        event["image"]: event
        for named in tags.status_tags(stream)
        for event in reversed(named.get("items") or [])
        if event.get("image") and is_prefix(wanted, event["image"])
    }
    return next(iter(found.values())) if len(found) == 1 else None


def is_prefix(wanted: str, digest: str) -> bool:
    """Tell whether this is the beginning of a digest, with or without the algorithm."""
    return digest.startswith(wanted) or digest.partition(":")[2].startswith(wanted)
