"""ImageStreamImage: an image that a stream has or had (facts/image-api.md 2.8 and 3.18)."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, ClassVar

from typing_extensions import override

from alauda_imageapi.kinds import layers, printers, schemas, tags
from alauda_imageapi.kinds.images import without_content
from alauda_imageapi.kinds.imagestreams import ImageStreams
from alauda_imageapi.kinds.tag_events import is_prefix
from alauda_imageapi.machinery.errors import BadRequest
from alauda_imageapi.machinery.metadata import parse_time
from alauda_imageapi.machinery.objects import Object
from alauda_imageapi.machinery.resources import NAME_COLUMN, Column, Context, Group, Resource
from alauda_imageapi.machinery.schema import Schema


class ImageStreamImages(Resource):
    """``imagestreamimages``; they can only be read, one by one."""

    name = "imagestreamimages"
    singular = "imagestreamimage"
    kind = "ImageStreamImage"
    verbs = ("get",)
    short_names = ("isimage",)
    schema: ClassVar[Schema] = schemas.IMAGE_STREAM_IMAGE
    columns = (
        NAME_COLUMN,
        Column("Updated", "When the image was made."),
        Column("Image Reference", "Where the image can be pulled from.", priority=1),
        Column("Image Name", "The name of the Image.", priority=1),
    )

    def __init__(self, group: Group, streams: ImageStreams) -> None:
        super().__init__(group)
        self._streams = streams

    @override
    async def get(self, context: Context, name: str) -> Object:
        stream_name, _, wanted = name.partition("@")
        if not stream_name or not wanted or "@" in wanted:
            raise BadRequest("imagestreamimage must be of the form <stream_name>@<image_id>")
        stored = await self._streams.find(context, stream_name)
        if stored is None:
            raise self.not_found(context, stream_name)
        stream = stored.object()
        digest = _first(wanted, tags.images_of(stream))
        if digest is None:
            # It may be one of an index's.
            found = await layers.layers_of(stream, self._streams.images)
            digest = _first(wanted, sorted(found["images"]))
        if digest is None:
            raise self.not_found(context, name)
        kept = await self._streams.images.find_named(context, digest)
        if kept is None:
            raise self.not_found(context, digest)
        image = kept.object()
        metadata: Object = {
            "name": name,
            "namespace": context.namespace,
            "creationTimestamp": image["metadata"].get("creationTimestamp"),
        }
        if annotations := stream["metadata"].get("annotations"):
            metadata["annotations"] = annotations
        return {
            "kind": self.kind,
            "apiVersion": self.group.api_version,
            "metadata": metadata,
            "image": without_content(image),
        }

    @override
    def row(self, document: Object, now: datetime) -> list[Any]:
        image = document["image"]
        created = document["metadata"].get("creationTimestamp") or ""
        return [
            document["metadata"]["name"],
            printers.age_text(parse_time(created), now),
            image.get("dockerImageReference", ""),
            image["metadata"]["name"],
        ]


def _first(wanted: str, digests: Iterable[str]) -> str | None:
    return next((digest for digest in digests if is_prefix(wanted, digest)), None)
