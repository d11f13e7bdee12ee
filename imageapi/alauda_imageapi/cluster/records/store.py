"""Objects in custom resources of the cluster, for any number of replicas.

The API server behind us decides who comes first: revisions, the order of changes and what is
expected of an object when it is changed are its own. Reading one object asks it; lists and watches
are fed by what it tells every replica (`watch_cache`, `snapshots`, `history`).
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager

from alauda_imageapi.cluster.records import encoding
from alauda_imageapi.cluster.records.encoding import KINDS, Record, Unpacked
from alauda_imageapi.cluster.records.snapshots import Snapshots
from alauda_imageapi.cluster.records.watch_cache import RecordLimits, WatchCache
from alauda_imageapi.machinery.objects import Object
from alauda_imageapi.machinery.ring import Ring, RingWatch
from alauda_imageapi.machinery.store import (
    EVERYTHING,
    Changed,
    Choice,
    Exists,
    Key,
    Missing,
    NamespaceGone,
    ObjectTooLarge,
    Page,
    Snapshot,
    Stored,
    StoreError,
    StoreFull,
    StoreUnavailable,
)
from alauda_registry.kube.errors import (
    AlreadyExists,
    Conflict,
    KubeError,
    NamespaceTerminating,
    NotFound,
    StorageFull,
    TooLarge,
)
from alauda_registry.kube.resources import ListQuery, Manifest, ResourceClient
from alauda_registry.storage.together import together

logger = logging.getLogger(__name__)

ETCD_FULL = (
    "the etcd of the cluster is full: nothing can be made or changed until there is room in it, "
    "while reading goes on and deleting is possible. Its administrator has to compact and "
    "defragment it, or to give it a larger --quota-backend-bytes, and then to disarm its NOSPACE "
    "alarm"
)

_LARGE = 65536
"""Bytes of a document that is not packed between other requests."""

_DELETION_SECONDS = 2.0

_FEW = 8
"""Objects that are read one by one, rather than all that there are at once."""


class RecordStore:
    """Implements :class:`~alauda_imageapi.machinery.store.ObjectStore`; made by :meth:`opened`.

    Args:
        client: Of the API server that keeps the records.
        limits: How much is kept here.
    """

    def __init__(self, client: ResourceClient, limits: RecordLimits) -> None:
        self._client = client
        self._limits = limits
        unpacked = Unpacked(limits.unpacked_bytes)
        self._caches = {
            name: WatchCache(client, kind, unpacked, limits) for name, kind in KINDS.items()
        }
        self._snapshots = {
            name: Snapshots(client, KINDS[name], cache, limits)
            for name, cache in self._caches.items()
        }

    @classmethod
    @asynccontextmanager
    async def opened(
        cls, client: ResourceClient, limits: RecordLimits | None = None
    ) -> "AsyncGenerator[RecordStore]":
        """Follow the records for the length of an ``async with`` block.

        The API server need not be there yet: see :attr:`trouble`.
        """
        store = cls(client, limits or RecordLimits())
        async with asyncio.TaskGroup() as group:
            following = [group.create_task(cache.run()) for cache in store._caches.values()]
            try:
                yield store
            finally:
                for task in following:
                    task.cancel()

    @property
    def trouble(self) -> str:
        """Why objects cannot be listed or followed at the moment; empty when they can."""
        for name, cache in self._caches.items():
            if cache.trouble:
                return f"the records of {name} are not followed: {cache.trouble}"
        return ""

    async def get(self, key: Key, *, recent: bool = False) -> Stored | None:
        """Return the latest state of an object."""
        if recent:
            cache = self._caches[key.resource]
            await cache.wait_until_loaded()
            return cache.known(key)
        with _asking():
            manifest = await self._get(key)
        return None if manifest is None else self._read(key, manifest)

    async def get_several(self, keys: Iterable[Key]) -> Mapping[Key, Stored]:
        """Return those of some objects that there are."""
        found: dict[Key, Stored] = {}
        unknown = []
        for key in keys:
            cache = self._caches[key.resource]
            await cache.wait_until_loaded()
            known = cache.known(key)
            if known is None:
                unknown.append(key)
            else:
                found[key] = known
        # They were made a moment ago, or are not there: only the API server can tell.
        return {**found, **await self._look_up(unknown)}

    async def _look_up(self, keys: Sequence[Key]) -> Mapping[Key, Stored]:
        if len(keys) <= _FEW:
            read = await together(map(self.get, keys))
            return {stored.key: stored for stored in read if stored is not None}
        found: dict[Key, Stored] = {}
        for resource in {key.resource for key in keys}:
            wanted = {key for key in keys if key.resource == resource}
            items = (await self.snapshot(resource)).items
            found |= {item.key: item for item in items if item.key in wanted}
        return found

    async def snapshot(
        self, resource: str, revision: int | None = None, *, namespace: str = ""
    ) -> Snapshot:
        """Return a resource as it is now, or as it was."""
        snapshots = self._snapshots[resource]
        with _asking():
            if revision is None:
                return await snapshots.now(namespace)
            if revision == 0:
                return await snapshots.recent(namespace)
            return await snapshots.at(revision, namespace)

    async def page(
        self,
        resource: str,
        *,
        limit: int,
        namespace: str = "",
        name: str = "",
        revision: int | None = None,
        token: str = "",
    ) -> Page:
        """Return some objects of a resource as it is now."""
        query = ListQuery(
            namespace=namespace,
            name=KINDS[resource].name(name) if name else "",
            metadata_only=True,
            limit=limit,
            token=token,
            revision=str(revision or ""),
        )
        with _asking():
            return await self._snapshots[resource].page(query)

    def order(self, key: Key) -> tuple[str, str]:
        """Return what the objects of pages are ordered by: the key of their record in etcd."""
        # Which is one text, so that a-b/x comes before a/x.
        return f"{key.namespace}/", KINDS[key.resource].name(key.name)

    async def reach(self, resource: str, revision: int) -> None:
        """Wait a little for a revision."""
        with _asking():
            await self._snapshots[resource].reach(revision)

    async def create(self, key: Key, document: Object) -> Stored:
        """Keep a new object."""
        kind = KINDS[key.resource]
        manifest = await self._write(key, document)
        with _asking():
            try:
                made = await self._client.create(kind.of, manifest)
            except AlreadyExists:
                made = await self._made_after_all(key, manifest, Exists)
            except NotFound as error:
                raise NamespaceGone(key.namespace, is_ending=False) from error
            except NamespaceTerminating as error:
                raise NamespaceGone(key.namespace, is_ending=True) from error
            except TooLarge as error:
                raise _too_large(manifest) from error
        return self._read(key, made)

    async def update(self, key: Key, document: Object, *, expected: int) -> Stored:
        """Replace an object that is at a revision."""
        kind = KINDS[key.resource]
        manifest = await self._write(key, document)
        manifest["metadata"]["resourceVersion"] = str(expected)
        with _asking():
            try:
                made = await self._client.update(kind.of, manifest)
            except Conflict:
                made = await self._made_after_all(key, manifest, Changed)
            except NotFound:
                raise Missing from None
            except TooLarge as error:
                raise _too_large(manifest) from error
        return self._read(key, made)

    async def delete(self, key: Key, *, expected: int) -> Stored:
        """Remove an object that is at a revision, and return its last state."""
        with _asking():
            manifest = await self._get(key)
            if manifest is None:
                raise Missing
            record = self._read(key, manifest)
            if record.revision != expected:
                raise Changed
            with self._caches[key.resource].deletion(record.origin.uid) as deletion:
                try:
                    await self._delete(key, manifest)
                except NotFound as error:
                    # It was there a moment ago: the answer to the first try may have been lost.
                    if not error.is_repeated:
                        raise Missing from None
                except Conflict as error:
                    # What is said of an object with a uid that is gone by the second try.
                    now = await self._get(key) if error.is_repeated else manifest
                    if now is not None and now["metadata"]["uid"] == record.origin.uid:
                        raise Changed from None
                return await self._last_state(record, deletion)

    async def watch(self, resource: str, after: int, choice: Choice = EVERYTHING) -> RingWatch:
        """Follow what happens after a revision that was reached."""
        cache = self._caches[resource]
        await cache.wait_until_followed()
        if after >= cache.ring.oldest:
            return RingWatch(lambda _: cache.ring, resource, after, choice)
        with _asking():
            history = await cache.history(after)

        def ring_at(revision: int) -> Ring:
            return cache.ring if revision >= history.end else history.ring

        return RingWatch(ring_at, resource, after, choice)

    async def _write(self, key: Key, document: Object) -> Manifest:
        limits = self._limits
        body = encoding.text(document)
        if len(body) > limits.object_bytes:
            raise ObjectTooLarge(len(body), limits.object_bytes)
        is_large = len(body) > _LARGE
        payload = await asyncio.to_thread(encoding.pack, body) if is_large else encoding.pack(body)
        if len(payload) > limits.record_bytes:
            raise ObjectTooLarge(len(payload), limits.record_bytes, is_packed=True)
        return encoding.write(KINDS[key.resource], key, document, payload)

    async def _get(self, key: Key) -> Manifest | None:
        kind = KINDS[key.resource]
        try:
            return await self._client.get(kind.of, key.namespace, kind.name(key.name))
        except NotFound:
            return None

    def _read(self, key: Key, manifest: Manifest) -> Record:
        return self._caches[key.resource].read(manifest)

    async def _made_after_all(
        self, key: Key, manifest: Manifest, otherwise: type[StoreError]
    ) -> Manifest:
        """Return the record if it is as we wanted it: an answer may have been lost on the way."""
        now = await self._get(key)
        if now is None or now.get("change") != manifest["change"]:
            raise otherwise from None
        return now

    async def _delete(self, key: Key, manifest: Manifest) -> None:
        of, metadata = KINDS[key.resource].of, manifest["metadata"]
        left: Manifest | None = manifest
        if "deletionTimestamp" not in metadata:
            left = await self._client.delete(
                of,
                key.namespace,
                metadata["name"],
                uid=metadata["uid"],
                revision=metadata["resourceVersion"],
            )
        if left is not None:
            # The object waits for no finalizers any more, so neither does its record.
            await self._client.update(
                of, {**left, "metadata": {**left["metadata"], "finalizers": []}}
            )

    async def _last_state(self, record: Record, deletion: "asyncio.Future[Record]") -> Record:
        try:
            async with asyncio.timeout(_DELETION_SECONDS):
                return await asyncio.shield(deletion)
        except TimeoutError:
            # The watch is away. It happened not later than now.
            return record.at(await self._snapshots[record.key.resource].ask_head())


@contextmanager
def _asking() -> Iterator[None]:
    """Turn trouble with the API server into what stores raise."""
    try:
        yield
    except StorageFull as error:
        logger.error("the image API cannot write its records: %s", error)
        raise StoreFull(ETCD_FULL) from error
    except KubeError as error:
        logger.error("the records of the image API cannot be used: %s", error)
        raise StoreUnavailable(
            "the cluster does not let the image API read or write its records at the moment: "
            "the log says why"
        ) from error


def _too_large(manifest: Manifest) -> ObjectTooLarge:
    """This etcd takes less than most."""
    size = len(manifest["payload"])
    return ObjectTooLarge(size, size - 1, is_packed=True)
