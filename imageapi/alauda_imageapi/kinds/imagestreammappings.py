"""ImageStreamMapping: what a push posts (facts/image-api.md 2.10 and 3.9).

Beyond OpenShift's, a stream that is missing is made, and an image may be mapped by its digest alone
(facts/vendor-and-journeys.md 1.7).
"""

from collections.abc import Iterable
from typing import ClassVar

from typing_extensions import override

from alauda_imageapi.kinds import schemas
from alauda_imageapi.kinds.content import Content, NoContent
from alauda_imageapi.kinds.images import check_image, prepare_image
from alauda_imageapi.kinds.imagestreams import ImageStreams
from alauda_imageapi.kinds.names import MANAGED, annotation
from alauda_imageapi.kinds.tag_events import TagEvents
from alauda_imageapi.machinery import aside, errors
from alauda_imageapi.machinery.errors import Cause
from alauda_imageapi.machinery.managed_fields import Manager
from alauda_imageapi.machinery.objects import Object
from alauda_imageapi.machinery.resources import Context, Group, Resource
from alauda_imageapi.machinery.schema import Schema
from alauda_imageapi.machinery.store import Exists, Key, ObjectTooLarge
from alauda_imageapi.machinery.stored import require_size, too_large


class ImageStreamMappings(Resource):
    """``imagestreammappings``; they are only made, and leave an Image and a tag."""

    name = "imagestreammappings"
    singular = "imagestreammapping"
    kind = "ImageStreamMapping"
    verbs = ("create",)
    schema: ClassVar[Schema] = schemas.IMAGE_STREAM_MAPPING

    def __init__(self, group: Group, streams: ImageStreams, content: Content | None = None) -> None:
        super().__init__(group)
        self._streams = streams
        self._content = content or NoContent()

    @override
    async def create(self, context: Context, document: Object, manager: Manager) -> Object:
        name, tag = document["metadata"].get("name", ""), document.get("tag", "")
        image = document.get("image") or {}
        image.setdefault("metadata", {})
        image.pop("signatures", None)
        repository = self._streams.repository({"metadata": {**document["metadata"], "name": name}})
        digest = image["metadata"].get("name", "")
        if not image.get("dockerImageReference"):
            image["dockerImageReference"] = f"{repository}@{digest}"
        causes = list(self._check_names(context, name, tag, digest))
        now = context.surroundings.timestamp()
        causes += await aside.run(aside.weigh(image), _complete, image, now)
        if causes:
            raise self.invalid(name, causes)
        try:
            is_new = await make_image(self._streams, context, image)
        except ObjectTooLarge as error:
            raise too_large(error) from error
        reference = image["dockerImageReference"]
        if not is_new and annotation(image["metadata"], MANAGED) == "true":
            reference = f"{repository}@{digest}"

        if not context.dry_run:
            await self._content.point(context.namespace, name, tag, digest)

        async def point(stream: Object) -> bool:
            now = context.surroundings.timestamp()
            return point_tag(TagEvents(stream), tag, digest, reference, now)

        await self._streams.edit(context, name, point, create=True)
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Success",
            "details": self.details(context, name),
        }

    def _check_names(self, context: Context, name: str, tag: str, digest: str) -> Iterable[Cause]:
        """Yield what is wrong with them, before an Image is made that would be left of it."""
        if name:
            yield from self._streams.check_place(context.namespace, name)
        else:
            yield errors.required("metadata.name")
        if not tag:
            yield errors.required("tag")
        if digest:
            yield from self._streams.images.check_name(digest)
        else:
            yield errors.required("image.metadata.name")


def _complete(image: Object, now: str) -> list[Cause]:
    """Derive what follows from the manifest of an image; returns what is wrong with it."""
    # An index is known by its name.
    if image["metadata"].get("name"):
        prepare_image(image, now)
    return errors.first(check_image(image, "image."))


async def make_image(streams: ImageStreams, context: Context, image: Object) -> bool:
    """Keep an image that is prepared, unless there is one already; whether it is new.

    Raises:
        ObjectTooLarge: The store does not take it.
        RequestEntityTooLarge: No client could put it back.
    """
    images, name = streams.images, image["metadata"]["name"]
    key = Key(images.name, "", name)
    if context.dry_run or await images.store.get(key) is not None:
        return False
    metadata = {
        "name": name,
        "uid": context.surroundings.make_uid(),
        "creationTimestamp": context.surroundings.timestamp(),
    }
    for field in ("labels", "annotations"):
        if image["metadata"].get(field):
            metadata[field] = image["metadata"][field]
    document = {
        **image,
        "kind": images.kind,
        "apiVersion": images.group.api_version,
        "metadata": metadata,
    }
    require_size(document)
    try:
        await images.store.create(key, document)
    except Exists:
        return False
    return True


def point_tag(events: TagEvents, tag: str, image: str, reference: str, now: str) -> bool:
    """Let a tag point to an image that was pushed; whether that is news."""
    event = {
        "created": now,
        "dockerImageReference": reference,
        "image": image,
        "generation": events.stream["metadata"].get("generation", 1),
    }
    return events.point(tag, event)
