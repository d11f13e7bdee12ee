"""A thousand watches: how long it takes until they have what was written, and what they cost."""

import http.client
import json
import ssl
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from importlib.resources import files
from statistics import quantiles
from threading import local
from urllib.parse import quote, urlencode

from conformance.benchmarks import watchers
from conformance.benchmarks.bench import Bench
from conformance.benchmarks.load import LoadFailed
from conformance.benchmarks.results import Row, Section
from conformance.benchmarks.samples import Samples
from conformance.benchmarks.scenarios.api_requests import CUSTOM, OURS, Group, User
from tests.parts import control_plane, image_api
from tests.parts.control_plane import ControlPlane
from tests.parts.processes import peak_memory, wait_until

WATCHES, FEW = 1_000, 100
GROUPS = 50
"""Of watchers; each watches what has the label of its group, and what has the label of all."""

ALL = "all"
WRITES_FOR_ALL, WRITES = 5, 50
"""A second."""

SECONDS = 12
WRITERS = 8
MOST_TIMES = 3.0
MOST_MILLISECONDS = 250.0
MOST_MEMORY = 300.0
_NAMESPACE = "bench"


def run(bench: Bench) -> Section:
    """Measure how long events take."""
    count = FEW if bench.quick else WATCHES
    with ExitStack() as stack:
        plane = stack.enter_context(control_plane.running(bench.directory / "watches-plane"))
        api = stack.enter_context(image_api.running(plane, bench.directory / "watches-api"))
        token = _prepare(plane)

        def measure(group: Group) -> Mapping[str, float]:
            with watchers.running(_plan(plane, group, token, count)) as watching:
                events = _write(plane, group, token, count)
                delays = watching.finish(events)
            cuts = quantiles(delays, n=100)
            return {"median": cuts[49], "99": cuts[98]}

        found = bench.collect([OURS, CUSTOM], measure)
        peak = peak_memory(api.replicas[0].process.pid) / 1e6
    each = count // GROUPS
    method = (
        f"{count:,} watches of image streams, with label selectors, by a user with the role "
        "`cluster-admin` through one kube-apiserver; one replica of ours is behind it. "
        f"{WRITES} times a second a stream is patched that {each} of them select, and "
        f"{WRITES_FOR_ALL} times a second one that all do, for {SECONDS} s; every watcher "
        "has to have every event. An event takes from the moment at which the patch is sent "
        "until a watcher has read it. Memory is that of our process at its peak. Under "
        "distribution stands a custom resource of the same content."
    )
    slowest = found["99"]
    return Section(
        "A thousand watches",
        method,
        [
            Row(
                *("event, median", "ms", found["median"][OURS], found["median"][CUSTOM]),
                target=1 / MOST_TIMES,
                higher_is_better=False,
            ),
            Row(
                *("event, 99 of 100", "ms", slowest[OURS], slowest[CUSTOM]),
                target=1 / MOST_TIMES,
                higher_is_better=False,
            ),
            Row(
                *("event, 99 of 100, by itself", "ms", slowest[OURS]),
                limit=MOST_MILLISECONDS,
                higher_is_better=False,
            ),
            Row(
                *("memory at the peak", "MB", Samples.of([peak])),
                limit=MOST_MEMORY,
                higher_is_better=False,
            ),
        ],
    )


def _prepare(plane: ControlPlane) -> str:
    """Make what is watched; return the token of somebody who watches it."""
    definition = json.loads(
        files("conformance.imageapi").joinpath("custom_resource.json").read_text()
    )
    plane.apply(definition)
    plane.kubectl("wait", "--for=condition=Established", f"crd/{definition['metadata']['name']}")
    plane.kubectl("create", "namespace", _NAMESPACE)
    plane.service_account(_NAMESPACE, "watcher")
    plane.bind("cluster-admin", None, account=f"{_NAMESPACE}:watcher")
    wait_until(lambda: plane.api.get(CUSTOM.path).is_success, "the custom resource")
    token = plane.token(_NAMESPACE, "watcher")
    user = User(plane, token)
    labels = [str(number) for number in range(GROUPS)] + [ALL] * WRITES_FOR_ALL
    for group in (OURS, CUSTOM):
        for number, label in enumerate(labels):
            made = json.loads(group.object(f"s{number}"))
            made["metadata"]["labels"] = {"group": label}
            user.post(group.path, json.dumps(made).encode())
    return token


def _plan(plane: ControlPlane, group: Group, token: str, count: int) -> watchers.Plan:
    # Of all namespaces, as controllers watch.
    everywhere = group.path.replace(f"/namespaces/{_NAMESPACE}", "")
    revision = plane.api.get(group.path).raise_for_status().json()["metadata"]["resourceVersion"]
    paths = []
    for number in range(count):
        query = {
            "watch": "true",
            "resourceVersion": revision,
            "labelSelector": f"group in ({number % GROUPS},{ALL})",
        }
        paths.append(f"{everywhere}?{urlencode(query, quote_via=quote)}")
    headers = {"Authorization": f"Bearer {token}"}
    return watchers.Plan(plane.url, str(plane.authority), headers, paths)


def _write(plane: ControlPlane, group: Group, token: str, count: int) -> int:
    """Write as often as is said, and return how many events that makes."""
    threads = local()
    context = ssl.create_default_context(cafile=plane.authority)
    headers = {
        "Authorization": f"Bearer {token}",
        "Content-Type": "application/merge-patch+json",
    }

    def patch(number: int) -> None:
        connection = getattr(threads, "connection", None)
        if connection is None:
            address = plane.url.partition("//")[2]
            connection = threads.connection = http.client.HTTPSConnection(address, context=context)
        sent = {watchers.ANNOTATION: str(time.monotonic_ns())}
        body = json.dumps({"metadata": {"annotations": sent}})
        connection.request("PATCH", f"{group.path}/s{number}", body, headers)
        answer = connection.getresponse()
        said = answer.read()
        if answer.status != http.client.OK:
            raise LoadFailed(f"PATCH {number}: {answer.status} {said[:500]!r}")

    rate, events = WRITES + WRITES_FOR_ALL, 0
    begin = time.monotonic()
    with ThreadPoolExecutor(WRITERS) as pool:
        writing = []
        for number in range(rate * SECONDS):
            time.sleep(max(0.0, begin + number / rate - time.monotonic()))
            place = number % rate
            # Each second begins anew; those that concern all are spread over it.
            is_for_all = place % (rate // WRITES_FOR_ALL) == 0
            of_all = place // (rate // WRITES_FOR_ALL)
            target = GROUPS + of_all if is_for_all else place - of_all - 1
            events += count if is_for_all else count // GROUPS
            writing.append(pool.submit(patch, target))
        for one in writing:
            one.result()
    return events
