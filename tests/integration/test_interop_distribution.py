"""A volume changes hands between us and the registry of the distribution project, both ways."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from alauda_registry.oci.digest import Digest
from alauda_registry.oci.reference import RepositoryName, Tag
from alauda_registry.storage.drivers.filesystem import FilesystemDriver
from alauda_registry.storage.repositories import Registry
from tests.integration.volumes import (
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Json,
    Pusher,
    Volume,
    assert_served,
    connected,
    descriptor,
    digest_of,
    read_all,
)
from tests.parts import distribution, registry
from tests.parts.processes import run
from tests.parts.tools import find, require

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

TREE = "docker/registry/v2"


@dataclass(frozen=True)
class Written:
    """A volume that somebody filled, and what has to come out of it."""

    root: Path
    volume: Volume
    subject: str
    referrers: list[Json]


def fill(client: httpx.Client) -> tuple[Volume, str, list[Json]]:
    pusher = Pusher(client)
    pusher.everything()
    subject, referrers = pusher.referrers("referrers")
    return pusher.volume, subject, referrers


@pytest.fixture(scope="module")
def by_distribution(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Written]:
    require("distribution")
    directory = tmp_path_factory.mktemp("by-distribution")
    with distribution.running(directory) as peer, connected(peer.url) as client:
        volume, subject, referrers = fill(client)
        leave_stray_files(peer.root)
        unfinished = Pusher(client).start("a/b")
        assert client.patch(unfinished, content=b"first half").status_code == 202
    yield Written(peer.root, volume, subject, referrers)
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def by_us(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Written]:
    require("distribution")
    directory = tmp_path_factory.mktemp("by-us")
    with registry.running(directory) as server, connected(server.url) as client:
        volume, subject, referrers = fill(client)
        # Makes the index of referrers say what it covers.
        assert client.get(f"/v2/referrers/referrers/{subject}").status_code == 200
        pusher = Pusher(client, volume)
        pusher.blob("native", b"native", "sha512")
        layers = [descriptor(OCI_LAYER, b"native", "sha512")]
        pusher.artifact("native", "one", "two", layers=layers, sha512=True)
        pusher.artifact("native", "short", layers=layers)
        pusher.start("a/b")
        # distribution makes a folder of links to blobs wherever it puts a manifest.
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
        pusher.manifest("only/an-index", index, "latest")
        leave_stray_files(server.root)
    yield Written(server.root, volume, subject, referrers)
    shutil.rmtree(directory)


def leave_stray_files(root: Path) -> None:
    """Leave what crashes and people leave in a volume."""
    tree = root / TREE
    repository = tree / "repositories" / "tags"
    revision = next((repository / "_manifests/revisions/sha256").iterdir())
    data = next((tree / "blobs/sha256").glob("*/*/data"))
    for path in (
        data.with_name("data.3f2504e0-4f89-41d3-9a0c-0305e82c3301.tmp"),
        revision / "link.3f2504e0-4f89-41d3-9a0c-0305e82c3301.tmp",
        repository / "_manifests/tags/moved/current/link.3f2504e0.tmp",
        repository / "_layers/stray.tmp",
        tree / "stray.tmp",
    ):
        path.write_bytes(b"sha256:")
    (tree / "repositories" / "lost+found").mkdir()
    (tree / "repositories" / "z0" / "Backup of z0").mkdir()


def test_what_distribution_wrote_we_serve(by_distribution: Written, tmp_path: Path) -> None:
    with (
        registry.running(tmp_path, root=by_distribution.root) as server,
        connected(server.url) as client,
    ):
        assert_served(client, by_distribution.volume)
        log = server.log.read_text()

    assert "Traceback" not in log


def test_referrers_in_a_volume_of_distribution_are_found(
    by_distribution: Written, tmp_path: Path
) -> None:
    with (
        registry.running(tmp_path, root=by_distribution.root) as server,
        connected(server.url) as client,
    ):
        url = f"/v2/referrers/referrers/{by_distribution.subject}"
        answers = [client.get(url).json() for _ in range(2)]
        sboms = client.get(f"{url}?artifactType=application/vnd.example.sbom").json()

    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": by_distribution.referrers}
    assert answers == [index, index]
    assert sboms["manifests"] == [
        entry for entry in by_distribution.referrers if entry["artifactType"].endswith("sbom")
    ]


@pytest.mark.anyio
async def test_the_library_alone_reads_what_distribution_wrote(by_distribution: Written) -> None:
    driver = FilesystemDriver(by_distribution.root)
    library, volume = Registry(driver), by_distribution.volume

    blobs, manifests = {}, {}
    for name, digest in volume.blobs:
        blob = await library.repository(RepositoryName(name)).blobs.open(Digest.parse(digest))
        blobs[name, digest] = b"".join([chunk async for chunk in blob.stream()])
        blob.close()
    for name, digest in volume.manifests:
        manifests_of = library.repository(RepositoryName(name)).manifests
        stored = await manifests_of.get(Digest.parse(digest))
        manifests[name, digest] = stored.content, stored.media_type
    tags: dict[str, dict[str, str]] = {}
    for name in (await library.catalog(limit=1000)).names:
        store = library.repository(RepositoryName(name)).tags
        pushed = (await store.page(limit=None)).names
        tags[name] = {tag: str(await store.resolve(Tag(tag))) for tag in pushed}
    await driver.aclose()

    assert blobs == volume.blobs
    assert manifests == volume.manifests
    assert tags == volume.tags


def test_an_upload_that_distribution_began_we_finish(
    by_distribution: Written, tmp_path: Path
) -> None:
    uploads = by_distribution.root / TREE / "repositories/a/b/_uploads"
    upload_id = next(path.parent.name for path in uploads.glob("*/data") if path.stat().st_size)
    content = b"first half and second half"
    with (
        registry.running(tmp_path, root=by_distribution.root) as server,
        connected(server.url) as client,
    ):
        status = client.get(f"/v2/a/b/blobs/uploads/{upload_id}")
        location = status.headers["Location"]
        separator = "&" if "?" in location else "?"
        finished = client.put(
            f"{location}{separator}digest={digest_of(content)}", content=b" and second half"
        )
        served = client.get(f"/v2/a/b/blobs/{digest_of(content)}")

    assert (status.status_code, status.headers["Range"]) == (204, "0-9")
    assert finished.status_code == 201, finished.text
    assert served.content == content


def test_what_we_wrote_distribution_serves(by_us: Written, tmp_path: Path) -> None:
    with (
        distribution.running(tmp_path, root=by_us.root) as peer,
        connected(peer.url) as client,
    ):
        assert_served(client, by_us.volume)


def test_what_we_wrote_we_serve(by_us: Written, tmp_path: Path) -> None:
    with registry.running(tmp_path, root=by_us.root) as server, connected(server.url) as client:
        assert_served(client, by_us.volume)
        answer = client.get(f"/v2/referrers/referrers/{by_us.subject}").json()

    assert answer["manifests"] == by_us.referrers


def test_both_list_the_same_names_and_tags(
    by_us: Written, by_distribution: Written, tmp_path: Path
) -> None:
    for number, written in enumerate((by_us, by_distribution)):
        with (
            registry.running(tmp_path / f"{number}", root=written.root) as server,
            distribution.running(tmp_path / f"{number}-peer", root=written.root) as peer,
            connected(server.url) as ours,
            connected(peer.url) as theirs,
        ):
            names = [read_all(one, "/v2/_catalog?n=4", "repositories") for one in (ours, theirs)]
            tags = [
                {name: read_all(one, f"/v2/{name}/tags/list", "tags") for name in names[0]}
                for one in (ours, theirs)
            ]

        assert names[0] == names[1]
        assert tags[0] == tags[1]


def test_the_garbage_collector_of_distribution_works_on_our_volume(
    by_us: Written, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    shutil.copytree(by_us.root, root)

    dry = collect_garbage(tmp_path, root, "--dry-run")
    wet = collect_garbage(tmp_path, root)
    with distribution.running(tmp_path, root=root) as peer, connected(peer.url) as client:
        volume = only_referred_to(by_us.volume)
        assert_served(client, volume)
    with registry.running(tmp_path / "us", root=root) as server, connected(server.url) as client:
        assert_served(client, volume)

    assert "eligible for deletion" in dry
    assert "eligible for deletion" in wet


def collect_garbage(directory: Path, root: Path, *arguments: str) -> str:
    configuration = directory / "garbage.yml"
    content: Any = {"version": 0.1, "storage": {"filesystem": {"rootdirectory": str(root)}}}
    configuration.write_text(json.dumps(content))
    program = find("distribution")
    return run([program, "garbage-collect", *arguments, configuration]).stdout


def only_referred_to(volume: Volume) -> Volume:
    """Return what garbage collection has to leave."""
    referred = {
        (name, entry["digest"])
        for (name, _), (content, _) in volume.manifests.items()
        for document in [json.loads(content)]
        for entry in [*document.get("layers", []), document.get("config", {"digest": ""})]
    }
    blobs = {key: content for key, content in volume.blobs.items() if key in referred}
    return Volume(blobs, volume.manifests, volume.tags, volume.gone)


def test_both_can_work_on_one_volume_at_once(tmp_path: Path) -> None:
    require("distribution")
    root = tmp_path / "root"
    with (
        registry.running(tmp_path / "us", root=root, workers=2) as server,
        distribution.running(tmp_path / "peer", root=root) as peer,
        connected(server.url) as ours,
        connected(peer.url) as theirs,
    ):
        volume = Volume()
        us, them = Pusher(ours, volume), Pusher(theirs, volume)
        for round_ in range(5):
            us.artifact("shared", f"ours-{round_}", "latest", annotations={"ours": str(round_)})
            assert_served(theirs, volume)
            them.artifact("shared", f"theirs-{round_}", "latest", annotations={"it": str(round_)})
            assert_served(ours, volume)


def test_a_referrer_that_distribution_pushes_deletes_and_pushes_again_comes_and_goes(
    tmp_path: Path,
) -> None:
    require("distribution")
    root = tmp_path / "root"
    with (
        registry.running(tmp_path / "us", root=root, workers=2) as server,
        distribution.running(tmp_path / "peer", root=root) as peer,
        connected(server.url) as ours,
        connected(peer.url) as theirs,
    ):
        them = Pusher(theirs)
        subject = {"mediaType": OCI_MANIFEST, "digest": digest_of(b"subject"), "size": 7}

        def listed() -> list[str]:
            answer = ours.get(f"/v2/app/referrers/{subject['digest']}")
            return [entry["digest"] for entry in answer.json()["manifests"]]

        for _ in range(3):
            digest = them.artifact("app", subject=subject)
            assert [listed() for _ in range(4)] == [[digest]] * 4
            assert theirs.delete(f"/v2/app/manifests/{digest}").status_code == 202
            assert [listed() for _ in range(4)] == [[]] * 4
