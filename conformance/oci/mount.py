"""Mounting a blob from another repository (end-11)."""

import httpx

from conformance.oci import expect, material
from conformance.oci.check import MUST, SHOULD, check
from conformance.oci.push import expect_pullable
from conformance.oci.registry import Repository

SECTION = "Mounting a blob from another repository"


@check(SECTION, MUST)
def mount_blob(repository: Repository) -> None:
    """A mount answers 201 and where the blob is now."""
    content, digest, source = push_elsewhere(repository)

    answer = mount(repository, digest, source)

    expect.status(answer, 201, 202)
    if answer.status_code == httpx.codes.ACCEPTED:
        raise expect.NotSupported("the registry asks for the upload instead")
    expect_pullable(repository, answer, content)


@check(SECTION, MUST)
def mount_blob_sha512(repository: Repository) -> None:
    """A blob can be mounted by its sha512 digest."""
    content = material.random_blob()
    source = repository.sibling("source")
    digest = material.digest_of(content, "sha512")
    pushed = source.close_upload(source.start_upload(), digest, content)
    if pushed.status_code == httpx.codes.BAD_REQUEST:
        raise expect.NotSupported(expect.describe(pushed))

    answer = mount(repository, digest, source)

    expect.status(answer, 201, 202)
    if answer.status_code == httpx.codes.ACCEPTED:
        raise expect.NotSupported("the registry asks for the upload instead")
    expect_pullable(repository, answer, content)


@check(SECTION, SHOULD)
def mount_of_an_unknown_blob(repository: Repository) -> None:
    """A mount of what the source doesn't have answers 202 with a session that works."""
    _, _, source = push_elsewhere(repository)
    content = material.random_blob()

    answer = mount(repository, material.digest_of(content), source)

    expect_session(repository, answer, content)


@check(SECTION, SHOULD)
def mount_from_an_unknown_repository(repository: Repository) -> None:
    """A mount from a repository that nobody knows answers 202 with a session that works."""
    content = material.random_blob()

    answer = mount(repository, material.digest_of(content), repository.sibling("nowhere"))

    expect_session(repository, answer, content)


@check(SECTION, SHOULD)
def mount_without_from(repository: Repository) -> None:
    """Without a source the registry may look for the blob itself; otherwise it answers 202."""
    content, digest, _ = push_elsewhere(repository)

    answer = repository.ask("POST", f"blobs/uploads/?mount={digest}")

    if answer.status_code == httpx.codes.ACCEPTED:
        expect_session(repository, answer, content)
        raise expect.NotSupported("the registry wants to be told the source")
    expect_pullable(repository, answer, content)


@check(SECTION, SHOULD)
def mount_without_from_of_an_unknown_blob(repository: Repository) -> None:
    """Without a source and without the blob anywhere, 202 comes with a session that works."""
    content = material.random_blob()

    answer = repository.ask("POST", f"blobs/uploads/?mount={material.digest_of(content)}")

    expect_session(repository, answer, content)


def push_elsewhere(repository: Repository) -> tuple[bytes, str, Repository]:
    """Push a blob to another repository."""
    content = material.random_blob()
    source = repository.sibling("source")
    return content, source.push_blob(content), source


def mount(repository: Repository, digest: str, source: Repository) -> httpx.Response:
    """Ask for a mount, whatever comes of it."""
    return repository.ask("POST", f"blobs/uploads/?mount={digest}&from={source.name}")


def expect_session(repository: Repository, answer: httpx.Response, content: bytes) -> None:
    """Expect 202 with a session that takes the content."""
    expect.status(answer, 202)
    digest = material.digest_of(content)
    expect.status(repository.close_upload(expect.location(answer), digest, content), 201)
