"""ImageStreamTag: one tag of a stream with its image (facts/image-api.md 2.6 and 3.8)."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, ClassVar

from typing_extensions import override

from alauda_imageapi.kinds import printers, schemas, tags
from alauda_imageapi.kinds.images import without_content
from alauda_imageapi.kinds.tag_views import TagView
from alauda_imageapi.machinery import errors, objects
from alauda_imageapi.machinery.errors import BadRequest
from alauda_imageapi.machinery.managed_fields import Manager
from alauda_imageapi.machinery.metadata import parse_time
from alauda_imageapi.machinery.objects import Object
from alauda_imageapi.machinery.resources import NAME_COLUMN, Change, Column, Context, Outcome
from alauda_imageapi.machinery.schema import Schema


class ImageStreamTags(TagView):
    """``imagestreamtags``."""

    name = "imagestreamtags"
    singular = "imagestreamtag"
    kind = "ImageStreamTag"
    verbs = ("create", "delete", "get", "list", "patch", "update")
    short_names = ("istag",)
    schema: ClassVar[Schema] = schemas.IMAGE_STREAM_TAG
    columns = (
        NAME_COLUMN,
        Column("Image Reference", "Where the image can be pulled from."),
        Column("Updated", "When the tag was last changed."),
        Column("Image Name", "The name of the Image.", priority=1),
    )

    @override
    async def get(self, context: Context, name: str) -> Object:
        stream_name, tag = self.split(name)
        stream = await self.require_stream(context, stream_name)
        event = tags.newest(stream, tag)
        if event is None or not event.get("image"):
            raise self.not_found(context, name)
        image = await self.find_image(context, event["image"])
        if image is None:
            raise self.not_found(context, event["image"])
        return self._view(stream, tag, image)

    @override
    def tags_of(self, stream: Object) -> Iterable[str]:
        return [
            named["tag"]
            for named in tags.status_tags(stream)
            if (tags.newest_of(named) or {}).get("image")
        ]

    @override
    def list_item(self, stream: Object, tag: str) -> Object:
        event = tags.newest(stream, tag) or {}
        # A list does not read images: there may be thousands.
        return self._view(stream, tag, {"metadata": {"name": event.get("image", "")}})

    @override
    async def create(self, context: Context, document: Object, manager: Manager) -> Object:
        name = document["metadata"].get("name", "")
        stream_name, colon, tag = name.partition(":")
        if not (stream_name and colon and tag):
            detail = "must be of the form <stream>:<tag>"
            raise self.invalid(name, [errors.invalid("metadata.name", name, detail)])
        wanted = document.get("tag")
        if wanted is not None:
            annotations = document["metadata"].get("annotations")
            _adopt(wanted, tag, annotations or wanted.get("annotations"))

        async def prepare(stream: Object) -> None:
            if wanted is not None and tags.spec_tag(stream, tag) is None:
                self.put_spec_tag(stream, wanted)
            elif wanted is not None or "uid" in stream["metadata"]:
                raise self.already_exists(context, name)

        made = await self.write(context, stream_name, prepare)
        return await self._view_with_image(context, made, tag)

    @override
    async def update(
        self, context: Context, name: str, change: Change, subresource: str = ""
    ) -> Outcome:
        stream_name, tag = self.split(name)
        is_new = False

        async def prepare(stream: Object) -> None:
            nonlocal is_new
            old = await self._view_with_image(context, stream, tag)
            new = await change(objects.copy(old))
            self.check_revision(context, name, stream, new, change)
            self._check_metadata(name, new["metadata"], old["metadata"])
            before = tags.spec_tag(stream, tag)
            wanted, is_new = new.get("tag") or before, before is None
            if wanted is None:
                raise BadRequest(
                    f"imagestreamtag {name} is not a spec tag in imagestream "
                    f"{context.namespace}/{stream_name}, cannot be updated"
                )
            # Those of the tag are what the client has read there, and are not missed here.
            _adopt(wanted, tag, new["metadata"].get("annotations"))
            await self.require_room(context, name, stream, tag)
            self.put_spec_tag(stream, wanted)

        made = await self.write(context, stream_name, prepare)
        return Outcome(await self._view_with_image(context, made, tag), is_new)

    @override
    def row(self, document: Object, now: datetime) -> list[Any]:
        image = document.get("image") or {}
        # Whoever wrote the status need not have said when.
        created = document["metadata"].get("creationTimestamp") or ""
        return [
            document["metadata"]["name"],
            image.get("dockerImageReference", ""),
            printers.age_text(parse_time(created), now),
            image.get("metadata", {}).get("name", ""),
        ]

    def _check_metadata(self, name: str, new: Object, old: Object) -> None:
        causes = [
            errors.invalid("metadata", "", "only annotations may be changed")
            for field in ("labels", "finalizers", "ownerReferences")
            # Empty ones are those that were left out, as Go reads them.
            if new.get(field) and new[field] != old.get(field)
        ]
        if causes:
            raise self.invalid(name, causes[:1])

    async def _view_with_image(self, context: Context, stream: Object, tag: str) -> Object:
        event = tags.newest(stream, tag) or {}
        digest = event.get("image")
        image = await self.find_image(context, digest) if digest else None
        return self._view(stream, tag, image or {"metadata": {}})

    def _view(self, stream: Object, tag: str, image: Object) -> Object:
        spec, event = tags.spec_tag(stream, tag), tags.newest(stream, tag)
        metadata = self.stream_metadata(stream, tag)
        if event:
            metadata["creationTimestamp"] = event.get("created")
        annotations = dict((spec or {}).get("annotations") or {})
        if annotations:
            metadata["annotations"] = annotations
        shown = without_content(image)
        if annotations:
            own = image["metadata"].get("annotations") or {}
            shown["metadata"] = {**image["metadata"], "annotations": {**own, **annotations}}
        if event:
            shown["dockerImageReference"] = self.pull_spec(stream, spec, event)
        conditions = (tags.status_tag(stream, tag) or {}).get("conditions")
        return {
            "kind": self.kind,
            "apiVersion": self.group.api_version,
            "metadata": metadata,
            **({"tag": spec} if spec else {"tag": None}),
            "generation": (event or {}).get("generation", 0),
            "lookupPolicy": stream.get("spec", {}).get("lookupPolicy", {"local": False}),
            **({"conditions": conditions} if conditions else {}),
            "image": shown,
        }


def _adopt(wanted: Object, tag: str, annotations: Object | None) -> None:
    """Make what was sent into the spec of its tag, whatever that is called there."""
    wanted |= {"name": tag, "annotations": annotations}
