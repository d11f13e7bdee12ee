"""Where the pieces of the server of a cluster meet."""

import asyncio
import json
import logging
import socket
import ssl
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from http import HTTPStatus

from alauda_imageapi.cluster.authentication import Authentication, FewTokenReviews
from alauda_imageapi.cluster.authorization import Authorization
from alauda_imageapi.cluster.front import Front, Opened
from alauda_imageapi.cluster.front_proxy import Trust
from alauda_imageapi.cluster.health import Health
from alauda_imageapi.cluster.metrics import Metrics
from alauda_imageapi.cluster.namespaces import NamespaceLifecycle
from alauda_imageapi.cluster.pull_secrets import ClusterPullSecrets
from alauda_imageapi.cluster.quotas import ObjectQuotas
from alauda_imageapi.cluster.records.store import RecordStore
from alauda_imageapi.cluster.settings import Settings
from alauda_imageapi.cluster.trust import FollowedTrust
from alauda_imageapi.kinds.catalog import build_kinds
from alauda_imageapi.kinds.content import NoContent
from alauda_imageapi.kinds.names import GROUP
from alauda_imageapi.machinery.application import ApiServer
from alauda_imageapi.version import server_version
from alauda_registry.auth.kubernetes import KubernetesAuthenticator
from alauda_registry.auth.throttle import Throttle
from alauda_registry.kube.apiserver import ApiServerClient, NotConfigured
from alauda_registry.kube.rest import ApiServerResources
from alauda_registry.serving.background import running_in_background
from alauda_registry.serving.process import Server, configure
from alauda_registry.serving.protocol import HttpProtocol, ProtocolLimits
from alauda_registry.serving.request_head import Refused
from alauda_registry.serving.starting import CannotStart
from alauda_registry.serving.tls import Certificates, ask_clients, server_context

logger = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 130
"""kube-apiserver keeps idle connections for 90 s. It must be the one who closes them: a request
that meets our closing is lost."""

_HEADER_BYTES = 256 * 1024
"""Somebody's groups and facts come as header fields, and there may be many."""

_SEND_BYTES = 64 * 1024
"""Of what a client does not read: there may be thousands of watches."""

_REASONS = {
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "RequestEntityTooLarge",
    HTTPStatus.REQUEST_TIMEOUT: "Timeout",
    HTTPStatus.TOO_MANY_REQUESTS: "TooManyRequests",
}


class ImageApiServer:
    """One process.

    Args:
        settings: Of it.

    Raises:
        CannotStart: The certificate cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._trust: FollowedTrust | None = None
        self._app: ApiServer | None = None
        self._certificates = Certificates(
            str(settings.tls_certificate), self._read_certificates, build_context
        )
        self._namespaces: NamespaceLifecycle | None = None
        self._quotas: ObjectQuotas | None = None
        self._store: RecordStore | None = None
        self._health = Health(
            {
                "authentication-config": lambda: _trouble(self._trust),
                "namespaces": lambda: _trouble(self._namespaces),
                "quotas": lambda: _trouble(self._quotas),
                "store": lambda: _trouble(self._store),
            }
        )

    def serve(self, sock: socket.socket, on_started: Callable[[], None]) -> None:
        """Serve until told to stop.

        Raises:
            SystemExit: The application could not start; the log says why.
        """
        delay = self._settings.drain_delay.total_seconds()
        timeout = self._settings.drain_timeout.total_seconds()
        server = Server(
            configure(
                Front(self._opened, self._health),
                HttpProtocol.configured(
                    ProtocolLimits(header_bytes=_HEADER_BYTES, send_buffer=_SEND_BYTES),
                    render_refusal,
                ),
                keep_alive=KEEP_ALIVE_SECONDS,
                drain_timeout=timeout,
                certificates=self._certificates,
            ),
            drain_delay=delay,
            drain_timeout=timeout,
            on_started=on_started,
            on_drain=lambda: self._drain(delay),
            on_hangup=self._certificates.reload,
        )
        server.run(sockets=[sock])

    def _drain(self, delay: float) -> None:
        """Say that we go, serve on, and only then send away who watches: he would come back."""
        self._health.is_ending = True
        if self._app is not None:
            asyncio.get_running_loop().call_later(delay, self._app.stop)

    @asynccontextmanager
    async def _opened(self, front: Front) -> AsyncGenerator[None]:
        """Have everything open that requests need."""
        async with AsyncExitStack() as stack:
            try:
                client = await stack.enter_async_context(ApiServerClient(self._settings.kubeconfig))
            except NotConfigured as error:
                raise CannotStart(f"{error}: give --kubeconfig, or run in a pod") from error
            resources = ApiServerResources(client)
            self._store = store = await stack.enter_async_context(RecordStore.opened(resources))
            self._trust = trust = FollowedTrust(resources, self._certificates.reload)
            self._namespaces = namespaces = NamespaceLifecycle(resources, GROUP)
            authorization = Authorization(client)
            self._quotas = quotas = ObjectQuotas(resources, GROUP)
            # What a tag points to is in its stream, and nowhere else that this server could reach.
            kinds = build_kinds(
                store,
                registry=self._settings.registry,
                public_registry=self._settings.public_registry or "",
                content=NoContent(),
                in_cluster=True,
                secrets=ClusterPullSecrets(resources),
            )
            self._app = ApiServer(
                GROUP,
                kinds.resources,
                server_version(),
                admit=namespaces.admit,
                reserve=quotas.reserve,
                allows=authorization.allows,
                watch_limits=self._settings.watch_limits,
            )
            duties = (trust.run, namespaces.run, quotas.run, self._certificates.watch)
            await stack.enter_async_context(running_in_background(*duties))
            front.opened = Opened(
                self._app,
                Authentication(
                    lambda: trust.current,
                    KubernetesAuthenticator(FewTokenReviews(client), Throttle()),
                ),
                authorization,
                Metrics(kinds.resources),
                lambda: trust.current,
            )
            try:
                yield
            finally:
                front.opened = None

    def _read_certificates(self) -> list[bytes]:
        settings = self._settings
        pair = [settings.tls_certificate.read_bytes(), settings.tls_key.read_bytes()]
        trust = self._trust.current if self._trust is not None else Trust()
        return [*pair, *trust.bundles]


def build_context(files: Sequence[bytes]) -> ssl.SSLContext:
    """Return a context that asks for a client's certificate, and takes none, too.

    Args:
        files: Certificate and key, then the authorities of clients.
    """
    certificate, key, *authorities = files
    context = server_context(certificate, key)
    # As for kube-apiserver, an authority counts although it is no root.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    # Also as long as no authority is known: a connection keeps the mode of the context that listens
    # when it is handed the current one.
    ask_clients(context, authorities, ssl.CERT_OPTIONAL)
    return context


def render_refusal(refused: Refused) -> bytes:
    """Return the Status for who broke the protocol."""
    is_ours = refused.status >= HTTPStatus.INTERNAL_SERVER_ERROR
    return json.dumps(
        {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": str(refused),
            "reason": _REASONS.get(refused.status, "InternalError" if is_ours else "BadRequest"),
            "code": refused.status,
        }
    ).encode()


def _trouble(part: FollowedTrust | NamespaceLifecycle | ObjectQuotas | RecordStore | None) -> str:
    return "it is not opened yet" if part is None else part.trouble
