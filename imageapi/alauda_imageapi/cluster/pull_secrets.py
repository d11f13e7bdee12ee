"""The Secrets of a cluster that images are pulled with."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from alauda_imageapi.machinery import objects
from alauda_imageapi.machinery.errors import Expired, RequestEntityTooLarge, ServiceUnavailable
from alauda_imageapi.machinery.objects import Object
from alauda_registry.kube import errors as kube
from alauda_registry.kube.resources import GroupVersionResource, ListQuery, Page, ResourceClient

logger = logging.getLogger(__name__)

SECRETS = GroupVersionResource("", "v1", "secrets")
TYPES = ("kubernetes.io/dockercfg", "kubernetes.io/dockerconfigjson")

_PAGE = 50
_MOST_BYTES = 16 * 2**20
"""A namespace may have as many as its members like, of a megabyte each."""


class ClusterPullSecrets:
    """Implements :class:`~alauda_imageapi.kinds.pull_secrets.PullSecrets`.

    Args:
        client: Asks the API server, with rights of our own.
    """

    def __init__(self, client: ResourceClient) -> None:
        self._client = client

    async def read(
        self, namespace: str, revision: int | None, is_wanted: Callable[[Object], bool]
    ) -> tuple[int, Sequence[Object]]:
        """Return the pull secrets of a namespace, and the revision they are of."""
        # The second type is read as it was when the first was.
        reached, size = str(revision or ""), 0
        found: list[Object] = []
        for name in TYPES:
            query = ListQuery(
                namespace=namespace, fields=(("type", name),), limit=_PAGE, revision=reached
            )
            while True:
                page = await self._list(query)
                reached = page.revision
                wanted = [item for item in page.items if is_wanted(item)]
                size += sum(len(objects.encode(item)) for item in wanted)
                if size > _MOST_BYTES:
                    raise RequestEntityTooLarge(
                        f"the pull secrets of namespace {namespace} have more than 16 MiB: choose "
                        "some of them by labelSelector or fieldSelector, or delete some"
                    )
                found += wanted
                if not page.token:
                    break
                query = replace(query, token=page.token, revision="")
        return int(reached), found

    async def _list(self, query: ListQuery) -> Page:
        try:
            return await self._client.list(SECRETS, query)
        except kube.Expired as error:
            raise Expired(
                f"The resourceVersion for the provided list is too old: {query.revision}"
            ) from error
        except kube.KubeError as error:
            where = f"the pull secrets of namespace {query.namespace}"
            logger.error("%s are not read: %s", where, error)
            raise ServiceUnavailable(
                f"{where} cannot be read at the moment: the log says why",
                details={"retryAfterSeconds": 1},
            ) from error
