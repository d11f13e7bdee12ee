"""From the settings of a bucket to a driver; nothing is sent."""

from pathlib import Path

import botocore.session
import pytest
from botocore.config import Config

from alauda_registry.server.opening.buckets import check_bucket
from alauda_registry.serving.starting import CannotStart
from alauda_registry.storage.drivers.s3 import client as clients
from tests.parts.credential_services import CredentialServices
from tests.parts.processes import free_port
from tests.unit.server.opening.opening_buckets import opened, settings_of

pytestmark = pytest.mark.anyio


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


@pytest.mark.parametrize("bucket", ["images", "my.bucket", "My-Bucket", "my_bucket", "a-1"])
async def test_aws_is_asked_as_botocore_would(bucket: str) -> None:
    session = botocore.session.Session()
    session.set_credentials("a", "b")
    # What it does unless told otherwise, but signed URLs name the region, too.
    config = Config(signature_version="s3v4", s3={"addressing_style": "virtual"})
    theirs = session.create_client("s3", region_name="eu-west-1", config=config)
    expected = theirs.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"})

    url = await opened(BUCKET=bucket, REGION="eu-west-1").client.url("/k", "GET", 60)

    assert url.partition("?")[0] == expected.partition("?")[0]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"FORCEPATHSTYLE": "true"}, "https://s3.eu-west-1.amazonaws.com/images/k"),
        ({"FORCEPATHSTYLE": "false"}, "https://images.s3.eu-west-1.amazonaws.com/k"),
        (
            {"VIRTUALHOSTEDSTYLE": "true", "BUCKET": "my.bucket"},
            "https://my.bucket.s3.eu-west-1.amazonaws.com/k",
        ),
        ({"REGIONENDPOINT": "https://s3.example:9000"}, "https://s3.example:9000/images/k"),
        (
            {"REGIONENDPOINT": "https://s3.example:9000/", "FORCEPATHSTYLE": "false"},
            "https://images.s3.example:9000/k",
        ),
        ({"REDIRECTENDPOINT": "https://cdn.example"}, "https://images.cdn.example/k"),
        ({"REDIRECTENDPOINT": "https://cdn", "BUCKET": "a.b"}, "https://cdn/a.b/k"),
        ({"USEDUALSTACK": "true"}, "https://images.s3.dualstack.eu-west-1.amazonaws.com/k"),
        ({"ACCELERATE": "true"}, "https://images.s3-accelerate.amazonaws.com/k"),
        (
            {"ACCELERATE": "true", "USEDUALSTACK": "true"},
            "https://images.s3-accelerate.dualstack.amazonaws.com/k",
        ),
    ],
    ids=str,
)
async def test_clients_are_sent_where_the_settings_say(
    variables: dict[str, str], expected: str
) -> None:
    url = await opened(REGION="eu-west-1", **variables).client.url("/k", "GET", 60)

    assert url.partition("?")[0] == expected


def test_who_gives_credentials_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "identity").write_text("an-identity")
    services = CredentialServices(free_port())
    variables = {
        **services.web_identity,
        "AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "identity"),
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(clients, "_PAUSES", (0.001, 0.002))
    settings = settings_of(
        REGION="x", REGIONENDPOINT="http://127.0.0.1:1", ACCESSKEY="", SECRETKEY=""
    )

    assert settings.storage.s3 is not None
    check_bucket(settings, settings.storage.s3)

    assert "can't be used yet: the service that gives the credentials" in caplog.text


def test_parts_are_not_larger_than_their_memory_allows() -> None:
    driver = opened(REGION="eu-west-1", CHUNKSIZE=str(5120 * 2**20))

    assert driver._options.part_size == 512 * 2**20
