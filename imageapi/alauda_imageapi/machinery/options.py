"""The parameters of requests (facts/apiserver.md 2.6 to 2.8 and 2.11)."""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from alauda_imageapi.machinery import errors, objects, selectors
from alauda_imageapi.machinery.changes import FieldValidation
from alauda_imageapi.machinery.errors import BadRequest, Cause, invalid_options
from alauda_imageapi.machinery.managed_fields import LONGEST_MANAGER
from alauda_imageapi.machinery.objects import NotJSON
from alauda_imageapi.machinery.resources import DeleteOptions
from alauda_imageapi.machinery.selectors import Selector

_LARGEST = 2**63 - 1
_DIGITS = 20
_POLICIES = ("Background", "Foreground", "Orphan")
_TOKEN_VERSION = "meta.k8s.io/v1"  # noqa: S105 -- a format's name


@dataclass(frozen=True, slots=True)
class Token:
    """Where a list goes on, in the state of a revision.

    Attributes:
        revision: Of the state; -1 for the one that will be then.
        position: Behind which it goes on, where lists are known whole; of others only for the case
            that the revision is forgotten.
        page: The token of the store's page on which it goes on, where it has pages; empty for the
            first.
        skipped: How many objects of that page the client has seen; None where there are no pages.
    """

    revision: int
    position: tuple[str, ...]
    page: str = ""
    skipped: int | None = None

    def encode(self) -> str:
        """Write it so that clients hand it back as it is."""
        content = {"v": _TOKEN_VERSION, "rv": self.revision, "start": list(self.position)}
        if self.skipped is not None:
            content |= {"page": self.page, "skip": self.skipped}
        return base64.urlsafe_b64encode(objects.encode(content)).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str, length: int) -> "Token":
        """Read one.

        Args:
            text: What a client sent.
            length: How many parts the positions of this list have.

        Raises:
            BadRequest: It is none of ours, or of another list.
        """
        try:
            padded = text + "=" * (-len(text) % 4)
            content = objects.parse_json(base64.b64decode(padded, altchars=b"-_", validate=True))
            revision, start = content["rv"], content["start"]
            page, skipped = content.get("page", ""), content.get("skip")
            is_sound = (
                content["v"] == _TOKEN_VERSION
                and type(revision) is int
                and (revision == -1 or 0 < revision <= _LARGEST)
                and isinstance(start, list)
                and len(start) == length
                and all(isinstance(part, str) for part in start)
                and isinstance(page, str)
                and (skipped is None or (type(skipped) is int and skipped >= 0 and revision > 0))
            )
        except (binascii.Error, NotJSON, KeyError, TypeError, ValueError) as error:
            raise BadRequest("continue key is not valid: take it from the last page") from error
        if not is_sound:
            raise BadRequest("continue key is not valid: it is of another list")
        return cls(revision, tuple(start), page, skipped)


@dataclass(frozen=True, slots=True)
class ListOptions:
    """What a list or a watch is to have.

    Attributes:
        revision: None when it is not given; 0 means any.
        seconds: A watch's time; None when it is not given.
        match: resourceVersionMatch.
    """

    labels: Selector
    fields: Selector
    limit: int
    token: str
    revision: int | None
    match: str
    watch: bool
    seconds: float | None
    bookmarks: bool
    initial_events: bool | None

    @classmethod
    def parse(cls, query: Mapping[str, str], selectable: frozenset[str]) -> "ListOptions":
        """Read them.

        Raises:
            BadRequest: They make no sense.
            Invalid: They contradict one another.
        """
        fields = selectors.parse_fields(query.get("fieldSelector", ""))
        for requirement in fields.requirements:
            if requirement.key not in selectable:
                raise BadRequest(f"field label not supported: {requirement.key[:64]}")
        options = cls(
            labels=selectors.parse_labels(query.get("labelSelector", "")),
            fields=fields,
            limit=_number(query, "limit") or 0,
            token=query.get("continue", ""),
            revision=parse_revision(query.get("resourceVersion", "")),
            match=query.get("resourceVersionMatch", ""),
            watch=flag(query, "watch") or False,
            seconds=_watch_seconds(query),
            bookmarks=flag(query, "allowWatchBookmarks") or False,
            initial_events=flag(query, "sendInitialEvents"),
        )
        causes = options._watch_causes() if options.watch else options._list_causes()
        if causes:
            raise invalid_options("ListOptions", causes)
        if options.token and options.revision:
            raise BadRequest("specifying resource version is not allowed when using continue")
        return options

    def _list_causes(self) -> list[Cause]:
        if self.initial_events is not None:
            return [errors.forbidden("sendInitialEvents", "sendInitialEvents is for watches")]
        where = "resourceVersionMatch"
        if not self.match:
            return []
        if self.match not in ("Exact", "NotOlderThan"):
            return [errors.not_supported(where, self.match, ("Exact", "NotOlderThan"))]
        if self.revision is None:
            return [errors.forbidden(where, f"{where} is forbidden unless resourceVersion is set")]
        if self.token:
            return [errors.forbidden(where, f"{where} is forbidden when continue is provided")]
        if self.match == "Exact" and self.revision == 0:
            detail = f'{where} "Exact" is forbidden for resourceVersion "0"'
            return [errors.forbidden(where, detail)]
        return []

    def _watch_causes(self) -> list[Cause]:
        where = "resourceVersionMatch"
        if self.initial_events is None:
            if self.match:
                return [errors.forbidden(where, f"{where} is forbidden for watch")]
            return []
        if not self.match:
            return [errors.forbidden(where, "it must be set when sendInitialEvents is provided")]
        if self.match != "NotOlderThan":
            return [errors.not_supported(where, self.match, ("NotOlderThan",))]
        return []


def parse_revision(text: str) -> int | None:
    """Read a revision; None for none.

    Raises:
        BadRequest: It is no number.
    """
    if not text:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > _DIGITS or int(text) > _LARGEST:
        raise BadRequest(f"Invalid value for resourceVersion: {text[:64]!r} is no number")
    return int(text)


def flag(query: Mapping[str, str], name: str) -> bool | None:
    """Read a switch as Kubernetes does, where ``?watch`` alone asks for it; None for none."""
    value = query.get(name)
    return None if value is None else value.lower() not in ("false", "0")


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """How something is to be written."""

    dry_run: bool
    validation: FieldValidation
    manager: str
    force: bool

    @classmethod
    def parse(
        cls, query: Mapping[str, str], kind: str, *, user_agent: str, applies: bool = False
    ) -> "WriteOptions":
        """Read them.

        Raises:
            Invalid: They have values that they must not have.
        """
        causes = _dry_run_causes(query.get("dryRun"))
        known = tuple(FieldValidation)
        validation = query.get("fieldValidation") or FieldValidation.WARN
        if validation not in known:
            causes.append(errors.not_supported("fieldValidation", validation, known))
        manager = query.get("fieldManager", "")
        if len(manager) > LONGEST_MANAGER:
            causes.append(errors.too_long("fieldManager", LONGEST_MANAGER))
        elif not manager.isprintable():
            causes.append(errors.invalid("fieldManager", "", "should only contain printable text"))
        if applies and not manager:
            causes.append(errors.required("fieldManager", "is required for apply patch"))
        force = flag(query, "force")
        if force is not None and not applies:
            causes.append(errors.forbidden("force", "may not be specified for non-apply patch"))
        if causes:
            raise invalid_options(kind, causes)
        own = user_agent.partition("/")[0][:LONGEST_MANAGER]
        return cls(
            bool(query.get("dryRun")),
            FieldValidation(validation),
            manager or (own if own.isprintable() and own else "unknown"),
            force or False,
        )


_DELETE_OPTIONS = frozenset(
    {
        *("kind", "apiVersion", "gracePeriodSeconds", "preconditions", "orphanDependents"),
        *("propagationPolicy", "dryRun", "ignoreStoreReadErrorWithClusterBreakingPotential"),
    }
)


def parse_delete(query: Mapping[str, str], body: Any) -> tuple[DeleteOptions, bool]:
    """Read how something is to be deleted, and whether only for a trial.

    Args:
        query: The parameters, which count when there is no body.
        body: The document that was sent, if any.

    Raises:
        BadRequest: It is no DeleteOptions.
        Invalid: It has values that it must not have.
    """
    if body is not None and not isinstance(body, dict):
        raise BadRequest("the body is not of kind DeleteOptions")
    given: dict[str, Any] = body or {
        name: value for name, value in query.items() if name in _DELETE_OPTIONS
    }
    if given.get("kind") not in (None, "", "DeleteOptions"):
        raise BadRequest("the body is not of kind DeleteOptions")
    preconditions = given.get("preconditions") or {}
    if not isinstance(preconditions, dict):
        raise BadRequest("preconditions is not an object")
    policy, orphans = given.get("propagationPolicy"), given.get("orphanDependents")
    causes = _dry_run_causes(given.get("dryRun"))
    if policy is not None and orphans is not None:
        detail = "orphanDependents and deletionPropagation cannot be both set"
        causes.append(errors.invalid("propagationPolicy", str(policy), detail))
    elif policy is not None and policy not in _POLICIES:
        causes.append(errors.not_supported("propagationPolicy", str(policy), _POLICIES))
    if causes:
        raise invalid_options("DeleteOptions", causes)
    if orphans is not None:
        policy = "Orphan" if orphans in (True, "true", "1") else "Background"
    wanted = (preconditions.get("uid") or "", preconditions.get("resourceVersion") or "")
    if not all(isinstance(value, str) for value in wanted):
        raise BadRequest("preconditions are texts")
    return DeleteOptions(*wanted, policy or ""), bool(given.get("dryRun"))


def _dry_run_causes(value: Any) -> list[Cause]:
    values = value if isinstance(value, list) else [value]
    wrong = [item for item in values if item not in (None, "", "All")]
    return [errors.not_supported("dryRun", str(wrong[0])[:64], ("All",))] if wrong else []


def _watch_seconds(query: Mapping[str, str]) -> float | None:
    """Read how long a watch lasts: 0 is as good as nothing, and less is over at once."""
    seconds = _number(query, "timeoutSeconds")
    if seconds == 0 and not query["timeoutSeconds"].startswith("-"):
        return None
    return seconds


def _number(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name, "")
    if not text:
        return None
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= _DIGITS):
        raise BadRequest(f"the value of {name} must be a whole number")
    return max(0, min(int(text), _LARGEST))
