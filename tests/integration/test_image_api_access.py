"""The image API beside a registry that asks who is there: nobody sees what they may not pull."""

import hashlib
import http.client
import json
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.guarded import Guarded, basic, bearer, by_password, password_of
from tests.parts.certificates import Authority, CertificatePair
from tests.parts.kubectl import Kubectl, another
from tests.parts.processes import wait_until
from tests.parts.tools import find, require

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

ACCESS = """\
rules:
  - {users: [reader], repositories: [team/app], actions: [pull]}
  - {users: [writer], repositories: ["team/*"], actions: [push, delete], catalog: true}
  - {users: [admin], repositories: ["**"], actions: ["*"], catalog: true}
  - {anonymous: true, repositories: [public/app], actions: [pull]}
"""
API = "/apis/image.alauda.io/v1"
CONFIG = "application/vnd.oci.image.config.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> CertificatePair:
    return Authority().issue(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module", params=[1, 2], ids=["one worker", "two workers"])
def guarded(
    request: pytest.FixtureRequest, tls: CertificatePair, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Guarded]:
    with by_password(
        tmp_path_factory.mktemp("guarded"),
        access=ACCESS,
        workers=request.param,
        tls=tls,
        arguments=("--image-api",),
    ) as found:
        for repository in ("team/app", "team/other", "public/app", "secret/plan"):
            push(found, repository, "v1")
        yield found
    assert "Traceback" not in found.server.log.read_text()


def push(guarded: Guarded, repository: str, tag: str) -> str:
    """Push an image whose configuration names its repository, and return its digest."""
    admin = basic("admin", password_of("admin"))
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Env": [f"SECRET={repository}"]},
            "rootfs": {"type": "layers", "diff_ids": []},
        }
    ).encode()
    digest = f"sha256:{hashlib.sha256(config).hexdigest()}"
    uploads = f"/v2/{repository}/blobs/uploads/?digest={digest}"
    guarded.ask("POST", uploads, admin, content=config).raise_for_status()
    descriptor = {"mediaType": CONFIG, "digest": digest, "size": len(config)}
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor, "layers": []}
    headers = {**admin, "Content-Type": MANIFEST}
    put = f"/v2/{repository}/manifests/{tag}"
    answer = guarded.ask("PUT", put, headers, content=json.dumps(manifest).encode())
    return answer.raise_for_status().headers["Docker-Content-Digest"]


def ask(guarded: Guarded, name: str, path: str, method: str = "GET", **more: Any) -> httpx.Response:
    """Ask as a user, or as nobody; every answer is Kubernetes' own."""
    shown = basic(name, password_of(name)) if name else {}
    answer = guarded.ask(method, f"{API}/{path}", shown, **more)
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/json"
        status = answer.json()
        assert (status["kind"], status["code"]) == ("Status", answer.status_code)
    return answer


ONE = (
    "namespaces/{0}/imagestreams/{1}",
    "namespaces/{0}/imagestreams/{1}/layers",
    "namespaces/{0}/imagestreams?fieldSelector=metadata.name={1}",
    "namespaces/{0}/imagestreamtags/{1}:v1",
    "namespaces/{0}/imagetags/{1}:v1",
)
LISTS = ("imagestreams", "imagestreamtags", "imagetags", "images")


def test_a_reader_reads_what_they_may_pull_and_nothing_else(guarded: Guarded) -> None:
    for path in ONE:
        assert ask(guarded, "reader", path.format("team", "app")).status_code == 200
        for other in (("team", "other"), ("secret", "plan"), ("public", "none")):
            refused = ask(guarded, "reader", path.format(*other))
            assert refused.status_code == 403
            assert "SECRET" not in refused.text
    for path in LISTS:
        assert ask(guarded, "reader", path).status_code == 403
        if path != "images":
            assert ask(guarded, "reader", f"namespaces/team/{path}").status_code == 403
    tag = ask(guarded, "reader", "namespaces/team/imagestreamtags/app:v1").json()
    assert "SECRET=team/app" in json.dumps(tag)
    assert ask(guarded, "reader", f"images/{tag['image']['metadata']['name']}").status_code == 403


def test_a_list_is_for_whoever_may_pull_all_that_it_could_show(guarded: Guarded) -> None:
    for path in ("imagestreams", "imagestreamtags", "imagetags"):
        listed = ask(guarded, "writer", f"namespaces/team/{path}").json()["items"]
        assert {item["metadata"]["namespace"] for item in listed} == {"team"}
        assert ask(guarded, "writer", f"namespaces/secret/{path}").status_code == 403
        assert ask(guarded, "writer", path).status_code == 403
        assert "plan" in ask(guarded, "admin", path).text
    assert ask(guarded, "writer", "images").status_code == 403
    images = ask(guarded, "admin", "images").json()["items"]
    assert any("SECRET=secret/plan" in json.dumps(image) for image in images)


def test_a_stranger_sees_what_is_public(guarded: Guarded) -> None:
    for path in ONE:
        assert ask(guarded, "", path.format("public", "app")).status_code == 200
        refused = ask(guarded, "", path.format("team", "app"))
        assert refused.status_code == 401
        challenge = refused.headers["WWW-Authenticate"]
        assert challenge.startswith(f'Bearer realm="{guarded.url}/token"')
        assert 'scope="repository:team/app:pull"' in challenge
    for path in LISTS:
        assert ask(guarded, "", path).status_code == 401
    wrong = guarded.ask("GET", "/apis", basic("reader", "wrong"))
    assert (wrong.status_code, wrong.json()["reason"]) == (401, "Unauthorized")


def test_deleting_takes_the_right_to_delete(guarded: Guarded) -> None:
    push(guarded, "team/app", "gone")
    wait = "namespaces/team/imagestreamtags/app:gone"
    manifest = "/v2/team/app/manifests/gone"
    admin = basic("admin", password_of("admin"))
    assert guarded.ask("GET", manifest, admin).status_code == 200

    assert ask(guarded, "", wait, "DELETE").status_code == 401
    assert ask(guarded, "reader", wait, "DELETE").status_code == 403
    elsewhere = ask(guarded, "writer", "namespaces/secret/imagestreams/plan", "DELETE")
    assert elsewhere.status_code == 403
    assert ask(guarded, "writer", "images", "DELETE").status_code == 403
    assert guarded.ask("GET", manifest, admin).status_code == 200
    assert ask(guarded, "writer", wait, "DELETE").status_code == 200

    assert ask(guarded, "writer", wait).status_code == 404
    assert guarded.ask("GET", manifest, admin).status_code == 404
    assert ask(guarded, "admin", "namespaces/secret/imagestreams/plan").status_code == 200


def test_nobody_writes_but_by_pushing(guarded: Guarded) -> None:
    source = {"kind": "ImageStreamTag", "namespace": "secret", "name": "plan:v1"}
    tag = {"metadata": {"name": "app:mine"}, "tag": {"name": "mine", "from": source}}

    for name in ("writer", "admin"):
        refused = ask(guarded, name, "namespaces/team/imagestreamtags", "POST", json=tag)
        assert refused.status_code == 403
        assert "changed by pushes and deletions alone" in refused.json()["message"]
    assert ask(guarded, "writer", "namespaces/team/imagestreamtags/app:mine").status_code == 404


def test_tokens_of_the_registry_are_good_for_what_they_name(guarded: Guarded) -> None:
    def get(token: str, path: str) -> int:
        return guarded.ask("GET", f"{API}/{path}", bearer(token)).status_code

    stream = "namespaces/team/imagestreams"
    one = guarded.token("writer", "repository:team/app:pull")
    assert (get(one, f"{stream}/app"), get(one, f"{stream}/other"), get(one, stream)) == (
        200,
        401,
        401,
    )
    scope = "registry:catalog:* repository:team/*:pull"
    many = guarded.token("writer", scope)
    assert (get(many, stream), get(many, f"{stream}/app")) == (200, 401)
    # They may not, whatever the token says.
    assert get(many, "imagestreams") == 403
    # Whoever may not have it is given a token without it.
    assert get(guarded.token("reader", scope), stream) == 403
    assert get("nonsense", stream) == 401


def test_a_watch_shows_what_may_be_pulled_and_ends_with_the_right(
    tmp_path: Path, tls: CertificatePair
) -> None:
    with by_password(tmp_path, access=ACCESS, tls=tls, arguments=("--image-api",)) as guarded:
        push(guarded, "secret/plan", "v1")
        push(guarded, "team/app", "v1")
        context = ssl.create_default_context(cafile=tls.authority)
        connection = http.client.HTTPSConnection(
            guarded.server.address, timeout=30, context=context
        )
        shown = basic("writer", password_of("writer"))
        path = f"{API}/namespaces/team/imagestreams"
        connection.request("GET", f"{path}?watch=1", headers=shown)
        lines = connection.getresponse()
        assert b'"name":"app"' in lines.readline()
        push(guarded, "secret/plan", "v2")
        push(guarded, "team/other", "v1")
        assert b'"name":"other"' in lines.readline()

        (tmp_path / "access.yml").write_text("rules: []\n")
        began = time.monotonic()
        assert lines.read() == b""
        assert time.monotonic() - began < 25
        connection.close()
        wait_until(
            lambda: guarded.ask("GET", path, shown).status_code == 403, "the rules that allow less"
        )


@pytest.mark.parametrize("program", ["pinned", "another"])
def test_kubectl_shows_a_password_over_tls(
    guarded: Guarded, tls: CertificatePair, tmp_path: Path, program: str
) -> None:
    require("kubectl")
    kubectl = Kubectl(find("kubectl") if program == "pinned" else another(), guarded.url, tmp_path)

    def as_user(name: str, password: str = "") -> tuple[str, ...]:
        if not name:
            # Without any credentials kubectl asks the terminal for some.
            return (f"--certificate-authority={tls.authority}", "--token=anonymous")
        shown = (f"--username={name}", f"--password={password or password_of(name)}")
        return (f"--certificate-authority={tls.authority}", *shown)

    push(guarded, "team/kubectl", "v1")
    own = ("-n", "team")
    reader, writer = as_user("reader"), as_user("writer")
    assert "app" in kubectl("get", "is/app", *own, *reader)
    refused = kubectl.fails("get", "is", *own, *reader)
    assert (
        'Error from server (Forbidden): imagestreams.image.alauda.io is forbidden: User "reader"'
        in refused
    )
    assert 'cannot list resource "imagestreams" in API group "image.alauda.io"' in refused
    assert "kubectl" in kubectl("get", "is", *own, *writer, "--no-headers")
    assert "deleted" in kubectl("delete", "istag/kubectl:v1", *own, *writer, "--timeout=20s")
    assert "not found" in kubectl.fails("get", "istag/kubectl:v1", *own, *writer).lower()
    assert "plan" in kubectl("get", "is", "-A", *as_user("admin"))
    assert "app" in kubectl("get", "is/app", "-n", "public", *as_user(""))
    for credentials in (as_user(""), as_user("reader", "wrong")):
        told = kubectl.fails("get", "is/app", *own, *credentials)
        assert "logged in" in told or "Unauthorized" in told or "provide credentials" in told
    forbidden = kubectl.fails("label", "is/app", "a=b", *own, *writer)
    assert "changed by pushes and deletions alone" in forbidden
