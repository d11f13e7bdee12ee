"""Keys that are found: looked for again when they are refused, once for all who were."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from alauda_registry.storage.drivers.s3.credentials import FoundKeys, find
from alauda_registry.storage.drivers.s3.errors import Refused

pytestmark = pytest.mark.anyio


def write(file: Path, number: int) -> None:
    file.write_text(
        f"[default]\naws_access_key_id = key{number}\naws_secret_access_key = secret{number}\n"
    )


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


async def test_what_was_not_there_is_found_later(tmp_path: Path, monkeypatch: Any) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    credentials = FoundKeys(tmp_path / "credentials", lambda: 0.0)
    with pytest.raises(Refused):
        await credentials.keys()

    write(tmp_path / "credentials", 1)

    assert (await credentials.keys()).access == "key1"
