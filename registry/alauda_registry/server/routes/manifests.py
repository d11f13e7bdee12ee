"""Manifests: ``/v2/<name>/manifests/<tag-or-digest>``."""

import asyncio
from http import HTTPStatus

from starlette.responses import Response

from alauda_registry.oci.digest import Algorithm, Digest
from alauda_registry.oci.errors import DigestInvalid, ManifestInvalid, ManifestUnknown
from alauda_registry.oci.manifest import Manifest
from alauda_registry.oci.reference import Tag, parse_reference
from alauda_registry.server.bodies import read_manifest
from alauda_registry.server.conditions import entity_tag, is_known
from alauda_registry.server.links import manifest_url
from alauda_registry.server.routing import Kind, Target, V2Route
from alauda_registry.server.state import RegistryRequest, find_repository, require_deletion
from alauda_registry.storage.manifests import StoredManifest
from alauda_registry.storage.repositories import Repository

_LARGE = 256 * 2**10
"""Manifests from this size on are hashed and parsed in a thread."""


async def get_manifest(request: RegistryRequest, target: Target) -> Response:
    """Serve a manifest as it was pushed, whatever the client says it accepts (end-3).

    Raises:
        DigestInvalid: The digest is malformed.
        ManifestUnknown: The repository does not hold it.
        NameInvalid: The name is malformed.
        TagInvalid: The tag is malformed.
    """
    reference = parse_reference(target.reference)
    repository = find_repository(request, target.name)
    if isinstance(reference, Digest):
        digest, manifest = reference, await repository.manifests.get(reference)
    else:
        digest, manifest = await _find_tagged(repository, reference)
    headers = manifest_headers(digest, manifest.media_type, len(manifest.content))
    if is_known(request.headers.getlist("if-none-match"), digest):
        del headers["Content-Length"], headers["Content-Type"]
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return Response(manifest.content, headers=headers)


async def put_manifest(request: RegistryRequest, target: Target) -> Response:
    """Keep a manifest, and point tags at it (end-7a, end-7b).

    Raises:
        DigestInvalid: The digest is malformed, or not that of the content.
        ManifestBlobUnknown: It refers to what the repository does not hold.
        ManifestInvalid: It is no manifest, or of another type than was said.
        ManifestTooLarge: It is larger than allowed.
        NameInvalid: The name is malformed.
        StorageUnavailable: It could not be recorded; it is to be tried again.
        TagInvalid: A tag is malformed.
    """
    reference = parse_reference(target.reference)
    repository = find_repository(request, target.name)
    if isinstance(reference, Digest):
        algorithm, tags = reference.algorithm, _asked_tags(request)
    else:
        algorithm, tags = Algorithm.SHA256, [reference]
    content = await read_manifest(request, request.state["options"].max_manifest_size)
    digest = await _digest_of(content, algorithm)
    if isinstance(reference, Digest) and digest != reference:
        raise DigestInvalid(digest=str(reference), computed=str(digest))
    manifest = await _parsed(content, _media_type(request))
    await repository.manifests.put(manifest, digest, tags)
    # What is acknowledged shows; whoever hears that it does not pushes again.
    await request.state["recorder"].pushed(repository.name, digest, tags)
    response = Response(status_code=HTTPStatus.CREATED)
    response.headers["Location"] = manifest_url(request, target.name, digest)
    response.headers["Docker-Content-Digest"] = str(digest)
    if manifest.subject is not None:
        response.headers["OCI-Subject"] = str(manifest.subject.digest)
    if isinstance(reference, Digest):
        for tag in tags:
            response.headers.append("OCI-Tag", tag)
    return response


async def delete_manifest(request: RegistryRequest, target: Target) -> Response:
    """Delete a tag, or a manifest with all tags that point at it (end-9).

    Raises:
        DigestInvalid: The digest is malformed.
        ManifestUnknown: The repository does not hold it.
        NameInvalid: The name is malformed.
        TagInvalid: The tag is malformed.
        StorageUnavailable: It could not be recorded; it is to be tried again.
        Unsupported: Deleting tags, or manifests, is switched off.
    """
    options = request.state["options"]
    reference = parse_reference(target.reference)
    repository = find_repository(request, target.name)
    if isinstance(reference, Digest):
        require_deletion(request, options.delete_manifests, "manifests")
    else:
        require_deletion(request, options.delete_tags, "tags")
    try:
        if isinstance(reference, Digest):
            await repository.manifests.delete(reference)
        else:
            await repository.tags.delete(reference)
    finally:
        # Also when it was gone: the last time it may have been cut short before this.
        await request.state["recorder"].deleted(repository.name, reference)
    return Response(status_code=HTTPStatus.ACCEPTED)


def manifest_headers(digest: Digest, media_type: str, length: int) -> dict[str, str]:
    """Return the headers that describe a manifest.

    Args:
        digest: The digest it was asked for by, or its tag points at.
        media_type: What it was pushed as.
        length: Its size in bytes.
    """
    return {
        "Content-Type": media_type,
        "Content-Length": str(length),
        "Docker-Content-Digest": str(digest),
        "ETag": entity_tag(digest),
        "X-Content-Type-Options": "nosniff",
    }


routes = [
    V2Route(
        Kind.MANIFEST,
        {
            "GET": get_manifest,
            "HEAD": get_manifest,
            "PUT": put_manifest,
            "DELETE": delete_manifest,
        },
    )
]


async def _find_tagged(repository: Repository, tag: Tag) -> tuple[Digest, StoredManifest]:
    """Find the manifest a tag points to, also if that moves meanwhile.

    Raises:
        ManifestUnknown: There is no such tag, or its manifest is gone.
    """
    digest = await repository.tags.resolve(tag)
    while True:
        try:
            return digest, await repository.manifests.get(digest)
        except ManifestUnknown:
            now = await repository.tags.resolve(tag)
            if now == digest:
                raise
            digest = now


def _asked_tags(request: RegistryRequest) -> list[Tag]:
    """Return the tags a push by digest asks for, each once."""
    asked = list(dict.fromkeys(request.query_params.getlist("tag")))
    limit = request.state["options"].max_tags_in_push
    if len(asked) > limit:
        raise ManifestInvalid(
            f"too many tags: push at most {limit} of them with one manifest", tags=str(len(asked))
        )
    return [Tag.parse(text) for text in asked]


def _media_type(request: RegistryRequest) -> str | None:
    """Return what the client says the content is, without parameters and case."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() or None


async def _parsed(content: bytes, media_type: str | None) -> Manifest:
    if len(content) < _LARGE:
        return Manifest.parse(content, media_type)
    return await asyncio.to_thread(Manifest.parse, content, media_type)


async def _digest_of(content: bytes, algorithm: Algorithm) -> Digest:
    if len(content) < _LARGE:
        return Digest.of(content, algorithm)
    return await asyncio.to_thread(Digest.of, content, algorithm)
