"""Range requests on blobs, as RFC 9110 section 14 has them (end-2).

The specification asks for the RFC as a whole with one SHOULD, so all of these are SHOULD.
"""

import httpx

from conformance.oci import expect, material
from conformance.oci.check import SHOULD, check
from conformance.oci.registry import Repository

SECTION = "Pulling blobs"
SIZE = 2048


@check(SECTION, SHOULD)
def range_of_some_bytes(repository: Repository) -> None:
    """A first and a last position select the bytes in between, both included."""
    expect_part(repository, "bytes=500-1499", 500, 1499)


@check(SECTION, SHOULD)
def range_of_one_byte(repository: Repository) -> None:
    """A range may be a single byte."""
    expect_part(repository, "bytes=0-0", 0, 0)


@check(SECTION, SHOULD)
def range_to_the_end(repository: Repository) -> None:
    """Without a last position the range goes to the end."""
    expect_part(repository, "bytes=500-", 500, SIZE - 1)


@check(SECTION, SHOULD)
def range_of_the_last_bytes(repository: Repository) -> None:
    """Without a first position the number counts from the end."""
    expect_part(repository, "bytes=-500", SIZE - 500, SIZE - 1)


@check(SECTION, SHOULD)
def range_beyond_the_end_is_cut(repository: Repository) -> None:
    """A last position beyond the end means the end."""
    expect_part(repository, "bytes=2000-5000", 2000, SIZE - 1)


@check(SECTION, SHOULD)
def range_of_more_last_bytes_than_there_are(repository: Repository) -> None:
    """A suffix longer than the blob selects all of it."""
    content, digest = push(repository)

    answer = ask(repository, digest, "bytes=-5000")

    expect.status(answer, 206, 200)
    expect.body(answer, content)


@check(SECTION, SHOULD)
def range_after_the_end(repository: Repository) -> None:
    """A range that begins after the end answers 416 and tells the size."""
    _, digest = push(repository)

    answer = ask(repository, digest, "bytes=5000-10000")

    not_ignored(answer)
    expect.status(answer, 416)
    expect.header(answer, "Content-Range", f"bytes */{SIZE}")


@check(SECTION, SHOULD)
def range_with_the_ends_swapped(repository: Repository) -> None:
    """A range whose last position is before the first is refused or ignored."""
    content, digest = push(repository)

    answer = ask(repository, digest, "bytes=500-0")

    expect.status(answer, 416, 400, 200)
    if answer.status_code == httpx.codes.OK:
        expect.body(answer, content)


@check(SECTION, SHOULD)
def range_of_another_unit_is_ignored(repository: Repository) -> None:
    """A range of a unit nobody knows doesn't change the answer."""
    content, digest = push(repository)

    answer = ask(repository, digest, "pages=1-2")

    expect.status(answer, 200)
    expect.body(answer, content)


@check(SECTION, SHOULD)
def range_of_several_parts(repository: Repository) -> None:
    """Several ranges answer the parts, or the whole, or 400; podman knows all three."""
    content, digest = push(repository)

    answer = ask(repository, digest, "bytes=0-99,1000-1099")

    expect.status(answer, 206, 200, 400)
    if answer.status_code == httpx.codes.OK:
        expect.body(answer, content)
    if answer.status_code == httpx.codes.PARTIAL_CONTENT:
        kind = expect.header(answer, "Content-Type")
        expect.that(kind.startswith("multipart/byteranges"), f"206 for two ranges is {kind}")
        for part in (content[:100], content[1000:1100]):
            expect.that(part in answer.content, "206 for two ranges lacks one of them")


@check(SECTION, SHOULD)
def range_on_condition(repository: Repository) -> None:
    """If-Range with the blob's own validator gives the part, with another one the whole."""
    content, digest = push(repository)
    validator = repository.ask("GET", f"blobs/{digest}").headers.get("ETag")
    if validator is None:
        raise expect.NotSupported("no ETag, so there is nothing to make a condition of")

    same = ask(repository, digest, "bytes=0-9", ("If-Range", validator))
    other = ask(repository, digest, "bytes=0-9", ("If-Range", '"something else"'))

    not_ignored(same)
    expect.status(same, 206)
    expect.body(same, content[:10])
    expect.status(other, 200)
    expect.body(other, content)


@check(SECTION, SHOULD)
def range_resumes_a_pull(repository: Repository) -> None:
    """What a broken pull lacks can be fetched alone and completes the blob."""
    content, digest = push(repository)

    rest = ask(repository, digest, f"bytes={SIZE // 3}-")

    not_ignored(rest)
    expect.that(
        material.digest_of(content[: SIZE // 3] + rest.content) == digest,
        f"{expect.describe(rest)} with bytes that don't continue the blob",
    )


def push(repository: Repository) -> tuple[bytes, str]:
    """Push a blob of the size that the ranges here are made for."""
    content = material.random_blob(SIZE)
    return content, repository.push_blob(content)


def ask(
    repository: Repository, digest: str, value: str, condition: tuple[str, str] | None = None
) -> httpx.Response:
    """Ask for a range of a blob."""
    headers = [("Range", value), *([condition] if condition else [])]
    return repository.ask("GET", f"blobs/{digest}", headers=headers)


def not_ignored(answer: httpx.Response) -> None:
    """Tell apart a registry that answers 200 to every range: it leaves the feature out."""
    if answer.status_code == httpx.codes.OK:
        raise expect.NotSupported("the registry answers the whole blob")


def expect_part(repository: Repository, value: str, first: int, last: int) -> None:
    """Expect 206 with the bytes and the headers of one range."""
    content, digest = push(repository)

    answer = ask(repository, digest, value)

    not_ignored(answer)
    expect.status(answer, 206)
    expect.header(answer, "Content-Length", str(last - first + 1))
    told = expect.header(answer, "Content-Range")
    expect.that(
        told in {f"bytes {first}-{last}/{SIZE}", f"bytes {first}-{last}/*"},
        f"{expect.describe(answer)} with Content-Range: {told}",
    )
    expect.body(answer, content[first : last + 1])
