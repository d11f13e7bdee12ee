"""What ImageStreamTag and ImageTag have in common: they are views of a stream.

Nothing of theirs is stored. Their revision and identity are the stream's; a list is one over
streams, and goes on within one (facts/image-api.md 2.6 and 2.7). A page of it takes from the store
where it has to begin, and reads as many streams as have the tags that are wanted.
"""

import contextlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TypeAlias

from typing_extensions import override

from alauda_imageapi.kinds import tags
from alauda_imageapi.kinds.content import Content, NoContent
from alauda_imageapi.kinds.imagestreams import ImageStreams, creator, default_tag
from alauda_imageapi.machinery.errors import AlreadyExists, BadRequest
from alauda_imageapi.machinery.objects import Object
from alauda_imageapi.machinery.resources import (
    Change,
    Context,
    DeleteOptions,
    Deletion,
    Entry,
    Group,
    Listing,
    Part,
    Resource,
)
from alauda_imageapi.machinery.store import Changed, Key, Missing, Stored, TokenInvalid
from alauda_imageapi.machinery.stored import Attempts

Prepare: TypeAlias = Callable[[Object], Awaitable[None]]

_STREAMS = 100
"""Streams that are asked for at once; those with the tags of a page are read."""

_DIGITS = 6


class TagView(Resource):
    """Tags, as views of their streams.

    Args:
        group: The group.
        streams: The streams.
        content: Keeps what tags point to.
    """

    position_length = 3

    def __init__(self, group: Group, streams: ImageStreams, content: Content | None = None) -> None:
        super().__init__(group)
        self.streams = streams
        self._content = content or NoContent()

    def tags_of(self, stream: Object) -> Iterable[str]:
        """Return the tags of a stream that are listed."""
        raise NotImplementedError

    def list_item(self, stream: Object, tag: str) -> Object:
        """Return a tag as lists show it."""
        raise NotImplementedError

    @override
    async def listing(self, context: Context, revision: int | None) -> Listing:
        store, name = self.streams.store, self.streams.name
        snapshot = await store.snapshot(name, revision, namespace=context.namespace)
        entries = (entry for stored in snapshot.items for entry in self._entries(stored))
        return Listing(snapshot.revision, entries, is_as_pages=False)

    @override
    async def part(
        self, context: Context, limit: int, revision: int | None, token: str, name: str
    ) -> Part:
        """Return the tags of some streams, a few more than the limit if the last one has more."""
        store, (seen, begin) = self.streams.store, _split_token(token)
        stream_name = name.partition(":")[0] or name
        found: list[Entry] = []
        while True:
            page = await store.page(
                self.streams.name,
                limit=_STREAMS,
                namespace=context.namespace,
                name=stream_name,
                revision=revision,
                token=begin,
            )
            revision = page.revision
            for index in range(seen, len(page.items)):
                found += self._entries(page.items[index])
                is_last = index + 1 == len(page.items)
                if len(found) >= limit and not is_last:
                    return Part(revision, found, f"{index + 1}:{begin}", None)
            seen, begin = max(0, seen - len(page.items)), page.token
            if not begin or len(found) >= limit:
                return Part(revision, found, f"{seen}:{begin}" if begin else "", None)

    @override
    async def reach(self, revision: int) -> None:
        await self.streams.reach(revision)

    @override
    async def delete(self, context: Context, name: str, options: DeleteOptions) -> Deletion:
        stream_name, tag = self.split(name)
        stream = await self.require_stream(context, stream_name)
        self.check_preconditions(context, name, stream["metadata"], options)
        if tags.spec_tag(stream, tag) is None and tags.status_tag(stream, tag) is None:
            raise self.not_found(context, name)
        if not context.dry_run:
            # First what the tag leads to: cut short, it is still seen, and can be deleted again.
            await self._content.untag(context.namespace, stream_name, [tag])

        async def take_away(document: Object) -> bool:
            # It may be another stream of the same name by now.
            self.check_preconditions(context, name, document["metadata"], options)
            if await self._content.has_tag(context.namespace, stream_name, tag):
                # Somebody has pushed it since, and was told that it is there.
                return False
            spec_before = tags.spec_tag(document, tag)
            gone = tags.remove(document, {tag})
            if gone and spec_before is not None:
                metadata = document["metadata"]
                metadata["generation"] = metadata.get("generation", 0) + 1
            return gone

        await self.streams.edit(context, stream_name, take_away)
        return Deletion(stream["metadata"].get("uid", ""))

    async def write(self, context: Context, stream_name: str, prepare: Prepare) -> Object:
        """Change the spec of a stream on behalf of a client, or make the stream.

        Args:
            context: Of the request.
            stream_name: Of the stream.
            prepare: Changes the stream's document, or raises what is wrong with that; it is
                called again when somebody else was faster.
        """
        async for _ in Attempts():
            stored = await self.streams.find(context, stream_name)
            if stored is None:
                stream = self.streams.empty(context, stream_name)
                await prepare(stream)
                with contextlib.suppress(AlreadyExists):
                    return await self.streams.create(context, stream, creator(context))
                continue
            stream = stored.object()
            await prepare(stream)
            try:
                return await self.streams.replace_spec(context, stored, stream)
            except (Changed, Missing):
                continue
        raise self.modified(context, stream_name)

    def split(self, name: str) -> tuple[str, str]:
        """Return stream and tag that a name is made of.

        Raises:
            BadRequest: It is not.
        """
        stream, _, tag = name.partition(":")
        if not stream or not tag or ":" in tag or "@" in name:
            raise BadRequest(f"{self.singular} must be of the form <stream_name>:<tag>")
        return stream, tag

    async def require_stream(self, context: Context, name: str) -> Object:
        """Return a stream.

        Raises:
            NotFound: There is none; the error is about what was asked for.
        """
        stored = await self.streams.find(context, name)
        if stored is None:
            raise self.not_found(context, name)
        return stored.object()

    async def find_image(self, context: Context, name: str) -> Object | None:
        """Return the Image of a tag."""
        stored = await self.streams.images.find_named(context, name)
        return stored.object() if stored else None

    def check_revision(
        self, context: Context, name: str, stream: Object, new: Object, change: Change
    ) -> None:
        """Check that a client changes what it has seen.

        Raises:
            BadRequest: It is another tag.
            Conflict: The stream has changed since.
            NotFound: The stream is gone.
        """
        metadata, now = new["metadata"], stream["metadata"]
        if change.replaces and metadata.get("name") != name:
            raise BadRequest(
                f"the name of the object ({str(metadata.get('name', ''))[:64]}) does not match the "
                f"name on the URL ({name})"
            )
        if metadata.get("name", name) != name:
            raise BadRequest("the name of an object cannot be changed")
        revision = metadata.get("resourceVersion")
        if revision and "resourceVersion" not in now:
            raise self.not_found(context, self.split(name)[0])
        if revision and revision != now["resourceVersion"]:
            raise self.modified(context, name)
        if "uid" not in now:
            self.require_no_uid(context, name, metadata)
        if metadata.get("uid") and metadata["uid"] != now.get("uid"):
            raise self.conflict(context, name, "Precondition failed: UID")

    async def require_room(self, context: Context, name: str, stream: Object, tag: str) -> None:
        """Let a client make a tag by an update, if neither half of it is there.

        Raises:
            Forbidden: It must not make any, or the namespace is ending.
            NotFound: There is no such namespace.
        """
        if tags.spec_tag(stream, tag) is None and tags.status_tag(stream, tag) is None:
            await self.require_create(context, name)
            await context.admit(context, name)

    def stream_metadata(self, stream: Object, tag: str) -> Object:
        """Return the metadata of a tag: what it shares with its stream."""
        metadata = stream["metadata"]
        shared = ("namespace", "uid", "resourceVersion", "creationTimestamp", "labels")
        return {
            "name": f"{metadata['name']}:{tag}",
            **{name: metadata[name] for name in shared if name in metadata},
        }

    def pull_spec(self, stream: Object, spec: Object | None, event: Object) -> str:
        """Return where the image of a tag is pulled from, by its reference policy."""
        local = (spec or {}).get("referencePolicy", {}).get("type") == "Local"
        repository = self.streams.repository(stream)
        if local and repository and event.get("image"):
            return f"{repository}@{event['image']}"
        return str(event.get("dockerImageReference", ""))

    def put_spec_tag(self, stream: Object, wanted: Object) -> None:
        """Put what a tag should be into its stream."""
        default_tag(wanted)
        spec = stream.setdefault("spec", {})
        others = [tag for tag in tags.spec_tags(stream) if tag.get("name") != wanted["name"]]
        spec["tags"] = [*others, wanted]

    def _entries(self, stored: Stored) -> Iterator[Entry]:
        """Yield the tags of a stream."""
        key, stream = stored.key, stored.object()
        spec = {tag["name"]: tag for tag in tags.spec_tags(stream)}
        status = {named["tag"]: named for named in tags.status_tags(stream)}
        for tag in sorted(self.tags_of(stream)):
            yield Entry(
                partial(self._position, key, tag),
                partial(getattr, stored, "labels"),
                partial(_fields, key, tag),
                partial(self._load, stream, spec.get(tag), status.get(tag), tag),
            )

    def _position(self, key: Key, tag: str) -> tuple[str, ...]:
        return *self.streams.store.order(key), tag

    def _load(self, stream: Object, spec: Object | None, named: Object | None, tag: str) -> Object:
        """Return a tag of a stream that has thousands, without looking through them."""
        only = {
            **stream,
            "spec": {**stream.get("spec", {}), "tags": [spec] if spec else []},
            "status": {**stream.get("status", {}), "tags": [named] if named else []},
        }
        return self.list_item(only, tag)


def _split_token(token: str) -> tuple[int, str]:
    """Return how many streams of a page were seen, and the store's token of that page.

    Raises:
        TokenInvalid: It is none of ours.
    """
    if not token:
        return 0, ""
    seen, colon, begin = token.partition(":")
    if not (colon and seen.isascii() and seen.isdecimal() and len(seen) <= _DIGITS):
        raise TokenInvalid
    return int(seen), begin


def _fields(key: Key, tag: str) -> Mapping[str, str]:
    return {"metadata.name": f"{key.name}:{tag}", "metadata.namespace": key.namespace}
