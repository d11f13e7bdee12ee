"""Kubernetes decides, as far as that shows without an API server."""

import asyncio
import base64
import json
import math
import ssl
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from typing_extensions import override

from alauda_registry.auth import kubernetes
from alauda_registry.auth.authenticator import ANONYMOUS, Basic, Bearer, Certificate, Identity
from alauda_registry.auth.failures import Failures
from alauda_registry.auth.kubernetes import (
    ANONYMOUS_AT_ONCE,
    NEW_AT_ONCE,
    KubernetesAuthenticator,
    KubernetesAuthorizer,
    attributes_of,
)
from alauda_registry.auth.scopes import CATALOG, METRICS, Access
from alauda_registry.auth.throttle import FREE_FROM_ADDRESS, FREE_WITH_NAME, Throttle
from alauda_registry.kube.client import Attributes, ResourceAttributes, UserInfo
from alauda_registry.kube.errors import Forbidden, Unreachable
from alauda_registry.kube.inmemory import Grant, InMemoryKubeClient
from alauda_registry.oci.errors import (
    AuthorityUnavailable,
    NameInvalid,
    TooManyRequests,
    Unauthorized,
)
from tests.parts.certificates import Authority

pytestmark = pytest.mark.anyio

GROUP = "image.alauda.io"
ADDRESS = "192.0.2.1"
ROBOT = UserInfo(
    "system:serviceaccount:team:robot",
    "0b5c",
    ("system:serviceaccounts",),
    (("example.org/scopes", ("a", "b")),),
)


@pytest.fixture
def client() -> InMemoryKubeClient:
    return InMemoryKubeClient()


@pytest.fixture
def authenticator(client: InMemoryKubeClient) -> KubernetesAuthenticator:
    return KubernetesAuthenticator(client, Throttle())


@pytest.fixture
def authorizer(client: InMemoryKubeClient) -> KubernetesAuthorizer:
    return KubernetesAuthorizer(client)


def repository(action: str, name: str = "team/app", tag: str = "") -> Access:
    return Access("repository", name, action, tag)


@pytest.mark.parametrize(
    ("access", "attributes"),
    [
        (repository("pull"), ("get", GROUP, "imagestreams", "layers", "team", "app")),
        (repository("push"), ("update", GROUP, "imagestreams", "layers", "team", "app")),
        (
            repository("delete", tag="v1"),
            ("delete", GROUP, "imagestreamtags", "", "team", "app:v1"),
        ),
        (repository("delete"), ("delete", GROUP, "images")),
        (CATALOG, ("list", GROUP, "imagestreams")),
        (METRICS, ("get", GROUP, "registry", "metrics")),
    ],
    ids=["pull", "push", "delete a tag", "delete", "catalog", "metrics"],
)
def test_what_is_asked(access: Access, attributes: tuple[str, ...]) -> None:
    assert attributes_of(access) == ResourceAttributes(*attributes)


@pytest.mark.parametrize(
    "access",
    [repository("admin"), Access("registry", "other", "get"), Access("plugin", "a/b", "pull")],
    ids=str,
)
async def test_what_there_are_no_words_for_is_not_allowed(
    client: InMemoryKubeClient, authorizer: KubernetesAuthorizer, access: Access
) -> None:
    assert not await authorizer.allows(Identity("alice"), access)
    assert client.asked == []


@pytest.mark.parametrize(
    "name",
    ["app", "a/b/c", "", "/app", "team/", "te_am/app", "te.am/app", "-a/app", "a" * 64 + "/b"],
)
def test_only_namespace_and_name_is_a_repository(name: str) -> None:
    with pytest.raises(NameInvalid, match="NAMESPACE/NAME"):
        attributes_of(repository("pull", name))


@pytest.mark.parametrize(
    "credentials", [Basic("whoever", "t"), Bearer("t")], ids=["basic", "bearer"]
)
async def test_token_is_whose_the_api_server_says(
    client: InMemoryKubeClient,
    authenticator: KubernetesAuthenticator,
    credentials: Basic | Bearer,
) -> None:
    client.tokens["t"] = ROBOT, frozenset()

    caller = await authenticator.authenticate(credentials, ADDRESS)

    assert caller.identity == Identity(
        ROBOT.username,
        frozenset(ROBOT.groups),
        ROBOT.uid,
        {"example.org/scopes": ("a", "b")},
    )
    assert caller.grants is None


async def test_identity_ends_with_its_token(
    client: InMemoryKubeClient, authenticator: KubernetesAuthenticator
) -> None:
    end = int(time.time()) + 30
    token = jwt.encode({"exp": end}, "k" * 32, algorithm="HS256")
    client.tokens[token] = ROBOT, frozenset()

    caller = await authenticator.authenticate(Bearer(token), ADDRESS)

    assert caller.identity.expires == end


@pytest.mark.parametrize("exp", [10**400, float("-inf"), float("nan"), "soon", None], ids=range(5))
async def test_identity_whose_token_ends_at_no_time_has_no_end(
    client: InMemoryKubeClient, authenticator: KubernetesAuthenticator, exp: object
) -> None:
    encoded = base64.urlsafe_b64encode(json.dumps({"exp": exp}).encode()).rstrip(b"=").decode()
    token = f"eyJhbGciOiJub25lIn0.{encoded}.x"
    client.tokens[token] = ROBOT, frozenset()

    caller = await authenticator.authenticate(Bearer(token), ADDRESS)

    assert caller.identity.expires is None


async def test_same_token_is_asked_about_once(
    client: InMemoryKubeClient, authenticator: KubernetesAuthenticator
) -> None:
    client.tokens["good"] = ROBOT, frozenset()
    for _ in range(20):
        await authenticator.authenticate(Bearer("good"), ADDRESS)
        # However often: it is an old secret, and no guessing.
        with pytest.raises(Unauthorized):
            await authenticator.authenticate(Bearer("bad"), ADDRESS)

    assert client.asked == ["good", "bad"]


@pytest.mark.parametrize("token", ["x" * 20_000, "t\u00f6ken"], ids=["long", "not ascii"])
async def test_what_can_be_no_token_is_not_asked_about(
    client: InMemoryKubeClient, authenticator: KubernetesAuthenticator, token: str
) -> None:
    with pytest.raises(Unauthorized):
        await authenticator.authenticate(Bearer(token), ADDRESS)

    assert client.asked == []


async def test_one_bad_token_after_another_is_slowed_down_and_nobody_else(
    client: InMemoryKubeClient, authenticator: KubernetesAuthenticator
) -> None:
    client.tokens |= {"good": (ROBOT, frozenset()), "new": (ROBOT, frozenset())}
    await authenticator.authenticate(Bearer("good"), ADDRESS)
    for number in range(FREE_FROM_ADDRESS):
        with pytest.raises(Unauthorized):
            await authenticator.authenticate(Bearer(f"guess {number}"), ADDRESS)

    with pytest.raises(TooManyRequests):
        await authenticator.authenticate(Bearer("guess"), ADDRESS)
    # Who was there before, who has an old secret, and who is elsewhere.
    await authenticator.authenticate(Bearer("good"), ADDRESS)
    with pytest.raises(Unauthorized):
        await authenticator.authenticate(Bearer("guess 0"), ADDRESS)
    await authenticator.authenticate(Bearer("new"), "192.0.2.2")


async def test_what_one_worker_has_seen_is_no_guess_at_another(client: InMemoryKubeClient) -> None:
    client.tokens |= {"good": (ROBOT, frozenset())}
    failures = Failures()
    here, there = (KubernetesAuthenticator(client, Throttle(failures)) for _ in range(2))
    await here.authenticate(Bearer("good"), ADDRESS)
    for number in range(FREE_FROM_ADDRESS - 1):
        with pytest.raises(Unauthorized):
            await here.authenticate(Bearer(f"guess {number}"), ADDRESS)
    for number in range(FREE_FROM_ADDRESS - 1):
        with pytest.raises(Unauthorized):
            await there.authenticate(Bearer(f"guess {number}"), ADDRESS)

    with pytest.raises(Unauthorized):
        await there.authenticate(Bearer("the last one that is free"), ADDRESS)

    with pytest.raises(TooManyRequests):
        await here.authenticate(Bearer("another one"), ADDRESS)
    await there.authenticate(Bearer("good"), ADDRESS)


class Counting(InMemoryKubeClient):
    under_way = most = 0

    @override
    async def review_token(self, token: str, audiences: Sequence[str] = ()) -> UserInfo | None:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0)
        self.under_way -= 1
        return await super().review_token(token, audiences)


async def test_new_tokens_from_everywhere_leave_connections_for_those_who_are_known() -> None:
    client = Counting({"good": (ROBOT, frozenset())})
    authenticator = KubernetesAuthenticator(client, Throttle())
    guesses = [
        authenticator.authenticate(Bearer(f"guess-{number}"), f"198.51.{number // 250}.{number}")
        for number in range(1000)
    ]

    answers = await asyncio.gather(*guesses, return_exceptions=True)

    assert client.most == NEW_AT_ONCE
    assert {type(answer) for answer in answers} == {Unauthorized}


async def test_questions_about_anybody_leave_connections_for_those_who_are_known() -> None:
    class Waiting(InMemoryKubeClient):
        answered = asyncio.Event()
        under_way = 0

        @override
        async def review_access(self, user: UserInfo, attributes: Attributes) -> bool:
            if user.username == "system:anonymous":
                self.under_way += 1
                await self.answered.wait()
            return await super().review_access(user, attributes)

    client = Waiting()
    authorizer = KubernetesAuthorizer(client)
    flood = [
        asyncio.create_task(authorizer.allows(ANONYMOUS, repository("pull", f"team/app{number}")))
        for number in range(1000)
    ]
    await asyncio.sleep(0.01)

    assert client.under_way == ANONYMOUS_AT_ONCE
    assert not await authorizer.allows(Identity("alice"), repository("pull"))
    client.answered.set()
    assert not any(await asyncio.gather(*flood))


async def test_an_api_server_that_does_not_answer_is_said_once_in_a_while(
    client: InMemoryKubeClient,
    authorizer: KubernetesAuthorizer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client.trouble = Unreachable("connection refused")

    async def ask() -> None:
        with pytest.raises(AuthorityUnavailable):
            await authorizer.allows(ANONYMOUS, repository("pull"))

    for _ in range(20):
        await ask()
    assert caplog.messages == ["nobody is let in: connection refused"]

    client.trouble = Forbidden("403")
    await ask()
    assert len(caplog.messages) == 2
    monkeypatch.setattr(kubernetes, "COMPLAINT_SECONDS", 0.0)
    await ask()
    assert len(caplog.messages) == 3


async def test_guesses_that_come_at_once_are_asked_about_in_turns() -> None:
    client = Counting({"good": (ROBOT, frozenset())})
    authenticator = KubernetesAuthenticator(client, Throttle())
    guesses = [
        authenticator.authenticate(Bearer(f"guess-{number}"), ADDRESS) for number in range(1000)
    ]

    answers = await asyncio.gather(*guesses, return_exceptions=True)

    assert client.most == FREE_FROM_ADDRESS
    # Those whose turn it was when the last free one failed are answered, too.
    assert len(client.asked) < 2 * FREE_FROM_ADDRESS
    assert {type(answer) for answer in answers} == {Unauthorized, TooManyRequests}
    await authenticator.authenticate(Bearer("good"), "192.0.2.2")


async def test_who_waits_for_an_answer_with_a_guesser_is_not_refused_with_him() -> None:
    client = InMemoryKubeClient({"good": (ROBOT, frozenset())})
    authenticator = KubernetesAuthenticator(client, Throttle())
    guesses = [f"guess-{number}" for number in range(FREE_FROM_ADDRESS)]
    answers = await asyncio.gather(
        *(authenticator.authenticate(Bearer(guess), ADDRESS) for guess in guesses),
        # Both wait for their turn, the second one for the first.
        authenticator.authenticate(Bearer("good"), ADDRESS),
        authenticator.authenticate(Bearer("good"), "192.0.2.2"),
        return_exceptions=True,
    )

    *_, guesser, other = answers
    assert isinstance(guesser, TooManyRequests)
    assert not isinstance(other, BaseException)


async def test_who_stops_waiting_for_an_answer_has_not_guessed() -> None:
    class Slow(InMemoryKubeClient):
        is_slow = True

        @override
        async def review_token(self, token: str, audiences: Sequence[str] = ()) -> UserInfo | None:
            if self.is_slow:
                await asyncio.Event().wait()
            return await super().review_token(token, audiences)

    client = Slow({"good": (ROBOT, frozenset())})
    authenticator = KubernetesAuthenticator(client, Throttle())
    for _ in range(FREE_WITH_NAME):
        task = asyncio.create_task(authenticator.authenticate(Bearer("good"), ADDRESS))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    client.is_slow = False
    await authenticator.authenticate(Bearer("good"), ADDRESS)


async def test_what_is_remembered_is_bounded(
    client: InMemoryKubeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes, "REVIEWS_KEPT", 4)
    authenticator = KubernetesAuthenticator(client, Throttle())
    authorizer = KubernetesAuthorizer(client)
    for number in range(10):
        client.tokens[f"t{number}"] = (ROBOT, frozenset())
        await authenticator.authenticate(Bearer(f"t{number}"), ADDRESS)
        await authorizer.allows(ANONYMOUS, repository("pull", f"team/app{number}"))

    assert (len(authenticator._reviews), len(authorizer._reviews)) == (4, 4)


async def test_decision_is_remembered_for_its_user_only(
    client: InMemoryKubeClient, authorizer: KubernetesAuthorizer
) -> None:
    wanted = ResourceAttributes("get", GROUP, "imagestreams", "layers", "team", "app")
    client.grants.add(Grant("alice", wanted))
    alice = Identity("alice", uid="1")
    others = [Identity("bob", uid="1"), Identity("alice\0", uid="1"), ANONYMOUS]
    for _ in range(3):
        assert await authorizer.allows(alice, repository("pull"))

    assert client.asked == [(UserInfo("alice", "1"), wanted)]
    for other in others:
        assert not await authorizer.allows(other, repository("pull"))
    # The same name, and somebody else.
    for same in (Identity("alice", uid="2"), Identity("alice", frozenset({"g"}), "1")):
        await authorizer.allows(same, repository("pull"))
    assert len(client.asked) == 6


async def test_answers_are_known_for_two_seconds_and_no_longer(
    client: InMemoryKubeClient,
    authenticator: KubernetesAuthenticator,
    authorizer: KubernetesAuthorizer,
) -> None:
    client.tokens["good"] = (ROBOT, frozenset())
    before = time.monotonic()
    caller = await authenticator.authenticate(Bearer("good"), ADDRESS)
    await authorizer.allows(caller.identity, CATALOG)
    after = time.monotonic()

    for known in (caller.known_until, authorizer.known_until(caller.identity, CATALOG)):
        assert before + 2 <= known <= after + 2
    # What was answered a while ago is not known for longer because somebody asks.
    again = await authenticator.authenticate(Bearer("good"), ADDRESS)
    assert again.known_until == caller.known_until
    assert authorizer.known_until(Identity("stranger"), CATALOG) == -math.inf


async def test_all_that_is_known_of_somebody_is_passed_on(
    client: InMemoryKubeClient, authorizer: KubernetesAuthorizer
) -> None:
    robot = Identity(
        ROBOT.username, frozenset(ROBOT.groups), ROBOT.uid, {"example.org/scopes": ("a", "b")}
    )

    await authorizer.allows(robot, CATALOG)

    assert client.asked == [(ROBOT, ResourceAttributes("list", GROUP, "imagestreams"))]


async def test_who_shows_nothing_is_anonymous(
    client: InMemoryKubeClient, authorizer: KubernetesAuthorizer
) -> None:
    assert not await authorizer.allows(ANONYMOUS, repository("pull", "team/other"))
    client.grants.add(
        Grant(
            "system:unauthenticated",
            ResourceAttributes("get", GROUP, "imagestreams", "layers", "team"),
        )
    )

    assert await authorizer.allows(ANONYMOUS, repository("pull"))
    assert not await authorizer.allows(ANONYMOUS, repository("push"))


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (Unreachable("connection refused"), "does not answer"),
        (Forbidden("403"), "system:auth-delegator"),
    ],
    ids=["away", "forbidden"],
)
async def test_nobody_is_let_in_when_nobody_can_be_asked(
    client: InMemoryKubeClient,
    authenticator: KubernetesAuthenticator,
    authorizer: KubernetesAuthorizer,
    trouble: Unreachable | Forbidden,
    said: str,
) -> None:
    client.trouble = trouble

    # However often: it is not the client's fault.
    for _ in range(20):
        with pytest.raises(AuthorityUnavailable, match=said):
            await authenticator.authenticate(Bearer("t"), ADDRESS)
    with pytest.raises(AuthorityUnavailable, match=said):
        await authorizer.allows(ANONYMOUS, repository("pull"))


async def test_certificate_is_read_as_kubernetes_reads_it(
    client: InMemoryKubeClient, authenticator: KubernetesAuthenticator, tmp_path: Path
) -> None:
    der = _der(tmp_path, "alice", "team-a", "team-b")

    caller = await authenticator.authenticate(Certificate(der), ADDRESS)

    identity = caller.identity
    assert identity.name == "alice"
    assert identity.groups == {"team-a", "team-b", "system:authenticated"}
    assert identity.expires is not None
    assert client.asked == []


async def test_of_several_names_in_a_certificate_the_last_counts(
    authenticator: KubernetesAuthenticator,
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    names = [x509.NameAttribute(NameOID.COMMON_NAME, name) for name in ("admin", "alice")]
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(x509.Name([]), x509.Name(names), key.public_key(), 1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .sign(key, hashes.SHA256())
    )

    der = certificate.public_bytes(serialization.Encoding.DER)
    caller = await authenticator.authenticate(Certificate(der), ADDRESS)
    assert caller.identity.name == "alice"


async def test_certificate_whose_name_is_of_a_kind_of_text_that_is_no_more_is_nobodys(
    authenticator: KubernetesAuthenticator, tmp_path: Path
) -> None:
    utf8, teletex = b"\x0c\x05alice", b"\x14\x05alic\xe9"
    der = _der(tmp_path, "alice")
    assert utf8 in der

    with pytest.raises(Unauthorized, match="names no user"):
        await authenticator.authenticate(Certificate(der.replace(utf8, teletex)), ADDRESS)


async def test_certificate_that_has_expired_since_the_handshake_is_nobodys(
    authenticator: KubernetesAuthenticator, tmp_path: Path
) -> None:
    der = _der(tmp_path, "alice", lifetime=timedelta(seconds=-1))

    with pytest.raises(Unauthorized, match="expired"):
        await authenticator.authenticate(Certificate(der), ADDRESS)


async def test_certificate_without_a_name_is_nobodys(
    authenticator: KubernetesAuthenticator, tmp_path: Path
) -> None:
    with pytest.raises(Unauthorized, match="no common name"):
        await authenticator.authenticate(Certificate(_der(tmp_path, "")), ADDRESS)


def _der(
    directory: Path, name: str, *groups: str, lifetime: timedelta = timedelta(days=1)
) -> bytes:
    pair = Authority().issue_to_user(directory, name=name, groups=groups, lifetime=lifetime)
    return ssl.PEM_cert_to_DER_cert(pair.certificate.read_text())
