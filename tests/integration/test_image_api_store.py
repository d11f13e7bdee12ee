"""The SQLite store in the real world: killed in the middle, opened again, and by newer versions."""

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from alauda_imageapi.machinery.sqlite import SQLiteStore
from alauda_imageapi.machinery.store import Key, StoreUnavailable
from tests.integration.disks import mounted
from tests.unit.imageapi.apis import MERGE_PATCH, image, opened

pytestmark = [pytest.mark.anyio, pytest.mark.integration]

WRITER = """
import asyncio, sys
from pathlib import Path
from alauda_imageapi.machinery.sqlite import SQLiteStore
from alauda_imageapi.machinery.store import Key

async def main() -> None:
    async with SQLiteStore.opened(Path(sys.argv[1])) as store:
        number = 0
        while True:
            key = Key("images", "", f"{sys.argv[2]}-{number}")
            stored = await store.create(key, {"metadata": {"name": key.name}})
            print(key.name, stored.revision, flush=True)
            number += 1

asyncio.run(main())
"""


def start(path: Path, name: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), name], stdout=subprocess.PIPE, text=True
    )


async def test_what_was_acknowledged_survives_the_writers_being_killed(tmp_path: Path) -> None:
    path = tmp_path / "objects.db"
    told: dict[str, int] = {}
    for round_number in range(3):
        writers = [start(path, f"{round_number}-{name}") for name in "ab"]
        for writer in writers:
            assert writer.stdout is not None
            for _ in range(20):
                name, revision = writer.stdout.readline().split()
                told[name] = int(revision)
        for writer in writers:
            os.kill(writer.pid, signal.SIGKILL)
        for writer in writers:
            rest, _ = writer.communicate()
            # The last line may have been cut in the middle.
            told |= {
                name: int(revision)
                for name, revision in (line.split() for line in rest.split("\n")[:-1])
            }

    async with SQLiteStore.opened(path) as store:
        kept = {item.key.name: item.revision for item in (await store.snapshot("images")).items}

    assert told.items() <= kept.items()
    assert len(set(kept.values())) == len(kept)


async def test_watches_go_on_after_the_process_was_started_again(tmp_path: Path) -> None:
    path = tmp_path / "objects.db"
    async with SQLiteStore.opened(path) as store:
        first = await store.create(Key("images", "", "one"), {"metadata": {"name": "one"}})
        await store.create(Key("images", "", "two"), {"metadata": {"name": "two"}})

    async with SQLiteStore.opened(path) as store:
        watch = await store.watch("images", first.revision)
        events = await watch.next(1)
        third = await store.create(Key("images", "", "three"), {"metadata": {"name": "three"}})

    assert [event.stored.key.name for event in events] == ["two"]
    assert third.revision == first.revision + 2


async def test_a_file_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "objects.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()

    with pytest.raises(StoreUnavailable, match="a newer version wrote it"):
        async with SQLiteStore.opened(path):
            pass


async def test_what_is_no_database_is_refused_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "objects.db"
    path.write_text("not a database, and longer than a header " * 100)

    with pytest.raises(StoreUnavailable, match=r"objects\.db"):
        async with SQLiteStore.opened(path):
            pass


async def test_a_full_disk_refuses_changes_and_loses_nothing(tmp_path: Path) -> None:
    async with SQLiteStore.opened(tmp_path / "objects.db") as store:
        kept = await store.create(Key("images", "", "kept"), {"metadata": {"name": "kept"}})
        # SQLite refuses to let the file grow, with the error that a full disk gives.
        (pages,) = store._writer.connection.execute("PRAGMA page_count").fetchone()
        store._writer.connection.execute(f"PRAGMA max_page_count = {pages}")
        large = {"metadata": {"name": "large"}, "text": "x" * 100_000}
        with pytest.raises(StoreUnavailable, match="is full"):
            await store.create(Key("images", "", "large"), large)
        found = await store.get(kept.key)
        store._writer.connection.execute("PRAGMA max_page_count = 100000")
        made = await store.create(Key("images", "", "large"), large)

    assert found is not None
    assert (found.revision, made.revision) == (kept.revision, kept.revision + 1)


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
async def test_a_disk_that_is_full_is_read_from_and_comes_back_by_itself(
    kind: str, tmp_path: Path
) -> None:
    """Whoever asks is told what is full; nobody has to restart anything."""
    large = "x" * 200_000

    def numbered(number: int) -> dict[str, Any]:
        return image(f"sha256:{number:064}", dockerImageManifest=large)

    with mounted(tmp_path, kind) as disk:
        async with opened(disk.path) as api:
            kept = await api.make("images", numbered(0))
            path = f"images/{kept['metadata']['name']}"
            async with api.watch(f"images?watch=1&resourceVersion={revision(kept)}") as lines:
                disk.fill()
                # There is still room in SQLite's log.
                answers = [await api.call("POST", "images", numbered(1))]
                while answers[-1].status_code == 201 and len(answers) < 100:
                    answers.append(await api.call("POST", "images", numbered(len(answers) + 1)))
                labels = {"metadata": {"annotations": {"text": large}}}
                changed = await api.call("PATCH", path, labels, kind=MERGE_PATCH)
                found = await api.get(path)
                listed = await api.get("images")

                disk.empty()
                made = await api.make("images", numbered(1000))
                seen = [await lines.next() for _ in range(len(answers))]

    for answer in (answers[-1], changed):
        assert (answer.status_code, answer.json()["reason"]) == (507, "InsufficientStorage")
        assert "disk that the image API's objects are on is full" in answer.json()["message"]
        # Who tries again at once only fills the disk's queue.
        assert "retry-after" not in answer.headers
    assert found == kept
    assert len(listed["items"]) == len(answers)
    assert seen[-1]["object"]["metadata"]["name"] == made["metadata"]["name"]


def revision(document: dict[str, Any]) -> str:
    return str(document["metadata"]["resourceVersion"])
