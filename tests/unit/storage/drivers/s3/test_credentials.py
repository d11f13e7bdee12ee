"""Keys in files, and keys that are found: looked for again when there is reason to."""

import asyncio
import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiobotocore.credentials import AioRefreshableCredentials
from botocore.exceptions import ConnectTimeoutError
from botocore.utils import ContainerMetadataFetcher
from typing_extensions import override

from alauda_registry.storage.drivers.s3 import client as clients, credentials as found_keys
from alauda_registry.storage.drivers.s3.client import S3Client
from alauda_registry.storage.drivers.s3.credentials import FoundKeys, KeyFiles, find
from alauda_registry.storage.drivers.s3.errors import CredentialsAway, Refused
from alauda_registry.storage.drivers.s3.signing import Keys
from alauda_registry.storage.drivers.s3.transport import Answer, Request
from tests.parts import credential_services
from tests.parts.credential_services import CredentialServices
from tests.parts.fake_bucket import BUCKET, FakeBucket, FakeTransport
from tests.parts.processes import free_port

pytestmark = pytest.mark.anyio


def write(file: Path, number: int) -> None:
    file.write_text(
        f"[default]\naws_access_key_id = key{number}\naws_secret_access_key = secret{number}\n"
    )


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """One in which there is nothing to find."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return monkeypatch


def set_web_identity(
    environment: pytest.MonkeyPatch, variables: Mapping[str, str], file: Path
) -> None:
    file.write_text("an-identity")
    for name, value in {**variables, "AWS_WEB_IDENTITY_TOKEN_FILE": str(file)}.items():
        environment.setenv(name, value)


class Searches:
    """Counts searches, and lets them end when they are told to."""

    def __init__(self) -> None:
        self.count = 0
        self.may_end = asyncio.Event()

    async def find(self, shared_file: Path | None) -> Any:
        self.count += 1
        found = await find(shared_file)
        await self.may_end.wait()
        return found


async def test_a_refusal_while_the_file_is_written_loses_no_keys(tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    write(file, 1)
    credentials = FoundKeys(file, lambda: 0.0)
    assert (await credentials.keys()).access == "key1"

    file.write_text("[default]\naws_access_key_id = key2\n")
    credentials.doubt(credentials.looked)
    assert (await credentials.keys()).access == "key1"

    write(file, 2)
    credentials.doubt(credentials.looked)
    assert (await credentials.keys()).access == "key2"


async def test_all_who_were_refused_look_once(tmp_path: Path) -> None:
    write(tmp_path / "credentials", 1)
    searches = Searches()
    credentials = FoundKeys(tmp_path / "credentials", lambda: 0.0, searches.find)
    askers = [asyncio.ensure_future(credentials.keys()) for _ in range(50)]
    await asyncio.sleep(0.05)
    searches.may_end.set()
    await asyncio.gather(*askers)
    assert searches.count == 1

    async def be_refused(looked: int) -> str:
        credentials.doubt(looked)
        return (await credentials.keys()).access

    write(tmp_path / "credentials", 2)
    looked = credentials.looked
    assert set(await asyncio.gather(*(be_refused(looked) for _ in range(50)))) == {"key2"}
    assert await be_refused(looked) == "key2"
    assert searches.count == 2


async def test_who_is_refused_during_a_search_does_not_get_what_it_finds(tmp_path: Path) -> None:
    write(tmp_path / "credentials", 1)
    searches = Searches()
    credentials = FoundKeys(tmp_path / "credentials", lambda: 0.0, searches.find)
    searches.may_end.set()
    await credentials.keys()

    searches.may_end.clear()
    looked = credentials.looked
    credentials.doubt(looked)
    early = asyncio.ensure_future(credentials.keys())
    await asyncio.sleep(0.05)
    assert searches.count == 2
    # This search has read the file already.
    write(tmp_path / "credentials", 2)
    credentials.doubt(looked)
    late = asyncio.ensure_future(credentials.keys())
    await asyncio.sleep(0.05)
    searches.may_end.set()

    assert (await early).access == "key1"
    assert (await late).access == "key2"


async def test_what_was_not_there_is_found_later(
    tmp_path: Path, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("AWS_EC2_METADATA_DISABLED", "true")
    credentials = FoundKeys(tmp_path / "credentials", lambda: 0.0)
    with pytest.raises(Refused):
        await credentials.keys()

    write(tmp_path / "credentials", 1)

    assert (await credentials.keys()).access == "key1"


async def test_keys_are_kept_while_nobody_gives_others(
    tmp_path: Path, environment: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with credential_services.running() as services:
        set_web_identity(environment, services.web_identity, tmp_path / "identity")
        credentials = FoundKeys(clock=lambda: 0.0)
        assert (await credentials.keys()).access == "found"
    looked = credentials.looked
    # By one 403, for whatever reason.
    credentials.doubt(looked)

    assert [(await credentials.keys()).access for _ in range(3)] == ["found"] * 3
    assert credentials.looked == looked + 1
    assert caplog.text.count("the keys are kept") == 1

    with credential_services.running(services.port) as services:
        services.access_key = "later"
        credentials.doubt(credentials.looked)
        assert (await credentials.keys()).access == "later"


async def test_keys_are_kept_while_who_gives_them_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(found_keys, "_FIND_SECONDS", 0.05)
    write(tmp_path / "credentials", 1)
    searches = Searches()
    searches.may_end.set()
    credentials = FoundKeys(tmp_path / "credentials", lambda: 0.0, searches.find)
    await credentials.keys()

    searches.may_end.clear()
    credentials.doubt(credentials.looked)

    assert (await credentials.keys()).access == "key1"


class Renewing:
    """Keys that end, and whoever renews them.

    Attributes:
        now: The clock of whoever uses them, in seconds.
        asked: How often they were to be renewed.
        is_away: Whether whoever renews them does not answer, which takes a while.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.asked = 0
        self.is_away = False
        self.found = AioRefreshableCredentials(
            "first", "secret", "token", datetime.now(UTC) + timedelta(hours=1), self._renew, "test"
        )
        self.credentials = FoundKeys(clock=lambda: self.now, find=self._find)

    def end_in(self, minutes: float) -> None:
        """Let the keys that are used end then."""
        self.found._expiry_time = datetime.now(UTC) + timedelta(minutes=minutes)

    async def _find(self, shared_file: Path | None) -> AioRefreshableCredentials:
        return self.found

    async def _renew(self) -> dict[str, str]:
        self.asked += 1
        if self.is_away:
            await asyncio.sleep(0.05)
            raise ConnectTimeoutError(endpoint_url="https://sts.example")
        end = datetime.now(UTC) + timedelta(hours=1)
        return {
            "access_key": "second",
            "secret_key": "secret",
            "token": "token",
            "expiry_time": end.isoformat(),
        }


async def test_keys_are_used_to_their_end_while_nobody_renews_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    renewing = Renewing()
    credentials = renewing.credentials
    assert (await credentials.keys()).access == "first"

    # In the last ten minutes botocore returns new ones or none.
    renewing.end_in(9)
    renewing.is_away = True
    many = await asyncio.gather(*(credentials.keys() for _ in range(50)))
    assert {keys.access for keys in many} == {"first"}
    assert (await credentials.keys()).access == "first"
    assert renewing.asked == 1
    assert caplog.text.count("the keys are used to their end") == 1

    renewing.now += found_keys._KEPT_SECONDS
    assert (await credentials.keys()).access == "first"
    assert renewing.asked == 2

    renewing.end_in(0)
    with pytest.raises(CredentialsAway):
        await credentials.keys()

    renewing.is_away = False
    assert (await credentials.keys()).access == "second"


async def test_keys_that_could_not_be_renewed_are_renewed_some_seconds_later() -> None:
    renewing = Renewing()
    await renewing.credentials.keys()
    renewing.end_in(9)
    renewing.is_away = True
    assert (await renewing.credentials.keys()).access == "first"

    renewing.is_away = False
    assert (await renewing.credentials.keys()).access == "first"
    renewing.now += found_keys._KEPT_SECONDS
    assert (await renewing.credentials.keys()).access == "second"


class Signing(FakeTransport):
    """As the real ones, asks for keys before each request."""

    def __init__(self, bucket: FakeBucket, credentials: FoundKeys) -> None:
        super().__init__(bucket)
        self._credentials = credentials

    @override
    async def send(self, request: Request) -> Answer:
        await self._credentials.keys()
        return await super().send(request)


async def test_a_request_waits_for_who_gives_keys(
    tmp_path: Path, environment: pytest.MonkeyPatch
) -> None:
    environment.setattr(clients, "_PAUSES", (0.1, 0.3))
    environment.setattr("random.uniform", lambda _, most: most)
    port = free_port()
    set_web_identity(environment, CredentialServices(port).web_identity, tmp_path / "identity")
    bucket = FakeBucket(lambda: 1_700_000_000.0)
    bucket.put("a", b"content")
    credentials = FoundKeys(clock=lambda: 0.0)
    client = S3Client(Signing(bucket, credentials), BUCKET, credentials)

    with pytest.raises(CredentialsAway) as caught:
        await client.get("/a")
    assert "the service that gives the credentials" in str(caught.value.advice)

    asking = asyncio.ensure_future(client.get("/a"))
    await asyncio.sleep(0.1)
    with credential_services.running(port):
        assert (await asking)[1] == b"content"


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        ((500, "InternalFailure"), CredentialsAway),
        ((400, "Throttling"), CredentialsAway),
        ((403, "AccessDenied"), Refused),
        ((400, "ExpiredTokenException"), Refused),
        ((400, "InvalidIdentityToken"), Refused),
    ],
    ids=str,
)
async def test_what_sts_says_is_told_apart(
    tmp_path: Path,
    environment: pytest.MonkeyPatch,
    refusal: tuple[int, str],
    kind: type[Exception],
) -> None:
    with credential_services.running() as services:
        set_web_identity(environment, services.web_identity, tmp_path / "identity")
        services.refusal = refusal
        credentials = FoundKeys(clock=lambda: 0.0)
        with pytest.raises(kind, match=refusal[1]):
            await credentials.keys()

        services.refusal = None
        assert (await credentials.keys()).access == "found"


async def test_the_metadata_of_a_container_may_be_away(environment: pytest.MonkeyPatch) -> None:
    environment.setattr(ContainerMetadataFetcher, "SLEEP_TIME", 0)
    services = CredentialServices(free_port())
    for name, value in services.container.items():
        environment.setenv(name, value)
    credentials = FoundKeys(clock=lambda: 0.0)

    with pytest.raises(CredentialsAway):
        await credentials.keys()

    with credential_services.running(services.port):
        assert (await credentials.keys()).access == "found"


@pytest.mark.parametrize("kind", ["web identity", "instance", "container"])
async def test_roles_are_found_and_renewed(
    kind: str, tmp_path: Path, environment: pytest.MonkeyPatch
) -> None:
    with credential_services.running() as services:
        if kind == "web identity":
            set_web_identity(environment, services.web_identity, tmp_path / "identity")
        else:
            variables = services.instance if kind == "instance" else services.container
            for name, value in variables.items():
                environment.setenv(name, value)
        # So near its end that it is renewed with each use.
        services.lifetime = timedelta(minutes=5)
        credentials = FoundKeys(clock=lambda: 0.0)
        assert await credentials.keys() == Keys("found", "a-secret", "a-session")

        services.access_key, services.lifetime = "renewed", timedelta(hours=6)
        if kind == "instance":
            # botocore takes the end of these for later than it is.
            credentials.doubt(credentials.looked)
        assert (await credentials.keys()).access == "renewed"

        services.access_key = "not asked for"
        assert (await credentials.keys()).access == "renewed"
    assert set(services.identities) == ({"an-identity"} if kind == "web identity" else set())


class Files:
    """Keys in two files, and a clock."""

    def __init__(self, folder: Path) -> None:
        self.now = 0.0
        self.access, self.secret = folder / "access", folder / "secret"
        self.credentials = KeyFiles(self.access, self.secret, lambda: self.now)

    def write(self, number: int) -> None:
        """Replace both, as Kubernetes does it."""
        for file, text in ((self.access, f" key{number}\n"), (self.secret, f"secret{number}\n")):
            new = file.with_suffix(".new")
            new.write_text(text)
            new.rename(file)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


async def test_files_are_read_again_when_they_have_changed(files: Files) -> None:
    files.write(1)
    assert await files.credentials.keys() == Keys("key1", "secret1")

    files.write(2)
    # Not looked at with every request.
    assert (await files.credentials.keys()).access == "key1"
    files.now = found_keys._LOOK_SECONDS
    assert await files.credentials.keys() == Keys("key2", "secret2")


async def test_files_are_read_again_at_once_when_keys_are_refused(files: Files) -> None:
    files.write(1)
    await files.credentials.keys()
    files.write(2)

    files.credentials.doubt(files.credentials.looked)

    assert await files.credentials.keys() == Keys("key2", "secret2")


async def test_keys_are_kept_while_their_files_are_gone(files: Files) -> None:
    with pytest.raises(Refused, match="can't be read"):
        await files.credentials.keys()
    files.write(1)
    assert (await files.credentials.keys()).access == "key1"

    files.access.unlink()
    files.now = found_keys._LOOK_SECONDS
    assert (await files.credentials.keys()).access == "key1"

    files.write(2)
    files.now *= 2
    assert (await files.credentials.keys()).access == "key2"


async def test_a_file_of_aws_is_read_again_when_it_has_changed(
    tmp_path: Path, environment: pytest.MonkeyPatch
) -> None:
    now = 0.0
    write(tmp_path / "credentials", 1)
    credentials = FoundKeys(tmp_path / "credentials", lambda: now)
    assert (await credentials.keys()).access == "key1"

    write(tmp_path / "credentials", 20)
    assert (await credentials.keys()).access == "key1"
    now = found_keys._LOOK_SECONDS
    assert (await credentials.keys()).access == "key20"
