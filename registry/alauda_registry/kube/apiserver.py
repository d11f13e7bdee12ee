"""Asks a real API server, through kubernetes-asyncio.

The library finds the server and keeps our credentials fresh (in a cluster it reads the token file
again every minute). What it would do with a request is left aside: its generated methods log
bodies, and a TokenReview has a token in it; and it looks for a proxy in a thread for each, which
takes as long as the request. This module is the only one that imports it, and nobody imports this
one unless Kubernetes is configured: it takes a third of a second and 40 MB.
"""

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from kubernetes_asyncio import config
from kubernetes_asyncio.client import ApiClient, Configuration
from kubernetes_asyncio.config import ConfigException

from alauda_registry.kube.client import ResourceAttributes, UserInfo
from alauda_registry.kube.errors import Forbidden, KubeError, Unreachable

TIMEOUT_SECONDS = 10.0
"""For one question; kube-apiserver gives its own webhooks as long."""

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

_TOKEN_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"  # noqa: S105 -- a path
_ACCESS_REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
_LONGEST_REASON = 256
_HEADERS = {
    "Accept": "application/json",
    "Content-Type": "application/json",
    "User-Agent": "alauda-image-registry",
}


class NotConfigured(KubeError):
    """It cannot be told where the API server is, or who we are."""


class ApiServerClient:
    """A client of one API server, between ``async with`` and its end.

    Args:
        kubeconfig: Says where it is and who we are; without it, the pod's service account does.
        seconds: Time for one question.
        account: Where the kubelet puts token and authority of the pod's service account.
    """

    def __init__(
        self,
        kubeconfig: Path | None,
        *,
        seconds: float = TIMEOUT_SECONDS,
        account: Path = SERVICE_ACCOUNT,
    ) -> None:
        self._kubeconfig = kubeconfig
        self._seconds = seconds
        self._account = account

    async def __aenter__(self) -> Self:
        """Prepare to ask; nothing is sent yet.

        Raises:
            NotConfigured: The kubeconfig cannot be used, or there is no service account here.
        """
        configuration = Configuration()
        kubeconfig = self._kubeconfig
        try:
            if kubeconfig is None:
                config.load_incluster_config(
                    client_configuration=configuration,
                    token_filename=str(self._account / "token"),
                    cert_filename=str(self._account / "ca.crt"),
                )
            else:
                await config.load_kube_config(str(kubeconfig), client_configuration=configuration)
            self._client = ApiClient(configuration)
        except (ConfigException, OSError, ValueError) as error:
            source = f"kubeconfig {kubeconfig}" if kubeconfig else "the service account of this pod"
            raise NotConfigured(f"{source} cannot be used: {error}") from error
        self._configuration = configuration
        self._host = str(configuration.host)
        self._proxy = configuration.proxy or _proxy_for(self._host)
        self._session = aiohttp.ClientSession(
            # With the authorities and certificates of the configuration.
            connector=self._client.rest_client.pool_manager.connector,
            connector_owner=False,
            headers=_HEADERS,
            timeout=aiohttp.ClientTimeout(total=self._seconds),
        )
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._session.close()
        await self._client.close()

    async def review_token(self, token: str, audiences: Sequence[str] = ()) -> UserInfo | None:
        """Return whom a token belongs to (TokenReview), or None when it is nobody's.

        Raises:
            KubeError: The API server did not say.
        """
        if not token:
            # It answers 400 to this one, as if we had made a mistake.
            return None
        spec: dict[str, Any] = {"token": token}
        if audiences:
            spec["audiences"] = [*audiences]
        status = await self._review(_TOKEN_REVIEWS, "authentication.k8s.io/v1", "TokenReview", spec)
        user = status.get("user", {})
        if not status.get("authenticated") or not user.get("username"):
            return None
        # An authenticator that knows nothing of audiences returns none, and means its own server.
        if audiences and not set(audiences) & set(status.get("audiences", ())):
            return None
        extra = {key: tuple(values) for key, values in user.get("extra", {}).items()}
        return UserInfo(
            user["username"],
            user.get("uid", ""),
            tuple(user.get("groups", ())),
            tuple(sorted(extra.items())),
        )

    async def review_access(self, user: UserInfo, attributes: ResourceAttributes) -> bool:
        """Return whether somebody may do something (SubjectAccessReview).

        Raises:
            KubeError: The API server did not say.
        """
        wanted = {
            "verb": attributes.verb,
            "group": attributes.group,
            "resource": attributes.resource,
            "subresource": attributes.subresource,
            "namespace": attributes.namespace,
            "name": attributes.name,
        }
        spec = {
            "user": user.username,
            "uid": user.uid,
            "groups": [*user.groups],
            "extra": {key: [*values] for key, values in user.extra},
            "resourceAttributes": {key: value for key, value in wanted.items() if value},
        }
        status = await self._review(
            _ACCESS_REVIEWS, "authorization.k8s.io/v1", "SubjectAccessReview", spec
        )
        return bool(status.get("allowed")) and not status.get("denied")

    async def _review(
        self, path: str, version: str, kind: str, spec: Mapping[str, Any]
    ) -> dict[str, Any]:
        body = {"apiVersion": version, "kind": kind, "spec": spec}
        answer = await self._post(path, body)
        status = answer.get("status")
        if not isinstance(status, dict):
            raise Unreachable(f"the API server's {kind} has no status")
        return status

    async def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        try:
            try:
                return await self._post_once(path, body)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                # It may just have closed a connection that was idle. Asking twice does no harm.
                return await self._post_once(path, body)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            what = "no answer in time" if isinstance(error, TimeoutError) else str(error)
            raise Unreachable(f"the API server cannot be asked: {what}") from error

    async def _post_once(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        headers = {}
        # Which may mean to read a file again, or to run a plugin.
        if authorization := await self._configuration.get_api_key_with_prefix("BearerToken"):
            headers["Authorization"] = authorization
        async with self._session.post(
            self._host + path,
            data=json.dumps(body).encode(),
            headers=headers,
            proxy=self._proxy,
            server_hostname=self._configuration.tls_server_name or None,
        ) as response:
            content = await response.read()
        if response.status >= HTTPStatus.BAD_REQUEST:
            raise _refusal(response.status, path.rpartition("/")[2], content)
        answer = json.loads(content)
        if not isinstance(answer, dict):
            raise Unreachable("the API server's answer is no object")
        return answer


def _proxy_for(url: str) -> str | None:
    """The proxy that the environment names for an address, as curl and Go read it."""
    split = urlsplit(url)
    if proxy_bypass(split.netloc):
        return None
    return getproxies().get(split.scheme)


def _refusal(status: int, resource: str, content: bytes) -> KubeError:
    reason = f"the API server answers {status} to creating {resource}: {_message(content)}"
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return Forbidden(reason)
    return Unreachable(reason)


def _message(content: bytes) -> str:
    """What a Status says; anything else may come from whoever answered in its place."""
    try:
        status = json.loads(content)
    except ValueError:
        return "no Status object"
    if not isinstance(status, dict) or status.get("kind") != "Status":
        return "no Status object"
    return str(status.get("message", ""))[:_LONGEST_REASON]
