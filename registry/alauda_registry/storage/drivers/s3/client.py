"""The operations of S3 that the driver needs, each tried again while that is any use.

An answer may be lost after the request had its effect, so a second try must know what the first
may have done: a conditional write that is refused then may have been refused because of itself.
"""

import asyncio
import contextlib
import hashlib
import random
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

import aiohttp

from alauda_registry.storage.driver import DriverError, PathNotFound
from alauda_registry.storage.drivers.s3 import documents
from alauda_registry.storage.drivers.s3.credentials import Credentials
from alauda_registry.storage.drivers.s3.documents import Listing, MultipartUpload, Part, Unreadable
from alauda_registry.storage.drivers.s3.errors import (
    CREDENTIAL_CODES,
    NAME,
    CredentialsAway,
    Truncated,
    Untrusted,
    failure,
    is_passing,
    refusal,
)
from alauda_registry.storage.drivers.s3.signing import EMPTY_SHA256
from alauda_registry.storage.drivers.s3.transport import (
    SLOWEST_BYTES,
    Answer,
    OpenAnswer,
    Request,
    Transport,
)

ATTEMPTS = 5
DEADLINE_SECONDS = 40.0
"""All tries of an operation together take no longer; those that move much get more."""

_PAUSES = (0.05, 3.0)
_ABORT_PAUSES = (0.0, 0.05, 0.25)
_COMPLETION_PAUSES = (0.05, 0.25, 1.0, 3.0)
_DELETES_MAXIMUM = 1000
TROUBLE = (aiohttp.ClientError, OSError, TimeoutError, CredentialsAway)
_ABSENT = frozenset({"", "NoSuchKey", "NoSuchUpload", "NoSuchVersion", "NotFound"})
_OCTET_STREAM = "application/octet-stream"

SIZE = "x-amz-meta-registry-size"
"""On an object that is not the file, but tells of which pieces it is made: the file's size."""

T = TypeVar("T")


class Conflict(Exception):
    """Somebody else changed the object, or it is gone, or there already."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What is known of an object.

    Attributes:
        etag: Of its content, as the server has it, quotes included.
        size: In bytes.
        modified: When it was written, by the server's clock, as HTTP says it.
        date: When that was asked, by the same clock.
        pieces_size: The size of the file of whose pieces it tells; None when it is one itself.
    """

    etag: str
    size: int
    modified: str
    date: str | None
    pieces_size: int | None = None

    @property
    def modified_at(self) -> datetime:
        """When it was written, by the server's clock."""
        return _parse_date(self.modified)

    @property
    def age(self) -> float:
        """How many seconds ago that was when it was asked for."""
        now = _parse_date(self.date) if self.date else datetime.now(UTC)
        return (now - self.modified_at).total_seconds()

    @classmethod
    def of(cls, headers: Mapping[str, str], path: str, length: int | None = None) -> "ObjectInfo":
        """Read the headers of an answer.

        Args:
            headers: They.
            path: Where the object is.
            length: Of the body, if all of it is here: what stands before a server may leave it out.

        Raises:
            Truncated: They are not those of an object.
        """
        try:
            whole = headers.get("content-range", "").rpartition("/")[2]
            if whole.isdecimal():
                size = int(whole)
            else:
                size = length if length is not None else int(headers["content-length"])
            pieces_size = headers.get(SIZE)
            return cls(
                headers["etag"],
                size,
                headers["last-modified"],
                headers.get("date"),
                int(pieces_size) if pieces_size is not None else None,
            )
        except (KeyError, ValueError, TypeError) as error:
            raise Truncated(f"not an object's headers: {error}", driver=NAME, path=path) from error


@dataclass(frozen=True, slots=True)
class ObjectOptions:
    """What each object is made with: encryption, storage class and the like.

    Attributes:
        headers: Of every request that makes one.
    """

    headers: Mapping[str, str] = field(default_factory=dict)


class S3Client:
    """One bucket. Objects are addressed by the driver's paths.

    Args:
        transport: Carries the requests.
        bucket: Its name.
        credentials: Asked to look again when the server refuses them.
        root: What the keys begin with, without slashes at the ends.
        options: What each object is made with.
    """

    def __init__(
        self,
        transport: Transport,
        bucket: str,
        credentials: Credentials,
        *,
        root: str = "",
        options: ObjectOptions | None = None,
    ) -> None:
        self.transport = transport
        self._bucket = bucket
        self._credentials = credentials
        self._root = f"{root}/" if root else ""
        self._object_headers = {
            "content-type": _OCTET_STREAM,
            **(options or ObjectOptions()).headers,
        }

    def key(self, path: str) -> str:
        """Return the key of a path."""
        return self._root + path[1:]

    def path(self, key: str) -> str:
        """Return the path of a key."""
        return f"/{key.removeprefix(self._root)}"

    async def head(self, path: str) -> ObjectInfo:
        """Describe an object.

        Raises:
            PathNotFound: There is none.
        """
        answer, _ = await self._send(Request("HEAD", self.key(path)), path)
        _require(answer, path)
        return ObjectInfo.of(answer.headers, path)

    async def get(self, path: str, span: tuple[int, int] | None = None) -> tuple[ObjectInfo, bytes]:
        """Read an object.

        Args:
            path: Where it is.
            span: Offset and length of a part of it; both are inside.

        Raises:
            PathNotFound: There is none.
        """
        headers = {} if span is None else {"range": f"bytes={span[0]}-{span[0] + span[1] - 1}"}
        request = Request("GET", self.key(path), headers=headers)
        answer, _ = await self._send(request, path, span[1] if span else 0)
        _require(answer, path)
        return ObjectInfo.of(answer.headers, path, len(answer.body)), answer.body

    async def open(
        self, path: str, offset: int = 0, length: int | None = None, etag: str | None = None
    ) -> tuple[ObjectInfo, OpenAnswer]:
        """Begin to read an object; the caller closes the answer.

        Raises:
            Conflict: It is not the one with this ETag any more.
            PathNotFound: There is none.
        """
        headers = {} if etag is None else {"if-match": etag}
        if offset or length is not None:
            last = "" if length is None else str(offset + length - 1)
            headers["range"] = f"bytes={offset}-{last}"
        request = Request("GET", self.key(path), headers=headers)

        async def attempt() -> Answer | OpenAnswer:
            opened = await self.transport.open(request)
            if opened.status < 300:
                return opened
            try:
                return Answer(opened.status, opened.headers, await opened.read())
            finally:
                opened.close()

        answer, _ = await self._persist(attempt, path, DEADLINE_SECONDS)
        if isinstance(answer, Answer):
            if answer.status == 412:
                raise Conflict
            _require(answer, path)
            raise _unforeseen(answer, path)
        try:
            return ObjectInfo.of(answer.headers, path), answer
        except BaseException:
            answer.close()
            raise

    async def put(
        self,
        path: str,
        body: Sequence[bytes],
        *,
        sha256: str | None = None,
        pieces_size: int | None = None,
        instead_of: str | None = None,
    ) -> str:
        """Write an object, and return its ETag.

        Args:
            path: Where.
            body: Its pieces.
            sha256: Of the body, where it is known.
            pieces_size: See :class:`ObjectInfo`.
            instead_of: The ETag of the object to replace; "" when there must be none; None for
                whatever is there.

        Raises:
            Conflict: Another object, or none, or one, is there.
        """
        headers = dict(self._object_headers)
        if pieces_size is not None:
            headers[SIZE] = str(pieces_size)
        if instead_of is not None:
            headers |= {"if-match": instead_of} if instead_of else {"if-none-match": "*"}
        if sha256 is None:
            sha256 = _sha256(body)
        request = Request("PUT", self.key(path), {}, headers, body, sha256)
        size = sum(map(len, body))
        answer, attempts = await self._send(request, path, size)
        if instead_of is not None and answer.status in (404, 412):
            if answer.status == 404:
                _require_absence(answer, path)
            if attempts > 1 and (etag := await self._etag_if(path, body)):
                # It was this very request that changed the object, and its answer was lost.
                return etag
            raise Conflict
        _require(answer, path)
        return answer.headers.get("etag", "")

    async def copy(self, source: str, target: str, size: int) -> None:
        """Copy an object within the bucket, up to 5 GiB.

        Args:
            source: Where it is.
            target: Where the copy is to be.
            size: The object's, in bytes.

        Raises:
            PathNotFound: There is no source.
        """
        headers = {
            **self._object_headers,
            "x-amz-copy-source": self._source(source),
            "x-amz-metadata-directive": "REPLACE",
        }
        request = Request("PUT", self.key(target), headers=headers, moved=size)
        answer, _ = await self._send(request, source)
        _require(answer, source)
        self._read(documents.parse_copied, answer, source)

    async def delete(self, *paths: str) -> None:
        """Delete objects; those that are not there do not matter."""
        many = [path for path in paths if documents.can_be_rendered(path)]
        if len(many) == 1:
            many = []
        for path in set(paths).difference(many):
            await self._delete_one(path)
        for first in range(0, len(many), _DELETES_MAXIMUM):
            some = many[first : first + _DELETES_MAXIMUM]
            body = documents.render_deletions(map(self.key, some))
            md5 = hashlib.md5(body, usedforsecurity=False).digest()
            request = Request(
                "POST",
                "",
                {"delete": ""},
                {"content-md5": b64encode(md5).decode(), "content-type": "application/xml"},
                (body,),
                hashlib.sha256(body).hexdigest(),
            )
            answer, _ = await self._send(request, some[0])
            _require(answer, some[0])
            for key, code in self._read(documents.parse_deleted, answer, some[0]):
                if code != "NoSuchKey":
                    raise refusal(200, code, "not deleted", self.path(key))

    async def _delete_one(self, path: str) -> None:
        answer, _ = await self._send(Request("DELETE", self.key(path)), path)
        if answer.status == 404:
            _require_absence(answer, path)
        else:
            _require(answer, path)

    async def list_page(
        self,
        prefix: str,
        *,
        delimiter: str = "",
        start_after: str = "",
        following: Mapping[str, str] | None = None,
        maximum: int | None = None,
    ) -> Listing:
        """Return one page of the objects whose path begins with a prefix; keys, not paths.

        Args:
            prefix: What the paths begin with.
            delimiter: What ends the part of a path behind the prefix that is told.
            start_after: A path; those up to it are left out.
            following: :attr:`Listing.next` of the page before.
            maximum: How many there are to be at most.
        """
        query = {"list-type": "2", "prefix": self.key(prefix), "encoding-type": "url"}
        if delimiter:
            query["delimiter"] = delimiter
        if start_after:
            query["start-after"] = self.key(start_after)
        if following is not None:
            query |= following
        if maximum is not None:
            query["max-keys"] = str(maximum)
        answer, _ = await self._send(Request("GET", "", query), prefix)
        _require(answer, prefix)
        return self._read(documents.parse_listing, answer, prefix)

    async def uploads(self, prefix: str) -> list[MultipartUpload]:
        """Return the multipart uploads below a prefix that were neither completed nor aborted."""
        found: list[MultipartUpload] = []
        beginning = self.key(prefix)
        # MinIO takes a prefix for a whole key, and lists everything only when it is asked
        # without one.
        for asked in (beginning, ""):
            markers: tuple[str, str] | None = ("", "")
            while markers is not None:
                query = {"uploads": "", "encoding-type": "url"}
                if asked:
                    query["prefix"] = asked
                if any(markers):
                    query |= {"key-marker": markers[0], "upload-id-marker": markers[1]}
                answer, _ = await self._send(Request("GET", "", query), prefix)
                _require(answer, prefix)
                page, markers = self._read(documents.parse_uploads, answer, prefix)
                found += [upload for upload in page if upload.key.startswith(beginning)]
            if found:
                break
        return found

    async def begin_multipart(self, path: str) -> str:
        """Begin a multipart upload, and return its identifier."""
        request = Request("POST", self.key(path), {"uploads": ""}, self._object_headers)
        answer, _ = await self._send(request, path)
        _require(answer, path)
        return self._read(documents.parse_upload_id, answer, path)

    async def put_part(
        self, path: str, upload_id: str, number: int, body: Sequence[bytes], sha256: str
    ) -> Part:
        """Upload a part.

        Raises:
            Ended: The multipart upload was aborted.
        """
        query = {"partNumber": str(number), "uploadId": upload_id}
        request = Request("PUT", self.key(path), query, {}, body, sha256)
        answer, _ = await self._send(request, path, sum(map(len, body)))
        _require(answer, path)
        if not (etag := answer.headers.get("etag")):
            raise Truncated("a part without an ETag", driver=NAME, path=path)
        return Part(number, etag)

    async def copy_part(
        self,
        source: str,
        target: str,
        upload_id: str,
        number: int,
        *,
        size: int,
        offset: int | None = None,
    ) -> Part:
        """Make a part of an object, or of a span of it.

        Args:
            source: Where the object is.
            target: Where the multipart upload leads.
            upload_id: Of the multipart upload.
            number: Of the part.
            size: Of the object or the span, in bytes.
            offset: Where the span begins; None when it is the whole object.

        Raises:
            Ended: The multipart upload was aborted.
            PathNotFound: There is no source.
        """
        headers = {"x-amz-copy-source": self._source(source)}
        if offset is not None:
            headers["x-amz-copy-source-range"] = f"bytes={offset}-{offset + size - 1}"
        query = {"partNumber": str(number), "uploadId": upload_id}
        request = Request("PUT", self.key(target), query, headers, moved=size)
        answer, _ = await self._send(request, source)
        _require(answer, source)
        return Part(number, self._read(documents.parse_copied, answer, source))

    async def complete_multipart(
        self, path: str, upload_id: str, parts: Sequence[Part], size: int
    ) -> None:
        """Make the object of its parts.

        Args:
            path: Where.
            upload_id: Of the multipart upload.
            parts: In order.
            size: What they come to, in bytes.

        Raises:
            Ended: The multipart upload was aborted.
        """
        body = documents.render_parts(parts)
        request = Request(
            "POST",
            self.key(path),
            {"uploadId": upload_id},
            {"content-type": "application/xml"},
            (body,),
            hashlib.sha256(body).hexdigest(),
            size,
        )
        answer, attempts = await self._send(request, path)
        for pause in _COMPLETION_PAUSES:
            # It may have been completed, and the answer was lost.
            if attempts == 1 or not _may_be_complete(answer, path):
                break
            with contextlib.suppress(PathNotFound):
                if (await self.head(path)).size == size:
                    return
            if answer.status == 404:
                break
            await asyncio.sleep(pause)
            answer, more = await self._send(request, path)
            attempts += more
        _require(answer, path)
        self._read(documents.parse_completed, answer, path)

    async def newest_part(self, path: str, upload_id: str) -> datetime | None:
        """Return when a multipart upload got a part the last time; None when it has none.

        Raises:
            Ended: It is over.
        """
        newest: datetime | None = None
        marker: str | None = ""
        while marker is not None:
            query = {"uploadId": upload_id}
            if marker:
                query["part-number-marker"] = marker
            answer, _ = await self._send(Request("GET", self.key(path), query), path)
            _require(answer, path)
            moments, following = self._read(documents.parse_parts, answer, path)
            newest = max([*moments, *([newest] if newest else [])], default=None)
            if following == marker:
                raise Truncated("a list of parts does not go on", driver=NAME, path=path)
            marker = following
        return newest

    async def abort_multipart(self, path: str, upload_id: str) -> None:
        """Drop a multipart upload with its parts; one that is over does not matter.

        A server may be about to keep a part whose sender has gone, and has the upload again then
        (versitygw does; AWS says that it takes several tries). So it is asked until it knows of
        nothing, a few times.
        """
        request = Request("DELETE", self.key(path), {"uploadId": upload_id})
        for pause in _ABORT_PAUSES:
            await asyncio.sleep(pause)
            answer, _ = await self._send(request, path)
            if answer.status == 404:
                return
            _require(answer, path)

    async def url(self, path: str, method: str, seconds: int) -> str:
        """Return a URL by which anybody may read the object for a while."""
        query = {"response-content-type": _OCTET_STREAM}
        return await self.transport.presign(Request(method, self.key(path), query), seconds)

    def _source(self, path: str) -> str:
        return f"/{self._bucket}/{self.key(path)}"

    async def _etag_if(self, path: str, body: Sequence[bytes]) -> str | None:
        """Return the ETag of an object if its content is this."""
        try:
            info, content = await self.get(path)
        except PathNotFound:
            return None
        return info.etag if content == b"".join(body) else None

    def _read(self, parse: Callable[[bytes], T], answer: Answer, path: str) -> T:
        try:
            return parse(answer.body)
        except Unreadable as error:
            raise Truncated(f"not what was asked for: {error}", driver=NAME, path=path) from error

    async def _send(self, request: Request, path: str, size: int = 0) -> tuple[Answer, int]:
        """Send until there is an answer that will stay the same; return it and the tries.

        Args:
            request: What to send.
            path: What errors are about.
            size: How many bytes travel.
        """
        seconds = DEADLINE_SECONDS + (size + request.moved) / SLOWEST_BYTES

        async def attempt() -> Answer:
            answer = await self.transport.send(request)
            is_late = answer.status == 200 and request.method != "GET"
            return _as_it_ended(answer) if is_late else answer

        return await self._persist(attempt, path, seconds)

    async def _persist(
        self, attempt: Callable[[], Awaitable[T]], path: str, seconds: float
    ) -> tuple[T, int]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        doubted = False
        for count in range(1, ATTEMPTS + 1):
            trouble: DriverError
            looked = self._credentials.looked
            pause = random.uniform(0, min(_PAUSES[0] * 4**count, _PAUSES[1]))  # noqa: S311
            try:
                async with asyncio.timeout_at(deadline):
                    answer = await attempt()
            except TROUBLE as error:
                trouble = failure(error, path)
                trouble.__cause__ = error
                if isinstance(trouble, Untrusted):
                    raise trouble from error
            else:
                if not isinstance(answer, Answer) or answer.status < 300:
                    return answer, count
                code, message = documents.parse_error(answer.body)
                is_doubtful = code in CREDENTIAL_CODES or answer.status == 403
                if is_doubtful and not doubted and count < ATTEMPTS:
                    # Keys may have been changed just now. And MinIO refuses to write to a folder
                    # that is being deleted at this moment.
                    doubted = True
                    self._credentials.doubt(looked)
                    await asyncio.sleep(_PAUSES[0])
                    continue
                if not is_passing(answer.status, code):
                    return answer, count
                trouble = refusal(answer.status, code, message, path)
                asked = answer.headers.get("retry-after", "")
                if asked.isascii() and asked.isdigit():
                    pause = max(pause, min(int(asked), _PAUSES[1]))
            if count == ATTEMPTS or loop.time() + pause >= deadline:
                raise trouble
            await asyncio.sleep(pause)
        raise AssertionError("the last attempt returns or raises")


def _as_it_ended(answer: Answer) -> Answer:
    """Return what an answer comes to: some operations begin one before they know how they end.

    Of keys that are to be deleted some may be refused, for good or for now. The latter means that
    all are asked for once more, as those that are gone do not matter.
    """
    error = documents.find_error(answer.body, passing=lambda code: is_passing(200, code))
    return answer if error is None else Answer(500, answer.headers, error)


def _parse_date(text: str) -> datetime:
    try:
        return parsedate_to_datetime(text)
    except ValueError as error:
        raise Truncated("a time that is none", driver=NAME, path="/") from error


def _require(answer: Answer, path: str) -> None:
    """Turn what is no success into an error.

    Raises:
        DriverError: It was refused.
        Ended: There is no such multipart upload.
        PathNotFound: There is nothing.
    """
    if answer.status < 300:
        return
    if answer.status == 404 and documents.parse_error(answer.body)[0] != "NoSuchUpload":
        _require_absence(answer, path)
        raise PathNotFound(driver=NAME, path=path)
    raise _unforeseen(answer, path)


def _require_absence(answer: Answer, path: str) -> None:
    """See that a 404 is about an object or an upload, and not about a bucket or a key's owner.

    One with a body that is not S3's comes from something in between that finds no server.

    Raises:
        DriverError: It is about something else: nothing follows for the object.
    """
    code, message = documents.parse_error(answer.body)
    if code not in _ABSENT or (not code and answer.body):
        raise refusal(answer.status, code, message, path)


def _may_be_complete(answer: Answer, path: str) -> bool:
    """Tell whether an upload that can't be completed may just have been, or is at this moment.

    Then there is no such upload any more, or some of its parts have moved already (MinIO).

    Raises:
        DriverError: It is about something else: nothing follows for the object.
    """
    if answer.status == 404:
        _require_absence(answer, path)
        return True
    return answer.status == 400 and documents.parse_error(answer.body)[0] == "InvalidPart"


def _unforeseen(answer: Answer, path: str) -> DriverError:
    return refusal(answer.status, *documents.parse_error(answer.body), path)


def _sha256(body: Sequence[bytes]) -> str:
    if not body:
        return EMPTY_SHA256
    hasher = hashlib.sha256()
    for piece in body:
        hasher.update(piece)
    return hasher.hexdigest()
