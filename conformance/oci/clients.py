"""What docker, podman, crane and others count on although the specification doesn't ask it.

All of these are SHOULD: a registry without them conforms, and some client will have trouble.
"""

import httpx

from conformance.oci import expect, material
from conformance.oci.check import CLIENTS, SHOULD, check
from conformance.oci.material import Manifest
from conformance.oci.pull import UNKNOWN
from conformance.oci.registry import Repository, Stream, with_query

DIGEST_HEADER = "Docker-Content-Digest"


@check(CLIENTS, SHOULD)
def api_version_header(repository: Repository) -> None:
    """Every answer, an error too, tells Docker-Distribution-API-Version: registry/2.0."""
    repository.push_image("latest")

    for answer in (
        repository.registry.request("GET", "v2/"),
        repository.get_manifest("latest"),
        repository.get_manifest("absent"),
        repository.ask("POST", "blobs/uploads/"),
    ):
        expect.header(answer, "Docker-Distribution-API-Version", "registry/2.0")


@check(CLIENTS, SHOULD)
def entity_tag_of_a_manifest(repository: Repository) -> None:
    """A manifest has its digest as ETag, and If-None-Match with it answers 304 and no body."""
    image = repository.push_image("latest")
    tag = expect.header(repository.get_manifest("latest"), "ETag")
    expect.that(image.digest in tag, f"ETag {tag}, expected the digest {image.digest}")

    expect_not_modified(repository, "manifests/latest", tag, [("Accept", image.media_type)])


@check(CLIENTS, SHOULD)
def entity_tag_of_a_blob(repository: Repository) -> None:
    """A blob has its digest as ETag, and If-None-Match with it answers 304 and no body."""
    digest = repository.push_blob(material.random_blob())
    tag = expect.header(repository.ask("GET", f"blobs/{digest}"), "ETag")
    expect.that(digest in tag, f"ETag {tag}, expected the digest {digest}")

    expect_not_modified(repository, f"blobs/{digest}", tag, [])


@check(CLIENTS, SHOULD)
def upload_id_header(repository: Repository) -> None:
    """POST, PATCH and GET of an upload tell its id in Docker-Upload-UUID, the same each time."""
    started = repository.ask("POST", "blobs/uploads/")
    upload_id = expect.header(started, "Docker-Upload-UUID")

    sent = repository.send_chunk(expect.location(started), material.random_blob(), 0)

    expect.header(sent, "Docker-Upload-UUID", upload_id)
    status = repository.registry.request("GET", expect.location(sent))
    expect.header(status, "Docker-Upload-UUID", upload_id)


@check(CLIENTS, SHOULD)
def range_of_an_empty_upload(repository: Repository) -> None:
    """An upload without bytes tells Range: 0-0; docker can't read anything smaller."""
    started = repository.ask("POST", "blobs/uploads/")
    expect.header(started, "Range", "0-0")

    status = repository.registry.request("GET", expect.location(started))

    expect.header(status, "Range", "0-0")


@check(CLIENTS, SHOULD)
def upload_in_one_stream(repository: Repository) -> None:
    """Docker sends a layer as one PATCH of unknown length and without Content-Range."""
    content = material.random_blob(300_000)

    answer = repository.registry.request(
        "PATCH",
        repository.start_upload(),
        headers={"Content-Type": "application/octet-stream"},
        content=Stream(content),
    )

    expect.status(answer, 202)
    expect.header(answer, "Range", f"0-{len(content) - 1}")
    closed = repository.close_upload(expect.location(answer), material.digest_of(content))
    expect.status(closed, 201)


@check(CLIENTS, SHOULD)
def put_in_one_stream(repository: Repository) -> None:
    """A PUT may be of unknown length."""
    content = material.random_blob(300_000)
    digest = material.digest_of(content)

    answer = repository.registry.request(
        "PUT",
        with_query(repository.start_upload(), "digest", digest),
        headers={"Content-Type": "application/octet-stream"},
        content=Stream(content),
    )

    expect.status(answer, 201)
    expect.body(repository.ask("GET", f"blobs/{digest}"), content)


@check(CLIENTS, SHOULD)
def chunk_without_bytes(repository: Repository) -> None:
    """A PATCH without bytes is taken and changes nothing."""
    content = material.random_blob()
    location = expect.location(repository.send_chunk(repository.start_upload(), content, 0))

    answer = repository.registry.request("PATCH", location, content=b"")

    expect.status(answer, 202)
    expect.header(answer, "Range", f"0-{len(content) - 1}")
    closed = repository.close_upload(expect.location(answer), material.digest_of(content))
    expect.status(closed, 201)


@check(CLIENTS, SHOULD)
def blob_announces_ranges(repository: Repository) -> None:
    """A blob tells Accept-Ranges: bytes; oras only then resumes."""
    digest = repository.push_blob(material.random_blob())

    for method in ("GET", "HEAD"):
        expect.header(repository.ask(method, f"blobs/{digest}"), "Accept-Ranges", "bytes")


@check(CLIENTS, SHOULD)
def blob_is_never_encoded(repository: Repository) -> None:
    """A blob is application/octet-stream and not compressed, whatever the client could decode."""
    content = b"easily compressed " * 1000
    digest = repository.push_blob(content)

    answer = repository.ask(
        "GET", f"blobs/{digest}", headers={"Accept-Encoding": "zstd, gzip, deflate"}
    )

    expect.header(answer, "Content-Type", "application/octet-stream")
    expect.no_header(answer, "Content-Encoding")
    expect.header(answer, "Content-Length", str(len(content)))


@check(CLIENTS, SHOULD)
def digest_header_of_a_push(repository: Repository) -> None:
    """The 201 of a blob, of a mount and of a manifest tells the digest."""
    content = material.random_blob()
    digest = material.digest_of(content)
    put = repository.close_upload(repository.start_upload(), digest, content)
    expect.header(put, DIGEST_HEADER, digest)

    target = repository.sibling("target")
    mounted = target.ask("POST", f"blobs/uploads/?mount={digest}&from={repository.name}")
    if mounted.status_code == httpx.codes.CREATED:
        expect.header(mounted, DIGEST_HEADER, digest)

    image = repository.make_image()
    expect.header(repository.put_manifest(image, "latest"), DIGEST_HEADER, image.digest)


@check(CLIENTS, SHOULD)
def digest_header_is_the_one_asked_for(repository: Repository) -> None:
    """What is asked for by a sha512 digest tells that digest, not another of the same bytes."""
    content = material.random_blob()
    digest = material.digest_of(content, "sha512")
    pushed = repository.close_upload(repository.start_upload(), digest, content)
    if pushed.status_code == httpx.codes.BAD_REQUEST:
        raise expect.NotSupported(expect.describe(pushed))

    for method in ("GET", "HEAD"):
        expect.header(repository.ask(method, f"blobs/{digest}"), DIGEST_HEADER, digest)


@check(CLIENTS, SHOULD)
def head_manifest_is_complete(repository: Repository) -> None:
    """HEAD of a manifest tells type, length and digest; crane gives up without any of them."""
    image = repository.push_image("latest")

    answer = repository.get_manifest("latest", "HEAD")

    expect.header(answer, "Content-Type", image.media_type)
    expect.header(answer, "Content-Length", str(len(image.content)))
    expect.header(answer, DIGEST_HEADER, image.digest)


@check(CLIENTS, SHOULD)
def head_of_what_is_not_there(repository: Repository) -> None:
    """HEAD of what isn't there has no body, and the connection goes on."""
    repository.push_image("latest")

    for tail in ("manifests/absent", f"blobs/{UNKNOWN[0]}"):
        answer = repository.ask("HEAD", tail)
        expect.status(answer, 404)
        expect.body(answer, b"")


@check(CLIENTS, SHOULD)
def accept_in_several_headers(repository: Repository) -> None:
    """The types in several Accept headers all count, and */* is every type."""
    image = repository.push_image("latest")

    for accept in (
        [("Accept", material.OCI_INDEX), ("Accept", material.OCI_MANIFEST)],
        [("Accept", f"{material.DOCKER_LIST};q=0.9, {material.OCI_MANIFEST};q=0.1")],
        [("Accept", "*/*")],
    ):
        answer = repository.ask("GET", "manifests/latest", headers=accept)
        expect.status(answer, 200)
        expect.body(answer, image.content)


@check(CLIENTS, SHOULD)
def docker_formats(repository: Repository) -> None:
    """Docker's image manifest and list are stored and served as they are."""
    child = material.image(
        repository.make_config(material.DOCKER_CONFIG),
        [repository.make_layer(material.DOCKER_LAYER)],
        mediaType=material.DOCKER_MANIFEST,
    )
    image = repository.push_manifest(Manifest(child.content, material.DOCKER_MANIFEST))
    platform = {"architecture": "amd64", "os": "linux"}
    parent = material.index([image.descriptor(platform=platform)], mediaType=material.DOCKER_LIST)
    listed = repository.push_manifest(Manifest(parent.content, material.DOCKER_LIST), "latest")

    for reference, manifest in ((image.digest, image), ("latest", listed)):
        answer = repository.get_manifest(reference)
        expect.status(answer, 200)
        expect.header(answer, "Content-Type", manifest.media_type)
        expect.body(answer, manifest.content)


@check(CLIENTS, SHOULD)
def layers_that_are_not_distributable(repository: Repository) -> None:
    """An image whose layers lie elsewhere, by type and URL, is taken without them."""
    layer = material.descriptor(
        material.random_blob(), material.OCI_FOREIGN_LAYER, urls=["https://example.org/layer"]
    )
    image = material.image(repository.make_config(), [layer])

    repository.push_manifest(image, "latest")

    expect.body(repository.get_manifest("latest"), image.content)


@check(CLIENTS, SHOULD)
def catalog(repository: Repository) -> None:
    """GET of _catalog lists repositories, in pages that Link leads to."""
    repository.push_image("latest")
    answer = repository.registry.request("GET", "v2/_catalog?n=100")
    if answer.status_code in {401, 403, 404, 405}:
        raise expect.NotSupported(expect.describe(answer))

    names: list[str] = []
    for _ in range(1000):
        expect.status(answer, 200)
        names += expect.strings(answer, "repositories")
        following = expect.next_page(answer)
        if following is None:
            break
        answer = repository.registry.request("GET", following)

    expect.that(
        repository.name in names, f"{repository.name} isn't among {len(names)} repositories"
    )
    expect.that(len(names) == len(set(names)), "a repository is listed twice")


@check(CLIENTS, SHOULD)
def catalog_of_one(repository: Repository) -> None:
    """A page of the catalog holds what was asked for, and after last comes what follows it."""
    repository.push_image("latest")
    repository.sibling("other").push_image("latest")
    first = repository.registry.request("GET", "v2/_catalog?n=1")
    if first.status_code in {401, 403, 404, 405}:
        raise expect.NotSupported(expect.describe(first))

    name = expect.strings(first, "repositories")
    expect.that(len(name) == 1, f"{expect.describe(first)}, expected one name")
    after = repository.registry.request("GET", f"v2/_catalog?n=1&last={name[0]}")

    following = expect.strings(after, "repositories")
    expect.that(
        len(following) == 1 and following > name,
        f"after {name} comes {following}, expected another",
    )


@check(CLIENTS, SHOULD)
def tags_after_one_that_is_not_there(repository: Repository) -> None:
    """The parameter last need not be a tag: a page may begin behind one that is gone."""
    image = repository.make_image()
    for tag in ("a", "c", "d"):
        repository.push_manifest(image, tag)

    answer = repository.ask("GET", "tags/list?n=1&last=b")

    tags = expect.strings(answer, "tags")
    expect.that(tags == ["c"], f"{expect.describe(answer)}, expected c")


@check(CLIENTS, SHOULD)
def tags_are_a_list_even_when_there_are_none(repository: Repository) -> None:
    """A repository without tags lists [] and not null."""
    repository.push_image()

    answer = repository.ask("GET", "tags/list")

    expect.that(expect.strings(answer, "tags") == [], f"{expect.describe(answer)}, expected []")


@check(CLIENTS, SHOULD)
def session_of_a_mount_can_be_cancelled(repository: Repository) -> None:
    """Podman cancels the session of a mount that didn't work, and expects 204."""
    digest = material.digest_of(material.random_blob())
    answer = repository.ask(
        "POST", f"blobs/uploads/?mount={digest}&from={repository.sibling('nowhere').name}"
    )
    expect.status(answer, 202)

    expect.status(repository.registry.request("DELETE", expect.location(answer)), 204)


@check(CLIENTS, SHOULD)
def put_that_expects_to_continue(repository: Repository) -> None:
    """A PUT with Expect: 100-continue ends with 201 like any other."""
    content = material.random_blob(100_000)

    answer = repository.close_upload(
        repository.start_upload(), material.digest_of(content), content, {"Expect": "100-continue"}
    )

    expect.status(answer, 201)


@check(CLIENTS, SHOULD)
def manifest_too_large_keeps_the_connection_readable(repository: Repository) -> None:
    """The refusal of a body that is far too large can be read while the body still comes."""
    image = Manifest(b" " * (24 * 2**20), material.OCI_MANIFEST)

    for _ in range(3):
        expect.refused(repository.put_manifest(image, "latest"))
        expect.status(repository.registry.request("GET", "v2/"), 200)


def expect_not_modified(
    repository: Repository, tail: str, tag: str, headers: list[tuple[str, str]]
) -> None:
    """Expect 304 for the entity tag and 200 for another one."""
    for method in ("GET", "HEAD"):
        same = repository.ask(method, tail, headers=[*headers, ("If-None-Match", tag)])
        expect.status(same, 304)
        expect.body(same, b"")
        other = repository.ask(method, tail, headers=[*headers, ("If-None-Match", '"other"')])
        expect.status(other, 200)
