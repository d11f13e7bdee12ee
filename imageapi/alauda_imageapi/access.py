"""Who may do what beside a registry that asks: the registry's own rights, in Kubernetes' words.

What a request needs follows from what it is to RBAC. Who may pull from ``team/app`` may read the
stream ``app`` of the namespace ``team`` and its tags; who may delete there may delete them. A list
shows many repositories at once, and is for whoever may pull from all that it could show and list
the repositories besides: nothing is left out of a list for lack of rights, since clients take what
is not in one for gone. What would write anything but by deletion is for nobody: pushes do that,
and what a pusher could write into a stream could lead to what they may not pull.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from starlette.datastructures import QueryParams
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from alauda_imageapi.kinds.names import GROUP
from alauda_imageapi.machinery.application import USER, error_answer
from alauda_imageapi.machinery.errors import (
    Forbidden,
    ServiceUnavailable,
    StatusError,
    TooManyRequests,
    Unauthorized,
    no_such_resource,
)
from alauda_imageapi.machinery.request_info import attributes_of, refusal
from alauda_imageapi.machinery.targets import parse_segments
from alauda_registry.auth.authenticator import Caller
from alauda_registry.auth.scopes import (
    CATALOG,
    DELETE,
    EVERY_REPOSITORY,
    PULL,
    Access,
    of_repository,
)
from alauda_registry.kube.client import Attributes, ResourceAttributes, UserInfo
from alauda_registry.oci import errors as registry_errors

WATCHES_ASK_SECONDS = 5.0
"""How often it is looked whether whoever watches still may."""

ACTIONS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("get", "list", "watch"), (PULL,)),
    # What is deleted may be in the answer.
    **dict.fromkeys(("delete", "deletecollection"), (PULL, DELETE)),
}
"""By verb, what is done to the repository; other verbs are for nobody."""

OF_A_STREAM: Mapping[str, str] = {
    "imagestreams": "/",
    "imagestreamtags": ":",
    "imagetags": ":",
    "imagestreamimages": "@",
    "imagestreammappings": "/",
}
"""The resources that belong to a stream, and what its name ends before in theirs."""

OF_ALL = frozenset({"images", "imagesignatures"})
"""The resources that belong to no repository, since their content may be in any."""


class Door(Protocol):
    """Knows who asks; the server's `Door` has the meanings."""

    async def identify(self, scope: Scope) -> Caller: ...  # noqa: D102
    async def admit(self, scope: Scope, needed: Sequence[Access]) -> Caller: ...  # noqa: D102
    def challenge(  # noqa: D102
        self, scope: Scope, error: registry_errors.Unauthorized, needed: Sequence[Access]
    ) -> str: ...


def needs_of(asked: ResourceAttributes) -> tuple[Access, ...] | None:
    """Return what a request for one of our resources needs; None when nobody may do it.

    Raises:
        NotFound: There is no such resource.
    """
    if asked.group != GROUP.name or asked.version != GROUP.version:
        raise no_such_resource()
    is_collection = not asked.name
    if asked.resource in OF_ALL:
        repository = EVERY_REPOSITORY
    elif asked.resource not in OF_A_STREAM:
        raise no_such_resource()
    elif not asked.namespace:
        # Also with a name, as there may be one in each namespace.
        repository, is_collection = EVERY_REPOSITORY, True
    elif is_collection:
        repository = f"{asked.namespace}/*"
    else:
        stream = asked.name.partition(OF_A_STREAM[asked.resource])[0]
        repository = f"{asked.namespace}/{stream}"
    actions = ACTIONS.get(asked.verb)
    if actions is None:
        return None
    needed = of_repository(repository, *actions)
    return (CATALOG, *needed) if is_collection else needed


class Doorstep:
    """Stands before the application, and lets nobody in whom the door does not; pure ASGI.

    Args:
        app: Serves those that may.
        door: Says who may.
        seconds: How often it is looked whether whoever watches still may.
    """

    def __init__(self, app: ASGIApp, door: Door, seconds: float = WATCHES_ASK_SECONDS) -> None:
        self._app = app
        self._door = door
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        try:
            segments = parse_segments(scope["raw_path"])
            query = dict(reversed(QueryParams(scope["query_string"]).multi_items()))
            asked = attributes_of(scope["method"], segments, query)
            caller = await self._let_in(scope, asked)
        except StatusError as error:
            await _answer(error)(scope, receive, send)
            return
        except _Refused as refused:
            await _answer(refused.status, refused.challenge)(scope, receive, send)
            return
        if not caller.identity.is_anonymous:
            scope[USER] = UserInfo(caller.identity.name)
        if asked.verb == "watch":
            receive = _WhileLetIn(receive, lambda: self._let_in(scope, asked), self._seconds)
        await self._app(scope, receive, send)

    async def _let_in(self, scope: Scope, asked: Attributes) -> Caller:
        """Return who sends a request that may.

        Raises:
            NotFound: There is no such resource.
            _Refused: They may not.
        """
        if not isinstance(asked, ResourceAttributes) or _is_of_a_namespace(asked):
            # What we serve is no secret, and kubectl has to know it before it asks for anything.
            return await self._ask(scope, (), asked, self._door.identify(scope))
        needed = needs_of(asked)
        if needed is not None:
            return await self._ask(scope, needed, asked, self._door.admit(scope, needed))
        caller = await self._ask(scope, (), asked, self._door.admit(scope, ()))
        error = refusal(caller.identity.name, asked)
        error.message += ": where auth is set, streams are changed by pushes and deletions alone"
        raise _Refused(error)

    async def _ask(
        self, scope: Scope, needed: Sequence[Access], asked: Attributes, answer: Awaitable[Caller]
    ) -> Caller:
        """Return what the door answers, with its errors as Kubernetes words them."""
        try:
            return await answer
        except registry_errors.Unauthorized as error:
            challenge = self._door.challenge(scope, error, needed)
            raise _Refused(Unauthorized(error.message), challenge) from error
        except registry_errors.TooManyRequests as error:
            details = {"retryAfterSeconds": error.retry_after}
            raise _Refused(TooManyRequests(error.message, details=details)) from error
        except registry_errors.AuthorityUnavailable as error:
            details = {"retryAfterSeconds": error.retry_after}
            raise _Refused(ServiceUnavailable(error.message, details=details)) from error
        except registry_errors.Denied as error:
            caller = await self._ask(scope, (), asked, self._door.identify(scope))
            raise _Refused(_denied(caller, asked, needed)) from error


class _Refused(Exception):
    """A request is not let in."""

    def __init__(self, status: StatusError, challenge: str = "") -> None:
        super().__init__(status.message)
        self.status = status
        self.challenge = challenge


class _WhileLetIn:
    """What a client sends, which is taken for gone as soon as it may not any more.

    Args:
        receive: ASGI's.
        ask: Raises when it may not.
        seconds: How often that is asked.
    """

    def __init__(
        self, receive: Receive, ask: Callable[[], Awaitable[object]], seconds: float
    ) -> None:
        self._receive = receive
        self._ask = ask
        self._seconds = seconds

    async def __call__(self) -> Message:
        """Return what is sent next."""
        receiving = asyncio.ensure_future(self._receive())
        try:
            while not (await asyncio.wait({receiving}, timeout=self._seconds))[0]:
                await self._ask()
        except _Refused:
            return {"type": "http.disconnect"}
        finally:
            receiving.cancel()
        return receiving.result()


def _answer(error: StatusError, challenge: str = "") -> Response:
    answer = error_answer(error)
    answer.headers["Cache-Control"] = "no-cache, private"
    if challenge:
        answer.headers["WWW-Authenticate"] = challenge
    return answer


def _is_of_a_namespace(asked: ResourceAttributes) -> bool:
    """Tell whether it is one of the namespaces that are there because they are asked for."""
    return not asked.group and asked.resource == "namespaces"


def _denied(caller: Caller, asked: Attributes, needed: Sequence[Access]) -> Forbidden:
    error = refusal(caller.identity.name, asked)
    rights = ", ".join(f"{access.action} of {access.name}" for access in needed)
    error.message += f": it takes {rights}"
    return error
