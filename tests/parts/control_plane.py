"""Starts a Kubernetes control plane on loopback: everything of a cluster but nodes.

etcd, kube-apiserver, kube-controller-manager and kube-scheduler are the real ones. Namespaces get
their service accounts, tokens are signed and reviewed, RBAC decides, garbage is collected; pods
stay pending. Each plane has its own ports, certificates and folder.

An aggregated API server of the tests is reached through a Service of type ``ExternalName`` with
``localhost``: with ``--enable-aggregator-routing`` kube-apiserver refuses that type, and
addresses of EndpointSlices must not be loopback, so the flag is left to planes that run in a
network namespace (``arguments``).
"""

import json
import ssl
import subprocess
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.parts.certificates import Authority, CertificatePair
from tests.parts.processes import (
    PartFailed,
    free_ports,
    inherited,
    listens,
    run,
    started,
    wait_until,
)
from tests.parts.tools import find

PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
"""What a test has to ask for before it starts one."""

MEMBER, MEMBER_TOKEN = "member-of-many-groups", "token-of-the-member-of-many-groups"
MANY_GROUPS = tuple(f"a-department-of-a-large-company-{number:04}" for number in range(600))
"""Of a user whose groups fill no HTTP header, as a company's directory gives them to some."""

ISSUER = "https://kubernetes.default.svc.cluster.local"
"""Signs service account tokens, and is their audience unless another one is asked for."""


@dataclass(frozen=True)
class ControlPlane:
    """A running control plane, and how to become somebody in it.

    Args:
        url: Of kube-apiserver.
        directory: For kubeconfigs, certificates and logs.
        users: Signs client certificates, and kube-apiserver's own.
        front_proxy: Signs the certificate that kube-apiserver shows to aggregated servers.
        admin: The kubeconfig of a member of ``system:masters``.
        apiserver: The process id of kube-apiserver.
        etcd: The URL of what it keeps everything in.
    """

    url: str
    directory: Path
    users: Authority
    front_proxy: Authority
    admin: Path
    apiserver: int
    etcd: str

    @property
    def authority(self) -> Path:
        """The PEM file with what signed kube-apiserver's certificate and those of users."""
        return self.directory / "admin" / "ca.crt"

    @cached_property
    def api(self) -> httpx.Client:
        """The API as the administrator sees it, for what kubectl would take too long for."""
        folder = self.authority.parent
        context = ssl.create_default_context(cafile=self.authority)
        context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
        return httpx.Client(base_url=self.url, verify=context, timeout=30)

    def kubectl(
        self, *arguments: str | Path, kubeconfig: Path | None = None, stdin: str = ""
    ) -> str:
        """Run kubectl and return its standard output.

        Args:
            arguments: Those of kubectl.
            kubeconfig: Who runs it; by default the administrator.
            stdin: What ``--filename=-`` reads.

        Raises:
            PartFailed: It failed.
        """
        return run(
            self._command(arguments, kubeconfig), stdin=stdin, environment=self._environment()
        ).stdout

    def can_i(self, *arguments: str, kubeconfig: Path | None = None) -> bool:
        """Return what ``kubectl auth can-i`` says.

        Raises:
            PartFailed: kube-apiserver does not know such a resource, and kubectl has asked for
                something else instead.
        """
        command = self._command(("auth", "can-i", *arguments), kubeconfig)
        said = run(command, check=False, environment=self._environment())
        if said.stdout.strip() not in ("yes", "no") or "have a resource type" in said.stderr:
            raise PartFailed(said.stdout + said.stderr)
        return said.returncode == 0

    def allows(self, user: str, *, groups: Sequence[str] = (), **attributes: str) -> bool:
        """Return whether somebody may do something, whether there are such resources or not."""
        spec = {"user": user, "groups": [*groups], "resourceAttributes": attributes}
        review = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        return bool(self._create(review, {"spec": spec})["status"]["allowed"])

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """Apply objects as the administrator, by ``kubectl apply``.

        Raises:
            PartFailed: kube-apiserver refused one.
        """
        items = {"apiVersion": "v1", "kind": "List", "items": [*objects]}
        self.kubectl("apply", "--filename=-", stdin=json.dumps(items))

    def new_namespace(self, prefix: str = "test") -> str:
        """Create a namespace that nobody else uses, and return its name."""
        name = f"{prefix}-{uuid.uuid4().hex[:10]}"
        self._create("/api/v1/namespaces", {"metadata": {"name": name}})
        return name

    def service_account(self, namespace: str, name: str) -> None:
        """Create a service account."""
        self._create(
            f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": name}}
        )

    def token(
        self, namespace: str, name: str, *, seconds: int = 3600, audiences: Sequence[str] = ()
    ) -> str:
        """Return a token of a service account, as the kubelet asks for it (TokenRequest).

        Args:
            namespace: Of the service account.
            name: Of the service account.
            seconds: How long it is good for, 600 at least.
            audiences: Who is meant to take it; by default kube-apiserver.
        """
        answer = self._create(
            f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token",
            {"spec": {"expirationSeconds": seconds, "audiences": [*audiences]}},
        )
        return str(answer["status"]["token"])

    def bind(self, role: str, namespace: str | None, **subject: str) -> None:
        """Bind a ClusterRole in one namespace, or in all.

        Args:
            role: The ClusterRole.
            namespace: Where it holds; None for the whole cluster.
            subject: ``user`` or ``group``, or ``account`` as ``NAMESPACE:NAME``.
        """
        (kind, name), *_ = subject.items()
        reference: dict[str, str] = {"kind": "User", "name": name}
        if kind == "group":
            reference["kind"] = "Group"
        elif kind == "account":
            home, _, account = name.partition(":")
            reference = {"kind": "ServiceAccount", "namespace": home, "name": account}
        rbac = "/apis/rbac.authorization.k8s.io/v1"
        path = f"namespaces/{namespace}/rolebindings" if namespace else "clusterrolebindings"
        self._create(
            f"{rbac}/{path}",
            {
                "metadata": {"name": f"binding-{uuid.uuid4().hex[:10]}"},
                "roleRef": {
                    "apiGroup": "rbac.authorization.k8s.io",
                    "kind": "ClusterRole",
                    "name": role,
                },
                "subjects": [reference],
            },
        )

    def user(self, name: str, groups: Sequence[str] = ()) -> Path:
        """Return the kubeconfig of a user with a client certificate."""
        folder = self.directory / f"user-{uuid.uuid4().hex[:10]}"
        return self._kubeconfig(
            folder, _with(self.users.issue_to_user(folder, name=name, groups=groups))
        )

    def kubeconfig(self, token: str) -> Path:
        """Return the kubeconfig of whom a token belongs to."""
        return self._kubeconfig(self.directory / f"token-{uuid.uuid4().hex[:10]}", {"token": token})

    @contextmanager
    def without_room(self) -> Iterator[None]:
        """Have etcd take nothing more for the length of a block, as when its quota is used up."""
        alarm = {"alarm": "NOSPACE", "memberID": "1"}
        url = f"{self.etcd}/v3/maintenance/alarm"
        httpx.post(url, json={"action": "ACTIVATE", **alarm}, timeout=30).raise_for_status()
        try:
            yield
        finally:
            httpx.post(url, json={"action": "DEACTIVATE", **alarm}, timeout=30).raise_for_status()

    def requests(self, resource: str) -> int:
        """Return how many requests about a resource kube-apiserver has answered so far."""
        lines = self.api.get("/metrics").raise_for_status().text.splitlines()
        counted = [
            line.rsplit(" ", 1)[1]
            for line in lines
            if line.startswith("apiserver_request_total{") and f'resource="{resource}"' in line
        ]
        return int(sum(map(float, counted)))

    def _create(self, path: str, content: Mapping[str, Any]) -> dict[str, Any]:
        answer = self.api.post(path, json=content)
        assert answer.is_success, answer.text
        created: dict[str, Any] = answer.json()
        return created

    def _kubeconfig(self, folder: Path, user: Mapping[str, str]) -> Path:
        folder.mkdir(exist_ok=True)
        return write_kubeconfig(folder / "kubeconfig", self.url, self.authority, user)

    def _command(
        self, arguments: Sequence[str | Path], kubeconfig: Path | None
    ) -> list[str | Path]:
        return [find("kubectl"), "--kubeconfig", kubeconfig or self.admin, *arguments]

    def _environment(self) -> dict[str, str]:
        # Where it keeps what it has discovered.
        return inherited(HOME=str(self.directory))


@contextmanager
def running(
    directory: Path, *, arguments: Sequence[str] = (), is_durable: bool = False
) -> Iterator[ControlPlane]:
    """Run one for the length of a ``with`` block.

    Args:
        directory: For its data, certificates, kubeconfigs and logs.
        arguments: More flags of kube-apiserver.
        is_durable: Whether etcd waits for the disk, as in a cluster.

    Raises:
        MissingPart: A program is not on this machine.
        PartFailed: It did not come up.
    """
    directory.mkdir(parents=True, exist_ok=True)
    etcd, peer, secure, manager, scheduler = free_ports(5)
    url = f"https://127.0.0.1:{secure}"
    users, front_proxy = Authority(), Authority()
    admin = users.issue_to_user(directory / "admin", name="admin", groups=["system:masters"])
    server = users.issue(directory / "apiserver")
    config = write_kubeconfig(directory / "admin.kubeconfig", url, admin.authority, _with(admin))
    with ExitStack() as parts:
        started_here: list[subprocess.Popen[bytes]] = []
        start = partial(_start, parts, directory, started_here)
        unsafe = () if is_durable else ("--unsafe-no-fsync",)
        start([*_etcd(directory, etcd, peer), *unsafe], lambda: listens(etcd))
        command = _apiserver(directory, etcd, secure, server, front_proxy)
        apiserver = start([*command, *arguments], lambda: listens(secure))
        kept = f"http://127.0.0.1:{etcd}"
        plane = ControlPlane(url, directory, users, front_proxy, config, apiserver.pid, kept)
        parts.callback(plane.api.close)
        # They are refused what they ask for before its own roles are there, and give up.
        wait_until(lambda: _are_ready(plane.api, f"{url}/readyz"), "kube-apiserver")
        for name, port, flags in (
            ("kube-controller-manager", manager, _controllers(directory, server)),
            ("kube-scheduler", scheduler, ()),
        ):
            pair = users.issue_to_user(directory / name, name=f"system:{name}")
            theirs = pair.certificate.with_name("kubeconfig")
            write_kubeconfig(theirs, url, server.authority, _with(pair))
            start([*_client(name, theirs, port, server), *flags])
        health = [f"https://127.0.0.1:{port}/healthz" for port in (manager, scheduler)]
        wait_until(lambda: _are_ready(plane.api, *health), f"the programs logging to {directory}")
        # Politely, they would take ten seconds to put things in order that nobody needs any more.
        for process in started_here:
            parts.callback(process.kill)
        yield plane


def write_kubeconfig(path: Path, url: str, authority: Path | None, user: Mapping[str, str]) -> Path:
    """Write a kubeconfig of one user at one cluster, and return its path."""
    cluster = {"server": url}
    if authority is not None:
        cluster["certificate-authority"] = str(authority)
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "it", "cluster": cluster}],
        "users": [{"name": "me", "user": dict(user)}],
        "contexts": [{"name": "here", "context": {"cluster": "it", "user": "me"}}],
        "current-context": "here",
    }
    # JSON is YAML.
    path.write_text(json.dumps(content))
    return path


def _start(
    parts: ExitStack,
    directory: Path,
    processes: list[subprocess.Popen[bytes]],
    command: Sequence[str | Path],
    ready: Callable[[], bool] = lambda: True,
) -> subprocess.Popen[bytes]:
    log = directory / f"{Path(command[0]).name}.log"
    process = parts.enter_context(started(command, log=log, ready=ready))
    processes.append(process)
    return process


def _with(pair: CertificatePair) -> dict[str, str]:
    return {"client-certificate": str(pair.certificate), "client-key": str(pair.key)}


def _etcd(directory: Path, port: int, peer: int) -> list[str | Path]:
    own, other = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer}"
    return [
        find("etcd"),
        *("--data-dir", directory / "etcd", "--logger=zap"),
        *("--listen-client-urls", own, "--advertise-client-urls", own),
        *("--listen-peer-urls", other, "--initial-advertise-peer-urls", other),
        *("--initial-cluster", f"default={other}"),
    ]


def _apiserver(
    directory: Path, etcd: int, port: int, server: CertificatePair, front_proxy: Authority
) -> list[str | Path]:
    proxy = front_proxy.issue_to_user(directory / "front-proxy", name="front-proxy-client")
    accounts = _write_key(directory / "service-accounts.key")
    return [
        find("kube-apiserver"),
        f"--etcd-servers=http://127.0.0.1:{etcd}",
        *("--bind-address=127.0.0.1", f"--secure-port={port}"),
        # A loopback address can't be one of the Service kubernetes.
        *("--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none"),
        *(f"--tls-cert-file={server.certificate}", f"--tls-private-key-file={server.key}"),
        f"--client-ca-file={server.authority}",
        f"--token-auth-file={_write_tokens(directory / 'tokens.csv')}",
        f"--requestheader-client-ca-file={proxy.authority}",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        "--requestheader-uid-headers=X-Remote-Uid",
        f"--proxy-client-cert-file={proxy.certificate}",
        f"--proxy-client-key-file={proxy.key}",
        f"--service-account-issuer={ISSUER}",
        f"--service-account-key-file={accounts}",
        f"--service-account-signing-key-file={accounts}",
        "--service-cluster-ip-range=10.96.0.0/16",
        "--authorization-mode=Node,RBAC",
        "--profiling=false",
    ]


def _client(name: str, kubeconfig: Path, port: int, server: CertificatePair) -> list[str | Path]:
    return [
        find(name),
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        *("--bind-address=127.0.0.1", f"--secure-port={port}"),
        *(f"--tls-cert-file={server.certificate}", f"--tls-private-key-file={server.key}"),
        *("--leader-elect=false", "--kube-api-qps=500", "--kube-api-burst=1000"),
        # As clusters have it: they say what they follow.
        "--v=2",
    ]


def _controllers(directory: Path, server: CertificatePair) -> list[str]:
    return [
        "--use-service-account-credentials=true",
        f"--root-ca-file={server.authority}",
        f"--service-account-private-key-file={directory / 'service-accounts.key'}",
    ]


def _are_ready(client: httpx.Client, *urls: str) -> bool:
    try:
        return all(client.get(url).is_success for url in urls)
    except httpx.TransportError:
        return False


def _write_tokens(path: Path) -> Path:
    path.write_text(f'{MEMBER_TOKEN},{MEMBER},uid-of-the-member,"{",".join(MANY_GROUPS)}"\n')
    return path


def _write_key(path: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            # The only form of an EC key that kube-apiserver reads.
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    return path
