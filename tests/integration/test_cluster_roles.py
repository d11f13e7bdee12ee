"""Our ClusterRoles: what each allows, what kubectl says of it, and what the registry lets it do.

The three have to be the same. kubectl asks about resources that the API server knows; until the
image API tells it of them, empty custom resources of the same names do.
"""

import contextlib
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.cluster_people import GROUP, connect
from tests.parts import cluster_registry
from tests.parts.control_plane import ControlPlane
from tests.parts.processes import PartFailed, wait_until
from tests.parts.registry import Server

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

ABSENT = "sha256:" + "0" * 64
UPLOADS = "/v2/{namespace}/app/blobs/uploads/"
LAYERS = (f"imagestreams.{GROUP}/app", "--subresource=layers", "--namespace={namespace}")


@dataclass(frozen=True, slots=True)
class Action:
    """Something that is done.

    Args:
        questions: What `kubectl auth can-i` has to say yes to, all of it.
        request: Method and path at the registry, which has nothing; None if it is not done there.
    """

    questions: Sequence[Sequence[str]]
    request: tuple[str, str] | None = None


ACTIONS = {
    "pull": Action([("get", *LAYERS)], ("GET", "/v2/{namespace}/app/manifests/1")),
    "push": Action([("get", *LAYERS), ("update", *LAYERS)], ("POST", UPLOADS)),
    "delete tag": Action(
        [("delete", f"imagestreamtags.{GROUP}/app:1", "--namespace={namespace}")],
        ("DELETE", "/v2/{namespace}/app/manifests/1"),
    ),
    "delete manifest": Action(
        [("delete", f"images.{GROUP}")], ("DELETE", f"/v2/{{namespace}}/app/manifests/{ABSENT}")
    ),
    "delete blob": Action(
        [("delete", f"images.{GROUP}")], ("DELETE", f"/v2/{{namespace}}/app/blobs/{ABSENT}")
    ),
    "catalog": Action(
        [("list", f"imagestreams.{GROUP}", "--all-namespaces")], ("GET", "/v2/_catalog")
    ),
    "metrics": Action([("get", f"registry.{GROUP}", "--subresource=metrics")], ("GET", "/metrics")),
    "sign": Action([("create", f"imagesignatures.{GROUP}")]),
    "create stream": Action([("create", f"imagestreams.{GROUP}", "--namespace={namespace}")]),
    "delete stream": Action([("delete", f"imagestreams.{GROUP}/app", "--namespace={namespace}")]),
}

EDITS = {"pull", "push", "delete tag", "create stream", "delete stream"}

# What a role allows when it is bound in the namespace, and what more when it is bound in all.
TABLE: dict[str, tuple[set[str], set[str]]] = {
    "system:image-puller": ({"pull"}, set()),
    "system:image-pusher": ({"pull", "push", "create stream"}, set()),
    "system:image-deleter": (
        {"delete tag", "delete stream"},
        {"delete manifest", "delete blob", "catalog"},
    ),
    "system:image-pruner": ({"pull"}, {"delete manifest", "delete blob", "catalog"}),
    "system:image-signature-writer": (set(), {"sign"}),
    "system:image-registry-catalog-reader": (set(), {"catalog"}),
    "system:image-registry-metrics-reader": (set(), {"metrics"}),
    "registry-viewer": ({"pull"}, {"catalog"}),
    "registry-editor": (EDITS, {"catalog"}),
    "registry-admin": (EDITS, {"catalog"}),
    # Kubernetes' own, which ours are part of.
    "view": ({"pull"}, {"catalog"}),
    "edit": (EDITS, {"catalog"}),
    "admin": (EDITS, {"catalog"}),
}

# Of little use in a namespace.
FOR_THE_CLUSTER = (
    "system:image-deleter",
    "system:image-pruner",
    "system:image-signature-writer",
    "system:image-registry-catalog-reader",
    "system:image-registry-metrics-reader",
)

RESOURCES = {
    "images": ("Cluster", "Image"),
    "imagesignatures": ("Cluster", "ImageSignature"),
    "imagestreams": ("Namespaced", "ImageStream"),
    "imagestreamtags": ("Namespaced", "ImageStreamTag"),
    "registry": ("Cluster", "Registry"),
}


def definition(plural: str, scope: str, kind: str) -> dict[str, Any]:
    """A custom resource of another version than the image API's, so that both can be there."""
    names = {"plural": plural, "singular": kind.lower(), "kind": kind, "listKind": f"{kind}List"}
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {
        "name": "v0",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{plural}.{GROUP}",
            "annotations": {"api-approved.kubernetes.io": "unapproved, for tests"},
        },
        "spec": {"group": GROUP, "scope": scope, "names": names, "versions": [version]},
    }


@pytest.fixture(scope="module")
def cluster(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    """One whose kubectl knows our resources and which has our roles."""
    definitions = [definition(plural, *found) for plural, found in RESOURCES.items()]
    cluster_registry.apply_cluster_roles(control_plane)
    control_plane.apply(*definitions)
    wait_until(lambda: knows_all(control_plane), "the custom resources")
    yield control_plane
    names = [entry["metadata"]["name"] for entry in definitions]
    control_plane.kubectl("delete", "customresourcedefinition", *names, "--wait")


def knows_all(plane: ControlPlane) -> bool:
    served = plane.api.get(f"/apis/{GROUP}/v0")
    if not served.is_success or len(served.json()["resources"]) < len(RESOURCES):
        return False
    try:
        return all(plane.can_i("get", f"{plural}.{GROUP}") for plural in RESOURCES)
    except PartFailed:
        return False


@pytest.fixture(scope="module")
def server(cluster: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with cluster_registry.running(cluster, tmp_path_factory.mktemp("registry")) as running:
        yield running


def filled(text: str, namespace: str) -> str:
    return text.replace("{namespace}", namespace)


def asked_of_kubectl(
    plane: ControlPlane, namespace: str, *who: str, kubeconfig: Path | None = None
) -> set[str]:
    said: dict[tuple[str, ...], bool] = {}

    def can(question: Sequence[str]) -> bool:
        words = tuple(filled(word, namespace) for word in question)
        if words not in said:
            said[words] = plane.can_i(*words, *who, kubeconfig=kubeconfig)
        return said[words]

    return {name for name, action in ACTIONS.items() if all(map(can, action.questions))}


def asked_of_registry(client: httpx.Client, namespace: str) -> set[str]:
    allowed = set()
    for name, action in ACTIONS.items():
        if action.request is not None:
            method, path = action.request
            answer = client.request(method, filled(path, namespace))
            # What is allowed is not found, or begun.
            assert answer.status_code in (200, 202, 401, 403, 404), answer.text
            if answer.status_code not in (401, 403):
                allowed.add(name)
    return allowed


def eventually(ask: Callable[[], set[str]], expected: set[str]) -> set[str]:
    """Ask until the roles that were bound just now are known; what is said then."""
    answer: set[str] = set()

    def is_expected() -> bool:
        answer.clear()
        answer.update(ask())
        return answer == expected

    with contextlib.suppress(PartFailed):
        wait_until(is_expected, "the roles")
    return answer


AT_REGISTRY = {name for name, action in ACTIONS.items() if action.request is not None}


@pytest.mark.parametrize(
    ("role", "where"),
    [*((role, "namespace") for role in TABLE), *((role, "cluster") for role in FOR_THE_CLUSTER)],
)
def test_role_allows_what_the_table_says(
    cluster: ControlPlane, server: Server, namespace: str, role: str, where: str
) -> None:
    name = f"user-{uuid.uuid4().hex[:8]}"
    user = cluster.user(name)
    cluster.bind(role, namespace if where == "namespace" else None, user=name)
    in_namespace, in_cluster = TABLE[role]
    expected = in_namespace | (in_cluster if where == "cluster" else set())

    assert (
        eventually(lambda: asked_of_kubectl(cluster, namespace, kubeconfig=user), expected)
        == expected
    )
    with connect(server, user) as client:
        assert asked_of_registry(client, namespace) == expected & AT_REGISTRY


def test_role_holds_in_its_namespace_only(
    cluster: ControlPlane, server: Server, namespace: str
) -> None:
    name = f"user-{uuid.uuid4().hex[:8]}"
    user = cluster.user(name)
    cluster.bind("registry-admin", namespace, user=name)
    other = cluster.new_namespace()
    eventually(lambda: asked_of_kubectl(cluster, namespace, kubeconfig=user), EDITS)

    assert asked_of_kubectl(cluster, other, kubeconfig=user) == set()
    with connect(server, user) as client:
        assert asked_of_registry(client, namespace) == EDITS & AT_REGISTRY
        assert asked_of_registry(client, other) == set()


def test_anybody_may_pull_where_the_unauthenticated_may(
    cluster: ControlPlane, server: Server, namespace: str
) -> None:
    # Nobody in particular may not ask what they may, so kubectl can't, and the administrator does.
    def may(verb: str) -> bool:
        return cluster.allows(
            "system:anonymous",
            groups=["system:unauthenticated"],
            verb=verb,
            group=GROUP,
            resource="imagestreams",
            subresource="layers",
            namespace=namespace,
        )

    assert not may("get")
    cluster.bind("system:image-puller", namespace, group="system:unauthenticated")

    wait_until(lambda: may("get"), "the role")
    assert not may("update")
    with connect(server) as client:
        assert asked_of_registry(client, namespace) == {"pull"}


def test_table_has_every_role_that_is_shipped() -> None:
    shipped = {role["metadata"]["name"] for role in cluster_registry.cluster_roles()}

    assert shipped == set(TABLE) - {"view", "edit", "admin"}
