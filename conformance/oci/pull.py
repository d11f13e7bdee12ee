"""Pulling manifests and blobs, and asking whether they exist (end-2, end-3)."""

import httpx

from conformance.oci import expect, material
from conformance.oci.check import MUST, SHOULD, check
from conformance.oci.material import Manifest
from conformance.oci.registry import Repository

MANIFESTS = "Pulling manifests"
BLOBS = "Pulling blobs"
EXISTENCE = "Checking if content exists in the registry"

UNKNOWN = (
    material.digest_of(b"never pushed by anybody"),
    material.digest_of(b"never pushed by anybody", "sha512"),
)
DIGEST_HEADER = "Docker-Content-Digest"


@check(MANIFESTS, MUST)
def pull_manifest_by_tag(repository: Repository) -> None:
    """GET by tag answers 200 with the bytes that were pushed."""
    image = repository.push_image("latest")

    answer = repository.get_manifest("latest")

    expect.status(answer, 200)
    expect.body(answer, image.content)


@check(MANIFESTS, MUST)
def pull_manifest_by_digest(repository: Repository) -> None:
    """GET by digest answers 200 with the bytes that were pushed."""
    image = repository.push_image()

    answer = repository.get_manifest(image.digest)

    expect.status(answer, 200)
    expect.body(answer, image.content)


@check(MANIFESTS, SHOULD, dev=MUST)
def pull_manifest_digest_header(repository: Repository) -> None:
    """GET of a manifest tells its digest in Docker-Content-Digest."""
    image = repository.push_image("latest")

    for reference in ("latest", image.digest):
        expect.header(repository.get_manifest(reference), DIGEST_HEADER)


@check(MANIFESTS, MUST)
def pull_manifest_digest_header_is_true(repository: Repository) -> None:
    """Docker-Content-Digest of a manifest, where sent, is a digest of the body."""
    image = repository.push_image("latest")

    for reference in ("latest", image.digest):
        expect_true_digest(repository.get_manifest(reference), image.content)


@check(MANIFESTS, SHOULD)
def pull_manifest_content_type(repository: Repository) -> None:
    """Content-Type of a manifest is the one it was pushed with."""
    image = repository.push_image("image")
    index = repository.push_manifest(material.index([image.descriptor()]), "index")

    for reference, manifest in (("image", image), ("index", index)):
        told = expect.header(repository.get_manifest(reference), "Content-Type")
        expect.that(
            told.partition(";")[0].strip() == manifest.media_type,
            f"GET of {reference} answered Content-Type: {told}, pushed was {manifest.media_type}",
        )


@check(MANIFESTS, SHOULD)
def pull_manifest_content_type_without_parameters(repository: Repository) -> None:
    """Content-Type of a manifest carries no parameters."""
    repository.push_image("latest")

    told = expect.header(repository.get_manifest("latest"), "Content-Type")

    expect.that(";" not in told, f"Content-Type: {told} has parameters")


@check(MANIFESTS, MUST)
def pull_manifest_of_an_unknown_tag(repository: Repository) -> None:
    """GET of a tag that isn't there answers 404."""
    repository.push_image("latest")

    expect.status(repository.get_manifest("absent"), 404)


@check(MANIFESTS, MUST)
def pull_manifest_of_an_unknown_digest(repository: Repository) -> None:
    """GET of a manifest by a digest that isn't there answers 404."""
    repository.push_image("latest")

    for digest in UNKNOWN:
        expect.status(repository.get_manifest(digest), 404)


@check("Pushing Manifests", MUST)
def pull_from_an_unknown_repository(repository: Repository) -> None:
    """GET of a manifest from a repository that was never pushed to answers 404."""
    expect.status(repository.get_manifest("latest"), 404)
    expect.status(repository.get_manifest(UNKNOWN[0]), 404)


@check(MANIFESTS, MUST)
def pull_manifest_of_another_repository(repository: Repository) -> None:
    """A manifest exists in the repository it was pushed to and in no other."""
    image = repository.push_image("latest")
    other = repository.sibling("other")
    other.push_image("other")

    expect.status(other.get_manifest("latest"), 404)
    expect.status(other.get_manifest(image.digest), 404)


@check(MANIFESTS, MUST)
def tag_of_every_allowed_form(repository: Repository) -> None:
    """A tag may be 128 characters long and hold letters, digits and the three marks."""
    image = repository.make_image()

    for tag in ("a" * 128, "_", "0", "V1.0_rc-1..", "A" + "._-" * 42):
        repository.push_manifest(image, tag)
        expect.body(repository.get_manifest(tag), image.content)


@check(MANIFESTS, MUST)
def tag_of_another_form_is_refused(repository: Repository) -> None:
    """What is neither a tag nor a digest doesn't name a manifest."""
    image = repository.make_image()

    for reference in ("a" * 129, "-dash", ".dot", "sp%20ace", "tilde~", "sha256:short"):
        expect.refused(repository.put_manifest(image, reference))
        expect.refused(repository.get_manifest(reference))


@check(MANIFESTS, MUST)
def name_of_every_allowed_form(repository: Repository) -> None:
    """A name may have many components, separators, and the words that URLs are made of."""
    deep = repository.below("a/b").ask("POST", "blobs/uploads/")
    if deep.status_code == httpx.codes.BAD_REQUEST and "NAME_INVALID" in deep.text:
        raise expect.NotSupported("names are not as deep as this")
    for name in ("a/b/c/d/e", "0", "x.y/z_1/z__2/z--3---4", "blobs/uploads", "manifests/tags/list"):
        named = repository.below(name)
        image = named.push_image("latest")
        expect.body(named.get_manifest("latest"), image.content)
        expect.that(
            expect.strings(named.ask("GET", "tags/list"), "tags") == ["latest"],
            f"tags of {named.name} aren't the one that was pushed",
        )


@check(MANIFESTS, MUST)
def name_of_another_form_is_refused(repository: Repository) -> None:
    """A name that breaks the grammar isn't accepted."""
    for name in ("Upper", "-dash", "dash-", "a..b", "a___b", ".dot", "a%20b", "a~b"):
        answer = repository.below(name).ask("POST", "blobs/uploads/")
        expect.refused(answer)


@check(BLOBS, MUST)
def pull_blob(repository: Repository) -> None:
    """GET of a blob answers 200 with the bytes that were pushed."""
    content = material.random_blob()
    digest = repository.push_blob(content)

    answer = repository.ask("GET", f"blobs/{digest}")

    expect.status(answer, 200)
    expect.body(answer, content)


@check(BLOBS, MUST)
def pull_big_blob(repository: Repository) -> None:
    """GET of a blob larger than any buffer answers 200 with all of its bytes."""
    content = material.random_blob(9 * 2**20 + 1)
    digest = repository.push_blob(content)

    answer = repository.ask("GET", f"blobs/{digest}")

    expect.status(answer, 200)
    expect.body(answer, content)


@check(BLOBS, SHOULD, dev=MUST)
def pull_blob_digest_header(repository: Repository) -> None:
    """GET of a blob tells its digest in Docker-Content-Digest."""
    digest = repository.push_blob(material.random_blob())

    expect.header(repository.ask("GET", f"blobs/{digest}"), DIGEST_HEADER)


@check(BLOBS, MUST)
def pull_blob_digest_header_is_true(repository: Repository) -> None:
    """Docker-Content-Digest of a blob, where sent, is a digest of the body."""
    content = material.random_blob()
    digest = repository.push_blob(content)

    expect_true_digest(repository.ask("GET", f"blobs/{digest}"), content)


@check(BLOBS, MUST)
def pull_unknown_blob(repository: Repository) -> None:
    """GET of a blob that isn't there answers 404, whatever the algorithm."""
    repository.push_image("latest")

    for digest in UNKNOWN:
        expect.status(repository.ask("GET", f"blobs/{digest}"), 404)


@check(BLOBS, MUST)
def pull_blob_of_another_repository(repository: Repository) -> None:
    """A blob exists in the repository it was pushed to and in no other."""
    digest = repository.push_blob(material.random_blob())
    other = repository.sibling("other")
    other.push_image("latest")

    expect.status(other.ask("GET", f"blobs/{digest}"), 404)
    expect.status(other.ask("HEAD", f"blobs/{digest}"), 404)


@check(EXISTENCE, MUST)
def head_manifest(repository: Repository) -> None:
    """HEAD of a manifest, by tag and by digest, answers 200 without a body."""
    image = repository.push_image("latest")

    for reference in ("latest", image.digest):
        answer = repository.get_manifest(reference, "HEAD")
        expect.status(answer, 200)
        expect.body(answer, b"")


@check(EXISTENCE, MUST)
def head_blob(repository: Repository) -> None:
    """HEAD of a blob answers 200 without a body."""
    digest = repository.push_blob(material.random_blob())

    answer = repository.ask("HEAD", f"blobs/{digest}")

    expect.status(answer, 200)
    expect.body(answer, b"")


@check(EXISTENCE, SHOULD, dev=MUST)
def head_manifest_digest_header(repository: Repository) -> None:
    """HEAD of a manifest tells its digest."""
    image = repository.push_image("latest")

    for reference in ("latest", image.digest):
        answer = repository.get_manifest(reference, "HEAD")
        expect.header(answer, DIGEST_HEADER, image.digest)


@check(EXISTENCE, SHOULD, dev=MUST)
def head_blob_digest_header(repository: Repository) -> None:
    """HEAD of a blob tells its digest."""
    digest = repository.push_blob(material.random_blob())

    expect.header(repository.ask("HEAD", f"blobs/{digest}"), DIGEST_HEADER, digest)


@check(EXISTENCE, SHOULD, dev=MUST)
def head_manifest_length(repository: Repository) -> None:
    """HEAD of a manifest tells its size in Content-Length."""
    image = repository.push_image("latest")

    for reference in ("latest", image.digest):
        answer = repository.get_manifest(reference, "HEAD")
        expect.header(answer, "Content-Length", str(len(image.content)))


@check(EXISTENCE, SHOULD, dev=MUST)
def head_blob_length(repository: Repository) -> None:
    """HEAD of a blob tells its size in Content-Length, also when there is nothing in it."""
    for content in (material.random_blob(777), b""):
        digest = repository.push_blob(content)
        answer = repository.ask("HEAD", f"blobs/{digest}")
        expect.header(answer, "Content-Length", str(len(content)))


@check(EXISTENCE, MUST)
def head_unknown_manifest(repository: Repository) -> None:
    """HEAD of a manifest that isn't there answers 404."""
    repository.push_image("latest")

    for reference in ("absent", *UNKNOWN):
        expect.status(repository.get_manifest(reference, "HEAD"), 404)


@check(EXISTENCE, MUST)
def head_unknown_blob(repository: Repository) -> None:
    """HEAD of a blob that isn't there answers 404."""
    repository.push_image("latest")

    for digest in UNKNOWN:
        expect.status(repository.ask("HEAD", f"blobs/{digest}"), 404)


@check(BLOBS, MUST)
def pull_image_of_two_platforms(repository: Repository) -> None:
    """An index leads to its images, and those to their blobs."""
    children: list[Manifest] = [repository.push_image() for _ in range(2)]
    repository.push_manifest(material.index([child.descriptor() for child in children]), "latest")

    listed = expect.objects(repository.get_manifest("latest"), "manifests")

    for entry in listed:
        child = repository.get_manifest(entry["digest"])
        expect.status(child, 200)
        parts = [expect.json_object(child)["config"], *expect.objects(child, "layers")]
        for part in parts:
            blob = repository.ask("GET", f"blobs/{part['digest']}")
            expect.status(blob, 200)
            expect.that(
                material.digest_of(blob.content) == part["digest"],
                f"{expect.describe(blob)} with bytes of another digest",
            )


def expect_true_digest(answer: httpx.Response, content: bytes) -> None:
    """Expect that a digest header, if there is one, is a digest of the content."""
    expect.status(answer, 200)
    told = answer.headers.get(DIGEST_HEADER)
    if told is None:
        return
    algorithm = told.partition(":")[0]
    known = algorithm in {"sha256", "sha384", "sha512"}
    expect.that(known, f"{expect.describe(answer)} with {DIGEST_HEADER}: {told}, unknown algorithm")
    expect.header(answer, DIGEST_HEADER, material.digest_of(content, algorithm))
