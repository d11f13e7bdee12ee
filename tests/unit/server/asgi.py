"""Speaks ASGI to the application without an HTTP library in between.

Libraries repair paths, refuse headers and always send whole bodies. Hostile clients don't,
so this one sends what it is given, and tells how much of a body was asked for.
"""

import asyncio
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from typing import Any, Self

from starlette.applications import Starlette
from starlette.types import Message


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes
    messages: list[Message]
    reads: int


class RawClient:
    """Runs an application on an event loop of its own, and talks to it."""

    def __init__(self, app: Starlette) -> None:
        self._app = app
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        self._state: dict[str, Any] = {}

    def __enter__(self) -> Self:
        lifespan: AbstractAsyncContextManager[Any] = self._app.router.lifespan_context(self._app)
        self._state = dict(self._runner.run(self._stack.enter_async_context(lifespan)))
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._stack.aclose())
        self._runner.close()

    def request(
        self,
        method: str,
        raw_path: bytes,
        *,
        query: bytes = b"",
        headers: Iterable[tuple[bytes, bytes]] = (),
        body: Iterable[bytes] = (),
        is_cut_off: bool = False,
        extensions: dict[str, Any] | None = None,
    ) -> Answer:
        """Send a request; a cut-off one loses its client where the body should go on."""
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": raw_path.decode("latin-1"),
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "headers": list(headers),
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 5000),
            "state": self._state.copy(),
            "extensions": extensions or {},
        }
        return self._runner.run(self._exchange(scope, list(body), is_cut_off))

    async def _exchange(self, scope: dict[str, Any], body: list[bytes], is_cut_off: bool) -> Answer:
        incoming: list[Message] = [
            {"type": "http.request", "body": piece, "more_body": True} for piece in body
        ]
        if not is_cut_off:
            incoming.append({"type": "http.request", "body": b"", "more_body": False})
        reads = 0
        outgoing: list[Message] = []
        is_over = asyncio.Event()

        async def receive() -> Message:
            nonlocal reads
            reads += 1
            if incoming:
                return incoming.pop(0)
            if not is_cut_off:
                await is_over.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            outgoing.append(message)
            # A real server waits for its client now and then, and others get a turn.
            await asyncio.sleep(0)
            if not message.get("more_body", message["type"] == "http.response.start"):
                is_over.set()

        await self._app(scope, receive, send)
        return _answer(outgoing, reads)


def _answer(messages: list[Message], reads: int) -> Answer:
    start = messages[0]
    return Answer(
        status=start["status"],
        headers={name.decode(): value.decode("latin-1") for name, value in start["headers"]},
        body=b"".join(message.get("body", b"") for message in messages[1:]),
        messages=messages,
        reads=reads,
    )
