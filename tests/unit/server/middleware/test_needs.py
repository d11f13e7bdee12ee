"""Every route and method says what it needs, and whoever adds one that does not is told here."""

from collections.abc import Iterator

import pytest
from starlette.applications import Starlette
from starlette.responses import Response

from alauda_registry.server import extensions
from alauda_registry.server.health import HealthMonitor
from alauda_registry.server.metrics.metrics import Metrics
from alauda_registry.server.middleware.needs import OTHER_NEEDS, Open, methods, needs_of
from alauda_registry.server.routes import token
from alauda_registry.server.routes.health import Probes
from alauda_registry.server.routing import Kind, Target, V2Route
from alauda_registry.server.state import RegistryRequest, ServerOptions
from tests.unit.server.conftest import MakeApp


@pytest.fixture
def app(make_app: MakeApp) -> Starlette:
    return make_app(ServerOptions())


def served(app: Starlette) -> Iterator[tuple[Kind, str]]:
    for route in app.routes:
        assert isinstance(route, V2Route), f"{route} is not looked at by the guard"
        for method in route.handlers:
            yield route.kind, method


def undeclared(app: Starlette) -> list[tuple[Kind, str]]:
    return [
        (kind, method)
        for kind, method in served(app)
        if needs_of(Target(kind, "team/app", "x"), method) is None
    ]


def test_every_method_of_every_route_declares_what_it_needs(app: Starlette) -> None:
    assert undeclared(app) == []


def test_a_route_that_declares_nothing_is_noticed() -> None:
    async def answer(_request: RegistryRequest, _target: Target) -> Response:
        return Response()

    app = Starlette(routes=[V2Route(Kind.MANIFEST, {"POST": answer})])

    assert undeclared(app) == [(Kind.MANIFEST, "POST")]


def test_nothing_is_declared_that_is_not_served(app: Starlette) -> None:
    declared = {(kind, method) for kind in Kind for method in methods(kind)}

    assert declared == set(served(app))


def test_every_endpoint_outside_of_v2_declares_what_it_needs() -> None:
    async def nothing(*_: object) -> None:
        raise AssertionError("not asked for")

    probes = Probes(nothing, HealthMonitor(interval=1, threshold=1, is_checked=False), Metrics())

    ours = set(probes.paths) | set(token.PATHS) | {token.KEYS_PATH}
    assert ours | extensions.PATHS == set(OTHER_NEEDS)


def test_extensions_ask_the_door_themselves() -> None:
    left_to_them = {path for path, needed in OTHER_NEEDS.items() if needed is Open.EXTENSION}

    assert left_to_them == extensions.PATHS


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind not in (Kind.BASE, Kind.CATALOG)])
def test_what_is_needed_is_of_the_repository_in_the_path(kind: Kind) -> None:
    for method in methods(kind):
        needed = needs_of(Target(kind, "team/app", "x"), method)
        assert needed
        assert {(access.type, access.name) for access in needed} == {("repository", "team/app")}


def test_deletion_says_which_tag_it_is_about() -> None:
    def tags(reference: str, method: str = "DELETE") -> set[str]:
        needed = needs_of(Target(Kind.MANIFEST, "team/app", reference), method)
        assert needed
        return {access.tag for access in needed}

    assert tags("v1") == {"v1"}
    assert tags("sha256:" + 64 * "0") == {""}
    assert tags("v1", "PUT") == {""}
    # Nothing without an end reaches whoever decides.
    assert tags("v" * 129) == tags("v%2F1") == {""}
