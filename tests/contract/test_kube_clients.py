"""The executable half of ``kube.client``: every client of Kubernetes passes all of it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from datetime import timedelta
from pathlib import Path
from typing import Protocol

import anyio
import pytest
from kubernetes_asyncio.config import incluster_config
from typing_extensions import override

from alauda_registry.kube.apiserver import ApiServerClient, NotConfigured
from alauda_registry.kube.client import KubeClient, ResourceAttributes, UserInfo
from alauda_registry.kube.errors import Forbidden, KubeError, Unreachable
from alauda_registry.kube.inmemory import Grant, InMemoryKubeClient
from tests.parts.control_plane import ControlPlane, write_kubeconfig
from tests.parts.processes import free_port

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

GROUP = "image.alauda.io"
AUDIENCE = "registry.example"


def layers(verb: str, namespace: str, name: str = "app") -> ResourceAttributes:
    return ResourceAttributes(verb, GROUP, "imagestreams", "layers", namespace, name)


class Cluster(Protocol):
    """What a test can do to the cluster that a client asks."""

    client: KubeClient
    namespace: str

    def token(self, audiences: tuple[str, ...] = ()) -> str:
        """Return a token of the service account ``robot``."""
        ...

    def revoke(self) -> None:
        """Make every token of ``robot`` worthless."""
        ...

    def grant(self, verb: str, subject: str, *, is_group: bool = False) -> None:
        """Let somebody do it to the layers of every stream in the namespace."""
        ...


class Fake(Cluster):
    def __init__(self) -> None:
        self.fake = InMemoryKubeClient()
        self.client = self.fake
        self.namespace = "team"

    @override
    def token(self, audiences: tuple[str, ...] = ()) -> str:
        token = f"token-{len(self.fake.tokens)}"
        robot = UserInfo(
            "system:serviceaccount:team:robot",
            "0b5c",
            ("system:serviceaccounts", "system:serviceaccounts:team", "system:authenticated"),
        )
        self.fake.tokens[token] = (robot, frozenset(audiences))
        return token

    @override
    def revoke(self) -> None:
        self.fake.tokens.clear()

    @override
    def grant(self, verb: str, subject: str, *, is_group: bool = False) -> None:
        self.fake.grants.add(Grant(subject, layers(verb, self.namespace, name="")))


class Real(Cluster):
    def __init__(self, plane: ControlPlane, client: KubeClient) -> None:
        self.plane = plane
        self.client = client
        self.namespace = plane.new_namespace()
        plane.service_account(self.namespace, "robot")

    @override
    def token(self, audiences: tuple[str, ...] = ()) -> str:
        return self.plane.token(self.namespace, "robot", audiences=audiences)

    @override
    def revoke(self) -> None:
        self.plane.kubectl("delete", "serviceaccount", "robot", "--namespace", self.namespace)

    @override
    def grant(self, verb: str, subject: str, *, is_group: bool = False) -> None:
        role = f"{self.namespace}-{verb}"
        self.plane.apply(
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRole",
                "metadata": {"name": role},
                "rules": [
                    {"apiGroups": [GROUP], "resources": ["imagestreams/layers"], "verbs": [verb]}
                ],
            }
        )
        self.plane.bind(role, self.namespace, **{"group" if is_group else "user": subject})


@pytest.fixture(params=["inmemory", "apiserver"])
async def cluster(request: pytest.FixtureRequest) -> AsyncIterator[Cluster]:
    if request.param == "inmemory":
        yield Fake()
        return
    plane: ControlPlane = request.getfixturevalue("control_plane")
    async with ApiServerClient(plane.admin) as client:
        yield Real(plane, client)


async def test_token_tells_whose_it_is(cluster: Cluster) -> None:
    user = await cluster.client.review_token(cluster.token())

    assert user is not None
    assert user.username == f"system:serviceaccount:{cluster.namespace}:robot"
    assert user.uid
    assert {
        "system:serviceaccounts",
        f"system:serviceaccounts:{cluster.namespace}",
        "system:authenticated",
    } <= set(user.groups)


@pytest.mark.parametrize(
    "token", ["", "nonsense", "a.b.c", "ünïcode", "x" * 100_000], ids=lambda token: token[:8] or "-"
)
async def test_what_is_no_token_is_nobody(cluster: Cluster, token: str) -> None:
    assert await cluster.client.review_token(token) is None


@pytest.mark.parametrize("form", [" {}", "{} ", "{} x", "{}\t", "\n{}", " ", " x"], ids=repr)
async def test_token_with_a_space_is_nobodys(cluster: Cluster, form: str) -> None:
    """kube-apiserver takes it for no token, and for the first word of several."""
    assert await cluster.client.review_token(form.format(cluster.token())) is None


async def test_token_ends_with_its_service_account(cluster: Cluster) -> None:
    token = cluster.token()
    assert await cluster.client.review_token(token) is not None

    cluster.revoke()

    # kube-apiserver itself remembers for ten seconds that a token was good.
    with anyio.fail_after(60):
        while await cluster.client.review_token(token) is not None:  # noqa: ASYNC110 -- no event tells
            await anyio.sleep(0.2)


async def test_token_is_only_for_the_audiences_it_names(cluster: Cluster) -> None:
    ours, anybodys = cluster.token((AUDIENCE,)), cluster.token()

    assert await cluster.client.review_token(ours, [AUDIENCE]) is not None
    assert await cluster.client.review_token(ours, ["other.example", AUDIENCE]) is not None
    assert await cluster.client.review_token(ours, ["other.example"]) is None
    assert await cluster.client.review_token(ours) is None
    assert await cluster.client.review_token(anybodys, [AUDIENCE]) is None


async def test_nobody_may_do_anything_to_begin_with(cluster: Cluster) -> None:
    alice = UserInfo("alice", groups=("system:authenticated",))

    assert not await cluster.client.review_access(alice, layers("get", cluster.namespace))


async def test_grant_holds_for_its_user_verb_and_namespace(cluster: Cluster) -> None:
    alice, bob = UserInfo("alice"), UserInfo("bob")
    cluster.grant("get", "alice")
    review = cluster.client.review_access
    await _eventually(cluster, alice, layers("get", cluster.namespace))

    assert not await review(bob, layers("get", cluster.namespace))
    assert not await review(alice, layers("update", cluster.namespace))
    assert not await review(alice, layers("get", "default"))
    assert not await review(
        alice, ResourceAttributes("get", GROUP, "imagestreams", "", cluster.namespace, "app")
    )


async def test_grant_to_a_group_holds_for_its_members(cluster: Cluster) -> None:
    anonymous = UserInfo("system:anonymous", groups=("system:unauthenticated",))
    cluster.grant("get", "system:unauthenticated", is_group=True)

    await _eventually(cluster, anonymous, layers("get", cluster.namespace))

    alice = UserInfo("alice", groups=("system:authenticated",))
    assert not await cluster.client.review_access(alice, layers("get", cluster.namespace))


async def test_extra_facts_are_passed_on(cluster: Cluster) -> None:
    cluster.grant("get", "alice")
    alice = UserInfo("alice", "1", ("a", "b"), (("scopes.example/of", ("one", "two")),))

    await _eventually(cluster, alice, layers("get", cluster.namespace))


async def test_absent_api_server_is_unreachable(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    config = _at(control_plane, tmp_path, f"https://127.0.0.1:{free_port()}")
    async with ApiServerClient(config) as client:
        with pytest.raises(Unreachable, match="cannot be asked") as caught:
            await client.review_token("secret-token")

    assert caught.value.__cause__ is not None
    assert "secret-token" not in str(caught.value)


async def test_foreign_api_server_is_not_believed(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    config = _at(control_plane, tmp_path, control_plane.url, authority=tmp_path / "other.crt")
    other = control_plane.front_proxy.issue(tmp_path / "other")
    other.authority.rename(tmp_path / "other.crt")
    async with ApiServerClient(config) as client:
        with pytest.raises(Unreachable):
            await client.review_token("token")


async def test_client_without_rights_is_forbidden(control_plane: ControlPlane) -> None:
    nobody = control_plane.user("nobody")
    async with ApiServerClient(nobody) as client:
        with pytest.raises(Forbidden, match=r"403 to creating tokenreviews: .*nobody") as caught:
            await client.review_token("secret-token")

    assert "secret-token" not in str(caught.value)


async def test_client_whose_own_token_is_refused_is_forbidden(control_plane: ControlPlane) -> None:
    async with ApiServerClient(control_plane.kubeconfig("worthless")) as client:
        with pytest.raises(Forbidden, match="401 to creating subjectaccessreviews"):
            await client.review_access(UserInfo("alice"), layers("get", "default"))


async def test_pod_is_its_service_account_and_takes_a_new_token(
    control_plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, _, port = control_plane.url.removeprefix("https://").partition(":")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
    # The library looks at the file once a minute.
    monkeypatch.setattr(incluster_config, "TOKEN_REFRESH_PERIOD", timedelta(0))
    namespace = control_plane.new_namespace()
    control_plane.service_account(namespace, "registry")
    control_plane.bind("system:auth-delegator", None, account=f"{namespace}:registry")
    token = control_plane.token(namespace, "registry")
    (tmp_path / "ca.crt").write_bytes(control_plane.authority.read_bytes())
    (tmp_path / "token").write_text("an old one")
    async with ApiServerClient(None, account=tmp_path) as client:
        with pytest.raises(Forbidden, match="answers 401"):
            await client.review_token(token)
        (tmp_path / "token").write_text(token)

        with anyio.fail_after(60):
            while not await _answers(client, token):  # noqa: ASYNC110 -- no event tells
                await anyio.sleep(0.02)


async def _answers(client: KubeClient, token: str) -> bool:
    """RBAC follows its objects a moment later."""
    try:
        return await client.review_token(token) is not None
    except Forbidden:
        return False


SILENT = b""


@pytest.mark.parametrize(
    "said",
    [
        SILENT,
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntrue",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nnot JSON!",
        b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{",
        b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 6\r\n\r\n<html>",
        b"220 mail.example ESMTP\r\n",
    ],
    ids=[
        "silent", "no object", "no status", "not JSON", "cut short", "overloaded", "broken", "SMTP"
    ],
)  # fmt: skip
async def test_what_is_no_answer_is_unreachable(tmp_path: Path, said: bytes) -> None:
    async with _saying(said, tmp_path) as client:
        with pytest.raises(Unreachable):
            await client.review_token("secret-token")


async def test_api_server_that_knows_no_audiences_means_itself(tmp_path: Path) -> None:
    status = {"authenticated": True, "user": {"username": "alice"}}
    body = json.dumps({"status": status}).encode()
    said = b"HTTP/1.1 201 Created\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    async with _saying(said, tmp_path, seconds=30) as client:
        assert await client.review_token("token") == UserInfo("alice")
        assert await client.review_token("token", [AUDIENCE]) is None


@asynccontextmanager
async def _saying(
    said: bytes, directory: Path, *, seconds: float = 0.3
) -> AsyncIterator[ApiServerClient]:
    """The client of a server that says one thing, whatever it is asked."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(ConnectionError):
            await reader.read(65536)
            writer.write(said)
            if said is SILENT:
                # Until the client has gone.
                await reader.read()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        config = write_kubeconfig(directory / "config", url, None, {"token": "ours"})
        async with ApiServerClient(config, seconds=seconds) as client:
            yield client


async def test_pod_without_service_account_is_told_so() -> None:
    with pytest.raises(NotConfigured, match="service account of this pod"):
        async with ApiServerClient(None):
            pass


async def test_broken_kubeconfig_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "config"
    broken.write_text("{}")

    with pytest.raises(KubeError, match=str(broken)):
        async with ApiServerClient(broken):
            pass


async def _eventually(cluster: Cluster, user: UserInfo, attributes: ResourceAttributes) -> None:
    """RBAC follows its objects by a watch, so a grant holds a moment later."""
    with anyio.fail_after(60):
        while not await cluster.client.review_access(user, attributes):  # noqa: ASYNC110 -- no event tells
            await anyio.sleep(0.02)


def _at(plane: ControlPlane, directory: Path, url: str, authority: Path | None = None) -> Path:
    return write_kubeconfig(
        directory / "config", url, authority or plane.authority, {"token": "ours"}
    )
