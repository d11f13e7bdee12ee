"""Tokens of ours: what they say, how long they are good, and what makes them no good."""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import jwt
import pytest
from typing_extensions import override

from alauda_registry.auth.authenticator import (
    Authenticator,
    Basic,
    Bearer,
    Caller,
    Certificate,
    Credentials,
    Identity,
)
from alauda_registry.auth.authorizer import Authorizer
from alauda_registry.auth.files import Watched
from alauda_registry.auth.keys import Algorithm, KeyRing, make_key, read_keys
from alauda_registry.auth.scopes import Access, parse_scopes
from alauda_registry.auth.service import (
    LONGEST_ISSUED,
    Accounts,
    Issued,
    Terms,
    TokenService,
)
from alauda_registry.auth.tokens import LONGEST_TOKEN
from alauda_registry.oci.errors import NameInvalid, RequestInvalid, Unauthorized

pytestmark = pytest.mark.anyio

ADDRESS = "192.0.2.1"
TERMS = Terms("issuer", "service", frozenset({"other"}), refresh_lifetime=3600)


class People(Authenticator, Authorizer, Accounts):
    """Everybody whose password is their name; all may pull, alice may do everything."""

    def __init__(self) -> None:
        self.marks = {"alice": "1", "bob": "1"}
        self.expires: float | None = None
        self.groups = frozenset({"g"})
        self.asked: list[Access] = []
        self.marks_are_known_until = math.inf

    @override
    async def authenticate(self, credentials: Credentials, address: str) -> Caller:
        match credentials:
            case Basic(username, password) if username == password and username in self.marks:
                extra = {"scopes": ("a", "b")}
                return Caller(Identity(username, self.groups, "u", extra, self.expires))
            case Certificate():
                return Caller(Identity("carol", self.groups))
            case _:
                raise Unauthorized("no", error="invalid_token")

    @override
    async def allows(self, identity: Identity, access: Access) -> bool:
        self.asked.append(access)
        if access.name == "deep/name/here":
            raise NameInvalid
        if access.type != "repository" or identity.is_anonymous:
            return access.name == "public"
        return access.action == "pull" or identity.name == "alice"

    @override
    def known_until(self, identity: Identity, access: Access) -> float:
        return -math.inf

    @override
    def mark(self, name: str) -> str | None:
        return self.marks.get(name)

    @property
    @override
    def marks_known_until(self) -> float:
        return self.marks_are_known_until


@pytest.fixture
def people() -> People:
    return People()


class Keys:
    """A key file, in which keys change."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = 0.0
        self.made = [make_key(Algorithm.ES256) for _ in range(3)]
        self.write(0)
        self.watched: Watched[KeyRing] = Watched([path], read_keys, lambda: self.clock)

    def write(self, *numbers: int) -> None:
        self.path.write_bytes(b"".join(self.made[number] for number in numbers))
        self.clock += 2


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys.pem")


@pytest.fixture
def service(people: People, keys: Keys) -> TokenService:
    return TokenService(people, people, keys.watched, TERMS, people)


def said(token: str) -> dict[str, Any]:
    found: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return found


async def issued(
    service: TokenService, name: str | None, /, *scopes: str, **options: Any
) -> Issued:
    credentials = None if name is None else Basic(name, name)
    return await service.issue(credentials, ADDRESS, parse_scopes(scopes), **options)


async def test_a_token_says_what_distribution_wants_to_know(service: TokenService) -> None:
    now = time.time()
    token = await issued(service, "alice", "repository:team/app:pull,push")

    claims = said(token.token)
    assert claims["iss"] == "issuer"
    assert claims["sub"] == "alice"
    assert claims["aud"] == "service"
    assert claims["access"] == [
        {"type": "repository", "name": "team/app", "actions": ["pull", "push"]}
    ]
    assert claims["exp"] - now == pytest.approx(300, abs=3)
    assert claims["nbf"] <= claims["iat"] <= now
    assert token.expires_in == 300
    header = jwt.get_unverified_header(token.token)
    assert header == {"alg": "ES256", "typ": "JWT", "kid": service.jwks()["keys"][0]["kid"]}


@pytest.mark.parametrize(
    ("name", "scopes", "granted"),
    [
        ("alice", ["repository:a:pull,push"], "repository:a:pull,push"),
        ("bob", ["repository:a:pull,push"], "repository:a:pull"),
        ("bob", ["repository:a:push"], ""),
        (
            "bob",
            ["repository:a:pull repository:b:pull,push"],
            "repository:a:pull repository:b:pull",
        ),
        ("bob", ["repository:a:pull", "repository:b:push"], "repository:a:pull"),
        ("alice", ["repository:a:*"], "repository:a:pull,push,delete"),
        ("bob", ["repository:a:*"], "repository:a:pull"),
        ("alice", ["registry:catalog:*"], ""),
        ("alice", [], ""),
        (None, ["repository:public:pull", "repository:a:pull"], "repository:public:pull"),
        ("alice", ["repository:deep/name/here:pull"], ""),
        (
            "bob",
            ["repository:team/*:pull", "repository:**:pull,push"],
            "repository:team/*:pull repository:**:pull",
        ),
        ("alice", ["repository:*/*:pull", "repository:a*:pull", "repository:A/*:pull"], ""),
        # Nothing that is no name gets into a token.
        ("alice", ["repository:a,b:pull", "repository:A:pull", "repository:a%2Fb:pull"], ""),
        ("alice", ["repository:../a:pull", "repository:a//b:pull", "repository:a:b:pull"], ""),
    ],
)
async def test_what_was_asked_for_and_may_be_had_is_granted(
    name: str | None, scopes: Sequence[str], granted: str, service: TokenService
) -> None:
    token = await issued(service, name, *scopes)

    assert token.scope == granted
    caller = await service.authenticate(Bearer(token.token), ADDRESS)
    assert caller.grants is not None
    assert caller.identity.name == (name or "")


async def test_a_name_that_is_none_is_not_even_asked_about(
    service: TokenService, people: People
) -> None:
    await issued(service, "alice", "repository:A:pull", "repository:../x:pull")

    assert people.asked == []


async def test_who_somebody_is_survives_the_token(service: TokenService) -> None:
    token = await issued(service, "alice")

    caller = await service.authenticate(Bearer(token.token), ADDRESS)

    identity = caller.identity
    assert (identity.name, identity.uid, identity.groups) == ("alice", "u", frozenset({"g"}))
    assert identity.extra == {"scopes": ("a", "b")}


async def test_a_token_that_proves_an_identity_only_has_no_limits(
    people: People, keys: Keys
) -> None:
    terms = Terms("issuer", "service", lifetime=60, carry_access=False)
    service = TokenService(people, people, keys.watched, terms)

    token = await issued(service, "alice", "repository:a:pull", offline=True)

    caller = await service.authenticate(Bearer(token.token), ADDRESS)
    assert caller.grants is None
    assert "access" not in said(token.token)
    assert token.refresh_token is None
    assert people.asked == []


async def test_no_token_outlives_what_it_was_given_for(
    service: TokenService, people: People
) -> None:
    people.expires = time.time() + 20

    token = await issued(service, "alice")

    assert said(token.token)["exp"] <= people.expires
    # Less is not understood by clients.
    assert token.expires_in == 60


async def test_a_token_that_would_be_long_is_the_one_that_was_shown(
    people: People, keys: Keys
) -> None:
    """Where what is shown is a token itself, as in a cluster."""
    terms = replace(TERMS, carry_access=False, passwords_are_tokens=True)
    service = TokenService(people, people, keys.watched, terms)
    assert (await issued(service, "alice")).token != "alice"
    people.groups = frozenset(f"a-group-of-many-{number}" for number in range(1000))

    token = await issued(service, "alice")

    assert (token.token, token.expires_in) == ("alice", TERMS.lifetime)


async def test_a_password_is_not_handed_back_as_a_token(service: TokenService) -> None:
    many = " ".join(f"repository:team/{number:0200}:pull" for number in range(90))

    with pytest.raises(RequestInvalid, match="ask for fewer scopes at once"):
        await issued(service, "alice", many)
    refresh = (await issued(service, "alice", offline=True)).refresh_token
    with pytest.raises(RequestInvalid, match="ask for fewer scopes at once"):
        await service.refresh(str(refresh), parse_scopes([many]))

    # Long, and still taken.
    fewer = await issued(service, "alice", " ".join(many.split()[:40]))
    assert LONGEST_ISSUED < len(fewer.token) <= LONGEST_TOKEN
    await service.authenticate(Bearer(fewer.token), ADDRESS)


async def test_a_certificate_with_too_many_groups_gets_no_token(people: People, keys: Keys) -> None:
    terms = replace(TERMS, carry_access=False, passwords_are_tokens=True)
    service = TokenService(people, people, keys.watched, terms)
    people.groups = frozenset(f"a-group-of-many-{number}" for number in range(1000))

    with pytest.raises(RequestInvalid, match="show the client certificate with every request"):
        await service.issue(Certificate(b""), ADDRESS, ())


@pytest.mark.parametrize("service_name", [None, "", "service", "other"])
async def test_other_services_have_tokens_that_are_not_good_here(
    service_name: str | None, service: TokenService
) -> None:
    token = await issued(service, "alice", service=service_name)

    if service_name == "other":
        assert said(token.token)["aud"] == "other"
        with pytest.raises(Unauthorized, match="another service"):
            await service.authenticate(Bearer(token.token), ADDRESS)
    else:
        await service.authenticate(Bearer(token.token), ADDRESS)


async def test_services_that_nobody_has_named_get_no_tokens(service: TokenService) -> None:
    with pytest.raises(RequestInvalid, match="audiences"):
        await issued(service, "alice", service="stranger")


async def test_a_refresh_token_is_given_to_whoever_wants_and_may_have_one(
    service: TokenService,
) -> None:
    assert (await issued(service, "alice")).refresh_token is None
    assert (await issued(service, None, offline=True)).refresh_token is None
    assert (await issued(service, "alice", offline=True)).refresh_token is not None


async def test_a_refresh_token_is_good_for_tokens_and_nothing_else(
    service: TokenService,
) -> None:
    refresh = (await issued(service, "bob", offline=True)).refresh_token
    assert refresh is not None

    token = await service.refresh(refresh, parse_scopes(["repository:a:pull,push"]))

    assert token.scope == "repository:a:pull"
    assert token.refresh_token == refresh
    caller = await service.authenticate(Bearer(token.token), ADDRESS)
    assert caller.identity.name == "bob"
    with pytest.raises(Unauthorized, match="not ours"):
        await service.authenticate(Bearer(refresh), ADDRESS)
    with pytest.raises(Unauthorized, match="not ours"):
        await service.refresh(token.token, ())


@pytest.mark.parametrize("mark", ["2", None])
async def test_tokens_are_no_good_when_the_password_is_another_or_the_user_gone(
    mark: str | None, service: TokenService, people: People
) -> None:
    token = await issued(service, "alice", offline=True)
    assert token.refresh_token is not None
    await service.authenticate(Bearer(token.token), ADDRESS)

    people.marks = {"alice": mark} if mark else {}

    with pytest.raises(Unauthorized, match="another password now, or is gone"):
        await service.authenticate(Bearer(token.token), ADDRESS)
    with pytest.raises(Unauthorized, match="another password now, or is gone"):
        await service.refresh(token.refresh_token, ())


@pytest.mark.parametrize("mark", ["2", None], ids=["other password", "gone"])
async def test_tokens_are_no_good_when_that_happened_while_they_were_made(
    people: People, keys: Keys, mark: str | None
) -> None:
    class Slow(People):
        @override
        async def authenticate(self, credentials: Credentials, address: str) -> Caller:
            caller = await people.authenticate(credentials, address)
            people.marks.pop("alice")
            if mark is not None:
                people.marks["alice"] = mark
            return caller

    service = TokenService(Slow(), people, keys.watched, TERMS, people)
    token = await issued(service, "alice", offline=True)
    assert token.refresh_token is not None

    with pytest.raises(Unauthorized, match="gone"):
        await service.authenticate(Bearer(token.token), ADDRESS)
    with pytest.raises(Unauthorized, match="gone"):
        await service.refresh(token.refresh_token, [])


async def test_keys_change_without_a_token_being_refused(service: TokenService, keys: Keys) -> None:
    old = await issued(service, "alice")

    keys.write(0, 1)
    both = await issued(service, "alice")
    keys.write(1, 0)
    new = await issued(service, "alice")

    ids = [jwt.get_unverified_header(token.token)["kid"] for token in (old, both, new)]
    assert ids[0] == ids[1] != ids[2]
    for token in (old, both, new):
        await service.authenticate(Bearer(token.token), ADDRESS)
    assert {key["kid"] for key in service.jwks()["keys"]} == set(ids)

    keys.write(1)
    await service.authenticate(Bearer(new.token), ADDRESS)
    for token in (old, both):
        with pytest.raises(Unauthorized):
            await service.authenticate(Bearer(token.token), ADDRESS)


async def test_a_replica_with_the_same_keys_believes_the_token(
    service: TokenService, people: People, keys: Keys
) -> None:
    token = await issued(service, "alice", "repository:a:pull")
    other = TokenService(people, people, Watched([keys.path], read_keys), TERMS, people)
    stranger = TokenService(
        people, people, Watched([], lambda _: read_keys([keys.made[2]])), TERMS, people
    )

    await other.authenticate(Bearer(token.token), ADDRESS)
    with pytest.raises(Unauthorized):
        await stranger.authenticate(Bearer(token.token), ADDRESS)


async def test_tokens_of_one_mode_are_no_good_in_another_with_the_same_keys(
    service: TokenService, people: People, keys: Keys
) -> None:
    terms = replace(TERMS, refresh_lifetime=None, carry_access=False)
    other = TokenService(people, people, keys.watched, terms)
    ours = await issued(service, "alice", "repository:a/b:pull", offline=True)
    theirs = await issued(other, "alice", offline=True)
    assert ours.refresh_token is not None
    assert theirs.refresh_token is None

    for at, token in ((other, ours.token), (service, theirs.token)):
        with pytest.raises(Unauthorized):
            await at.authenticate(Bearer(token), ADDRESS)
    with pytest.raises(Unauthorized, match="none here"):
        await other.refresh(ours.refresh_token, [])


async def test_a_token_that_was_good_is_not_when_its_time_is_over(
    people: People, keys: Keys
) -> None:
    clock = [time.time()]
    service = TokenService(people, people, keys.watched, TERMS, people, lambda: clock[0])
    clock[0] -= 294
    token = await issued(service, "alice")
    clock[0] += 294
    await service.authenticate(Bearer(token.token), ADDRESS)

    clock[0] += 8
    time.sleep(7)  # noqa: ASYNC251 -- the library has a clock of its own

    with pytest.raises(Unauthorized, match="expired"):
        await service.authenticate(Bearer(token.token), ADDRESS)


async def test_a_good_token_is_known_until_its_end_or_a_file_is_looked_at(
    people: People, keys: Keys
) -> None:
    clock = [time.time()]
    service = TokenService(people, people, keys.watched, TERMS, people, lambda: clock[0])
    token = Bearer((await issued(service, "alice")).token)
    assert (await service.authenticate(token, ADDRESS)).known_until == -math.inf

    assert (await service.authenticate(token, ADDRESS)).known_until == keys.watched.known_until
    keys.clock = time.monotonic() + 3600
    whole = (await service.authenticate(token, ADDRESS)).known_until - time.monotonic()
    assert whole == pytest.approx(TERMS.lifetime, abs=5)
    people.marks_are_known_until = 7.0
    assert (await service.authenticate(token, ADDRESS)).known_until == 7.0
    people.marks_are_known_until = math.inf
    clock[0] += TERMS.lifetime - 10
    end = (await service.authenticate(token, ADDRESS)).known_until - time.monotonic()
    assert end == pytest.approx(10, abs=5)


async def test_remembered_tokens_are_bounded(
    people: People, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alauda_registry.auth.service.KEPT_TOKENS", 4)
    service = TokenService(people, people, keys.watched, TERMS, people)
    for _ in range(10):
        token = await issued(service, "alice")
        await service.authenticate(Bearer(token.token), ADDRESS)

    assert len(service._verified) == 4


async def test_tokens_of_somebody_else_are_left_to_the_mode(
    service: TokenService, people: People, keys: Keys
) -> None:
    for token in ("opaque", "a.b.c", jwt.encode({"sub": "x"}, "k" * 32, headers={"kid": "x"})):
        with pytest.raises(Unauthorized) as caught:
            await service.authenticate(Bearer(token), ADDRESS)
        assert caught.value.message == "no"


async def test_a_token_of_ours_whose_key_was_replaced_is_left_to_nobody(
    service: TokenService, people: People, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has one is told to get a new one; it is no guess that the mode would count."""
    old, asked = await issued(service, "alice"), []

    async def ask(credentials: Credentials, address: str) -> Caller:
        asked.append(credentials)
        raise Unauthorized("no", error="invalid_token")

    monkeypatch.setattr(people, "authenticate", ask)
    keys.write(1)
    with pytest.raises(Unauthorized, match="get a new one") as caught:
        await service.authenticate(Bearer(old.token), ADDRESS)
    assert (caught.value.error, asked) == ("invalid_token", [])

    keys.write(1, 0)
    await service.authenticate(Bearer(old.token), ADDRESS)


async def test_nobody_makes_tokens_with_our_public_key(service: TokenService) -> None:
    kid = service.jwks()["keys"][0]["kid"]
    claims = {"iss": "issuer", "aud": "service", "sub": "alice", "exp": time.time() + 60}
    forged = jwt.encode(claims, "k" * 64, headers={"kid": kid, "typ": "JWT"})

    with pytest.raises(Unauthorized, match="accepted"):
        await service.authenticate(Bearer(forged), ADDRESS)


async def test_others_get_on_while_much_is_asked_for(service: TokenService) -> None:
    scopes = parse_scopes([f"repository:team/app{number}:pull" for number in range(50)])
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as others:
        others.start_soon(take_turns)
        await service.issue(Basic("alice", "alice"), ADDRESS, scopes)
        others.cancel_scope.cancel()

    assert turns >= len(scopes)
