"""Our own servers that the conformance programs talk to, one for each driver."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.integration.guarded import Guarded, by_cluster, by_password, by_token
from tests.parts import registry
from tests.parts.processes import free_port, inherited, listens, started


@pytest.fixture(scope="session", params=["filesystem", "inmemory"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp(f"conformance-{request.param}")
    if request.param == "inmemory":
        with in_memory(directory) as url:
            yield url
    else:
        with registry.running(directory, arguments=["--allow-sparse"]) as server:
            yield server.url


@pytest.fixture(scope="session")
def url_of_a_good_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with in_memory(tmp_path_factory.mktemp("conformance-good")) as url:
        yield url


@pytest.fixture(params=["htpasswd", "token", "kubernetes"])
def start_guarded(
    request: pytest.FixtureRequest,
) -> Callable[..., AbstractContextManager[Guarded]]:
    """Starts a server that wants a login, in each of its modes."""
    match request.param:
        case "htpasswd":
            return by_password
        case "token":
            return by_token
        case _:
            return partial(by_cluster, request.getfixturevalue("control_plane"))


@contextmanager
def in_memory(directory: Path) -> Iterator[str]:
    port = free_port()
    with started(
        [
            *(sys.executable, "-m", "alauda_registry", "serve"),
            *("--listen", f"127.0.0.1:{port}", "--allow-sparse"),
        ],
        log=directory / "registry.log",
        ready=lambda: listens(port),
        environment=inherited(REGISTRY_STORAGE="inmemory"),
    ):
        yield f"http://127.0.0.1:{port}"
