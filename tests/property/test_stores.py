"""The stores against simple models: pages against lists, an upload against a byte string."""

import asyncio
import contextlib
import tempfile
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from typing_extensions import override

from alauda_registry.oci.digest import Algorithm, Digest
from alauda_registry.oci.errors import (
    BlobUnknown,
    BlobUploadOutOfOrder,
    BlobUploadUnknown,
    DigestInvalid,
    ManifestUnknown,
    NameUnknown,
    SizeInvalid,
)
from alauda_registry.oci.media_types import OCI_MANIFEST
from alauda_registry.oci.reference import RepositoryName, Tag
from alauda_registry.storage.driver import StorageDriver
from alauda_registry.storage.drivers.filesystem import FilesystemDriver
from alauda_registry.storage.drivers.inmemory import InMemoryDriver
from alauda_registry.storage.pages import Page
from alauda_registry.storage.repositories import Registry, Repository
from alauda_registry.storage.uploads import BLOCK, UploadSession
from tests.unit.storage.pushing import EMPTY, NAME, descriptor, image, index, piece, push_blob, put

T = TypeVar("T")

# Few letters, so that many names begin with others.
components = st.from_regex(r"[ab](?:(?:\.|_|__|-)?[ab0]){0,2}", fullmatch=True)
names = st.lists(components, min_size=1, max_size=3).map("/".join)
tags = st.from_regex(r"[aA0_][aA0_.-]{0,3}", fullmatch=True)
sizes = st.integers(1, 5)
places = st.text(alphabet="aAb0_.-/~ü\0", max_size=5)


async def concatenated(read: Callable[[str], Awaitable[Page]], size: int) -> list[str]:
    found: list[str] = []
    more = True
    while more:
        page = await read(found[-1] if found else "")
        assert len(page.names) == size if page.more else len(page.names) <= size
        found += page.names
        more = page.more
    return found


@given(st.sets(tags, min_size=1, max_size=12), sizes)
def test_pages_of_tags_put_together_are_all_tags(pushed: set[str], size: int) -> None:
    async def check() -> list[str]:
        repository = Registry(InMemoryDriver()).repository(NAME)
        await put(repository, index(), *pushed)
        return await concatenated(lambda after: repository.tags.page(after=after, limit=size), size)

    assert asyncio.run(check()) == sorted(pushed)


@given(st.sets(names, max_size=10), sizes)
def test_pages_of_the_catalog_put_together_are_all_names(pushed: set[str], size: int) -> None:
    async def check() -> list[str]:
        registry = await filled(pushed)
        return await concatenated(lambda after: registry.catalog(after=after, limit=size), size)

    assert asyncio.run(check()) == sorted(pushed, key=lambda name: name.split("/"))


@given(st.sets(names, max_size=10), names | places.filter(bool))
def test_a_page_of_the_catalog_begins_behind_any_text(pushed: set[str], after: str) -> None:
    async def check() -> Page:
        return await (await filled(pushed)).catalog(after=after, limit=100)

    expected = [name for name in pushed if name.split("/") > after.split("/")]
    assert asyncio.run(check()).names == sorted(expected, key=lambda name: name.split("/"))


async def filled(pushed: set[str]) -> Registry:
    registry = Registry(InMemoryDriver())
    for name in pushed:
        await put(registry.repository(RepositoryName.parse(name)), index())
    return registry


@given(st.lists(st.sampled_from(["type/a", "type/b"]), max_size=12), sizes, st.booleans())
def test_pages_of_referrers_put_together_are_all_referrers(
    types: list[str], size: int, is_filtered: bool
) -> None:
    subject = descriptor(b"subject", OCI_MANIFEST)
    wanted = "type/b" if is_filtered else None

    async def check() -> tuple[list[str], list[str]]:
        repository = Registry(InMemoryDriver()).repository(NAME)
        await push_blob(repository, EMPTY)
        expected = []
        for number, artifact_type in enumerate(types):
            content = image(
                subject=subject, artifactType=artifact_type, annotations={"n": str(number)}
            )
            digest = await put(repository, content)
            expected += [str(digest)] if wanted in (None, artifact_type) else []
        found: list[str] = []
        after: str | None = ""
        while after is not None:
            page = await repository.referrers.page(
                Digest.of(b"subject"), artifact_type=wanted, after=after, limit=size
            )
            assert len(page.descriptors) == size if page.next else len(page.descriptors) <= size
            found += [str(entry.digest) for entry in page.descriptors]
            after = page.next
        return found, sorted(expected)

    found, expected = asyncio.run(check())
    assert found == expected


contents = st.binary(max_size=40) | st.integers(0, 255).map(lambda byte: bytes([byte]) * BLOCK)
processes = st.integers(0, 1)


class UploadAgainstByteString(RuleBasedStateMachine):
    """Two processes take turns with an upload; not a byte is lost, doubled or invented."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        root = Path(self.directory.name)
        self.drivers: list[StorageDriver] = [FilesystemDriver(root), FilesystemDriver(root)]
        self.processes = [Registry(driver).repository(NAME) for driver in self.drivers]
        self.loop = asyncio.Runner()
        self.upload_id = ""
        self.model = b""

    @override
    def teardown(self) -> None:
        for driver in self.drivers:
            self.run(driver.aclose())
        self.loop.close()
        self.directory.cleanup()

    def run(self, step: Coroutine[Any, Any, T]) -> T:
        return self.loop.run(step)

    def resume(self, process: int) -> UploadSession:
        return self.run(self.processes[process].uploads.resume(self.upload_id))

    @initialize(process=processes, algorithm=st.sampled_from(Algorithm) | st.none())
    def start(self, process: int, algorithm: Algorithm | None) -> None:
        self.upload_id = self.run(self.processes[process].uploads.start(algorithm=algorithm)).id
        self.model = b""

    @rule(process=processes, chunks=st.lists(contents, max_size=3), is_announced=st.booleans())
    def append(self, process: int, chunks: list[bytes], is_announced: bool) -> None:
        content = b"".join(chunks)
        start, length = (len(self.model), len(content)) if is_announced else (None, None)

        size = self.run(self.resume(process).append(piece(*chunks, start=start, length=length)))

        self.model += content
        assert size == len(self.model)

    @rule(process=processes, chunks=st.lists(contents, max_size=3))
    def break_off(self, process: int, chunks: list[bytes]) -> None:
        body = piece(*chunks, error=ConnectionResetError())
        with pytest.raises(ConnectionResetError):
            self.run(self.resume(process).append(body))

        kept = self.resume(process).size - len(self.model)
        assert 0 <= kept <= sum(map(len, chunks))
        self.model += b"".join(chunks)[:kept]

    @rule(process=processes, content=contents, shift=st.integers(-50, 50).filter(bool))
    def append_out_of_order(self, process: int, content: bytes, shift: int) -> None:
        with pytest.raises(BlobUploadOutOfOrder):
            self.run(self.resume(process).append(piece(content, start=len(self.model) + shift)))

    @rule(process=processes, content=contents, surplus=st.integers(-50, 50).filter(bool))
    def append_another_length(self, process: int, content: bytes, surplus: int) -> None:
        with pytest.raises(SizeInvalid):
            self.run(self.resume(process).append(piece(content, length=len(content) + surplus)))

    @rule(process=processes, last=contents, algorithm=st.sampled_from(Algorithm))
    def commit(self, process: int, last: bytes, algorithm: Algorithm) -> None:
        digest = Digest.of(self.model + last, algorithm)

        self.run(self.resume(process).commit(digest, piece(last)))

        assert self.run(self.content(1 - process, digest)) == self.model + last
        self.begin_again(process)

    @rule(process=processes, last=contents, algorithm=st.sampled_from(Algorithm))
    def commit_another_digest(self, process: int, last: bytes, algorithm: Algorithm) -> None:
        digest = Digest.of(self.model + last + b"?", algorithm)
        with pytest.raises(DigestInvalid):
            self.run(self.resume(process).commit(digest, piece(last)))

        with pytest.raises(BlobUnknown):
            self.run(self.processes[process].blobs.stat(digest))
        self.begin_again(process)

    @rule(process=processes)
    def cancel(self, process: int) -> None:
        self.run(self.resume(process).cancel())
        self.begin_again(process)

    @invariant()
    def both_processes_know_how_much_has_arrived(self) -> None:
        if self.upload_id:
            assert [self.resume(process).size for process in (0, 1)] == [len(self.model)] * 2

    def begin_again(self, process: int) -> None:
        with pytest.raises(BlobUploadUnknown):
            self.resume(1 - process)
        self.start(process, None)

    async def content(self, process: int, digest: Digest) -> bytes:
        blob = await self.processes[process].blobs.open(digest)
        try:
            return b"".join([chunk async for chunk in blob.stream()])
        finally:
            blob.close()


MANIFESTS = [index(annotations={"number": str(number)}) for number in range(3)]
few_tags = st.sampled_from(["a", "a-b", "a.b", "ab"])
manifests = st.sampled_from(MANIFESTS)
algorithms = st.sampled_from(Algorithm)


class ManifestsAgainstDictionaries(RuleBasedStateMachine):
    """Two processes push and delete; a dictionary says what has to be there then."""

    def __init__(self) -> None:
        super().__init__()
        driver = InMemoryDriver()
        self.processes = [Registry(driver).repository(NAME) for _ in range(2)]
        self.loop = asyncio.Runner()
        self.tags: dict[str, Digest] = {}
        self.manifests: dict[Digest, bytes] = {}

    @override
    def teardown(self) -> None:
        self.loop.close()

    @rule(process=processes, content=manifests, tagged=st.sets(few_tags), algorithm=algorithms)
    def push(self, process: int, content: bytes, tagged: set[str], algorithm: Algorithm) -> None:
        digest = self.loop.run(put(self.processes[process], content, *tagged, algorithm=algorithm))
        self.manifests[digest] = content
        self.tags |= dict.fromkeys(tagged, digest)

    @rule(process=processes, content=manifests, algorithm=algorithms)
    def delete_manifest(self, process: int, content: bytes, algorithm: Algorithm) -> None:
        digest = Digest.of(content, algorithm)
        was_there = self.manifests.pop(digest, None) is not None
        self.tags = {tag: target for tag, target in self.tags.items() if target != digest}

        assert self.deleted(self.processes[process].manifests.delete(digest)) == was_there

    @rule(process=processes, tag=few_tags)
    def delete_tag(self, process: int, tag: str) -> None:
        was_there = self.tags.pop(tag, None) is not None

        assert self.deleted(self.processes[process].tags.delete(Tag(tag))) == was_there

    @invariant()
    def both_processes_serve_what_was_pushed(self) -> None:
        for repository in self.processes:
            assert self.loop.run(self.served(repository)) == (self.tags, self.manifests)

    def deleted(self, deletion: Coroutine[Any, Any, None]) -> bool:
        try:
            self.loop.run(deletion)
        except ManifestUnknown:
            return False
        return True

    async def served(self, repository: Repository) -> tuple[dict[str, Digest], dict[Digest, bytes]]:
        try:
            names = (await repository.tags.page(limit=None)).names
        except NameUnknown:
            names = []
        tags = {name: await repository.tags.resolve(Tag(name)) for name in names}
        contents = {}
        for digest in (Digest.of(content, name) for content in MANIFESTS for name in Algorithm):
            with contextlib.suppress(ManifestUnknown):
                contents[digest] = (await repository.manifests.get(digest)).content
        return tags, contents


TestUploadAgainstByteString = UploadAgainstByteString.TestCase
TestUploadAgainstByteString.settings = settings(stateful_step_count=15)
TestManifestsAgainstDictionaries = ManifestsAgainstDictionaries.TestCase
