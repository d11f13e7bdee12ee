"""The ConfigMap that says whom to believe, as it is now.

kube-apiserver writes ``kube-system/extension-apiserver-authentication``. As long as it is not there
nobody is believed, only tokens count, and this server is not ready. What it said last stays when it
goes or cannot be read.
"""

import logging
from collections.abc import Callable

from alauda_imageapi.cluster.front_proxy import Trust, TrustInvalid
from alauda_registry.kube.following import Followed
from alauda_registry.kube.resources import GroupVersionResource, ResourceClient

logger = logging.getLogger(__name__)

CONFIG_MAPS = GroupVersionResource("", "v1", "configmaps")
NAMESPACE, NAME = "kube-system", "extension-apiserver-authentication"


class FollowedTrust:
    """What the ConfigMap says.

    Args:
        client: Asks the API server.
        on_change: Called when it says something else.
    """

    def __init__(self, client: ResourceClient, on_change: Callable[[], object]) -> None:
        self.current = Trust()
        self._on_change = on_change
        self._complaint = ""
        self._followed = Followed(
            client, CONFIG_MAPS, namespace=NAMESPACE, name=NAME, on_change=self._read
        )

    @property
    def trouble(self) -> str:
        """Say why kube-apiserver is not believed; nothing when it is."""
        if not self._followed.is_known:
            return f"{NAMESPACE}/{NAME}: {self._followed.trouble}"
        if not self.current.proxy_authorities:
            return self._complaint
        return ""

    async def run(self) -> None:
        """Follow it, until cancelled."""
        await self._followed.run()

    def _read(self) -> None:
        found = self._followed.get(NAME, NAMESPACE)
        if found is None:
            self._complain(
                "is not there: kube-apiserver makes it, if this server's account may not see it "
                f"bind the Role {NAME}-reader; until then only tokens count here"
            )
            return
        try:
            read = Trust.read(found.get("data") or {})
        except TrustInvalid as error:
            self._complain(f"cannot be used: {error}; keeping what it said before")
            return
        is_new, self.current = read != self.current, read
        if is_new:
            self._on_change()
        if not read.proxy_authorities:
            self._complain(
                "names no front proxy: give kube-apiserver --requestheader-client-ca-file, or "
                "nobody gets here through it"
            )
        elif read.is_ambiguous:
            self._complain(
                "lets every user's certificate pass for a front proxy's, so none is believed: give "
                "kube-apiserver --requestheader-allowed-names, or an authority of its own for "
                "--requestheader-client-ca-file"
            )
        else:
            self._complaint = ""
            if is_new:
                logger.info("%s/%s was read", NAMESPACE, NAME)

    def _complain(self, what: str) -> None:
        complaint = f"the ConfigMap {NAMESPACE}/{NAME} {what}"
        if complaint != self._complaint:
            logger.warning("%s", complaint)
        self._complaint = complaint
