"""Deleting tags, manifests and blobs (end-9, end-10).

A registry may leave out each of the three; then it has to say so with 400 or 405.
"""

import httpx

from conformance.oci import expect, material
from conformance.oci.check import MUST, SHOULD, check
from conformance.oci.registry import Repository

TAGS = "Deleting tags"
MANIFESTS = "Deleting Manifests"
BLOBS = "Deleting Blobs"
ENDPOINTS = "Endpoints"

REFUSED = (httpx.codes.BAD_REQUEST, httpx.codes.METHOD_NOT_ALLOWED)


@check(TAGS, MUST)
def delete_tag(repository: Repository) -> None:
    """DELETE of a tag answers 202, or 400 or 405 where deletion is disabled."""
    repository.push_image("latest")

    expect.status(repository.ask("DELETE", "manifests/latest"), 202, *REFUSED)


@check(TAGS, MUST)
def deleted_tag_is_gone(repository: Repository) -> None:
    """A tag that was deleted is neither found nor listed."""
    repository.push_image("gone")
    repository.push_image("kept")
    deleted(repository.ask("DELETE", "manifests/gone"))

    for method in ("GET", "HEAD"):
        expect.status(repository.get_manifest("gone", method), 404)
    tags = expect.strings(repository.ask("GET", "tags/list"), "tags")
    expect.that(tags == ["kept"], f"tags are {tags}, expected only the one that wasn't deleted")


@check(TAGS, SHOULD)
def deleting_a_tag_keeps_the_manifest(repository: Repository) -> None:
    """A manifest whose tag was deleted is still there by its digest and by its other tags."""
    image = repository.push_image("gone")
    repository.push_manifest(image, "kept")
    deleted(repository.ask("DELETE", "manifests/gone"))

    for reference in (image.digest, "kept"):
        expect.body(repository.get_manifest(reference), image.content)


@check(ENDPOINTS, SHOULD)
def delete_unknown_tag(repository: Repository) -> None:
    """DELETE of a tag that isn't there answers 404, or 400 or 405 where deletion is disabled."""
    repository.push_image("latest")

    expect.status(repository.ask("DELETE", "manifests/absent"), 404, *REFUSED)


@check(MANIFESTS, MUST)
def delete_manifest(repository: Repository) -> None:
    """DELETE of a manifest answers 202, or 400 or 405 where deletion is disabled."""
    image = repository.push_image("latest")

    expect.status(repository.ask("DELETE", f"manifests/{image.digest}"), 202, *REFUSED)


@check(MANIFESTS, MUST)
def deleted_manifest_is_gone(repository: Repository) -> None:
    """A manifest that was deleted isn't found by its digest nor by any of its tags."""
    image = repository.push_image("one")
    repository.push_manifest(image, "two")
    other = repository.push_image("other")
    deleted(repository.ask("DELETE", f"manifests/{image.digest}"))

    for reference in (image.digest, "one", "two"):
        for method in ("GET", "HEAD"):
            expect.status(repository.get_manifest(reference, method), 404)
    expect.body(repository.get_manifest("other"), other.content)


@check(MANIFESTS, MUST)
def deleted_manifest_can_be_pushed_again(repository: Repository) -> None:
    """A manifest that was deleted can come back."""
    image = repository.push_image("latest")
    deleted(repository.ask("DELETE", f"manifests/{image.digest}"))

    repository.push_manifest(image, "latest")

    expect.body(repository.get_manifest("latest"), image.content)


@check(MANIFESTS, MUST)
def delete_from_an_unknown_repository(repository: Repository) -> None:
    """DELETE in a repository that isn't there answers 404, or 400 or 405 where it is disabled."""
    digest = material.digest_of(b"anything")

    expect.status(repository.ask("DELETE", f"manifests/{digest}"), 404, *REFUSED)


@check(ENDPOINTS, SHOULD)
def delete_unknown_manifest(repository: Repository) -> None:
    """DELETE of a manifest that isn't there answers 404, or 400 or 405 where it is disabled."""
    repository.push_image("latest")
    digest = material.digest_of(b"anything")

    expect.status(repository.ask("DELETE", f"manifests/{digest}"), 404, *REFUSED)


@check("Listing Referrers", MUST)
def deleted_referrer_is_not_listed(repository: Repository) -> None:
    """The list of referrers holds manifests of the repository, so a deleted one leaves it."""
    subject = repository.push_image("latest")
    gone = repository.push_image(subject=subject.descriptor())
    kept = repository.push_image(subject=subject.descriptor())
    deleted(repository.ask("DELETE", f"manifests/{gone.digest}"))

    answer = repository.ask("GET", f"referrers/{subject.digest}")

    if answer.status_code == httpx.codes.NOT_FOUND:
        raise expect.NotSupported("the registry has no referrers API")
    told = [entry.get("digest") for entry in expect.objects(answer, "manifests")]
    expect.that(told == [kept.digest], f"{expect.describe(answer)}, expected {kept.digest}")


@check(BLOBS, MUST)
def delete_blob(repository: Repository) -> None:
    """DELETE of a blob answers 202, or 400 or 405 where deletion is disabled."""
    digest = repository.push_blob(material.random_blob())

    expect.status(repository.ask("DELETE", f"blobs/{digest}"), 202, *REFUSED)


@check(BLOBS, MUST)
def deleted_blob_is_gone(repository: Repository) -> None:
    """A blob that was deleted isn't found, and stays in other repositories."""
    content = material.random_blob()
    other = repository.sibling("other")
    digest = repository.push_blob(content)
    other.push_blob(content)
    deleted(repository.ask("DELETE", f"blobs/{digest}"))

    for method in ("GET", "HEAD"):
        expect.status(repository.ask(method, f"blobs/{digest}"), 404)
    expect.body(other.ask("GET", f"blobs/{digest}"), content)


@check(BLOBS, MUST)
def deleted_blob_can_be_pushed_again(repository: Repository) -> None:
    """A blob that was deleted can come back."""
    content = material.random_blob()
    digest = repository.push_blob(content)
    deleted(repository.ask("DELETE", f"blobs/{digest}"))

    repository.push_blob(content)

    expect.body(repository.ask("GET", f"blobs/{digest}"), content)


@check(BLOBS, MUST)
def delete_unknown_blob(repository: Repository) -> None:
    """DELETE of a blob that isn't there answers 404, or 400 or 405 where deletion is disabled."""
    repository.push_image("latest")
    digest = material.digest_of(b"anything")

    expect.status(repository.ask("DELETE", f"blobs/{digest}"), 404, *REFUSED)


def deleted(answer: httpx.Response) -> None:
    """Expect that a deletion went through, and leave out the check where deletion is disabled."""
    if answer.status_code in REFUSED:
        raise expect.NotSupported(expect.describe(answer))
    expect.status(answer, 202)
