"""What all tests share: how hard hypothesis tries, which event loop runs coroutines, a cluster."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.parts import control_plane as control_planes
from tests.parts.control_plane import ControlPlane
from tests.parts.tools import require

settings.register_profile("dev", max_examples=50, deadline=None)
settings.register_profile(
    "ci",
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "nightly", max_examples=20_000, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") == "true" else "dev")
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--torture", action="store_true", help="the long profile of tests/torture")


@pytest.fixture(scope="session")
def is_long(pytestconfig: pytest.Config) -> bool:
    """Whether the proofs in tests/torture take their time, as for ``make torture``."""
    return bool(pytestconfig.getoption("--torture"))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A Kubernetes API server with its controllers, one for the whole run.

    Tests keep to namespaces of their own, and leave cluster-scoped objects as they found them.
    """
    require(*control_planes.PROGRAMS)
    with control_planes.running(tmp_path_factory.mktemp("control-plane")) as plane:
        yield plane


@pytest.fixture
def namespace(control_plane: ControlPlane) -> str:
    """A namespace that nobody else uses."""
    return control_plane.new_namespace()
