"""The store of the image API while the API server behind it is away, comes back, or has forgotten.

It has a control plane of its own, which nobody else may be using then.
"""

import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from alauda_imageapi.cluster.records.store import RecordStore
from alauda_imageapi.machinery.store import Compacted, Event, Key, Stored, StoreUnavailable, Watch
from alauda_registry.kube.apiserver import ApiServerClient
from alauda_registry.kube.rest import ApiServerResources
from tests.parts import control_plane as control_planes, record_store
from tests.parts.control_plane import ControlPlane
from tests.parts.processes import listens, started, state_of, wait_until
from tests.parts.tools import require

pytestmark = [pytest.mark.anyio, pytest.mark.integration, pytest.mark.timeout(180)]


class Plane:
    """A control plane whose API server can be stopped and started again."""

    def __init__(self, plane: ControlPlane, account: Path, parts: ExitStack) -> None:
        self.plane = plane
        self.account = account
        self._parts = parts
        self._pid = plane.apiserver
        command = Path(f"/proc/{self._pid}/cmdline").read_bytes().split(b"\0")
        self._command = [part.decode() for part in command if part]

    @contextmanager
    def away(self) -> Iterator[None]:
        """Have no API server for the length of a block."""
        port = int(self._flag("--secure-port"))
        os.kill(self._pid, signal.SIGKILL)
        # Its main thread may be gone while others still hold the port.
        wait_until(lambda: not listens(port), "the end of kube-apiserver")
        try:
            yield
        finally:
            log = self.plane.directory / "kube-apiserver.again.log"
            process = self._parts.enter_context(
                started(self._command, log=log, ready=lambda: listens(port))
            )
            # Politely, it would take its time to end.
            self._parts.callback(process.kill)
            self._pid = process.pid
            wait_until(self._is_ready, "kube-apiserver")

    @contextmanager
    def frozen(self) -> Iterator[None]:
        os.kill(self._pid, signal.SIGSTOP)
        wait_until(lambda: state_of(self._pid) == "T", "kube-apiserver to stand still")
        try:
            yield
        finally:
            os.kill(self._pid, signal.SIGCONT)

    def compact(self, revision: int) -> None:
        body = {"revision": str(revision), "physical": True}
        etcd = self._flag("--etcd-servers")
        httpx.post(f"{etcd}/v3/kv/compaction", json=body).raise_for_status()

    def _flag(self, name: str) -> str:
        (found,) = (part for part in self._command if part.startswith(f"{name}="))
        return found.partition("=")[2]

    def _is_ready(self) -> bool:
        try:
            return self.plane.api.get("/readyz").is_success
        except httpx.TransportError:
            return False


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    require(*control_planes.PROGRAMS)
    with ExitStack() as parts:
        found = parts.enter_context(control_planes.running(tmp_path_factory.mktemp("plane")))
        yield Plane(found, record_store.install(found), parts)


@pytest.fixture
async def store(plane: Plane) -> AsyncIterator[RecordStore]:
    # Not as patient as it is, so that the tests need not be.
    async with (
        ApiServerClient(plane.account, seconds=6) as client,
        RecordStore.opened(ApiServerResources(client)) as found,
    ):
        await has_trouble(found, expected=False)
        yield found


@pytest.fixture
def key(plane: Plane) -> Key:
    return Key("imagestreams", plane.plane.new_namespace(), "app")


def document(key: Key, **more: Any) -> dict[str, Any]:
    return {"metadata": {"name": key.name, "namespace": key.namespace}, **more}


async def put(store: RecordStore, key: Key, number: int) -> Stored:
    now = await store.get(key)
    if now is None:
        return await store.create(key, document(key, n=number))
    return await store.update(key, document(key, n=number), expected=now.revision)


async def seen(store: RecordStore, key: Key) -> list[int]:
    """Return the revisions that a list has of it."""
    items = (await store.snapshot("imagestreams")).items
    return [item.revision for item in items if item.key == key]


async def take(watch: Watch, count: int) -> list[Event]:
    found: list[Event] = []
    with anyio.fail_after(60):
        while len(found) < count:
            found += await watch.next(5)
    return found


async def has_trouble(store: RecordStore, *, expected: bool) -> None:
    with anyio.fail_after(60):
        while bool(store.trouble) is not expected:  # noqa: ASYNC110 -- no event tells
            await anyio.sleep(0.05)


async def put_in_the_end(store: RecordStore, key: Key, number: int) -> Stored:
    with anyio.fail_after(60):
        while True:
            try:
                return await put(store, key, number)
            except StoreUnavailable:
                await anyio.sleep(0.1)


async def test_api_server_that_hangs_is_no_empty_store(
    plane: Plane, store: RecordStore, key: Key
) -> None:
    made = await put_in_the_end(store, key, 1)
    watch = await store.watch("imagestreams", made.revision)
    with plane.frozen():
        for asked in (store.get(key), store.snapshot("imagestreams"), put(store, key, 2)):
            with pytest.raises(StoreUnavailable, match="the log says why"):
                await asked

    await put_in_the_end(store, key, 3)
    (event, *_) = await take(watch, 1)
    # What was asked for while it hung may have been done all the same.
    assert event.stored.object()["n"] in (2, 3)
    await has_trouble(store, expected=False)


@pytest.mark.parametrize("seconds", [0, 60])
async def test_api_server_that_was_away_is_found_again(
    plane: Plane, store: RecordStore, key: Key, seconds: int, is_long: bool
) -> None:
    if seconds and not is_long:
        pytest.skip("make torture takes the time")
    made = await put_in_the_end(store, key, 1)
    watch = await store.watch("imagestreams", made.revision)
    with plane.away():
        for asked in (store.get(key), store.snapshot("imagestreams"), put(store, key, 2)):
            with pytest.raises(StoreUnavailable):
                await asked
        await has_trouble(store, expected=True)
        await anyio.sleep(seconds)

    await has_trouble(store, expected=False)
    found = await store.get(key)
    assert found is not None
    assert found.object()["n"] == 1
    changed = await put(store, key, 2)
    # It may be that the change came before everything was read again, or that it took too long.
    with suppress(Compacted, StoreUnavailable):
        (event,) = await take(watch, 1)
        assert event.revision == changed.revision
    assert await seen(store, key) == [changed.revision]


async def test_what_happened_unseen_is_not_passed_over(
    plane: Plane, store: RecordStore, key: Key
) -> None:
    """Whoever follows hears of it, or that he has to begin again."""
    made = await put_in_the_end(store, key, 1)
    watch = await store.watch("imagestreams", made.revision)
    with plane.away():
        await has_trouble(store, expected=True)
    async with record_store.opened(plane.account) as other:
        # Before the first has found the API server again, perhaps.
        unseen = await put_in_the_end(other, key, 2)
        later = await put(other, key, 3)
    try:
        events = await take(watch, 2)
    except (Compacted, StoreUnavailable):
        # Where it took long, they hear that nobody knows, and begin again as well.
        await has_trouble(store, expected=False)
        assert await seen(store, key) == [later.revision]
    else:
        assert [event.revision for event in events] == [unseen.revision, later.revision]


async def test_what_etcd_has_compacted_is_gone_for_good(
    plane: Plane, store: RecordStore, key: Key
) -> None:
    first = last = await put_in_the_end(store, key, 1)
    for number in range(5):
        last = await put(store, key, number)
    plane.compact(last.revision)
    with plane.away():
        # It remembers by itself, too.
        pass
    async with record_store.opened(plane.account) as new:
        await has_trouble(new, expected=False)
        with pytest.raises(Compacted):
            await new.snapshot("imagestreams", first.revision)
        with pytest.raises(Compacted):
            # At once, or when the API server has said so.
            await take(await new.watch("imagestreams", first.revision), 1)
        watch = await new.watch("imagestreams", (await new.snapshot("imagestreams")).revision)
        later = await put(new, key, 9)
        (event,) = await take(watch, 1)
    assert event.revision == later.revision
    assert event.previous is not None
    assert event.previous.revision == last.revision


async def test_without_definitions_there_is_no_store(
    plane: Plane, store: RecordStore, key: Key
) -> None:
    """What is taken for an empty store would have everything collected as garbage."""
    await put_in_the_end(store, key, 1)
    groups = ("system:masters", "store.image.alauda.io:restore")
    plane.plane.kubectl(
        *("delete", "crd", "imagestreamrecords.store.image.alauda.io", "--as=somebody"),
        *(f"--as-group={name}" for name in groups),
    )
    # For a moment it still serves what is empty by then.
    records = f"{record_store.RECORDS}/imagestreamrecords"
    wait_until(
        lambda: plane.plane.api.get(records).status_code == httpx.codes.NOT_FOUND, "no definition"
    )

    for asked in (
        store.get(key),
        store.snapshot("imagestreams"),
        store.create(key, document(key)),
    ):
        with pytest.raises(StoreUnavailable):
            await asked

    record_store.install(plane.plane)
    await put_in_the_end(store, key, 2)
    await has_trouble(store, expected=False)
