"""All checks, in the order in which the specification has them, and how one of them is run."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from types import ModuleType

import httpx

from conformance.oci import (
    clients,
    deletion,
    errors,
    manifests,
    mount,
    pull,
    push,
    ranges,
    referrers,
    tags,
    uploads,
)
from conformance.oci.check import Check, Version
from conformance.oci.expect import Failed, NotSupported
from conformance.oci.registry import Registry

MODULES: Sequence[ModuleType] = (
    pull,
    ranges,
    push,
    uploads,
    mount,
    manifests,
    tags,
    referrers,
    deletion,
    errors,
    clients,
)

CHECKS: Sequence[Check] = tuple(
    value for module in MODULES for value in vars(module).values() if isinstance(value, Check)
)


class Outcome(StrEnum):
    """How a check ended."""

    OK = "ok"
    FAIL = "FAIL"
    NOT_SUPPORTED = "not supported"


@dataclass(frozen=True, slots=True)
class Result:
    """A check, how it ended and why."""

    check: Check
    outcome: Outcome
    message: str
    seconds: float


def select(version: Version, patterns: Iterable[str] = ()) -> list[Check]:
    """Return the checks of a version, only those whose id or section fits if there are patterns."""
    wanted = [pattern.lower() for pattern in patterns]
    return [
        check
        for check in CHECKS
        if check.belongs_to(version)
        and (
            not wanted
            or any(
                fnmatchcase(text.lower(), pattern)
                for text in (check.id, check.section)
                for pattern in wanted
            )
        )
    ]


def run(check: Check, registry: Registry) -> Result:
    """Run one check in a repository of its own."""
    started = time.monotonic()
    outcome, message = Outcome.OK, ""
    try:
        check.run(registry.repository(check.id))
    except NotSupported as reason:
        outcome, message = Outcome.NOT_SUPPORTED, str(reason)
    except Failed as failure:
        outcome, message = Outcome.FAIL, str(failure)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        outcome, message = (
            Outcome.FAIL,
            f"no answer that can be read: {type(error).__name__}: {error}",
        )
    return Result(check, outcome, message, time.monotonic() - started)
