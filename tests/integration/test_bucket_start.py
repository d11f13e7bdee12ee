"""A bucket that can't be used stops the start with what to do; one that is away does not."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from alauda_registry.server.configuration.settings import Settings
from alauda_registry.server.configuration.sources import load_settings
from alauda_registry.server.opening.buckets import check_bucket, open_bucket
from alauda_registry.serving.starting import CannotStart
from alauda_registry.storage.drivers.s3.errors import Refused
from tests.parts import s3
from tests.parts.processes import free_port
from tests.parts.tools import require

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module", params=s3.KINDS)
def bucket(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[s3.Bucket]:
    require(request.param)
    with s3.running(request.param, tmp_path_factory.mktemp(request.param)) as server:
        yield server.create_bucket()


def settings_of(bucket: s3.Bucket, **changed: str) -> Settings:
    values = {
        "BUCKET": bucket.name,
        "REGION": s3.REGION,
        "REGIONENDPOINT": bucket.server.endpoint,
        "ACCESSKEY": s3.ACCESS_KEY,
        "SECRETKEY": s3.SECRET_KEY,
        **changed,
    }
    environ = {f"REGISTRY_STORAGE_S3_{key}": text for key, text in values.items() if text}
    return load_settings(environ=environ).settings


def check(settings: Settings) -> None:
    assert settings.storage.s3 is not None
    check_bucket(settings, settings.storage.s3)


def test_a_bucket_that_can_be_used_is_accepted(bucket: s3.Bucket) -> None:
    check(settings_of(bucket))

    assert bucket.keys() == ["_driver/probe"]


@pytest.mark.parametrize(
    ("changed", "advice"),
    [
        ({"BUCKET": "there-is-none"}, "the bucket does not exist: create it"),
        ({"ACCESSKEY": "unknown"}, "storage.s3.accesskey"),
        ({"SECRETKEY": "a-wrong-secret"}, "storage.s3.secretkey"),
    ],
    ids=["bucket", "access key", "secret key"],
)
def test_a_mistake_is_told_with_what_to_do(
    bucket: s3.Bucket, changed: dict[str, str], advice: str
) -> None:
    with pytest.raises(CannotStart) as caught:
        check(settings_of(bucket, **changed))

    assert str(caught.value).startswith("cannot use s3://")
    assert advice in str(caught.value)


def test_a_server_that_is_away_is_waited_for(
    bucket: s3.Bucket, caplog: pytest.LogCaptureFixture
) -> None:
    check(settings_of(bucket, REGIONENDPOINT=f"http://127.0.0.1:{free_port()}"))

    assert "does not answer" in caplog.text


@pytest.mark.anyio
async def test_keys_in_files_are_used_and_read_again(bucket: s3.Bucket, tmp_path: Path) -> None:
    access, secret = tmp_path / "access", tmp_path / "secret"
    access.write_text(f"{s3.ACCESS_KEY}\n")
    secret.write_text("a-wrong-secret\n")
    settings = settings_of(
        bucket,
        ACCESSKEY="",
        SECRETKEY="",
        ACCESSKEYFILE=str(access),
        SECRETKEYFILE=str(secret),
    )
    assert settings.storage.s3 is not None
    driver = open_bucket(settings, settings.storage.s3)
    with pytest.raises(Refused, match="SignatureDoesNotMatch"):
        await driver.check(write=False)

    secret.write_text(s3.SECRET_KEY)

    await driver.check(write=False)
    await driver.aclose()


def test_keys_are_found_as_every_aws_program_finds_them(bucket: s3.Bucket, tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    file.write_text(
        f"[default]\naws_access_key_id = {s3.ACCESS_KEY}\naws_secret_access_key = {s3.SECRET_KEY}\n"
    )

    check(settings_of(bucket, ACCESSKEY="", SECRETKEY="", CREDENTIALSCONFIGPATH=str(file)))
