"""Pushing manifests, plain and with a subject (end-7a, end-7b)."""

import json

import httpx

from conformance.oci import expect, material
from conformance.oci.check import DEV, MUST, SHOULD, check
from conformance.oci.material import Manifest
from conformance.oci.registry import Repository

PUSH = "Push"
MANIFESTS = "Pushing Manifests"
SUBJECT = "Pushing Manifests with Subject"

FOUR_MEGABYTES = 4_000_000
FAR_TOO_LARGE = 16 * 2**20


@check(MANIFESTS, MUST)
def put_manifest(repository: Repository) -> None:
    """PUT, by tag and by digest, answers 201 and tells where the manifest is."""
    image = repository.make_image()

    for reference in ("latest", image.digest):
        answer = repository.put_manifest(image, reference)
        expect.status(answer, 201)
        expect.location(answer)


@check(MANIFESTS, MUST)
def put_manifest_location_is_pullable(repository: Repository) -> None:
    """The location that PUT answers holds the manifest."""
    image = repository.make_image()

    for reference in ("latest", image.digest):
        location = expect.location(repository.put_manifest(image, reference))
        pulled = repository.registry.request("GET", location, headers={"Accept": image.media_type})
        expect.status(pulled, 200)
        expect.body(pulled, image.content)


@check(MANIFESTS, MUST)
def put_manifest_keeps_the_bytes(repository: Repository) -> None:
    """A manifest is stored byte for byte: white space, order of keys, escapes, unknown fields."""
    value = json.loads(
        repository.make_image(annotations={"org.example.text": "Grüße, \U0001f433"}).content
    )
    value["org.example.unknown"] = {"z": 1, "a": [None, 1.50, "A"]}
    content = b"\n\t" + json.dumps(dict(reversed(value.items())), indent=3).encode() + b"  \r\n"
    manifest = Manifest(content, material.OCI_MANIFEST)

    repository.push_manifest(manifest, "latest")

    for reference in ("latest", manifest.digest):
        expect.body(repository.get_manifest(reference), content)


@check(MANIFESTS, MUST)
def put_manifest_digest_header_is_the_one_given(repository: Repository) -> None:
    """Docker-Content-Digest in the answer to a PUT by digest, where sent, is that digest."""
    image = repository.make_image()

    answer = repository.put_manifest(image)

    expect.status(answer, 201)
    if "Docker-Content-Digest" in answer.headers:
        expect.header(answer, "Docker-Content-Digest", image.digest)


@check(MANIFESTS, MUST)
def put_manifest_of_another_digest(repository: Repository) -> None:
    """A manifest whose bytes don't match the digest in the URL isn't accepted."""
    image = repository.make_image()
    changed = Manifest(image.content + b" ", image.media_type)

    expect.refused(repository.put_manifest(changed, image.digest))

    expect.status(repository.get_manifest(image.digest), 404)


@check(MANIFESTS, MUST)
def put_manifest_sha512(repository: Repository) -> None:
    """A manifest pushed by its sha512 digest is pulled by it, or 400 says it isn't supported."""
    image = repository.make_image()
    digest = material.digest_of(image.content, "sha512")

    pushed = repository.put_manifest(image, digest)

    if pushed.status_code == httpx.codes.BAD_REQUEST:
        raise expect.NotSupported(expect.describe(pushed))
    expect.status(pushed, 201)
    for method in ("GET", "HEAD"):
        pulled = repository.get_manifest(digest, method)
        expect.status(pulled, 200)
        expect.header(pulled, "Docker-Content-Digest", digest)
    expect.body(repository.get_manifest(digest), image.content)


@check(MANIFESTS, MUST)
def put_manifest_moves_the_tag(repository: Repository) -> None:
    """A tag that is pushed again names the new manifest, and the old one stays by its digest."""
    old, new = repository.push_image("latest"), repository.push_image("latest")

    expect.body(repository.get_manifest("latest"), new.content)
    expect.body(repository.get_manifest(old.digest), old.content)


@check(MANIFESTS, SHOULD)
def put_manifest_with_content_type_parameters(repository: Repository) -> None:
    """Parameters of the Content-Type of a PUT are ignored."""
    image = repository.make_image()
    with_parameters = Manifest(image.content, f"{image.media_type}; charset=utf-8")

    repository.push_manifest(with_parameters, "latest")

    expect.header(repository.get_manifest("latest"), "Content-Type", image.media_type)


@check(MANIFESTS, MUST)
def put_manifest_without_layers(repository: Repository) -> None:
    """The list of blobs may be empty."""
    image = material.image(repository.make_config(), [])

    repository.push_manifest(image, "latest")

    expect.body(repository.get_manifest("latest"), image.content)


@check(MANIFESTS, MUST)
def put_artifact(repository: Repository) -> None:
    """An artifact of the image specification, with an empty config, is a manifest like others."""
    repository.push_blob(b"{}")
    empty = material.descriptor(b"{}", material.OCI_EMPTY, data="e30=")
    artifact = material.image(empty, [empty], artifactType="application/vnd.example.thing")

    repository.push_manifest(artifact, "latest")

    expect.body(repository.get_manifest("latest"), artifact.content)


@check(MANIFESTS, MUST)
def put_index(repository: Repository) -> None:
    """An index of images, an index of indexes and an empty index are manifests like others."""
    inner = repository.push_manifest(material.index([repository.push_image().descriptor()]))
    outer = material.index([inner.descriptor()], artifactType="application/vnd.example.list")

    for tag, manifest in (("outer", outer), ("empty", material.index([]))):
        repository.push_manifest(manifest, tag)
        answer = repository.get_manifest(tag)
        expect.status(answer, 200)
        expect.body(answer, manifest.content)


@check(PUSH, MUST)
def put_manifest_with_an_unknown_layer(repository: Repository) -> None:
    """An image whose layer is missing is taken, or MANIFEST_BLOB_UNKNOWN is answered."""
    absent = material.descriptor(material.random_blob(), material.OCI_LAYER)
    image = material.image(repository.make_config(), [absent])

    expect_taken_or_unknown(repository, image, sparse=repository.registry.allow_sparse)


@check(PUSH, MUST)
def put_manifest_with_an_unknown_config(repository: Repository) -> None:
    """An image whose config is missing is taken, or MANIFEST_BLOB_UNKNOWN is answered."""
    absent = material.descriptor(material.random_blob(), material.OCI_CONFIG)
    image = material.image(absent, [repository.make_layer()])

    # Even a registry that is set to be sparse may insist on the config, which is what it reads.
    expect_taken_or_unknown(repository, image, sparse=False)


@check(PUSH, MUST)
def put_index_with_an_unknown_manifest(repository: Repository) -> None:
    """An index of something missing is taken, or MANIFEST_BLOB_UNKNOWN is answered."""
    absent = material.descriptor(b"{}" + material.random_blob(), material.OCI_MANIFEST)

    index = material.index([repository.push_image().descriptor(), absent])

    expect_taken_or_unknown(repository, index, sparse=repository.registry.allow_sparse)


@check(MANIFESTS, SHOULD)
def put_manifest_of_four_megabytes(repository: Repository) -> None:
    """A manifest of 4 MB is accepted and comes back whole."""
    image = padded(repository, FOUR_MEGABYTES)

    repository.push_manifest(image, "latest")

    expect.body(repository.get_manifest("latest"), image.content)


@check(MANIFESTS, SHOULD)
def put_manifest_that_is_far_too_large(repository: Repository) -> None:
    """A manifest beyond the limit of the registry, if not 16 MiB, answers 413."""
    answer = repository.put_manifest(padded(repository, FAR_TOO_LARGE), "latest")

    expect.status(answer, 413)


@check(PUSH, MUST)
def put_manifest_before_its_subject(repository: Repository) -> None:
    """A manifest is accepted although its subject isn't there, and so is the subject afterwards."""
    subject = repository.make_image()

    referrer = repository.push_image(subject=subject.descriptor())
    listed = repository.push_manifest(material.index([], subject=subject.descriptor()))
    repository.push_manifest(subject, "latest")

    for manifest in (subject, referrer, listed):
        expect.body(repository.get_manifest(manifest.digest), manifest.content)


@check(SUBJECT, MUST)
def put_manifest_with_a_subject(repository: Repository) -> None:
    """PUT of an image or index with a subject answers OCI-Subject, if there is a referrers API."""
    subject = repository.push_image("latest")
    needs_referrers(repository, subject.digest)

    for manifest, reference in (
        (repository.make_image(subject=subject.descriptor()), None),
        (repository.make_image(subject=subject.descriptor()), "tagged"),
        (material.index([], subject=subject.descriptor()), None),
    ):
        answer = repository.put_manifest(manifest, reference)
        expect.status(answer, 201)
        expect.header(answer, "OCI-Subject", subject.digest)


@check(SUBJECT, MUST)
def put_manifest_with_an_unknown_subject(repository: Repository) -> None:
    """OCI-Subject is answered for a subject that isn't there, too."""
    absent = material.descriptor(material.random_blob(), material.OCI_MANIFEST)
    repository.push_image("latest")
    needs_referrers(repository, absent["digest"])

    answer = repository.put_manifest(repository.make_image(subject=absent))

    expect.status(answer, 201)
    expect.header(answer, "OCI-Subject", absent["digest"])


@check(MANIFESTS, MUST, since=DEV)
def put_manifest_with_tags(repository: Repository) -> None:
    """PUT by digest with tags in the query names every tag it made in OCI-Tag."""
    image = repository.make_image()

    expect_tagged(repository, image, image.digest, ["1.2.3", "1.2", "1", "latest"])


@check(MANIFESTS, SHOULD, since=DEV)
def put_manifest_with_ten_tags(repository: Repository) -> None:
    """Ten tags in one request are supported."""
    image = repository.make_image()

    expect_tagged(repository, image, image.digest, [f"tag{number}" for number in range(10)])


@check(MANIFESTS, MUST, since=DEV)
def put_manifest_with_tags_sha512(repository: Repository) -> None:
    """A tag made by a PUT of a sha512 digest leads to that digest."""
    image = repository.make_image()
    digest = material.digest_of(image.content, "sha512")

    expect_tagged(repository, image, digest, ["one", "two"])

    expect.header(repository.get_manifest("two", "HEAD"), "Docker-Content-Digest", digest)


def expect_taken_or_unknown(repository: Repository, manifest: Manifest, *, sparse: bool) -> None:
    """Expect 201, or the one error for missing parts unless the registry is said to be sparse."""
    answer = repository.put_manifest(manifest)
    if answer.status_code == httpx.codes.CREATED:
        expect.body(repository.get_manifest(manifest.digest), manifest.content)
        return
    expect.that(
        not sparse,
        f"{expect.describe(answer)}, expected 201 of a registry that allows sparse manifests",
    )
    expect.refused(answer)
    codes = set(expect.error_codes(answer))
    expect.that(
        codes == {"MANIFEST_BLOB_UNKNOWN"},
        f"{expect.describe(answer)}, expected no code but MANIFEST_BLOB_UNKNOWN",
    )


def expect_tagged(repository: Repository, image: Manifest, digest: str, tags: list[str]) -> None:
    """Push by digest with tags and expect all of them in the answer and in the repository."""
    query = "?" + "&".join(f"tag={tag}" for tag in tags)
    answer = repository.put_manifest(image, digest, query)
    if "OCI-Tag" not in answer.headers:
        raise expect.NotSupported(f"{expect.describe(answer)} without OCI-Tag")
    expect.status(answer, 201)
    told = sorted(tag.strip() for tag in answer.headers["OCI-Tag"].split(","))
    expect.that(told == sorted(tags), f"OCI-Tag names {told}, expected {sorted(tags)}")
    for tag in tags:
        expect.body(repository.get_manifest(tag), image.content)


def needs_referrers(repository: Repository, digest: str) -> None:
    """Leave out what only a registry with a referrers API has to do."""
    if repository.ask("GET", f"referrers/{digest}").status_code == httpx.codes.NOT_FOUND:
        raise expect.NotSupported("the registry has no referrers API")


def padded(repository: Repository, size: int) -> Manifest:
    """Return an image of some size, the most of it annotations."""
    config, layers = repository.make_config(), [repository.make_layer()]
    bare = len(material.image(config, layers, annotations={}).content)
    room = size - bare
    chunk = 100_000
    annotations = {
        f"org.example.{number:04}": "x" * chunk for number in range(room // (chunk + 50))
    }
    used = len(json.dumps(annotations)) - len("{}")
    annotations["org.example.rest"] = "x" * (room - used - len(', "org.example.rest": ""'))
    return material.image(config, layers, annotations=annotations)
