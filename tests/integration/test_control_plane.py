"""The control plane of the tests is a real one, and can be used as the other tests use it."""

import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.parts import control_plane as control_planes
from tests.parts.control_plane import ControlPlane
from tests.parts.processes import PartFailed, children_of, inherited, wait_until
from tests.parts.tools import require

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


def test_kubectl_finds_the_version_that_is_pinned(control_plane: ControlPlane) -> None:
    version = control_plane.api.get("/version").json()["gitVersion"]

    assert control_plane.kubectl("version", "--output=json").count(f'"{version}"') == 2


def test_user_is_who_the_certificate_says(control_plane: ControlPlane) -> None:
    alice = control_plane.user("alice", ["developers"])

    said = control_plane.kubectl("auth", "whoami", "--output=json", kubeconfig=alice)

    assert '"username": "alice"' in said
    assert '"developers"' in said


def test_service_account_may_do_what_it_is_bound_to(
    control_plane: ControlPlane, namespace: str
) -> None:
    control_plane.service_account(namespace, "robot")
    robot = control_plane.kubeconfig(control_plane.token(namespace, "robot"))
    get_pods = ("get", "pods", "--namespace", namespace)
    assert not control_plane.can_i(*get_pods, kubeconfig=robot)

    control_plane.bind("view", namespace, account=f"{namespace}:robot")

    wait_until(lambda: control_plane.can_i(*get_pods, kubeconfig=robot), "the binding")
    assert not control_plane.can_i("get", "pods", "--namespace=default", kubeconfig=robot)
    with pytest.raises(PartFailed, match="forbidden"):
        control_plane.kubectl("get", "pods", "--namespace=default", kubeconfig=robot)


def test_controllers_are_at_work(control_plane: ControlPlane, namespace: str) -> None:
    account = f"/api/v1/namespaces/{namespace}/serviceaccounts/default"
    wait_until(lambda: control_plane.api.get(account).is_success, "the default service account")

    control_plane.kubectl("delete", "namespace", namespace, "--wait")

    assert control_plane.api.get(account).status_code == httpx.codes.NOT_FOUND


def test_plane_ends_with_the_tests_that_were_killed(tmp_path: Path) -> None:
    require(*control_planes.PROGRAMS)
    program = (
        "import sys; from pathlib import Path; from tests.parts.control_plane import running\n"
        "with running(Path(sys.argv[1])) as plane: print('up', flush=True); sys.stdin.read()"
    )
    tests = subprocess.Popen(
        [sys.executable, "-c", program, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=inherited(PYTHONPATH="."),
    )
    assert tests.stdout is not None
    assert tests.stdout.readline() == b"up\n"
    parts = children_of(tests.pid)
    assert len(parts) == 4

    tests.send_signal(signal.SIGKILL)
    tests.communicate()

    wait_until(lambda: not any(Path(f"/proc/{part}/exe").exists() for part in parts), "their end")
