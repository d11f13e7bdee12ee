"""kube-controller-manager treats our kinds as its own: namespaces end, garbage goes, it counts.

It does so in a cluster of these tests' own, where nobody else registers kinds and takes them away,
and where the controllers' log is about ours.
"""

import itertools
import re
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx
import pytest

from tests.parts import control_plane as control_planes, image_api
from tests.parts.control_plane import ControlPlane
from tests.parts.image_api import API, ImageApi
from tests.parts.processes import PartFailed, wait_until
from tests.parts.tools import require

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

COUNTED = "count/imagestreams.image.alauda.io"
HOLD = "example.com/hold"
MERGE = {"Content-Type": "application/merge-patch+json"}
NOTICE_SECONDS = 150.0
"""The controllers look for new kinds every 30 s, and then fetch what there is of them."""
RETURN_SECONDS = 60.0
"""In which the deletion of namespaces has to go on when we are back."""

Object = dict[str, Any]


@pytest.fixture(scope="module")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A cluster of these tests' own."""
    require(*control_planes.PROGRAMS)
    with control_planes.running(tmp_path_factory.mktemp("control-plane")) as plane:
        yield plane


@pytest.fixture(scope="module")
def api(
    control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ImageApi]:
    directory = tmp_path_factory.mktemp("controllers")
    with image_api.running(control_plane, directory, replicas=2) as found:
        # Before anything else: who is asked to follow kinds while nobody serves them says so never.
        for controller in ("garbage collector", "quota controller"):
            wait_until(
                partial(is_following, control_plane, controller),
                f"the {controller} to follow {API}",
                NOTICE_SECONDS,
            )
        yield found
    for log in directory.glob("*.log"):
        assert "Traceback" not in log.read_text()


def is_following(plane: ControlPlane, controller: str) -> bool:
    """Whether a controller has said that it follows our kinds.

    While one kind cannot be followed, garbage collection and quotas of all others wait.
    """
    said = (plane.directory / "kube-controller-manager.log").read_text()
    # Not store.image.alauda.io, which comes before.
    ours = r"\[(?:[^]]* )?image\.alauda\.io/v1, Resource=imagestreams[] ]"
    added = [*re.finditer(rf"syncing (?:resource )?{controller} .*added: {ours}", said)]
    return bool(added) and f"synced {controller}" in said[added[-1].end() :]


@pytest.fixture
def kube(api: ImageApi) -> httpx.Client:
    """The cluster as the administrator sees it, through kube-apiserver."""
    return api.plane.api


def streams(namespace: str) -> str:
    return f"{API}/namespaces/{namespace}/imagestreams"


def config_maps(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/configmaps"


def make(client: httpx.Client, path: str, name: str, **metadata: object) -> Object:
    answer = client.post(path, json={"metadata": {"name": name, **metadata}})
    assert answer.status_code == 201, answer.text
    made: Object = answer.json()
    return made


def owned_by(owner: Object, kind: str, version: str, **more: object) -> list[Object]:
    metadata = owner["metadata"]
    reference = {"apiVersion": version, "kind": kind, "name": metadata["name"]}
    return [{**reference, "uid": metadata["uid"], **more}]


def by_stream(owner: Object) -> list[Object]:
    return owned_by(owner, "ImageStream", "image.alauda.io/v1", blockOwnerDeletion=True)


def delete(client: httpx.Client, path: str, policy: str) -> Object:
    options = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": policy}
    answer = client.request("DELETE", path, json=options)
    assert answer.is_success, answer.text
    said: Object = answer.json()
    return said


def is_gone(client: httpx.Client, path: str) -> bool:
    return client.get(path).status_code == 404


def wait_gone(client: httpx.Client, path: str, seconds: float = NOTICE_SECONDS) -> None:
    wait_until(lambda: is_gone(client, path), f"{path} to be gone", seconds)


def test_stream_goes_with_its_owner(kube: httpx.Client, namespace: str) -> None:
    owner = make(kube, config_maps(namespace), "owner")
    make(
        *(kube, streams(namespace), "owned"),
        ownerReferences=owned_by(owner, "ConfigMap", "v1"),
    )
    make(kube, streams(namespace), "free")

    delete(kube, f"{config_maps(namespace)}/owner", "Background")

    wait_gone(kube, f"{streams(namespace)}/owned")
    assert kube.get(f"{streams(namespace)}/free").is_success


def test_stream_whose_owner_is_another_than_it_says_is_garbage(
    kube: httpx.Client, namespace: str
) -> None:
    owner = make(kube, config_maps(namespace), "owner")
    owner["metadata"]["uid"] = str(uuid.uuid4())
    references = owned_by(owner, "ConfigMap", "v1")
    make(kube, streams(namespace), "owned", ownerReferences=references)

    wait_gone(kube, f"{streams(namespace)}/owned")
    assert kube.get(f"{config_maps(namespace)}/owner").is_success


def test_what_a_stream_owns_goes_with_it(kube: httpx.Client, namespace: str) -> None:
    owner = make(kube, streams(namespace), "owner")
    make(kube, config_maps(namespace), "owned", ownerReferences=by_stream(owner))

    delete(kube, f"{streams(namespace)}/owner", "Background")

    assert is_gone(kube, f"{streams(namespace)}/owner")
    wait_gone(kube, f"{config_maps(namespace)}/owned")


def test_stream_waits_for_what_it_owns_when_asked_to(kube: httpx.Client, namespace: str) -> None:
    owner = make(kube, streams(namespace), "owner")
    owned = f"{config_maps(namespace)}/owned"
    references = by_stream(owner)
    make(
        *(kube, config_maps(namespace), "owned"),
        ownerReferences=references,
        finalizers=[HOLD],
    )

    said = delete(kube, f"{streams(namespace)}/owner", "Foreground")

    assert said["metadata"]["finalizers"] == ["foregroundDeletion"]
    wait_until(
        lambda: "deletionTimestamp" in kube.get(owned).json()["metadata"],
        "the garbage collector",
        NOTICE_SECONDS,
    )
    left = kube.get(f"{streams(namespace)}/owner").raise_for_status().json()
    assert "deletionTimestamp" in left["metadata"]
    kube.patch(owned, json={"metadata": {"finalizers": None}}, headers=MERGE).raise_for_status()
    wait_gone(kube, owned)
    wait_gone(kube, f"{streams(namespace)}/owner")


def test_stream_leaves_what_it_owns_when_asked_to(kube: httpx.Client, namespace: str) -> None:
    owner = make(kube, streams(namespace), "owner")
    make(kube, config_maps(namespace), "owned", ownerReferences=by_stream(owner))

    said = delete(kube, f"{streams(namespace)}/owner", "Orphan")

    assert said["metadata"]["finalizers"] == ["orphan"]
    wait_gone(kube, f"{streams(namespace)}/owner")
    left = kube.get(f"{config_maps(namespace)}/owned").raise_for_status().json()
    assert "ownerReferences" not in left["metadata"]


def test_image_owns_streams_of_namespaces(kube: httpx.Client, namespace: str) -> None:
    digest = f"sha256:{uuid.uuid4().hex * 2}"
    image = {"metadata": {"name": digest}, "dockerImageReference": f"q.io/a/b@{digest}"}
    answer = kube.post(f"{API}/images", json=image)
    assert answer.status_code == 201, answer.text
    references = owned_by(answer.json(), "Image", "image.alauda.io/v1")
    make(kube, streams(namespace), "owned", ownerReferences=references)

    delete(kube, f"{API}/images/{digest}", "Background")

    wait_gone(kube, f"{streams(namespace)}/owned")


def test_a_thousand_streams_go_with_their_namespace(api: ImageApi, kube: httpx.Client) -> None:
    namespace = api.plane.new_namespace("thousand")
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda n: make(kube, streams(namespace), f"s{n}"), range(1000)))
    assert len(kube.get(streams(namespace)).json()["items"]) == 1000

    began = time.monotonic()
    delete(kube, f"/api/v1/namespaces/{namespace}", "Background")

    wait_gone(kube, f"/api/v1/namespaces/{namespace}")
    sys.stdout.write(f"gone after {time.monotonic() - began:.1f} s\n")
    everywhere = kube.get(f"{API}/imagestreams").json()["items"]
    # Tests of the records alone leave some that say nothing of a namespace.
    assert namespace not in {item["metadata"].get("namespace") for item in everywhere}


def test_namespaces_wait_for_us_and_nobody_else_does(api: ImageApi, kube: httpx.Client) -> None:
    ending, other = api.plane.new_namespace("ending"), api.plane.new_namespace("other")
    make(kube, streams(ending), "app")
    api.stop_all()
    api.wait_available(is_available=False)
    try:
        delete(kube, f"/api/v1/namespaces/{ending}", "Background")

        wait_until(lambda: "DiscoveryFailure" in failures(kube, ending), "the failure", 60)
        assert kube.get(streams(other)).status_code == 503
        # Whoever uses other groups does not notice.
        make(kube, config_maps(other), "made")
        assert kube.get(f"/apis/apps/v1/namespaces/{other}/deployments").is_success
        assert kube.get("/apis").is_success
        assert "configmap/made" in api.plane.kubectl("get", "cm", "-n", other, "-o", "name")
    finally:
        api.start()
        api.start()
    wait_gone(kube, f"/api/v1/namespaces/{ending}", RETURN_SECONDS)


def failures(kube: httpx.Client, namespace: str) -> str:
    """What a namespace says of why it is still there."""
    found = kube.get(f"/api/v1/namespaces/{namespace}").json()
    conditions = found.get("status", {}).get("conditions", ())
    return " ".join(entry["type"] for entry in conditions if entry["status"] == "True")


def quota(api: ImageApi, namespace: str, hard: str) -> str:
    """Limit the streams of a namespace, and return the quota's path once it counts.

    The controller counts when a limit changes, what it knows of by then, and when something is gone
    that it has known. Who follows us again only later, after an outage, would not count what came
    and went meanwhile for five minutes.
    """
    kube, quotas = api.plane.api, f"/api/v1/namespaces/{namespace}/resourcequotas"
    path, changes = f"{quotas}/few", itertools.count(100)
    make(kube, streams(namespace), "known")
    made = {"metadata": {"name": "few"}, "spec": {"hard": {COUNTED: hard}}}
    assert kube.post(quotas, json=made).status_code == 201

    def counts() -> bool:
        change = {"spec": {"hard": {"pods": str(next(changes))}}}
        kube.patch(path, json=change, headers=MERGE).raise_for_status()
        time.sleep(1)
        return used(kube, path) == "1"

    try:
        wait_until(counts, "the quota", NOTICE_SECONDS)
    except PartFailed as failed:
        log = (api.plane.directory / "kube-controller-manager.log").read_text().splitlines()
        lines = [line for line in log if "quota" in line or "reflector" in line]
        raise PartFailed("\n".join([str(failed), kube.get(path).text, *lines[-40:]])) from failed
    delete(kube, f"{streams(namespace)}/known", "Background")
    wait_until(lambda: used(kube, path) == "0", "the quota controller", NOTICE_SECONDS)
    return path


def used(kube: httpx.Client, path: str) -> str | None:
    found: str | None = kube.get(path).json().get("status", {}).get("used", {}).get(COUNTED)
    return found


def test_of_many_streams_at_once_as_many_are_made_as_the_quota_has_room_for(
    api: ImageApi, kube: httpx.Client, namespace: str
) -> None:
    path = quota(api, namespace, "10")

    def try_one(number: int) -> tuple[int, str]:
        answer = kube.post(streams(namespace), json={"metadata": {"name": f"s{number}"}})
        return answer.status_code, "" if answer.is_success else answer.json()["message"]

    with ThreadPoolExecutor(20) as pool:
        results = list(pool.map(try_one, range(20)))

    assert Counter(code for code, _ in results) == {201: 10, 403: 10}
    assert len(kube.get(streams(namespace)).json()["items"]) == 10
    assert used(kube, path) == "10"
    (said, *_) = (message for code, message in results if code == 403)
    assert said.endswith(
        f'" is forbidden: exceeded quota: few, requested: {COUNTED}=1, used: {COUNTED}=10, '
        f"limited: {COUNTED}=10"
    )


def test_quota_counts_what_is_made_on_the_way_and_nothing_that_is_not(
    api: ImageApi, kube: httpx.Client, namespace: str
) -> None:
    path = quota(api, namespace, "2")
    digest = f"sha256:{uuid.uuid4().hex * 2}"
    mapping = {
        "metadata": {"name": "pushed"},
        "image": {"metadata": {"name": digest}, "dockerImageReference": f"q.io/a/b@{digest}"},
        "tag": "v1",
    }
    mappings = streams(namespace).replace("imagestreams", "imagestreammappings")

    make(kube, streams(namespace), "made")
    assert used(kube, path) == "1"
    again = kube.post(streams(namespace), json={"metadata": {"name": "made"}})
    trial = kube.post(f"{streams(namespace)}?dryRun=All", json={"metadata": {"name": "trial"}})
    assert (again.status_code, trial.status_code, used(kube, path)) == (409, 201, "1")
    pushed = kube.post(mappings, json=mapping)
    same = kube.post(mappings, json={**mapping, "tag": "v2"})
    assert (pushed.status_code, same.status_code, used(kube, path)) == (201, 201, "2")
    full = kube.post(mappings, json={**mapping, "metadata": {"name": "another"}})
    tried = kube.post(f"{streams(namespace)}?dryRun=All", json={"metadata": {"name": "trial"}})
    assert (full.status_code, tried.status_code, used(kube, path)) == (403, 403, "2")

    delete(kube, f"{streams(namespace)}/made", "Background")

    # That there is room again is the controller's to say.
    wait_until(lambda: used(kube, path) == "1", "the quota controller", NOTICE_SECONDS)
    make(kube, streams(namespace), "another")
    assert used(kube, path) == "2"


def test_quota_that_has_counted_what_was_never_made_is_put_right(
    api: ImageApi, kube: httpx.Client, namespace: str
) -> None:
    path = quota(api, namespace, "5")
    make(kube, streams(namespace), "made")
    make(kube, streams(namespace), "gone")
    # As after a server that was killed when it had counted, or whose answers were lost.
    found = kube.get(path).raise_for_status().json()
    found["status"]["used"][COUNTED] = "5"
    kube.put(f"{path}/status", json=found).raise_for_status()
    refused = kube.post(streams(namespace), json={"metadata": {"name": "refused"}})
    assert refused.status_code == 403

    # The controller counts every five minutes, and when something is deleted.
    delete(kube, f"{streams(namespace)}/gone", "Background")

    wait_until(lambda: used(kube, path) == "1", "the quota controller", NOTICE_SECONDS)
    make(kube, streams(namespace), "another")
