"""What a check of a storage finds: each kind of damage, and nothing else."""

import json
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from typing_extensions import override

from alauda_registry.oci.digest import Algorithm, Digest
from alauda_registry.oci.manifest import Manifest
from alauda_registry.oci.reference import RepositoryName, Tag
from alauda_registry.storage import paths
from alauda_registry.storage.driver import PathNotFound, StorageDriver, Write
from alauda_registry.storage.drivers.filesystem import FilesystemDriver
from alauda_registry.storage.drivers.inmemory import InMemoryDriver
from alauda_registry.storage.fsck.findings import Kind
from alauda_registry.storage.fsck.verdicts import Rules
from alauda_registry.storage.referrers import index_entry
from alauda_registry.storage.repositories import Registry
from tests.contract.conftest import open_fake_bucket, open_files_below
from tests.parts.fake_bucket import FakeBucket
from tests.unit.storage.fsck.checking import (
    APP,
    CHILD,
    IMAGE,
    INDEX,
    LAYERS,
    LONG_IMAGE,
    NO_AGE,
    OLD_IMAGE,
    OTHER,
    REFERRER,
    SHA512_LAYER,
    Checked,
    check,
    fill,
)
from tests.unit.storage.pushing import EMPTY, descriptor, image, push_blob
from tests.unit.storage.watching import WatchedDriver

pytestmark = pytest.mark.anyio


@dataclass(frozen=True)
class Place:
    """A storage, and the way a check reads it."""

    driver: StorageDriver
    root: Path | None

    async def check(self, rules: Rules = NO_AGE) -> Checked:
        return await check(self.driver, self.root, rules=rules)


@pytest.fixture(params=["directory", "filesystem", "inmemory", "bucket"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    root = tmp_path / "root"
    in_memory = request.param in {"inmemory", "bucket"}
    driver: StorageDriver = InMemoryDriver() if in_memory else FilesystemDriver(root)
    await fill(driver)
    if request.param == "bucket":
        # Brought into a bucket from elsewhere, since ours has no histories there. What belongs
        # together is on several pages.
        bucket = FakeBucket(time.time, page_size=7)
        async for info in driver.walk(paths.ROOT):
            bucket.put(info.path[1:], await driver.read(info.path))
        driver = open_fake_bucket(bucket)
    yield Place(driver, root if request.param == "directory" else None)
    await driver.aclose()
    assert open_files_below(root) == []


def of(content: bytes, algorithm: Algorithm = Algorithm.SHA256) -> Digest:
    return Digest.of(content, algorithm)


def data(content: bytes) -> str:
    return paths.blob_data(of(content))


def layer(content: bytes, name: RepositoryName = APP) -> str:
    return paths.blob_link(name, of(content))


def revision(content: bytes, name: RepositoryName = APP) -> str:
    return paths.revision_link(name, of(content))


def tag(name: str, repository: RepositoryName = APP) -> str:
    return paths.tag_current(repository, Tag(name))


def entry(content: bytes, name: RepositoryName = APP) -> str:
    written = index_entry(name, Manifest.parse(content, None), of(content))
    assert written is not None
    return written.path


HISTORY = paths.tag_history(APP, Tag("v1"), of(OLD_IMAGE))
LONG_DIGEST = of(LONG_IMAGE, Algorithm.SHA512)
LONG_LINK = paths.blob_link(OTHER, of(SHA512_LAYER, Algorithm.SHA512))
STRAYS = [
    f"{data(EMPTY)}.3f2504e0.tmp",
    f"{paths.ROOT}/blobs/sha256/zz/{'z' * 64}/data",
    f"{paths.ROOT}/blobs/sha256/00/{'1' * 64}/data",
    f"{paths.ROOT}/stray.tmp",
    f"{paths.REPOSITORIES}/stray",
    f"{paths.REPOSITORIES}/Upper/_layers/sha256/{'1' * 64}/link",
    f"{paths.layers(APP)}/stray.tmp",
    f"{revision(IMAGE)}.3f2504e0.tmp",
    f"{paths.tags(APP)}/.bad/current/link",
    f"{paths.tag(APP, Tag('v1'))}/current/link.tmp",
    f"{paths.REPOSITORIES}/{APP}/_referrers/by-subject/stray",
]

Damage = tuple[dict[str, bytes | None], list[tuple[str, str]]]

ALIAS = str(of(SHA512_LAYER)).encode()
WRONG = str(of(b"another")).encode()

DAMAGES: dict[str, Damage] = {
    "nothing": ({}, []),
    "layer corrupt": ({data(LAYERS[1]): b"rot"}, [("blob-corrupt", data(LAYERS[1]))]),
    "layer empty": ({data(LAYERS[1]): b""}, [("blob-corrupt", data(LAYERS[1]))]),
    "sha512 layer corrupt": (
        {paths.blob_data(of(SHA512_LAYER, Algorithm.SHA512)): b"rot"},
        [("blob-corrupt", paths.blob_data(of(SHA512_LAYER, Algorithm.SHA512)))],
    ),
    "layer data missing": (
        {data(LAYERS[1]): None},
        [("blob-missing", layer(LAYERS[1])), ("manifest-incomplete", revision(IMAGE))],
    ),
    "shared layer data missing": (
        {data(LAYERS[0]): None},
        [
            ("blob-missing", layer(LAYERS[0])),
            ("blob-missing", layer(LAYERS[0], OTHER)),
            ("manifest-incomplete", revision(IMAGE)),
            ("manifest-incomplete", revision(OLD_IMAGE)),
            ("manifest-incomplete", revision(OLD_IMAGE, OTHER)),
        ],
    ),
    "layer link missing": (
        {layer(LAYERS[2]): None},
        [("manifest-incomplete", revision(CHILD)), ("blob-unlinked", data(LAYERS[2]))],
    ),
    "layer link empty": (
        {layer(LAYERS[1]): b""},
        [
            ("link-invalid", layer(LAYERS[1])),
            ("manifest-incomplete", revision(IMAGE)),
            ("blob-unlinked", data(LAYERS[1])),
        ],
    ),
    "layer link with a newline": (
        {layer(LAYERS[0], OTHER): f"{of(LAYERS[0])}\n".encode()},
        [
            ("link-invalid", layer(LAYERS[0], OTHER)),
            ("manifest-incomplete", revision(OLD_IMAGE, OTHER)),
        ],
    ),
    "layer link to another blob": (
        {layer(LAYERS[0], OTHER): str(of(LAYERS[1])).encode()},
        [("link-mismatch", layer(LAYERS[0], OTHER))],
    ),
    "alias of distribution": (
        {LONG_LINK: ALIAS, data(SHA512_LAYER): SHA512_LAYER},
        [("blob-unlinked", paths.blob_data(of(SHA512_LAYER, Algorithm.SHA512)))],
    ),
    "alias to nothing": (
        {LONG_LINK: ALIAS},
        [
            ("blob-missing", LONG_LINK),
            ("manifest-incomplete", paths.revision_link(OTHER, LONG_DIGEST)),
            ("blob-unlinked", paths.blob_data(of(SHA512_LAYER, Algorithm.SHA512))),
        ],
    ),
    "unneeded link without data, new": (
        {layer(b"unneeded"): str(of(b"unneeded")).encode()},
        [("blob-missing", layer(b"unneeded"))],
    ),
    "data without link": (
        {data(b"unlinked"): b"unlinked"},
        [("blob-unlinked", data(b"unlinked"))],
    ),
    "manifest data missing": (
        {data(IMAGE): None},
        [
            ("manifest-missing", revision(IMAGE)),
            ("tag-to-nothing", tag("v1")),
            ("tag-to-nothing", tag("latest")),
        ],
    ),
    "manifest corrupt": ({data(CHILD): CHILD + b" "}, [("manifest-corrupt", revision(CHILD))]),
    "manifest empty": ({data(CHILD): b""}, [("manifest-corrupt", revision(CHILD))]),
    "no manifest": (
        {data(b"text"): b"text", revision(b"text"): str(of(b"text")).encode()},
        [("manifest-invalid", revision(b"text"))],
    ),
    "revision link missing": (
        {revision(INDEX): None},
        [("tag-to-nothing", tag("multi")), ("blob-unlinked", data(INDEX))],
    ),
    "revision link empty": (
        {revision(INDEX): b""},
        [("link-invalid", revision(INDEX)), ("tag-to-nothing", tag("multi"))],
    ),
    "revision link to another": (
        {revision(INDEX): WRONG},
        [("link-mismatch", revision(INDEX))],
    ),
    "revision of the history missing": (
        {revision(OLD_IMAGE): None},
        [("history-to-nothing", HISTORY), ("tag-to-nothing", tag("old"))],
    ),
    "child missing": (
        {revision(CHILD): None},
        [("child-absent", revision(INDEX)), ("blob-unlinked", data(CHILD))],
    ),
    "tag empty": ({tag("multi"): b""}, [("link-invalid", tag("multi"))]),
    "tag to nothing": ({tag("new"): WRONG}, [("tag-to-nothing", tag("new"))]),
    "tag without current": (
        {tag("v1"): None},
        [("tag-empty", paths.tag(APP, Tag("v1")))],
    ),
    "referrer's manifest missing": (
        {revision(REFERRER): None},
        [("referrer-stale", entry(REFERRER)), ("blob-unlinked", data(REFERRER))],
    ),
    "entry missing": ({entry(REFERRER): None}, [("referrer-not-indexed", entry(REFERRER))]),
    "entry missing where the index has it": (
        {
            entry(REFERRER): None,
            paths.referrers_seen(APP): f"{of(IMAGE)}\n{of(REFERRER)}".encode(),
        },
        [("referrer-missing", entry(REFERRER))],
    ),
    "entry torn": (
        {entry(REFERRER): b'{"mediaType": "appli'},
        [("referrer-missing", entry(REFERRER))],
    ),
    "entry that says something else": (
        {entry(REFERRER): json.dumps(descriptor(REFERRER, "text/plain")).encode()},
        [("referrer-missing", entry(REFERRER))],
    ),
    "entry of another's": (
        {
            entry(REFERRER).replace(of(REFERRER).encoded, of(IMAGE).encoded): json.dumps(
                descriptor(IMAGE, "text/plain")
            ).encode()
        },
        [("referrer-stale", entry(REFERRER).replace(of(REFERRER).encoded, of(IMAGE).encoded))],
    ),
    "stray files": (dict.fromkeys(STRAYS, b"stray"), [("stray", path) for path in STRAYS]),
    "scratch": ({"/_driver/scratch/0": b"x"}, [("scratch", "/_driver/scratch/0")]),
    "what is nobody's business": (
        {
            "/scheduler-state.json": b"{}",
            f"{paths.ROOT}/_gc/lease": b"",
            f"{paths.REPOSITORIES}/{APP}/_later/file": b"",
            f"{paths.REPOSITORIES}/{APP}/_referrers/scanned": b"x",
            f"{paths.layers(APP)}/empty": b"",
            f"{revision(IMAGE).removesuffix('link')}signatures/sha256/{'a' * 64}/link": b"x",
        },
        [],
    ),
}  # fmt: skip


async def inflict(driver: StorageDriver, changes: dict[str, bytes | None]) -> None:
    for path, content in changes.items():
        if content is None:
            await driver.delete(path)
        else:
            await driver.publish(Write(path, content))


@pytest.mark.parametrize("name", DAMAGES)
async def test_each_damage_is_found_and_nothing_else(place: Place, name: str) -> None:
    changes, expected = DAMAGES[name]
    await inflict(place.driver, changes)

    checked = await place.check()

    assert checked.found() == sorted(expected)
    assert checked.summary.counts.total() >= len(expected)


async def test_the_summary_counts_everything(place: Place) -> None:
    summary = (await place.check()).summary

    assert summary.repositories == 3
    assert summary.manifests == 9
    # Manifests, layers, configs; the same bytes have different digests by each algorithm.
    assert summary.blobs == 7 + 1 + 4 + 1
    assert summary.broken == 0


async def test_a_corrupt_blob_says_whose_it_is(place: Place) -> None:
    await inflict(place.driver, {data(LAYERS[0]): b"rot", data(b"unlinked"): b"rot"})

    findings = (await place.check()).findings

    said = {f.path: f.message for f in findings if f.kind is Kind.BLOB_CORRUPT}
    assert said[data(LAYERS[0])].endswith(f"its digest; in {APP}, {OTHER}")
    assert said[data(b"unlinked")].endswith("its digest; in no repository")


async def test_without_hashing_a_blob_of_another_size_is_found(place: Place) -> None:
    await inflict(place.driver, {data(LAYERS[1]): b"torn", data(LAYERS[2]): b"x" * len(LAYERS[2])})

    checked = await place.check(Rules(age=timedelta(0), hashing=False))

    assert checked.found() == [("blob-corrupt", data(LAYERS[1]))]
    assert "hashing" not in checked.watcher.phases


async def test_a_manifest_that_states_a_wrong_size_is_only_noted(place: Place) -> None:
    repository = Registry(place.driver).repository(APP)
    wrong = descriptor(LAYERS[0], "type/layer") | {"size": 5}
    content = image(layers=[wrong])
    await repository.manifests.put(Manifest.parse(content, None), of(content))

    for hashing in (True, False):
        checked = await place.check(Rules(age=timedelta(0), hashing=hashing))

        assert checked.found() == [("size-differs", data(LAYERS[0]))]
        assert checked.summary.broken == 0


async def test_layers_that_were_never_pushed_may_be_missing_on_purpose(place: Place) -> None:
    sparse = image(b"never pushed", annotations={"sparse": "yes"})
    options = Rules(age=timedelta(0), allow_sparse=True)
    await inflict(place.driver, {data(sparse): sparse, revision(sparse): str(of(sparse)).encode()})

    assert (await place.check()).found() == [("manifest-incomplete", revision(sparse))]
    assert (await place.check(options)).found() == [("layer-absent", revision(sparse))]


async def test_a_config_may_never_be_missing(place: Place) -> None:
    lost = image(config=b"never pushed")
    await inflict(place.driver, {data(lost): lost, revision(lost): str(of(lost)).encode()})

    checked = await place.check(Rules(age=timedelta(0), allow_sparse=True))

    assert checked.found() == [("manifest-incomplete", revision(lost))]


async def test_a_lost_blob_that_nobody_needs_is_garbage_once_no_push_can_need_it(
    place: Place,
) -> None:
    link = layer(b"collected")
    await inflict(place.driver, {link: str(of(b"collected")).encode()})

    checked = await place.check(Rules(age=timedelta(0), upload_age=timedelta(0)))

    assert ("link-without-data", link) in checked.found()
    assert checked.summary.broken == 0


async def test_what_is_young_may_be_on_its_way(place: Place) -> None:
    await inflict(place.driver, dict.fromkeys([data(b"unlinked"), *STRAYS], b"unlinked"))
    await inflict(place.driver, {data(b"unlinked"): b"unlinked"})

    checked = await place.check(Rules())

    assert checked.found() == []


async def test_uploads_that_nobody_goes_on_with_are_left_over(place: Place) -> None:
    (upload_id,) = await place.driver.names(paths.uploads(APP))

    young = await place.check(Rules(age=timedelta(0)))
    old = await place.check(Rules(age=timedelta(0), upload_age=timedelta(0)))

    assert young.found() == []
    assert old.found() == [("upload-left", paths.upload(APP, upload_id))]


async def test_hashing_goes_on_where_it_was(place: Place) -> None:
    blobs = sorted([of(LAYERS[0]), of(LAYERS[1]), of(LAYERS[2]), of(EMPTY)], key=str)
    await inflict(place.driver, {paths.blob_data(digest): b"rot" for digest in blobs})

    later = await check(place.driver, place.root, after=blobs[1])
    again = await check(place.driver, place.root, after=blobs[1], suspects=blobs[:1])

    def corrupt(digests: list[Digest]) -> list[tuple[str, str]]:
        return sorted(("blob-corrupt", paths.blob_data(digest)) for digest in digests)

    assert later.found() == corrupt(blobs[2:])
    assert again.found() == corrupt([blobs[0], *blobs[2:]])
    assert later.watcher.stretches[-1][0].algorithm is Algorithm.SHA512


async def test_what_goes_while_it_is_looked_at_is_not_broken() -> None:
    """Without locks: the tag is read, and goes before its manifest is looked for."""
    memory = InMemoryDriver()
    await fill(memory)
    await memory.publish(Write(tag("going"), WRONG))

    class Deleting(WatchedDriver):
        @override
        async def meet(self, operation: str, path: str) -> None:
            if path == paths.revision_link(APP, of(b"another")):
                with suppress(PathNotFound):
                    await memory.delete(paths.tag(APP, Tag("going")))

    assert (await check(Deleting(memory), locking=False)).findings == []


async def test_an_empty_storage_is_sound() -> None:
    checked = await check(InMemoryDriver())

    assert checked.findings == []
    assert checked.summary.blobs == 0


async def test_small_repositories_are_judged_together_and_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver = InMemoryDriver()
    registry = Registry(driver)
    names = [RepositoryName(f"team/{letter}") for letter in "abcdefgh"]
    for name in names:
        await push_blob(registry.repository(name), name.encode())
        await driver.delete(paths.blob_data(of(name.encode())))
    expected = [("blob-missing", layer(name.encode(), name)) for name in names]

    for group in (1, 3, 100):
        monkeypatch.setattr("alauda_registry.storage.fsck.shapes.GROUP", group)

        assert (await check(driver)).found() == expected


async def test_odd_things_in_a_directory_are_strays(tmp_path: Path) -> None:
    driver = FilesystemDriver(tmp_path)
    await fill(driver)
    repositories = tmp_path / paths.REPOSITORIES[1:]
    (repositories / "lost+found").mkdir()
    (repositories / "lost+found" / "file").write_bytes(b"")
    (repositories / "team" / "link").symlink_to("app")
    (tmp_path / layer(LAYERS[0])[1:]).with_name("loop").symlink_to("loop")

    found = [finding.path for finding in (await check(driver, tmp_path)).findings]
    await driver.aclose()

    assert sorted(found) == sorted(
        [
            f"{paths.REPOSITORIES}/lost+found",
            f"{paths.REPOSITORIES}/team/link",
            layer(LAYERS[0]).replace("/link", "/loop"),
        ]
    )


def _forbid(path: Path) -> None:
    path.write_bytes(b"sha256:")
    path.chmod(0)


def _lead_elsewhere(path: Path) -> None:
    path.symlink_to("../elsewhere")


@pytest.mark.parametrize(
    "put_there",
    [
        _lead_elsewhere,
        Path.mkdir,
        os.mkfifo,
        pytest.param(
            _forbid, marks=pytest.mark.skipif(os.geteuid() == 0, reason="root may read all")
        ),
    ],
    ids=["symlink", "folder", "pipe", "forbidden"],
)
@pytest.mark.parametrize(
    "link",
    [revision(CHILD), layer(LAYERS[0]), tag("foreign")],
    ids=["manifest", "layer", "tag"],
)
async def test_a_link_that_cannot_be_read_is_broken(
    tmp_path: Path, link: str, put_there: Callable[[Path], None]
) -> None:
    """Its folder can be read, and has nothing else in it."""
    driver = FilesystemDriver(tmp_path)
    await fill(driver)
    (tmp_path / link[1:]).unlink()
    put_there(tmp_path / link[1:])

    checked = await check(driver, tmp_path)
    await driver.aclose()

    assert ("unreadable", link) in checked.found()
    assert checked.summary.broken > 0


async def test_a_check_writes_nothing(tmp_path: Path) -> None:
    driver = FilesystemDriver(tmp_path / "root")
    await fill(driver)
    with suppress(PathNotFound):
        await driver.delete(data(IMAGE))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "root").rglob("*")}

    await check(driver, tmp_path / "root")
    await driver.aclose()

    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "root").rglob("*")} == before
