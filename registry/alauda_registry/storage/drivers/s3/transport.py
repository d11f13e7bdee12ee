"""One exchange with the S3 server: signed, sent, answered. No second try is made here.

Everything the driver does to a bucket goes through :class:`Transport`, so a test that wraps one
sees each request, and can delay it, lose its answer or end the process before or behind it.
"""

import socket
import ssl
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from typing_extensions import override
from yarl import URL

from alauda_registry.storage.driver import Inflow
from alauda_registry.storage.drivers.s3.credentials import Credentials
from alauda_registry.storage.drivers.s3.signing import (
    EMPTY_SHA256,
    encode_path,
    encode_query,
    presign,
    sign,
)

CONNECT_SECONDS = 5.0
SILENCE_SECONDS = 30.0
LONGEST_SILENCE_SECONDS = 3600.0
"""However much a server moves: the kernel's probes are answered by balancers and by what hangs."""

SLOWEST_BYTES = 1024 * 1024
"""Bytes a second that much is expected to move at, at least: to the server, or within it."""

IDLE_SECONDS = 15.0
"""How long an idle connection is kept; servers close theirs after 20 s and more."""

_PROBES = {socket.TCP_KEEPIDLE: 15, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 3}
"""A server that is silent for long is asked by the kernel whether it is there still."""

_STREAM_BUFFER = 256 * 1024
_AT_ONCE = 256 * 1024
"""Bytes that are handed to the socket at once."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of the server.

    Attributes:
        method: Of HTTP.
        key: The object's; "" for the bucket.
        query: Not encoded.
        headers: In lower case; those that are not signed are added by HTTP itself.
        body: Its pieces.
        sha256: Of the body, in hex.
        moved: How many bytes the server moves by itself before it says anything.
    """

    method: str
    key: str = ""
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Sequence[bytes] = ()
    sha256: str = EMPTY_SHA256
    moved: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said, all of it.

    Attributes:
        status: Of HTTP.
        headers: Whatever their case.
        body: Complete: one that was cut off is an error.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


class OpenAnswer(Protocol):
    """An answer whose body is still under way."""

    @property
    def status(self) -> int:
        """Of HTTP."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Whatever their case."""
        ...

    async def read(self) -> bytes:
        """Return all that has not been read yet."""
        ...

    def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield what has not been read yet; one that was cut off ends in an error."""
        ...

    @property
    def has_socket(self) -> bool:
        """Whether the body can be had as a socket, too."""
        return False

    def inflow(self) -> tuple[bytes, Inflow] | None:
        """Return the body: what is here of it, and the socket on which the rest comes.

        None where there is no socket; then :meth:`chunks` has it all.
        """
        return None

    def close(self) -> None:
        """Be done with it; its connection is closed when there is more to come."""
        ...


class Transport(Protocol):
    """Carries requests to the server.

    Every method raises what aiohttp, asyncio and sockets raise when there is no answer.
    """

    async def send(self, request: Request) -> Answer:
        """Return the whole answer."""
        ...

    async def open(self, request: Request) -> OpenAnswer:
        """Return the answer as soon as it begins; the caller closes it."""
        ...

    async def presign(self, request: Request, seconds: int) -> str:
        """Return a URL that stands for the request for a while, at the public endpoint."""
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a bucket is.

    Attributes:
        url: Scheme, host and port.
        bucket: Its name.
        path_style: Whether the name goes into the path, and not before the host.
    """

    url: str
    bucket: str
    path_style: bool

    @property
    def host(self) -> str:
        """Host and port, as the Host header has them."""
        parts = urlsplit(self.url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
        usual = {"http": 80, "https": 443}.get(parts.scheme)
        port = "" if parts.port in (None, usual) else f":{parts.port}"
        return f"{host}{port}" if self.path_style else f"{self.bucket}.{host}{port}"

    def path(self, key: str) -> str:
        """Return the path of an object, or of the bucket, encoded."""
        below = urlsplit(self.url).path.rstrip("/")
        return encode_path(f"{below}/{self.bucket}/{key}" if self.path_style else f"{below}/{key}")

    @property
    def origin(self) -> str:
        """What a path is appended to."""
        return f"{urlsplit(self.url).scheme}://{self.host}"


class HttpTransport(Transport):
    """Carries requests over HTTP, or HTTPS, or a proxy.

    Args:
        endpoint: Where they go.
        public: Where the URLs lead that clients are sent to.
        region: The bucket's.
        credentials: Who we are.
        tls: What is trusted; None for plain HTTP.
        connections: How many may be open at once.
        user_agent: What the server's log says of us.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        public: Endpoint,
        region: str,
        credentials: Credentials,
        *,
        tls: ssl.SSLContext | None,
        connections: int,
        user_agent: str,
    ) -> None:
        self._endpoint = endpoint
        self._public = public
        self._region = region
        self._credentials = credentials
        self._tls = tls
        self._connections = connections
        self._user_agent = user_agent
        self._host = endpoint.host
        self._origin = endpoint.origin
        self._session: aiohttp.ClientSession | None = None

    @override
    async def send(self, request: Request) -> Answer:
        response = await self._exchange(request)
        async with response:
            return Answer(response.status, response.headers, await response.read())

    @override
    async def open(self, request: Request) -> OpenAnswer:
        return _Open(await self._exchange(request))

    @override
    async def presign(self, request: Request, seconds: int) -> str:
        path = self._public.path(request.key)
        query = presign(
            await self._credentials.keys(),
            self._region,
            datetime.now(UTC),
            method=request.method,
            host=self._public.host,
            path=path,
            query=request.query,
            seconds=seconds,
        )
        return f"{self._public.origin}{path}?{query}"

    @override
    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _sign(self, request: Request) -> tuple[str, dict[str, str]]:
        """Return the path with the query of a request, and its headers with the signature."""
        path = self._endpoint.path(request.key)
        query = encode_query(request.query)
        headers = {"host": self._host, **request.headers}
        headers |= sign(
            await self._credentials.keys(),
            self._region,
            datetime.now(UTC),
            method=request.method,
            path=path,
            query=query,
            headers=headers,
            sha256=request.sha256,
        )
        return f"{path}?{query}" if query else path, headers

    async def _exchange(self, request: Request) -> aiohttp.ClientResponse:
        target, headers = await self._sign(request)
        data: bytes | AsyncGenerator[bytes | memoryview, None] | None = None
        if len(request.body) > 1 or any(len(piece) > _AT_ONCE for piece in request.body):
            data = _pieces(request.body)
            headers["content-length"] = str(sum(map(len, request.body)))
        elif request.body or request.method in ("PUT", "POST"):
            data = request.body[0] if request.body else b""
        return await self._opened().request(
            request.method,
            URL(f"{self._origin}{target}", encoded=True),
            headers=headers,
            data=data,
            allow_redirects=False,
            timeout=_timeout(request.moved),
        )

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=self._connections,
                    ssl=self._tls if self._tls is not None else True,
                    keepalive_timeout=IDLE_SECONDS,
                    socket_factory=_probed_socket,
                ),
                headers={"user-agent": self._user_agent},
                skip_auto_headers=("accept", "accept-encoding", "content-type"),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                read_bufsize=_STREAM_BUFFER,
                # Not by aiohttp, which asks for it in a thread, for each request.
                proxy=proxy_of(self._origin),
            )
            # It would send again what may have had its effect, and not tell.
            self._session._retry_connection = False
        return self._session


class _Open(OpenAnswer):
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    @property
    @override
    def status(self) -> int:
        return self._response.status

    @property
    @override
    def headers(self) -> Mapping[str, str]:
        return self._response.headers

    @override
    async def read(self) -> bytes:
        return await self._response.read()

    @override
    async def chunks(self) -> AsyncGenerator[bytes, None]:
        # As they came from the socket: others of its ways join them first.
        async for chunk, _ in self._response.content.iter_chunks():
            yield chunk

    @override
    def close(self) -> None:
        self._response.close()


def proxy_of(origin: str) -> str | None:
    """Return the proxy that the usual variables name for a URL."""
    parts = urlsplit(origin)
    if proxy_bypass(parts.netloc):
        return None
    return getproxies().get(parts.scheme)


def _timeout(moved: int) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(
        total=None,
        sock_connect=CONNECT_SECONDS,
        sock_read=min(SILENCE_SECONDS + moved / SLOWEST_BYTES, LONGEST_SILENCE_SECONDS),
    )


def _probed_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _PROBES.items():
        made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made


async def _pieces(body: Sequence[bytes]) -> AsyncGenerator[bytes | memoryview, None]:
    for piece in body:
        if len(piece) <= _AT_ONCE:
            yield piece
            continue
        view = memoryview(piece)
        for start in range(0, len(piece), _AT_ONCE):
            yield view[start : start + _AT_ONCE]
