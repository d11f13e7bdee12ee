"""A server on a claim: mounted or not, full or nearly so, enlarged, unmounted.

The claims are real file systems, in memory and on a loop device. What is asked of a full one
holds for a plain directory, too.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.claims import MIB, OFTEN, MountedClaim, mounted, run
from tests.integration.volumes import Pusher, assert_served, connected, digest_of
from tests.parts import registry as server_part
from tests.parts.processes import inherited, wait_until

pytestmark = pytest.mark.integration

WORDS_OF_A_CLAIM = (
    "the registry's storage is full (the claim image-registry has no room left): enlarge the "
    "claim or remove other files from it, then push again"
)
WORDS_OF_A_DIRECTORY = "the registry's storage is full: free space or enlarge it, then push again"
LARGE = bytes(range(256)) * 4096 * 4
"""Four mebibytes."""


@pytest.fixture(params=["tmpfs", "ext4"])
def claim(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MountedClaim]:
    with mounted(request.param, tmp_path / "registry") as claim:
        yield claim


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[MountedClaim]:
    """A claim that can be unmounted and mounted again."""
    with mounted("ext4", tmp_path / "registry") as claim:
        yield claim


def ready(client: httpx.Client) -> dict[str, Any]:
    answer = client.get("/readyz")
    return {"code": answer.status_code, **answer.json()}


def error_of(answer: httpx.Response) -> tuple[int, str, str]:
    (error,) = answer.json()["errors"]
    return answer.status_code, error["code"], error["message"]


def gauge(client: httpx.Client, name: str) -> float:
    for line in client.get("/metrics").text.splitlines():
        if line.startswith(f"imageregistry_storage_{name}_bytes "):
            return float(line.split()[1])
    raise AssertionError(name)


def full_to_the_last_byte(client: httpx.Client) -> bool:
    said = ready(client)
    return (said["status"], said["storage"]["free"]) == ("degraded", 0)


@pytest.mark.parametrize(
    ("driver", "workers", "words"),
    [("filesystem", 1, WORDS_OF_A_DIRECTORY), ("pvc", 2, WORDS_OF_A_CLAIM)],
    ids=["filesystem", "pvc"],
)
def test_a_file_system_that_is_filled_to_the_last_byte(
    claim: MountedClaim, tmp_path: Path, driver: str, words: str, workers: int
) -> None:
    settings = claim.settings if driver == "pvc" else OFTEN
    with (
        server_part.running(
            tmp_path / "log", root=claim.path / "root", workers=workers, settings=settings
        ) as server,
        connected(server.url) as client,
    ):
        pusher = Pusher(client)
        kept = pusher.image("app", "kept")
        doomed = pusher.image("app", "doomed")
        moved = pusher.artifact("app", "moved", "latest")
        pusher.blob("app", LARGE)
        session = pusher.start("app")
        before = server.workers()
        claim.fill()

        # Pushes fail, cleanly.
        content, media_type = pusher.volume.manifests["app", kept]
        new = json.dumps({**json.loads(content), "annotations": {"new": "yes"}}).encode()
        headers = {"Content-Type": media_type}
        full = (507, "UNAVAILABLE", words)
        for _ in range(3):
            assert error_of(client.post("/v2/app/blobs/uploads/")) == full
            assert error_of(client.post("/v2/new/name/blobs/uploads/")) == full
            assert error_of(client.patch(session, content=LARGE)) == full
            assert error_of(client.patch(session, content=b"small")) == full
            pushed = client.put("/v2/app/manifests/new", content=new, headers=headers)
            assert error_of(pushed) == full
            retagged = client.put("/v2/app/manifests/latest", content=content, headers=headers)
            assert error_of(retagged) == full
            assert claim.free() == 0
        wait_until(lambda: full_to_the_last_byte(client), "the probe to say so")
        probe = ready(client)

        # Pulls go on.
        assert_served(client, pusher.volume)

        # Deletes work.
        pusher.delete(f"/v2/app/manifests/{doomed}")
        pusher.delete("/v2/app/manifests/moved")
        pusher.delete(f"/v2/app/blobs/{digest_of(LARGE)}")
        pusher.volume.manifests.pop(("app", doomed))
        del pusher.volume.blobs["app", digest_of(LARGE)]
        pusher.volume.tags["app"] = {"kept": kept, "latest": moved}
        assert_served(client, pusher.volume)

        # Space comes back, and pushes with it; the session goes on where it was.
        claim.empty()
        resumed = client.put(f"{session}&digest={digest_of(LARGE)}", content=LARGE)
        pusher.image("app", "new")
        pusher.image("new/name", "latest")
        pusher.blob("app", LARGE[1:])
        wait_until(lambda: ready(client)["status"] == "ready", "the probe to say so")
        pusher.volume.blobs["app", digest_of(LARGE)] = LARGE
        pusher.volume.gone.remove(f"/v2/app/blobs/{digest_of(LARGE)}")
        assert_served(client, pusher.volume)
        assert server.workers() == before
        log = server.log.read_text()

    assert resumed.status_code == 201
    assert probe["code"] == 200
    assert probe["reason"].startswith("pulls and deletes go on, pushes fail: ")
    assert "Traceback" not in log


def test_the_reserve_is_for_deletes(claim: MountedClaim, tmp_path: Path) -> None:
    with (
        server_part.running(
            tmp_path / "log", root=claim.path, workers=2, settings=claim.settings
        ) as server,
        connected(server.url) as client,
    ):
        pusher = Pusher(client)
        pusher.image("app", "kept")
        doomed = pusher.image("app", "doomed")
        session = pusher.start("app")
        reserve = claim.size() // 10
        claim.fill(leave=reserve + 2 * MIB)
        wait_until(lambda: ready(client)["storage"]["free"] < 9 * MIB, "the probe")
        probe = ready(client)
        free = claim.free()

        # What fits beside the reserve goes in; what does not gives its space back.
        too_large = client.patch(session, content=LARGE)
        assert abs(claim.free() - free) < MIB / 4
        pusher.blob("app", LARGE[: 3 * MIB // 2])
        claim.fill(leave=reserve - 64 * 1024)
        small = client.patch(session, content=b"x")
        begun = client.post("/v2/app/blobs/uploads/")
        wait_until(lambda: ready(client)["status"] == "degraded", "the probe to say so")
        full = ready(client)
        pusher.delete(f"/v2/app/manifests/{doomed}")
        pusher.volume.manifests.pop(("app", doomed))
        del pusher.volume.tags["app"]["doomed"]
        assert_served(client, pusher.volume)
        gauges = {name: gauge(client, name) for name in ("size", "free", "reserved")}
        assert claim.free() > 0

    assert (probe["status"], probe["storage"]["reserved"]) == ("ready", reserve)
    for refused in (too_large, small, begun):
        assert error_of(refused) == (507, "UNAVAILABLE", WORDS_OF_A_CLAIM)
    assert (full["code"], full["status"]) == (200, "degraded")
    assert WORDS_OF_A_CLAIM in full["reason"]
    assert 0 < full["storage"]["free"] < full["storage"]["reserved"] == reserve
    assert gauges["size"] == full["storage"]["size"] == claim.size()
    assert gauges["reserved"] == reserve
    assert 0 < gauges["free"] < reserve


def test_many_writers_of_several_replicas_overshoot_by_no_more_than_is_in_flight(
    claim: MountedClaim, tmp_path: Path
) -> None:
    clients = 8
    refusals: list[tuple[int, str, str]] = []

    def push(url: str, number: int) -> None:
        with connected(url) as client:
            for _ in range(100):
                content = os.urandom(2 * MIB)
                started = client.post("/v2/app/blobs/uploads/")
                if started.status_code == 202:
                    location = str(started.headers["Location"])
                    answer = client.put(f"{location}&digest={digest_of(content)}", content=content)
                    if answer.status_code == 201:
                        continue
                    started = answer
                    client.delete(location)
                refusals.append(error_of(started))
                return
            refusals.append((0, "", f"client {number} never saw the end"))

    with ExitStack() as stack:
        servers = [
            stack.enter_context(
                server_part.running(
                    tmp_path / f"log{number}", root=claim.path, workers=2, settings=claim.settings
                )
            )
            for number in range(2)
        ]
        threads = [
            threading.Thread(target=push, args=(servers[number % 2].url, number))
            for number in range(clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        used = claim.size() // 10 - claim.free()

    assert refusals == [(507, "UNAVAILABLE", WORDS_OF_A_CLAIM)] * clients
    # Each may have looked at the same moment as all others, right before the end.
    assert used < clients * MIB


def test_a_claim_that_is_enlarged_takes_pushes_again(tmp_path: Path) -> None:
    with (
        mounted("tmpfs", tmp_path / "registry") as claim,
        server_part.running(
            tmp_path / "log", root=claim.path, workers=2, settings=claim.settings
        ) as server,
        connected(server.url) as client,
    ):
        pusher = Pusher(client)
        reserve = claim.size() // 10
        claim.fill(leave=reserve)
        refused = client.post("/v2/app/blobs/uploads/")
        claim.grow(192 * MIB)
        pusher.blob("app", LARGE)
        wait_until(lambda: ready(client)["storage"]["reserved"] > 2 * reserve, "the probe")
        assert ready(client)["status"] == "ready"
        assert_served(client, pusher.volume)

    assert refused.status_code == 507


def served_once(settings: Mapping[str, str], *arguments: str | Path) -> tuple[int, str]:
    """Try to serve, and return the exit code and what was said."""
    done = subprocess.run(
        [*server_part.PROGRAM, "serve", "--listen", "127.0.0.1:0", *map(str, arguments)],
        env=inherited(**settings),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("below", ["", "below"])
def test_a_plain_folder_is_no_claim_and_nothing_is_made_in_it(
    tmp_path: Path, workers: str, below: str
) -> None:
    folder = tmp_path / "registry"
    folder.mkdir()
    settings = {
        "REGISTRY_STORAGE_PVC_CLAIM": "image-registry",
        "REGISTRY_STORAGE_PVC_MOUNTPATH": str(folder),
    }

    code, said = served_once(settings, "--root", folder / below, "--workers", workers)

    assert code == 1
    assert said.startswith(f"image-registry: the claim image-registry is not mounted at {folder}: ")
    assert f"mountPath: {folder}" in said
    assert said.count("\n") == 1
    assert list(folder.iterdir()) == []


def test_check_config_says_that_the_claim_is_missing(claim: MountedClaim) -> None:
    command = [*server_part.PROGRAM, "check-config"]
    environment = inherited(**claim.settings)
    there = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    claim.unmount()
    gone = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert there.returncode == 0, there.stderr
    assert gone.returncode == 1
    assert "is not mounted at" in gone.stderr
    assert list(claim.path.iterdir()) == []


def test_memory_is_no_claim_unless_it_was_asked_for(tmp_path: Path) -> None:
    with mounted("tmpfs", tmp_path / "registry") as claim:
        settings = {**claim.settings, "REGISTRY_STORAGE_PVC_EXPECT_FILESYSTEMS": ""}

        code, said = served_once(settings)

        assert code == 1
        assert "of type tmpfs, which is gone with the pod" in said
        assert list(claim.path.iterdir()) == []


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("EXPECT_FILESYSTEMS", "nfs4, xfs", "it is of type ext4, and storage.pvc.expect asks for "),
        ("EXPECT_SOURCE", "*:/exports/*", "it is mounted from /dev/loop"),
        ("EXPECT_MINIMUMSIZE", "1Gi", "minimumsize: 1 GiB"),
        ("RESERVE", "1Gi", "storage.pvc.reserve: 1Gi is all of the claim image-registry, which "),
    ],
)
def test_another_claim_than_was_expected_is_not_served(
    disk: MountedClaim, setting: str, value: str, words: str
) -> None:
    code, said = served_once({**disk.settings, f"REGISTRY_STORAGE_PVC_{setting}": value})

    assert code == 1
    assert words in said
    assert [path.name for path in disk.path.iterdir()] == ["lost+found"]


def test_a_folder_of_the_nodes_disk_that_is_mounted_is_a_claim(tmp_path: Path) -> None:
    """As local-path and hostPath provisioners make them, and subPath."""
    with mounted("ext4", tmp_path / "node") as node:
        source, registry = node.path / "pvc-1", node.path / "container"
        source.mkdir()
        registry.mkdir()
        settings = {
            "REGISTRY_STORAGE_PVC_CLAIM": "image-registry",
            "REGISTRY_STORAGE_PVC_ROOTDIRECTORY": str(registry),
        }
        run("mount", "--bind", source, registry)
        try:
            assert source.stat().st_dev == registry.stat().st_dev == node.path.stat().st_dev
            with (
                server_part.running(tmp_path / "log", storage=settings) as server,
                connected(server.url) as client,
            ):
                pusher = Pusher(client)
                pusher.image("app", "latest")
                assert_served(client, pusher.volume)
        finally:
            run("umount", "--lazy", registry)

        assert (source / "docker").is_dir()
        assert list(registry.iterdir()) == []


def test_the_words_for_a_claim_that_belongs_to_somebody_else(disk: MountedClaim) -> None:
    os.chmod(disk.path, 0o755)
    command = ["setpriv", "--reuid=1000", "--regid=1000", "--groups=1000,2000"]

    importing = [*command, sys.executable, "-c", "import alauda_registry"]
    if subprocess.run(importing, capture_output=True, check=False).returncode:
        pytest.skip("another user can't run the program here")
    # Above the claim are folders of pytest's, which nobody else may enter.
    for above in disk.path.parents:
        with suppress(PermissionError):
            above.chmod(above.stat().st_mode | 0o111)
    done = subprocess.run(
        [*command, *server_part.PROGRAM, "serve", "--listen", "127.0.0.1:0"],
        env=inherited(**disk.settings),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert done.returncode == 1
    assert (
        f"cannot use {disk.path}: Permission denied; the claim is user 0's, group 0, mode 755, "
        "and this process, user 1000 with the groups 1000, 2000, may not write to it: set fsGroup"
    ) in done.stderr


def test_a_claim_that_is_unmounted_is_noticed_and_followed_when_it_comes_back(
    disk: MountedClaim, tmp_path: Path
) -> None:
    with (
        server_part.running(
            tmp_path / "log", root=disk.path / "root", workers=2, settings=disk.settings
        ) as server,
        connected(server.url) as client,
    ):
        pusher = Pusher(client)
        # All workers, and not only the first one.
        wait_until(lambda: '"serving ' in server.log.read_text(), "the workers")
        pusher.image("app", "before")
        workers = server.workers()
        disk.unmount()

        # Until it is noticed, what is acknowledged has to be there afterwards.
        acknowledged = push_until_refused(pusher)
        wait_until(lambda: ready(client)["code"] == 503, "the probe to fail")
        gone = ready(client)
        assert client.post("/v2/app/blobs/uploads/").status_code == 503
        assert list(disk.path.iterdir()) == []

        disk.mount()
        wait_until(lambda: is_ready_everywhere(server.url), "the probe to succeed")
        pusher.image("app", "after")
        assert_served(client, pusher.volume)
        assert server.workers() == workers
        log = server.log.read_text()
        disk.unmount()

    assert "the claim image-registry is not mounted at" in log
    assert gone["status"] == "not ready"
    assert "Traceback" not in log
    assert acknowledged >= 0
    assert list(disk.path.iterdir()) == []


def push_until_refused(pusher: Pusher) -> int:
    for number in range(1000):
        try:
            pusher.image("app", f"during-{number}")
        except AssertionError:
            return number
    raise AssertionError("a claim that was unmounted went on taking images")


def is_ready_everywhere(url: str) -> bool:
    """Ask often enough, on new connections, to meet all workers."""
    return all(
        httpx.get(f"{url}/readyz", trust_env=False, timeout=30).status_code == 200
        for _ in range(20)
    )


@pytest.mark.parametrize("place", ["plain folder", "other mount"])
def test_a_copy_in_the_place_of_the_claim_is_not_written_to(
    disk: MountedClaim, tmp_path: Path, place: str
) -> None:
    """Such as what somebody copied to the node while the claim was away."""
    with (
        server_part.running(tmp_path / "log", root=disk.path, settings=disk.settings) as server,
        connected(server.url) as client,
    ):
        pusher = Pusher(client)
        pusher.image("app", "before")
        copy = tmp_path / "copy"
        shutil.copytree(disk.path / "_driver", copy / "_driver")
        disk.unmount()
        if place == "other mount":
            run("mount", "-t", "tmpfs", "-o", "size=16m", "none", disk.path)
        shutil.copytree(copy, disk.path, dirs_exist_ok=True)
        wait_until(lambda: ready(client)["code"] == 503, "the probe to fail")
        refused = [client.post("/v2/app/blobs/uploads/").status_code for _ in range(5)]
        time.sleep(1.5)
        refused.append(client.post("/v2/app/blobs/uploads/").status_code)
        found = sorted(path.name for path in disk.path.iterdir())
        if place == "other mount":
            disk.unmount()
        else:
            shutil.rmtree(disk.path / "_driver")
        disk.mount()
        wait_until(lambda: is_ready_everywhere(server.url), "the probe to succeed")
        pusher.image("app", "after")
        assert_served(client, pusher.volume)

    assert refused == [503] * 6
    assert found == ["_driver"]
