"""Every check fails at a registry that is broken in the way the check is about.

Between the checks and our server sits a transport that spoils the answers in one way: it drops a
header, swaps a status, cuts a body. A check that nobody can break would tell nothing.
"""

import json
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import httpx
import pytest
from typing_extensions import override

from conformance.oci import material, suite
from conformance.oci.check import Check
from conformance.oci.expect import Failed
from conformance.oci.registry import Registry

pytestmark = pytest.mark.integration

Spoil: TypeAlias = Callable[[httpx.Request, httpx.Response], httpx.Response]

PREPARATION = {"push_blob", "push_manifest", "start_upload"}
"""Where a check only makes its material. What fails there isn't what the check is about."""

FALSE_DIGEST = material.digest_of(b"something else")


@dataclass(frozen=True, slots=True)
class Breakage:
    """One way of being broken, and the ids of checks that notice it."""

    name: str
    spoil: Spoil
    noticed_by: str


def altered(
    answer: httpx.Response,
    *,
    status: int | None = None,
    headers: Mapping[str, str | None] | None = None,
    content: bytes | None = None,
) -> httpx.Response:
    """Return the answer with another status, headers (None removes) or body."""
    changed = {**answer.headers, **{name.lower(): value for name, value in (headers or {}).items()}}
    kept = {name: value for name, value in changed.items() if value is not None}
    return httpx.Response(
        status or answer.status_code,
        headers=kept,
        content=answer.content if content is None else content,
    )


def without(name: str) -> Spoil:
    return lambda _, answer: altered(answer, headers={name: None})


def with_header(name: str, value: str, *statuses: int) -> Spoil:
    def spoil(_: httpx.Request, answer: httpx.Response) -> httpx.Response:
        wanted = not statuses or answer.status_code in statuses
        return altered(answer, headers={name: value}) if wanted else answer

    return spoil


def swapped(status: int, other: int, *methods: str, url: str = "") -> Spoil:
    def spoil(request: httpx.Request, answer: httpx.Response) -> httpx.Response:
        wanted = answer.status_code == status and url in str(request.url)
        wanted = wanted and (not methods or request.method in methods)
        return altered(answer, status=other) if wanted else answer

    return spoil


def spoiled_body(request: httpx.Request, answer: httpx.Response) -> httpx.Response:
    """Change the last byte of everything that is pulled."""
    if request.method != "GET" or not answer.is_success or not answer.content:
        return answer
    last = bytes([answer.content[-1] ^ 1])
    return altered(answer, content=answer.content[:-1] + last)


def spoiled_json(field: str, spoil: Callable[[Any], Any]) -> Spoil:
    def change(request: httpx.Request, answer: httpx.Response) -> httpx.Response:
        if request.method != "GET" or "json" not in answer.headers.get("Content-Type", ""):
            return answer
        value = json.loads(answer.content)
        if not isinstance(value, dict) or field not in value:
            return answer
        content = json.dumps({**value, field: spoil(value[field])}).encode()
        return altered(answer, headers={"Content-Length": str(len(content))}, content=content)

    return change


def spoiled_entry(name: str, value: object) -> Spoil:
    """Change a field of the descriptors in an index."""
    return spoiled_json("manifests", lambda entries: [{**entry, name: value} for entry in entries])


def of_any_algorithm(request: httpx.Request, answer: httpx.Response) -> httpx.Response:
    """Begin an upload whatever algorithm is named."""
    if "digest-algorithm=crc7" in str(request.url):
        return altered(answer, status=202)
    return answer


BROKEN = [
    Breakage(
        "404 is 200",
        swapped(404, 200),
        """
        pull-manifest-of-an-unknown-tag pull-manifest-of-an-unknown-digest
        pull-from-an-unknown-repository pull-manifest-of-another-repository pull-unknown-blob
        pull-blob-of-another-repository head-unknown-manifest head-unknown-blob
        upload-is-gone-after-the-put upload-status-after-the-put cancelled-upload-is-gone
        deleted-tag-is-gone delete-unknown-tag deleted-manifest-is-gone
        delete-from-an-unknown-repository delete-unknown-manifest deleted-blob-is-gone
        delete-unknown-blob head-of-what-is-not-there
        """,
    ),
    Breakage(
        "404 is 500",
        swapped(404, 500),
        """
        list-tags-of-an-unknown-repository
        """,
    ),
    Breakage(
        "400 is 201",
        swapped(400, 201),
        """
        tag-of-another-form-is-refused name-of-another-form-is-refused
        put-blob-of-another-digest-is-not-stored put-blob-of-another-digest
        put-blob-of-a-malformed-digest put-blob-of-an-unsupported-algorithm
        put-blob-without-a-digest single-post-of-another-digest single-post-of-a-malformed-digest
        chunks-of-another-digest put-manifest-of-another-digest
        put-manifest-with-an-unknown-config list-referrers-of-a-malformed-digest
        """,
    ),
    Breakage(
        "405 has no Allow",
        without("Allow"),
        """
        method-that-an-endpoint-lacks
        """,
    ),
    Breakage(
        "413 is 201",
        swapped(413, 201),
        """
        put-manifest-that-is-far-too-large manifest-too-large-keeps-the-connection-readable
        """,
    ),
    Breakage(
        "416 is 200",
        swapped(416, 200),
        """
        range-with-the-ends-swapped first-chunk-not-at-the-beginning chunk-that-skips-bytes
        chunk-that-repeats-bytes last-chunk-out-of-order upload-goes-on-after-416
        upload-goes-on-after-416-to-the-put
        """,
    ),
    Breakage(
        "416 is 500",
        swapped(416, 500),
        """
        mistake-is-the-clients
        """,
    ),
    Breakage(
        "206 is another",
        swapped(206, 203),
        """
        range-of-more-last-bytes-than-there-are range-on-condition
        """,
    ),
    Breakage(
        "206 has no Content-Range",
        without("Content-Range"),
        """
        range-of-some-bytes range-of-one-byte range-to-the-end range-of-the-last-bytes
        range-beyond-the-end-is-cut range-after-the-end
        """,
    ),
    Breakage(
        "304 is 200",
        swapped(304, 200),
        """
        entity-tag-of-a-manifest
        """,
    ),
    Breakage(
        "204 is 200",
        swapped(204, 200),
        """
        upload-status upload-status-at-an-earlier-location cancel-upload
        session-of-a-mount-can-be-cancelled
        """,
    ),
    Breakage(
        "GET is 203",
        swapped(200, 203, "GET"),
        """
        pull-manifest-by-tag pull-manifest-by-digest pull-blob pull-big-blob
        range-of-another-unit-is-ignored range-of-several-parts put-empty-blob base-endpoint
        accept-in-several-headers
        """,
    ),
    Breakage(
        "HEAD is 204",
        swapped(200, 204, "HEAD"),
        """
        head-manifest head-blob
        """,
    ),
    Breakage(
        "DELETE is 200",
        swapped(202, 200, "DELETE"),
        """
        delete-tag delete-manifest delete-blob
        """,
    ),
    Breakage(
        "PATCH is 200",
        swapped(202, 200, "PATCH"),
        """
        chunk-is-accepted upload-goes-on-where-the-status-says
        """,
    ),
    Breakage(
        "mount is 200",
        swapped(201, 200, "POST"),
        """
        single-post single-post-sha512 mount-blob mount-blob-sha512 mount-without-from
        """,
    ),
    Breakage(
        "mounts what is unknown",
        swapped(202, 201, "POST", url="mount="),
        """
        mount-of-an-unknown-blob mount-from-an-unknown-repository
        mount-without-from-of-an-unknown-blob
        """,
    ),
    Breakage(
        "PUT of a manifest is 200",
        swapped(201, 200, "PUT", url="/manifests/"),
        """
        put-manifest
        """,
    ),
    Breakage(
        "PUT of a blob is 200",
        swapped(201, 200, "PUT", url="/blobs/"),
        """
        upload-sessions-are-independent put-blob upload-of-a-named-algorithm put-in-one-stream
        put-that-expects-to-continue
        """,
    ),
    Breakage(
        "bodies are spoiled",
        spoiled_body,
        """
        tag-of-every-allowed-form pull-image-of-two-platforms range-resumes-a-pull put-blob-twice
        put-manifest-keeps-the-bytes put-manifest-moves-the-tag put-manifest-without-layers
        put-artifact put-index put-manifest-with-an-unknown-layer
        put-index-with-an-unknown-manifest put-manifest-of-four-megabytes
        put-manifest-before-its-subject deleting-a-tag-keeps-the-manifest
        deleted-manifest-can-be-pushed-again deleted-blob-can-be-pushed-again
        layers-that-are-not-distributable
        """,
    ),
    Breakage(
        "digests are false",
        with_header("Docker-Content-Digest", FALSE_DIGEST),
        """
        pull-manifest-digest-header-is-true pull-blob-digest-header-is-true
        put-manifest-digest-header-is-the-one-given
        """,
    ),
    Breakage(
        "digests are missing",
        without("Docker-Content-Digest"),
        """
        pull-manifest-digest-header pull-blob-digest-header head-manifest-digest-header
        head-blob-digest-header put-manifest-sha512 digest-header-of-a-push
        digest-header-is-the-one-asked-for
        """,
    ),
    Breakage(
        "locations lead nowhere",
        with_header("Location", "/v2/nowhere/manifests/absent", 201),
        """
        put-blob-location-is-pullable put-blob-sha512 chunks-make-a-blob chunks-make-a-blob-sha512
        last-chunk-in-the-put only-chunk-in-the-put put-manifest-location-is-pullable
        """,
    ),
    Breakage(
        "locations are missing",
        without("Location"),
        """
        upload-starts
        """,
    ),
    Breakage(
        "uploads share a location",
        with_header("Location", "/v2/x/blobs/uploads/1", 202),
        """
        upload-location-is-unique
        """,
    ),
    Breakage(
        "Range is another",
        with_header("Range", "0-7"),
        """
        chunk-range range-of-an-empty-upload upload-in-one-stream chunk-without-bytes
        """,
    ),
    Breakage(
        "Range is missing",
        without("Range"),
        """
        upload-status-of-a-new-session
        """,
    ),
    Breakage(
        "types have parameters",
        with_header("Content-Type", material.OCI_MANIFEST + ";a=b"),
        """
        pull-manifest-content-type-without-parameters
        """,
    ),
    Breakage(
        "types are another",
        with_header("Content-Type", "text/plain"),
        """
        pull-manifest-content-type put-manifest-with-content-type-parameters
        list-referrers-is-never-404 blob-is-never-encoded docker-formats
        """,
    ),
    Breakage(
        "lengths are missing",
        without("Content-Length"),
        """
        head-manifest-length head-blob-length head-manifest-is-complete
        """,
    ),
    Breakage(
        "ETag is missing",
        without("ETag"),
        """
        entity-tag-of-a-blob
        """,
    ),
    Breakage(
        "OCI-Subject is missing",
        without("OCI-Subject"),
        """
        put-manifest-with-a-subject put-manifest-with-an-unknown-subject
        """,
    ),
    Breakage(
        "OCI-Tag is another",
        with_header("OCI-Tag", "other"),
        """
        put-manifest-with-tags put-manifest-with-ten-tags put-manifest-with-tags-sha512
        """,
    ),
    Breakage(
        "filters are denied",
        without("OCI-Filters-Applied"),
        """
        filter-referrers-header
        """,
    ),
    Breakage(
        "upload ids are missing",
        without("Docker-Upload-UUID"),
        """
        upload-id-header
        """,
    ),
    Breakage(
        "version is missing",
        without("Docker-Distribution-API-Version"),
        """
        api-version-header
        """,
    ),
    Breakage(
        "ranges are not announced",
        without("Accept-Ranges"),
        """
        blob-announces-ranges
        """,
    ),
    Breakage(
        "Link is of another form",
        with_header("Link", "elsewhere"),
        """
        list-tags-page-by-page
        """,
    ),
    Breakage(
        "tags are reversed",
        spoiled_json("tags", lambda tags: tags[::-1]),
        """
        list-tags-in-order list-tags-some list-tags-more-than-there-are
        """,
    ),
    Breakage(
        "tags are missing",
        spoiled_json("tags", lambda tags: tags[1:]),
        """
        name-of-every-allowed-form list-tags tags-after-one-that-is-not-there
        """,
    ),
    Breakage(
        "tags are null",
        spoiled_json("tags", lambda tags: tags or None),
        """
        list-tags-none list-tags-after list-tags-after-without-n
        tags-are-a-list-even-when-there-are-none
        """,
    ),
    Breakage(
        "tags are made up",
        spoiled_json("tags", lambda tags: [*tags, "zzz"]),
        """
        list-tags-of-a-repository-without-any
        """,
    ),
    Breakage(
        "repositories are missing",
        spoiled_json("repositories", lambda names: []),
        """
        catalog catalog-of-one
        """,
    ),
    Breakage(
        "referrers are missing",
        spoiled_json("manifests", lambda entries: entries[1:]),
        """
        list-referrers-pushed-before-and-after list-referrers-page-by-page
        """,
    ),
    Breakage(
        "referrers are made up",
        spoiled_json("manifests", lambda entries: [*entries, {"digest": "x"}]),
        """
        list-referrers list-referrers-of-nothing list-referrers-of-this-subject-only
        list-referrers-of-a-sha512-subject filter-referrers filter-referrers-by-the-config
        deleted-referrer-is-not-listed
        """,
    ),
    Breakage(
        "artifact types are another",
        spoiled_entry("artifactType", "spoiled"),
        """
        referrer-artifact-type referrer-artifact-type-of-the-config
        referrer-index-without-artifact-type
        """,
    ),
    Breakage(
        "sizes are another",
        spoiled_entry("size", 1),
        """
        referrer-descriptor
        """,
    ),
    Breakage(
        "annotations are another",
        spoiled_entry("annotations", {}),
        """
        referrer-annotations
        """,
    ),
    Breakage(
        "codes are unlisted",
        spoiled_json("errors", lambda errors: [{"code": "OTHER"}]),
        """
        error-code-of-the-list error-code-says-what-is-wrong
        """,
    ),
    Breakage(
        "codes are malformed",
        spoiled_json("errors", lambda errors: [{"code": "not-a-code"}]),
        """
        error-body-form
        """,
    ),
    Breakage(
        "messages are numbers",
        spoiled_json("errors", lambda errors: [{"code": "UNSUPPORTED", "message": 1}]),
        """
        error-message-is-text
        """,
    ),
    Breakage(
        "warnings are malformed",
        with_header("Warning", "hear hear"),
        """
        warnings-have-their-form
        """,
    ),
    Breakage(
        "algorithms are not looked at",
        of_any_algorithm,
        """
        upload-of-an-unsupported-algorithm
        """,
    ),
    Breakage(
        "namespaces are another",
        with_header("OCI-Namespace", "other.example.org"),
        """
        namespace-parameter
        """,
    ),
    Breakage(
        "small chunks are unannounced",
        with_header("OCI-Chunk-Min-Length", "small"),
        """
        small-chunks-are-taken-or-announced
        """,
    ),
]

NOTICED = [
    pytest.param(breakage.spoil, check_id, id=f"{check_id}: {breakage.name}")
    for breakage in BROKEN
    for check_id in breakage.noticed_by.split()
]
CHECKS: Mapping[str, Check] = {check.id: check for check in suite.CHECKS}


class Broken(httpx.BaseTransport):
    """Spoils the answers of a good registry, in one way at a time."""

    def __init__(self) -> None:
        self._good = httpx.HTTPTransport()
        self.spoil: Spoil = lambda _, answer: answer

    @override
    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = self._good.handle_request(request)
        answer.read()
        return self.spoil(request, answer)

    @override
    def close(self) -> None:
        self._good.close()


@pytest.fixture(scope="session")
def broken() -> Broken:
    return Broken()


@pytest.fixture(scope="session")
def broken_registry(url_of_a_good_registry: str, broken: Broken) -> Iterator[Registry]:
    registry = Registry(url_of_a_good_registry, allow_sparse=True, transport=broken)
    yield registry
    registry.close()


@pytest.mark.parametrize(("spoil", "check_id"), NOTICED)
def test_check_notices_what_is_broken(
    spoil: Spoil, check_id: str, broken: Broken, broken_registry: Registry
) -> None:
    broken.spoil = spoil

    with pytest.raises(Failed) as noticed:
        CHECKS[check_id].run(broken_registry.repository(check_id))

    frames = {frame.name for frame in traceback.extract_tb(noticed.tb)}
    assert frames.isdisjoint(PREPARATION), str(noticed.value)


def test_every_check_notices_something() -> None:
    noticing = {check_id for breakage in BROKEN for check_id in breakage.noticed_by.split()}

    assert noticing == CHECKS.keys()
