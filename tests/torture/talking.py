"""Talks to a registry as plainly as possible: one request, its answer, and when both were.

No retries: what was asked once happened at most once. When the answer does not come, nobody
knows whether the request was carried out, and :class:`Lost` says so.
"""

import http.client
import time
from collections.abc import Mapping
from dataclasses import dataclass

from typing_extensions import override

# More than any lock or limit of the server makes a request wait.
SECONDS = 90.0


class Lost(Exception):
    """A request may have been sent, and no answer came.

    Whoever it was sent to is gone, and all that it could do is done: a connection only breaks
    off after the last thread of its process has ended.

    Attributes:
        began: When the request was sent.
        ended: When the connection broke off.
    """

    def __init__(self, request: str, began: float, ended: float) -> None:
        super().__init__(request)
        self.began = began
        self.ended = ended


class NotSent(Exception):
    """Nobody listens."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a request.

    Attributes:
        request: What was asked, for whoever reads a failure.
        began: When it was asked.
        ended: When all of the answer was here.
    """

    request: str
    status: int
    headers: Mapping[str, str]
    content: bytes
    began: float
    ended: float

    @override
    def __str__(self) -> str:
        return f"{self.request}: {self.status} {self.content[:400]!r}"


class Line:
    """A connection to one server, made again when it is needed; for one thread.

    Args:
        address: Host and port.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._connection = http.client.HTTPConnection(address, timeout=SECONDS)

    def ask(
        self,
        method: str,
        path: str,
        content: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Ask once.

        Raises:
            Lost: No answer came.
            NotSent: Nobody listens.
        """
        request = f"{method} {path} at {self.address}"
        if self._connection.sock is None:
            try:
                self._connection.connect()
            except OSError as error:
                self.hang_up()
                raise NotSent(request) from error
        began = time.monotonic()
        try:
            self._connection.request(method, path, content or None, headers or {})
            answer = self._connection.getresponse()
            received = answer.read()
        except TimeoutError:
            raise
        except (OSError, http.client.HTTPException) as error:
            self.hang_up()
            raise Lost(request, began, time.monotonic()) from error
        ended = time.monotonic()
        heads = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(request, answer.status, heads, received, began, ended)

    def hang_up(self) -> None:
        """Close the connection."""
        self._connection.close()
