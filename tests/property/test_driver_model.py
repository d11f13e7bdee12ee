"""Drives a real driver and a plain dictionary through the same random history.

What can't be told apart must be the same: after every step the driver holds what the
dictionary holds, lists it in the same order, and refuses what the dictionary has not.
"""

import asyncio
import os
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from typing_extensions import override

from alauda_registry.storage.driver import FileInfo, Move, PathNotFound, StorageDriver, Write
from alauda_registry.storage.drivers.filesystem import FilesystemDriver
from alauda_registry.storage.drivers.inmemory import InMemoryDriver

T = TypeVar("T")

# A name that ends in "_" is a file and any other a directory, so that no path is ever both.
directory_names = st.sampled_from(
    ["a", "a-", "a-b", "a.b", "a0", "aa", "A", "_a", "0.1.2", "0.1.20"]
)
file_names = st.sampled_from(["_", "a_", "a-_", "a._", "a-b_", "0_", "aa_", "-_"])
directories = st.lists(directory_names, min_size=1, max_size=3).map(
    lambda names: "/" + "/".join(names)
)
files = st.builds(lambda directory, name: f"{directory}/{name}", directories, file_names)
paths = directories | files
contents = st.binary(max_size=16) | st.integers(0, 255).map(lambda byte: bytes([byte]) * 70_000)


class DriverAgainstModel(RuleBasedStateMachine):
    """The history of one driver; the classes below say of which."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.Runner()
        self.model: dict[str, bytes] = {}
        self.driver = self.open_driver()

    def open_driver(self) -> StorageDriver:
        raise NotImplementedError

    @override
    def teardown(self) -> None:
        self.run(self.driver.aclose())
        self.loop.close()

    def run(self, step: Coroutine[Any, Any, T]) -> T:
        return self.loop.run(step)

    def below(self, path: str) -> list[str]:
        return sorted(known for known in self.model if known.startswith(f"{path}/"))

    async def walked(self, path: str, start_after: str = "") -> list[FileInfo]:
        return [info async for info in self.driver.walk(path, start_after=start_after)]

    @rule(path=files, content=contents, durable=st.booleans())
    def write(self, path: str, content: bytes, *, durable: bool) -> None:
        self.run(self.driver.publish(Write(path, content, durable=durable)))
        self.model[path] = content

    @rule(path=files, chunks=st.lists(contents, max_size=3), create=st.booleans())
    def append(self, path: str, chunks: list[bytes], *, create: bool) -> None:
        async def append() -> int:
            writer = await self.driver.append(path, create=create, wait=0)
            offset = writer.offset
            await writer.write(chunks)
            await writer.close()
            return offset

        if create or path in self.model:
            content = self.model.get(path, b"")
            assert self.run(append()) == len(content)
            self.model[path] = content + b"".join(chunks)
        else:
            with pytest.raises(PathNotFound):
                self.run(append())

    @precondition(lambda self: self.model)
    @rule(data=st.data(), size=st.integers(0, 80_000))
    def truncate(self, data: st.DataObject, size: int) -> None:
        path = data.draw(st.sampled_from(sorted(self.model)))
        size = min(size, len(self.model[path]))

        async def truncate() -> None:
            writer = await self.driver.append(path, create=False, wait=0)
            await writer.truncate(size)
            await writer.close()

        self.run(truncate())
        self.model[path] = self.model[path][:size]

    @rule(source=files, to=files)
    def move(self, source: str, to: str) -> None:
        if source in self.model:
            self.run(self.driver.publish(Move(source, to)))
            self.model[to] = self.model.pop(source)
        else:
            with pytest.raises(PathNotFound):
                self.run(self.driver.publish(Move(source, to)))

    @precondition(lambda self: self.model)
    @rule(data=st.data(), to=files)
    def move_what_is_there(self, data: st.DataObject, to: str) -> None:
        self.move(data.draw(st.sampled_from(sorted(self.model))), to)

    @rule(path=paths, durable=st.booleans())
    def delete(self, path: str, *, durable: bool) -> None:
        doomed = [known for known in [path, *self.below(path)] if known in self.model]
        try:
            self.run(self.driver.delete(path, durable=durable))
        except PathNotFound:
            assert doomed == []
        # A directory that is empty now may be there or not: drivers differ in that.
        for known in doomed:
            del self.model[known]

    @rule(path=paths)
    def names(self, path: str) -> None:
        expected = {known[len(path) + 1 :].partition("/")[0] for known in self.below(path)}
        try:
            found = self.run(self.driver.names(path))
        except PathNotFound:
            found = []
        # As above: nothing but empty directories may be there beyond what is expected.
        assert found == sorted(found)
        assert set(found) >= expected
        assert [self.run(self.walked(f"{path}/{name}")) for name in set(found) - expected] == [
            [] for _ in set(found) - expected
        ]

    @rule(path=directories, start_after=st.just("") | paths)
    def walk(self, path: str, start_after: str) -> None:
        assert [info.path for info in self.run(self.walked(path, start_after))] == [
            known for known in self.below(path) if known > start_after
        ]

    @rule(path=paths)
    def stat(self, path: str) -> None:
        if path in self.model:
            assert self.run(self.driver.stat(path)).size == len(self.model[path])
        else:
            with pytest.raises(PathNotFound):
                self.run(self.driver.stat(path))

    @invariant()
    def the_driver_holds_what_the_model_holds(self) -> None:
        tops = sorted({"/" + path.split("/")[1] for path in self.model})
        found = {
            info.path: (info.size, self.run(self.driver.read(info.path)))
            for top in tops
            for info in self.run(self.walked(top))
        }
        assert found == {path: (len(held), held) for path, held in self.model.items()}


class FilesystemAgainstModel(DriverAgainstModel):
    @override
    def open_driver(self) -> StorageDriver:
        # In memory where there is such a directory: every step syncs, and disks are slow at it.
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.directory = tempfile.TemporaryDirectory(dir=memory)
        return FilesystemDriver(Path(self.directory.name))

    @override
    def teardown(self) -> None:
        super().teardown()
        self.directory.cleanup()


class InMemoryAgainstModel(DriverAgainstModel):
    @override
    def open_driver(self) -> StorageDriver:
        return InMemoryDriver()


TestFilesystemAgainstModel = FilesystemAgainstModel.TestCase
TestInMemoryAgainstModel = InMemoryAgainstModel.TestCase
TestFilesystemAgainstModel.settings = TestInMemoryAgainstModel.settings = settings(
    stateful_step_count=20
)
