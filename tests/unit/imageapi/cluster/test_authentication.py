"""Who asks, from connection and header fields."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from alauda_imageapi.cluster.authentication import Authentication, Caller, strip
from alauda_imageapi.cluster.front_proxy import RequestHeaders, Trust
from alauda_imageapi.machinery.errors import Forbidden, ServiceUnavailable, Unauthorized
from alauda_registry.auth.kubernetes import KubernetesAuthenticator
from alauda_registry.auth.throttle import Throttle
from alauda_registry.kube.client import UserInfo
from alauda_registry.kube.errors import Unreachable
from alauda_registry.kube.inmemory import InMemoryKubeClient
from alauda_registry.serving.protocol import CHAIN
from tests.parts.certificates import Authority, CertificatePair

pytestmark = pytest.mark.anyio

USERS, PROXIES = Authority(), Authority()
ANONYMOUS = Caller(UserInfo("system:anonymous", groups=("system:unauthenticated",)))
ROBOT = UserInfo("robot", "1", ("robots", "system:authenticated"))
ROOT = [(b"x-remote-user", b"root"), (b"x-remote-group", b"system:masters")]


class Setting:
    """An authentication with two authorities and one token."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.client = InMemoryKubeClient(tokens={"good": (ROBOT, frozenset())})
        self.trust = Trust(
            frozenset([self._authority(USERS)]),
            frozenset([self._authority(PROXIES)]),
            frozenset(["front-proxy-client"]),
            RequestHeaders((b"x-remote-user",), (), (b"x-remote-group",), (b"x-remote-extra-",)),
        )
        self._authentication = Authentication(
            lambda: self.trust, KubernetesAuthenticator(self.client, Throttle())
        )

    async def ask(self, *headers: tuple[bytes, bytes], chain: tuple[bytes, ...] = ()) -> Caller:
        scope: dict[str, Any] = {
            "type": "http",
            "headers": headers,
            "client": ("192.0.2.1", 5),
            CHAIN: chain,
        }
        return await self._authentication.authenticate(scope)

    def chain(self, authority: Authority, name: str, **more: Any) -> tuple[bytes, ...]:
        pair = authority.issue_to_user(self._directory / "pair", name=name, **more)
        return _der(pair.certificate), _der(pair.authority)

    def _authority(self, authority: Authority) -> bytes:
        pair: CertificatePair = authority.issue(self._directory / "authority")
        return _der(pair.authority)


def _der(path: Path) -> bytes:
    return x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER)


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(tmp_path)


async def test_who_shows_nothing_is_anonymous(setting: Setting) -> None:
    assert await setting.ask() == ANONYMOUS


async def test_the_front_proxy_says_who_asks(setting: Setting) -> None:
    chain = setting.chain(PROXIES, "front-proxy-client")

    caller = await setting.ask(*ROOT, chain=chain)

    groups = ("system:masters", "system:authenticated")
    assert caller == Caller(UserInfo("root", groups=groups), is_proxied=True)


async def test_the_front_proxy_may_say_that_it_is_nobody(setting: Setting) -> None:
    chain = setting.chain(PROXIES, "front-proxy-client")
    headers = [
        (b"x-remote-user", b"system:anonymous"),
        (b"x-remote-group", b"system:unauthenticated"),
    ]

    caller = await setting.ask(*headers, chain=chain)

    assert caller == Caller(ANONYMOUS.user, is_proxied=True)


async def test_a_front_proxy_that_names_nobody_may_show_a_token(setting: Setting) -> None:
    chain = setting.chain(PROXIES, "front-proxy-client")

    assert await setting.ask(chain=chain) == ANONYMOUS
    caller = await setting.ask((b"authorization", b"Bearer good"), chain=chain)
    assert caller == Caller(ROBOT)


@pytest.mark.parametrize("name", ["somebody", ""])
async def test_other_names_of_the_front_proxys_authority_are_nobody(
    setting: Setting, name: str
) -> None:
    assert await setting.ask(*ROOT, chain=setting.chain(PROXIES, name)) == ANONYMOUS


async def test_a_users_certificate_is_never_a_front_proxys(setting: Setting) -> None:
    chain = setting.chain(USERS, "front-proxy-client", groups=["people"])

    caller = await setting.ask(*ROOT, chain=chain)

    assert caller.user.username == "front-proxy-client"
    assert set(caller.user.groups) == {"people", "system:authenticated"}
    ((key, (fingerprint,)),) = caller.user.extra
    assert key == "authentication.kubernetes.io/credential-id"
    assert fingerprint.startswith("X509SHA256=")
    assert not caller.is_proxied


async def test_an_authority_that_was_taken_away_counts_no_longer(setting: Setting) -> None:
    chain = setting.chain(PROXIES, "front-proxy-client")
    assert (await setting.ask(*ROOT, chain=chain)).is_proxied

    setting.trust = Trust()

    assert await setting.ask(*ROOT, chain=chain) == ANONYMOUS


@pytest.mark.parametrize("lifetime", [timedelta(seconds=-1), timedelta(days=-1, hours=23)])
async def test_a_front_proxy_whose_certificate_has_ended_is_nobody(
    setting: Setting, lifetime: timedelta
) -> None:
    chain = setting.chain(PROXIES, "front-proxy-client", lifetime=lifetime)

    assert await setting.ask(*ROOT, chain=chain) == ANONYMOUS


async def test_a_user_whose_certificate_has_ended_is_told_so(setting: Setting) -> None:
    chain = setting.chain(USERS, "alice", lifetime=timedelta(seconds=-1))

    with pytest.raises(Unauthorized):
        await setting.ask(chain=chain)


async def test_a_good_token_makes_up_for_a_bad_certificate(setting: Setting) -> None:
    chain = setting.chain(USERS, "")

    caller = await setting.ask((b"authorization", b"bearer  good"), chain=chain)

    assert caller == Caller(ROBOT)


@pytest.mark.parametrize("value", [b"Bearer bad", b"Bearer \xff", b"bearer good good"])
async def test_a_bad_token_is_not_anonymous(setting: Setting, value: bytes) -> None:
    with pytest.raises(Unauthorized):
        await setting.ask((b"authorization", value))


@pytest.mark.parametrize("value", [b"Basic Z29vZDpnb29k", b"Bearer", b"Bearer ", b""])
async def test_what_is_no_token_is_nothing(setting: Setting, value: bytes) -> None:
    assert await setting.ask((b"authorization", value)) == ANONYMOUS


async def test_nobody_is_let_in_when_nobody_can_be_asked(setting: Setting) -> None:
    setting.client.trouble = Unreachable("away")

    with pytest.raises(ServiceUnavailable):
        await setting.ask((b"authorization", b"Bearer good"))


@pytest.mark.parametrize("name", [b"user", b"group", b"uid", b"extra-scopes"])
async def test_nobody_is_somebody_else_here(setting: Setting, name: bytes) -> None:
    with pytest.raises(Forbidden, match="impersonation"):
        await setting.ask((b"impersonate-" + name, b"bob"))


async def test_a_name_that_is_no_text_is_refused(setting: Setting) -> None:
    chain = setting.chain(PROXIES, "front-proxy-client")

    with pytest.raises(Unauthorized, match="UTF-8"):
        await setting.ask((b"x-remote-user", b"\xff"), chain=chain)


def test_what_says_who_asks_goes_no_further() -> None:
    trust = Trust(headers=RequestHeaders((b"x-who",), (), (b"x-which",), (b"x-more-",)))
    names = [b"x-who", b"x-which", b"x-more-a", b"x-remote-user", b"authorization", b"accept"]
    scope: dict[str, Any] = {"headers": [(name, b"value") for name in names]}

    strip(scope, trust)

    assert scope["headers"] == [(b"accept", b"value")]
