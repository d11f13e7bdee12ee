"""Pushing blobs in chunks, asking how far an upload is, and giving it up (end-4c, 5, 6, 13, 14)."""

import httpx

from conformance.oci import expect, material
from conformance.oci.check import DEV, MUST, SHOULD, check
from conformance.oci.push import expect_pullable
from conformance.oci.registry import Repository, chunk_headers

CHUNKS = "Pushing a blob in chunks"
CANCEL = "Cancel a blob upload"
BLOBS = "Pushing blobs"
ENDPOINTS = "Endpoints"

CHUNK = 2048


@check(CHUNKS, MUST)
def chunk_is_accepted(repository: Repository) -> None:
    """PATCH answers 202 and tells where the next chunk goes."""
    answer = repository.send_chunk(*begin(repository), 0)

    expect.status(answer, 202)
    expect.location(answer)


@check(CHUNKS, MUST)
def chunk_range(repository: Repository) -> None:
    """PATCH tells in Range the position of the last byte the registry has."""
    location, size = repository.start_upload(), chunk_size(repository)

    for number in (1, 2, 3):
        answer = repository.send_chunk(location, material.random_blob(size), (number - 1) * size)
        expect.status(answer, 202)
        expect.header(answer, "Range", f"0-{number * size - 1}")
        location = expect.location(answer)


@check(CHUNKS, MUST)
def chunks_make_a_blob(repository: Repository) -> None:
    """Chunks in PATCHes and a PUT without a body make the blob."""
    chunks = [material.random_blob(chunk_size(repository)) for _ in range(2)] + [b"the last"]

    answer = push_chunks(repository, chunks)

    expect_pullable(repository, answer, b"".join(chunks))


@check(CHUNKS, MUST)
def chunks_make_a_blob_sha512(repository: Repository) -> None:
    """Chunks make a blob of any algorithm that a PUT takes."""
    chunks = [material.random_blob(chunk_size(repository)), b"the last"]

    answer = push_chunks(repository, chunks, algorithm="sha512")

    if answer.status_code == httpx.codes.BAD_REQUEST:
        raise expect.NotSupported(expect.describe(answer))
    expect_pullable(repository, answer, b"".join(chunks))


@check(CHUNKS, MUST)
def last_chunk_in_the_put(repository: Repository) -> None:
    """The closing PUT may bring the last chunk."""
    first, last = material.random_blob(chunk_size(repository)), b"the last"
    location = next_location(repository.send_chunk(repository.start_upload(), first, 0))

    answer = repository.close_upload(
        location,
        material.digest_of(first + last),
        last,
        {"Content-Range": f"{len(first)}-{len(first + last) - 1}"},
    )

    expect_pullable(repository, answer, first + last)


@check(CHUNKS, MUST)
def only_chunk_in_the_put(repository: Repository) -> None:
    """The closing PUT may bring the only chunk, and say where it belongs."""
    content = material.random_blob()

    answer = repository.close_upload(
        repository.start_upload(),
        material.digest_of(content),
        content,
        {"Content-Range": f"0-{len(content) - 1}"},
    )

    expect_pullable(repository, answer, content)


@check(CHUNKS, MUST)
def first_chunk_not_at_the_beginning(repository: Repository) -> None:
    """A first chunk that doesn't begin with 0 answers 416."""
    location, content = begin(repository)

    expect.status(repository.send_chunk(location, content, 1), 416)


@check(CHUNKS, MUST)
def chunk_that_skips_bytes(repository: Repository) -> None:
    """A chunk that begins after the next byte answers 416."""
    location, content = begin(repository)
    location = next_location(repository.send_chunk(location, content, 0))

    expect.status(repository.send_chunk(location, content, len(content) + 1), 416)


@check(CHUNKS, MUST)
def chunk_that_repeats_bytes(repository: Repository) -> None:
    """A chunk that the registry has already answers 416."""
    location, content = begin(repository)
    location = next_location(repository.send_chunk(location, content, 0))

    expect.status(repository.send_chunk(location, content, 0), 416)


@check(CHUNKS, MUST, since=DEV)
def last_chunk_out_of_order(repository: Repository) -> None:
    """A last chunk in the PUT that doesn't follow the others answers 416."""
    location, content = begin(repository)
    location = next_location(repository.send_chunk(location, content, 0))
    last = material.random_blob()
    digest = material.digest_of(content + last)

    for start in (len(content) + 1, 0):
        answer = repository.close_upload(location, digest, last, chunk_headers(last, start))
        expect.status(answer, 416)


@check(CHUNKS, MUST)
def upload_goes_on_after_416(repository: Repository) -> None:
    """A chunk out of order spoils nothing: the status tells how to go on, and the blob is whole."""
    first, second = (material.random_blob(chunk_size(repository)) for _ in range(2))
    location = next_location(repository.send_chunk(repository.start_upload(), first, 0))
    expect.status(repository.send_chunk(location, second, 2 * len(first)), 416)

    status = repository.registry.request("GET", location)

    expect.status(status, 204)
    expect.header(status, "Range", f"0-{len(first) - 1}")
    location = next_location(repository.send_chunk(expect.location(status), second, len(first)))
    answer = repository.close_upload(location, material.digest_of(first + second))
    expect_pullable(repository, answer, first + second)


@check(CHUNKS, MUST, since=DEV)
def upload_goes_on_after_416_to_the_put(repository: Repository) -> None:
    """A PUT out of order spoils nothing; its own URL, digest and all, tells the status."""
    first, last = material.random_blob(chunk_size(repository)), b"the last"
    digest = material.digest_of(first + last)
    location = next_location(repository.send_chunk(repository.start_upload(), first, 0))
    refused = repository.close_upload(location, digest, last, chunk_headers(last, 0))
    expect.status(refused, 416)

    status = repository.registry.request("GET", str(refused.request.url))

    expect.status(status, 204)
    expect.header(status, "Range", f"0-{len(first) - 1}")
    answer = repository.close_upload(
        expect.location(status),
        digest,
        last,
        chunk_headers(last, len(first)),
    )
    expect_pullable(repository, answer, first + last)


@check(CHUNKS, MUST)
def upload_status(repository: Repository) -> None:
    """GET of an active upload answers 204 with its location and the position of the last byte."""
    location, content = begin(repository)
    location = next_location(repository.send_chunk(location, content, 0))

    answer = repository.registry.request("GET", location)

    expect.status(answer, 204)
    expect.location(answer)
    expect.header(answer, "Range", f"0-{len(content) - 1}")


@check(CHUNKS, MUST)
def upload_status_of_a_new_session(repository: Repository) -> None:
    """GET of an upload without any bytes answers 204 with a location and a Range too."""
    answer = repository.registry.request("GET", repository.start_upload())

    expect.status(answer, 204)
    expect.location(answer)
    expect.header(answer, "Range")


@check(CHUNKS, MUST)
def upload_status_at_an_earlier_location(repository: Repository) -> None:
    """The location of the POST still tells the status after a PATCH has answered another one."""
    first, content = begin(repository)
    expect.status(repository.send_chunk(first, content, 0), 202)

    answer = repository.registry.request("GET", first)

    expect.status(answer, 204)
    expect.header(answer, "Range", f"0-{len(content) - 1}")


@check(CHUNKS, SHOULD)
def upload_goes_on_where_the_status_says(repository: Repository) -> None:
    """The location that the status tells takes the next chunk."""
    first, second = (material.random_blob(chunk_size(repository)) for _ in range(2))
    location = next_location(repository.send_chunk(repository.start_upload(), first, 0))

    status = repository.registry.request("GET", location)

    answer = repository.send_chunk(expect.location(status), second, len(first))
    expect.status(answer, 202)


@check(CHUNKS, SHOULD)
def small_chunks_are_taken_or_announced(repository: Repository) -> None:
    """A smallest chunk size is told in OCI-Chunk-Min-Length; without it any size is taken."""
    answer = repository.ask("POST", "blobs/uploads/")
    told = answer.headers.get("OCI-Chunk-Min-Length")
    if told is not None:
        expect.that(told.isdigit(), f"OCI-Chunk-Min-Length: {told}, expected a number of bytes")
        return

    location = expect.location(answer)
    for start in (0, 1, 2):
        location = next_location(repository.send_chunk(location, b"x", start))


@check(CHUNKS, MUST)
def upload_is_gone_after_the_put(repository: Repository) -> None:
    """A session that was closed can't be continued."""
    location, content = begin(repository)
    expect.status(repository.close_upload(location, material.digest_of(content), content), 201)

    expect.refused(repository.send_chunk(location, content, 0))


@check(ENDPOINTS, SHOULD)
def upload_status_after_the_put(repository: Repository) -> None:
    """GET of a session that was closed answers 404."""
    location, content = begin(repository)
    expect.status(repository.close_upload(location, material.digest_of(content), content), 201)

    expect.status(repository.registry.request("GET", location), 404)


@check(CHUNKS, SHOULD, since=DEV)
def upload_of_a_named_algorithm(repository: Repository) -> None:
    """POST with digest-algorithm begins an upload for a digest of that algorithm."""
    answer = repository.ask("POST", "blobs/uploads/?digest-algorithm=sha512")
    if answer.status_code == httpx.codes.BAD_REQUEST:
        raise expect.NotSupported(expect.describe(answer))
    expect.status(answer, 202)
    first, second = material.random_blob(chunk_size(repository)), b"the last"
    digest = material.digest_of(first + second, "sha512")

    location = next_location(repository.send_chunk(expect.location(answer), first, 0))
    location = next_location(repository.send_chunk(location, second, len(first)))

    expect_pullable(repository, repository.close_upload(location, digest), first + second)


@check(BLOBS, SHOULD, since=DEV)
def upload_of_an_unsupported_algorithm(repository: Repository) -> None:
    """POST with a digest-algorithm that nobody supports answers 400."""
    answer = repository.ask("POST", "blobs/uploads/?digest-algorithm=crc7")

    expect.status(answer, 400)


@check(BLOBS, SHOULD, since=DEV)
def chunks_of_another_digest(repository: Repository) -> None:
    """The closing PUT of chunks that don't match the digest answers 400."""
    location, content = begin(repository)
    location = next_location(repository.send_chunk(location, content, 0))
    wrong = material.digest_of(b"other than " + content)

    expect.status(repository.close_upload(location, wrong), 400)
    expect.status(repository.ask("HEAD", f"blobs/{wrong}"), 404)


@check(CANCEL, SHOULD, since=DEV)
def cancel_upload(repository: Repository) -> None:
    """DELETE of a session answers 204."""
    for location in (repository.start_upload(), with_a_chunk(repository)):
        expect.status(repository.registry.request("DELETE", location), 204)


@check(CANCEL, SHOULD, since=DEV)
def cancelled_upload_is_gone(repository: Repository) -> None:
    """A session that was given up can't be asked nor continued."""
    location = with_a_chunk(repository)
    if not repository.registry.request("DELETE", location).is_success:
        raise expect.NotSupported("the registry doesn't cancel uploads")

    expect.status(repository.registry.request("GET", location), 404)
    expect.refused(repository.close_upload(location, material.digest_of(b"late"), b"late"))


def chunk_size(repository: Repository) -> int:
    """Return a size that the registry takes for chunks that aren't the last."""
    answer = repository.ask("POST", "blobs/uploads/")
    told = answer.headers.get("OCI-Chunk-Min-Length", "")
    return max(CHUNK, int(told) if told.isdigit() else 0)


def begin(repository: Repository) -> tuple[str, bytes]:
    """Start an upload and return its location, and a chunk large enough for this registry."""
    return repository.start_upload(), material.random_blob(chunk_size(repository))


def next_location(answer: httpx.Response) -> str:
    """Expect that a chunk was taken and return where the next one goes."""
    expect.status(answer, 202)
    return expect.location(answer)


def with_a_chunk(repository: Repository) -> str:
    """Start an upload, send a chunk and return where the next one goes."""
    location, content = begin(repository)
    return next_location(repository.send_chunk(location, content, 0))


def push_chunks(
    repository: Repository, chunks: list[bytes], algorithm: str = "sha256"
) -> httpx.Response:
    """Send chunks in order and close the session with an empty PUT."""
    location, start = repository.start_upload(), 0
    for chunk in chunks:
        location = next_location(repository.send_chunk(location, chunk, start))
        start += len(chunk)
    return repository.close_upload(location, material.digest_of(b"".join(chunks), algorithm))
