"""What each endpoint needs, in one table: who asks for what may be let in to do it.

An endpoint or a method that is not here is refused by ``guard.py``, so a new one that nobody
thought of is closed and not open. ``tests/unit/server/middleware/test_needs.py`` walks all routes
and their methods.
"""

from collections.abc import Mapping
from enum import Enum, auto

from alauda_registry.auth.scopes import CATALOG, DELETE, METRICS, PULL, PUSH, Access, of_repository
from alauda_registry.oci.errors import RegistryError
from alauda_registry.oci.reference import Tag
from alauda_registry.server.routing import Kind, Target


class Open(Enum):
    """Endpoints that the guard does not stand before."""

    PROBE = auto()
    """Says that we are there, and nothing about what is in the registry."""

    LOGIN = auto()
    """Looks at credentials itself: that is what it is for."""

    EXTENSION = auto()
    """Served, with all that is below, by what is beside the registry. That is given the guard, and
    asks it itself: what a request needs there is not to be seen from here."""


REPOSITORY_NEEDS: Mapping[Kind, Mapping[str, tuple[str, ...]]] = {
    Kind.BLOB: {"GET": (PULL,), "HEAD": (PULL,), "DELETE": (DELETE,)},
    Kind.MANIFEST: {"GET": (PULL,), "HEAD": (PULL,), "PUT": (PULL, PUSH), "DELETE": (DELETE,)},
    Kind.TAGS: {"GET": (PULL,), "HEAD": (PULL,)},
    Kind.REFERRERS: {"GET": (PULL,), "HEAD": (PULL,)},
    Kind.UPLOADS: {"POST": (PULL, PUSH)},
    # Giving up one's own upload is part of pushing: podman does it, and asks for no more.
    Kind.UPLOAD: dict.fromkeys(("GET", "HEAD", "PATCH", "PUT", "DELETE"), (PULL, PUSH)),
}
"""The actions on the repository that the path names."""

REGISTRY_NEEDS: Mapping[Kind, Mapping[str, tuple[Access, ...]]] = {
    # Good credentials, whoever's: this is how clients find out whether theirs are.
    Kind.BASE: {"GET": (), "HEAD": ()},
    Kind.CATALOG: {"GET": (CATALOG,), "HEAD": (CATALOG,)},
}

OTHER_NEEDS: Mapping[str, Open | tuple[Access, ...]] = {
    "/": Open.PROBE,
    "/healthz": Open.PROBE,
    "/readyz": Open.PROBE,
    "/metrics": (METRICS,),
    "/extensions/v2/metrics": (METRICS,),
    "/token": Open.LOGIN,
    "/auth/token": Open.LOGIN,
    "/openshift/token": Open.LOGIN,
    "/.well-known/jwks.json": Open.LOGIN,
    "/api": Open.EXTENSION,
    "/apis": Open.EXTENSION,
    "/openapi": Open.EXTENSION,
    "/version": Open.EXTENSION,
}
"""Outside of ``/v2/``, for every method."""


def methods(kind: Kind) -> frozenset[str]:
    """Return the methods of an endpoint."""
    return frozenset(REPOSITORY_NEEDS.get(kind) or REGISTRY_NEEDS[kind])


def needs_of(target: Target, method: str) -> tuple[Access, ...] | None:
    """Return what a request needs; None when the endpoint does not know the method."""
    if (actions := REPOSITORY_NEEDS.get(target.kind)) is not None:
        needed = actions.get(method)
        if needed is None:
            return None
        # A tag belongs to its repository, what has a digest may belong to others as well.
        tag = _tag_of(target) if target.kind is Kind.MANIFEST and method == "DELETE" else ""
        return of_repository(target.name, *needed, tag=tag)
    return REGISTRY_NEEDS[target.kind].get(method)


def _tag_of(target: Target) -> str:
    try:
        return str(Tag.parse(target.reference))
    except RegistryError:
        return ""
