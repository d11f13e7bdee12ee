"""The image API in a cluster, beside a custom resource of the same control plane."""

import http.client
import json
import re
import ssl
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.resources import files
from statistics import median
from typing import Any

from conformance.benchmarks.bench import Bench
from conformance.benchmarks.load import LoadFailed, find_program
from conformance.benchmarks.results import Row, Section
from tests.parts import control_plane, image_api, registry
from tests.parts.control_plane import ControlPlane
from tests.parts.processes import wait_until

OBJECTS = 500
CREATES = 100
MANY = 8
LEAST_RATE = 0.2
MOST_TIMES = 3.0
MOST_TIMES_ALONE = 1.0

METHOD = (
    f"{OBJECTS} image streams with three tags each, and as many custom resources of the same "
    "content, are asked for by a user with the role `cluster-admin` through one kube-apiserver. "
    "Two replicas of ours follow what happens, and requests go to one of them. Rates are those of "
    f"`wrk` with {MANY} connections, times the medians at one; creates are the median of "
    f"{CREATES}, one after the other. In the last row ours is the standalone registry's API, over "
    "SQLite, asked directly. Under distribution stands the custom resource. etcd and SQLite wait "
    "for the disk."
)
_READS = {
    "GET": ("/s7", ""),
    "GET with `resourceVersion=0`": ("/s7", "?resourceVersion=0"),
    f"LIST of {OBJECTS}": ("", ""),
    f"LIST of {OBJECTS} with `resourceVersion=0`": ("", "?resourceVersion=0"),
}
_NAMESPACE = "bench"


@dataclass(frozen=True, slots=True)
class Group:
    """What is asked for: one of two groups with the same resource."""

    name: str

    @property
    def path(self) -> str:
        """The path of the objects."""
        return f"/apis/{self.name}/v1/namespaces/{_NAMESPACE}/imagestreams"

    def object(self, name: str) -> bytes:
        """Return an object as it is sent."""
        tags = [
            {"name": f"v{number}", "from": {"kind": "DockerImage", "name": f"q.io/a/b:{number}"}}
            for number in range(3)
        ]
        document = {
            "apiVersion": f"{self.name}/v1",
            "kind": "ImageStream",
            "metadata": {"name": name, "labels": {"of": "bench"}},
            "spec": {"lookupPolicy": {"local": False}, "tags": tags},
        }
        return json.dumps(document).encode()


OURS, CUSTOM = Group("image.alauda.io"), Group("example.com")


class User:
    """Somebody who asks kube-apiserver over one connection.

    Args:
        plane: The control plane.
        token: Whose.
    """

    def __init__(self, plane: ControlPlane, token: str) -> None:
        self.url = plane.url
        self.headers = {"Authorization": f"Bearer {token}"}
        context = ssl.create_default_context(cafile=plane.authority)
        self._connection = http.client.HTTPSConnection(
            plane.url.partition("//")[2], context=context
        )

    def post(self, path: str, body: bytes) -> float:
        """Make an object, and return how many milliseconds that took."""
        return _post(self._connection, path, body, self.headers)

    def get(self, path: str) -> bytes:
        """Return the body of an answer."""
        self._connection.request("GET", path, headers=self.headers)
        answer = self._connection.getresponse()
        body = answer.read()
        if answer.status != http.client.OK:
            raise LoadFailed(f"GET {path}: {answer.status} {body[:500]!r}")
        return body

    def load(self, path: str, connections: int, seconds: float) -> tuple[float, float]:
        """Return requests a second, and the median of their milliseconds."""
        # A list may take longer than a rate of small things is measured for.
        duration = max(3, round(seconds))
        command = [find_program("wrk"), "-t1", f"-c{connections}", f"-d{duration}s"]
        for name, value in self.headers.items():
            command += ["-H", f"{name}: {value}"]
        command += ["--latency", "--timeout", "30s", f"{self.url}{path}"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        rate = re.search(r"^Requests/sec:\s*([0-9.]+)", said, re.MULTILINE)
        middle = re.search(r"^\s*50%\s+([0-9.]+)(us|ms|s)\s*$", said, re.MULTILINE)
        is_spoilt = "Non-2xx" in said or "Socket errors" in said
        if is_spoilt or rate is None or middle is None or float(rate.group(1)) == 0:
            raise LoadFailed(f"GET {path}: {said}")
        unit = {"us": 0.001, "ms": 1.0, "s": 1000.0}[middle.group(2)]
        return float(rate.group(1)), float(middle.group(1)) * unit


def run(bench: Bench) -> Section:
    """Measure reads and creates."""
    with ExitStack() as stack:
        plane = stack.enter_context(
            control_plane.running(bench.directory / "image-api-plane", is_durable=True)
        )
        stack.enter_context(
            image_api.running(plane, bench.directory / "image-api", replicas=2, is_direct=True)
        )
        user = _prepare(plane)
        alone = stack.enter_context(_standalone(bench))

        def measure(group: Group) -> Mapping[str, float]:
            found = {}
            for what, (name, query) in _READS.items():
                path = f"{group.path}{name}{query}"
                found[f"{what}, rate"], _ = user.load(path, MANY, bench.seconds)
                _, found[f"{what}, time"] = user.load(path, 1, bench.seconds)
            bodies = [group.object(f"made-{uuid.uuid4().hex}") for _ in range(CREATES)]
            found["create"] = median([user.post(group.path, body) for body in bodies])
            if group is OURS:
                headers: dict[str, str] = {}
                found["create alone"] = median(
                    [_post(alone, group.path, body, headers) for body in bodies]
                )
            _remove(plane, group)
            return found

        found = bench.collect([OURS, CUSTOM], measure)
    rows = []
    for what in _READS:
        rate, took = found[f"{what}, rate"], found[f"{what}, time"]
        rows += [
            Row(f"{what}, {MANY} connections", "req/s", rate[OURS], rate[CUSTOM], LEAST_RATE),
            Row(
                *(f"{what}, one connection", "ms", took[OURS], took[CUSTOM], 1 / MOST_TIMES),
                higher_is_better=False,
            ),
        ]
    custom = found["create"][CUSTOM]
    rows += [
        Row(
            *("create", "ms", found["create"][OURS], custom, 1 / MOST_TIMES),
            higher_is_better=False,
        ),
        Row(
            *("create, standalone", "ms", found["create alone"][OURS], custom),
            target=1 / MOST_TIMES_ALONE,
            higher_is_better=False,
        ),
    ]
    return Section("The image API, beside a custom resource", METHOD, rows)


def _prepare(plane: ControlPlane) -> User:
    """Make what is asked for, and somebody who asks."""
    definition = json.loads(
        files("conformance.imageapi").joinpath("custom_resource.json").read_text()
    )
    plane.apply(definition)
    plane.kubectl("wait", "--for=condition=Established", f"crd/{definition['metadata']['name']}")
    plane.kubectl("create", "namespace", _NAMESPACE)
    plane.service_account(_NAMESPACE, "reader")
    plane.bind("cluster-admin", None, account=f"{_NAMESPACE}:reader")
    wait_until(lambda: plane.api.get(CUSTOM.path).is_success, "the custom resource")
    user = User(plane, plane.token(_NAMESPACE, "reader"))
    for group in (OURS, CUSTOM):
        for number in range(OBJECTS):
            user.post(group.path, group.object(f"s{number}"))
    return user


def _remove(plane: ControlPlane, group: Group) -> None:
    """Delete what was made in a round, so that lists stay as long as they are."""
    listed: dict[str, Any] = plane.api.get(group.path).raise_for_status().json()
    for item in listed["items"]:
        name = item["metadata"]["name"]
        if name.startswith("made-"):
            plane.api.delete(f"{group.path}/{name}").raise_for_status()


@contextmanager
def _standalone(bench: Bench) -> Iterator[http.client.HTTPConnection]:
    """Have a connection to the standalone registry's image API."""
    directory = bench.directory / "image-api-alone"
    directory.mkdir()
    with registry.running(directory, arguments=["--image-api"]) as server:
        connection = http.client.HTTPConnection(server.address)
        yield connection
        connection.close()


def _post(
    connection: http.client.HTTPConnection, path: str, body: bytes, headers: Mapping[str, str]
) -> float:
    began = time.perf_counter()
    connection.request("POST", path, body, {**headers, "Content-Type": "application/json"})
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != http.client.CREATED:
        raise LoadFailed(f"POST {path}: {answer.status} {content[:500]!r}")
    return 1000 * (time.perf_counter() - began)
