"""The image API beside a real registry: pushed to with crane and skopeo, read with kubectl."""

import hashlib
import http.client
import io
import json
import os
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.parts import registry
from tests.parts.kubectl import Kubectl, another
from tests.parts.processes import PartFailed, inherited, run, wait_until
from tests.parts.registry import Server
from tests.parts.tools import find, require

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

STREAM = {
    "apiVersion": "image.alauda.io/v1",
    "kind": "ImageStream",
    "metadata": {"name": "web", "labels": {"tier": "front"}},
    "spec": {"tags": [{"name": "base", "from": {"kind": "DockerImage", "name": "q.io/a/b:1"}}]},
}

Push = Callable[[str, str], str]


@pytest.fixture(scope="module", params=[1, 2], ids=["one worker", "two workers"])
def workers(request: pytest.FixtureRequest) -> int:
    found: int = request.param
    return found


@pytest.fixture(scope="module")
def server(workers: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("image-api")
    with registry.running(directory, workers=workers, arguments=["--image-api"]) as found:
        yield found
    assert "Traceback" not in found.log.read_text()


@pytest.fixture(scope="module")
def program(workers: int) -> Path:
    """One worker for the kubectl that is pinned, and two for another, if there is another."""
    require("kubectl")
    return find("kubectl") if workers == 1 else another()


@pytest.fixture
def kubectl(program: Path, server: Server, tmp_path_factory: pytest.TempPathFactory) -> Kubectl:
    home = tmp_path_factory.getbasetemp() / f"kube-{program.parent.name}"
    home.mkdir(exist_ok=True)
    return Kubectl(program, server.url, home)


@pytest.fixture
def namespace(request: pytest.FixtureRequest, kubectl: Kubectl) -> str:
    """A namespace of this test's own; it exists since it is asked for."""
    return f"n{abs(hash((request.node.name, kubectl.server))) % 10**12}"


@pytest.fixture
def push(server: Server, tmp_path: Path) -> Push:
    """Push an image with one layer of a text, and return its digest."""
    require("crane")

    def push_with_crane(reference: str, text: str) -> str:
        layer = tmp_path / "layer.tar"
        with tarfile.open(layer, "w") as archive:
            entry = tarfile.TarInfo("text")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
        where = f"{server.address}/{reference}"
        flags = ("append", "--insecure", "--oci-empty-base", "-f", layer, "-t", where)
        pushed = run([find("crane"), *flags], environment=inherited(HOME=str(tmp_path)))
        return pushed.stdout.strip().rpartition("@")[2]

    return push_with_crane


def tags_of(kubectl: Kubectl, namespace: str) -> list[str]:
    return [item["metadata"]["name"] for item in kubectl.get("istag", "-n", namespace)["items"]]


def test_what_is_pushed_shows_and_what_is_deleted_goes(
    kubectl: Kubectl, server: Server, namespace: str, push: Push
) -> None:
    digest = push(f"{namespace}/app:v1", "one")
    push(f"{namespace}/app:v2", "one")
    other = push(f"{namespace}/app:v3", "two")

    assert digest in kubectl("get", "images.image.alauda.io")
    line = kubectl("get", "imagestreams", "-n", namespace, "--no-headers").split()
    assert line[:2] == ["app", f"{server.address}/{namespace}/app"]
    assert set(line[2].split(",")) == {"v1", "v2", "v3"}
    assert tags_of(kubectl, namespace) == ["app:v1", "app:v2", "app:v3"]
    path = "jsonpath={.image.dockerImageReference}"
    reference = kubectl("get", "istag", "app:v1", "-n", namespace, "-o", path)
    assert reference == f"{server.address}/{namespace}/app@{digest}"
    run([find("crane"), "manifest", "--insecure", reference])
    layers = json.loads(
        kubectl(
            "get",
            "--raw",
            f"/apis/image.alauda.io/v1/namespaces/{namespace}/imagestreams/app/layers",
        )
    )
    assert sorted(layers["images"]) == sorted([digest, other])

    run([find("crane"), "delete", "--insecure", f"{server.address}/{namespace}/app:v1"])
    assert tags_of(kubectl, namespace) == ["app:v2", "app:v3"]
    run([find("crane"), "delete", "--insecure", f"{server.address}/{namespace}/app@{digest}"])
    assert tags_of(kubectl, namespace) == ["app:v3"]
    assert "not found" in kubectl.fails("get", f"image/{digest}")

    kubectl("delete", "istag", "app:v3", "-n", namespace)
    with pytest.raises(PartFailed, match=r"MANIFEST_UNKNOWN|404"):
        run([find("crane"), "manifest", "--insecure", f"{server.address}/{namespace}/app:v3"])


def test_skopeo_shows_too(
    kubectl: Kubectl, server: Server, namespace: str, push: Push, tmp_path: Path
) -> None:
    require("skopeo")
    push(f"{namespace}/app:v1", "skopeo")
    base = f"docker://{server.address}/{namespace}"
    flags = ["--src-tls-verify=false", "--dest-tls-verify=false"]

    run([find("skopeo"), "copy", *flags, "-f", "v2s2", f"{base}/app:v1", f"{base}/copy:v2"])

    found = kubectl.get("istag", "copy:v2", "-n", namespace)
    assert "docker.distribution.manifest.v2" in found["image"]["dockerImageManifestMediaType"]


def test_kubectl_takes_it_for_a_built_in(kubectl: Kubectl, namespace: str) -> None:
    own = ("-n", namespace)

    assert "imagestreams" in kubectl("api-resources", "--api-group=image.alauda.io")
    assert "created" in kubectl("apply", *own, "-f", "-", given=STREAM)
    assert "unchanged" in kubectl("apply", *own, "-f", "-", given=STREAM)
    assert kubectl("diff", *own, "-f", "-", given=STREAM) == ""
    changed = json.loads(json.dumps(STREAM).replace("a/b:1", "a/b:2"))
    assert kubectl.run("diff", *own, "-f", "-", given=changed).returncode == 1
    assert "configured" in kubectl("apply", *own, "-f", "-", given=changed)
    assert "labeled" in kubectl("label", "is/web", *own, "a=b")
    assert "annotated" in kubectl("annotate", "is/web", *own, "c=d")
    patch = json.dumps({"spec": {"tags": [{"name": "new", **_from("q.io/a/c:1")}]}})
    assert "patched" in kubectl("patch", "is/web", *own, "-p", patch)
    merge = json.dumps({"spec": {"lookupPolicy": {"local": True}}})
    kubectl("patch", "is/web", *own, "--type=merge", "-p", merge)
    kubectl("patch", "is/web", *own, "--type=json", "-p", '[{"op":"remove","path":"/spec/tags/1"}]')
    ready = "--for=jsonpath={.spec.lookupPolicy.local}=true"
    assert "condition met" in kubectl("wait", "is/web", *own, ready, "--timeout=10s")
    found = kubectl.get("is/web", *own)
    assert [tag["from"]["name"] for tag in found["spec"]["tags"]] == ["q.io/a/b:2"]
    assert found["metadata"]["labels"] == {"tier": "front", "a": "b"}
    found["metadata"]["labels"]["e"] = "f"
    assert "replaced" in kubectl("replace", *own, "-f", "-", given=found)
    described = kubectl("describe", "is/web", *own)
    assert "q.io/a/b:2" in described
    assert "lookupPolicy" in kubectl("explain", "imagestream.spec")
    assert "importMode" in kubectl("explain", "is.spec.tags.importPolicy")
    assert kubectl("get", "is", *own, "-l", "a=b,e", "-o", "name").strip() == (
        "imagestream.image.alauda.io/web"
    )
    assert "web" in kubectl("get", "is", "-A", "-o", "wide", "--field-selector=metadata.name=web")
    assert "web" in kubectl("get", "all", *own)
    assert "web:base" in kubectl("get", "itag", *own)
    assert "deleted" in kubectl("delete", "is/web", *own, "--timeout=20s")
    assert "not found" in kubectl.fails("get", "is/web", *own)


def test_kubectl_applies_on_the_server_and_hears_of_conflicts(
    kubectl: Kubectl, namespace: str
) -> None:
    command = ("apply", "--server-side", "-n", namespace, "-f", "-")
    changed = json.loads(json.dumps(STREAM).replace("a/b:1", "a/b:2"))

    kubectl(*command, "--field-manager=one", given=STREAM)
    complaint = kubectl.fails(*command, "--field-manager=two", given=changed)
    kubectl(*command, "--field-manager=two", "--force-conflicts", given=changed)

    assert 'conflict with "one"' in complaint
    found = kubectl.get("is/web", "-n", namespace, "--show-managed-fields")
    assert [entry["manager"] for entry in found["metadata"]["managedFields"]] == ["one", "two"]


def test_kubectl_tells_of_mistakes_in_kubernetes_words(kubectl: Kubectl, namespace: str) -> None:
    create = ("create", "-n", namespace, "-f", "-")
    misspelt = {**STREAM, "spec": {"tagz": []}}
    wrong = {**STREAM, "spec": {"tags": [{"name": "a", "from": {"kind": "Pod", "name": "x"}}]}}

    assert 'unknown field "spec.tagz"' in kubectl.fails(*create, given=misspelt)
    warned = kubectl.run(*create, "--validate=warn", "--dry-run=server", given=misspelt)
    assert 'Warning: unknown field "spec.tagz"' in warned.stderr
    assert "spec.tags[0].from.kind: Required value" in kubectl.fails(*create, given=wrong)
    kubectl(*create, given=STREAM)
    assert "already exists" in kubectl.fails(*create, given=STREAM)
    watched = kubectl.fails("get", "istag", "-n", namespace, "-w")
    assert "not allow" in watched or "MethodNotAllowed" in watched


def test_kubectl_watches_pushes(kubectl: Kubectl, namespace: str, push: Push) -> None:
    command = kubectl.command("get", "is", "-n", namespace, "-w", "--no-headers")
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=kubectl.environment()
    ) as watching:
        assert watching.stdout is not None
        # It lists and then watches; either shows the push.
        push(f"{namespace}/app:v1", "watched")
        line = watching.stdout.readline().split()
        watching.send_signal(signal.SIGTERM)

    assert line[0] == "app"


def test_every_page_of_a_long_list_is_shown(kubectl: Kubectl, server: Server) -> None:
    connection = http.client.HTTPConnection(server.address, timeout=30)
    for number in range(30):
        body = json.dumps({"metadata": {"name": f"s{number:02}"}})
        path = "/apis/image.alauda.io/v1/namespaces/paged/imagestreams"
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        connection.getresponse().read()
    connection.close()

    listed = kubectl("get", "is", "-n", "paged", "--chunk-size=7", "-o", "name").split()

    assert listed == [f"imagestream.image.alauda.io/s{number:02}" for number in range(30)]


def _from(name: str) -> dict[str, Any]:
    return {"from": {"kind": "DockerImage", "name": name}}


def test_an_existing_volume_shows_and_what_was_shown_stays(tmp_path: Path) -> None:
    require("crane", "kubectl")
    program = find("kubectl")
    root = tmp_path / "root"
    with registry.running(tmp_path / "alone", root=root) as alone:
        _push_empty(alone, "team/app:v1", tmp_path)
    assert not (root / "_imageapi").exists()

    with registry.running(tmp_path / "first", root=root, arguments=["--image-api"]) as server:
        kubectl = Kubectl(program, server.url, tmp_path)
        wait_until(lambda: tags_of(kubectl, "team") == ["app:v1"], "the volume's tags")
        _push_empty(server, "team/app:v2", tmp_path)
        before = kubectl.get("is/app", "-n", "team")
        address = server.address
        os.kill(server.pid, signal.SIGKILL)

    with registry.running(
        tmp_path / "second", root=root, arguments=["--image-api"], address=address
    ) as server:
        kubectl = Kubectl(program, server.url, tmp_path)
        assert kubectl.get("is/app", "-n", "team") == before


def test_watches_end_when_the_server_does(tmp_path: Path) -> None:
    with registry.running(tmp_path, arguments=["--image-api"]) as server:
        connection = http.client.HTTPConnection(server.address, timeout=30)
        connection.request("GET", "/apis/image.alauda.io/v1/imagestreams?watch=true")
        answer = connection.getresponse()
        started = time.monotonic()
        os.kill(server.pid, signal.SIGTERM)

        assert answer.read() == b""
        assert time.monotonic() - started < 20
        connection.close()


def test_without_being_asked_for_it_is_not_there(tmp_path: Path) -> None:
    with registry.running(tmp_path) as server:
        connection = http.client.HTTPConnection(server.address, timeout=30)
        connection.request("GET", "/apis")

        assert connection.getresponse().status == 404
        connection.close()


def test_a_database_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    database = tmp_path / "objects.db"
    database.write_text("no database " * 1000)
    settings = {"REGISTRY_IMAGEAPI_DATABASE": str(database)}

    with (
        pytest.raises(PartFailed),
        registry.running(tmp_path, arguments=["--image-api"], settings=settings),
    ):
        pass

    log = (tmp_path / "registry.log").read_text()
    assert "Traceback" not in log
    assert f"the image API cannot start: cannot use {database}: " in log
    assert "set imageapi.database to a file on a local disk" in log


@pytest.mark.parametrize("workers", [1, 2])
def test_what_was_acknowledged_shows_after_the_server_was_killed(
    tmp_path: Path, workers: int
) -> None:
    root = tmp_path / "root"
    told: dict[str, str] = {}
    with (
        registry.running(
            tmp_path / "killed", root=root, workers=workers, arguments=["--image-api"]
        ) as server,
        ThreadPoolExecutor(4) as pushers,
    ):
        pushing = [pushers.submit(_push_until_it_breaks, server, name) for name in "abcd"]
        time.sleep(1.5)
        for pid in (server.pid, *server.workers()):
            os.kill(pid, signal.SIGKILL)
        for pushed in pushing:
            told |= pushed.result()
    assert len(told) > 4

    with registry.running(
        tmp_path / "again", root=root, workers=workers, arguments=["--image-api"]
    ) as server:
        wait_until(lambda: "the image API shows" in server.log.read_text(), "the volume")
        shown = _shown(server)
        # The same registry under another address: what tags point to is the same.
        stored = {tag: _stored(server, tag) for tag in shown}

    # A push that was not acknowledged may have come as far as the storage, and then shows, too.
    assert told.keys() <= shown.keys()
    assert shown == stored
    kept = {tag: digest for tag, digest in told.items() if tag.endswith("-kept")}
    assert {tag: shown[tag] for tag in kept} == kept


def _push_until_it_breaks(server: Server, name: str) -> dict[str, str]:
    """Push tags that are kept and one that moves, and return what was acknowledged."""
    told: dict[str, str] = {}
    connection = http.client.HTTPConnection(server.address, timeout=10)
    kind = "application/vnd.oci.image.index.v1+json"
    number = 0
    while True:
        number += 1
        index = {"schemaVersion": 2, "mediaType": kind, "manifests": []}
        content = json.dumps({**index, "annotations": {"note": f"{name}{number}"}}).encode()
        for tag in (f"{name}{number}-kept", f"{name}-moving"):
            path = f"/v2/team/app/manifests/{tag}"
            try:
                connection.request("PUT", path, content, {"Content-Type": kind})
                answer = connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException):
                connection.close()
                return told
            assert answer.status == 201
            told[tag] = f"sha256:{hashlib.sha256(content).hexdigest()}"


def _shown(server: Server) -> dict[str, str]:
    connection = http.client.HTTPConnection(server.address, timeout=30)
    connection.request("GET", "/apis/image.alauda.io/v1/namespaces/team/imagestreams/app")
    found = json.loads(connection.getresponse().read())
    connection.close()
    return {named["tag"]: named["items"][0]["image"] for named in found["status"]["tags"]}


def _stored(server: Server, tag: str) -> str:
    connection = http.client.HTTPConnection(server.address, timeout=30)
    connection.request("HEAD", f"/v2/team/app/manifests/{tag}")
    digest = connection.getresponse().headers["Docker-Content-Digest"]
    connection.close()
    return str(digest)


def _push_empty(server: Server, reference: str, home: Path) -> None:
    layer = home / "empty.tar"
    with tarfile.open(layer, "w"):
        pass
    where = f"{server.address}/{reference}"
    flags = ("append", "--insecure", "--oci-empty-base", "-f", layer, "-t", where)
    run([find("crane"), *flags], environment=inherited(HOME=str(home)))
