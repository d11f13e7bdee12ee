"""What all tests share: hypothesis' profiles, the event loop, a cluster, and the S3 servers."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.parts import control_plane as control_planes, record_store, s3
from tests.parts.control_plane import ControlPlane
from tests.parts.tools import require

SECONDS = 240

settings.register_profile(
    "dev", max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests of real programs time on a busy machine, unless they say how much."""
    for item in items:
        if item.get_closest_marker("integration") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SECONDS))


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


@pytest.fixture(scope="session")
def image_api_account(control_plane: ControlPlane) -> Path:
    """The kubeconfig of the image API server, and definitions of what it keeps there."""
    return record_store.install(control_plane)


@pytest.fixture
def namespace(control_plane: ControlPlane) -> str:
    """A namespace that nobody else uses."""
    return control_plane.new_namespace()


@pytest.fixture(scope="session")
def start_s3(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[s3.Kind], s3.S3Server]]:
    """Start an S3 server when it is first asked for, and keep it until the last test."""
    servers: dict[s3.Kind, s3.S3Server] = {}
    with ExitStack() as running:

        def start(kind: s3.Kind) -> s3.S3Server:
            if kind not in servers:
                directory = tmp_path_factory.mktemp(kind)
                servers[kind] = running.enter_context(s3.running(kind, directory))
            return servers[kind]

        yield start


@pytest.fixture(params=s3.KINDS)
def s3_server(
    request: pytest.FixtureRequest, start_s3: Callable[[s3.Kind], s3.S3Server]
) -> s3.S3Server:
    """Each of the S3 servers, one after the other."""
    require(request.param)
    return start_s3(request.param)


@pytest.fixture
def one_server_in_short(s3_server: s3.S3Server, *, is_long: bool) -> None:
    """Leave the other S3 servers to ``make torture``."""
    if s3_server.kind != s3.IN_SHORT and not is_long:
        pytest.skip("make torture has this server, too")


@pytest.fixture
def bucket(s3_server: s3.S3Server) -> Iterator[s3.Bucket]:
    """An empty bucket. Whoever used it has to leave no multipart upload behind."""
    bucket = s3_server.create_bucket()
    yield bucket
    left = bucket.uploads()
    bucket.remove()
    assert left == [], "these multipart uploads were left behind"
