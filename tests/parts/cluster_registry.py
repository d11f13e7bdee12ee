"""Starts our server as a registry of a cluster: in mode ``kubernetes``, over TLS."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.parts import manifests, registry
from tests.parts.certificates import Authority, CertificatePair
from tests.parts.control_plane import ControlPlane
from tests.parts.processes import wait_until
from tests.parts.registry import Server

ACCOUNT = "registry"
PEOPLE = "people"
"""The namespace of the service accounts that push and pull."""

_RBAC = "rbac.authorization.k8s.io"


@contextmanager
def running(
    plane: ControlPlane,
    directory: Path,
    *,
    root: Path | None = None,
    tls: CertificatePair | None = None,
    kubeconfig: Path | None = None,
    arguments: Sequence[str | Path] = (),
    settings: Mapping[str, str] | None = None,
    workers: int = 1,
) -> Iterator[Server]:
    """Run it for the length of a ``with`` block.

    Args:
        plane: The cluster whose users and roles count.
        directory: For its images, certificates and log.
        root: Where the images are; by default a folder in ``directory``.
        tls: Its certificate; by default one of an authority of its own.
        kubeconfig: Who it is there; by default an account that may ask about others.
        arguments: More flags of ``image-registry serve``.
        settings: More ``REGISTRY_*`` variables.
        workers: How many processes serve.

    Raises:
        PartFailed: It did not come up.
    """
    tls = tls or Authority().issue(directory / "certificates")
    variables = {
        "REGISTRY_AUTH_KUBERNETES_KUBECONFIG": str(kubeconfig or new_account(plane)),
        "REGISTRY_HTTP_TLS_CLIENTCAS": str(plane.authority),
        "REGISTRY_HTTP_TLS_CLIENTAUTH": "verify-client-cert-if-given",
    }
    with registry.running(
        directory,
        root=root,
        tls=tls,
        arguments=arguments,
        settings=variables | dict(settings or {}),
        workers=workers,
    ) as server:
        yield server


def new_account(plane: ControlPlane) -> Path:
    """Return the kubeconfig of a service account that may ask who may do what, and nothing else."""
    namespace = plane.new_namespace("registry")
    plane.service_account(namespace, ACCOUNT)
    plane.bind("system:auth-delegator", None, account=f"{namespace}:{ACCOUNT}")
    return plane.kubeconfig(plane.token(namespace, ACCOUNT))


def apply_cluster_roles(plane: ControlPlane) -> None:
    """Give the cluster our roles, as the chart does."""
    plane.apply(*cluster_roles())


@dataclass(frozen=True, slots=True)
class Binding:
    """Who is bound to one of our roles, and where; everywhere without a namespace."""

    role: str
    account: str = ""
    group: str = ""
    namespace: str = ""


def apply_people(
    plane: ControlPlane, namespaces: Sequence[str], bindings: Sequence[Binding]
) -> dict[str, str]:
    """Make namespaces, and service accounts with roles in them; the accounts' tokens by name.

    They may be there already, for other tests.
    """
    accounts = sorted({binding.account for binding in bindings if binding.account})
    apply_cluster_roles(plane)
    plane.apply(
        *(_object("v1", "Namespace", name) for name in (PEOPLE, *namespaces)),
        *(_object("v1", "ServiceAccount", name, PEOPLE) for name in accounts),
        *map(_binding, bindings),
    )
    for binding in bindings:
        wait_until(partial(_is_known, plane, binding), f"the {binding}")
    return {name: plane.token(PEOPLE, name) for name in accounts}


def cluster_roles() -> list[dict[str, Any]]:
    """Return our ClusterRoles."""
    return manifests.render("cluster-roles")


def _object(version: str, kind: str, name: str, namespace: str = "") -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace} if namespace else {"name": name}
    return {"apiVersion": version, "kind": kind, "metadata": metadata}


def _binding(binding: Binding) -> dict[str, Any]:
    kind = "RoleBinding" if binding.namespace else "ClusterRoleBinding"
    name = f"{binding.role}-{binding.account or binding.group}"
    subject = {"kind": "ServiceAccount", "namespace": PEOPLE, "name": binding.account}
    if binding.group:
        subject = {"kind": "Group", "name": binding.group}
    reference = {"apiGroup": _RBAC, "kind": "ClusterRole", "name": binding.role}
    found = _object(f"{_RBAC}/v1", kind, name, binding.namespace)
    return {**found, "roleRef": reference, "subjects": [subject]}


def _is_known(plane: ControlPlane, binding: Binding) -> bool:
    (role,) = (role for role in cluster_roles() if role["metadata"]["name"] == binding.role)
    rule = role["rules"][0]
    resource, _, subresource = rule["resources"][0].partition("/")
    return plane.allows(
        f"system:serviceaccount:{PEOPLE}:{binding.account}" if binding.account else "anybody",
        groups=[binding.group] if binding.group else [],
        verb=rule["verbs"][0],
        group=rule["apiGroups"][0],
        resource=resource,
        subresource=subresource,
        namespace=binding.namespace,
    )
