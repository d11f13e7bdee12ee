"""A check of volumes that real servers wrote: sound ones, broken ones, and ones in use."""

import json
import shutil
import sys
import threading
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.volumes import (
    OCI_LAYER,
    Pusher,
    Volume,
    assert_served,
    connected,
    descriptor,
    digest_of,
)
from tests.parts import distribution, registry
from tests.parts.processes import run
from tests.parts.tools import find, require

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

TREE = "docker/registry/v2"
Json = dict[str, Any]


def fsck(root: Path, *arguments: str, code: int = 0) -> list[Json]:
    """Check a volume with the command, and return its findings."""
    command: list[str | Path] = [sys.executable, "-m", "alauda_registry", "fsck", "--root", root]
    flags = ["--age", "0s", "--format", "json", *arguments]
    done = run([*command, *flags], check=False, seconds=200)
    assert (done.returncode, done.stderr) == (code, ""), done.stdout + done.stderr
    *findings, summary = map(json.loads, done.stdout.splitlines())
    assert set(summary) == {"summary"}
    return findings


def kinds(findings: Sequence[Json]) -> set[str]:
    return {str(finding["kind"]) for finding in findings}


@pytest.fixture(scope="module")
def by_distribution(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Volume]]:
    require("distribution")
    directory = tmp_path_factory.mktemp("fsck-distribution")
    with distribution.running(directory) as peer, connected(peer.url) as client:
        pusher = Pusher(client)
        pusher.everything()
        pusher.referrers("referrers")
        unfinished = pusher.start("a/b")
        assert client.patch(unfinished, content=b"first half").status_code == 202
    yield peer.root, pusher.volume
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def by_us(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Volume]]:
    directory = tmp_path_factory.mktemp("fsck-us")
    with registry.running(directory) as server, connected(server.url) as client:
        pusher = Pusher(client)
        pusher.everything()
        subject, _ = pusher.referrers("referrers")
        assert client.get(f"/v2/referrers/referrers/{subject}").status_code == 200
        pusher.blob("native", b"native", "sha512")
        layers = [descriptor(OCI_LAYER, b"native", "sha512")]
        pusher.artifact("native", "one", layers=layers, sha512=True)
    yield server.root, pusher.volume
    shutil.rmtree(directory)


def test_a_volume_of_ours_is_sound(by_us: tuple[Path, Volume]) -> None:
    # Deleting leaves bytes, and nothing else.
    assert kinds(fsck(by_us[0])) == {"blob-unlinked"}


def test_a_volume_of_distribution_is_sound(by_distribution: tuple[Path, Volume]) -> None:
    # It keeps no index of referrers, and a tag's history when a manifest goes.
    assert kinds(fsck(by_distribution[0])) <= {
        "blob-unlinked",
        "history-to-nothing",
        "referrer-not-indexed",
    }


def test_a_volume_is_sound_after_the_garbage_collection_of_distribution(
    by_distribution: tuple[Path, Volume], tmp_path: Path
) -> None:
    root = tmp_path / "root"
    shutil.copytree(by_distribution[0], root)
    # It fails over the aliases that it makes itself.
    shutil.rmtree(root / TREE / "repositories" / "long")
    configuration = tmp_path / "garbage.yml"
    content = {"version": 0.1, "storage": {"filesystem": {"rootdirectory": str(root)}}}
    configuration.write_text(json.dumps(content))
    run([find("distribution"), "garbage-collect", configuration])

    assert "blob-unlinked" not in kinds(fsck(root))


DAMAGED = ("a", "z0", "a-b", "a.b", "a/b", "long", "multi")

BROKEN = {
    ("a", "blob-missing"),
    ("a", "manifest-incomplete"),
    (None, "blob-corrupt"),
    ("a-b", "manifest-missing"),
    ("a-b", "tag-to-nothing"),
    ("a.b", "manifest-corrupt"),
    ("a/b", "link-invalid"),
    ("a/b", "tag-to-nothing"),
    ("long", "blob-missing"),
    ("long", "manifest-incomplete"),
    ("multi", "link-mismatch"),
}


def damage(root: Path, volume: Volume) -> None:
    """Do to a volume what disks, crashes and people do; ``BROKEN`` is what comes of it."""
    repositories = root / TREE / "repositories"
    shutil.rmtree(data(root, digest_of(b"layer of a ('latest', 'v1.0')")).parent)
    data(root, digest_of(b"layer of z0 ('latest', 'v1.0')")).write_bytes(b"rot")
    data(root, volume.tags["a-b"]["latest"]).unlink()
    data(root, volume.tags["a.b"]["latest"]).write_bytes(b"{}")
    # As a crash of an old registry leaves them: empty.
    for pattern in ("_layers/sha256/*/link", "_manifests/*/sha256/*/link"):
        next((repositories / "a/b").glob(pattern)).write_bytes(b"")
    (repositories / "a/b/_manifests/tags/latest/current/link").write_bytes(b"")
    encoded = digest_of(b"by sha512", "sha512").partition(":")[2]
    alias = repositories / "long/_layers/sha512" / encoded / "link"
    alias.write_text(digest_of(b"something else"))
    revision = volume.tags["multi"]["latest"].partition(":")[2]
    link = repositories / "multi/_manifests/revisions/sha256" / revision / "link"
    link.write_text(volume.tags["a"]["latest"])


@pytest.mark.parametrize("writer", ["by_us", "by_distribution"])
def test_damage_to_a_volume_is_found_and_repaired_as_far_as_can_be(
    writer: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    written, volume = request.getfixturevalue(writer)
    root = tmp_path / "root"
    shutil.copytree(written, root)
    damage(root, volume)

    found = fsck(root, code=1)
    fsck(root, "--repair", code=1)
    left = fsck(root, code=1)

    assert broken(found) == BROKEN
    assert not {finding["kind"] for finding in left if finding["repairable"]}
    # What is lost is lost, until somebody pushes it again.
    assert broken(left) == {
        ("a", "manifest-incomplete"),
        ("a.b", "manifest-corrupt"),
        ("long", "manifest-incomplete"),
        ("z0", "manifest-incomplete"),
    }
    for name in DAMAGED:
        for folder in (root / TREE / "repositories" / name).glob("_*"):
            shutil.rmtree(folder)
    with registry.running(tmp_path / "us", root=root) as server, connected(server.url) as client:
        assert_served(client, without(volume, DAMAGED))


def broken(findings: Sequence[Json]) -> set[tuple[str | None, str]]:
    """Return what is broken, and where."""
    return {
        (finding.get("repository"), finding["kind"])
        for finding in findings
        if finding["severity"] == "broken"
    }


def without(volume: Volume, damaged: Collection[str]) -> Volume:
    """Return what is in other repositories than those."""
    return Volume(
        {key: value for key, value in volume.blobs.items() if key[0] not in damaged},
        {key: value for key, value in volume.manifests.items() if key[0] not in damaged},
        {key: value for key, value in volume.tags.items() if key not in damaged},
        volume.gone,
    )


def data(root: Path, digest: str) -> Path:
    algorithm, _, encoded = digest.partition(":")
    return root / TREE / "blobs" / algorithm / encoded[:2] / encoded / "data"


def test_nothing_is_broken_while_clients_push_and_delete(tmp_path: Path) -> None:
    """Two workers serve, three clients do all they can, and the check runs again and again."""
    with registry.running(tmp_path, workers=2) as server:
        is_over = threading.Event()
        failures: list[BaseException] = []

        def work(number: int) -> None:
            try:
                with connected(server.url) as client:
                    keep_busy(client, number, is_over)
            except BaseException as failure:
                failures.append(failure)
                raise

        clients = [threading.Thread(target=work, args=(number,)) for number in range(3)]
        for client in clients:
            client.start()
        try:
            found = set()
            for turn in range(4):
                found |= broken(fsck(server.root, *(["--repair"] if turn % 2 else [])))
        finally:
            is_over.set()
            for client in clients:
                client.join()

    assert found == set()
    assert failures == []
    assert broken(fsck(server.root)) == set()


def keep_busy(client: httpx.Client, number: int, is_over: threading.Event) -> None:
    """Push, move, delete, mount and abandon, and count on everything that was acknowledged."""
    volume = Volume()
    pusher = Pusher(client, volume)
    turn = 0
    while not is_over.is_set():
        turn += 1
        name = f"team/app-{number}"
        kept = pusher.image(name, "latest", annotations={"turn": str(turn)})
        doomed = pusher.image(name, "doomed", f"t{turn % 5}", annotations={"doomed": str(turn)})
        signature = pusher.artifact(
            name, subject=pusher.entry(name, kept), artifactType="type/x",
            annotations={"turn": str(turn)},
        )  # fmt: skip
        pusher.mount("team/shared", digest_of(b"{}"), name)
        pusher.artifact("team/shared", "latest", annotations={"from": f"{number} {turn}"})
        pusher.start(name)
        for digest in (doomed, signature):
            assert client.delete(f"/v2/{name}/manifests/{digest}").status_code == 202
        answer = client.get(f"/v2/{name}/manifests/latest")
        assert answer.headers["Docker-Content-Digest"] == kept
