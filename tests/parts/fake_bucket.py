"""A bucket in memory, behind the S3 driver's transport: each request happens at one moment.

For what no real server can be told to do: to stop between any two requests, and to say what the
bucket held then. The contract suite of the drivers holds it to what the real servers do.
"""

import hashlib
import re
from bisect import bisect_right
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from urllib.parse import quote, quote_plus, unquote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from typing_extensions import override

from alauda_registry.storage.drivers.s3.transport import Answer, OpenAnswer, Request, Transport

BUCKET = "images"
_PAGE = 1000
_NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
SMALLEST_PART = 5 * 2**20


class Refused(Exception):
    """An error of S3."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status = status
        self.code = code


@dataclass(frozen=True, slots=True)
class Stored:
    """An object.

    Attributes:
        content: Its bytes.
        etag: Of the content, with its quotes.
        metadata: The ``x-amz-meta-`` headers it was made with.
        modified_at: When, in seconds.
    """

    content: bytes
    etag: str
    metadata: Mapping[str, str]
    modified_at: float


@dataclass(slots=True)
class Multipart:
    """A multipart upload in progress."""

    key: str
    initiated_at: float
    metadata: Mapping[str, str]
    parts: dict[int, tuple[str, bytes, float]] = field(default_factory=dict)


class FakeBucket:
    """The bucket; whoever talks to it calls :meth:`handle`.

    Args:
        clock: Tells the server's time in seconds.
        smallest_part: How many bytes all parts but the last must have.
        page_size: How many entries a page of a listing has at most.
        encodes: Whether keys in listings are encoded when that is asked for; else they have
            another character where XML can't carry one, tokens too, as with versitygw.

    Attributes:
        objects: What is there.
        uploads: The multipart uploads in progress.
        requests: How many requests there were.
        effects: How many of them changed something.
        on_effect: Called after each of them.
        on_request: Called before each request; it may refuse it.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        smallest_part: int = SMALLEST_PART,
        page_size: int = _PAGE,
        encodes: bool = True,
    ) -> None:
        self._clock = clock
        self._smallest_part = smallest_part
        self._page_size = page_size
        self._encodes = encodes
        self._numbers = 0
        self.objects: dict[str, Stored] = {}
        self.uploads: dict[str, Multipart] = {}
        self.requests = 0
        self.effects = 0
        self.on_effect: Callable[[Request], None] = lambda _: None
        self.on_request: Callable[[Request], None] = lambda _: None

    def handle(self, request: Request) -> Answer:
        """Do what is asked, at once and whole."""
        self.requests += 1
        now = datetime.fromtimestamp(self._clock(), UTC)
        date = {"date": format_datetime(now, usegmt=True)}
        try:
            self.on_request(request)
            answer = self._operation(request)(request)
        except Refused as refused:
            body = f"<Error><Code>{refused.code}</Code></Error>".encode()
            answer = Answer(refused.status, {}, b"" if request.method == "HEAD" else body)
        else:
            if request.method not in {"GET", "HEAD"}:
                self.effects += 1
                self.on_effect(request)
        return Answer(answer.status, {**date, **answer.headers}, answer.body)

    def put(self, key: str, content: bytes, etag: str | None = None) -> None:
        """Put an object there as another program would, perhaps with an ETag that says nothing."""
        self._keep(key, content, {}, _etag(content) if etag is None else etag)

    def _operation(self, request: Request) -> Callable[[Request], Answer]:
        query = request.query
        if not request.key:
            if "list-type" in query:
                return self._list
            return self._delete_many if "delete" in query else self._list_uploads
        if "uploads" in query:
            return self._begin
        if "uploadId" in query:
            return {
                "GET": self._list_parts,
                "PUT": self._put_part,
                "POST": self._complete,
                "DELETE": self._abort,
            }[request.method]
        return {
            "GET": self._get,
            "HEAD": self._get,
            "PUT": self._put,
            "DELETE": self._delete,
        }[request.method]

    def _find(self, key: str) -> Stored:
        try:
            return self.objects[key]
        except KeyError:
            raise Refused(404, "NoSuchKey") from None

    def _get(self, request: Request) -> Answer:
        stored = self._find(request.key)
        if request.headers.get("if-match", stored.etag) != stored.etag:
            raise Refused(412, "PreconditionFailed")
        moment = datetime.fromtimestamp(stored.modified_at, UTC)
        headers = {
            "etag": stored.etag,
            "last-modified": format_datetime(moment, usegmt=True),
            **stored.metadata,
        }
        content, status = stored.content, 200
        if span := request.headers.get("range"):
            first, _, last = span.removeprefix("bytes=").partition("-")
            if int(first) >= len(content):
                raise Refused(416, "InvalidRange")
            end = min(int(last), len(content) - 1) if last else len(content) - 1
            headers["content-range"] = f"bytes {first}-{end}/{len(content)}"
            content, status = content[int(first) : end + 1], 206
        headers["content-length"] = str(len(content))
        return Answer(status, headers, b"" if request.method == "HEAD" else content)

    def _put(self, request: Request) -> Answer:
        if source := request.headers.get("x-amz-copy-source"):
            content = self._source(source).content
        else:
            content = b"".join(request.body)
        there = self.objects.get(request.key)
        self._check_conditions(request, there)
        stored = self._keep(request.key, content, _metadata(request.headers), _etag(content))
        if source:
            return _document("CopyObjectResult", f"<ETag>{escape(stored.etag)}</ETag>")
        return Answer(200, {"etag": stored.etag}, b"")

    def _check_conditions(self, request: Request, there: Stored | None) -> None:
        if request.headers.get("if-none-match") == "*" and there is not None:
            raise Refused(412, "PreconditionFailed")
        wanted = request.headers.get("if-match")
        if wanted is not None:
            if there is None:
                raise Refused(404, "NoSuchKey")
            if there.etag != wanted:
                raise Refused(412, "PreconditionFailed")

    def _delete(self, request: Request) -> Answer:
        self.objects.pop(request.key, None)
        return Answer(204, {}, b"")

    def _delete_many(self, request: Request) -> Answer:
        try:
            root = ElementTree.fromstring(b"".join(request.body))
        except ElementTree.ParseError:
            raise Refused(400, "MalformedXML") from None
        for element in root.iter("Key"):
            self.objects.pop(element.text or "", None)
        return _document("DeleteResult", "")

    def _list(self, request: Request) -> Answer:
        query = request.query
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        token = query.get("continuation-token", "")
        if self._encodes and not token:
            # MinIO would leave out what it should not: tests/contract/test_bucket_listing.py.
            assert "/" not in query.get("start-after", "").removeprefix(prefix)
        after = (unquote(token) if self._encodes else token) or query.get("start-after", "")
        keys = sorted(self.objects)
        found: list[str] = []
        last, seen = "", set[str]()
        maximum = int(query.get("max-keys", self._page_size))
        truncated = False
        for key in keys[bisect_right(keys, after) :]:
            if not key.startswith(prefix):
                continue
            rest = key[len(prefix) :]
            is_common = bool(delimiter) and delimiter in rest
            common = prefix + rest.partition(delimiter)[0] + delimiter if is_common else ""
            if is_common and (common in seen or after.startswith(common)):
                continue
            if len(found) == maximum:
                truncated = True
                break
            last = f"{common}\x7f" if is_common else key
            if is_common:
                seen.add(common)
                written = self._write(common, query)
                found.append(f"<CommonPrefixes><Prefix>{written}</Prefix></CommonPrefixes>")
            else:
                found.append(self._entry(key, query))
        found.append(f"<IsTruncated>{str(truncated).lower()}</IsTruncated>")
        if truncated:
            token = quote(last) if self._encodes else self._write(last, {})
            found.append(f"<NextContinuationToken>{token}</NextContinuationToken>")
        if self._encodes and "encoding-type" in query:
            found.append("<EncodingType>url</EncodingType>")
        return _document("ListBucketResult", "".join(found))

    def _write(self, key: str, query: Mapping[str, str]) -> str:
        if self._encodes and "encoding-type" in query:
            return quote_plus(key)
        if self._encodes:
            # As MinIO does it, and no reader takes it.
            return _NOT_IN_XML.sub(lambda match: f"&#{ord(match[0])};", escape(key))
        return _NOT_IN_XML.sub("\ufffd", escape(key))

    def _entry(self, key: str, query: Mapping[str, str]) -> str:
        stored = self.objects[key]
        modified = datetime.fromtimestamp(stored.modified_at, UTC).isoformat()
        return (
            f"<Contents><Key>{self._write(key, query)}</Key><Size>{len(stored.content)}</Size>"
            f"<LastModified>{modified}</LastModified><ETag>{escape(stored.etag)}</ETag></Contents>"
        )

    def _list_uploads(self, request: Request) -> Answer:
        prefix = request.query.get("prefix", "")
        found = [
            f"<Upload><Key>{escape(upload.key)}</Key><UploadId>{name}</UploadId><Initiated>"
            f"{datetime.fromtimestamp(upload.initiated_at, UTC).isoformat()}</Initiated></Upload>"
            for name, upload in self.uploads.items()
            if upload.key.startswith(prefix)
        ]
        return _document("ListMultipartUploadsResult", "".join(found))

    def _list_parts(self, request: Request) -> Answer:
        after = int(request.query.get("part-number-marker", "0"))
        parts = sorted(self._upload(request).parts.items())
        left = [(number, part) for number, part in parts if number > after]
        page = left[: self._page_size]
        found = [
            f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(etag)}</ETag><LastModified>"
            f"{datetime.fromtimestamp(moment, UTC).isoformat()}</LastModified></Part>"
            for number, (etag, _, moment) in page
        ]
        found.append(f"<IsTruncated>{str(len(page) < len(left)).lower()}</IsTruncated>")
        if page:
            found.append(f"<NextPartNumberMarker>{page[-1][0]}</NextPartNumberMarker>")
        return _document("ListPartsResult", "".join(found))

    def _begin(self, request: Request) -> Answer:
        self._numbers += 1
        name = f"upload-{self._numbers}"
        self.uploads[name] = Multipart(request.key, self._clock(), _metadata(request.headers))
        return _document("InitiateMultipartUploadResult", f"<UploadId>{name}</UploadId>")

    def _upload(self, request: Request) -> Multipart:
        upload = self.uploads.get(request.query["uploadId"])
        if upload is None or upload.key != request.key:
            raise Refused(404, "NoSuchUpload")
        return upload

    def _put_part(self, request: Request) -> Answer:
        upload, number = self._upload(request), int(request.query["partNumber"])
        source = request.headers.get("x-amz-copy-source")
        content = self._source(source).content if source else b"".join(request.body)
        if span := request.headers.get("x-amz-copy-source-range"):
            first, _, last = span.removeprefix("bytes=").partition("-")
            content = content[int(first) : int(last) + 1]
        upload.parts[number] = _etag(content), content, self._clock()
        if source:
            return _document("CopyPartResult", f"<ETag>{escape(_etag(content))}</ETag>")
        return Answer(200, {"etag": _etag(content)}, b"")

    def _complete(self, request: Request) -> Answer:
        upload = self._upload(request)
        root = ElementTree.fromstring(b"".join(request.body))
        wanted = [(int(part.findtext("PartNumber") or 0), part.findtext("ETag")) for part in root]
        contents = []
        for place, (number, etag) in enumerate(wanted, 1):
            if number not in upload.parts or upload.parts[number][0] != etag:
                raise Refused(400, "InvalidPart")
            contents.append(upload.parts[number][1])
            if len(contents[-1]) < self._smallest_part and place < len(wanted):
                raise Refused(400, "EntityTooSmall")
        content = b"".join(contents)
        etag = f'{_etag(content)[:-1]}-{len(wanted)}"'
        self._keep(request.key, content, upload.metadata, etag)
        del self.uploads[request.query["uploadId"]]
        return _document("CompleteMultipartUploadResult", f"<ETag>{escape(etag)}</ETag>")

    def _abort(self, request: Request) -> Answer:
        self._upload(request)
        del self.uploads[request.query["uploadId"]]
        return Answer(204, {}, b"")

    def _source(self, source: str) -> Stored:
        return self._find(unquote(source).removeprefix(f"/{BUCKET}/"))

    def _keep(self, key: str, content: bytes, metadata: Mapping[str, str], etag: str) -> Stored:
        stored = Stored(content, etag, metadata, self._clock())
        self.objects[key] = stored
        return stored


class _Opened(OpenAnswer):
    """An answer that is read in pieces."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    @property
    @override
    def status(self) -> int:
        return self._answer.status

    @property
    @override
    def headers(self) -> Mapping[str, str]:
        return self._answer.headers

    @override
    async def read(self) -> bytes:
        return self._answer.body

    @override
    async def chunks(self) -> AsyncGenerator[bytes, None]:
        for start in range(0, len(self._answer.body), 16 * 1024):
            yield self._answer.body[start : start + 16 * 1024]

    @override
    def close(self) -> None:
        pass


class FakeTransport(Transport):
    """Leads straight to a fake bucket, without any time or trouble."""

    def __init__(self, bucket: FakeBucket) -> None:
        self._bucket = bucket

    @override
    async def send(self, request: Request) -> Answer:
        return self._bucket.handle(request)

    @override
    async def open(self, request: Request) -> OpenAnswer:
        return _Opened(await self.send(request))

    @override
    async def presign(self, request: Request, seconds: int) -> str:
        return f"http://public/{request.key}"

    @override
    async def aclose(self) -> None:
        pass


def _metadata(headers: Mapping[str, str]) -> Mapping[str, str]:
    return {name: value for name, value in headers.items() if name.startswith("x-amz-meta-")}


def _etag(content: bytes) -> str:
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'


def _document(name: str, content: str | Iterable[str]) -> Answer:
    return Answer(200, {"content-type": "application/xml"}, f"<{name}>{content}</{name}>".encode())
