"""Nothing is made in a namespace that is missing or ending.

kube-apiserver does not look at that for requests it passes on (facts/apiserver.md 1.8 and 2.11).
What is followed says quickly that a namespace is fine; that it is not is only believed when it was
asked for just now, since what is followed may be a moment old.
"""

from alauda_imageapi.machinery.errors import (
    ServiceUnavailable,
    namespace_ending,
    namespace_not_found,
)
from alauda_imageapi.machinery.resources import Context, Group
from alauda_registry.kube.errors import KubeError, NotFound
from alauda_registry.kube.following import Followed
from alauda_registry.kube.resources import GroupVersionResource, Manifest, ResourceClient

NAMESPACES = GroupVersionResource("", "v1", "namespaces")

_TERMINATING = "Terminating"


class NamespaceLifecycle:
    """Looks at the namespace of everything that is made.

    Args:
        client: Asks the API server.
        group: Of what is made.
    """

    def __init__(self, client: ResourceClient, group: Group) -> None:
        self._client = client
        self._group = group
        self._followed = Followed(client, NAMESPACES)

    @property
    def trouble(self) -> str:
        """Say why namespaces are not known; nothing once they are."""
        return "" if self._followed.is_known else self._followed.trouble

    async def run(self) -> None:
        """Follow the namespaces, until cancelled."""
        await self._followed.run()

    async def admit(self, context: Context, name: str) -> None:
        """Let something be made.

        Raises:
            NotFound: There is no such namespace.
            Forbidden: It is ending.
            ServiceUnavailable: It is not known.
        """
        if not context.namespace:
            return
        found = self._followed.get(context.namespace)
        if found is None or _is_ending(found):
            found = await self._ask(context.namespace)
        if _is_ending(found):
            raise namespace_ending(self._group.name, context.resource, name, context.namespace)

    async def _ask(self, namespace: str) -> Manifest:
        try:
            return await self._client.get(NAMESPACES, "", namespace)
        except NotFound:
            raise namespace_not_found(namespace) from None
        except KubeError as error:
            raise ServiceUnavailable(
                f"it cannot be found out whether there is a namespace {namespace}: try again in a "
                "moment",
                details={"retryAfterSeconds": 1},
            ) from error


def _is_ending(namespace: Manifest) -> bool:
    status = namespace.get("status") or {}
    return status.get("phase") == _TERMINATING or "deletionTimestamp" in namespace["metadata"]
