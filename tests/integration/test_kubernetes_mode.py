"""A registry whose users and rights are those of a cluster, asked over the wire."""

import asyncio
import hashlib
import os
import signal
import socket
import ssl
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest

from tests.integration.cluster_people import (
    CONFIG_DIGEST,
    DIGEST,
    MANIFEST,
    PULLER,
    PUSHER,
    Account,
    connect,
    push,
    reviews,
)
from tests.parts import cluster_registry
from tests.parts.control_plane import (
    MANY_GROUPS,
    MEMBER,
    MEMBER_TOKEN,
    ControlPlane,
    write_kubeconfig,
)
from tests.parts.processes import PartFailed, free_port, wait_until
from tests.parts.registry import Server

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def server(
    control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    cluster_registry.apply_cluster_roles(control_plane)
    with cluster_registry.running(control_plane, tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with connect(server) as client:
        yield client


@pytest.fixture
def robot(control_plane: ControlPlane, namespace: str) -> Account:
    return Account(control_plane, namespace)


@pytest.fixture
def pusher(control_plane: ControlPlane, namespace: str, client: httpx.Client) -> Account:
    account = Account(control_plane, namespace).bind(PUSHER, namespace)
    _until_it_may(client, account, f"/v2/{namespace}/app/tags/list")
    return account


def test_stranger_is_sent_to_the_token_service_of_the_address_they_used(
    server: Server, client: httpx.Client, namespace: str
) -> None:
    answer = client.get(f"/v2/{namespace}/app/manifests/1")

    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == (
        f'Bearer realm="https://{server.address}/token",service="alauda-image-registry",'
        f'scope="repository:{namespace}/app:pull"'
    )
    assert answer.json()["errors"][0]["code"] == "UNAUTHORIZED"


@pytest.mark.parametrize("way", ["basic", "bearer"])
def test_token_of_a_service_account_logs_in(client: httpx.Client, robot: Account, way: str) -> None:
    if way == "basic":
        answer = client.get("/v2/", auth=robot.basic)
    else:
        answer = client.get("/v2/", headers=robot.bearer)

    assert answer.status_code == 200


@pytest.mark.parametrize("token", ["nonsense", "a.b.c", "", "ä", "x" * 20_000])
def test_what_is_no_token_does_not(client: httpx.Client, token: str) -> None:
    answer = client.get("/v2/", auth=httpx.BasicAuth("whoever", token))

    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer ")
    assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]


def test_token_for_another_audience_does_not(
    client: httpx.Client, control_plane: ControlPlane, robot: Account
) -> None:
    other = control_plane.token(robot.namespace, robot.name, audiences=["vault"])

    assert client.get("/v2/", headers={"Authorization": f"Bearer {other}"}).status_code == 401


def test_pusher_pushes_and_puller_pulls(
    client: httpx.Client, pusher: Account, robot: Account, namespace: str
) -> None:
    push(client, pusher, f"{namespace}/app")
    url = f"/v2/{namespace}/app/manifests/1"
    denied = client.get(url, auth=robot.basic)
    assert (denied.status_code, denied.json()["errors"][0]["code"]) == (403, "DENIED")

    robot.bind(PULLER, namespace)

    _until_it_may(client, robot, url)
    assert client.get(url, auth=robot.basic).content == MANIFEST
    refused = client.put(url, content=MANIFEST, auth=robot.basic)
    assert (refused.status_code, refused.json()["errors"][0]["code"]) == (403, "DENIED")


def test_what_is_taken_away_is_gone_within_seconds(
    client: httpx.Client, control_plane: ControlPlane, pusher: Account, namespace: str
) -> None:
    url = f"/v2/{namespace}/app/tags/list"
    token = _token_of(client, pusher)
    control_plane.kubectl("delete", "rolebinding", "--all", "--namespace", namespace)

    wait_until(
        lambda: client.get(url, headers={"Authorization": f"Bearer {token}"}).status_code == 403,
        "the end of the role, also for a token that was made before",
        seconds=30,
    )


def test_our_token_says_who_and_nothing_else_and_lives_a_minute(
    client: httpx.Client, robot: Account
) -> None:
    answer = client.get(
        "/token",
        params={"scope": "repository:a/b:pull,push", "offline_token": "true"},
        auth=robot.basic,
    ).json()

    claims = jwt.decode(answer["token"], options={"verify_signature": False})
    assert claims["sub"] == f"system:serviceaccount:{robot.namespace}:{robot.name}"
    assert f"system:serviceaccounts:{robot.namespace}" in claims["identity"]["groups"]
    assert claims["exp"] - claims["iat"] == answer["expires_in"] == 60
    assert "access" not in claims
    assert "refresh_token" not in answer
    assert client.get("/v2/", headers={"Authorization": f"Bearer {answer['token']}"}).is_success


def test_member_of_hundreds_of_groups_goes_on_with_the_token_they_came_with(
    client: httpx.Client, control_plane: ControlPlane, pusher: Account, namespace: str
) -> None:
    push(client, pusher, f"{namespace}/app")
    control_plane.bind(PULLER, namespace, group=MANY_GROUPS[-1])
    assert sum(map(len, MANY_GROUPS)) > 16 * 1024

    for answer in (
        client.get("/token", auth=httpx.BasicAuth(MEMBER, MEMBER_TOKEN)),
        client.post(
            "/token",
            data={"grant_type": "password", "username": MEMBER, "password": MEMBER_TOKEN},
        ),
    ):
        content = answer.raise_for_status().json()
        assert content["expires_in"] == 60
        bearer = {"Authorization": f"Bearer {content['access_token']}"}
        wait_until(
            lambda bearer=bearer: (
                client.get(  # type: ignore[misc]  # -- of this turn
                    f"/v2/{namespace}/app/manifests/1", headers=bearer
                ).is_success
            ),
            "the role",
        )


def test_token_for_nobody_in_particular_may_what_everybody_may(
    client: httpx.Client, control_plane: ControlPlane, pusher: Account, namespace: str
) -> None:
    push(client, pusher, f"{namespace}/app")
    url = f"/v2/{namespace}/app/manifests/1"
    anonymous = {"Authorization": f"Bearer {client.get('/token').json()['token']}"}
    assert client.get(url, headers=anonymous).status_code == 401

    control_plane.bind(PULLER, namespace, group="system:unauthenticated")

    wait_until(lambda: client.get(url).is_success, "anonymous pull")
    wait_until(lambda: client.get(url, headers=anonymous).is_success, "pull with such a token")
    assert client.get(url, headers={"Authorization": "Bearer anonymous"}).is_success
    assert client.post(f"/v2/{namespace}/app/blobs/uploads/").status_code == 401


@pytest.mark.parametrize("name", ["app", "{}/app/more", "not_a_namespace/app", "9.9/app"])
def test_only_namespace_and_name_is_a_repository(
    client: httpx.Client, pusher: Account, namespace: str, name: str
) -> None:
    url = f"/v2/{name.format(namespace)}/manifests/1"
    for answer in (client.get(url), client.put(url, content=MANIFEST, auth=pusher.basic)):
        assert answer.status_code == 400
        (error,) = answer.json()["errors"]
        assert error["code"] == "NAME_INVALID"
        assert "NAMESPACE/NAME" in error["message"]


def test_tag_is_deleted_by_who_may_delete_tags_of_the_namespace(
    client: httpx.Client, pusher: Account, robot: Account, namespace: str
) -> None:
    push(client, pusher, f"{namespace}/app")
    tag = f"/v2/{namespace}/app/manifests/1"
    digest = f"/v2/{namespace}/app/manifests/{DIGEST}"
    assert client.delete(tag, auth=pusher.basic).status_code == 403

    robot.bind("system:image-deleter", namespace)

    wait_until(lambda: client.delete(tag, auth=robot.basic).status_code == 202, "the role")
    # What has a digest belongs to no namespace.
    assert client.delete(digest, auth=robot.basic).status_code == 403
    assert (
        client.delete(f"/v2/{namespace}/app/blobs/{CONFIG_DIGEST}", auth=robot.basic).status_code
        == 403
    )


def test_manifests_and_blobs_are_deleted_by_who_may_delete_images_of_the_cluster(
    client: httpx.Client, pusher: Account, robot: Account, namespace: str
) -> None:
    push(client, pusher, f"{namespace}/app")
    robot.bind("system:image-deleter", None)
    digest = f"/v2/{namespace}/app/manifests/{DIGEST}"

    wait_until(lambda: client.delete(digest, auth=robot.basic).status_code == 202, "the role")

    blob = f"/v2/{namespace}/app/blobs/{CONFIG_DIGEST}"
    assert client.delete(blob, auth=robot.basic).status_code == 202


def test_own_upload_is_given_up_by_who_may_push(
    client: httpx.Client, pusher: Account, namespace: str
) -> None:
    begun = client.post(f"/v2/{namespace}/app/blobs/uploads/", auth=pusher.basic)

    assert client.delete(begun.headers["Location"], auth=pusher.basic).status_code == 204


@pytest.mark.parametrize(
    ("path", "role"),
    [
        ("/v2/_catalog", "system:image-registry-catalog-reader"),
        ("/metrics", "system:image-registry-metrics-reader"),
        ("/extensions/v2/metrics", "system:image-registry-metrics-reader"),
    ],
)
def test_catalog_and_metrics_are_for_their_readers(
    client: httpx.Client, robot: Account, path: str, role: str
) -> None:
    assert client.get(path).status_code == 401
    assert client.get(path, headers=robot.bearer).status_code == 403

    robot.bind(role, None)

    wait_until(lambda: client.get(path, headers=robot.bearer).is_success, "the role")


def test_probes_need_nothing(client: httpx.Client) -> None:
    for path in ("/", "/healthz", "/readyz"):
        assert client.get(path).is_success


def test_blob_is_mounted_from_where_one_may_pull_and_uploaded_from_elsewhere(
    client: httpx.Client, control_plane: ControlPlane, pusher: Account, namespace: str
) -> None:
    elsewhere = control_plane.new_namespace()
    owner = Account(control_plane, elsewhere).bind(PUSHER, elsewhere)
    _until_it_may(client, owner, f"/v2/{elsewhere}/app/tags/list")
    push(client, owner, f"{elsewhere}/app")

    def mount(blob: str) -> int:
        return client.post(
            f"/v2/{namespace}/app/blobs/uploads/",
            params={"mount": blob, "from": f"{elsewhere}/app"},
            auth=pusher.basic,
        ).status_code

    absent = "sha256:" + hashlib.sha256(b"absent").hexdigest()
    # Whether it is there is not to be found out.
    assert mount(CONFIG_DIGEST) == mount(absent) == 202

    pusher.bind(PULLER, elsewhere)

    wait_until(lambda: mount(CONFIG_DIGEST) == 201, "the role")
    assert mount(absent) == 202


def test_user_with_a_certificate_is_who_it_says(
    server: Server, control_plane: ControlPlane, pusher: Account, client: httpx.Client
) -> None:
    namespace = pusher.namespace
    push(client, pusher, f"{namespace}/app")
    group = f"team-{uuid.uuid4().hex[:6]}"
    alice = control_plane.user("alice", [group])
    url = f"/v2/{namespace}/app/manifests/1"
    with connect(server, alice) as hers:
        assert hers.get("/v2/").is_success
        assert hers.get(url).status_code == 403
        control_plane.bind(PULLER, namespace, group=group)

        wait_until(lambda: hers.get(url).is_success, "the role")
        token = hers.get("/token").json()["token"]
        # Who shows something else is somebody else.
        assert hers.get("/v2/", headers={"Authorization": "Bearer nonsense"}).status_code == 401
    assert client.get(url, headers={"Authorization": f"Bearer {token}"}).is_success
    assert client.get(url).status_code == 401


def test_certificate_of_somebody_else_ends_the_handshake(
    server: Server, control_plane: ControlPlane, tmp_path: Path
) -> None:
    impostor = control_plane.front_proxy.issue_to_user(
        tmp_path, name="admin", groups=["system:masters"]
    )

    with (
        connect(server, impostor.certificate) as client,
        pytest.raises(httpx.TransportError),
    ):
        client.get("/v2/")


def test_certificate_whose_authority_is_taken_away_is_nobodys_within_seconds(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    authorities = tmp_path / "authorities.pem"
    authorities.write_bytes(control_plane.authority.read_bytes())
    alice = control_plane.user("alice")
    settings = {"REGISTRY_HTTP_TLS_CLIENTCAS": str(authorities)}
    body = b'{"a half": "and another"}'
    with (
        cluster_registry.running(control_plane, tmp_path / "registry", settings=settings) as server,
        talking(server, alice) as idle,
        talking(server, alice) as busy,
        talking(server) as nameless,
    ):
        for connection in (idle, nameless):
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b" 200 " in connection.recv(65536)
        # The form of a login: begun while the certificate is good, and answered.
        head = (
            f"POST /token HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
            "Content-Type: application/x-www-form-urlencoded\r\n\r\n"
        )
        busy.sendall(head.encode() + body[:5])
        other = control_plane.front_proxy.issue_to_user(tmp_path / "other", name="x")
        authorities.write_bytes(other.authority.read_bytes())

        idle.settimeout(30)
        assert idle.recv(65536) == b""
        busy.sendall(body[5:])
        assert b" 400 " in busy.recv(65536)
        assert busy.recv(65536) == b""
        # Who has shown none is not concerned.
        nameless.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 200 " in nameless.recv(65536)
        with connect(server, alice) as again, pytest.raises(httpx.TransportError):
            again.get("/v2/")


def test_many_requests_at_once_cost_one_review_each(
    server: Server,
    control_plane: ControlPlane,
    pusher: Account,
    namespace: str,
    client: httpx.Client,
) -> None:
    push(client, pusher, f"{namespace}/app")
    fresh = Account(control_plane, namespace).bind(PULLER, namespace)
    wait_until(lambda: fresh.may_pull(namespace), "the role")
    before = reviews(control_plane)

    began = time.monotonic()
    answers = asyncio.run(_get_many(server, f"/v2/{namespace}/app/manifests/1", fresh, 50))
    lasted = time.monotonic() - began

    assert answers == [200] * 50
    tokens, accesses = (
        after - first for after, first in zip(reviews(control_plane), before, strict=True)
    )
    # On a machine that is busy they may take longer than an answer is good for.
    most = 1 + int(lasted // 2)
    assert 1 <= tokens <= most
    assert 1 <= accesses <= most


def test_several_workers_are_one_registry(control_plane: ControlPlane, tmp_path: Path) -> None:
    """Each asks the API server for itself, and believes the tokens of the others."""
    cluster_registry.apply_cluster_roles(control_plane)
    namespace = control_plane.new_namespace()
    robot = Account(control_plane, namespace).bind(PUSHER, namespace)
    url = f"/v2/{namespace}/app/manifests/1"
    with (
        cluster_registry.running(control_plane, tmp_path / "registry", workers=2) as server,
        ExitStack() as stack,
    ):
        # Connections are spread over the workers.
        clients = [stack.enter_context(connect(server)) for _ in range(6)]
        _until_it_may(clients[0], robot, f"/v2/{namespace}/app/tags/list")
        push(clients[0], robot, f"{namespace}/app")
        wait_until(
            lambda: all(client.get(url, auth=robot.basic).is_success for client in clients),
            "the role, in all workers",
        )
        tokens = [{"Authorization": f"Bearer {_token_of(one, robot)}"} for one in clients[:2]]
        assert {one.get(url, headers=token).status_code for one in clients for token in tokens} == {
            200
        }

        victim, *_ = server.workers()
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: len(set(server.workers()) - {victim}) == 2, "another worker")
        fresh = [stack.enter_context(connect(server)) for _ in range(6)]
        # Those from before may have come to their end on a machine that is busy.
        token = {"Authorization": f"Bearer {_token_of(fresh[0], robot)}"}
        for client in fresh:
            assert client.get(url, headers=token).is_success
            assert client.get(url, auth=robot.basic).is_success

        control_plane.kubectl("delete", "rolebinding", "--all", "--namespace", namespace)
        for headers in (token, robot.bearer):
            wait_until(
                lambda headers=headers: (
                    {  # type: ignore[misc]  # -- of this turn
                        client.get(url, headers=headers).status_code for client in fresh
                    }
                    == {403}
                ),
                "the end of the role, in all workers",
                seconds=30,
            )


def test_absent_api_server_lets_nobody_in(control_plane: ControlPlane, tmp_path: Path) -> None:
    away = write_kubeconfig(
        tmp_path / "away",
        f"https://127.0.0.1:{free_port()}",
        control_plane.authority,
        {"token": "x"},
    )
    robot = Account(control_plane, control_plane.new_namespace())
    with (
        cluster_registry.running(control_plane, tmp_path / "registry", kubeconfig=away) as server,
        connect(server) as client,
    ):
        for answer in (
            client.get("/v2/", auth=robot.basic),
            client.get("/token", auth=robot.basic),
            client.get(f"/v2/{robot.namespace}/app/manifests/1"),
            client.get("/metrics"),
        ):
            assert answer.status_code == 503
            assert int(answer.headers["Retry-After"]) > 0
            (error,) = answer.json()["errors"]
            assert error["code"] == "UNAVAILABLE"
            assert "Kubernetes API server" in error["message"]
        assert client.get("/readyz").is_success
    assert robot.token not in server.log.read_text()


def test_account_that_may_not_ask_lets_nobody_in_and_says_what_it_needs(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    nobody = control_plane.user("registry-without-rights")
    with (
        cluster_registry.running(control_plane, tmp_path / "registry", kubeconfig=nobody) as server,
        connect(server) as client,
    ):
        answer = client.get("/v2/", auth=httpx.BasicAuth("x", "some.bad.token"))

    assert answer.status_code == 503
    assert "system:auth-delegator" in answer.json()["errors"][0]["message"]
    assert "403 to creating tokenreviews" in server.log.read_text()
    assert "some.bad.token" not in server.log.read_text()


def test_known_user_who_may_not_hears_401_where_openshift_is_expected(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    robot = Account(control_plane, control_plane.new_namespace())
    settings = {"REGISTRY_AUTH_KUBERNETES_CHALLENGEDENIED": "true"}
    with (
        cluster_registry.running(control_plane, tmp_path / "registry", settings=settings) as server,
        connect(server) as client,
    ):
        answer = client.get(f"/v2/{robot.namespace}/app/manifests/1", auth=robot.basic)

    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer ")


def test_own_audience_is_asked_for(control_plane: ControlPlane, tmp_path: Path) -> None:
    robot = Account(control_plane, control_plane.new_namespace())
    ours = control_plane.token(robot.namespace, robot.name, audiences=["registry.example"])
    settings = {"REGISTRY_AUTH_KUBERNETES_AUDIENCES": "registry.example"}
    with (
        cluster_registry.running(control_plane, tmp_path / "registry", settings=settings) as server,
        connect(server) as client,
    ):
        assert client.get("/v2/", auth=httpx.BasicAuth("x", ours)).is_success
        assert client.get("/v2/", auth=robot.basic).status_code == 401


def test_server_outside_of_a_cluster_does_not_start_without_a_kubeconfig(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    reason = r"auth\.kubernetes: kubeconfig .*/absent cannot be used"
    with (
        pytest.raises(PartFailed, match=reason),
        cluster_registry.running(control_plane, tmp_path, kubeconfig=tmp_path / "absent"),
    ):
        pass


@contextmanager
def talking(server: Server, certificate: Path | None = None) -> Iterator[ssl.SSLSocket]:
    """One connection, with a certificate from a kubeconfig's folder or without."""
    assert server.tls is not None
    context = ssl.create_default_context(cafile=server.tls.authority)
    if certificate is not None:
        context.load_cert_chain(certificate.with_name("tls.crt"), certificate.with_name("tls.key"))
    host, port = server.address.split(":")
    with (
        socket.create_connection((host, int(port)), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname=host) as connection,
    ):
        yield connection


def _token_of(client: httpx.Client, account: Account) -> str:
    answer: dict[str, Any] = client.get("/token", auth=account.basic).raise_for_status().json()
    return str(answer["token"])


def _until_it_may(client: httpx.Client, account: Account, url: str) -> None:
    """RBAC follows its objects a moment later, and a refusal is remembered for two seconds."""
    wait_until(
        lambda: client.get(url, auth=account.basic).status_code not in (401, 403), "the role"
    )


async def _get_many(server: Server, url: str, account: Account, count: int) -> list[int]:
    assert server.tls is not None
    context = ssl.create_default_context(cafile=server.tls.authority)
    async with httpx.AsyncClient(base_url=server.url, verify=context, timeout=60) as client:
        answers = await asyncio.gather(*(client.get(url, auth=account.basic) for _ in range(count)))
    return [answer.status_code for answer in answers]
