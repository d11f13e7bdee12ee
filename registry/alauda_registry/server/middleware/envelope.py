"""What every answer has in common, whichever route made it.

Around whatever makes answers (the routes, the probes, the limits), and pure ASGI, so bodies
pass through untouched. It adds the headers that belong on everything, keeps bodies out of
answers to HEAD, and is where a request ends whose error nobody foresaw: with an answer, as
long as none has been started.
"""

from collections.abc import Iterable, Mapping, Sequence

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from alauda_registry.server.errors import render_error
from alauda_registry.serving.protocol import RawHeader

API_VERSION = (b"docker-distribution-api-version", b"registry/2.0")
"""Several clients believe in a registry only if each answer carries this, errors included."""


class Envelope:
    """Wraps what makes answers.

    Args:
        app: What makes the answers.
        headers: Added to each answer that does not have a header of that name.
    """

    def __init__(self, app: ASGIApp, headers: Mapping[str, Sequence[str]]) -> None:
        self._app = app
        self._headers = encode_headers(headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; anything but HTTP is passed on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_started = False
        is_head = scope["method"] == "HEAD"

        async def send_finished(message: Message) -> None:
            nonlocal is_started
            if message["type"] == "http.response.start":
                is_started = True
                message["headers"] = complete_headers(message.get("headers", ()), self._headers)
            elif is_head and message["type"] == "http.response.body":
                message["body"] = b""
            await send(message)

        try:
            await self._app(scope, receive, send_finished)
        except Exception as error:
            if is_started:
                # Too late for an answer: the server logs it and breaks the connection off,
                # so that the client does not take a part for the whole.
                raise
            response = await render_error(Request(scope), error)
            await response(scope, receive, send_finished)


def encode_headers(headers: Mapping[str, Sequence[str]]) -> list[RawHeader]:
    """Return configured headers as ASGI has them."""
    return [
        (name.lower().encode("latin-1"), value.encode("latin-1"))
        for name, values in headers.items()
        for value in values
    ]


def complete_headers(
    given: Iterable[RawHeader], configured: Sequence[RawHeader]
) -> list[RawHeader]:
    """Add to an answer's headers what belongs on everything."""
    headers = [*given, API_VERSION]
    if configured:
        names = {name for name, _ in headers}
        headers += [header for header in configured if header[0] not in names]
    return headers
