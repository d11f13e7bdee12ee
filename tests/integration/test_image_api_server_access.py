"""Who is believed, and what they may: the image API server asked directly, past the aggregator.

Certificates, tokens and roles are those of a real control plane. Where kube-apiserver answers the
same question itself, ours has to be the same to the letter.
"""

import ssl
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.parts import image_api
from tests.parts.certificates import Authority, CertificatePair
from tests.parts.control_plane import ControlPlane
from tests.parts.image_api import API, ImageApi
from tests.parts.processes import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

MASTER = {"X-Remote-User": "root", "X-Remote-Group": "system:masters"}
DISCOVERY = API

Issue = Callable[..., CertificatePair]


@pytest.fixture(scope="module")
def api(
    control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ImageApi]:
    with image_api.running(control_plane, tmp_path_factory.mktemp("api")) as found:
        yield found
    for log in found.directory.glob("*.log"):
        assert "Traceback" not in log.read_text()


@pytest.fixture
def issue(tmp_path: Path) -> Issue:
    """Issue a client certificate."""

    def issue_one(authority: Authority, name: str, **more: Any) -> CertificatePair:
        return authority.issue_to_user(tmp_path / f"{name or 'none'}-pair", name=name, **more)

    return issue_one


def ask(
    api: ImageApi,
    path: str = DISCOVERY,
    pair: CertificatePair | None = None,
    headers: Mapping[str, str] | None = None,
    method: str = "GET",
    **more: Any,
) -> httpx.Response:
    with api.client(api.replicas[0], pair) as client:
        return client.request(method, path, headers=headers, **more)


def check_status(answer: httpx.Response, code: int, reason: str) -> dict[str, Any]:
    status: dict[str, Any] = answer.json()
    assert (answer.status_code, status["kind"], status["code"]) == (code, "Status", code)
    assert (status["status"], status["reason"]) == ("Failure", reason)
    return status


def test_the_front_proxy_is_believed(api: ImageApi, issue: Issue) -> None:
    pair = issue(api.plane.front_proxy, "front-proxy-client")

    answer = ask(api, f"{API}/images", pair, MASTER)

    assert answer.status_code == 200
    assert "audit-id" not in answer.headers


def test_the_front_proxy_has_to_say_who_asks(api: ImageApi, issue: Issue) -> None:
    pair = issue(api.plane.front_proxy, "front-proxy-client")

    status = check_status(ask(api, f"{API}/images", pair), 403, "Forbidden")

    assert 'User "system:anonymous" cannot list' in status["message"]


def test_another_name_of_the_front_proxys_authority_is_nobody(api: ImageApi, issue: Issue) -> None:
    pair = issue(api.plane.front_proxy, "somebody-else")

    status = check_status(ask(api, f"{API}/images", pair, MASTER), 403, "Forbidden")

    assert 'User "system:anonymous"' in status["message"]


def test_a_user_named_as_the_front_proxy_is_a_user(api: ImageApi, issue: Issue) -> None:
    pair = issue(api.plane.users, "front-proxy-client")

    status = check_status(ask(api, f"{API}/images", pair, MASTER), 403, "Forbidden")

    assert 'User "front-proxy-client"' in status["message"]


def test_header_fields_without_a_certificate_say_nothing(api: ImageApi) -> None:
    status = check_status(ask(api, f"{API}/images", None, MASTER), 403, "Forbidden")

    assert 'User "system:anonymous"' in status["message"]


def test_header_fields_beside_a_token_say_nothing(api: ImageApi, namespace: str) -> None:
    api.plane.service_account(namespace, "robot")
    token = api.plane.token(namespace, "robot")

    headers = {**MASTER, "Authorization": f"Bearer {token}"}
    status = check_status(ask(api, f"{API}/images", None, headers), 403, "Forbidden")

    assert f'User "system:serviceaccount:{namespace}:robot"' in status["message"]


def test_a_certificate_of_a_stranger_ends_the_handshake(api: ImageApi, issue: Issue) -> None:
    pair = issue(Authority(), "front-proxy-client")

    with pytest.raises(httpx.TransportError):
        ask(api, f"{API}/images", pair, MASTER)


def test_an_expired_front_proxy_ends_the_handshake(api: ImageApi, issue: Issue) -> None:
    pair = issue(api.plane.front_proxy, "front-proxy-client", lifetime=timedelta(minutes=-1))

    with pytest.raises(httpx.TransportError):
        ask(api, f"{API}/images", pair, MASTER)


def test_impersonation_is_refused(api: ImageApi, issue: Issue) -> None:
    pair = issue(api.plane.users, "admin", groups=["system:masters"])

    for name in ("User", "Group", "Uid", "Extra-scopes"):
        answer = ask(api, f"{API}/images", pair, {f"Impersonate-{name}": "bob"})
        check_status(answer, 403, "Forbidden")


def test_a_users_certificate_has_name_and_groups(api: ImageApi, issue: Issue) -> None:
    admin = issue(api.plane.users, "admin", groups=["system:masters"])

    answer = ask(api, f"{API}/images", admin)

    assert answer.status_code == 200
    assert answer.headers["audit-id"]


def test_a_token_is_reviewed_and_its_rights_are_asked_for(api: ImageApi, namespace: str) -> None:
    plane = api.plane
    plane.service_account(namespace, "viewer")
    headers = {"Authorization": f"Bearer {plane.token(namespace, 'viewer')}"}
    path = f"{API}/namespaces/{namespace}/imagestreams"
    status = check_status(ask(api, path, None, headers), 403, "Forbidden")
    assert status["details"] == {"group": "image.alauda.io", "kind": "imagestreams"}

    grant(plane, namespace, "viewer", ["imagestreams"], ["list"])
    wait_until(lambda: ask(api, path, None, headers).is_success, "the role to count")

    listed = ask(api, path, None, headers).json()
    assert (listed["kind"], listed["items"]) == ("ImageStreamList", [])
    check_status(ask(api, f"{path}/app", None, headers), 403, "Forbidden")


@pytest.mark.parametrize("token", ["nonsense", "a.b.c", "x" * 20_000, "\xe9"])
def test_a_bad_token_is_nobodys(api: ImageApi, token: str) -> None:
    headers = [(b"authorization", b"Bearer " + token.encode())]
    with api.client(api.replicas[0]) as client:
        answer = client.get(API, headers=headers)

    assert check_status(answer, 401, "Unauthorized")["message"] == "Unauthorized"


PATHS = [
    ("GET", "/namespaces/{0}/imagestreams", ""),
    ("GET", "/namespaces/{0}/imagestreams", "watch=true"),
    ("GET", "/namespaces/{0}/imagestreams", "watch"),
    ("GET", "/namespaces/{0}/imagestreams", "watch=0"),
    ("GET", "/namespaces/{0}/imagestreams", "watch=f"),
    ("GET", "/namespaces/{0}/imagestreams", "watch=false&watch=true"),
    ("GET", "/namespaces/{0}/imagestreams", "fieldSelector=metadata.name%3Dapp"),
    ("GET", "/namespaces/{0}/imagestreams", "fieldSelector=metadata.name%3Da/b"),
    ("GET", "/namespaces/{0}/imagestreams", "watch=1&fieldSelector=metadata.name%3Dapp"),
    ("GET", "/namespaces/{0}/imagestreams", "fieldSelector=%21%21"),
    ("GET", "/namespaces/{0}/imagestreams/app", ""),
    ("GET", "/namespaces/{0}/imagestreams/app/layers", ""),
    ("GET", "/namespaces/{0}/imagestreamtags/app:v1", ""),
    ("GET", "/namespaces/{0}/imagestreamtags/app%3Av1", ""),
    ("GET", "/namespaces/{0}/imagestreamimages/app@sha256:abc", ""),
    ("POST", "/namespaces/{0}/imagestreams", ""),
    ("POST", "/namespaces/{0}/imagestreammappings", "dryRun=All"),
    ("PUT", "/namespaces/{0}/imagestreams/app", ""),
    ("PUT", "/namespaces/{0}/imagestreams/app/status", ""),
    ("PATCH", "/namespaces/{0}/imagestreams/app", ""),
    ("DELETE", "/namespaces/{0}/imagestreams/app", ""),
    ("DELETE", "/namespaces/{0}/imagestreams", ""),
    ("DELETE", "/namespaces/{0}/imagestreams", "fieldSelector=metadata.name%3Dapp"),
    ("GET", "/imagestreams", ""),
    ("GET", "/imagestreams/", ""),
    ("GET", "/images/sha256:abc", ""),
    ("DELETE", "/images", ""),
    ("OPTIONS", "/images", ""),
    ("TRACE", "/images/x", ""),
    ("GET", "/nonsense", ""),
    ("GET", "/watch/namespaces/{0}/imagestreams", ""),
    ("GET", "/namespaces/{0}/status", ""),
    ("GET", "/namespaces/{0}", ""),
]


@pytest.mark.parametrize(("method", "path", "query"), PATHS)
def test_who_may_not_is_told_so_as_by_kube_apiserver(
    api: ImageApi, tmp_path: Path, namespace: str, method: str, path: str, query: str
) -> None:
    alice = api.plane.users.issue_to_user(tmp_path / "alice", name='alice "A"', groups=["a"])
    url = f"{API}{path.format(namespace)}" + (f"?{query}" if query else "")

    ours = ask(api, url, alice, method=method)

    theirs = ask_kube_apiserver(api.plane, url, alice, method)
    assert theirs.status_code == 403
    assert (ours.status_code, ours.json()) == (403, theirs.json())


@pytest.mark.parametrize(("method", "path"), [("GET", "/metrics"), ("GET", "/"), ("POST", "/x/y")])
def test_paths_that_are_no_resources_are_asked_for_too(
    api: ImageApi, tmp_path: Path, method: str, path: str
) -> None:
    alice = api.plane.users.issue_to_user(tmp_path / "alice", name="alice")

    ours = ask(api, path, alice, method=method)

    theirs = ask_kube_apiserver(api.plane, path, alice, method)
    assert (ours.status_code, ours.json()) == (403, theirs.json())


@pytest.mark.parametrize("path", ["/healthz", "/livez", "/readyz", "/readyz/store"])
def test_probes_need_no_name(api: ImageApi, path: str) -> None:
    answer = ask(api, path)

    assert (answer.status_code, answer.text) == (200, "ok")


def test_discovery_is_for_everybody_who_is_known(api: ImageApi, issue: Issue) -> None:
    alice = issue(api.plane.users, "alice")

    assert ask(api, API, alice).status_code == 200
    assert ask(api, "/openapi/v3", alice).status_code == 200
    check_status(ask(api, API), 403, "Forbidden")


def test_metrics_count_requests_and_watches(api: ImageApi, issue: Issue, namespace: str) -> None:
    admin = issue(api.plane.users, "admin", groups=["system:masters"])
    path = f"{API}/namespaces/{namespace}/imagestreams"
    ask(api, path, admin)
    watches = 'apiserver_longrunning_requests{group="image.alauda.io",resource="imagestreams"'

    with (
        api.client(api.replicas[0], admin) as client,
        client.stream("GET", f"{path}?watch=true"),
    ):
        during = client.get("/metrics").text
    text = ask(api, "/metrics", admin).text

    counted = [line for line in text.splitlines() if line.startswith("apiserver_request_total{")]
    assert any('code="200"' in line and 'verb="LIST"' in line for line in counted)
    # The garbage collector may have begun to watch all of the cluster.
    (running,) = [
        line
        for line in during.splitlines()
        if line.startswith(watches) and 'scope="namespace"' in line
    ]
    assert running.endswith(" 1.0")


def test_kubectl_can_tell_who_reads_the_registrys_metrics(api: ImageApi) -> None:
    question = ("get", "registry.image.alauda.io", "--subresource=metrics")

    assert api.plane.can_i(*question)
    assert not api.plane.can_i(*question, kubeconfig=api.plane.user("alice"))


def ask_kube_apiserver(
    plane: ControlPlane, url: str, pair: CertificatePair, method: str
) -> httpx.Response:
    context = ssl.create_default_context(cafile=plane.authority)
    context.load_cert_chain(pair.certificate, pair.key)
    with httpx.Client(base_url=plane.url, verify=context, timeout=30) as client:
        return client.request(method, url)


def grant(
    plane: ControlPlane, namespace: str, account: str, resources: list[str], verbs: list[str]
) -> None:
    rule = {"apiGroups": ["image.alauda.io"], "resources": resources, "verbs": verbs}
    subject = {"kind": "ServiceAccount", "name": account, "namespace": namespace}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": account}
    version = "rbac.authorization.k8s.io/v1"
    metadata = {"name": account, "namespace": namespace}
    plane.apply(
        {"apiVersion": version, "kind": "Role", "metadata": metadata, "rules": [rule]},
        {
            "apiVersion": version,
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": role,
            "subjects": [subject],
        },
    )
