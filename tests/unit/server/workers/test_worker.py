"""What one worker is made of; how it serves is for tests/integration/test_serve.py."""

from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path

import pytest

from alauda_registry.server.configuration.settings import RequestLimit, Settings
from alauda_registry.server.middleware.limits import Limit
from alauda_registry.server.opening.drivers import open_driver
from alauda_registry.server.proxies import Proxies
from alauda_registry.server.state import ServerOptions
from alauda_registry.server.workers.worker import (
    limit_of_requests,
    server_options,
    storage_options,
)
from alauda_registry.serving.starting import CannotStart
from alauda_registry.storage.repositories import StorageOptions

pytestmark = pytest.mark.anyio


def test_without_settings_the_options_are_the_libraries_own() -> None:
    assert server_options(Settings()) == ServerOptions()
    assert storage_options(Settings()) == StorageOptions()


def test_every_setting_reaches_the_endpoints_and_the_stores() -> None:
    settings = Settings.model_validate(
        {
            "storage": {
                "delete": {"enabled": "no", "tags": "no", "manifests": "no", "blobs": "no"},
                "maintenance": {"readonly": {"enabled": "yes"}, "uploadpurging": {"age": "1h"}},
            },
            "http": {
                "prefix": "registry",
                "host": "https://registry.example",
                "relativeurls": "no",
                "headers": {"X-A": "b"},
                "secret": "s",
                "trustedproxies": ["192.0.2.1"],
            },
            "validation": {"allowsparse": "yes"},
            "limits": {"manifestsize": "1024"},
            "tags": {"maxtags": "7"},
            "catalog": {"maxentries": "8"},
        }
    )

    assert server_options(settings) == ServerOptions(
        prefix="/registry/",
        external_url="https://registry.example",
        relative_urls=False,
        proxies=Proxies((ip_network("192.0.2.1/32"),)),
        headers={"X-A": ("b",)},
        secret=b"s",
        read_only=True,
        delete_enabled=False,
        delete_tags=False,
        delete_manifests=False,
        delete_blobs=False,
        max_manifest_size=1024,
        tags_max=7,
        catalog_max_entries=8,
    )
    assert storage_options(settings) == StorageOptions(
        upload_age=timedelta(hours=1), allow_sparse=True, read_only=True
    )


def test_requests_are_limited_as_the_settings_say() -> None:
    limit = RequestLimit.model_validate({"maxrunning": 10, "maxinqueue": 5, "maxwaitinqueue": "2s"})

    assert limit_of_requests(limit) == Limit(10, waiting=5, seconds=2.0)


def test_no_limit_is_no_limit() -> None:
    limit = RequestLimit.model_validate({"maxinqueue": 3, "maxwaitinqueue": "1s"})

    assert limit_of_requests(limit) is None


def test_a_claim_that_is_not_mounted_is_not_opened_and_nothing_is_made(tmp_path: Path) -> None:
    claim = {"rootdirectory": str(tmp_path / "registry"), "claim": "image-registry"}

    with pytest.raises(CannotStart, match=r"^the claim image-registry is not mounted at "):
        open_driver(Settings.model_validate({"storage": {"pvc": claim}}))

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["filesystem", "inmemory"])
async def test_every_configured_driver_can_be_opened(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = str(tmp_path_factory.mktemp("root"))
    values = {"filesystem": {"rootdirectory": root}, "inmemory": {}}

    driver = open_driver(Settings.model_validate({"storage": {name: values[name]}}))

    assert driver.name == name
    await driver.aclose()
