"""Every call to the system fails once, and from then on, in everything a client can ask for.

Whatever fails: what was acknowledged before is there and whole; what is done is done as a whole or
not at all; the answer says what is wrong; the same request succeeds once the trouble is over; and
nothing is left behind.
"""

import contextlib
import errno
import os
import random
import secrets
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from alauda_registry.oci.digest import Digest
from alauda_registry.oci.errors import (
    BlobUnknown,
    BlobUploadUnknown,
    ManifestUnknown,
    RegistryError,
)
from alauda_registry.oci.media_types import OCI_MANIFEST
from alauda_registry.oci.reference import RepositoryName, Tag
from alauda_registry.storage import paths
from alauda_registry.storage.directory import attachment
from alauda_registry.storage.driver import (
    DriverError,
    OutOfSpace,
    ReadOnlyFileSystem,
    Unreachable,
)
from alauda_registry.storage.drivers.filesystem import FilesystemDriver
from alauda_registry.storage.repositories import Registry, Repository
from tests.contract.conftest import files_being_made, open_files_below
from tests.unit.storage.faults import CAN_FAIL, GROWTH, Faults, failing
from tests.unit.storage.pushing import (
    EMPTY,
    NAME,
    descriptor,
    image,
    piece,
    push,
    push_blob,
    put,
    read_blob,
)

pytestmark = [pytest.mark.integration, pytest.mark.anyio, pytest.mark.timeout(300)]

BLOB = bytes(range(256)) * 512
NEW = b"new" * 40_000
OTHER = RepositoryName("team/other")
SUBJECT = descriptor(b"subject", OCI_MANIFEST)
KEPT = image(BLOB)
DOOMED = image(BLOB, annotations={"doomed": "yes"})
REFERRER = image(subject=SUBJECT)
PUSHED = image(BLOB, subject=SUBJECT, annotations={"pushed": "yes"})

MEANING: dict[int, type[DriverError]] = {
    errno.ENOSPC: OutOfSpace,
    errno.EDQUOT: OutOfSpace,
    errno.EROFS: ReadOnlyFileSystem,
}
"""What an error means to a driver; all others that it is out of reach."""


@dataclass
class Trial:
    """A registry in which something is tried.

    Attributes:
        root: Its directory.
        registry: Over a driver whose calls can be made to fail.
        upload: The id of an upload that holds the first half of ``NEW``.
    """

    root: Path
    upload: str
    registry: Registry = field(init=False)

    def __post_init__(self) -> None:
        self.registry = Registry(FilesystemDriver(self.root, openat2=False))

    @property
    def repository(self) -> Repository:
        return self.registry.repository(NAME)

    async def resolve(self, tag: str) -> Digest | None:
        with contextlib.suppress(ManifestUnknown):
            return await self.repository.tags.resolve(Tag(tag))
        return None

    async def has_manifest(self, content: bytes) -> bool:
        try:
            stored = await self.repository.manifests.get(Digest.of(content))
        except ManifestUnknown:
            return False
        assert stored.content == content
        return True

    async def has_blob(self, content: bytes, name: RepositoryName = NAME) -> bool:
        try:
            found = await read_blob(self.registry.repository(name), Digest.of(content))
        except BlobUnknown:
            return False
        assert found == content
        return True

    async def has_upload(self) -> bool:
        try:
            await self.repository.uploads.resume(self.upload)
        except BlobUploadUnknown:
            return False
        return True

    async def referrers(self) -> set[Digest]:
        page = await self.repository.referrers.page(
            Digest.of(b"subject"), artifact_type=None, limit=10
        )
        return {entry.digest for entry in page.descriptors}


@dataclass(frozen=True)
class Request:
    """Something a client asks for.

    Attributes:
        send: Asks for it.
        is_done: Tells whether it was done, and fails when it was done in part.
        is_over: Whether an error says that it was done before.
    """

    send: Callable[[Trial], Awaitable[object]]
    is_done: Callable[[Trial], Awaitable[bool]]
    is_over: tuple[type[RegistryError], ...] = ()


HALF = len(NEW) // 2


async def start_and_commit(trial: Trial) -> None:
    await push_blob(trial.repository, NEW)


async def finish(trial: Trial) -> None:
    """Go on with the upload wherever it is, and begin anew when it is over."""
    uploads = trial.repository.uploads
    try:
        session = await uploads.resume(trial.upload)
    except BlobUploadUnknown:
        session = await uploads.start()
        trial.upload = session.id
    await session.commit(Digest.of(NEW), piece(NEW[session.size :]))


async def append(trial: Trial) -> None:
    uploads = trial.repository.uploads
    try:
        session = await uploads.resume(trial.upload)
    except BlobUploadUnknown:
        session = await uploads.start()
        trial.upload = session.id
    await session.append(piece(NEW[session.size :]))


async def has_appended(trial: Trial) -> bool:
    try:
        session = await trial.repository.uploads.resume(trial.upload)
    except BlobUploadUnknown:
        return False
    data = (trial.root / paths.upload_data(NAME, trial.upload)[1:]).read_bytes()
    assert NEW.startswith(data)
    return session.size == len(NEW)


async def cancel(trial: Trial) -> None:
    await (await trial.repository.uploads.resume(trial.upload)).cancel()


async def pushed(trial: Trial) -> bool:
    digest = Digest.of(PUSHED)
    new = {await trial.resolve(tag) == digest for tag in ("new", "moved")}
    is_there = await trial.has_manifest(PUSHED)
    assert is_there or new == {False}, "a tag points to a manifest that is not there"
    assert (digest in await trial.referrers()) >= is_there
    return is_there and new == {True}


async def is_deleted(trial: Trial) -> bool:
    is_there = await trial.has_manifest(DOOMED)
    tags = [await trial.resolve(tag) for tag in ("doomed", "damned")]
    assert is_there or tags == [None, None]
    names = (await trial.repository.tags.page(limit=None)).names
    assert is_there or not {"doomed", "damned"} & {*names}, "a tag points to nothing"
    return not is_there


async def lists(trial: Trial) -> None:
    assert await trial.referrers() == {Digest.of(REFERRER)}
    page = await trial.repository.tags.page(limit=None)
    assert page.names == ["damned", "doomed", "kept", "moved"]


async def reads(trial: Trial) -> None:
    assert await trial.has_blob(BLOB)
    assert await trial.has_blob(EMPTY)
    assert await trial.resolve("kept") == Digest.of(KEPT)
    assert await trial.has_manifest(KEPT)


async def nothing(trial: Trial) -> bool:
    return True


def negate(question: Callable[[Trial], Awaitable[bool]]) -> Callable[[Trial], Awaitable[bool]]:
    async def answer(trial: Trial) -> bool:
        return not await question(trial)

    return answer


REQUESTS = {
    "push a blob": Request(start_and_commit, lambda trial: trial.has_blob(NEW)),
    "append to an upload": Request(append, has_appended),
    "finish an upload": Request(finish, lambda trial: trial.has_blob(NEW)),
    "cancel an upload": Request(cancel, negate(Trial.has_upload), (BlobUploadUnknown,)),
    "mount a blob": Request(
        lambda trial: trial.registry.repository(OTHER).blobs.mount(Digest.of(BLOB), NAME),
        lambda trial: trial.has_blob(BLOB, OTHER),
    ),
    "push a manifest": Request(lambda trial: put(trial.repository, PUSHED, "new", "moved"), pushed),
    "delete a tag": Request(
        lambda trial: trial.repository.tags.delete(Tag("doomed")),
        negate(lambda trial: is_tag(trial, "doomed")),
        (ManifestUnknown,),
    ),
    "delete a manifest": Request(
        lambda trial: trial.repository.manifests.delete(Digest.of(DOOMED)),
        is_deleted,
        (ManifestUnknown,),
    ),
    "delete a blob": Request(
        lambda trial: trial.registry.repository(OTHER).blobs.delete(Digest.of(EMPTY)),
        negate(lambda trial: trial.has_blob(EMPTY, OTHER)),
        (BlobUnknown,),
    ),
    "expire uploads": Request(
        lambda trial: trial.repository.uploads.expire(timedelta(hours=-1)),
        negate(Trial.has_upload),
    ),
    "list": Request(lists, nothing),
    "pull": Request(reads, nothing),
}
READING = ["list", "pull"]
DELETIONS = ["cancel an upload", "delete a tag", "delete a manifest", "delete a blob"]


async def is_tag(trial: Trial, tag: str) -> bool:
    return await trial.resolve(tag) is not None


async def assert_kept(trial: Trial, name: str) -> None:
    """See that everything is there that was acknowledged before and that nobody deleted."""
    await reads(trial)
    assert await trial.has_blob(EMPTY, OTHER) or name == "delete a blob"
    assert await trial.resolve("moved") in {Digest.of(KEPT), Digest.of(PUSHED)}
    assert Digest.of(REFERRER) in await trial.referrers()
    if name != "delete a manifest":
        assert await trial.has_manifest(DOOMED)
        assert await trial.resolve("damned") == Digest.of(DOOMED)
        assert name == "delete a tag" or await trial.resolve("doomed") == Digest.of(DOOMED)


def lost_files(trial: Trial, faults: Faults) -> list[str]:
    """Return the files that are relied on, but whose bytes the system could not sync.

    An upload that nobody goes on with, because it could not even be deleted, is not.
    """
    files = [path for path in (trial.root / "docker").rglob("*") if path.is_file()]
    return [
        str(path)
        for path in files
        if path.stat().st_ino in faults.lost and path.stat().st_size
        if "_uploads" not in path.parts or trial.upload in path.parts
    ]


@dataclass(frozen=True)
class Template:
    """What was acknowledged before anything failed."""

    root: Path
    upload: str


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """In memory, if possible: thousands of syncs are done for nothing."""
    memory = Path("/dev/shm")
    parent = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=parent) as name:
        yield Path(name)


@pytest.fixture(scope="module")
async def template(folder: Path) -> Template:
    root = folder / "template"
    trial = Trial(root, "")
    repository = trial.repository
    await push(repository, KEPT, "kept", "moved", blobs=(EMPTY, BLOB))
    await put(repository, DOOMED, "doomed", "damned")
    await put(repository, REFERRER)
    await push_blob(trial.registry.repository(OTHER), EMPTY)
    session = await repository.uploads.start()
    await session.append(piece(NEW[:HALF]))
    assert await trial.referrers() == {Digest.of(REFERRER)}
    await trial.registry.aclose()
    return Template(root, session.id)


@dataclass(frozen=True)
class Outcome:
    """How a request ended, of which some calls failed.

    Attributes:
        calls: How many calls could have failed.
        error: What it was answered with; None when it was done.
        struck: The kinds of the calls that failed.
    """

    calls: int
    error: Exception | None
    struck: list[str]


async def attempt(template: Template, folder: Path, name: str, faults: Faults) -> Outcome:
    """Ask once while calls fail, look at what there is, and ask again when they do not."""
    request = REQUESTS[name]
    place = folder / secrets.token_hex(4)
    shutil.copytree(template.root, place)
    trial = Trial(place, template.upload)
    error: Exception | None = None
    try:
        with failing(faults):
            await request.send(trial)
    except (DriverError, RegistryError) as caught:
        error = caught
    later = Trial(place, trial.upload)

    await assert_kept(later, name)
    is_done = await request.is_done(later)
    # Only what is written on the way to an answer need not be durable.
    assert error is not None or "fsync" not in faults.struck or name in READING
    assert is_done or error is not None, "acknowledged, but not there"
    assert error is not None or lost_files(trial, faults) == []
    faults.end()
    try:
        with failing(faults):
            await request.send(trial)
    except request.is_over:
        assert is_done
    later.upload = trial.upload
    for one in (trial, later):
        assert await request.is_done(one)
        await assert_kept(one, name)
        await one.registry.aclose()
    assert lost_files(trial, faults) == []
    faults.release()
    assert open_files_below(place) == []
    left = files_being_made(place)
    assert left == [] or {"unlink", "rmdir", "scandir", "open"} & {*faults.struck}, left
    shutil.rmtree(place)
    return Outcome(faults.count, error, faults.struck)


ALIKE = {errno.EDQUOT, errno.ENOTCONN}
"""Errors of which others are tried that mean the same."""


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("code", CAN_FAIL, ids=errno.errorcode.__getitem__)
@pytest.mark.parametrize("name", REQUESTS)
async def test_whatever_fails_nothing_is_lost_or_half_done_and_it_works_later(
    template: Template,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    code: int,
    *,
    lasting: bool,
    is_long: bool,
) -> None:
    monkeypatch.setattr(attachment, "_LOOK_SECONDS", 0.0)
    stride = 1 if is_long else 12 if lasting or code in ALIKE else 6
    # Not always the same calls, unless all of them.
    number = random.randint(1, stride)
    while True:
        faults = Faults(code, number, lasting=lasting)
        outcome = await attempt(template, folder, name, faults)
        if outcome.calls < number:
            break
        meaning = MEANING.get(code, Unreachable)
        assert outcome.error is None or isinstance(outcome.error, meaning), number
        number += stride


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT], ids=errno.errorcode.__getitem__)
@pytest.mark.parametrize("name", DELETIONS)
async def test_nothing_that_grows_is_needed_to_delete(
    template: Template, folder: Path, name: str, code: int
) -> None:
    number = 1
    while True:
        faults = Faults(code, number, lasting=True, kinds=GROWTH)
        outcome = await attempt(template, folder, name, faults)
        assert outcome.error is None, outcome.struck
        if outcome.calls < number:
            break
        number += 1

    assert number > 1
