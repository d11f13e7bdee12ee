"""What it costs to let a cluster decide who may read: when it is known, and when it is not."""

import base64
import http.client
import json
import ssl
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from conformance.benchmarks import servers
from conformance.benchmarks.bench import Bench, seeded
from conformance.benchmarks.client import Connection, Request
from conformance.benchmarks.content import MANIFEST_TYPE
from conformance.benchmarks.images import push_image
from conformance.benchmarks.load import CONNECTIONS, get_rate
from conformance.benchmarks.results import Row, Section
from conformance.benchmarks.samples import Samples
from conformance.benchmarks.scenarios.token_reads import by_token
from conformance.benchmarks.servers import Configured, Server
from tests.parts import cluster_registry, control_plane
from tests.parts.control_plane import ControlPlane

GET = "GET manifest by tag, decided by a cluster"
KNOWN = "what a known decision costs of GET manifest by tag"
COLD = "a decision nobody knows yet, over the two API calls alone"
TARGET = 2.5
MOST_LOST = 30.0
MOST_TIMES = 1.5
ACCOUNTS = 100
"""Service accounts that nobody has seen before, for each round and side."""

METHOD = (
    "The registry runs in the mode `kubernetes` beside a kube-apiserver on loopback. Known: "
    f"{CONNECTIONS} connections ask for one manifest by tag, by `wrk`, with a token of ours; "
    "distribution, which has no such mode, runs in the mode `token` and is shown one of those; "
    "lost is the part of our rate without authentication in the same rounds. Not known: a manifest "
    f"is asked for with each of {ACCOUNTS} tokens of service accounts that nobody has seen, one "
    "after the other, and between them TokenReview and SubjectAccessReview are posted for as many "
    "others over one connection; the time of all is divided by the time of the others."
)
_GROUP = "image.alauda.io"
_NAMESPACE, _STREAM = "bench", "guarded"


class ApiCalls:
    """The two questions of a decision, asked over one connection and with nothing around them."""

    def __init__(self, plane: ControlPlane, token: str) -> None:
        _, _, address = plane.url.partition("//")
        context = ssl.create_default_context(cafile=plane.authority)
        self._connection = http.client.HTTPSConnection(address, context=context)
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def decide(self, token: str) -> None:
        """Ask who a token belongs to, and whether they may."""
        user = self._ask("authentication.k8s.io", "TokenReview", {"token": token})["user"]
        spec = {
            "user": user["username"],
            "groups": user["groups"],
            "resourceAttributes": {
                "verb": "get",
                "group": _GROUP,
                "resource": "imagestreams",
                "subresource": "layers",
                "namespace": _NAMESPACE,
                "name": _STREAM,
            },
        }
        assert self._ask("authorization.k8s.io", "SubjectAccessReview", spec)["allowed"]

    def _ask(self, group: str, kind: str, spec: Mapping[str, Any]) -> dict[str, Any]:
        body = json.dumps({"apiVersion": f"{group}/v1", "kind": kind, "spec": spec})
        path = f"/apis/{group}/v1/{kind.lower()}s"
        self._connection.request("POST", path, body, self._headers)
        status: dict[str, Any] = json.load(self._connection.getresponse())["status"]
        return status


def run(bench: Bench) -> Section:
    """Measure requests a second, and decisions."""
    layers = [bench.content.random(4096)]
    image = bench.content.image(f"{_NAMESPACE}/{_STREAM}", "latest", layers)
    target = f"/v2/{image.repository}/manifests/{image.tag}"
    with ExitStack() as stack:
        plane = stack.enter_context(control_plane.running(bench.directory / "control-plane"))
        kubeconfig = _prepare(plane)
        settings = (("REGISTRY_AUTH_KUBERNETES_KUBECONFIG", str(kubeconfig)),)
        ours = Configured(bench.ours, settings, "ours in a cluster")
        asked = ApiCalls(plane, json.loads(kubeconfig.read_text())["users"][0]["user"]["token"])
        # Filled while everybody may push.
        roots = {
            server: stack.enter_context(
                seeded(bench, server, lambda running: push_image(running.port, image))
            )
            for server in bench.registries
        }
        theirs, token = by_token(bench.directory / "jwks.json", image)
        peer = Configured(bench.peer, theirs, "distribution with tokens")

        def measure(server: Server) -> Mapping[str, float]:
            root = roots[bench.peer if server is peer else bench.ours]
            with servers.started(server, root) as running:
                headers = {"Accept": MANIFEST_TYPE}
                if server is not bench.ours:
                    shown = token if server is peer else _token(running.port, plane)
                    headers["Authorization"] = f"Bearer {shown}"
                found = {KNOWN: get_rate(running.port, target, headers, bench.seconds)}
                if server is ours:
                    found[COLD] = _times(running.port, target, plane, asked)
                return found

        found = bench.collect([ours, bench.ours, peer], measure)
    rates = found[KNOWN]
    kept = rates[ours].over(rates[bench.ours])
    lost = Samples.of([100 * (1 - part) for part in kept.values])
    return Section(
        "Who is asking, in a cluster",
        METHOD,
        [
            Row(GET, "requests/s", rates[ours], rates[peer], target=TARGET),
            Row(KNOWN, "%", lost, limit=MOST_LOST, higher_is_better=False),
            Row(COLD, "times", found[COLD][ours], limit=MOST_TIMES, higher_is_better=False),
        ],
    )


def _prepare(plane: ControlPlane) -> Path:
    """Let all service accounts of a namespace pull there; who the registry is."""
    cluster_registry.apply_cluster_roles(plane)
    plane.kubectl("create", "namespace", _NAMESPACE)
    plane.bind("system:image-puller", _NAMESPACE, group=f"system:serviceaccounts:{_NAMESPACE}")
    return cluster_registry.new_account(plane)


def _new_tokens(plane: ControlPlane, count: int) -> list[str]:
    tokens = []
    for _ in range(count):
        name = f"account-{time.monotonic_ns()}"
        plane.service_account(_NAMESPACE, name)
        tokens.append(plane.token(_NAMESPACE, name))
    return tokens


def _basic(token: str) -> str:
    return f"Basic {base64.b64encode(f'x:{token}'.encode()).decode()}"


def _token(port: int, plane: ControlPlane) -> str:
    """A token of ours, for a minute."""
    (account,) = _new_tokens(plane, 1)
    with Connection(port) as connection:
        asked = Request("GET", "/token", {"Authorization": _basic(account)})
        return str(json.loads(connection.ask(asked, 200, keep=True).body)["token"])


def _times(port: int, target: str, plane: ControlPlane, asked: ApiCalls) -> float:
    ours = alone = 0.0
    tokens = _new_tokens(plane, 2 * ACCOUNTS + 2)
    with Connection(port) as connection:
        for number, (one, other) in enumerate(zip(tokens[::2], tokens[1::2], strict=True)):
            began = time.perf_counter()
            asked.decide(one)
            middle = time.perf_counter()
            connection.ask(Request("GET", target, {"Authorization": _basic(other)}), 200)
            # The first opens connections to the API server.
            if number > 0:
                alone += middle - began
                ours += time.perf_counter() - middle
    return ours / alone
