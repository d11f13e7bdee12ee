"""The image API server without what it needs: kube-apiserver hangs, or does not let it read."""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.parts import control_plane, image_api
from tests.parts.certificates import CertificatePair
from tests.parts.control_plane import ControlPlane
from tests.parts.image_api import API, ImageApi
from tests.parts.processes import wait_until
from tests.parts.tools import require

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

MERGE = {"Content-Type": "application/merge-patch+json"}


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane that may be stopped for a while, as nobody else uses it."""
    require(*control_plane.PROGRAMS)
    with control_plane.running(tmp_path_factory.mktemp("control-plane")) as found:
        yield found


@pytest.fixture(scope="module")
def api(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImageApi]:
    with image_api.running(plane, tmp_path_factory.mktemp("api")) as found:
        yield found
    for log in found.directory.glob("*.log"):
        assert "Traceback" not in log.read_text()


@pytest.fixture
def alice(plane: ControlPlane, tmp_path: Path) -> CertificatePair:
    """Somebody who may list images."""
    rule = {"apiGroups": ["image.alauda.io"], "resources": ["images"], "verbs": ["list"]}
    plane.apply(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "lists-images"},
            "rules": [rule],
        }
    )
    plane.bind("lists-images", None, user="alice")
    return plane.users.issue_to_user(tmp_path / "alice", name="alice")


def test_while_nobody_answers_who_may_nobody_may(api: ImageApi, alice: CertificatePair) -> None:
    replica = api.replicas[0]
    with api.client(replica, alice) as client:
        wait_until(lambda: client.get(f"{API}/images").is_success, "the role to count")
        os.kill(api.plane.apiserver, signal.SIGSTOP)
        try:
            # What was allowed is remembered for two seconds.
            time.sleep(2.5)

            # Each waits for as long as the API server is given, so they do it together.
            with api.client(replica) as nobody, ThreadPoolExecutor(2) as pool:
                asked = pool.map(lambda one: one.get(f"{API}/images"), [client, nobody])
                probe = nobody.get("/livez")
                refused, anonymous = asked
        finally:
            os.kill(api.plane.apiserver, signal.SIGCONT)

        for answer in (refused, anonymous):
            assert (answer.status_code, answer.json()["kind"]) == (503, "Status")
            assert "does not answer who may do this" in answer.json()["message"]
            assert answer.headers["retry-after"] == "1"
        assert probe.status_code == 200
        wait_until(lambda: client.get(f"{API}/images").is_success, "an answer again")
    api.wait_available()
    assert replica.process.poll() is None


def test_full_etcd_is_said_to_be_full_and_what_to_do(api: ImageApi) -> None:
    plane, kube = api.plane, api.plane.api
    streams = f"{API}/namespaces/{plane.new_namespace()}/imagestreams"
    for name in ("kept", "deleted"):
        kube.post(streams, json={"metadata": {"name": name}}).raise_for_status()
    with plane.without_room():
        labels = {"metadata": {"labels": {"tier": "front"}}}
        refused = [
            kube.post(streams, json={"metadata": {"name": "refused"}}),
            kube.patch(f"{streams}/kept", json=labels, headers=MERGE),
        ]
        kept = kube.get(f"{streams}/kept")
        deleted = kube.delete(f"{streams}/deleted")

        for answer in refused:
            status = answer.json()
            assert (answer.status_code, status["reason"]) == (507, "InsufficientStorage")
            assert "--quota-backend-bytes" in status["message"]
            assert "retry-after" not in answer.headers
        assert kept.is_success
        assert deleted.is_success

    assert kube.post(streams, json={"metadata": {"name": "refused"}}).is_success
    assert kube.get(f"{streams}/kept").json()["metadata"].get("labels") is None


def test_an_account_that_may_not_read_what_it_needs_is_told_so(api: ImageApi) -> None:
    namespace = api.plane.new_namespace()
    api.plane.service_account(namespace, "poor")
    kubeconfig = api.plane.kubeconfig(api.plane.token(namespace, "poor"))
    replica = api.start(kubeconfig=kubeconfig, waits_for_ready=False)
    try:
        with api.client(replica) as client:
            told = client.get("/readyz")
            assert told.status_code == 500
            assert "[-]authentication-config failed" in told.text
            assert client.get(f"{API}/images").status_code == 503
        # One line for each thing it may not read, in any order.
        lines = ("give this server's account the ClusterRole", "403 to listing configmaps")
        wait_until(
            lambda: all(line in replica.log.read_text() for line in lines),
            f"{lines} in the log",
        )
        assert replica.process.poll() is None
    finally:
        api.stop(replica)


def test_a_config_map_that_is_deleted_is_still_believed(
    api: ImageApi, alice: CertificatePair
) -> None:
    plane = api.plane
    name = ("configmap", "extension-apiserver-authentication", "--namespace", "kube-system")
    with api.client(api.replicas[0], alice) as client:
        wait_until(lambda: client.get(f"{API}/images").is_success, "the role to count")

        plane.kubectl("delete", *name)

        # What it said last stays, until kube-apiserver writes it again.
        assert client.get(f"{API}/images").is_success
    assert plane.api.get(f"{API}/images").is_success
