"""Resources whose objects are kept in the store: the verbs, once for all kinds.

A kind says what it defaults, checks and computes by overriding the hooks; the order of the steps,
the preconditions, the retries and the finalizers are here (facts/apiserver.md 2.8, 2.9 and 2.11).
"""

import asyncio
import contextlib
import random
from collections.abc import Iterable, Mapping
from typing import ClassVar

from typing_extensions import override

from alauda_imageapi.machinery import aside, errors, managed_fields, metadata as meta, objects
from alauda_imageapi.machinery.errors import (
    AlreadyExists,
    BadRequest,
    Cause,
    RequestEntityTooLarge,
)
from alauda_imageapi.machinery.managed_fields import Manager
from alauda_imageapi.machinery.objects import Object
from alauda_imageapi.machinery.resources import (
    Change,
    Context,
    DeleteOptions,
    Deletion,
    Entry,
    Group,
    Listing,
    Outcome,
    Part,
    Resource,
)
from alauda_imageapi.machinery.selectors import Fields
from alauda_imageapi.machinery.store import (
    Changed,
    Exists,
    Key,
    Missing,
    NamespaceGone,
    ObjectStore,
    ObjectTooLarge,
    Stored,
    TooNew,
)

_GENERATED_ATTEMPTS = 8
_RETRY_SECONDS = 30.0
_LARGEST = objects.LARGEST - 4096
"""Bytes of an object; the rest is for what is only there when it is read."""


class StoredResource(Resource):
    """Objects that are kept in the store."""

    unconditional: ClassVar[bool] = False
    """Whether a whole object may be put without saying which revision it replaces."""

    def __init__(self, group: Group, store: ObjectStore, *, collects_garbage: bool = False) -> None:
        """Make the resource.

        Args:
            group: What it belongs to.
            store: Keeps its objects.
            collects_garbage: Whether anybody acts on owner references. Without, nobody would
                ever remove the finalizers that deletion policies are made of.
        """
        super().__init__(group)
        self.store = store
        self._collects_garbage = collects_garbage

    def default(self, document: Object) -> None:
        """Fill in what is not given, or given as nothing, before it is noted who has set what."""

    async def prepare_create(self, context: Context, document: Object) -> None:
        """Compute what clients have no say in."""

    async def prepare_update(
        self, context: Context, document: Object, old: Object, subresource: str
    ) -> None:
        """Likewise, when there was an object before. Counts the generation of what is wanted."""

    async def check(
        self, context: Context, document: Object, old: Object | None
    ) -> Iterable[Cause]:
        """Return what breaks the rules of the kind."""
        del context, document, old
        return ()

    def check_name(self, name: str) -> Iterable[Cause]:
        """Return what is wrong with a name."""
        if not meta.is_path_segment(name):
            yield errors.invalid(
                "metadata.name", name, "may not be '.' or '..', or have '/' or '%'"
            )

    def decorate(self, document: Object) -> Object:
        """Add what is computed whenever an object is read."""
        return document

    def undecorate(self, document: Object) -> None:
        """Take that away again from what a client has sent."""

    is_decorated: ClassVar[bool] = False
    """Whether `decorate` does anything, so that what is stored cannot be sent as it is."""

    def extra_fields(self, document: Object) -> Mapping[str, str]:
        """Return what field selectors can select by besides name and namespace."""
        del document
        return {}

    async def before_removal(self, context: Context, document: Object) -> None:
        """Do what must have been done before an object is gone."""

    @override
    async def get(self, context: Context, name: str) -> Object:
        """Return an object."""
        return self.decorate((await self.require(context, name)).object())

    @override
    async def listing(self, context: Context, revision: int | None) -> Listing:
        """Return all objects, as they are now or were at a revision."""
        snapshot = await self.store.snapshot(self.name, revision, namespace=context.namespace)
        entries = (self.entry(item) for item in snapshot.items)
        return Listing(snapshot.revision, entries, is_as_pages=False)

    @override
    async def part(
        self, context: Context, limit: int, revision: int | None, token: str, name: str
    ) -> Part:
        """Return some objects, or the one of a name."""
        page = await self.store.page(
            self.name,
            limit=limit,
            namespace=context.namespace,
            name=name,
            revision=revision,
            token=token,
        )
        entries = [self.entry(item) for item in page.items]
        return Part(page.revision, entries, page.token, page.left)

    @override
    async def reach(self, revision: int) -> None:
        """Wait a little for a revision."""
        try:
            await self.store.reach(self.name, revision)
        except TooNew as error:
            raise errors.too_large_revision(error.asked, error.current) from None

    @override
    async def create(self, context: Context, document: Object, manager: Manager) -> Object:
        """Make an object."""
        metadata = document["metadata"]
        if metadata.get("resourceVersion"):
            raise BadRequest("resourceVersion should not be set on objects to be created")
        generated = not metadata.get("name") and metadata.get("generateName")
        if not generated:
            copied = await aside.run(aside.weigh(document), objects.copy, document)
            return await self._create(context, copied, manager)
        name = ""
        for _ in range(_GENERATED_ATTEMPTS):
            copied = await aside.run(aside.weigh(document), objects.copy, document)
            name = meta.generate_name(generated, context.surroundings.make_suffix())
            copied["metadata"]["name"] = name
            with contextlib.suppress(AlreadyExists):
                return await self._create(context, copied, manager)
        error = self.already_exists(context, name)
        error.details["retryAfterSeconds"] = 1
        raise error

    @override
    async def update(
        self, context: Context, name: str, change: Change, subresource: str = ""
    ) -> Outcome:
        """Change an object, or a part of it; tries again when somebody else was faster."""
        async for _ in Attempts():
            stored = await self.find(context, name)
            if stored is None:
                if not change.creates or subresource:
                    raise self.not_found(context, name)
                await self.require_create(context, name)
                document = await change(None)
                self.require_no_uid(context, name, document["metadata"])
                document["metadata"]["name"] = name
                try:
                    return Outcome(await self.create(context, document, change.manager), True)
                except AlreadyExists:
                    continue
            old = stored.object()
            new = await self._changed(context, name, old, change, subresource)
            if new == old or context.dry_run:
                return Outcome(self.decorate(new))
            try:
                return Outcome(self.decorate(await self._replace(context, stored, new)))
            except (Changed, Missing):
                continue
        raise self.modified(context, name)

    @override
    async def delete(self, context: Context, name: str, options: DeleteOptions) -> Deletion:
        """Delete an object, or let its finalizers know that it is to be deleted."""
        async for _ in Attempts():
            stored = await self.require(context, name)
            document = stored.object()
            self.check_preconditions(context, name, document["metadata"], options)
            uid = document["metadata"].get("uid", "")
            waiting = self._wait_for_finalizers(context, document, options)
            if waiting == stored.object():
                return Deletion(document=self.decorate(waiting))
            if context.dry_run:
                return Deletion(uid, waiting and self.decorate(waiting))
            try:
                if waiting is None:
                    await self.before_removal(context, document)
                    await self.store.delete(stored.key, expected=stored.revision)
                    return Deletion(uid)
                written = await self._write(context, stored, waiting)
                return Deletion(document=self.decorate(written))
            except (Changed, Missing):
                continue
        raise self.modified(context, name)

    def key(self, context: Context, name: str) -> Key:
        """Return where an object is."""
        return Key(self.name, context.namespace if self.namespaced else "", name)

    async def find(self, context: Context, name: str) -> Stored | None:
        """Return what is stored of an object."""
        return await self.store.get(self.key(context, name), recent=context.recent)

    async def require(self, context: Context, name: str) -> Stored:
        """Return what is stored of an object.

        Raises:
            NotFound: There is none.
        """
        stored = await self.find(context, name)
        if stored is None:
            raise self.not_found(context, name)
        return stored

    def entry(self, stored: Stored) -> Entry:
        """Return an object as lists have it."""
        key = stored.key

        def fields() -> Mapping[str, str]:
            named = {"metadata.name": key.name, "metadata.namespace": key.namespace}
            return Fields(named, lambda: self.extra_fields(stored.object()))

        return Entry(
            lambda: self.store.order(key),
            lambda: stored.labels,
            fields,
            lambda: self.decorate(stored.object()),
            None if self.is_decorated else lambda: stored.body,
        )

    async def _create(self, context: Context, document: Object, manager: Manager) -> Object:
        metadata = document["metadata"]
        name = metadata.get("name", "")
        if not name:
            cause = errors.required("metadata.name", "name or generateName is required")
            raise self.invalid("", [cause])
        # Also what is made by applying, or on the way to something else.
        await context.admit(context, name)
        for field in ("deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"):
            metadata.pop(field, None)
        metadata["uid"] = context.surroundings.make_uid()
        metadata["creationTimestamp"] = now = context.surroundings.timestamp()
        metadata["generation"] = 1
        if self.namespaced:
            metadata["namespace"] = context.namespace
        size, who = aside.weigh(document), None if manager.operation == "Apply" else manager
        document = await aside.run(size, self._noted, None, document, "", who, now)
        metadata = document["metadata"]
        # Before it is gone through once more, as it can only grow.
        require_size(document)
        await self.prepare_create(context, document)
        meta.drop_empty(metadata)
        context.warnings.extend(meta.warn_of(metadata))
        size = require_size(document)
        causes = [*self.check_name(name), *await aside.run(size, meta.check_metadata, metadata)]
        causes += await self.check(context, document, None)
        if causes:
            raise self.invalid(name, causes)
        if context.dry_run:
            async with context.reserve(context, self.name, name):
                if await self.find(context, name) is not None:
                    raise self.already_exists(context, name)
            return self.decorate(document)
        return self.decorate(await self.create_raw(context, name, document))

    async def create_raw(self, context: Context, name: str, document: Object) -> Object:
        """Keep an object that is prepared and checked.

        Raises:
            AlreadyExists: There is one of its name.
            NotFound: There is no such namespace.
            Forbidden: The namespace is ending, or has no room for another one.
        """
        async with context.reserve(context, self.name, name):
            return await self._keep(context, name, document)

    async def _keep(self, context: Context, name: str, document: Object) -> Object:
        try:
            stored = await self.store.create(self.key(context, name), document)
        except Exists:
            raise self.already_exists(context, name) from None
        except ObjectTooLarge as error:
            raise too_large(error) from error
        except NamespaceGone as error:
            where = error.namespace
            if not error.is_ending:
                raise errors.namespace_not_found(where) from error
            raise errors.namespace_ending(self.group.name, self.name, name, where) from error
        return stored.object()

    async def _changed(
        self, context: Context, name: str, old: Object, change: Change, subresource: str
    ) -> Object:
        """Return what an object is to become.

        Raises:
            StatusError: It must not.
        """
        before = old["metadata"]
        weight = aside.weigh(old)
        copied = await aside.run(weight, objects.copy, old)
        new = await change(self.decorate(copied))
        metadata = new["metadata"]
        self._check_identity(context, name, metadata, before, change)
        meta.keep_server_fields(metadata, before)
        metadata["resourceVersion"] = before["resourceVersion"]
        metadata.setdefault("name", before["name"])
        if self.namespaced:
            metadata.setdefault("namespace", before["namespace"])
        size = max(weight, aside.weigh(new))
        now = context.surroundings.timestamp()
        manager = None if change.manages else change.manager
        new = await aside.run(size, self._noted, old, new, subresource, manager, now)
        metadata = new["metadata"]
        if weight <= _LARGEST:
            # Before it is gone through once more, as it can only grow.
            require_size(new)
        await self.prepare_update(context, new, old, subresource)
        meta.drop_empty(metadata)
        size = require_size(new, old)
        causes = await aside.run(size, meta.check_metadata, metadata)
        causes += meta.check_metadata_update(metadata, before)
        causes += await self.check(context, new, old)
        if causes:
            raise self.invalid(name, causes)
        return new

    def _noted(
        self, old: Object | None, new: Object, subresource: str, manager: Manager | None, now: str
    ) -> Object:
        """Return what is to become of an object, with who has set what in it.

        Args:
            old: The object before; None when it is new.
            new: What a client wants of it.
            subresource: What it is done by.
            manager: Who does it; None when it was noted already.
            now: When.
        """
        new = self.only_part(new, old or {}, subresource)
        self.undecorate(new)
        self.default(new)
        if old is not None and aside.weigh(old) > _LARGEST and manager is not None:
            _keep_owners(new["metadata"], old["metadata"])
        meta.drop_empty(new["metadata"])
        # Before each field is gone through, of which defaults make many.
        require_size(new, old)
        if manager is not None:
            fields = managed_fields.note_update(self.schema, old, new, manager, now)
            new["metadata"]["managedFields"] = fields
        return new

    def only_part(self, new: Object, old: Object, subresource: str) -> Object:
        """Return the new object with what this way of changing it does not change put back."""
        if "status" not in self.schema.properties:
            return new
        if subresource != "status":
            return _restored(new, old, ("status",))
        part = _restored(new, old, ("spec",))
        # Whoever may only report must not release or hand over what is reported on.
        before = old.get("metadata", {})
        part["metadata"] = _restored(part["metadata"], before, meta.OF_CLIENTS)
        return part

    def _check_identity(
        self, context: Context, name: str, metadata: Object, before: Object, change: Change
    ) -> None:
        if change.replaces and metadata.get("name") != name:
            raise BadRequest(
                f"the name of the object ({str(metadata.get('name', ''))[:64]}) does not match the "
                f"name on the URL ({name})"
            )
        revision = metadata.get("resourceVersion")
        if not revision and change.replaces and not self.unconditional:
            detail = "must be specified for an update"
            cause = errors.invalid("metadata.resourceVersion", 0, detail)
            raise self.invalid(name, [cause])
        if revision and revision != before["resourceVersion"]:
            if not revision.isdecimal():
                raise self.invalid(
                    name, [errors.invalid("metadata.resourceVersion", revision, "not a revision")]
                )
            raise self.modified(context, name)
        if metadata.get("uid") and metadata["uid"] != before["uid"]:
            raise self.conflict(
                context,
                name,
                f"Precondition failed: UID in precondition: {metadata['uid'][:64]}, "
                f"UID in object meta: {before['uid']}",
            )

    async def _replace(self, context: Context, stored: Stored, new: Object) -> Object:
        metadata = new["metadata"]
        if metadata.get("deletionTimestamp") and not metadata.get("finalizers"):
            await self.before_removal(context, new)
            return (await self.store.delete(stored.key, expected=stored.revision)).object()
        return await self._write(context, stored, new)

    async def _write(self, context: Context, stored: Stored, new: Object) -> Object:
        del context
        try:
            written = await self.store.update(stored.key, new, expected=stored.revision)
        except ObjectTooLarge as error:
            raise too_large(error) from error
        return written.object()

    def _wait_for_finalizers(
        self, context: Context, document: Object, options: DeleteOptions
    ) -> Object | None:
        """Return the object as it waits for its finalizers; None when it has none."""
        metadata = dict(document["metadata"])
        finalizers = list(metadata.get("finalizers") or [])
        if self._collects_garbage and options.policy:
            finalizers = [name for name in finalizers if name not in (meta.FOREGROUND, meta.ORPHAN)]
            wanted = {"Foreground": meta.FOREGROUND, "Orphan": meta.ORPHAN}.get(options.policy)
            if wanted:
                finalizers.append(wanted)
        if not finalizers:
            return None
        if "deletionTimestamp" not in metadata:
            metadata["deletionTimestamp"] = context.surroundings.timestamp()
            metadata["deletionGracePeriodSeconds"] = 0
            metadata["generation"] = metadata.get("generation", 0) + 1
        metadata["finalizers"] = finalizers
        return {**document, "metadata": metadata}


def _restored(new: Object, old: Object, names: Iterable[str]) -> Object:
    """Return an object with some of its fields as they were."""
    kept = {name: value for name, value in new.items() if name not in names}
    return kept | {name: objects.copy(old[name]) for name in names if name in old}


def _keep_owners(metadata: Object, before: Object) -> None:
    """Put back who owned what if a client sends more of it."""
    known = before.get("managedFields") or []
    if aside.weigh(metadata.get("managedFields")) > aside.weigh(known):
        metadata["managedFields"] = objects.copy(known)


def require_size(new: Object, old: Object | None = None) -> int:
    """Return how many bytes an object has, with all that clients did not send.

    Raises:
        RequestEntityTooLarge: It is larger than what clients could put back. That the server
            itself has made larger, push by push, may be changed: what clients have said may be as
            large as ever, and the rest must not grow.
    """
    size = aside.weigh(new)
    if size > _LARGEST and _grows(new, old or {}):
        raise RequestEntityTooLarge(
            f"Request entity too large: the object would have {size} bytes with what the "
            f"server adds to it, limit is {_LARGEST}"
        )
    return size


def _grows(new: Object, old: Object) -> bool:
    """Tell whether an object is too large because of a change."""
    if aside.weigh(old) <= _LARGEST:
        return True
    content, owners, status = _weigh_parts(new)
    content_before, owners_before, status_before = _weigh_parts(old)
    return (
        content > max(_LARGEST, content_before)
        # Who changes anything becomes one of them.
        or owners > max(_LARGEST, owners_before)
        or status > status_before
    )


def _weigh_parts(document: Object) -> tuple[int, int, int]:
    """Return how many bytes clients have said, who has set what in it has, and the status has."""
    metadata = {**document.get("metadata", {})}
    owners, status = metadata.pop("managedFields", []), document.get("status", {})
    content = {**document, "metadata": metadata, "status": {}}
    return aside.weigh(content), aside.weigh(owners), aside.weigh(status)


class Attempts:
    """As many tries as are worth it, with pauses between them that grow; for ``async for``.

    Args:
        seconds: After which the last one was begun.
    """

    def __init__(self, seconds: float = _RETRY_SECONDS) -> None:
        self._end = asyncio.get_running_loop().time() + seconds
        self._count = 0

    def __aiter__(self) -> "Attempts":
        return self

    async def __anext__(self) -> int:
        """Wait until it is time to try again."""
        if self._count:
            if asyncio.get_running_loop().time() > self._end:
                raise StopAsyncIteration
            # Jitter, so that those who collided do not collide again.
            longest = min(0.005 * 2 ** min(self._count, 10), 0.5)
            await asyncio.sleep(random.uniform(0, longest))  # noqa: S311 -- no secret
        self._count += 1
        return self._count


def too_large(error: ObjectTooLarge) -> RequestEntityTooLarge:
    """Say that an object is larger than the store takes."""
    return RequestEntityTooLarge(f"the object is too large to be stored: {error}")
