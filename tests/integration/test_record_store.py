"""The store of the image API in a real cluster: what its records promise to each other's replicas,
to the people of the cluster, and to namespaces.
"""

import asyncio
import json
import random
import ssl
import zlib
from base64 import b64decode
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from alauda_imageapi.cluster.records import encoding
from alauda_imageapi.cluster.records.store import RecordStore
from alauda_imageapi.cluster.records.watch_cache import RecordLimits
from alauda_imageapi.machinery.store import (
    Changed,
    Event,
    EventType,
    Exists,
    Key,
    NamespaceGone,
    ObjectTooLarge,
    Stored,
    StoreUnavailable,
    Watch,
)
from tests.parts import record_store
from tests.parts.control_plane import ControlPlane
from tests.parts.processes import PartFailed
from tests.parts.record_store import RECORDS

pytestmark = [pytest.mark.anyio, pytest.mark.integration, pytest.mark.timeout(120)]

DIGEST = "sha256:" + "3f" * 32


@pytest.fixture
async def store(image_api_account: Path) -> AsyncIterator[RecordStore]:
    async with record_store.opened(image_api_account) as found:
        yield found


@pytest.fixture
async def other(image_api_account: Path) -> AsyncIterator[RecordStore]:
    """Another replica's."""
    async with record_store.opened(image_api_account) as found:
        yield found


def stream(namespace: str, name: str = "app") -> Key:
    return Key("imagestreams", namespace, name)


def document(key: Key, **more: Any) -> dict[str, Any]:
    metadata = {"name": key.name, "uid": "0b5c", **more.pop("metadata", {})}
    if key.namespace:
        metadata["namespace"] = key.namespace
    return {"kind": "Any", "apiVersion": "image.alauda.io/v1", "metadata": metadata, **more}


async def take(watch: Watch, count: int) -> list[Event]:
    found: list[Event] = []
    async with asyncio.timeout(20):
        while len(found) < count:
            found += await watch.next(5)
    return found


async def revision_of(store: RecordStore) -> int:
    return (await store.snapshot("imagestreams")).revision


async def test_a_record_says_nothing_but_what_it_has_to(
    store: RecordStore, control_plane: ControlPlane, namespace: str
) -> None:
    key = stream(namespace, "my_app")
    metadata = {
        "labels": {"app.kubernetes.io/instance": "argo"},
        "annotations": {"a": "b"},
        "ownerReferences": [{"apiVersion": "v1", "kind": "Secret", "name": "x", "uid": "1"}],
        "finalizers": ["example.org/waits"],
    }
    await store.create(key, document(key, metadata=metadata))

    path = f"{RECORDS}/namespaces/{namespace}/imagestreamrecords/my--app"
    record = control_plane.api.get(path).raise_for_status().json()

    assert record["object"] == "my_app"
    assert record["schema"] == 1
    assert record["metadata"]["finalizers"] == ["store.image.alauda.io/finalizers"]
    assert not {"labels", "annotations", "ownerReferences"} & set(record["metadata"])
    assert record["metadata"]["uid"] != "0b5c"
    kept = json.loads(zlib.decompress(b64decode(record["payload"])))
    assert kept == document(key, metadata=metadata)


async def test_finalizers_hold_the_record_and_let_go_of_it(
    store: RecordStore, control_plane: ControlPlane, namespace: str
) -> None:
    key = stream(namespace)
    made = await store.create(key, document(key, metadata={"finalizers": ["example.org/waits"]}))
    watch = await store.watch("imagestreams", made.revision)

    gone = await store.delete(key, expected=made.revision)

    assert await store.get(key) is None
    events = await take(watch, 2)
    assert [event.type for event in events] == [EventType.MODIFIED, EventType.DELETED]
    # Where the event takes long, a later revision is told.
    assert made.revision < events[1].revision <= gone.revision


async def test_namespace_takes_its_records_along(
    store: RecordStore, control_plane: ControlPlane, namespace: str
) -> None:
    key = stream(namespace)
    made = await store.create(key, document(key, n=1))
    watch = await store.watch("imagestreams", made.revision)

    control_plane.kubectl("delete", "namespace", namespace, "--wait")

    (event,) = await take(watch, 1)
    assert (event.type, event.stored.key) == (EventType.DELETED, key)
    assert event.stored.object()["n"] == 1
    assert await store.get(key) is None


async def test_nothing_is_made_in_a_namespace_that_is_not_there(store: RecordStore) -> None:
    key = stream("not-there")

    with pytest.raises(NamespaceGone):
        await store.create(key, document(key))


@pytest.mark.parametrize("verb", ["create", "update", "patch", "delete", "deletecollection"])
async def test_nobody_else_writes_records(
    store: RecordStore, control_plane: ControlPlane, namespace: str, verb: str
) -> None:
    """Not even the cluster's administrator."""
    key = stream(namespace)
    made = await store.create(key, document(key))
    records = f"{RECORDS}/namespaces/{namespace}/imagestreamrecords"
    record = control_plane.api.get(f"{records}/app").raise_for_status().json()

    api = control_plane.api
    if verb == "create":
        metadata = {"name": "other", "namespace": namespace}
        answer = api.post(records, json={**record, "metadata": metadata, "object": "other"})
    elif verb == "update":
        answer = api.put(f"{records}/app", json={**record, "payload": "AA=="})
    elif verb == "patch":
        patch = {"Content-Type": "application/merge-patch+json"}
        labels = json.dumps({"metadata": {"labels": {"a": "b"}}})
        answer = api.patch(f"{records}/app", content=labels, headers=patch)
    elif verb == "delete":
        answer = api.delete(f"{records}/app")
    else:
        answer = api.delete(records)

    assert answer.status_code == httpx.codes.FORBIDDEN, answer.text
    assert "written by the image API server alone" in answer.json()["message"]
    found = await store.get(key)
    assert found is not None
    assert found.revision == made.revision


def acting_as(user: str) -> dict[str, str]:
    """Be somebody whom RBAC lets do everything."""
    return {"Impersonate-User": user, "Impersonate-Group": "system:masters"}


@pytest.mark.parametrize("user", ["kube-admin", "system:kube-controller-manager"])
async def test_whoever_empties_an_ending_namespace_may_delete_records(
    store: RecordStore, control_plane: ControlPlane, user: str
) -> None:
    """By whatever account, and nothing else."""
    namespace = control_plane.new_namespace("ending")
    key, api = stream(namespace), control_plane.api
    made = await store.create(key, document(key, metadata={"finalizers": ["example.org/waits"]}))
    record = f"{RECORDS}/namespaces/{namespace}/imagestreamrecords/app"
    is_controller = user.startswith("system:")
    early = api.delete(record, headers=acting_as(user), params={"dryRun": "All"})

    api.delete(f"/api/v1/namespaces/{namespace}").raise_for_status()
    await wait_for(
        lambda: api.get(f"/api/v1/namespaces/{namespace}").json()["status"]["phase"] != "Active"
    )
    await wait_for(lambda: api.delete(record, headers=acting_as(user)).is_success)
    now = api.get(record).raise_for_status().json()
    stolen = {**now, "payload": "AA=="}
    freed = {**now, "metadata": {**now["metadata"], "finalizers": []}}
    changed = [api.put(record, json=put, headers=acting_as(user)) for put in (stolen, freed)]

    assert early.is_success is is_controller
    assert [answer.status_code for answer in changed] == [403, 403]
    found = await store.get(key)
    assert found is not None
    await store.delete(key, expected=found.revision)
    assert found.revision > made.revision


async def test_a_record_of_no_namespace_is_deleted_by_no_controller(
    store: RecordStore, control_plane: ControlPlane
) -> None:
    key = Key("images", "", f"sha256:{random.randbytes(32).hex()}")
    made = await store.create(key, document(key))
    path = f"{RECORDS}/imagerecords/{key.name.replace(':', '-')}"

    for user in ("system:kube-controller-manager", "kube-admin"):
        answer = control_plane.api.delete(path, headers=acting_as(user))
        assert answer.status_code == httpx.codes.FORBIDDEN, answer.text

    await store.delete(key, expected=made.revision)


@pytest.mark.parametrize("policy", ["Foreground", "Orphan"])
async def test_the_garbage_collector_lets_go_of_a_record(
    store: RecordStore, control_plane: ControlPlane, namespace: str, policy: str
) -> None:
    """Those who may restore may also delete, in whatever way."""
    key = stream(namespace)
    await store.create(key, document(key))
    record = f"{RECORDS}/namespaces/{namespace}/imagestreamrecords/app"
    groups = ("system:masters", "store.image.alauda.io:restore")
    headers = [("Impersonate-User", "restorer"), *(("Impersonate-Group", name) for name in groups)]

    control_plane.api.request(
        "DELETE", record, json={"propagationPolicy": policy}, headers=headers
    ).raise_for_status()

    await wait_for(lambda: control_plane.api.get(record).status_code == 404)
    assert await store.get(key) is None


async def wait_for(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 -- it is another process that changes
            await asyncio.sleep(0.2)


async def test_kubectl_edit_says_what_to_do(
    store: RecordStore, control_plane: ControlPlane, namespace: str
) -> None:
    key = stream(namespace)
    await store.create(key, document(key))

    with pytest.raises(PartFailed, match=r"work on images\.image\.alauda\.io"):
        control_plane.kubectl(
            *("patch", "imagestreamrecord", "app", "--namespace", namespace),
            *("--type=merge", "--patch", '{"object":"other"}'),
        )


@pytest.mark.parametrize("name", ["imagerecords", "imagestreamrecords"])
async def test_definition_of_records_is_not_deleted(
    control_plane: ControlPlane, image_api_account: Path, name: str
) -> None:
    with pytest.raises(PartFailed, match="all images and image streams"):
        control_plane.kubectl("delete", "crd", f"{name}.store.image.alauda.io")


async def test_backup_is_restored_by_those_who_may(
    store: RecordStore, control_plane: ControlPlane, namespace: str
) -> None:
    """And what comes back is the same object, although its record is another."""
    key = stream(namespace)
    made = await store.create(key, document(key, n=1))
    saved = control_plane.kubectl(
        *("get", "imagestreamrecords", "--namespace", namespace, "--output=json")
    )
    gone = await store.delete(key, expected=made.revision)
    watch = await store.watch("imagestreams", gone.revision)
    groups = ("system:masters", "store.image.alauda.io:restore")

    control_plane.kubectl(
        *("create", "--filename=-", "--as=restorer", *(f"--as-group={name}" for name in groups)),
        stdin=saved,
    )

    (event,) = await take(watch, 1)
    assert event.type is EventType.ADDED
    found = await store.get(key)
    assert found is not None
    assert found.object()["metadata"]["uid"] == "0b5c"
    assert found.object()["n"] == 1
    assert found.revision == event.revision > made.revision


async def test_an_image_with_a_config_of_two_and_a_half_mebibytes_is_kept(
    store: RecordStore,
) -> None:
    key = Key("images", "", f"sha256:{random.randbytes(32).hex()}")
    config = json.dumps(_config(2.5 * 2**20))
    made = await store.create(key, document(key, dockerImageConfig=config))

    found = await store.get(key)

    assert len(config) >= 2.5 * 2**20
    assert found is not None
    assert found.object()["dockerImageConfig"] == config
    await store.delete(key, expected=made.revision)


async def test_what_does_not_fit_is_too_large(store: RecordStore, namespace: str) -> None:
    key = stream(namespace)
    made = await store.create(key, document(key))
    # Nothing compresses this.
    noise = random.randbytes(600_000).hex()

    with pytest.raises(ObjectTooLarge, match="compressed"):
        await store.update(key, document(key, noise=noise * 3), expected=made.revision)
    with pytest.raises(ObjectTooLarge, match="compressed"):
        await store.create(stream(namespace, "other"), document(key, noise=noise * 3))
    found = await store.get(key)
    assert found is not None
    assert found.revision == made.revision


async def test_the_largest_payload_fits_into_etcd(store: RecordStore, namespace: str) -> None:
    """The limit is ours to know: what passes it, the API server takes."""
    key, letters = stream(namespace), random.randbytes(2**20).hex()
    low, high = 0, len(letters)
    while high - low > 1:
        middle = (low + high) // 2
        payload = encoding.pack(encoding.text(document(key, noise=letters[:middle])))
        if len(payload) > RecordLimits().record_bytes:
            high = middle
        else:
            low = middle

    await store.create(key, document(key, noise=letters[:low]))

    with pytest.raises(ObjectTooLarge, match="1556480 are kept"):
        await store.create(key, document(key, noise=letters[:high]))


async def test_names_that_look_alike_are_different_objects(
    store: RecordStore, namespace: str
) -> None:
    names = ["a_b", "a--b", "a-b", "a.b", "A_B", "a__b", "a----b", "a_-b", "a---b", "x", "x" * 300]
    names += ["..", "a/b", "%2F", "ä", "a" * 65536]
    for name in names:
        key = stream(namespace, name)
        await store.create(key, document(key, mine=name))
        with pytest.raises(Exists):
            await store.create(key, document(key))

    items = (await store.snapshot("imagestreams")).items
    found = {item.key.name: item.object() for item in items if item.key.namespace == namespace}

    assert sorted(found) == sorted(names)
    assert all(found[name]["mine"] == name for name in names)


async def test_replicas_see_one_order(
    store: RecordStore, other: RecordStore, namespace: str
) -> None:
    """Whoever writes, on whichever replica: each of them tells of the same changes in one order."""
    keys = [stream(namespace, f"app-{number}") for number in range(4)]
    for key in keys:
        await store.create(key, document(key, seen=[]))
    start = await revision_of(store)
    watches = [await replica.watch("imagestreams", start) for replica in (store, other)]

    async def add(replica: RecordStore, key: Key, mark: str) -> None:
        while True:
            now = await replica.get(key)
            assert now is not None
            seen = [*now.object()["seen"], mark]
            try:
                await replica.update(key, document(key, seen=seen), expected=now.revision)
            except Changed:
                continue
            return

    await asyncio.gather(
        *(
            add(replica, key, f"{name}{number}")
            for name, replica in (("a", store), ("b", other))
            for key in keys
            for number in range(5)
        )
    )

    events = [await take(watch, 40) for watch in watches]
    told = [[(event.revision, event.stored.key) for event in each] for each in events]
    assert told[0] == told[1] == sorted(told[0], key=lambda item: item[0])
    for replica in (store, other):
        for key in keys:
            found = await replica.get(key)
            assert found is not None
            assert len(set(found.object()["seen"])) == 10
    for before, event in _pairs(events[0]):
        assert event.previous is not None
        assert event.previous.revision == before.revision


def _pairs(events: list[Event]) -> list[tuple[Stored, Event]]:
    """Each change of an object together with the state that the change before it led to."""
    latest: dict[Key, Stored] = {}
    found = []
    for event in events:
        if event.stored.key in latest:
            found.append((latest[event.stored.key], event))
        latest[event.stored.key] = event.stored
    return found


async def test_list_of_one_replica_goes_on_at_another(
    store: RecordStore, other: RecordStore, namespace: str
) -> None:
    for number in range(5):
        key = stream(namespace, f"app-{number}")
        await store.create(key, document(key, n=0))
    first = await store.snapshot("imagestreams")
    for number in range(5):
        key = stream(namespace, f"app-{number}")
        now = await store.get(key)
        assert now is not None
        await store.update(key, document(key, n=1), expected=now.revision)

    second = await other.snapshot("imagestreams", first.revision)

    assert second.revision == first.revision
    assert [item.body for item in second.items] == [item.body for item in first.items]


async def test_a_watch_outlives_the_replica_that_had_it(
    store: RecordStore, image_api_account: Path, namespace: str
) -> None:
    """A client goes on at a process that was started after the changes it missed."""
    key = stream(namespace)
    made = await store.create(key, document(key, n=0))
    changed = await store.update(key, document(key, n=1), expected=made.revision)
    again = await store.update(key, document(key, n=2), expected=changed.revision)
    passing = await store.create(stream(namespace, "passing"), document(key, n=3))
    gone = await store.delete(passing.key, expected=passing.revision)

    async with record_store.opened(image_api_account) as new:
        await new.snapshot("imagestreams")
        watch = await new.watch("imagestreams", made.revision)
        later = await store.update(key, document(key, n=4), expected=again.revision)
        events = await take(watch, 5)

    ended = events[3].revision
    assert passing.revision < ended <= gone.revision
    revisions = [changed.revision, again.revision, passing.revision, ended, later.revision]
    assert [event.revision for event in events] == revisions
    before = [event.previous and event.previous.object()["n"] for event in events]
    assert before == [0, 1, None, 3, 2]


async def test_record_of_a_newer_version_is_refused_clearly(
    store: RecordStore, control_plane: ControlPlane, image_api_account: Path, namespace: str
) -> None:
    key = stream(namespace)
    await store.create(key, document(key))
    path = f"{RECORDS}/namespaces/{namespace}/imagestreamrecords/app"
    with _api_as(control_plane, image_api_account) as server:
        record = server.get(path).raise_for_status().json()
        server.put(path, json={**record, "schema": 2}).raise_for_status()
        try:
            with pytest.raises(StoreUnavailable, match=r"schema 2.*update every replica"):
                await store.get(key)
            with pytest.raises(StoreUnavailable, match="newer version"):
                # Left out it would pass for deleted, and its images for unused.
                await store.snapshot("imagestreams")
        finally:
            server.delete(path).raise_for_status()
    assert await store.get(key) is None
    await store.snapshot("imagestreams")


def _api_as(plane: ControlPlane, kubeconfig: Path) -> httpx.Client:
    token = json.loads(kubeconfig.read_text())["users"][0]["user"]["token"]
    headers = {"Authorization": f"Bearer {token}"}
    context = ssl.create_default_context(cafile=plane.authority)
    return httpx.Client(base_url=plane.url, headers=headers, verify=context, timeout=30)


def _config(size: float) -> dict[str, Any]:
    """An image config as BuildKit writes it, of an image that has had very many steps."""
    history: list[dict[str, Any]] = []
    config: dict[str, Any] = {"architecture": "amd64", "os": "linux", "history": history}
    diffs = config.setdefault("rootfs", {"type": "layers", "diff_ids": []})["diff_ids"]
    written = 0
    while written < size:
        packages = " ".join(random.randbytes(4).hex() for _ in range(6))
        step = {
            "created": f"2026-01-{len(history) % 28 + 1:02}T10:11:12.{random.randrange(10**9):09}Z",
            "created_by": f"RUN /bin/sh -c apt-get install --yes {packages} # buildkit",
            "comment": "buildkit.dockerfile.v0",
        }
        history.append(step)
        diffs.append(f"sha256:{random.randbytes(32).hex()}")
        written += len(json.dumps(step)) + 75
    return config
