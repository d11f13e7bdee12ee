"""Reads what clients send: bounded, and as JSON, or YAML where that is announced."""

from typing import Any

import yaml
from starlette.requests import Request

from alauda_imageapi.machinery import objects
from alauda_imageapi.machinery.errors import (
    BadRequest,
    RequestEntityTooLarge,
    UnsupportedMediaType,
)
from alauda_imageapi.machinery.objects import NotJSON

LARGEST = 3 * 2**20

_JSON, _YAML = "application/json", "application/yaml"


class _Loader(yaml.SafeLoader):
    """Reads YAML as JSON has it: what looks like a time stays text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, expression) for tag, expression in found if not tag.endswith(":timestamp")]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_LARGEST_YAML = 256 * 1024


def content_type(request: Request[Any]) -> str:
    """Return what a client says it sends, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read(request: Request[Any]) -> bytes:
    """Return the body.

    Raises:
        RequestEntityTooLarge: It is larger than an object may be.
    """
    too_large = RequestEntityTooLarge(f"Request entity is too large: limit is {LARGEST}")
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
    return parse_yaml(body) if kind == _YAML else parse(body)


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
        events = yaml.parse(body, Loader=_Loader)
        if any(isinstance(event, yaml.AliasEvent) for event in events):
            raise BadRequest("YAML with aliases is not taken")
        document = yaml.load(body, Loader=_Loader)  # noqa: S506 -- a safe loader's child
        objects.check_tree(document)
    except RecursionError:
        raise BadRequest("the body is nested too deeply") from None
    except (yaml.YAMLError, NotJSON, ValueError) as error:
        raise BadRequest(f"the body cannot be read as YAML: {str(error)[:256]}") from error
    return document


def unsupported(known: tuple[str, ...]) -> UnsupportedMediaType:
    """The client sends what we do not read."""
    listed = ", ".join(known)
    return UnsupportedMediaType(
        f"the body of the request was in an unknown format - accepted media types include: {listed}"
    )
