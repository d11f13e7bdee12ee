"""What a request is in the words of RBAC, and its refusal (facts/apiserver.md 1.6 and 2.1).

Read from the same parts of the path that the application routes by, so that what was allowed is
what is done. The rules are those of kube-apiserver, which has authorized most requests before they
get here: what it takes for a ``watch`` or a ``deletecollection`` must be one here, too.
"""

import json
from collections.abc import Mapping, Sequence

from alauda_imageapi.machinery import metadata, selectors
from alauda_imageapi.machinery.errors import Forbidden, StatusError
from alauda_imageapi.machinery.options import flag
from alauda_registry.kube.client import Attributes, NonResourceAttributes, ResourceAttributes

_VERBS = {
    "POST": "create",
    "GET": "get",
    "HEAD": "get",
    "PUT": "update",
    "PATCH": "patch",
    "DELETE": "delete",
}
_OF_A_NAMESPACE = ("status", "finalize")
"""What is a part of a namespace, and no resource in it."""


def attributes_of(method: str, segments: Sequence[str], query: Mapping[str, str]) -> Attributes:
    """Return what somebody must be allowed to do.

    Args:
        method: Of HTTP.
        segments: The path's parts, decoded.
        query: The first value of each parameter.
    """
    match [*segments]:
        case ["apis", group, version, *rest] if rest:
            return _resource(method, group, version, rest, query)
        case ["api", version, *rest] if rest:
            return _resource(method, "", version, rest, query)
    return NonResourceAttributes(method.lower(), "/" + "/".join(segments))


def refusal(user: str, attributes: Attributes) -> Forbidden:
    """Say what somebody must not do, in the words of kube-apiserver."""
    who = json.dumps(user, ensure_ascii=False)
    if isinstance(attributes, NonResourceAttributes):
        path = json.dumps(attributes.path, ensure_ascii=False)
        return Forbidden(f"forbidden: User {who} cannot {attributes.verb} path {path}", details={})
    return _resource_refusal(who, attributes)


def _resource(
    method: str, group: str, version: str, parts: list[str], query: Mapping[str, str]
) -> Attributes:
    verb = _VERBS.get(method, "")
    is_by_path = parts[0] in ("watch", "proxy")
    if is_by_path:
        verb, parts = parts[0], parts[1:]
    namespace = ""
    if parts[:1] == ["namespaces"] and len(parts) > 1:
        namespace = parts[1]
        if len(parts) > 2 and parts[2] not in _OF_A_NAMESPACE:
            parts = parts[2:]
    resource, name, subresource = (*parts[:3], "", "", "")[:3]
    if not name and verb == "get":
        verb = "watch" if flag(query, "watch") else "list"
        name = _selected_name(query)
    elif not name and verb == "delete":
        verb = "deletecollection"
    return ResourceAttributes(verb, group, resource, subresource, namespace, name, version)


def _selected_name(query: Mapping[str, str]) -> str:
    """Return the name that a list is limited to: who may see one object may list it alone."""
    try:
        name = selectors.parse_fields(query.get("fieldSelector", "")).exactly("metadata.name")
    except StatusError:
        # The application refuses it, if it comes to that.
        return ""
    return name if name and metadata.is_path_segment(name) else ""


def _resource_refusal(who: str, attributes: ResourceAttributes) -> Forbidden:
    resource, group = attributes.resource, attributes.group
    part = f"{resource}/{attributes.subresource}" if attributes.subresource else resource
    where = (
        f'in the namespace "{attributes.namespace}"'
        if attributes.namespace
        else "at the cluster scope"
    )
    qualified = f"{resource}.{group}" if group else resource
    what = f'{qualified} "{attributes.name}"' if attributes.name else qualified
    details = {"name": attributes.name, "group": group, "kind": resource}
    return Forbidden(
        f'{what} is forbidden: User {who} cannot {attributes.verb} resource "{part}" in API group '
        f'"{group}" {where}',
        details={key: value for key, value in details.items() if value},
    )
