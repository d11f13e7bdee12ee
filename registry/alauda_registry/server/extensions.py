"""What may be served beside the registry, and how it hears of what is pushed.

An extension is another distribution's, or another component's, and is found by whoever runs the
server; it is opened with the registry, and gives an ASGI application, a recorder and its own word
on whether it is ready. The server knows it by these protocols alone. Without one, nothing of this
is in the way of a request but a recorder that does nothing.
"""

import pkgutil
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from starlette.types import ASGIApp, Receive, Scope, Send

from alauda_registry.auth.authenticator import Caller
from alauda_registry.auth.scopes import Access
from alauda_registry.oci.digest import Digest
from alauda_registry.oci.errors import Unauthorized
from alauda_registry.oci.reference import RepositoryName, Tag
from alauda_registry.serving.starting import CannotStart
from alauda_registry.storage.repositories import Registry

GROUP = "alauda_registry.extensions"
"""The group of entry points that extensions are found by."""

IMAGE_API = "image-api"

PATHS = frozenset({"/api", "/apis", "/openapi", "/version"})
"""What an extension serves, with everything below."""


class ImageRecorder(Protocol):
    """Hears of what the storage has, before the client does.

    It is asked to record what has happened, and looks into the storage for what that is; so
    calls may be repeated, and may come late.
    """

    async def pushed(self, name: RepositoryName, digest: Digest, tags: Sequence[Tag]) -> None:
        """Record a manifest that was pushed, and tags that were let point to it.

        Raises:
            StorageUnavailable: It could not be recorded; the same push is to be tried again.
        """
        ...

    async def deleted(self, name: RepositoryName, reference: Tag | Digest) -> None:
        """Record that a tag, or a manifest with all its tags, is gone, if it is.

        Raises:
            StorageUnavailable: It could not be recorded; the same deletion is to be tried again.
        """
        ...


class NoRecorder:
    """For a registry that nobody listens to."""

    async def pushed(self, name: RepositoryName, digest: Digest, tags: Sequence[Tag]) -> None:
        """There is nobody to be told."""

    async def deleted(self, name: RepositoryName, reference: Tag | Digest) -> None:
        """There is nobody to be told."""


class Door(Protocol):
    """Knows who asks and what they may; an extension lets nobody in whom it does not.

    Each may raise what the gate of the mode raises: `Unauthorized`, `Denied`, `TooManyRequests`,
    `AuthorityUnavailable`.
    """

    async def identify(self, scope: Scope) -> Caller:
        """Return who sends a request; without credentials that is nobody in particular."""
        ...

    async def admit(self, scope: Scope, needed: Sequence[Access]) -> Caller:
        """Return who sends a request, if they may do all of this.

        Nothing takes good credentials only.
        """
        ...

    def challenge(self, scope: Scope, error: Unauthorized, needed: Sequence[Access]) -> str:
        """Return the field ``WWW-Authenticate`` of the answer to whoever was not let in."""
        ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What an extension is given when it is opened.

    Attributes:
        registry: The storage.
        address: Where clients reach the registry: HOST:PORT.
        hosts: Names under which it may be asked, besides IP addresses and localhost.
        database: A file for what it keeps, which may not be there yet. None: in memory.
        is_first: This is the process among several that does what only one has to do.
        read_only: Nothing is to be changed.
        may_untag: Tags may be deleted.
        door: Whoever asks for something has to be let in by it; None where everybody may do
            everything.
    """

    registry: Registry
    address: str
    hosts: frozenset[str]
    database: Path | None
    is_first: bool
    read_only: bool
    may_untag: bool
    door: Door | None = None


class Extension(Protocol):
    """Something that is open and can be served."""

    @property
    def app(self) -> ASGIApp:
        """Serves the paths below ``/api``, ``/apis``, ``/openapi``, and ``/version``.

        The registry's guard does not stand before it: it asks the door itself, as it alone knows
        what a request leads to, and what a refusal looks like.
        """
        ...

    @property
    def recorder(self) -> ImageRecorder:
        """Hears of what is pushed and deleted."""
        ...

    def check(self) -> str:
        """Say why it cannot serve; nothing when it can."""
        ...

    def drain(self) -> None:
        """End what would go on for ever, as the server stops."""
        ...


ExtensionOpener: TypeAlias = Callable[[Surroundings], AbstractAsyncContextManager[Extension]]
"""Opens an extension; raises OSError when what it keeps its things in cannot be used."""


class ExtensionSlot:
    """The place of an extension in a server: empty until the registry is open, and afterwards.

    Args:
        where: The opener: ``module:attribute``.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._extension: Extension | None = None

    @asynccontextmanager
    async def opened(self, surroundings: Surroundings) -> AsyncGenerator[None]:
        """Have the extension open for the length of an ``async with`` block.

        Raises:
            CannotStart: What it keeps its things in cannot be used.
        """
        opener: ExtensionOpener = pkgutil.resolve_name(self._where)
        async with AsyncExitStack() as stack:
            try:
                self._extension = await stack.enter_async_context(opener(surroundings))
            except OSError as error:
                raise CannotStart(f"the image API cannot start: {error}") from error
            try:
                yield
            finally:
                self._extension = None

    def check(self) -> str:
        """Say why the extension cannot serve; nothing when it can."""
        return self._extension.check() if self._extension else "the image API is not open"

    def drain(self) -> None:
        """Tell the extension that the server stops."""
        if self._extension is not None:
            self._extension.drain()

    async def pushed(self, name: RepositoryName, digest: Digest, tags: Sequence[Tag]) -> None:
        """Pass it on."""
        if self._extension is not None:
            await self._extension.recorder.pushed(name, digest, tags)

    async def deleted(self, name: RepositoryName, reference: Tag | Digest) -> None:
        """Pass it on."""
        if self._extension is not None:
            await self._extension.recorder.deleted(name, reference)

    def beside(self, app: ASGIApp) -> ASGIApp:
        """Return an application that serves the extension's paths, too."""

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            extension = self._extension
            if extension is not None and scope["type"] == "http":
                first = "/".join(scope["path"].split("/", 2)[:2])
                if first in PATHS:
                    await extension.app(scope, receive, send)
                    return
            await app(scope, receive, send)

        return serve
