"""Answers of megabytes, such as pages of a list."""

from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from typing_extensions import override

PART = 256 * 1024
"""Bytes that are handed over at once."""


class LongAnswer(Response):
    """An answer that goes out in parts, each when the client has taken the one before.

    In one piece it would be there once more as TLS has encrypted it, and once more as what the
    kernel does not take yet: for every list that is under way.
    """

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        body = bytes(self.body)
        for begin in range(0, len(body) or 1, PART):
            part, more = body[begin : begin + PART], begin + PART < len(body)
            await send({"type": "http.response.body", "body": part, "more_body": more})
