"""What a path leads to (facts/apiserver.md 2.1).

Paths are taken apart as they were sent, and each segment is decoded once: names contain colons and
at-signs, and an encoded slash is never a separator.
"""

from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from alauda_imageapi.machinery.errors import BadRequest, no_such_resource

_LONGEST_SEGMENT = 1024


@dataclass(frozen=True, slots=True)
class Target:
    """An object, a part of one, or a collection.

    Attributes:
        resource: The plural name.
        namespace: Empty where none is given.
        name: Empty for a collection.
        subresource: Empty for the object itself.
    """

    resource: str
    namespace: str = ""
    name: str = ""
    subresource: str = ""


def parse_segments(raw_path: bytes) -> list[str]:
    """Take a path apart.

    Raises:
        BadRequest: A part of it cannot be a name.
    """
    path = raw_path.partition(b"?")[0]
    segments = []
    for raw in path.strip(b"/").split(b"/"):
        try:
            segment = (unquote_to_bytes(raw) if b"%" in raw else raw).decode()
        except UnicodeDecodeError:
            raise BadRequest("the path is not UTF-8") from None
        is_name = segment not in (".", "..") and not set(segment) & set("/%\\")
        if not is_name or not segment.isprintable() or len(segment) > _LONGEST_SEGMENT:
            raise BadRequest(f"a part of the path cannot be a name: {segment[:64]!r}")
        segments.append(segment)
    return segments


def parse_target(segments: list[str]) -> Target:
    """Return what the part of a path below group and version leads to.

    Raises:
        NotFound: Nothing can be there.
    """
    match segments:
        case ["namespaces", namespace, resource, *rest] if len(rest) <= 2 and namespace:
            target = Target(resource, namespace, *rest)
        case [resource, *rest] if len(rest) <= 2 and resource != "namespaces":
            target = Target(resource, "", *rest)
        case _:
            raise no_such_resource()
    if not target.resource or "" in segments:
        raise no_such_resource()
    return target
