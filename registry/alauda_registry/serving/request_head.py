"""What may stand before a body: the request line and the header fields, counted and checked.

The parser calls while the bytes arrive, and everything here says no as early as it can, so that a
flood costs what the limit allows and not what the client sends. What passes has one meaning only:
one length, one host, no transformation of the body that this server would have to undo. What two
readers of the same bytes could understand differently is how requests are smuggled past proxies.
"""

from http import HTTPStatus
from typing import TYPE_CHECKING

import httptools
from httptools.parser.url_parser import URL

if TYPE_CHECKING:
    from alauda_registry.serving.protocol import ProtocolLimits

# A colon, a space and a line end; for very short fields that is most of it.
FIELD_OVERHEAD = 4

# Of 64 bits. With zeros in front there could be so many that Python refuses to read them.
_LENGTH_DIGITS = 20

_CHECKED_FIELDS = frozenset([b"host", b"content-length", b"expect", b"transfer-encoding"])


class Refused(Exception):
    """The client broke the protocol; carries the answer it gets, if it can still get one."""

    def __init__(self, status: HTTPStatus, message: str, **detail: str) -> None:
        super().__init__(message)
        self.status = status
        self.detail = detail


class RequestHead:
    """The head of one request, growing as it arrives.

    Args:
        limits: How large it may become.
    """

    def __init__(self, limits: "ProtocolLimits") -> None:
        self.target = b""
        self.fields: list[tuple[bytes, bytes]] = []
        self.expects_continue = False
        self.is_chunked = False
        self.content_length = 0
        """Announced bytes of the body; 0 too when nothing is announced."""
        self._limits = limits
        self._size = 0
        self._unparsed = 0
        self._hosts = 0

    @property
    def has_body(self) -> bool:
        """Whether anything but nothing is announced to follow."""
        return self.is_chunked or self.content_length > 0

    def add_target(self, part: bytes) -> None:
        """Add a piece of the request target.

        Raises:
            Refused: The target is too long.
        """
        self.target += part
        self._size += len(part)
        if len(self.target) > self._limits.target_bytes:
            raise Refused(
                HTTPStatus.REQUEST_URI_TOO_LONG,
                f"the request target is longer than {self._limits.target_bytes} bytes: "
                "ask for less in one request",
            )

    def add_field(self, name: bytes, value: bytes) -> None:
        """Add a complete header field.

        Raises:
            Refused: There are too many of them, or it asks for what this server can't do.
        """
        self._size += len(name) + len(value) + FIELD_OVERHEAD
        name = name.lower()
        self.fields.append((name, value))
        if self._size > self._limits.header_bytes or len(self.fields) > self._limits.header_fields:
            raise self._too_large()
        if name in _CHECKED_FIELDS:
            self._check_field(name, value.strip().lower())

    def count_trailer(self, name: bytes, value: bytes) -> None:
        """Count a field behind the body. Nobody gets it: it could pose as a header field.

        Raises:
            Refused: There are too many of them.
        """
        self._size += len(name) + len(value) + FIELD_OVERHEAD
        if self._size > self._limits.header_bytes:
            raise self._too_large()

    def count_unparsed(self, size: int) -> None:
        """Count bytes that complete nothing, which are the same for ever if no field ends.

        Raises:
            Refused: There are too many of them.
        """
        self._unparsed += size
        if self._unparsed > self._limits.header_bytes:
            raise self._too_large()

    def check(self, version: str) -> None:
        """Check what can only be told from the whole.

        Raises:
            Refused: The request must not be understood.
        """
        if version not in ("1.0", "1.1"):
            raise Refused(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "use HTTP/1.1 with this server")
        if self._hosts != 1 and (self._hosts or version == "1.1"):
            raise Refused(HTTPStatus.BAD_REQUEST, "send exactly one Host field")
        if version == "1.0":
            if self.is_chunked:
                raise Refused(HTTPStatus.BAD_REQUEST, "HTTP/1.0 has no Transfer-Encoding")
            # Which HTTP/1.0 does not have either, but there it is to be ignored.
            self.expects_continue = False

    def parse_target(self) -> URL:
        """Return the target's path, which is not empty, and query.

        Raises:
            Refused: It has no path, or has what never belongs to one.
        """
        try:
            target = httptools.parse_url(self.target)
        except httptools.HttpParserInvalidURLError:
            target = None
        if target is None or not target.path or b"#" in self.target:
            raise Refused(HTTPStatus.BAD_REQUEST, "the request target is not a path with a query")
        return target

    def _check_field(self, name: bytes, value: bytes) -> None:
        match name:
            case b"host":
                self._hosts += 1
            case b"content-length":
                # The parser lets only digits through, and only one such field.
                if len(value) > _LENGTH_DIGITS:
                    raise Refused(HTTPStatus.BAD_REQUEST, "Content-Length has too many digits")
                self.content_length = int(value)
            case b"expect" if value == b"100-continue":
                self.expects_continue = True
            case b"expect":
                raise Refused(
                    HTTPStatus.EXPECTATION_FAILED, "expect 100-continue or nothing of this server"
                )
            case _ if value == b"chunked":
                self.is_chunked = True
            case _:
                raise Refused(
                    HTTPStatus.NOT_IMPLEMENTED, "use no other transfer encoding than chunked"
                )

    def _too_large(self) -> Refused:
        return Refused(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            f"send at most {self._limits.header_fields} header fields with "
            f"{self._limits.header_bytes} bytes in total",
        )
