"""What one worker is made of; how it serves is for tests/integration/test_serve.py."""

import asyncio
import logging
from datetime import timedelta
from pathlib import Path

import pytest

from alauda_registry.server.background import running_in_background
from alauda_registry.server.settings import CannotStart, Settings
from alauda_registry.server.state import ServerOptions
from alauda_registry.server.worker import (
    open_driver,
    server_options,
    storage_options,
)
from alauda_registry.storage.repositories import StorageOptions

pytestmark = pytest.mark.anyio


async def test_a_duty_that_fails_is_started_again(caplog: pytest.LogCaptureFixture) -> None:
    attempts = 0
    succeeded = asyncio.Event()

    async def duty() -> None:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise RuntimeError("boom")
        succeeded.set()

    with caplog.at_level(logging.ERROR):
        async with running_in_background(duty, pause=0), asyncio.timeout(10):
            await succeeded.wait()

    assert attempts == 3
    assert caplog.text.count("RuntimeError: boom") == 2


async def test_duties_end_with_the_block() -> None:
    ended: list[int] = []

    async def duty() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(1)

    async with running_in_background(duty, duty):
        await asyncio.sleep(0)

    assert ended == [1, 1]


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
