"""Pushing blobs in one piece (end-4a, end-4b, end-6)."""

import httpx

from conformance.oci import expect, material
from conformance.oci.check import DEV, MUST, SHOULD, check
from conformance.oci.registry import Repository, with_query

BLOBS = "Pushing blobs"
POST_PUT = "POST then PUT"
SINGLE = "Single POST"


@check(POST_PUT, MUST)
def upload_starts(repository: Repository) -> None:
    """POST without a body answers 202 and tells where to upload."""
    answer = repository.ask("POST", "blobs/uploads/")

    expect.status(answer, 202)
    expect.location(answer)


@check(POST_PUT, MUST)
def upload_location_is_unique(repository: Repository) -> None:
    """Every session has a location of its own."""
    locations = {repository.start_upload() for _ in range(3)}

    expect.that(len(locations) == 3, f"three sessions share their locations: {locations}")


@check(POST_PUT, MUST)
def upload_sessions_are_independent(repository: Repository) -> None:
    """Two sessions that are open at once each get their own blob."""
    blobs = [material.random_blob() for _ in range(2)]
    locations = [repository.start_upload() for _ in blobs]

    for content, location in zip(reversed(blobs), reversed(locations), strict=True):
        digest = material.digest_of(content)
        expect.status(repository.close_upload(location, digest, content), 201)

    for content in blobs:
        expect.body(repository.ask("GET", f"blobs/{material.digest_of(content)}"), content)


@check(POST_PUT, MUST)
def put_blob(repository: Repository) -> None:
    """PUT of all bytes answers 201 and tells where the blob is."""
    content = material.random_blob()

    answer = repository.close_upload(
        repository.start_upload(), material.digest_of(content), content
    )

    expect.status(answer, 201)
    expect.location(answer)


@check(POST_PUT, MUST)
def put_blob_location_is_pullable(repository: Repository) -> None:
    """The location that PUT answers holds the blob."""
    content = material.random_blob()
    answer = repository.close_upload(
        repository.start_upload(), material.digest_of(content), content
    )

    expect_pullable(repository, answer, content)


@check(POST_PUT, MUST)
def put_empty_blob(repository: Repository) -> None:
    """A blob may have no bytes at all."""
    digest = repository.push_blob(b"")

    answer = repository.ask("GET", f"blobs/{digest}")

    expect.status(answer, 200)
    expect.body(answer, b"")


@check(POST_PUT, MUST)
def put_blob_twice(repository: Repository) -> None:
    """A blob that is there already can be pushed again."""
    content = material.random_blob()
    repository.push_blob(content)

    digest = repository.push_blob(content)

    expect.body(repository.ask("GET", f"blobs/{digest}"), content)


@check(BLOBS, MUST)
def put_blob_sha512(repository: Repository) -> None:
    """A blob pushed by its sha512 digest is pulled by it, or 400 says it isn't supported."""
    content = material.random_blob()
    digest = material.digest_of(content, "sha512")

    pushed = repository.close_upload(repository.start_upload(), digest, content)

    if pushed.status_code == httpx.codes.BAD_REQUEST:
        raise expect.NotSupported(expect.describe(pushed))
    expect_pullable(repository, pushed, content)
    pulled = repository.ask("GET", f"blobs/{digest}")
    expect.status(pulled, 200)
    expect.body(pulled, content)


@check(BLOBS, MUST)
def put_blob_of_another_digest_is_not_stored(repository: Repository) -> None:
    """Bytes that don't match their digest are neither accepted nor served."""
    content = material.random_blob()
    wrong = material.digest_of(b"other than " + content)

    expect.refused(repository.close_upload(repository.start_upload(), wrong, content))

    expect.status(repository.ask("GET", f"blobs/{wrong}"), 404)


@check(BLOBS, SHOULD, since=DEV)
def put_blob_of_another_digest(repository: Repository) -> None:
    """PUT with a digest that doesn't match answers 400."""
    content = material.random_blob()
    for algorithm in ("sha256", "sha512"):
        wrong = material.digest_of(b"other than " + content, algorithm)
        expect.status(repository.close_upload(repository.start_upload(), wrong, content), 400)


@check(BLOBS, SHOULD, since=DEV)
def put_blob_of_a_malformed_digest(repository: Repository) -> None:
    """PUT with something that isn't a digest answers 400."""
    for wrong in ("sha256:abc", "sha256:" + "g" * 64, "sha256:", "nonsense", "sha256:" + "A" * 64):
        answer = repository.close_upload(repository.start_upload(), wrong, b"content")
        expect.status(answer, 400)


@check(BLOBS, SHOULD, since=DEV)
def put_blob_of_an_unsupported_algorithm(repository: Repository) -> None:
    """PUT with a digest of an algorithm nobody supports answers 400."""
    answer = repository.close_upload(repository.start_upload(), "crc7:abcdef", b"content")

    expect.status(answer, 400)


@check(BLOBS, SHOULD, since=DEV)
def put_blob_without_a_digest(repository: Repository) -> None:
    """PUT that names no digest answers 400."""
    answer = repository.registry.request("PUT", repository.start_upload(), content=b"content")

    expect.status(answer, 400)


@check(SINGLE, MUST)
def single_post(repository: Repository) -> None:
    """POST of all bytes answers 201 and where the blob is, or 202 and where to PUT it."""
    content = material.random_blob()
    digest = material.digest_of(content)

    answer = post_at_once(repository, digest, content)

    if answer.status_code == httpx.codes.ACCEPTED:
        closed = repository.close_upload(expect.location(answer), digest, content)
        expect_pullable(repository, closed, content)
        raise expect.NotSupported("the registry asks for a PUT after the POST")
    expect_pullable(repository, answer, content)


@check(SINGLE, MUST)
def single_post_sha512(repository: Repository) -> None:
    """A single POST takes every algorithm that a PUT takes."""
    content = material.random_blob()
    digest = material.digest_of(content, "sha512")

    answer = post_at_once(repository, digest, content)

    if answer.status_code in {httpx.codes.ACCEPTED, httpx.codes.BAD_REQUEST}:
        raise expect.NotSupported(expect.describe(answer))
    expect_pullable(repository, answer, content)
    expect.body(repository.ask("GET", f"blobs/{digest}"), content)


@check(BLOBS, SHOULD, since=DEV)
def single_post_of_another_digest(repository: Repository) -> None:
    """A single POST whose bytes don't match the digest answers 400."""
    content = material.random_blob()
    wrong = material.digest_of(b"other than " + content)

    answer = post_at_once(repository, wrong, content)

    if answer.status_code == httpx.codes.ACCEPTED:
        raise expect.NotSupported("the registry asks for a PUT after the POST")
    expect.status(answer, 400)
    expect.status(repository.ask("HEAD", f"blobs/{wrong}"), 404)


@check(BLOBS, SHOULD, since=DEV)
def single_post_of_a_malformed_digest(repository: Repository) -> None:
    """A single POST with something that isn't a digest answers 400."""
    answer = post_at_once(repository, "sha256:abc", b"content")

    if answer.status_code == httpx.codes.ACCEPTED:
        raise expect.NotSupported("the registry asks for a PUT after the POST")
    expect.status(answer, 400)


def post_at_once(repository: Repository, digest: str, content: bytes) -> httpx.Response:
    """Push a blob by a single POST, whatever comes of it."""
    return repository.ask(
        "POST",
        with_query("blobs/uploads/", "digest", digest),
        headers={"Content-Type": "application/octet-stream"},
        content=content,
    )


def expect_pullable(repository: Repository, answer: httpx.Response, content: bytes) -> None:
    """Expect 201 and the content at the location that came with it."""
    expect.status(answer, 201)
    pulled = repository.registry.request("GET", expect.location(answer))
    expect.status(pulled, 200)
    expect.body(pulled, content)
