"""The OpenAPI documents, made from the schemas that requests are checked with.

kubectl reads them for ``explain``, for validation (a PATCH operation with ``fieldValidation``) and
for ``apply`` (facts/apiserver.md 2.4). What can be deduced from them is deduced the same way here:
lists that merge by a key say so in both ways that Kubernetes has.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from alauda_imageapi.machinery import objects, schema as types
from alauda_imageapi.machinery.objects import Object
from alauda_imageapi.machinery.resources import Group, Resource
from alauda_imageapi.machinery.schema import Schema

_META = "io.k8s.apimachinery.pkg.apis.meta.v1"
LIST_META = types.struct(
    f"{_META}.ListMeta",
    "ListMeta describes metadata that lists have.",
    **{"continue": types.text("Where the next page begins.")},
    remainingItemCount=types.integer("How many are left."),
    resourceVersion=types.text("The revision that the list is of."),
    selfLink=types.text("Not used any more."),
)
DELETE_OPTIONS = types.struct(
    f"{_META}.DeleteOptions",
    "DeleteOptions may be provided when deleting an API object.",
    apiVersion=types.text(),
    dryRun=types.listed(types.text(), "All, for a trial."),
    gracePeriodSeconds=types.integer("Not used by these kinds."),
    kind=types.text(),
    orphanDependents=types.boolean("Use propagationPolicy."),
    preconditions=types.struct(
        f"{_META}.Preconditions",
        "Preconditions must be fulfilled before a deletion is carried out.",
        resourceVersion=types.text(),
        uid=types.text(),
    ),
    propagationPolicy=types.text("Orphan, Background or Foreground."),
)
STATUS = types.struct(
    f"{_META}.Status",
    "Status is a return value for calls that don't return other objects.",
    apiVersion=types.text(),
    code=types.integer(),
    details=types.free(),
    kind=types.text(),
    message=types.text(),
    metadata=LIST_META,
    reason=types.text(),
    status=types.text(),
)
PATCH_TYPES = (
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
)
_ACTIONS = {
    "get": "get",
    "list": "list",
    "create": "post",
    "update": "put",
    "patch": "patch",
    "delete": "delete",
    "deletecollection": "deletecollection",
}
_WRITING = {
    "dryRun": "When All, nothing is changed.",
    "fieldManager": "Who makes the change.",
    "fieldValidation": "Ignore, Warn or Strict: what becomes of unknown and duplicate fields.",
}
_LISTING = {
    "allowWatchBookmarks": "Ask for events that say nothing happened.",
    "continue": "Where the page begins, from the page before.",
    "fieldSelector": "Restrict the list by fields.",
    "labelSelector": "Restrict the list by labels.",
    "limit": "The longest page.",
    "resourceVersion": "The revision that the list is to be of.",
    "resourceVersionMatch": "Exact or NotOlderThan.",
    "sendInitialEvents": "Begin a watch with what there is.",
    "timeoutSeconds": "When a watch ends.",
    "watch": "Go on with what happens.",
}
_TYPED = {
    **dict.fromkeys(("allowWatchBookmarks", "sendInitialEvents", "watch", "force"), "boolean"),
    **dict.fromkeys(("limit", "timeoutSeconds"), "integer"),
}


class OpenAPI:
    """The documents of one group; made once, as they never change.

    Args:
        group: The group.
        resources: What is in it.
        version: Of the whole.
    """

    def __init__(self, group: Group, resources: Sequence[Resource], version: str) -> None:
        self._group = group
        info = {"title": "Alauda image API", "version": version}
        v3: dict[str, Object] = {}
        paths = dict(_paths(group, resources, v3))
        self._path = f"apis/{group.api_version}"
        self.v3 = objects.encode(
            {
                "openapi": "3.0.0",
                "info": info,
                "paths": paths,
                "components": {"schemas": dict(sorted(v3.items()))},
            }
        )
        self.v3_hash = hashlib.sha512(self.v3).hexdigest().upper()
        self.v2 = objects.encode(
            {
                "swagger": "2.0",
                "info": info,
                "paths": {path: _v2_path(item) for path, item in paths.items()},
                "definitions": {name: _v2(body) for name, body in sorted(v3.items())},
            }
        )
        self.v2_hash = hashlib.sha512(self.v2).hexdigest().upper()

    def v3_index(self) -> Object:
        """Return where the documents of version 3 are."""
        url = f"/openapi/v3/{self._path}?hash={self.v3_hash}"
        return {"paths": {self._path: {"serverRelativeURL": url}}}

    @property
    def v3_path(self) -> str:
        """The path of the group's document."""
        return f"/openapi/v3/{self._path}"


def _paths(
    group: Group, resources: Iterable[Resource], components: dict[str, Object]
) -> Iterable[tuple[str, Object]]:
    for resource in resources:
        kind = {"group": group.name, "version": group.version, "kind": resource.kind}
        name = _define(resource.schema, components, kind)
        base = f"/apis/{group.api_version}"
        if resource.namespaced:
            if "list" in resource.verbs:
                everywhere = ("list",)
                yield f"{base}/{resource.name}", _item(resource, everywhere, name, kind, components)
            base += "/namespaces/{namespace}"
        collection = [verb for verb in _COLLECTION if verb in resource.verbs]
        if collection:
            yield f"{base}/{resource.name}", _item(resource, collection, name, kind, components)
        single = [verb for verb in _SINGLE if verb in resource.verbs]
        is_only_made = "create" in resource.verbs and "patch" not in single
        if single or is_only_made:
            where = f"{base}/{resource.name}/{{name}}"
            verbs = [*single, "patch"] if is_only_made else single
            item = _item(resource, verbs, name, kind, components)
            if is_only_made:
                item["patch"]["description"] = _NOT_SERVED
            yield where, item
        for part in resource.subresources:
            part_kind = {**kind, "kind": part.kind}
            part_name = _define(part.schema, components, part_kind)
            where = f"{base}/{resource.name}/{{name}}/{part.name}"
            item = _item(resource, part.verbs, part_name, part_kind, components)
            if part.lists:
                item["get"]["parameters"] += _query(_LISTING)
            yield where, item


_NOT_SERVED = (
    "Is not served. kubectl looks for this to learn whether the server validates fields, and "
    "without it wants to list custom resource definitions, which users may not."
)
_COLLECTION = ("list", "create", "deletecollection")
_SINGLE = ("get", "update", "patch", "delete")


def _item(
    resource: Resource,
    verbs: Iterable[str],
    name: str,
    kind: Object,
    components: dict[str, Object],
) -> Object:
    item: Object = {"parameters": []}
    if resource.namespaced and (list(verbs) != ["list"] or "create" in resource.verbs):
        item["parameters"].append(_parameter("namespace", "path", "The namespace."))
    for verb in verbs:
        method = {
            "get": "get",
            "list": "get",
            "create": "post",
            "update": "put",
            "patch": "patch",
            "delete": "delete",
            "deletecollection": "delete",
        }[verb]
        item[method] = _operation(resource, verb, name, kind, components)
    if verbs and not {"list", "create", "deletecollection"} & set(verbs):
        item["parameters"].append(_parameter("name", "path", "Name of the object."))
    return item


def _operation(
    resource: Resource, verb: str, name: str, kind: Object, components: dict[str, Object]
) -> Object:
    answers = name
    if verb == "list":
        answers = _define_list(resource, name, components)
    elif verb in ("delete", "deletecollection"):
        answers = _define(STATUS, components, None)
    operation: Object = {
        "operationId": f"{verb}{resource.group.version}{kind['kind']}{resource.name}",
        "tags": [f"{resource.group.name}_{resource.group.version}"],
        "x-kubernetes-action": _ACTIONS[verb],
        "x-kubernetes-group-version-kind": kind,
        "responses": {"200": {"description": "OK", "content": _content(answers, _JSON)}},
    }
    parameters = dict(_LISTING) if verb in ("list", "deletecollection") else {}
    if verb in ("create", "update", "patch"):
        parameters |= _WRITING
        accepted = PATCH_TYPES if verb == "patch" else _JSON
        operation["requestBody"] = {"required": True, "content": _content(name, accepted)}
    if verb == "patch":
        parameters["force"] = "Take over what others own; for apply only."
        operation["requestBody"]["content"] = {
            media_type: {"schema": {"type": "object"}} for media_type in PATCH_TYPES
        }
    if verb in ("delete", "deletecollection"):
        parameters["dryRun"] = _WRITING["dryRun"]
        options = _define(DELETE_OPTIONS, components, None)
        operation["requestBody"] = {"content": _content(options, _JSON)}
    operation["parameters"] = _query(parameters)
    return operation


def _query(parameters: Mapping[str, str]) -> list[Object]:
    return [_parameter(name, "query", text) for name, text in sorted(parameters.items())]


_JSON = ("application/json",)


def _content(name: str, media_types: Iterable[str]) -> Object:
    return {media_type: {"schema": _reference(name)} for media_type in media_types}


def _parameter(name: str, where: str, description: str) -> Object:
    parameter: Object = {
        "name": name,
        "in": where,
        "description": description,
        "schema": {"type": _TYPED.get(name, "string"), "uniqueItems": True},
    }
    return {**parameter, "required": True} if where == "path" else parameter


def _reference(name: str) -> Object:
    return {"$ref": f"#/components/schemas/{name}"}


def _define_list(resource: Resource, name: str, components: dict[str, Object]) -> str:
    listed = f"{name}List"
    group = resource.group
    components[listed] = {
        "type": "object",
        "description": f"{resource.kind}List is a list of {resource.kind} objects.",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string"},
            "items": {"type": "array", "items": _reference(name)},
            "kind": {"type": "string"},
            "metadata": {"allOf": [_reference(_define(LIST_META, components, None))]},
        },
        "x-kubernetes-group-version-kind": [
            {"group": group.name, "version": group.version, "kind": f"{resource.kind}List"}
        ],
    }
    return listed


def _define(schema: Schema, components: dict[str, Object], kind: Object | None) -> str:
    """Publish a schema under its name, with everything it refers to."""
    name = schema.definition
    if name not in components:
        components[name] = {}
        components[name] = _inline(schema, components)
    if kind is not None:
        # A part of another kind may have been there first.
        components[name]["x-kubernetes-group-version-kind"] = [kind]
    return name


def _inline(schema: Schema, components: dict[str, Object]) -> Object:
    body: Object = {"description": schema.description} if schema.description else {}
    if schema.type == "any":
        return {**body, "type": "object", "x-kubernetes-preserve-unknown-fields": True}
    body["type"] = schema.type
    if schema.format:
        body["format"] = schema.format
    if schema.properties:
        body["properties"] = {
            name: _refer(below, components) for name, below in sorted(schema.properties.items())
        }
    if schema.required:
        body["required"] = list(schema.required)
    if schema.values is not None:
        body["additionalProperties"] = _refer(schema.values, components)
    if schema.is_atomic:
        body["x-kubernetes-map-type"] = "atomic"
    if schema.items is not None:
        body["items"] = _refer(schema.items, components)
        if schema.keys:
            body["x-kubernetes-list-type"] = "map"
            body["x-kubernetes-list-map-keys"] = list(schema.keys)
            body["x-kubernetes-patch-strategy"] = "merge"
            body["x-kubernetes-patch-merge-key"] = schema.keys[0]
        elif schema.is_set:
            body["x-kubernetes-list-type"] = "set"
            body["x-kubernetes-patch-strategy"] = "merge"
        else:
            body["x-kubernetes-list-type"] = "atomic"
    return body


def _refer(schema: Schema, components: dict[str, Object]) -> Object:
    if not schema.definition:
        return _inline(schema, components)
    reference = _reference(_define(schema, components, None))
    # Beside a $ref nothing else counts, so what is to be said stands around it.
    return {"allOf": [reference], "default": {}}


def _v2(body: Any) -> Any:
    """Turn what version 3 says about a value into what version 2 says."""
    if isinstance(body, list):
        return [_v2(item) for item in body]
    if not isinstance(body, dict):
        return body
    if "allOf" in body:
        turned: Object = _v2(body["allOf"][0])
        return turned
    if "$ref" in body:
        return {"$ref": body["$ref"].replace("#/components/schemas/", "#/definitions/")}
    return {name: _v2(value) for name, value in body.items() if name != "default"}


def _v2_path(item: Object) -> Object:
    return {
        name: [_v2_parameter(parameter) for parameter in value]
        if name == "parameters"
        else _v2_operation(value)
        for name, value in item.items()
    }


def _v2_operation(operation: Object) -> Object:
    turned = {
        name: value
        for name, value in operation.items()
        if name not in ("requestBody", "responses", "parameters")
    }
    body = operation.get("requestBody")
    parameters = [_v2_parameter(parameter) for parameter in operation["parameters"]]
    if body:
        content = next(iter(body["content"].values()))
        parameters.append({"name": "body", "in": "body", "schema": _v2(content["schema"])})
        turned["consumes"] = list(body["content"])
    answer = operation["responses"]["200"]["content"]["application/json"]["schema"]
    return {
        **turned,
        "produces": ["application/json"],
        "parameters": parameters,
        "responses": {"200": {"description": "OK", "schema": _v2(answer)}},
    }


def _v2_parameter(parameter: Object) -> Object:
    turned = {name: value for name, value in parameter.items() if name != "schema"}
    return {**turned, **parameter["schema"]}
