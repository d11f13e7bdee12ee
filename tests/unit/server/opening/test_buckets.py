"""From the settings of a bucket to a driver; nothing is sent."""

import pytest

from alauda_registry.server.configuration.sources import load_settings
from alauda_registry.server.opening.buckets import open_bucket
from alauda_registry.serving.starting import CannotStart
from alauda_registry.storage.drivers.s3.driver import S3Driver


def opened(**variables: str) -> S3Driver:
    values = {"BUCKET": "images", "ACCESSKEY": "a", "SECRETKEY": "b", **variables}
    environ = {f"REGISTRY_STORAGE_S3_{key}": text for key, text in values.items()}
    settings = load_settings(environ=environ).settings
    assert settings.storage.s3 is not None
    return open_bucket(settings, settings.storage.s3)


@pytest.mark.parametrize("region", ["moon", "eu", "auto"])
@pytest.mark.parametrize("dual_stack", ["false", "true"])
def test_a_region_that_aws_does_not_have_is_told(region: str, dual_stack: str) -> None:
    with pytest.raises(CannotStart) as caught:
        opened(REGION=region, USEDUALSTACK=dual_stack)

    assert f"storage.s3.region: AWS has no region {region}" in str(caught.value)
    assert "storage.s3.regionendpoint" in str(caught.value)


@pytest.mark.parametrize("region", ["us-iso-east-1", "us-isof-south-1"])
def test_a_region_without_ipv6_is_told(region: str) -> None:
    opened(REGION=region)

    with pytest.raises(CannotStart, match=f"no region {region} with usedualstack"):
        opened(REGION=region, USEDUALSTACK="true")


def test_another_server_takes_any_region() -> None:
    opened(REGION="moon", REGIONENDPOINT="https://s3.example")


def test_parts_are_not_larger_than_their_memory_allows() -> None:
    driver = opened(REGION="eu-west-1", CHUNKSIZE=str(5120 * 2**20))

    assert driver._options.part_size == 512 * 2**20
