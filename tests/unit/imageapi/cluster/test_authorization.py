"""Whether somebody may: asked once, not believed for long, and never guessed."""

import pytest

from alauda_imageapi.cluster.authorization import Authorization
from alauda_imageapi.machinery.errors import Forbidden, ServiceUnavailable
from alauda_registry.kube.client import NonResourceAttributes, ResourceAttributes, UserInfo
from alauda_registry.kube.errors import Forbidden as KubeForbidden, KubeError, Unreachable
from alauda_registry.kube.inmemory import Grant, InMemoryKubeClient

pytestmark = pytest.mark.anyio

ALICE = UserInfo("alice", "1", ("people",), (("scopes", ("a",)),))
READ = ResourceAttributes("get", "image.alauda.io", "images", name="a", version="v1")
METRICS = NonResourceAttributes("get", "/metrics")


@pytest.fixture
def client() -> InMemoryKubeClient:
    return InMemoryKubeClient(grants={Grant("people", READ), Grant("alice", METRICS)})


async def test_what_is_granted_is_let_through_and_asked_once(client: InMemoryKubeClient) -> None:
    authorization = Authorization(client)

    for _ in range(3):
        await authorization.require(ALICE, READ)
        await authorization.require(ALICE, METRICS)

    assert client.asked == [(ALICE, READ), (ALICE, METRICS)]


@pytest.mark.parametrize(
    "user",
    [
        UserInfo("alice", "1", ("people", "others"), ALICE.extra),
        UserInfo("alice", "1", ("people",)),
        UserInfo("alice", "2", ("people",), ALICE.extra),
    ],
)
async def test_who_differs_in_anything_is_asked_about_anew(
    client: InMemoryKubeClient, user: UserInfo
) -> None:
    authorization = Authorization(client)
    await authorization.require(ALICE, READ)

    await authorization.require(user, READ)

    assert client.asked == [(ALICE, READ), (user, READ)]


async def test_masters_are_not_asked_about(client: InMemoryKubeClient) -> None:
    client.trouble = Unreachable("away")

    await Authorization(client).require(UserInfo("root", groups=("system:masters",)), READ)

    assert client.asked == []


@pytest.mark.parametrize("trouble", [Unreachable("away"), KubeForbidden("not you")])
async def test_nobody_is_let_in_when_nobody_can_be_asked(
    client: InMemoryKubeClient, trouble: KubeError
) -> None:
    client.trouble = trouble

    with pytest.raises(ServiceUnavailable):
        await Authorization(client).require(ALICE, READ)


async def test_trouble_is_not_remembered(client: InMemoryKubeClient) -> None:
    authorization = Authorization(client)
    client.trouble = Unreachable("away")
    with pytest.raises(ServiceUnavailable):
        await authorization.require(ALICE, READ)

    client.trouble = None

    await authorization.require(ALICE, READ)


async def test_huge_questions_are_not_kept(client: InMemoryKubeClient) -> None:
    authorization = Authorization(client)
    huge = ResourceAttributes("get", "image.alauda.io", "images", name="x" * 20_000)

    for _ in range(2):
        with pytest.raises(Forbidden):
            await authorization.require(ALICE, huge)

    assert len(client.asked) == 2


async def test_a_refusal_says_what_is_refused(client: InMemoryKubeClient) -> None:
    wanted = ResourceAttributes("update", "image.alauda.io", "imagestreams", "status", "n", "a")

    with pytest.raises(Forbidden) as caught:
        await Authorization(client).require(ALICE, wanted)

    assert caught.value.message == (
        'imagestreams.image.alauda.io "a" is forbidden: User "alice" cannot update resource '
        '"imagestreams/status" in API group "image.alauda.io" in the namespace "n"'
    )
    assert caught.value.details == {
        "name": "a",
        "group": "image.alauda.io",
        "kind": "imagestreams",
    }
