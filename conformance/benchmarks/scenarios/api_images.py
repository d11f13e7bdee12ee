"""Ten thousand images with real configurations: how long a full list takes, and how much memory."""

import json
import re
import time
from collections.abc import Mapping
from contextlib import ExitStack
from importlib.resources import files
from typing import Any

from alauda_registry.kube.resources import GroupVersionResource
from conformance.benchmarks.bench import Bench
from conformance.benchmarks.image_objects import make_image
from conformance.benchmarks.image_records import fill
from conformance.benchmarks.load import LoadFailed
from conformance.benchmarks.results import Row, Section
from conformance.benchmarks.samples import Samples
from conformance.benchmarks.scenarios.api_requests import User
from tests.parts import control_plane, image_api
from tests.parts.control_plane import ControlPlane
from tests.parts.image_api import ImageApi
from tests.parts.processes import peak_memory, wait_until

IMAGES, FEW = 10_000, 1_000
PAGE = 500
MOST_TIMES = 3.0
MOST_MEMORY = 300.0

CUSTOM = GroupVersionResource("example.com", "v1", "images")
PATHS = {"ours": "/apis/image.alauda.io/v1/images", "custom": CUSTOM.path()}
_NAMESPACE = "bench"
_CONTINUE = re.compile(rb'"continue":"([^"]+)"')


def run(bench: Bench) -> Section:
    """Measure full lists."""
    count = FEW if bench.quick else IMAGES
    size = len(json.dumps(make_image(0), separators=(",", ":")))
    with ExitStack() as stack:
        plane = stack.enter_context(control_plane.running(bench.directory / "images-plane"))
        api = stack.enter_context(image_api.running(plane, bench.directory / "images-api"))
        user = _prepare(plane, api, count)

        def measure(who: str) -> Mapping[str, float]:
            began = time.perf_counter()
            pages = _list(user, PATHS[who])
            if pages != -(-count // PAGE):
                raise LoadFailed(f"{who}: {pages} pages of {count} images")
            return {"list": time.perf_counter() - began}

        found = bench.collect([*PATHS], measure)["list"]
        peak = peak_memory(api.replicas[0].process.pid) / 1e6
    method = (
        f"{count:,} images of {size / 1024:.0f} KiB, each with a configuration of its own, and as "
        "many custom resources of the same content, are listed in pages of "
        f"{PAGE} by a user with the role `cluster-admin` through one kube-apiserver, over one "
        "connection; one replica of ours is behind it. The first of each was made through "
        "kube-apiserver, the others were written into etcd as it had written that one; then both "
        "lists were read once. Memory is that of our process at its peak, from its start to the "
        "end of the last round. Under distribution stands the custom resource."
    )
    return Section(
        "Ten thousand images",
        method,
        [
            Row(
                *(f"full list of {count:,} images", "s", found["ours"], found["custom"]),
                target=1 / MOST_TIMES,
                higher_is_better=False,
            ),
            Row(
                *("memory at the peak", "MB", Samples.of([peak])),
                limit=MOST_MEMORY,
                higher_is_better=False,
            ),
        ],
    )


def _prepare(plane: ControlPlane, api: ImageApi, count: int) -> User:
    """Make what is listed, and somebody who lists it."""
    plane.apply(_definition())
    plane.kubectl("wait", "--for=condition=Established", "crd/images.example.com")
    wait_until(lambda: plane.api.get(CUSTOM.path()).is_success, "the custom resource")
    plane.kubectl("create", "namespace", _NAMESPACE)
    plane.service_account(_NAMESPACE, "reader")
    plane.bind("cluster-admin", None, account=f"{_NAMESPACE}:reader")
    fill(plane, api.kubeconfig, CUSTOM, count)
    user = User(plane, plane.token(_NAMESPACE, "reader"))
    # Both have seen them all by the end of a list that is not measured.
    for path in PATHS.values():
        _list(user, path)
    for path in PATHS.values():
        listed = json.loads(user.get(f"{path}?limit={PAGE}"))
        if len(listed["items"]) != PAGE or "config" not in str(listed["items"][0]):
            raise LoadFailed(f"{path}: {len(listed['items'])} objects on the first page")
    return user


def _list(user: User, path: str) -> int:
    """Read a whole list, and return how many pages it had."""
    pages, token = 0, ""
    while True:
        page = user.get(f"{path}?limit={PAGE}{token and f'&continue={token}'}")
        pages += 1
        # At the beginning, or at the end.
        found = _CONTINUE.search(page[:2048]) or _CONTINUE.search(page[-2048:])
        if found is None:
            return pages
        token = found[1].decode()


def _definition() -> dict[str, Any]:
    text = files("conformance.imageapi").joinpath("custom_resource.json").read_text()
    definition: dict[str, Any] = json.loads(text)
    definition["metadata"]["name"] = "images.example.com"
    definition["spec"] |= {
        "scope": "Cluster",
        "names": {
            "plural": "images",
            "singular": "image",
            "kind": "Image",
            "listKind": "ImageList",
        },
    }
    (version,) = definition["spec"]["versions"]
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version["schema"] = {"openAPIV3Schema": schema}
    return definition
