"""Puts into a control plane what the image API keeps its records in, and opens stores on it."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from alauda_imageapi.cluster.records.encoding import KINDS
from alauda_imageapi.cluster.records.store import RecordStore
from alauda_imageapi.cluster.records.watch_cache import RecordLimits
from alauda_registry.kube.apiserver import ApiServerClient
from alauda_registry.kube.errors import NotFound
from alauda_registry.kube.resources import ListQuery
from alauda_registry.kube.rest import ApiServerResources
from tests.parts import manifests
from tests.parts.control_plane import ControlPlane
from tests.parts.processes import wait_until

NAMESPACE = "image-registry-system"
ACCOUNT = "image-api-server"
RECORDS = "/apis/store.image.alauda.io/v1"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


def install(plane: ControlPlane) -> Path:
    """Install the definitions, and who may write records; return the server's kubeconfig.

    May be done again.
    """
    make_namespaces(plane, NAMESPACE)
    account = {"apiVersion": "v1", "kind": "ServiceAccount"}
    plane.apply(
        *manifests.render("store-crds"),
        *manifests.render("store-access"),
        {**account, "metadata": {"name": ACCOUNT, "namespace": NAMESPACE}},
    )
    definitions = [f"crd/{kind.of.resource}.{kind.of.group}" for kind in KINDS.values()]
    plane.kubectl("wait", "--for=condition=Established", *definitions)
    wait_until(
        lambda: plane.allows(
            f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}",
            verb="create",
            group="store.image.alauda.io",
            resource="imagerecords",
        ),
        "the rights of the image API server",
    )
    # The policies count a moment after they are there; so do both, as they came together.
    wait_until(
        lambda: all(
            plane.api.delete(f"{DEFINITIONS}/{definition[4:]}", params={"dryRun": "All"}).is_error
            for definition in definitions
        ),
        "the policy that keeps definitions",
    )
    return plane.kubeconfig(plane.token(NAMESPACE, ACCOUNT))


def make_namespaces(plane: ControlPlane, *names: str) -> None:
    """See that there are these namespaces."""
    for name in names:
        content = json.dumps({"metadata": {"name": name}})
        answer = plane.api.post("/api/v1/namespaces", content=content)
        assert answer.is_success or answer.json()["reason"] == "AlreadyExists", answer.text


@asynccontextmanager
async def opened(
    kubeconfig: Path, limits: RecordLimits | None = None
) -> AsyncGenerator[RecordStore]:
    """Open a store as one replica would have it, and wait until it has read everything."""
    async with (
        ApiServerClient(kubeconfig) as client,
        RecordStore.opened(ApiServerResources(client), limits) as store,
    ):
        async with asyncio.timeout(60):
            while store.trouble:  # noqa: ASYNC110 -- no event tells
                await asyncio.sleep(0.02)
        yield store


async def empty(kubeconfig: Path, namespace: str = "") -> None:
    """Delete all records, or those of streams in a namespace."""
    async with ApiServerClient(kubeconfig) as client:
        resources = ApiServerResources(client)
        for kind in [KINDS["imagestreams"]] if namespace else KINDS.values():
            for item in (await resources.list(kind.of, ListQuery(namespace=namespace))).items:
                metadata = item["metadata"]
                where = (metadata.get("namespace", ""), metadata["name"])
                if metadata.get("finalizers"):
                    item = await resources.update(
                        kind.of, {**item, "metadata": {**metadata, "finalizers": []}}
                    )
                try:
                    await resources.delete(
                        kind.of,
                        *where,
                        uid=metadata["uid"],
                        revision=item["metadata"]["resourceVersion"],
                    )
                except NotFound:
                    continue
