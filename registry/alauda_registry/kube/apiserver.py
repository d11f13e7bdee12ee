"""Asks a real API server, through kubernetes-asyncio.

The library finds the server and keeps our credentials fresh (in a cluster it reads the token file
again every minute). What it would do with a request is left aside: its generated methods log
bodies, and a TokenReview has a token in it; and it looks for a proxy in a thread for each, which
takes as long as the request. This module is the only one that imports it, and nobody imports this
one unless Kubernetes is configured: it takes a third of a second and 40 MB.
"""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from kubernetes_asyncio import config
from kubernetes_asyncio.client import ApiClient, Configuration
from kubernetes_asyncio.config import ConfigException

from alauda_registry.kube.client import Attributes, ResourceAttributes, UserInfo
from alauda_registry.kube.errors import KubeError, Unreachable
from alauda_registry.kube.refusals import refusal

TIMEOUT_SECONDS = 10.0
"""For one question; kube-apiserver gives its own webhooks as long."""

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

_TOKEN_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"  # noqa: S105 -- a path
_ACCESS_REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
_BAD_REQUEST = 400
_LARGE_BODY = 65536
_FAREWELL_SECONDS = 0.25
_HEADERS = {
    "Accept": "application/json",
    # Compressing takes both sides longer than a network inside a cluster.
    "Accept-Encoding": "identity",
    "Content-Type": "application/json",
    "User-Agent": "alauda-image-registry",
}


_TROUBLE = (aiohttp.ClientError, TimeoutError, OSError, ValueError, ConfigException)


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
        # Requests that were given up leave their connections to TLS, which says farewell and waits
        # for the other side; nothing tells when that is done (aiohttp, "Graceful shutdown").
        await asyncio.sleep(_FAREWELL_SECONDS)

    async def review_token(self, token: str, audiences: Sequence[str] = ()) -> UserInfo | None:
        """Return whom a token belongs to (TokenReview), or None when it is nobody's.

        Raises:
            KubeError: The API server did not say.
        """
        if token.split() != [token]:
            # It answers 400 to an empty one, as if we had made a mistake. Of several words it looks
            # at the first, and who shows none is system:anonymous to it, and authenticated.
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

    async def review_access(self, user: UserInfo, attributes: Attributes) -> bool:
        """Return whether somebody may do something (SubjectAccessReview).

        Raises:
            KubeError: The API server did not say.
        """
        is_resource = isinstance(attributes, ResourceAttributes)
        spec = {
            "user": user.username,
            "uid": user.uid,
            "groups": [*user.groups],
            "extra": {key: [*values] for key, values in user.extra},
            "resourceAttributes" if is_resource else "nonResourceAttributes": {
                key: value for key, value in asdict(attributes).items() if value
            },
        }
        status = await self._review(
            _ACCESS_REVIEWS, "authorization.k8s.io/v1", "SubjectAccessReview", spec
        )
        return bool(status.get("allowed")) and not status.get("denied")

    async def _review(
        self, path: str, version: str, kind: str, spec: Mapping[str, Any]
    ) -> dict[str, Any]:
        body = {"apiVersion": version, "kind": kind, "spec": spec}
        content = await self.request(
            "POST", path, f"creating {path.rpartition('/')[2]}", body=json.dumps(body).encode()
        )
        try:
            answer = json.loads(content)
        except ValueError as error:
            raise _unreachable(error) from error
        status = answer.get("status") if isinstance(answer, dict) else None
        if not isinstance(status, dict):
            raise Unreachable(f"the API server's {kind} has no status")
        return status

    async def request(
        self,
        method: str,
        path: str,
        doing: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        accept: str = "",
        seconds: float | None = None,
    ) -> bytes:
        """Ask anything, and return the body of a good answer.

        Args:
            method: Of HTTP.
            path: Of the URL.
            doing: What this is, for messages: ``creating tokenreviews``.
            query: Of the URL.
            body: JSON.
            accept: Media types of the answer; JSON by default.
            seconds: Time for it; that of the client by default.

        Raises:
            KubeError: The answer is none, or not a good one.
        """
        timeout = aiohttp.ClientTimeout(total=seconds or self._seconds)
        headers = {"Accept": accept} if accept else {}

        async def ask() -> tuple[int, bytes]:
            more = await self._credentials(headers)
            # In pieces, so that others get on while a large one is sent.
            data = io.BytesIO(body) if body is not None and len(body) > _LARGE_BODY else body
            async with self._session.request(
                method, self._host + path, params=query, data=data, timeout=timeout, **more
            ) as response:
                return response.status, await response.read()

        try:
            is_repeated = False
            try:
                status, content = await ask()
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                # It may just have closed a connection that was idle.
                is_repeated = True
                status, content = await ask()
        except _TROUBLE as error:
            raise _unreachable(error) from error
        if status >= _BAD_REQUEST:
            refused = refusal(status, doing, content)
            refused.is_repeated = is_repeated
            raise refused
        return content

    @asynccontextmanager
    async def stream(
        self, path: str, doing: str, *, query: Mapping[str, str], silence_seconds: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Ask for an answer that goes on; yields its lines, which may raise like this itself.

        Args:
            path: Of the URL.
            doing: What this is, for messages.
            query: Of the URL.
            silence_seconds: When nothing came for so long, the connection is taken for dead.

        Raises:
            KubeError: There is no answer, or not a good one.
        """
        timeout = aiohttp.ClientTimeout(
            sock_connect=self._seconds, sock_read=silence_seconds, total=None
        )
        try:
            more = await self._credentials({})
            response = await self._session.get(
                self._host + path, params=query, timeout=timeout, **more
            )
        except _TROUBLE as error:
            raise _unreachable(error) from error
        try:
            if response.status >= _BAD_REQUEST:
                raise refusal(response.status, doing, await _body(response))
            yield _lines(response.content)
        finally:
            # Without a farewell, which TLS would wait for.
            if response.connection is not None and response.connection.transport is not None:
                response.connection.transport.abort()
            response.close()

    async def _credentials(self, headers: Mapping[str, str]) -> dict[str, Any]:
        """Return what a request takes besides; this may mean to read a file or to run a plugin."""
        authorization = await self._configuration.get_api_key_with_prefix("BearerToken")
        return {
            "headers": {**headers, **({"Authorization": authorization} if authorization else {})},
            "proxy": self._proxy,
            "server_hostname": self._configuration.tls_server_name or None,
        }


async def _body(response: aiohttp.ClientResponse) -> bytes:
    try:
        return await response.read()
    except _TROUBLE as error:
        raise _unreachable(error) from error


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Yield lines of any length; aiohttp's own end at its buffer's."""
    parts: list[bytes] = []
    try:
        async for chunk in content.iter_any():
            *ended, rest = chunk.split(b"\n")
            for line in ended:
                yield b"".join([*parts, line])
                parts.clear()
            if rest:
                parts.append(rest)
    except _TROUBLE as error:
        raise _unreachable(error) from error


def _unreachable(error: Exception) -> Unreachable:
    what = "no answer in time" if isinstance(error, TimeoutError) else str(error)
    return Unreachable(f"the API server cannot be asked: {what}")


def _proxy_for(url: str) -> str | None:
    """The proxy that the environment names for an address, as curl and Go read it."""
    split = urlsplit(url)
    if proxy_bypass(split.netloc):
        return None
    return getproxies().get(split.scheme)
