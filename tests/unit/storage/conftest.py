"""Registries over both drivers, and what every test has to leave behind: nothing."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from alauda_registry.oci.reference import RepositoryName
from alauda_registry.storage.driver import StorageDriver
from alauda_registry.storage.repositories import Registry, Repository
from tests.contract.conftest import Storage, assert_nothing_is_left, open_storage
from tests.unit.storage.pushing import NAME


@pytest.fixture(params=["filesystem", "inmemory"])
async def storage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Storage]:
    root = tmp_path / "root"
    storage = open_storage(request.param, root)
    yield storage
    await storage.driver.aclose()
    if storage.other is not storage.driver:
        await storage.other.aclose()
    assert_nothing_is_left(root)


@pytest.fixture
def driver(storage: Storage) -> StorageDriver:
    return storage.driver


@pytest.fixture
def registry(storage: Storage) -> Registry:
    return Registry(storage.driver)


@pytest.fixture
def repository(registry: Registry) -> Repository:
    return registry.repository(NAME)


@pytest.fixture
def another(registry: Registry) -> Repository:
    """Another repository of the same registry."""
    return registry.repository(RepositoryName("team/another"))


@pytest.fixture
def elsewhere(storage: Storage) -> Repository:
    """The same repository in another process."""
    return Registry(storage.other).repository(NAME)
