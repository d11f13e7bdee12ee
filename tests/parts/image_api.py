"""Starts replicas of our image API server, and registers them with a control plane.

kube-apiserver reaches them through a Service of type ``ExternalName`` (``control_plane.py`` says
why) that leads to a port on loopback, behind which ``service.py`` does what kube-proxy would. There
is one ``v1.image.alauda.io`` in a cluster: whoever registers it takes it away again.
"""

import base64
import ssl
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen
from typing import Any

import httpx

from tests.parts import manifests, record_store, service
from tests.parts.certificates import Authority, CertificatePair
from tests.parts.control_plane import ControlPlane
from tests.parts.processes import PartFailed, free_port, listens, started, wait_until
from tests.parts.record_store import ACCOUNT, NAMESPACE
from tests.parts.service import Service

PROGRAM = (sys.executable, "-m", "alauda_imageapi")
API_SERVICE = "v1.image.alauda.io"
API = "/apis/image.alauda.io/v1"
REGISTRY = "registry.example:5000"


@dataclass
class Replica:
    """One process."""

    port: int
    process: Popen[bytes]
    log: Path
    parts: ExitStack

    @property
    def url(self) -> str:
        """Where it is, without kube-apiserver before it."""
        return f"https://127.0.0.1:{self.port}"


@dataclass
class ImageApi:
    """The image API of a control plane.

    Args:
        plane: The control plane.
        directory: For logs, certificates and objects.
        kubeconfig: Who the servers are.
        tls: Their certificate.
        service: What leads to them.
        arguments: More flags.
        program: What is started.
        replicas: Those that run.
    """

    plane: ControlPlane
    directory: Path
    kubeconfig: Path
    tls: CertificatePair
    service: Service
    arguments: Sequence[str | Path] = ()
    program: Sequence[str] = PROGRAM
    replicas: list[Replica] = field(default_factory=list)

    def start(self, *, kubeconfig: Path | None = None, waits_for_ready: bool = True) -> Replica:
        """Start one more replica, and wait until it is ready.

        Args:
            kubeconfig: Who it is; by default who may be what it has to.
            waits_for_ready: Whether it has to become ready; otherwise it has to answer.

        Raises:
            PartFailed: It is not.
        """
        port, parts = free_port(), ExitStack()
        log = self.directory / f"image-api-server-{port}.log"
        command = [
            *self.program,
            *("--listen", f"127.0.0.1:{port}", "--kubeconfig", kubeconfig or self.kubeconfig),
            *("--tls-certificate", self.tls.certificate, "--tls-key", self.tls.key),
            *("--registry", REGISTRY),
            *("--drain-delay", "2s", "--drain-timeout", "5s"),
            *self.arguments,
        ]

        def is_up() -> bool:
            return self._is_ready(port) if waits_for_ready else listens(port)

        process = parts.enter_context(started(command, log=log, ready=is_up))
        replica = Replica(port, process, log, parts)
        self.replicas.append(replica)
        self._announce()
        return replica

    def stop(self, *replicas: Replica) -> None:
        """End replicas, as a rollout does: their connections go first."""
        for replica in replicas:
            self.replicas.remove(replica)
            # Until it says itself that it is not ready, it gets connections.
            replica.process.terminate()
        for replica in replicas:
            replica.process.wait(30)
        self._announce()
        for replica in replicas:
            replica.parts.close()

    def stop_all(self) -> None:
        """End all replicas, together: each takes its time."""
        self.stop(*self.replicas)

    def client(
        self, replica: Replica, pair: CertificatePair | None = None, **options: Any
    ) -> httpx.Client:
        """Return a client that asks a replica directly.

        Args:
            replica: Which one.
            pair: The client's certificate.
            options: Those of httpx, such as ``headers``.
        """
        context = ssl.create_default_context(cafile=self.tls.authority)
        if pair is not None:
            context.load_cert_chain(pair.certificate, pair.key)
        return httpx.Client(base_url=replica.url, verify=context, timeout=30, **options)

    def wait_available(self, *, is_available: bool = True) -> None:
        """Wait until kube-apiserver finds that it is served, or that it is not.

        Raises:
            PartFailed: It does not.
        """
        wanted = "True" if is_available else "False"
        wait_until(lambda: self.condition()["status"] == wanted, f"{API_SERVICE} to be {wanted}")
        if is_available:
            # Discovery follows a moment later.
            wait_until(lambda: self.plane.api.get(API).is_success, f"an answer at {API}")
            wait_until(self._is_discovered, f"{API} in what is discovered")

    def _is_discovered(self) -> bool:
        """Whether kubectl finds our kinds: kube-apiserver fetches the list apart."""
        accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
        found = self.plane.api.get("/apis", headers={"Accept": accept}).json()
        return any(
            version.get("freshness") == "Current"
            for group in found.get("items", ())
            if group["metadata"]["name"] == "image.alauda.io"
            for version in group["versions"]
        )

    def condition(self) -> dict[str, Any]:
        """Return what kube-apiserver says of it: its condition ``Available``."""
        path = f"/apis/apiregistration.k8s.io/v1/apiservices/{API_SERVICE}"
        found = self.plane.api.get(path).json()
        for condition in found.get("status", {}).get("conditions", ()):
            if condition["type"] == "Available":
                return dict(condition)
        return {"status": "Unknown", "reason": "", "message": ""}

    def _is_ready(self, port: int) -> bool:
        try:
            context = ssl.create_default_context(cafile=self.tls.authority)
            with httpx.Client(verify=context) as client:
                return client.get(f"https://127.0.0.1:{port}/readyz").is_success
        except httpx.TransportError:
            return False

    def _announce(self) -> None:
        self.service.set_replicas([replica.port for replica in self.replicas])


@contextmanager
def running(
    plane: ControlPlane,
    directory: Path,
    *,
    replicas: int = 1,
    arguments: Sequence[str | Path] = (),
    program: Sequence[str] = PROGRAM,
    is_registered: bool = True,
    is_direct: bool = False,
) -> Iterator[ImageApi]:
    """Run replicas for the length of a ``with`` block, and register them.

    Args:
        plane: The cluster that they belong to.
        directory: For logs, certificates and objects.
        replicas: How many.
        arguments: More flags of ``image-api-server``.
        program: What is started in its place.
        is_registered: Whether kube-apiserver is told of them, by an APIService.
        is_direct: Whether it is led straight to the first of them. What stands for kube-proxy
            here takes longer than the kernel does, and that would be measured.

    Raises:
        PartFailed: They did not come up, or kube-apiserver does not reach them.
    """
    directory.mkdir(parents=True, exist_ok=True)
    kubeconfig = record_store.install(plane)
    plane.apply(*_rights())
    tls = Authority().issue(directory / "certificates", name=f"{ACCOUNT}.{NAMESPACE}.svc")
    with service.running(tls.authority) as leading:
        api = ImageApi(plane, directory, kubeconfig, tls, leading, arguments, program)
        try:
            for _ in range(replicas):
                api.start()
            if not is_registered:
                yield api
                return
            plane.apply(*_registration(api, api.replicas[0].port if is_direct else leading.port))
            try:
                api.wait_available()
                yield api
            finally:
                # First of all: while nobody answers, no namespace of the cluster can be deleted.
                plane.kubectl("delete", "apiservice", API_SERVICE, "--ignore-not-found")
                _wait_forgotten(plane)
        finally:
            api.stop_all()


def _wait_forgotten(plane: ControlPlane) -> None:
    def is_forgotten() -> bool:
        return plane.api.get(API).status_code == httpx.codes.NOT_FOUND

    deadline = time.monotonic() + 30
    while not is_forgotten():
        if time.monotonic() > deadline:
            raise PartFailed(f"{API} is still served")
        time.sleep(0.05)


def _registration(api: ImageApi, port: int) -> list[dict[str, Any]]:
    """What is shipped, but for the Service: there is no pod that it could lead to."""
    bundle = base64.b64encode(api.tls.authority.read_bytes()).decode()
    (shipped,) = manifests.render("image-api-service")
    (registered,) = manifests.render("image-api-apiservice", CA_BUNDLE=bundle)
    registered["spec"]["service"]["port"] = port
    leading = {"type": "ExternalName", "externalName": "localhost"}
    return [{**shipped, "spec": leading}, registered]


def _rights() -> list[dict[str, Any]]:
    """What the account may do besides keeping records, as a cluster is told."""
    return [*manifests.render("image-api-access"), *manifests.render("image-api-flow")]
