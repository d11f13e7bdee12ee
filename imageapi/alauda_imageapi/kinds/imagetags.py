"""ImageTag: one tag with both its halves (facts/image-api.md 2.7 and 3.19)."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, ClassVar

from typing_extensions import override

from alauda_imageapi.kinds import printers, schemas, tags
from alauda_imageapi.kinds.images import without_content
from alauda_imageapi.kinds.tag_views import TagView
from alauda_imageapi.machinery import errors, objects
from alauda_imageapi.machinery.managed_fields import Manager
from alauda_imageapi.machinery.metadata import parse_time
from alauda_imageapi.machinery.objects import Object
from alauda_imageapi.machinery.resources import NAME_COLUMN, Change, Column, Context, Outcome
from alauda_imageapi.machinery.schema import Schema


class ImageTags(TagView):
    """``imagetags``."""

    name = "imagetags"
    singular = "imagetag"
    kind = "ImageTag"
    verbs = ("create", "delete", "get", "list", "patch", "update")
    short_names = ("itag",)
    schema: ClassVar[Schema] = schemas.IMAGE_TAG
    columns = (
        NAME_COLUMN,
        Column("Spec", "Where the tag comes from."),
        Column("Status", "What it is, or why it is not."),
        Column("History", "How many images it pointed to.", type="integer"),
        Column("Updated", "When it was last changed."),
    )

    @override
    async def get(self, context: Context, name: str) -> Object:
        stream_name, tag = self.split(name)
        stream = await self.require_stream(context, stream_name)
        if tags.spec_tag(stream, tag) is None and tags.status_tag(stream, tag) is None:
            raise self.not_found(context, name)
        return await self._view_with_image(context, stream, tag)

    @override
    def tags_of(self, stream: Object) -> Iterable[str]:
        return {
            *(tag["name"] for tag in tags.spec_tags(stream)),
            *(named["tag"] for named in tags.status_tags(stream)),
        }

    @override
    def list_item(self, stream: Object, tag: str) -> Object:
        return self._view(stream, tag, None)

    @override
    async def create(self, context: Context, document: Object, manager: Manager) -> Object:
        name = document["metadata"].get("name", "")
        stream_name, tag = self.split(name)
        wanted = self._wanted(document, name, tag)
        if wanted is None:
            raise self.invalid(name, [errors.required("spec")])

        async def prepare(stream: Object) -> None:
            if tags.spec_tag(stream, tag) is not None:
                raise self.already_exists(context, name)
            self.put_spec_tag(stream, wanted)

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
            wanted, is_new = self._wanted(new, name, tag), before is None
            if wanted is not None:
                await self.require_room(context, name, stream, tag)
                self.put_spec_tag(stream, wanted)
            elif before is None and tags.status_tag(stream, tag) is None:
                raise self.not_found(context, name)
            else:
                others = [item for item in tags.spec_tags(stream) if item["name"] != tag]
                stream["spec"]["tags"] = others

        made = await self.write(context, stream_name, prepare)
        return Outcome(await self._view_with_image(context, made, tag), is_new)

    @override
    def row(self, document: Object, now: datetime) -> list[Any]:
        named = document.get("status") or {}
        items = named.get("items") or []
        moments = [parse_time(event.get("created", "")) for event in items[:1]]
        moments += [
            parse_time(condition["lastTransitionTime"])
            for condition in named.get("conditions") or []
            if condition.get("lastTransitionTime")
        ]
        return [
            document["metadata"]["name"],
            printers.spec_text(document),
            printers.status_text(document),
            len(items) or None,
            printers.age_text(max(moments), now) if moments else "",
        ]

    def _wanted(self, document: Object, name: str, tag: str) -> Object | None:
        wanted: Object | None = document.get("spec")
        if wanted is None:
            return None
        wanted["name"] = wanted.get("name") or tag
        if wanted["name"] != tag:
            cause = errors.invalid("spec.name", wanted["name"], f"must be {tag}")
            raise self.invalid(name, [cause])
        return wanted

    def _check_metadata(self, name: str, new: Object, old: Object) -> None:
        fields = ("labels", "annotations", "finalizers", "ownerReferences")
        # Empty ones are those that were left out, as Go reads them.
        if any(new.get(field) and new[field] != old.get(field) for field in fields):
            cause = errors.invalid("metadata", "", "only spec may be changed")
            raise self.invalid(name, [cause])

    async def _view_with_image(self, context: Context, stream: Object, tag: str) -> Object:
        event = tags.newest(stream, tag) or {}
        digest = event.get("image")
        image = await self.find_image(context, digest) if digest else None
        return self._view(stream, tag, image)

    def _view(self, stream: Object, tag: str, image: Object | None) -> Object:
        spec = tags.spec_tag(stream, tag)
        # Those of a stream grow with its tags, and a list would have them once for each tag.
        metadata = {
            name: value for name, value in stream["metadata"].items() if name != "managedFields"
        }
        shown = None
        if image is not None:
            event = tags.newest(stream, tag) or {}
            reference = self.pull_spec(stream, spec, event)
            shown = {**without_content(image), "dockerImageReference": reference}
        return {
            "kind": self.kind,
            "apiVersion": self.group.api_version,
            "metadata": {**metadata, "name": f"{metadata['name']}:{tag}"},
            "spec": spec,
            "status": tags.status_tag(stream, tag),
            "image": shown,
        }
