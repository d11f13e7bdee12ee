"""Everything a client can be told went wrong, as metav1 Status.

Each class is a reason of ``k8s.io/apimachinery``; other programs look at ``reason``, ``code``,
``details.kind`` and the causes, so these are kept to the letter (facts/apiserver.md 2.10).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

from typing_extensions import override

from alauda_imageapi.machinery.objects import Object

_LONGEST_ECHO = 256
MOST_CAUSES = 100
"""Of what is wrong with a document; nobody reads all that a large one may have."""


@dataclass(frozen=True, slots=True)
class Cause:
    """One thing that is wrong.

    Attributes:
        reason: Such as ``FieldValueRequired``.
        message: For people.
        field: The path of the field, as ``spec.tags[0].name``.
    """

    reason: str
    message: str
    field: str

    @override
    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message


def first(causes: Iterable[Cause]) -> list[Cause]:
    """Return as many causes as are told."""
    return list(islice(causes, MOST_CAUSES))


def required(field: str, detail: str = "") -> Cause:
    """A field that must be given is not."""
    return Cause("FieldValueRequired", _with(detail, "Required value"), field)


def invalid(field: str, value: object, detail: str) -> Cause:
    """A field has a value that it must not have."""
    return Cause("FieldValueInvalid", _with(detail, f"Invalid value: {_echo(value)}"), field)


def not_supported(field: str, value: object, known: Sequence[str]) -> Cause:
    """A field has none of the values that there are."""
    listed = ", ".join(f'"{name}"' for name in known)
    message = f"Unsupported value: {_echo(value)}: supported values: {listed}"
    return Cause("FieldValueNotSupported", message, field)


def forbidden(field: str, detail: str) -> Cause:
    """A field must not be given, or not be changed."""
    return Cause("FieldValueForbidden", _with(detail, "Forbidden"), field)


def too_long(field: str, limit: int) -> Cause:
    """A value is longer than it may be."""
    return Cause("FieldValueTooLong", f"Too long: may not be more than {limit} bytes", field)


def not_found_value(field: str, value: object) -> Cause:
    """A field names what is not there."""
    return Cause("FieldValueNotFound", f"Not found: {_echo(value)}", field)


class StatusError(Exception):
    """A request cannot be answered as it was meant; what the client gets is a Status.

    Args:
        message: For people.
        details: ``name``, ``group``, ``kind``, ``uid`` and ``retryAfterSeconds``; sent although it
            is empty, when it is given.
        causes: What is wrong in detail.
    """

    code: ClassVar[int] = 500
    reason: ClassVar[str] = "InternalError"

    def __init__(
        self,
        message: str,
        *,
        details: Mapping[str, Any] | None = None,
        causes: Sequence[Cause] = (),
        token: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details = dict(details or {})
        self._has_details = details is not None
        self.causes = causes
        self.token = token

    @property
    def retry_after(self) -> int | None:
        """Seconds after which the client may try again."""
        return self.details.get("retryAfterSeconds")

    def status(self) -> Object:
        """Return what the client is told."""
        details = dict(self.details)
        if self.causes:
            details["causes"] = [
                {"reason": cause.reason, "message": cause.message, "field": cause.field}
                for cause in self.causes
            ]
        status: Object = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {"continue": self.token} if self.token else {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        }
        if details or self._has_details:
            status["details"] = details
        return status


class BadRequest(StatusError):
    """The request makes no sense."""

    code, reason = 400, "BadRequest"


class Unauthorized(StatusError):
    """What the client shows does not say who it is."""

    code, reason = 401, "Unauthorized"


class Forbidden(StatusError):
    """The client may not do this, or nobody may."""

    code, reason = 403, "Forbidden"


class NotFound(StatusError):
    """There is no such object, or no such resource."""

    code, reason = 404, "NotFound"


class MethodNotAllowed(StatusError):
    """The resource does not know the verb."""

    code, reason = 405, "MethodNotAllowed"


class NotAcceptable(StatusError):
    """The client takes nothing that we can write."""

    code, reason = 406, "NotAcceptable"


class AlreadyExists(StatusError):
    """There is such an object."""

    code, reason = 409, "AlreadyExists"


class Conflict(StatusError):
    """The object is not what the client took it for."""

    code, reason = 409, "Conflict"


class Expired(StatusError):
    """The revision is too old to be known."""

    code, reason = 410, "Expired"


class RequestEntityTooLarge(StatusError):
    """The body, or what comes of it, is too large."""

    code, reason = 413, "RequestEntityTooLarge"


class UnsupportedMediaType(StatusError):
    """We cannot read the body."""

    code, reason = 415, "UnsupportedMediaType"


class Invalid(StatusError):
    """The object breaks the rules of its kind."""

    code, reason = 422, "Invalid"


class TooManyRequests(StatusError):
    """There is too much to do at the moment; the client may try again."""

    code, reason = 429, "TooManyRequests"


class InternalError(StatusError):
    """Our mistake; the log has the rest."""

    code, reason = 500, "InternalError"


class ServiceUnavailable(StatusError):
    """The store cannot be used at the moment."""

    code, reason = 503, "ServiceUnavailable"


class InsufficientStorage(StatusError):
    """The store has no room. Not to be tried again by itself: somebody has to make some."""

    code, reason = 507, "InsufficientStorage"


class Timeout(StatusError):
    """What the client waits for did not come in time."""

    code, reason = 504, "Timeout"


def invalid_object(kind: str, group: str, name: str, causes: Sequence[Cause]) -> Invalid:
    """An object breaks rules of its kind; all of them are listed."""
    listed = [str(cause) for cause in causes]
    text = listed[0] if len(listed) == 1 else f"[{', '.join(listed)}]"
    qualified = f"{kind}.{group}" if group else kind
    return Invalid(
        f'{qualified} "{_cut(name)}" is invalid: {text}',
        details={"name": _cut(name), "group": group, "kind": kind},
        causes=causes,
    )


def invalid_options(kind: str, causes: Sequence[Cause]) -> Invalid:
    """The parameters of a request break the rules."""
    return invalid_object(kind, "meta.k8s.io", "", causes)


def no_such_resource() -> NotFound:
    """There is nothing of that name that could hold objects."""
    return NotFound("the server could not find the requested resource", details={})


def namespace_not_found(namespace: str) -> NotFound:
    """Nothing is made in a namespace that is not there."""
    return NotFound(
        f'namespaces "{namespace}" not found', details={"name": namespace, "kind": "namespaces"}
    )


def namespace_ending(group: str, resource: str, name: str, namespace: str) -> Forbidden:
    """Nothing is made in a namespace that is ending."""
    what = f'{resource}.{group} "{name}"' if name else f"{resource}.{group}"
    details = {"name": name, "group": group, "kind": resource}
    ending = f"namespace {namespace} is being terminated"
    return Forbidden(
        f"{what} is forbidden: unable to create new "
        f"content in namespace {namespace} because it is being terminated",
        details={key: value for key, value in details.items() if value},
        causes=[Cause("NamespaceTerminating", ending, "metadata.namespace")],
    )


def too_large_revision(asked: int, current: int) -> Timeout:
    """A revision that does not exist yet; client-go recovers from exactly this cause."""
    message = f"Too large resource version: {asked}, current: {current}"
    return Timeout(
        message,
        details={"retryAfterSeconds": 1},
        causes=[Cause("ResourceVersionTooLarge", "Too large resource version", "")],
    )


def _with(detail: str, text: str) -> str:
    return f"{text}: {detail}" if detail else text


def _echo(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{_cut(value)}"' if isinstance(value, str) else _cut(str(value))


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_ECHO else f"{text[:_LONGEST_ECHO]}..."
