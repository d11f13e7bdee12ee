"""Starts our server as a registry of a cluster: in mode ``kubernetes``, over TLS."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from alauda_registry import kube
from tests.parts import registry
from tests.parts.certificates import Authority
from tests.parts.control_plane import ControlPlane
from tests.parts.registry import Server

ACCOUNT = "registry"


@contextmanager
def running(
    plane: ControlPlane,
    directory: Path,
    *,
    kubeconfig: Path | None = None,
    settings: Mapping[str, str] | None = None,
    workers: int = 1,
) -> Iterator[Server]:
    """Run it for the length of a ``with`` block.

    Args:
        plane: The cluster whose users and roles count.
        directory: For its images, certificates and log.
        kubeconfig: Who it is there; by default an account that may ask about others.
        settings: More ``REGISTRY_*`` variables.
        workers: How many processes serve.

    Raises:
        PartFailed: It did not come up.
    """
    pair = Authority().issue(directory / "certificates")
    variables = {
        "REGISTRY_AUTH_KUBERNETES_KUBECONFIG": str(kubeconfig or new_account(plane)),
        "REGISTRY_HTTP_TLS_CLIENTCAS": str(plane.authority),
        "REGISTRY_HTTP_TLS_CLIENTAUTH": "verify-client-cert-if-given",
    }
    with registry.running(
        directory, tls=pair, settings=variables | {**(settings or {})}, workers=workers
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


def cluster_roles() -> list[dict[str, Any]]:
    """Return our ClusterRoles."""
    content = resources.files(kube).joinpath("manifests", "cluster-roles.yaml").read_text()
    return list(yaml.safe_load_all(content))
