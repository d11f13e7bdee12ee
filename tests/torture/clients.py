"""What clients ask of the registry while its disk is watched, and what they were told.

An operation has begun when its client asked, and is acknowledged when the client was answered:
both are places in the history of effects. What an operation is to bring about is said in claims,
each about one thing that can be asked for by its key.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence, Sized
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Protocol

from alauda_registry.oci.digest import Algorithm, Digest
from alauda_registry.oci.errors import BlobUnknown, ManifestUnknown, RegistryError
from alauda_registry.oci.manifest import Manifest
from alauda_registry.oci.media_types import OCI_LAYER_GZIP, OCI_MANIFEST
from alauda_registry.oci.reference import RepositoryName, Tag
from alauda_registry.storage.driver import Busy, DriverError
from alauda_registry.storage.repositories import Registry, Repository
from alauda_registry.storage.uploads import UploadSession
from tests.unit.storage.pushing import EMPTY, descriptor, image, index, piece

REPOSITORIES = (RepositoryName("a"), RepositoryName("b/c"))
TAGS = (Tag("v1"), Tag("v2"))


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes, and the digest they are pushed by."""

    name: str
    content: bytes
    digest: Digest


def _content(name: str, content: bytes, algorithm: Algorithm = Algorithm.SHA256) -> Content:
    return Content(name, content, Digest.of(content, algorithm))


_SMALL = b"a small layer" * 40
_LARGE = b"".join(Digest.of(bytes([number])).encoded.encode() for number in range(200)) * 6

BLOBS = (
    _content("config", EMPTY),
    _content("small", _SMALL),
    _content("large", _LARGE),
    _content("small by sha512", _SMALL, Algorithm.SHA512),
)
"""One of them is larger than what is read, written and verified in one go."""

_IMAGE = image(_SMALL)
_OTHER = image(_SMALL, _LARGE)
_BY_SHA512 = image(layers=[descriptor(_SMALL, OCI_LAYER_GZIP, Algorithm.SHA512)])

MANIFESTS = (
    _content("image", _IMAGE),
    _content("other image", _OTHER),
    _content("signature", image(EMPTY, subject=descriptor(_IMAGE, OCI_MANIFEST))),
    _content("index", index(_IMAGE, _OTHER)),
    _content("attestation", index(subject=descriptor(_IMAGE, OCI_MANIFEST), artifactType="t/a")),
    _content("image by sha512", _BY_SHA512, Algorithm.SHA512),
)
PARSED = {manifest.digest: Manifest.parse(manifest.content, None) for manifest in MANIFESTS}
REFERRERS = {
    manifest.digest: subject.digest
    for manifest in MANIFESTS
    if (subject := PARSED[manifest.digest].subject) is not None
}
BY_DIGEST = {content.digest: content for content in (*BLOBS, *MANIFESTS)}

_PAUSE = 0.01

Key = tuple[str, ...]
Value = str | None
HERE = "here"
SECRET: Key = ("secret",)


def key(kind: str, repository: str, what: object) -> Key:
    """Return the key of a blob, a manifest or a tag."""
    return kind, repository, str(what)


@dataclass(frozen=True, slots=True)
class Claim:
    """What an operation makes of one thing.

    Attributes:
        key: What it is about.
        value: What there is then; None when it is gone.
        only_if: What it is left alone without; None when it never is.
    """

    key: Key
    value: Value
    only_if: Value = None


class Outcome(Enum):
    """What a client was told."""

    NOTHING = auto()
    DONE = auto()
    REFUSED = auto()


@dataclass(slots=True)
class Operation:
    """Something a client asked for.

    Attributes:
        name: What it is, for people.
        claims: What it brings about.
        begun: How many effects there had been.
        turn: When that was, in the order in which clients asked and were answered.
        ended: How many effects there were when it was over, or None while it is not.
        last_turn: When that was, in the same order.
        outcome: What its client was told at the end.
    """

    name: str
    claims: list[Claim]
    begun: int
    turn: int
    ended: int | None = None
    last_turn: int | None = None
    outcome: Outcome = Outcome.NOTHING


@dataclass(slots=True)
class Upload:
    """An upload session as its client knows it.

    Attributes:
        repository: Where it is.
        id: Its identifier.
        blob: What is to become of it.
        received: How many bytes were acknowledged, and after how many effects.
        over: After how many effects somebody began to end it.
        answered: After how many effects that was acknowledged.
    """

    repository: RepositoryName
    id: str
    blob: Content
    received: list[tuple[int, int]] = field(default_factory=list)
    over: int | None = None
    answered: int | None = None


class Effects(Protocol):
    """Knows what was done so far."""

    @property
    def effects(self) -> Sized:
        """All of it, in order."""


class Processes(Protocol):
    """The same storage in several processes."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> Registry: ...


class Clients:
    """Carries out what the clients of two processes ask for, and remembers it.

    Args:
        registries: The same storage in several processes.
        recorder: Knows what was done to it.

    Attributes:
        operations: What was asked for.
        uploads: The upload sessions that were begun.
        failures: What was answered in a way that no client should see.
        patience: How often one looks whether somebody else did what it waits for.
        bearable: What they may be told by the storage, and then know nothing.
    """

    patience = 2_000
    bearable: tuple[type[DriverError], ...] = (Busy,)

    def __init__(self, registries: Processes, recorder: Effects) -> None:
        self._registries = registries
        self._recorder = recorder
        self.operations: list[Operation] = []
        self.uploads: list[Upload] = []
        self.failures: list[str] = []
        self._turn = 0

    def stores(self, process: int, repository: int) -> Repository:
        """Return the stores of a repository in one of the processes."""
        return self._registries[process % len(self._registries)].repository(
            REPOSITORIES[repository]
        )

    @contextlib.asynccontextmanager
    async def operation(self, name: str, *claims: Claim) -> AsyncIterator[Operation]:
        """Remember what is done in the block, and how it went."""
        self._turn += 1
        operation = Operation(name, list(claims), self._now(), self._turn)
        self.operations.append(operation)
        try:
            yield operation
        except RegistryError:
            operation.outcome = Outcome.REFUSED
        except DriverError as error:
            if not isinstance(error, self.bearable):
                self.failures.append(f"{name}: {error}")
        else:
            operation.outcome = Outcome.DONE
        finally:
            self._turn += 1
            operation.ended, operation.last_turn = self._now(), self._turn

    async def push_blob(self, process: int, repository: int, blob: Content, pieces: int) -> None:
        """Push a blob in one request, or in pieces through one process and the other."""
        async with self._pushing(repository, blob):
            upload = await self._start(process, repository, blob)
            await self._send(process, repository, upload, pieces)

    async def abandon(self, process: int, repository: int, blob: Content, how: str) -> None:
        """Begin to push a blob, and then lose interest, cancel or lose the connection."""
        async with self.operation(f"begin to push {blob.name}"):
            upload = await self._start(process, repository, blob)
            session = await self._resume(process, upload)
            half = len(blob.content) // 2
            body = piece(blob.content[:half])
            if how == "break off":
                body = piece(blob.content[:half], error=ConnectionResetError())
            with contextlib.suppress(ConnectionResetError):
                size = await session.append(body)
                upload.received.append((self._now(), size))
            if how == "cancel":
                upload.over = self._now()
                await (await self._resume(process + 1, upload)).cancel()
                upload.answered = self._now()

    async def finish(self, process: int, repository: int) -> None:
        """Go on with an upload that somebody left."""
        left = [upload for upload in self.uploads if upload.over is None]
        upload = next((up for up in left if up.repository == REPOSITORIES[repository]), None)
        if upload is not None:
            async with self._pushing(repository, upload.blob):
                await self._send(process, repository, upload, 1)

    async def mount(self, process: int, repository: int, blob: Content) -> None:
        """Mount a blob from the other repository, or push it when it is not there."""
        source = REPOSITORIES[1 - repository]
        async with self._pushing(repository, blob) as operation:
            stores = self.stores(process, repository)
            if not await stores.blobs.mount(blob.digest, source):
                operation.claims.clear()

    async def push_manifest(
        self, process: int, repository: int, manifest: Content, tags: Sequence[Tag], *, whole: bool
    ) -> None:
        """Push a manifest; when it is to be whole, with the blobs that are not there.

        Otherwise the client waits a while for others to push them.
        """
        stores = self.stores(process, repository)
        parsed = PARSED[manifest.digest]
        for needed in parsed.required_blobs():
            for _ in range(self.patience):
                try:
                    await stores.blobs.stat(needed.digest)
                    break
                except BlobUnknown:
                    if whole:
                        await self.push_blob(process, repository, BY_DIGEST[needed.digest], 0)
                        break
                    await asyncio.sleep(_PAUSE)
        claims = [Claim(self._key("tag", repository, tag), str(manifest.digest)) for tag in tags]
        claims.append(Claim(self._key("manifest", repository, manifest.digest), HERE))
        async with self.operation(f"push {manifest.name} as {tags} to {repository}", *claims):
            await stores.manifests.put(parsed, manifest.digest, tags)

    async def confirm(self, process: int, repository: int, tag: Tag) -> None:
        """Wait a while for somebody to move a tag, and then push what it points to once more."""
        before = await self._target(process, repository, tag)
        now = before
        for _ in range(self.patience):
            now = await self._target(process, repository, tag)
            if now != before:
                break
            await asyncio.sleep(_PAUSE)
        if now is not None:
            await self.push_manifest(process, repository, BY_DIGEST[now], [tag], whole=True)

    async def _target(self, process: int, repository: int, tag: Tag) -> Digest | None:
        try:
            return await self.stores(process, repository).tags.target(tag)
        except ManifestUnknown:
            return None

    async def delete_tag(self, process: int, repository: int, tag: Tag) -> None:
        """Delete a tag."""
        claim = Claim(self._key("tag", repository, tag), None)
        async with self.operation(f"delete {tag} of {repository}", claim):
            await self.stores(process, repository).tags.delete(tag)

    async def delete_manifest(self, process: int, repository: int, manifest: Content) -> None:
        """Delete a manifest and the tags that point to it."""
        claims = [
            Claim(self._key("tag", repository, tag), None, str(manifest.digest)) for tag in TAGS
        ]
        claims.append(Claim(self._key("manifest", repository, manifest.digest), None))
        async with self.operation(f"delete {manifest.name} of {repository}", *claims):
            await self.stores(process, repository).manifests.delete(manifest.digest)

    async def delete_blob(self, process: int, repository: int, blob: Content) -> None:
        """Delete a blob."""
        claim = Claim(self._key("blob", repository, blob.digest), None)
        async with self.operation(f"delete {blob.name} of {repository}", claim):
            await self.stores(process, repository).blobs.delete(blob.digest)

    async def list_referrers(self, process: int, repository: int) -> None:
        """Ask who points at the image: the index may be brought up to date for that."""
        async with self.operation("list referrers"):
            await self.stores(process, repository).referrers.page(
                MANIFESTS[0].digest, artifact_type=None, limit=100
            )

    async def learn_secret(self, process: int) -> None:
        """Start up to where a process knows what upload locations are signed with."""
        async with self.operation("learn the secret", Claim(SECRET, None)) as operation:
            secret = await self._registries[process % len(self._registries)].secret()
            operation.claims[:] = [Claim(SECRET, secret.hex())]

    async def wait(self, seconds: float) -> None:
        """Do nothing, so that time stamps settle."""
        await asyncio.sleep(seconds)

    def _now(self) -> int:
        return len(self._recorder.effects)

    def _key(self, kind: str, repository: int, what: object) -> Key:
        return key(kind, REPOSITORIES[repository], what)

    def _pushing(
        self, repository: int, blob: Content
    ) -> contextlib.AbstractAsyncContextManager[Operation]:
        claim = Claim(self._key("blob", repository, blob.digest), HERE)
        return self.operation(f"push {blob.name} to {repository}", claim)

    async def _start(self, process: int, repository: int, blob: Content) -> Upload:
        stores = self.stores(process, repository)
        session = await stores.uploads.start(algorithm=blob.digest.algorithm)
        upload = Upload(stores.name, session.id, blob)
        self.uploads.append(upload)
        return upload

    async def _resume(self, process: int, upload: Upload) -> UploadSession:
        stores = self._registries[process % len(self._registries)].repository(upload.repository)
        return await stores.uploads.resume(upload.id)

    async def _send(self, process: int, repository: int, upload: Upload, pieces: int) -> None:
        """Send what the session has not got yet: so much in each piece, the rest at the end."""
        content = upload.blob.content
        for number in range(pieces):
            session = await self._resume(process + number, upload)
            rest = content[session.size :]
            size = await session.append(piece(rest[: len(rest) // 2], start=session.size))
            upload.received.append((self._now(), size))
        session = await self._resume(process + pieces, upload)
        upload.over = self._now()
        rest = content[session.size :]
        await session.commit(upload.blob.digest, piece(rest) if rest else None)
        upload.answered = self._now()
