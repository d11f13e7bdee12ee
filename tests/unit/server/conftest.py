"""A server over a registry in memory, asked from the outside."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from alauda_registry.server.app import create_app
from alauda_registry.server.state import ServerOptions
from alauda_registry.storage.drivers.inmemory import InMemoryDriver
from alauda_registry.storage.repositories import Registry

MakeApp = Callable[[ServerOptions], Starlette]
MakeClient = Callable[[ServerOptions], TestClient]


@pytest.fixture
def make_app() -> MakeApp:
    """Make applications with other options over the same registry."""
    registry = Registry(InMemoryDriver())
    return lambda options: create_app(lambda: nullcontext(registry), options)


@pytest.fixture
def make_client(make_app: MakeApp) -> Iterator[MakeClient]:
    """Make clients of servers with other options over the same registry."""
    with ExitStack() as stack:

        def make(options: ServerOptions) -> TestClient:
            return stack.enter_context(TestClient(make_app(options), follow_redirects=False))

        yield make


@pytest.fixture
def client(make_client: MakeClient) -> TestClient:
    return make_client(ServerOptions())
