"""The verbs that change something: what clients send, turned into what resources are asked for."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from starlette.requests import Request

from alauda_imageapi.machinery import aside, bodies, lists, patches
from alauda_imageapi.machinery.changes import (
    Apply,
    Decoder,
    Patch,
    Replacement,
    check_applied,
    decode_body,
)
from alauda_imageapi.machinery.errors import BadRequest, NotFound
from alauda_imageapi.machinery.managed_fields import Manager
from alauda_imageapi.machinery.objects import Object
from alauda_imageapi.machinery.openapi import PATCH_TYPES
from alauda_imageapi.machinery.options import ListOptions, WriteOptions, parse_delete
from alauda_imageapi.machinery.resources import (
    Change,
    Context,
    Deletion,
    Entry,
    Group,
    Resource,
)
from alauda_imageapi.machinery.stored import StoredResource
from alauda_imageapi.machinery.targets import Target

_APPLY = "application/apply-patch+yaml"
_DELETED_AT_ONCE = 16


@dataclass(slots=True)
class Done:
    """What the client is answered."""

    document: Object
    status: int = 200


@dataclass(frozen=True, slots=True)
class _Asked:
    request: Request[Any]
    query: Mapping[str, str]
    resource: Resource
    target: Target
    context: Context

    def options(self, kind: str, *, applies: bool = False) -> WriteOptions:
        agent = self.request.headers.get("user-agent", "")
        return WriteOptions.parse(self.query, kind, user_agent=agent, applies=applies)


class Writes:
    """Runs the verbs that change something.

    Args:
        group: Of the resources.
    """

    def __init__(self, group: Group) -> None:
        self._group = group

    async def run(
        self,
        verb: str,
        request: Request[Any],
        query: Mapping[str, str],
        resource: Resource,
        target: Target,
        context: Context,
    ) -> Done:
        """Run a verb.

        Raises:
            StatusError: It cannot be done.
        """
        asked = _Asked(request, query, resource, target, context)
        run: Callable[[_Asked], Any] = {
            "create": self._create,
            "update": self._update,
            "patch": self._patch,
            "delete": self._delete,
            "deletecollection": self._delete_collection,
        }[verb]
        with aside.on_behalf_of(context.user.username):
            done: Done = await run(asked)
        return done

    async def _create(self, asked: _Asked) -> Done:
        options = asked.options("CreateOptions")
        context = _context(asked, options)
        document = await self._read_object(asked, options)
        manager = self._manager(asked, options)
        await context.admit(context, document["metadata"].get("name", ""))
        return Done(await asked.resource.create(context, document, manager), 201)

    async def _update(self, asked: _Asked) -> Done:
        options = asked.options("UpdateOptions")
        document = await self._read_object(asked, options)
        change = Replacement(document, self._manager(asked, options))
        return await self._change(asked, options, change)

    async def _patch(self, asked: _Asked) -> Done:
        kind = bodies.content_type(asked.request)
        if kind not in PATCH_TYPES:
            raise bodies.unsupported(PATCH_TYPES)
        options = asked.options("PatchOptions", applies=kind == _APPLY)
        body = await bodies.read(asked.request)
        decoder = self._decoder(asked, options)
        if kind == _APPLY:
            applied = await aside.run(len(body), bodies.parse_yaml, body)
            return await self._apply(asked, options, decoder, applied)
        patch = await aside.run(len(body), bodies.parse, body)
        if kind != PATCH_TYPES[0] and not isinstance(patch, dict):
            raise BadRequest("the patch is not an object")
        if isinstance(patch, dict):
            await aside.run(len(body), decoder.look_for_repeated, patch)

        async def apply(old: Object) -> Any:
            if kind == PATCH_TYPES[0]:
                return await patches.apply_json_patch(old, patch)
            size = aside.weigh([old, patch])
            if kind == PATCH_TYPES[1]:
                return await aside.run(size, patches.apply_merge_patch, old, patch)
            schema = decoder.schema
            return await aside.run(size, patches.apply_strategic_patch, schema, old, patch)

        manager = self._manager(asked, options)
        return await self._change(asked, options, Patch(apply, decoder, manager, self._group.name))

    async def _apply(
        self, asked: _Asked, options: WriteOptions, decoder: Decoder, body: Any
    ) -> Done:
        resource, target = asked.resource, asked.target
        if not isinstance(body, dict):
            raise BadRequest("the body is not an object")
        if not body.get("kind") or not body.get("apiVersion"):
            raise BadRequest("what is applied must say its apiVersion and kind")
        size = aside.weigh(body)
        document = await aside.run(size, decode_body, resource, decoder, body)
        await aside.run(size, check_applied, resource.schema, document, target.name)
        self._check_namespace(asked, document)
        if isinstance(resource, StoredResource):
            document = resource.only_part(document, {}, target.subresource)
        change = Apply(
            document,
            resource.schema,
            self._manager(asked, options, "Apply"),
            asked.context.surroundings,
            options.force,
        )
        return await self._change(asked, options, change)

    async def _change(self, asked: _Asked, options: WriteOptions, change: Change) -> Done:
        outcome = await asked.resource.update(
            _context(asked, options), asked.target.name, change, asked.target.subresource
        )
        return Done(outcome.document, 201 if outcome.is_new else 200)

    async def _delete(self, asked: _Asked) -> Done:
        body = await bodies.read_document(asked.request)
        options, dry_run = parse_delete(asked.query, body)
        context = replace(asked.context, dry_run=dry_run)
        deletion = await asked.resource.delete(context, asked.target.name, options)
        return Done(self._deleted(asked, deletion))

    async def _delete_collection(self, asked: _Asked) -> Done:
        resource, context = asked.resource, asked.context
        body = await bodies.read_document(asked.request)
        options, dry_run = parse_delete(asked.query, body)
        context = replace(context, dry_run=dry_run)
        wanted = ListOptions.parse(asked.query, resource.selectable)
        page = await lists.turn_to(resource, context, wanted)
        # Namespaces end by this, and wait for it no longer than a minute.
        turn = asyncio.Semaphore(_DELETED_AT_ONCE)

        async def delete(entry: Entry) -> Object | None:
            async with turn:
                document = entry.load()
                metadata = document["metadata"]
                where = replace(context, namespace=metadata.get("namespace", ""))
                try:
                    deletion = await resource.delete(where, metadata["name"], options)
                except NotFound:
                    # Somebody else was faster, and that is as good.
                    return None
                return deletion.document or document

        try:
            async with asyncio.TaskGroup() as group:
                deleting = [group.create_task(delete(entry)) for entry in page.entries]
        except ExceptionGroup as trouble:
            # Any of them is reason enough, and the client is told one.
            raise trouble.exceptions[0] from trouble
        gone = [found for task in deleting if (found := task.result()) is not None]
        return Done(
            {
                "kind": f"{resource.kind}List",
                "apiVersion": self._group.api_version,
                "metadata": page.metadata(wanted),
                "items": gone,
            }
        )

    def _deleted(self, asked: _Asked, deletion: Deletion) -> Object:
        if deletion.document is not None:
            return deletion.document
        details = asked.resource.details(asked.context, asked.target.name)
        if deletion.uid:
            details["uid"] = deletion.uid
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Success",
            "details": details,
        }

    async def _read_object(self, asked: _Asked, options: WriteOptions) -> Object:
        body = await bodies.read_document(asked.request)
        if body is None:
            raise BadRequest("the body is empty: send the object")
        decoder = self._decoder(asked, options)
        size = aside.weigh(body)
        document = await aside.run(size, decode_body, asked.resource, decoder, body)
        self._check_namespace(asked, document)
        return document

    def _check_namespace(self, asked: _Asked, document: Object) -> None:
        given = document["metadata"].get("namespace")
        if given and given != asked.target.namespace:
            raise BadRequest(
                "the namespace of the provided object does not match the namespace sent on the "
                "request"
            )
        if asked.target.namespace:
            document["metadata"]["namespace"] = asked.target.namespace

    def _decoder(self, asked: _Asked, options: WriteOptions) -> Decoder:
        resource = asked.resource
        return Decoder(
            resource.kind,
            self._group.api_version,
            resource.schema,
            options.validation,
            asked.context.warnings,
        )

    def _manager(self, asked: _Asked, options: WriteOptions, operation: str = "Update") -> Manager:
        return Manager(
            options.manager, operation, self._group.api_version, asked.target.subresource
        )


def _context(asked: _Asked, options: WriteOptions) -> Context:
    return replace(asked.context, dry_run=options.dry_run, manager=options.manager)
