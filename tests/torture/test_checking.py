"""The look at everything finds what is wrong with a registry: each time, something was broken."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.volumes import digest_of
from tests.parts import registry
from tests.torture.asking import Asker
from tests.torture.checking import Books
from tests.torture.histories import HERE, Claim, History, Key, Thing
from tests.torture.linearizability import Kind
from tests.torture.load import Client
from tests.torture.talking import Line
from tests.torture.uploads import Uploads
from tests.torture.world import World, make_world

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

REPOSITORIES = "docker/registry/v2/repositories"
BLOBS = "docker/registry/v2/blobs/sha256"


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, World, History]:
    """A root that clients pushed to, and what they know of it."""
    chance = random.Random(4)
    world = make_world(chance, repositories=2, tags=2)
    history = History()
    with registry.running(tmp_path_factory.mktemp("pushed")) as server:
        client = Client(0, world, Asker([Line(server.address)], history, chance))
        client.prepare()
        for digest, content in world.blobs.items():
            client.push_blob_whole(world.blob_repositories[0], digest, content)
        for artifact in world.artifacts:
            client.push_manifest(world.repositories[0], artifact, artifact.digest, [])
        client.asker.hang_up()
    assert history.surprises == []
    return server.root, world, history


def a_needed_blob_is_gone(root: Path, world: World) -> None:
    data_of(root, next(iter(world.subject.blobs))).unlink()


def a_blob_has_other_bytes(root: Path, world: World) -> None:
    digest = max(world.blobs, key=lambda digest: len(world.blobs[digest]))
    with data_of(root, digest).open("r+b") as file:
        file.write(b"other bytes")


def a_link_of_a_blob_is_gone(root: Path, world: World) -> None:
    folder = root / REPOSITORIES / world.blob_repositories[0] / "_layers" / "sha256"
    shutil.rmtree(next(folder.iterdir()))


def a_tag_is_gone(root: Path, world: World) -> None:
    shutil.rmtree(tags_of(root, world) / world.tags[0])


def a_tag_lost_its_link(root: Path, world: World) -> None:
    (tags_of(root, world) / world.tags[0] / "current" / "link").unlink()


def a_tag_points_to_another_manifest(root: Path, world: World) -> None:
    link = tags_of(root, world) / world.tags[0] / "current" / "link"
    link.write_text(world.artifacts[0].digest)


def a_tag_is_there_that_nobody_pushed(root: Path, world: World) -> None:
    shutil.copytree(tags_of(root, world) / world.tags[0], tags_of(root, world) / "unknown")


def a_manifest_is_gone(root: Path, world: World) -> None:
    encoded = world.artifacts[0].digest.partition(":")[2]
    shutil.rmtree(tags_of(root, world).with_name("revisions") / "sha256" / encoded)


def a_repository_is_there_that_nobody_pushed_to(root: Path, world: World) -> None:
    shutil.copytree(root / REPOSITORIES / world.repositories[0], root / REPOSITORIES / "unknown")


BREAKAGES = {
    a_needed_blob_is_gone: "dangles",
    a_blob_has_other_bytes: "not what was pushed",
    a_link_of_a_blob_is_gone: "nothing explains",
    a_tag_is_gone: "nothing explains",
    a_tag_lost_its_link: "lists .*, and .* 404",
    a_tag_points_to_another_manifest: "nothing explains",
    a_tag_is_there_that_nobody_pushed: "nothing explains",
    a_manifest_is_gone: "nothing explains",
    a_repository_is_there_that_nobody_pushed_to: "nobody pushed to",
}


def test_it_finds_nothing_wrong_with_what_was_pushed(
    pushed: tuple[Path, World, History], tmp_path: Path
) -> None:
    look(pushed, tmp_path, lambda _root, _world: None)


@pytest.mark.parametrize(
    ("breakage", "finding"), BREAKAGES.items(), ids=[found.__name__ for found in BREAKAGES]
)
def test_it_finds_that(
    breakage: Callable[[Path, World], None],
    finding: str,
    pushed: tuple[Path, World, History],
    tmp_path: Path,
) -> None:
    with pytest.raises(AssertionError, match=finding):
        look(pushed, tmp_path, breakage)


def forget_the_upload(folder: Path) -> None:
    shutil.rmtree(folder)


def lose_bytes_of_the_upload(folder: Path) -> None:
    os.truncate(folder / "data", 2)


def add_bytes_to_the_upload(folder: Path) -> None:
    with (folder / "data").open("ab") as file:
        file.write(b"more")


@pytest.mark.parametrize(
    ("breakage", "finding"),
    [
        (forget_the_upload, "bytes of it were acknowledged"),
        (lose_bytes_of_the_upload, "arrived: 2"),
        (add_bytes_to_the_upload, "arrived: "),
    ],
)
def test_a_client_finds_that_its_upload_is_not_what_was_acknowledged(
    breakage: Callable[[Path], None], finding: str, tmp_path: Path
) -> None:
    chance = random.Random(4)
    content = chance.randbytes(10_000)
    history = History()
    with registry.running(tmp_path) as server:
        asker = Asker([Line(server.address)], history, chance)
        uploads = Uploads(asker)
        uploads.begin("app", digest_of(content), content)
        (upload,) = uploads.open
        uploads.send_piece(upload)
        uploads.ask_status(upload)
        assert history.surprises == []
        breakage(next((server.root / REPOSITORIES / "app" / "_uploads").iterdir()))

        uploads.ask_status(upload)

        asker.hang_up()
    assert finding in history.surprises[0]


def look(
    pushed: tuple[Path, World, History],
    directory: Path,
    breakage: Callable[[Path, World], None],
) -> None:
    """Break a copy of the root, serve it, and hold it against what was pushed."""
    root, world, history = pushed
    copy = shutil.copytree(root, directory / "root")
    breakage(copy, world)
    books = Books(History(), [world.subject.digest], holds=history.check().after)
    with registry.running(directory, root=copy) as server:
        books.balance([server.address])


def tags_of(root: Path, world: World) -> Path:
    return root / REPOSITORIES / world.repositories[0] / "_manifests" / "tags"


def data_of(root: Path, digest: str) -> Path:
    encoded = digest.partition(":")[2]
    return root / BLOBS / encoded[:2] / encoded / "data"


TAG = Key(Thing.TAG, "team/app", "v1")
MANIFEST = Key(Thing.MANIFEST, "team/app", "sha256:b")


@pytest.mark.parametrize(
    ("writes_again", "deleted", "seen_at", "is_explained"),
    [
        pytest.param(False, 0, 7.0, False, id="in a folder a push writes once"),
        pytest.param(True, 0, 7.0, True, id="in a bucket it writes again what a deletion took"),
        pytest.param(True, 0, 11.0, False, id="and never after it was answered"),
        pytest.param(True, -9, 7.0, False, id="nor if the deletion was over before it began"),
        pytest.param(True, None, 7.0, False, id="nor without the deletion of a manifest"),
    ],
)
@pytest.mark.parametrize("is_tag_deleted", [True, False])
def test_a_tag_that_is_gone_and_shows_again(
    *,
    writes_again: bool,
    deleted: float | None,
    seen_at: float,
    is_explained: bool,
    is_tag_deleted: bool,
) -> None:
    """A push from 1 to 9 is seen at 2, gone at 5, and there again; a manifest is deleted."""
    history = History(writes_again=writes_again)
    history.acknowledged("PUT v1", 1, 9, [Claim(TAG, Kind.WRITE, "sha256:a")])
    history.acknowledged("GET v1", 2, 2.5, [Claim(TAG, Kind.READ, "sha256:a")])
    if is_tag_deleted:
        history.acknowledged("DELETE v1", 3, 4, [Claim(TAG, Kind.REMOVE)])
    if deleted is not None:
        history.attempted("PUT b", -99, -98, [Claim(MANIFEST, Kind.WRITE, HERE)])
        claims = [Claim(MANIFEST, Kind.REMOVE), Claim(TAG, Kind.REMOVE_IF, "sha256:b")]
        history.acknowledged("DELETE b", deleted, deleted + 1, claims)
    history.acknowledged("GET v1", 5, 5.1, [Claim(TAG, Kind.READ, None)])
    if seen_at > 9:
        # It is gone when everybody has been answered, and nothing may bring it back.
        history.acknowledged("GET v1", 10, 10.5, [Claim(TAG, Kind.READ, None)])
    history.acknowledged("GET v1", seen_at, seen_at + 0.5, [Claim(TAG, Kind.READ, "sha256:a")])

    assert (history.check().contradictions == {}) is is_explained


def test_a_tag_that_is_gone_when_its_push_was_answered() -> None:
    history = History(writes_again=True)
    history.attempted("PUT b", -99, -98, [Claim(MANIFEST, Kind.WRITE, HERE)])
    history.acknowledged("PUT v1", 1, 9, [Claim(TAG, Kind.WRITE, "sha256:a")])
    history.acknowledged("DELETE b", 2, 3, [Claim(MANIFEST, Kind.REMOVE)])
    history.acknowledged("GET v1", 8, 8.5, [Claim(TAG, Kind.READ, "sha256:a")])
    history.acknowledged("GET v1", 10, 11, [Claim(TAG, Kind.READ, None)])

    assert history.check().contradictions.keys() == {TAG}
