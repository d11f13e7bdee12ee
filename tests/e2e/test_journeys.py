"""What users do with image streams in a cluster, as scripts of kubectl (``journeys``).

Each is what a user would type, as somebody who has the role ``edit`` in a namespace, against two
servers of the image API behind a real kube-apiserver; with both versions of kubectl in turn.
"""

import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.parts import cluster_registry, image_api
from tests.parts.control_plane import ControlPlane
from tests.parts.image_api import ImageApi
from tests.parts.kubectl import another
from tests.parts.processes import inherited, wait_until
from tests.parts.tools import find

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif("E2E_REGISTRY" in os.environ, reason="needs a cluster of its own"),
]

JOURNEYS = sorted(Path(__file__).with_name("journeys").glob("*-*.sh"))
PROGRAMS = ["pinned", "machine's"]
LIBRARY = Path(__file__).with_name("journeys") / "lib.sh"


@pytest.fixture(scope="module")
def cluster(
    control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ImageApi]:
    cluster_registry.apply_cluster_roles(control_plane)
    with image_api.running(control_plane, tmp_path_factory.mktemp("api"), replicas=2) as api:
        yield api


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("journey", JOURNEYS, ids=[path.stem for path in JOURNEYS])
def test_journey(
    cluster: ImageApi, namespace: str, journey: Path, program: str, tmp_path: Path, is_long: bool
) -> None:
    if not is_long and (JOURNEYS.index(journey) + PROGRAMS.index(program)) % 2:
        pytest.skip("the other kubectl has this journey, and make torture both")
    plane = cluster.plane
    name = f"user-{uuid.uuid4().hex[:8]}"
    kubeconfig = plane.user(name)
    plane.bind("edit", namespace, user=name)
    may_begin = ("create", "imagestreammappings.image.alauda.io", "--namespace", namespace)
    wait_until(lambda: plane.can_i(*may_begin, kubeconfig=kubeconfig), "the role")
    kubectl = find("kubectl") if program == "pinned" else another()
    (tmp_path / "kubectl").symlink_to(kubectl)
    environment = inherited(
        PATH=f"{tmp_path}:{os.environ['PATH']}",
        HOME=str(tmp_path),
        KUBECONFIG=str(kubeconfig),
        ADMIN=str(plane.admin),
        NAMESPACE=namespace,
        USER_NAME=name,
    )

    done = subprocess.run(
        ["bash", "-c", 'source "$0"; set -x; source "$1"', LIBRARY, journey],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-4000:]}"
