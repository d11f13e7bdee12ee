"""The image API's manifests: a real API server takes them, and they give what is needed."""

import base64
import json
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.parts import cluster_registry, manifests, record_store
from tests.parts.certificates import Authority
from tests.parts.control_plane import ControlPlane
from tests.parts.processes import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

ACCOUNT = "image-api-server"
STORE = "store.image.alauda.io"
FLOW = "/apis/flowcontrol.apiserver.k8s.io/v1"
RULES = "/apis/rbac.authorization.k8s.io/v1"


@dataclass(frozen=True, slots=True)
class Question:
    """Something that the account may do, or not."""

    verb: str
    resource: str
    group: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""

    def attributes(self) -> dict[str, str]:
        return {name: getattr(self, name) for name in self.__slots__ if getattr(self, name)}


MAY = [
    Question("create", "tokenreviews", "authentication.k8s.io"),
    Question("create", "subjectaccessreviews", "authorization.k8s.io"),
    Question(
        "watch", "configmaps", namespace="kube-system", name="extension-apiserver-authentication"
    ),
    *(Question(verb, "imagerecords", STORE) for verb in ("get", "list", "watch", "create")),
    *(Question(verb, "imagestreamrecords", STORE) for verb in ("update", "delete")),
    *(Question(verb, "namespaces") for verb in ("get", "list", "watch")),
    *(Question(verb, "resourcequotas") for verb in ("get", "list", "watch")),
    Question("update", "resourcequotas", subresource="status"),
    Question("list", "secrets"),
]
MAY_NOT = [
    *(Question(verb, "secrets") for verb in ("get", "watch", "create")),
    Question("list", "configmaps", namespace="kube-system"),
    Question("create", "pods"),
    Question("update", "namespaces"),
    Question("deletecollection", "imagerecords", STORE),
    Question("update", "resourcequotas"),
    Question("get", "imagestreams", "image.alauda.io"),
    Question("impersonate", "users"),
]


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What the manifests have, by manifest."""
    pair = Authority().issue(tmp_path_factory.mktemp("certificates"))
    bundle = base64.b64encode(pair.authority.read_bytes()).decode()
    return {name: manifests.render(name, CA_BUNDLE=bundle) for name in manifests.IMAGE_API}


@pytest.fixture(scope="module")
def installed(control_plane: ControlPlane, objects: dict[str, list[dict[str, Any]]]) -> str:
    """The namespace with everything in it but the server and what waits for that."""
    record_store.install(control_plane)
    control_plane.apply(*(found for name in manifests.IMAGE_API[:-1] for found in objects[name]))
    return record_store.NAMESPACE


@pytest.fixture(scope="module")
def connected(control_plane: ControlPlane, installed: str) -> Iterator[httpx.Client]:
    """The API server as the account of the image API server sees it."""
    token = control_plane.token(installed, ACCOUNT)
    headers = {"Authorization": f"Bearer {token}"}
    context = ssl.create_default_context(cafile=control_plane.authority)
    with httpx.Client(
        base_url=control_plane.url, verify=context, headers=headers, timeout=30
    ) as client:
        yield client


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("name", manifests.IMAGE_API)
def test_api_server_takes_the_manifest_and_keeps_every_field(
    control_plane: ControlPlane, objects: dict[str, list[dict[str, Any]]], name: str
) -> None:
    for sent in objects[name]:
        # Strict validation refuses what the API server does not know.
        answer = control_plane.kubectl(
            *("apply", "--dry-run=server", "--validate=strict", "--output=json", "--filename=-"),
            stdin=json.dumps(sent),
        )

        assert missing(sent, json.loads(answer)) == []


def missing(sent: Any, kept: Any, path: str = "") -> list[str]:
    """Say which of the fields that were sent have become something else."""
    if isinstance(sent, dict) and isinstance(kept, dict):
        return [
            line
            for key, value in sent.items()
            for line in missing(value, kept.get(key), f"{path}.{key}")
        ]
    if isinstance(sent, list) and isinstance(kept, list) and len(sent) == len(kept):
        pairs = enumerate(zip(sent, kept, strict=True))
        return [line for at, pair in pairs for line in missing(*pair, f"{path}[{at}]")]
    return [] if sent == kept else [f"{path}: {sent!r} became {kept!r}"]


def test_account_may_do_what_the_server_does_and_no_more(
    control_plane: ControlPlane, installed: str
) -> None:
    user = f"system:serviceaccount:{installed}:{ACCOUNT}"
    groups = [f"system:serviceaccounts:{installed}", "system:serviceaccounts"]

    def allowed(questions: list[Question]) -> list[Question]:
        return [
            question
            for question in questions
            if control_plane.allows(user, groups=groups, **question.attributes())
        ]

    wait_until(lambda: len(allowed(MAY)) == len(MAY), "the roles")

    assert allowed(MAY) == MAY
    assert allowed(MAY_NOT) == []


def test_requests_of_the_account_do_not_queue_behind_those_of_users(
    control_plane: ControlPlane, connected: httpx.Client
) -> None:
    schema = control_plane.api.get(f"{FLOW}/flowschemas/{ACCOUNT}").raise_for_status().json()
    level = control_plane.api.get(f"{FLOW}/prioritylevelconfigurations/{ACCOUNT}").json()
    expected = (schema["metadata"]["uid"], level["metadata"]["uid"])

    def taken() -> tuple[str, str]:
        headers = connected.get("/api/v1/namespaces").headers
        return (
            headers.get("X-Kubernetes-PF-FlowSchema-UID", ""),
            headers.get("X-Kubernetes-PF-PriorityLevel-UID", ""),
        )

    wait_until(lambda: taken() == expected, "the flow schema")
    (dangling,) = (
        found["status"]
        for found in control_plane.api.get(f"{FLOW}/flowschemas/{ACCOUNT}").json()["status"][
            "conditions"
        ]
        if found["type"] == "Dangling"
    )
    assert dangling == "False"


def test_members_of_a_namespace_get_the_image_api_with_the_role_they_have(
    control_plane: ControlPlane,
) -> None:
    cluster_registry.apply_cluster_roles(control_plane)

    def resources(role: str) -> set[str]:
        rules = control_plane.api.get(f"{RULES}/clusterroles/{role}").json()["rules"] or ()
        return {
            resource
            for rule in rules
            if rule.get("apiGroups") == ["image.alauda.io"]
            for resource in rule["resources"]
        }

    viewing = {"imagestreams", "imagestreamtags", "imagestreams/layers"}
    pushing = {"imagestreammappings", "imagestreamimports"}
    # They come from several roles, one after the other.
    wait_until(lambda: viewing <= resources("view"), f"{viewing} in view")
    for role in ("edit", "admin"):
        wait_until(lambda role=role: pushing <= resources(role), f"{pushing} in {role}")  # type: ignore[misc]
    assert "imagestreams/secrets" not in resources("view")


def test_value_that_is_missing_is_named() -> None:
    with pytest.raises(KeyError, match="CA_BUNDLE"):
        manifests.render("image-api-apiservice")


def test_every_manifest_is_listed() -> None:
    folder = Path(cluster_registry.__file__).parents[2] / "registry/alauda_registry/kube/manifests"

    assert {path.stem for path in folder.glob("*.yaml")} == {*manifests.IMAGE_API}
