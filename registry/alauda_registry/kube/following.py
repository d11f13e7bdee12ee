"""List, then watch, for ever: what is in a collection, as it changes.

A watch that ends is resumed where it ended, and one whose past is forgotten begins with a new list.
While the API server is away the last state stays, and is caught up with when it is back.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable

from alauda_registry.kube.errors import Expired, KubeError
from alauda_registry.kube.resources import (
    GroupVersionResource,
    ListQuery,
    Manifest,
    ResourceClient,
    WatchEvent,
)

logger = logging.getLogger(__name__)

_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 15.0
_SHORT_SECONDS = 5.0
"""A watch that lasts longer was not ended as soon as it began."""


class Followed:
    """The objects of a small collection, by namespace and name.

    Args:
        client: Asks the API server.
        of: What is followed.
        namespace: Empty for all of them.
        name: Of a single object; empty for all.
        on_change: Called whenever something may have changed.
    """

    def __init__(
        self,
        client: ResourceClient,
        of: GroupVersionResource,
        *,
        namespace: str = "",
        name: str = "",
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._client = client
        self._of = of
        self._namespace = namespace
        self._name = name
        self._on_change = on_change
        self._objects: dict[tuple[str, str], Manifest] = {}
        self._revision = ""
        self._pause = _FIRST_PAUSE
        self._is_futile = False
        self.is_known = False
        """Whether there was an answer yet; what was known stays so."""
        self.trouble = f"{of.resource} were not read yet"
        """Why the state may be old; empty while it is followed."""

    def get(self, name: str, namespace: str = "") -> Manifest | None:
        """Return an object as it was last seen."""
        return self._objects.get((namespace, name))

    def within(self, namespace: str) -> list[Manifest]:
        """Return the objects of a namespace as they were last seen."""
        return [found for (where, _), found in self._objects.items() if where == namespace]

    async def run(self) -> None:
        """Follow, until cancelled."""
        while True:
            self._is_futile, is_resumed = True, bool(self._revision)
            began = time.monotonic()
            try:
                if not self._revision:
                    await self._list()
                await self._watch()
            except Expired:
                self._revision = ""
                if is_resumed:
                    # A list comes first now.
                    continue
            except KubeError as error:
                if self.trouble != str(error):
                    logger.warning("%s are not followed: %s", self._of.resource, error)
                self.trouble = str(error)
            if time.monotonic() - began > _SHORT_SECONDS:
                self._pause = _FIRST_PAUSE
                self._is_futile = bool(self.trouble)
            if self._is_futile:
                # Also where it was ended at once: something may do that to every watch.
                spread = random.uniform(0.5, 1.5)  # noqa: S311 -- no secret
                await asyncio.sleep(self._pause * spread)
                self._pause = min(self._pause * 2, _LONGEST_PAUSE)

    async def _list(self) -> None:
        page = await self._client.list(
            self._of, ListQuery(namespace=self._namespace, name=self._name)
        )
        self._objects = {_key(item): item for item in page.items}
        self._reach(page.revision)
        self._on_change()

    async def _watch(self) -> None:
        async with self._client.watch(
            self._of, self._revision, namespace=self._namespace, name=self._name
        ) as events:
            async for event in events:
                self._take(event)

    def _take(self, event: WatchEvent) -> None:
        self._reach(str(event.revision))
        self._is_futile, self._pause = False, _FIRST_PAUSE
        if event.type == "BOOKMARK":
            return
        if event.type == "DELETED":
            self._objects.pop(_key(event.object), None)
        else:
            self._objects[_key(event.object)] = event.object
        self._on_change()

    def _reach(self, revision: str) -> None:
        self._revision = revision
        self.is_known, self.trouble = True, ""


def _key(found: Manifest) -> tuple[str, str]:
    metadata = found["metadata"]
    return metadata.get("namespace", ""), metadata["name"]
