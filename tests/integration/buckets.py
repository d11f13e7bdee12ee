"""Looks at a bucket as a registry left it: nothing dangles, and bytes are those of their digest."""

import hashlib
import json
import re
from collections.abc import Collection
from dataclasses import dataclass, field

from tests.parts import s3

_TREE = "docker/registry/v2"
_DATA = re.compile(rf"{_TREE}/blobs/(sha256|sha512)/[0-9a-f]{{2}}/([0-9a-f]+)/data")
_LINK = re.compile(
    rf"{_TREE}/repositories/(?P<name>.+?)/(?:(?P<kind>_layers|_manifests/revisions)/"
    r"(?P<algorithm>sha256|sha512)/(?P<hex>[0-9a-f]+)|_manifests/tags/(?P<tag>[^/]+)/current)/link"
)


@dataclass
class Contents:
    """What a bucket says that it has.

    Attributes:
        blobs: Digest → whether the bytes are those of it.
        layers: Repository and digest of each link to a blob.
        manifests: Repository and digest of each link to a manifest.
        tags: Repository and tag → digest.
    """

    blobs: dict[str, bytes] = field(default_factory=dict)
    layers: set[tuple[str, str]] = field(default_factory=set)
    manifests: set[tuple[str, str]] = field(default_factory=set)
    tags: dict[tuple[str, str], str] = field(default_factory=dict)


def read(bucket: s3.Bucket) -> Contents:
    """Read all of distribution's tree."""
    found = Contents()
    for key in bucket.keys(_TREE):
        if data := _DATA.fullmatch(key):
            content = bucket.read(key)
            assert hashlib.new(data[1], content).hexdigest() == data[2], f"{key}: other bytes"
            found.blobs[f"{data[1]}:{data[2]}"] = content
        elif link := _LINK.fullmatch(key):
            target = bucket.read(key).decode()
            if link["tag"]:
                found.tags[link["name"], link["tag"]] = target
                continue
            assert target == f"{link['algorithm']}:{link['hex']}", f"{key}: {target}"
            of_kind = found.layers if link["kind"] == "_layers" else found.manifests
            of_kind.add((link["name"], target))
    return found


def assert_nothing_dangles(
    bucket: s3.Bucket, garbage: Collection[tuple[str, str]] = ()
) -> Contents:
    """See that every link leads to bytes, every tag to a manifest, and every manifest to blobs.

    Args:
        bucket: Where.
        garbage: The repositories and tags that pushes which were killed may have left.
    """
    found = read(bucket)
    for name, digest in found.layers | found.manifests:
        assert digest in found.blobs, f"{name}: nothing is at {digest}"
    for (name, tag), digest in found.tags.items():
        is_whole = (name, digest) in found.manifests or (name, tag) in garbage
        assert is_whole, f"{name}:{tag} leads to {digest}, which is gone"
    for name, digest in found.manifests:
        document = json.loads(found.blobs[digest])
        for needed in [*document.get("layers", []), document.get("config")]:
            if needed and "urls" not in needed:
                assert needed["digest"] in found.blobs, f"{name}: {digest} lacks {needed}"
    return found
