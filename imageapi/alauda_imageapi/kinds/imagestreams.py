"""ImageStream: the tags of a repository (facts/image-api.md 2.3 and 3.2 to 3.7)."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

from typing_extensions import override

from alauda_imageapi.kinds import layers, printers, resolution, schemas, tags
from alauda_imageapi.kinds.content import Content, NoContent
from alauda_imageapi.kinds.images import Images
from alauda_imageapi.kinds.names import LONGEST_NAME, PullSpec, is_component
from alauda_imageapi.kinds.stream_edits import Edit, EditQueues, StreamEdit
from alauda_imageapi.kinds.tag_events import TagEvents
from alauda_imageapi.machinery import aside, errors, managed_fields, metadata as meta, objects
from alauda_imageapi.machinery.errors import AlreadyExists, Cause, StatusError
from alauda_imageapi.machinery.managed_fields import Manager
from alauda_imageapi.machinery.objects import Object
from alauda_imageapi.machinery.resources import (
    NAME_COLUMN,
    Column,
    Context,
    Group,
    Subresource,
)
from alauda_imageapi.machinery.schema import Schema
from alauda_imageapi.machinery.store import Changed, Missing, ObjectStore, Stored
from alauda_imageapi.machinery.stored import Attempts, StoredResource, require_size

_KINDS = ("DockerImage", "ImageStreamTag", "ImageStreamImage")
_MODES = ("Legacy", "PreserveOriginal")
_POLICIES = ("Source", "Local")


class ImageStreams(StoredResource):
    """``imagestreams``.

    Args:
        group: The group.
        store: Keeps the streams.
        images: The Images that they point to.
        registry: Where the registry is: HOST:PORT.
        content: Keeps what their tags point to.
        public_registry: Where others than pods reach the registry, if they do: HOST or HOST:PORT.
        collects_garbage: Whether anybody acts on owner references.
    """

    name = "imagestreams"
    singular = "imagestream"
    kind = "ImageStream"
    verbs = (
        *("create", "delete", "deletecollection", "get"),
        *("list", "patch", "update", "watch"),
    )
    short_names = ("is",)
    categories = ("all",)
    schema: ClassVar[Schema] = schemas.IMAGE_STREAM
    subresources: ClassVar[tuple[Subresource, ...]] = (
        Subresource("layers", "ImageStreamLayers", schemas.IMAGE_STREAM_LAYERS, ("get",)),
        Subresource("status", "ImageStream", schemas.IMAGE_STREAM, ("get", "patch", "update")),
    )
    columns = (
        NAME_COLUMN,
        Column("Image Repository", "Where the images can be pulled from."),
        Column("Tags", "The tags, the latest first."),
        Column("Updated", "When a tag was last changed."),
    )
    selectable = frozenset(
        {
            *("metadata.name", "metadata.namespace"),
            *("spec.dockerImageRepository", "status.dockerImageRepository"),
        }
    )
    is_decorated = True

    def __init__(
        self,
        group: Group,
        store: ObjectStore,
        images: Images,
        registry: str,
        content: Content | None = None,
        *,
        public_registry: str = "",
        collects_garbage: bool = False,
    ) -> None:
        super().__init__(group, store, collects_garbage=collects_garbage)
        self.images = images
        self.registry = registry
        self._public_registry = public_registry
        self._content = content or NoContent()
        self._queues = EditQueues(self._make_edits)

    def repository(self, stream: Object) -> str:
        """Return where the images of a stream can be pulled from."""
        if self.registry:
            return _repository(self.registry, stream)
        found: str = stream.get("spec", {}).get("dockerImageRepository", "")
        return found

    @override
    def decorate(self, document: Object) -> Object:
        status = objects.child(document, "status")
        status["dockerImageRepository"] = self.repository(document)
        if self._public_registry:
            public = _repository(self._public_registry, document)
            status["publicDockerImageRepository"] = public
        return document

    @override
    def undecorate(self, document: Object) -> None:
        for name in ("dockerImageRepository", "publicDockerImageRepository"):
            document.get("status", {}).pop(name, None)

    @override
    def default(self, document: Object) -> None:
        spec = objects.child(document, "spec")
        spec.setdefault("lookupPolicy", {}).setdefault("local", False)
        for tag in tags.spec_tags(document):
            default_tag(tag)

    @override
    def extra_fields(self, document: Object) -> Mapping[str, str]:
        return {
            "spec.dockerImageRepository": document.get("spec", {}).get("dockerImageRepository", ""),
            "status.dockerImageRepository": self.repository(document),
        }

    @override
    async def prepare_create(self, context: Context, document: Object) -> None:
        tags.tidy(document)
        for tag in tags.spec_tags(document):
            tag["generation"] = 1
        await self._resolve(context, document, tags.spec_tags(document))

    @override
    async def prepare_update(
        self, context: Context, document: Object, old: Object, subresource: str
    ) -> None:
        tags.tidy(document)
        if subresource == "status":
            _fill_generations(document, old)
            return
        metadata = document["metadata"]
        namespace = metadata.get("namespace", "")
        changed = []
        # There may be tens of thousands.
        known = {tag.get("name", ""): tag for tag in tags.spec_tags(old)}
        for tag in tags.spec_tags(document):
            before = known.get(tag.get("name", ""))
            if tags.is_changed(tag, before, namespace):
                changed.append(tag)
                tag["generation"] = 0
            elif before is not None:
                tag["generation"] = before.get("generation", 1)
        if document["spec"] != old.get("spec"):
            metadata["generation"] = metadata.get("generation", 0) + 1
            for tag in changed:
                tag["generation"] = metadata["generation"]
            await self._resolve(context, document, changed)

    @override
    def check_name(self, name: str) -> Iterable[Cause]:
        if not is_component(name):
            detail = (
                "must be lower-case letters and digits, with single separators (., _, __ or "
                "dashes) between them"
            )
            yield errors.invalid("metadata.name", name, detail)

    def check_place(self, namespace: str, name: str) -> Iterable[Cause]:
        """Return what is wrong with a stream's being there, whatever is in it."""
        yield from self.check_name(name)
        yield from _check_length(namespace, name)

    @override
    async def check(
        self, context: Context, document: Object, old: Object | None
    ) -> Iterable[Cause]:
        return await aside.run(aside.weigh(document), lambda: errors.first(_check(document)))

    @override
    async def before_removal(self, context: Context, document: Object) -> None:
        metadata = document["metadata"]
        gone = [named["tag"] for named in tags.status_tags(document)]
        await self._content.untag(metadata["namespace"], metadata["name"], gone)

    @override
    async def get_part(self, context: Context, name: str, subresource: str) -> Object:
        stream = await self.get(context, name)
        if subresource == "layers":
            return await layers.layers_of(stream, self.images)
        return stream

    @override
    def row(self, document: Object, now: datetime) -> list[Any]:
        status = document.get("status", {})
        return [
            document["metadata"]["name"],
            status.get("publicDockerImageRepository")
            or document.get("spec", {}).get("dockerImageRepository")
            or status.get("dockerImageRepository", ""),
            printers.tags_text(document),
            printers.updated_text(document, now),
        ]

    async def edit(
        self, context: Context, name: str, edit: Edit, *, create: bool = False
    ) -> Object | None:
        """Change a stream on the server's own account, as often as it takes to come through.

        Whoever changes the same stream in this process at the same time does so in one write.

        Returns:
            The stream; None when there is none and none was to be made.
        """
        return await self._queues.put(name, StreamEdit(context, edit, create=create))

    async def replace_spec(self, context: Context, stored: Stored, document: Object) -> Object:
        """Write a stream whose spec was changed on behalf of a client.

        Raises:
            Changed: Somebody else was faster.
            Invalid: It breaks the rules.
            RequestEntityTooLarge: No client could put it back.
        """
        old, now = stored.object(), context.surroundings.timestamp()
        self.default(document)
        size, note = aside.weigh(document), managed_fields.note_update
        who = creator(context)
        fields = await aside.run(size, note, self.schema, old, document, who, now)
        _put_managed_fields(document, fields)
        await self.prepare_update(context, document, old, "")
        require_size(document, old)
        causes = list(await self.check(context, document, old))
        if causes:
            raise self.invalid(document["metadata"]["name"], causes)
        if document == old or context.dry_run:
            return document
        return await self._write(context, stored, document)

    def empty(self, context: Context, name: str) -> Object:
        """Return a stream without tags."""
        return {
            "kind": self.kind,
            "apiVersion": self.group.api_version,
            "metadata": {"name": name, "namespace": context.namespace},
        }

    async def _make_edits(self, name: str, edits: Sequence[StreamEdit]) -> None:
        """Make edits of one stream, together if that goes well."""
        real = [edit for edit in edits if not edit.context.dry_run]
        trials = [edit for edit in edits if edit.context.dry_run]
        try:
            await self._make_together(name, real)
        except StatusError:
            # One may have spoilt it for all.
            for edit in real:
                await self._make_alone(name, edit)
        for edit in trials:
            await self._make_alone(name, edit)

    async def _make_alone(self, name: str, edit: StreamEdit) -> None:
        try:
            await self._make_together(name, [edit])
        except StatusError as error:
            edit.fail(error)

    async def _make_together(self, name: str, edits: Sequence[StreamEdit]) -> None:
        async for _ in Attempts():
            left = [edit for edit in edits if not edit.is_over]
            if not left:
                return
            try:
                await self._make_once(name, left)
            except (Changed, Missing, AlreadyExists):
                continue
        for edit in edits:
            edit.fail(self.modified(edit.context, name))

    async def _make_once(self, name: str, edits: Sequence[StreamEdit]) -> None:
        stored = await self.find(edits[0].context, name)
        while stored is None and edits and not edits[0].create:
            edits[0].succeed(None)
            edits = edits[1:]
        if not edits:
            return
        context = edits[0].context
        document = self._begun(context, name) if stored is None else stored.object()
        is_changed, wanted = False, len(tags.spec_tags(document))
        for edit in edits:
            is_changed |= await edit.make(document)
        if stored is not None and len(tags.spec_tags(document)) < wanted:
            # Nobody owns what is gone, or whoever applies it next is told of a conflict.
            old, size = stored.object(), len(stored.body)
            fields = await aside.run(size, managed_fields.forget, self.schema, old, document)
            _put_managed_fields(document, fields)
        if stored is None:
            document = await self._create_edited(context, document)
        elif is_changed:
            tags.tidy(document)
            # What the server writes itself is sound, and there may be thousands of tags.
            if not context.dry_run:
                document = await self._write(context, stored, document)
        for edit in edits:
            edit.succeed(document)

    def _begun(self, context: Context, name: str) -> Object:
        document = self.empty(context, name)
        self.default(document)
        document["status"] = {}
        return document

    async def _create_edited(self, context: Context, document: Object) -> Object:
        """Make a stream together with its first tag, which clients cannot."""
        name = document["metadata"]["name"]
        tags.tidy(document)
        document["metadata"] |= {
            "uid": context.surroundings.make_uid(),
            "creationTimestamp": context.surroundings.timestamp(),
            "generation": 1,
        }
        causes = [*self.check_name(name), *errors.first(_check(document))]
        if causes:
            raise self.invalid(name, causes)
        if context.dry_run:
            async with context.reserve(context, self.name, name):
                return document
        return await self.create_raw(context, name, document)

    async def _resolve(self, context: Context, stream: Object, changed: list[Object]) -> None:
        resolver = resolution.Resolver(self, context, stream)
        causes: list[Cause] = []
        for tag in changed:
            causes += await resolver.resolve(tag)
        if causes:
            raise self.invalid(stream["metadata"]["name"], causes)
        tags.tidy(stream)


def creator(context: Context) -> Manager:
    """Return who makes a stream on behalf of a client that makes something else."""
    return Manager(context.manager, "Update", "image.alauda.io/v1")


def _repository(registry: str, stream: Object) -> str:
    metadata = stream["metadata"]
    return f"{registry}/{metadata.get('namespace', '')}/{metadata['name']}"


def _put_managed_fields(document: Object, fields: list[Object]) -> None:
    document["metadata"]["managedFields"] = fields
    meta.drop_empty(document["metadata"])


def default_tag(tag: Object) -> None:
    """Fill in what a tag does not say, or says nothing with: Go always sends an empty policy."""
    policy, refers = objects.child(tag, "importPolicy"), objects.child(tag, "referencePolicy")
    policy["importMode"] = policy.get("importMode") or "PreserveOriginal"
    refers["type"] = refers.get("type") or "Source"
    if not tag.get("annotations"):
        tag.pop("annotations", None)
    for where in (tag, policy):
        for name in ("reference", "insecure", "scheduled"):
            if where.get(name) is False:
                del where[name]


def _fill_generations(document: Object, old: Object) -> None:
    """Give events that were written without a generation that of what led to them."""
    generation = document["metadata"].get("generation", 1)
    # There may be thousands of either.
    wanted, events = {tag.get("name"): tag for tag in tags.spec_tags(document)}, TagEvents(old)
    for named in tags.status_tags(document):
        spec = wanted.get(named.get("tag", ""))
        before = events.newest(named.get("tag", ""))
        for index, event in enumerate(named.get("items") or []):
            if event.get("generation"):
                continue
            is_news = index == 0 and (before or {}).get("image") != event.get("image")
            event["generation"] = spec.get("generation") if spec and is_news else generation


def _check_length(namespace: str, name: str) -> Iterable[Cause]:
    if len(namespace) + 1 + len(name) > LONGEST_NAME:
        detail = f"'namespace/name' cannot be longer than {LONGEST_NAME} characters"
        yield errors.invalid("metadata.name", name, detail)


def _check(stream: Object) -> Iterable[Cause]:
    metadata, spec = stream["metadata"], stream.get("spec", {})
    yield from _check_length(metadata.get("namespace", ""), metadata["name"])
    repository = spec.get("dockerImageRepository")
    if repository:
        found = PullSpec.parse(repository)
        if found is None or found.tag or found.digest:
            detail = "must be a repository without tag and digest"
            yield errors.invalid("spec.dockerImageRepository", repository, detail)
    for index, tag in enumerate(tags.spec_tags(stream)):
        yield from check_tag(tag, f"spec.tags[{index}]")
    for index, named in enumerate(tags.status_tags(stream)):
        if not named.get("tag"):
            yield errors.required(f"status.tags[{index}].tag")
        for place, event in enumerate(named.get("items") or []):
            reference = event.get("dockerImageReference", "")
            where = f"status.tags[{index}].items[{place}].dockerImageReference"
            if not reference:
                yield errors.required(where)
            elif PullSpec.parse(reference) is None:
                yield errors.invalid(where, reference, "is no pull spec")


def check_tag(tag: Object, where: str) -> Iterable[Cause]:
    """Yield what is wrong with what a tag should be.

    Args:
        tag: The TagReference.
        where: The path of the field it is in.
    """
    if not tag.get("name"):
        yield errors.required(f"{where}.name")
    source = tag.get("from")
    kind = (source or {}).get("kind", "")
    if source is not None:
        if not source.get("name"):
            yield errors.required(f"{where}.from.name")
        elif kind == "DockerImage" and PullSpec.parse(source["name"]) is None:
            yield errors.invalid(f"{where}.from.name", source["name"], "is no pull spec")
        if kind not in _KINDS:
            detail = f"valid values are {', '.join(_KINDS)}"
            yield errors.required(f"{where}.from.kind", detail)
    policy = tag.get("importPolicy", {})
    if policy.get("scheduled") and kind in _KINDS[1:]:
        detail = "only tags pointing to container images may be scheduled for background import"
        yield errors.invalid(f"{where}.importPolicy.scheduled", True, detail)
    if policy.get("importMode") not in (None, "", *_MODES):
        mode = policy["importMode"]
        yield errors.not_supported(f"{where}.importPolicy.importMode", mode, _MODES)
    reference = tag.get("referencePolicy", {}).get("type")
    if reference not in (None, *_POLICIES):
        yield errors.not_supported(f"{where}.referencePolicy.type", reference, _POLICIES)
