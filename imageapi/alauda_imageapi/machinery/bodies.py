"""Reads what clients send: bounded, and as JSON, or YAML where that is announced."""

from typing import Any

import yaml
from starlette.requests import Request

from alauda_imageapi.machinery import aside, objects
from alauda_imageapi.machinery.errors import (
    BadRequest,
    RequestEntityTooLarge,
    UnsupportedMediaType,
)
from alauda_imageapi.machinery.objects import NotJSON

LARGEST = objects.LARGEST

_JSON, _YAML = "application/json", "application/yaml"


class _Loader(yaml.CSafeLoader):
    """Reads YAML as JSON has it: what looks like a time stays text, and so do numbers to base 60.

    libyaml's, since Python's own needs seconds for what a request may have.
    """


def _construct_number(loader: _Loader, node: yaml.ScalarNode) -> Any:
    """Read a number; of base 60 Go knows nothing either, and thousands of digits take long."""
    if ":" in node.value:
        return node.value
    if node.tag.endswith(":int"):
        return loader.construct_yaml_int(node)
    return objects.parse_float(str(loader.construct_yaml_float(node)))


def _construct_object(loader: _Loader, node: yaml.MappingNode) -> objects.Pairs:
    """Read an object, and which of its keys are there twice."""
    # Before keys are merged into it, which its own ones take precedence over.
    own = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
    mapping: dict[Any, Any] = loader.construct_mapping(node, deep=True)
    found = objects.Pairs(tuple(mapping.items()))
    found.repeated = objects.Pairs([(name, None) for name in own]).repeated
    return found


_Loader.yaml_implicit_resolvers = {
    first: [(tag, expression) for tag, expression in found if not tag.endswith(":timestamp")]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float"):
    _Loader.add_constructor(_tag, _construct_number)
_Loader.add_constructor("tag:yaml.org,2002:map", _construct_object)
_LARGEST_YAML = 64 * 1024


def content_type(request: Request[Any]) -> str:
    """Return what a client says it sends, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read(request: Request[Any]) -> bytes:
    """Return the body.

    Raises:
        RequestEntityTooLarge: It is larger than an object may be.
    """
    too_large = RequestEntityTooLarge(f"Request entity too large: limit is {LARGEST}")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > LARGEST:
        raise too_large
    parts, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > LARGEST:
            raise too_large
        parts.append(chunk)
    return b"".join(parts)


async def read_document(request: Request[Any]) -> Any:
    """Return the document in the body; None when there is no body.

    Raises:
        BadRequest: It cannot be read.
        UnsupportedMediaType: It is neither JSON nor YAML.
    """
    kind = content_type(request)
    if kind not in ("", _JSON, _YAML):
        raise unsupported((_JSON, _YAML))
    body = await read(request)
    if not body:
        return None
    return await aside.run(len(body), parse_yaml if kind == _YAML else parse, body)


def parse(body: bytes) -> Any:
    """Read JSON.

    Raises:
        BadRequest: It is none.
    """
    try:
        return objects.parse_json(body)
    except NotJSON as error:
        raise BadRequest(f"the body cannot be read as JSON: {str(error)[:256]}") from error


def parse_yaml(body: bytes) -> Any:
    """Read YAML, which JSON is, too.

    Raises:
        BadRequest: It is none, or has what JSON does not have.
        RequestEntityTooLarge: It is not JSON and would take long to read.
    """
    try:
        return objects.parse_json(body)
    except NotJSON as error:
        if body.lstrip()[:1] in (b"{", b"["):
            raise BadRequest(f"the body cannot be read: {str(error)[:256]}") from error
    if len(body) > _LARGEST_YAML:
        raise RequestEntityTooLarge(f"send more than {_LARGEST_YAML} bytes as JSON, not as YAML")
    try:
        _check_events(body)
        document = yaml.load(body, Loader=_Loader)  # noqa: S506 -- a safe loader's child
        objects.check_tree(document)
    except (yaml.YAMLError, NotJSON, ValueError, OverflowError) as error:
        raise BadRequest(f"the body cannot be read as YAML: {str(error)[:256]}") from error
    return document


def _check_events(body: bytes) -> None:
    """Refuse what is more than another way to write JSON, before anything is made of it.

    Raises:
        BadRequest: There are aliases or tags, or the nesting has no end.
    """
    depth = 0
    for event in yaml.parse(body, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            raise BadRequest("YAML with aliases is not taken")
        if isinstance(event, yaml.NodeEvent) and getattr(event, "tag", None) is not None:
            raise BadRequest("YAML with tags is not taken")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > objects.DEEPEST:
            raise BadRequest("the body is nested too deeply")


def unsupported(known: tuple[str, ...]) -> UnsupportedMediaType:
    """The client sends what we do not read."""
    listed = ", ".join(known)
    return UnsupportedMediaType(
        f"the body of the request was in an unknown format - accepted media types include: {listed}"
    )
