"""Errors, warnings and what holds for every endpoint."""

import re
from collections.abc import Callable, Mapping

import httpx

from conformance.oci import expect, material
from conformance.oci.check import DEV, MUST, SHOULD, check
from conformance.oci.material import OCI_MANIFEST, Manifest
from conformance.oci.registry import Repository, with_query

CODES = "Error Codes"
API = "API"

KNOWN = frozenset(
    (
        *("BLOB_UNKNOWN", "BLOB_UPLOAD_INVALID", "BLOB_UPLOAD_UNKNOWN", "DIGEST_INVALID"),
        *("MANIFEST_BLOB_UNKNOWN", "MANIFEST_INVALID", "MANIFEST_UNKNOWN", "NAME_INVALID"),
        *("NAME_UNKNOWN", "SIZE_INVALID", "UNAUTHORIZED", "DENIED", "UNSUPPORTED"),
        "TOOMANYREQUESTS",
    )
)
"""The codes that the specification lists. There are no others."""

MAX_WARNINGS = 4096

DIGEST = material.digest_of(b"nothing that anybody has")


def _unknown_blob(repository: Repository) -> httpx.Response:
    return repository.ask("GET", f"blobs/{DIGEST}")


def _unknown_manifest(repository: Repository) -> httpx.Response:
    return repository.get_manifest("absent")


def _unknown_upload(repository: Repository) -> httpx.Response:
    location = repository.start_upload()
    expect.status(repository.close_upload(location, material.digest_of(b"")), 201)
    return repository.registry.request("GET", location)


def _unknown_repository(repository: Repository) -> httpx.Response:
    return repository.sibling("unknown").ask("GET", "tags/list")


def _invalid_name(repository: Repository) -> httpx.Response:
    return repository.below("NAME").ask("POST", "blobs/uploads/")


def _invalid_digest(repository: Repository) -> httpx.Response:
    return repository.close_upload(repository.start_upload(), DIGEST, b"of another digest")


def _malformed_digest(repository: Repository) -> httpx.Response:
    return repository.ask("GET", "blobs/sha256:abc")


def _invalid_manifest(repository: Repository) -> httpx.Response:
    return repository.put_manifest(Manifest(b"{not json", OCI_MANIFEST), "latest")


def _invalid_manifest_fields(repository: Repository) -> httpx.Response:
    content = b'{"schemaVersion":2,"mediaType":"' + OCI_MANIFEST.encode() + b'","config":[]}'
    return repository.put_manifest(Manifest(content, OCI_MANIFEST), "latest")


def _invalid_tag(repository: Repository) -> httpx.Response:
    return repository.put_manifest(repository.make_image(), "-tag")


def _missing_layer(repository: Repository) -> httpx.Response:
    absent = material.descriptor(material.random_blob(), material.OCI_LAYER)
    return repository.put_manifest(material.image(repository.make_config(), [absent]), "latest")


def _out_of_order(repository: Repository) -> httpx.Response:
    return repository.send_chunk(repository.start_upload(), b"chunk", 100)


def _range_beyond_the_end(repository: Repository) -> httpx.Response:
    digest = repository.push_blob(b"short")
    return repository.ask("GET", f"blobs/{digest}", headers={"Range": "bytes=100-200"})


def _malformed_page(repository: Repository) -> httpx.Response:
    return repository.ask("GET", "tags/list?n=many")


def _single_post(repository: Repository) -> httpx.Response:
    return repository.ask(
        "POST", with_query("blobs/uploads/", "digest", "sha256:abc"), content=b"x"
    )


MISTAKES: Mapping[str, Callable[[Repository], httpx.Response]] = {
    "unknown blob": _unknown_blob,
    "unknown manifest": _unknown_manifest,
    "unknown upload": _unknown_upload,
    "unknown repository": _unknown_repository,
    "invalid name": _invalid_name,
    "invalid digest": _invalid_digest,
    "malformed digest": _malformed_digest,
    "malformed digest in a POST": _single_post,
    "invalid manifest": _invalid_manifest,
    "manifest with an invalid field": _invalid_manifest_fields,
    "invalid tag": _invalid_tag,
    "missing layer": _missing_layer,
    "chunk out of order": _out_of_order,
    "range beyond the end": _range_beyond_the_end,
    "malformed page size": _malformed_page,
}


@check("Determining Support", MUST)
def base_endpoint(repository: Repository) -> None:
    """GET of /v2/ answers 200."""
    expect.status(repository.registry.request("GET", "v2/"), 200)


@check(CODES, MUST)
def error_body_form(repository: Repository) -> None:
    """An error in JSON has a list of errors, each with a code of capitals and underscores."""
    repository.push_image("latest")

    for mistake in MISTAKES.values():
        answer = mistake(repository)
        if answer.is_client_error and is_json(answer):
            expect.error_codes(answer)


@check(CODES, MUST)
def error_code_of_the_list(repository: Repository) -> None:
    """A code in an error is one of those that the specification lists."""
    repository.push_image("latest")

    unlisted: list[str] = []
    for name, mistake in MISTAKES.items():
        answer = mistake(repository)
        if answer.is_client_error and is_json(answer):
            others = sorted(set(expect.error_codes(answer)) - KNOWN)
            unlisted += [f"{name}: {code}" for code in others]

    expect.that(not unlisted, f"codes that aren't in the specification: {', '.join(unlisted)}")


@check(CODES, MUST)
def mistake_is_the_clients(repository: Repository) -> None:
    """What the client did wrong is never answered as if the server had failed."""
    repository.push_image("latest")

    for mistake in MISTAKES.values():
        answer = mistake(repository)
        expect.that(not answer.is_server_error, f"{expect.describe(answer)}, expected no 5xx")


@check(CODES, SHOULD)
def error_message_is_text(repository: Repository) -> None:
    """The message in an error, where there is one, is text."""
    for mistake in (_unknown_blob, _unknown_manifest, _invalid_digest):
        answer = mistake(repository)
        if is_json(answer):
            for entry in expect.objects(answer, "errors"):
                told = entry.get("message", "")
                expect.that(isinstance(told, str), f"{expect.describe(answer)}, message isn't text")


@check(CODES, SHOULD)
def error_code_says_what_is_wrong(repository: Repository) -> None:
    """The code is the one that the specification describes for the mistake."""
    repository.push_image("latest")

    for name, codes in (
        ("unknown blob", {"BLOB_UNKNOWN"}),
        ("unknown manifest", {"MANIFEST_UNKNOWN"}),
        ("unknown upload", {"BLOB_UPLOAD_UNKNOWN"}),
        ("unknown repository", {"NAME_UNKNOWN"}),
        ("invalid name", {"NAME_INVALID"}),
        ("invalid digest", {"DIGEST_INVALID"}),
        ("malformed digest", {"DIGEST_INVALID"}),
        ("invalid manifest", {"MANIFEST_INVALID"}),
        ("manifest with an invalid field", {"MANIFEST_INVALID"}),
        ("chunk out of order", {"BLOB_UPLOAD_INVALID", "SIZE_INVALID"}),
    ):
        answer = MISTAKES[name](repository)
        if answer.is_client_error and is_json(answer):
            told = set(expect.error_codes(answer))
            expect.that(told <= codes, f"{name}: {expect.describe(answer)}, expected {codes}")


@check("Warnings", MUST)
def warnings_have_their_form(repository: Repository) -> None:
    """A Warning, where sent, is of code 299 and agent -, has no date, and all are short."""
    image = repository.push_image("latest")

    for answer in (
        repository.put_manifest(image, "latest"),
        repository.get_manifest("latest"),
        repository.ask("GET", "tags/list"),
        repository.ask("POST", "blobs/uploads/"),
    ):
        told = answer.headers.get_list("Warning")
        size = sum(len(value.encode()) for value in told)
        expect.that(size <= MAX_WARNINGS, f"{expect.describe(answer)} with {size} bytes of Warning")
        for value in answer.headers.get_list("Warning", split_commas=False):
            expect.that(
                re.fullmatch(r'299 - "(?:[^"\\]|\\.)*"', value) is not None,
                f"{expect.describe(answer)} with Warning: {value}",
            )


@check(API, SHOULD)
def method_that_an_endpoint_lacks(repository: Repository) -> None:
    """A method that an endpoint doesn't have answers 405 with Allow, as RFC 9110 has it, or 404."""
    repository.push_image("latest")

    for method, tail in (("PUT", "tags/list"), ("POST", "manifests/latest")):
        answer = repository.ask(method, tail)
        expect.status(answer, 405, 404)
        if answer.status_code == httpx.codes.METHOD_NOT_ALLOWED:
            expect.header(answer, "Allow")


@check("Registry Proxying", SHOULD, since=DEV)
def namespace_parameter(repository: Repository) -> None:
    """A pull with ns works as without, or OCI-Namespace repeats the value that was used."""
    image = repository.push_image("latest")

    answer = repository.ask(
        "GET", "manifests/latest?ns=registry.example.org", headers={"Accept": image.media_type}
    )

    expect.status(answer, 200, 404)
    if "OCI-Namespace" in answer.headers:
        expect.header(answer, "OCI-Namespace", "registry.example.org")
    else:
        expect.status(answer, 200)
        expect.body(answer, image.content)


def is_json(answer: httpx.Response) -> bool:
    """Tell whether the body claims to be JSON."""
    return "json" in answer.headers.get("Content-Type", "") and bool(answer.content)
