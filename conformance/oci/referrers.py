"""Listing the manifests that have a subject (end-12a, end-12b).

A registry without this API answers 404, which is what clients take for "not supported".
"""

import httpx

from conformance.oci import expect, material
from conformance.oci.check import MUST, SHOULD, check
from conformance.oci.manifests import needs_referrers
from conformance.oci.material import Json, Manifest
from conformance.oci.registry import Repository

SECTION = "Listing Referrers"
ENABLING = "Enabling the Referrers API"

SBOM = "application/vnd.example.sbom.v1"
SIGNATURE = "application/vnd.example.signature.v1"


@check(SECTION, MUST)
def list_referrers(repository: Repository) -> None:
    """The list answers 200 with an image index and its media type as the Content-Type."""
    subject = with_subject(repository)
    repository.push_image(subject=subject.descriptor())

    answer = repository.ask("GET", f"referrers/{subject.digest}")

    expect_index(answer)
    expect.that(
        len(expect.objects(answer, "manifests")) == 1, f"{expect.describe(answer)}, expected one"
    )


@check(SECTION, MUST)
def list_referrers_of_nothing(repository: Repository) -> None:
    """The list of a digest that nothing refers to, known or not, is an empty index."""
    subject = with_subject(repository)

    for digest in (subject.digest, material.digest_of(material.random_blob(), "sha512")):
        answer = repository.ask("GET", f"referrers/{digest}")
        expect_index(answer)
        expect.that(expect.objects(answer, "manifests") == [], f"{expect.describe(answer)}")


@check(SECTION, MUST)
def list_referrers_is_never_404(repository: Repository) -> None:
    """A registry with this API never answers 404, not even for a repository nobody pushed to."""
    known = repository.sibling("known")
    needs_referrers(known, known.push_image().digest)

    answer = repository.ask("GET", f"referrers/{material.digest_of(b'anything')}")

    expect_index(answer)


@check(SECTION, MUST)
def list_referrers_of_a_malformed_digest(repository: Repository) -> None:
    """The list of something that isn't a digest answers 400."""
    with_subject(repository)

    for digest in ("sha256:abc", "nonsense", "sha256:" + "g" * 64):
        expect.status(repository.ask("GET", f"referrers/{digest}"), 400)


@check(SECTION, MUST)
def referrer_descriptor(repository: Repository) -> None:
    """Each descriptor has the media type, digest and size of the manifest."""
    subject = with_subject(repository)
    image = repository.push_image(subject=subject.descriptor())
    index = repository.push_manifest(material.index([], subject=subject.descriptor()))

    listed = by_digest(repository, subject)

    for manifest in (image, index):
        told = {name: listed[manifest.digest].get(name) for name in ("mediaType", "digest", "size")}
        expect.that(
            told == manifest.descriptor(), f"listed as {told}, expected {manifest.descriptor()}"
        )


@check(SECTION, MUST)
def referrer_artifact_type(repository: Repository) -> None:
    """The artifact type is that of the image or index."""
    subject = with_subject(repository)
    image = repository.push_image(subject=subject.descriptor(), artifactType=SBOM)
    index = repository.push_manifest(
        material.index([], subject=subject.descriptor(), artifactType=SIGNATURE)
    )

    listed = by_digest(repository, subject)

    expect_artifact_type(listed[image.digest], SBOM)
    expect_artifact_type(listed[index.digest], SIGNATURE)


@check(SECTION, MUST)
def referrer_artifact_type_of_the_config(repository: Repository) -> None:
    """The artifact type of an image without one, or an empty one, is its config's media type."""
    subject = with_subject(repository)
    config = repository.make_config(SIGNATURE)
    bare = repository.push_manifest(material.image(config, [], subject=subject.descriptor()))
    empty = repository.push_manifest(
        material.image(config, [], subject=subject.descriptor(), artifactType="")
    )

    listed = by_digest(repository, subject)

    expect_artifact_type(listed[bare.digest], SIGNATURE)
    expect_artifact_type(listed[empty.digest], SIGNATURE)


@check(SECTION, MUST)
def referrer_index_without_artifact_type(repository: Repository) -> None:
    """The descriptor of an index without an artifact type has none."""
    subject = with_subject(repository)
    index = repository.push_manifest(material.index([], subject=subject.descriptor()))

    entry = by_digest(repository, subject)[index.digest]

    expect.that("artifactType" not in entry, f"listed as {entry}, expected no artifactType")


@check(SECTION, MUST)
def referrer_annotations(repository: Repository) -> None:
    """Each descriptor has the annotations of the manifest."""
    subject = with_subject(repository)
    annotations = {"org.example.one": "1", "org.example.größe": "\U0001f433"}
    image = repository.push_image(subject=subject.descriptor(), annotations=annotations)
    index = repository.push_manifest(
        material.index([], subject=subject.descriptor(), annotations=annotations)
    )

    listed = by_digest(repository, subject)

    for manifest in (image, index):
        told = listed[manifest.digest].get("annotations") or {}
        expect.that(
            annotations.items() <= told.items(), f"annotations {told}, expected {annotations}"
        )


@check(SECTION, MUST)
def list_referrers_of_this_subject_only(repository: Repository) -> None:
    """The list holds what refers to the subject in this repository, and nothing else."""
    subject = with_subject(repository)
    image = repository.push_image(subject=subject.descriptor())
    repository.push_image(subject=repository.push_image().descriptor())
    repository.sibling("other").push_image(subject=subject.descriptor())

    listed = set(by_digest(repository, subject))

    expect.that(listed == {image.digest}, f"listed are {listed}, expected {image.digest}")


@check(ENABLING, MUST)
def list_referrers_pushed_before_and_after(repository: Repository) -> None:
    """Every manifest with a subject is listed, pushed before it or after, tagged or not."""
    subject = repository.make_image()
    before = repository.push_image(subject=subject.descriptor())
    repository.push_manifest(subject, "latest")
    needs_referrers(repository, subject.digest)
    after = repository.push_image("tagged", subject=subject.descriptor())

    listed = set(by_digest(repository, subject))

    expect.that(
        listed == {before.digest, after.digest}, f"listed are {listed}, expected two manifests"
    )


@check(SECTION, MUST)
def list_referrers_of_a_sha512_subject(repository: Repository) -> None:
    """A subject may be named by its sha512 digest."""
    subject = with_subject(repository)
    digest = material.digest_of(subject.content, "sha512")

    image = repository.push_image(subject={**subject.descriptor(), "digest": digest})

    answer = repository.ask("GET", f"referrers/{digest}")
    expect_index(answer)
    told = [entry.get("digest") for entry in expect.objects(answer, "manifests")]
    expect.that(told == [image.digest], f"{expect.describe(answer)}, expected {image.digest}")


@check(SECTION, SHOULD)
def filter_referrers(repository: Repository) -> None:
    """A filter by artifact type leaves the manifests of that type."""
    subject = with_subject(repository)
    sbom = repository.push_image(subject=subject.descriptor(), artifactType=SBOM)
    repository.push_image(subject=subject.descriptor(), artifactType=SIGNATURE)

    answer = repository.ask("GET", f"referrers/{subject.digest}?artifactType={SBOM}")

    expect_index(answer)
    told = [entry.get("digest") for entry in expect.objects(answer, "manifests")]
    if len(told) == 2 and "OCI-Filters-Applied" not in answer.headers:
        raise expect.NotSupported("the registry doesn't filter")
    expect.that(told == [sbom.digest], f"{expect.describe(answer)}, expected {sbom.digest}")


@check(SECTION, MUST)
def filter_referrers_header(repository: Repository) -> None:
    """OCI-Filters-Applied names the filter when it was applied, and only then."""
    subject = with_subject(repository)
    repository.push_image(subject=subject.descriptor(), artifactType=SBOM)

    plain = repository.ask("GET", f"referrers/{subject.digest}")
    filtered = repository.ask("GET", f"referrers/{subject.digest}?artifactType={SIGNATURE}")

    expect.no_header(plain, "OCI-Filters-Applied")
    if expect.objects(filtered, "manifests"):
        raise expect.NotSupported("the registry doesn't filter")
    expect.header(filtered, "OCI-Filters-Applied", "artifactType")


@check(SECTION, MUST)
def filter_referrers_by_the_config(repository: Repository) -> None:
    """A filter counts the type that the list shows, also where it comes from the config."""
    subject = with_subject(repository)
    config = repository.make_config(SIGNATURE)
    image = repository.push_manifest(material.image(config, [], subject=subject.descriptor()))

    answer = repository.ask("GET", f"referrers/{subject.digest}?artifactType={SIGNATURE}")

    told = [entry.get("digest") for entry in expect.objects(answer, "manifests")]
    expect.that(told == [image.digest], f"{expect.describe(answer)}, expected {image.digest}")


@check(SECTION, MUST)
def list_referrers_page_by_page(repository: Repository) -> None:
    """Many referrers come at once, or in pages that Link leads to, each referrer once."""
    subject = with_subject(repository)
    config, layer = repository.make_config(), repository.make_layer()
    text = "x" * 20_000
    pushed = {
        repository.push_manifest(
            material.image(
                config,
                [layer],
                subject=subject.descriptor(),
                annotations={"org.example.text": text, "org.example.number": str(number)},
            )
        ).digest
        for number in range(60)
    }

    answers = pages(repository, subject)

    told = [entry.get("digest") for page in answers for entry in expect.objects(page, "manifests")]
    expect.that(
        len(told) == len(pushed) and set(told) == pushed,
        f"{len(told)} referrers in {len(answers)} pages, expected each of {len(pushed)} once",
    )


def with_subject(repository: Repository) -> Manifest:
    """Push a subject, and leave out the check if there is no referrers API."""
    subject = repository.push_image("subject")
    needs_referrers(repository, subject.digest)
    return subject


def expect_index(answer: httpx.Response) -> None:
    """Expect 200 with an image index."""
    expect.status(answer, 200)
    expect.header(answer, "Content-Type", material.OCI_INDEX)
    told = expect.json_object(answer)
    expect.that(
        told.get("schemaVersion") == 2 and told.get("mediaType") == material.OCI_INDEX,
        f"{expect.describe(answer)}, expected schemaVersion 2 and the mediaType of an index",
    )
    expect.objects(answer, "manifests")


def expect_artifact_type(entry: Json, expected: str) -> None:
    """Expect an artifact type in a descriptor."""
    told = entry.get("artifactType")
    expect.that(told == expected, f"artifactType {told!r} in {entry}, expected {expected!r}")


def pages(repository: Repository, subject: Manifest) -> list[httpx.Response]:
    """Return the list and all that its Link leads to."""
    answers = [repository.ask("GET", f"referrers/{subject.digest}")]
    for _ in range(100):
        expect_index(answers[-1])
        following = expect.next_page(answers[-1])
        if following is None:
            return answers
        answers.append(repository.registry.request("GET", following))
    raise expect.Failed(f"the pages of referrers/{subject.digest} never end")


class Listed(dict[str, Json]):
    """Descriptors by digest; one that is asked for and isn't there fails the check."""

    def __missing__(self, digest: str) -> Json:
        raise expect.Failed(f"{digest} isn't among the referrers {sorted(self)}")


def by_digest(repository: Repository, subject: Manifest) -> Listed:
    """Return the descriptors of everything that refers to the subject."""
    answers = pages(repository, subject)
    entries = [entry for page in answers for entry in expect.objects(page, "manifests")]
    return Listed({str(entry.get("digest")): entry for entry in entries})
