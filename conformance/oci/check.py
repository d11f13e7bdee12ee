"""What a check is: one requirement of the specification and the code that tries it.

A check knows nothing of the registry it will meet. It gets a repository that nobody has used
before, asks, and returns; what it doesn't like it raises as ``expect.Failed``, and what the
specification lets a registry leave out as ``expect.NotSupported``. The level is the word of the
specification, so that a reader can tell a broken promise (MUST) from a missing courtesy (SHOULD).
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from conformance.oci.registry import Repository


class Level(StrEnum):
    """How binding a requirement is."""

    MUST = "MUST"
    SHOULD = "SHOULD"


class Version(StrEnum):
    """The text a requirement stands in."""

    V1_1 = "1.1"
    DEV = "dev"


MUST = Level.MUST
SHOULD = Level.SHOULD
DEV = Version.DEV

CLIENTS = "Clients"
"""The section of what isn't in the specification, but what docker, podman and others count on."""

Run: TypeAlias = Callable[[Repository], None]


@dataclass(frozen=True, slots=True)
class Check:
    """One requirement and how to try it."""

    id: str
    section: str
    level: Level
    version: Version
    dev_level: Level
    """The level in the current main of the specification, which raised some SHOULDs to MUST."""
    requirement: str
    run: Run

    def belongs_to(self, version: Version) -> bool:
        """Tell whether the requirement is part of a version; dev holds all of 1.1."""
        return version is Version.DEV or self.version is Version.V1_1

    def level_in(self, version: Version) -> Level:
        """Return how binding the requirement is in a version."""
        return self.dev_level if version is Version.DEV else self.level


def check(
    section: str, level: Level, *, since: Version = Version.V1_1, dev: Level | None = None
) -> Callable[[Run], Check]:
    """Make a check of a function; its name becomes the id and its docstring the requirement.

    Args:
        section: The heading of the specification under which the requirement stands.
        level: The word that is used there.
        since: The first version that has the requirement.
        dev: The level in the current main, where it differs.
    """

    def make(run: Run) -> Check:
        return Check(
            id=run.__name__.replace("_", "-"),
            section=section,
            level=level,
            version=since,
            dev_level=dev or level,
            requirement=(run.__doc__ or "").strip().splitlines()[0],
            run=run,
        )

    return make
