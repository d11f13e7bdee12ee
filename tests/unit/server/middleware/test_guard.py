"""The guard before everything: nothing gets past it that it was not asked about."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send
from typing_extensions import override

from alauda_registry.auth.authenticator import (
    Authenticator,
    Basic,
    Bearer,
    Caller,
    Credentials,
    Identity,
)
from alauda_registry.auth.authorizer import Authorizer
from alauda_registry.auth.gate import Gate
from alauda_registry.auth.scopes import METRICS, Access, Grants, of_repository
from alauda_registry.oci.errors import AuthorityUnavailable, NameInvalid, Unauthorized
from alauda_registry.server.health import HealthMonitor
from alauda_registry.server.metrics.metrics import Metrics
from alauda_registry.server.middleware.guard import _KEPT, Guard, Realm
from alauda_registry.server.proxies import Proxies
from alauda_registry.server.routes.health import Probes


class Mode(Authenticator, Authorizer):
    """Whoever shows a token has it as their name, and may do what is listed.

    Args:
        allowed: What that is.
        seconds: How long it needn't be asked again.
        grants: What a token is limited to.
    """

    def __init__(
        self, *allowed: Access, seconds: float = 0.0, grants: Grants | None = None
    ) -> None:
        self.allowed = allowed
        self.seconds = seconds
        self.grants = grants
        self.asked: list[tuple[str, Access]] = []
        self.trouble: Exception | None = None

    @override
    async def authenticate(self, credentials: Credentials, address: str) -> Caller:
        match credentials:
            case Bearer("good" | "other" as name) | Basic("good" as name):
                return Caller(Identity(name), self.grants, time.monotonic() + 60)
            case _:
                raise Unauthorized(error="invalid_token")

    @override
    async def allows(self, identity: Identity, access: Access) -> bool:
        self.asked.append((identity.name, access))
        if self.trouble is not None:
            raise self.trouble
        return identity.name == "good" and access in self.allowed

    @override
    def known_until(self, identity: Identity, access: Access) -> float:
        return time.monotonic() + self.seconds


class Place:
    """A guard before an application that answers everything."""

    def __init__(self, mode: Mode, prefix: str = "/", *, admits_strangers: bool = True) -> None:
        self.reached: list[str] = []
        self.guard = Guard(
            self.answer,
            Gate(mode, mode, admits_strangers=admits_strangers),
            Realm("service", "https://tokens.example/token"),
            proxies=Proxies(),
            prefix=prefix,
            headers={"X-Extra": ["yes"]},
        )

    async def answer(self, scope: Scope, _receive: Receive, send: Send) -> None:
        self.reached.append(f"{scope['method']} {scope['path']}")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"content"})


def ask(
    app: Any,
    method: str,
    path: str,
    headers: Sequence[tuple[bytes, bytes]] = (),
    address: str = "192.0.2.1",
    query: bytes = b"",
) -> tuple[int, dict[str, str], bytes]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError("nobody reads the body of a request that is not let in")

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "scheme": "https",
        "headers": [(b"host", b"registry.example"), *headers],
        "client": (address, 1),
    }
    asyncio.run(app(scope, receive, send))
    found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], found, b"".join(message.get("body", b"") for message in sent[1:])


GOOD = [(b"authorization", b"Bearer good")]
PULL = Access("repository", "team/app", "pull")
MANIFEST = "/v2/team/app/manifests/latest"


def test_who_may_is_let_in() -> None:
    place = Place(Mode(PULL))

    assert ask(place.guard, "GET", MANIFEST, GOOD)[0] == 200
    assert place.reached == [f"GET {MANIFEST}"]


def test_who_was_let_in_is_not_asked_about_again_for_a_moment() -> None:
    mode = Mode(PULL, seconds=60)
    place = Place(mode)

    for path in (MANIFEST, MANIFEST, f"/v2/team/app/blobs/sha256:{'0' * 64}"):
        assert ask(place.guard, "GET", path, GOOD)[0] == 200
    assert mode.asked == [("good", PULL)]


def test_moment_ends_when_the_mode_says_so() -> None:
    mode = Mode(PULL, seconds=0.05)
    place = Place(mode)
    ask(place.guard, "GET", MANIFEST, GOOD)
    mode.allowed = ()
    time.sleep(0.06)

    assert ask(place.guard, "GET", MANIFEST, GOOD)[0] == 403


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/v2/team/other/manifests/latest", GOOD, 403),
        ("DELETE", MANIFEST, GOOD, 403),
        ("PUT", MANIFEST, GOOD, 403),
        ("PURGE", MANIFEST, GOOD, 405),
        ("GET", "/v2/_catalog", GOOD, 403),
        ("GET", MANIFEST, [], 401),
        ("GET", MANIFEST, [(b"authorization", b"")], 401),
        ("GET", MANIFEST, [(b"authorization", b"Bearer good.")], 401),
        ("GET", MANIFEST, [(b"authorization", b"Bearer other")], 403),
        ("GET", MANIFEST, GOOD * 2, 401),
        ("GET", MANIFEST, [*GOOD, (b"authorization", b"Bearer other")], 401),
    ],
    ids=range(11),
)
def test_who_was_let_in_opens_nothing_else_and_to_nobody_else(
    method: str, path: str, headers: Sequence[tuple[bytes, bytes]], status: int
) -> None:
    place = Place(Mode(PULL, seconds=60))
    ask(place.guard, "GET", MANIFEST, GOOD)

    assert ask(place.guard, method, path, headers)[0] == status


def test_password_is_remembered_for_its_address_only() -> None:
    """Or whoever guesses from elsewhere would learn which one lets in, and not be slowed down."""
    mode = Mode(PULL, seconds=60)
    place = Place(mode)
    basic = [(b"authorization", b"Basic Z29vZDpwYXNz")]

    for address in ("192.0.2.1", "192.0.2.1", "192.0.2.2"):
        ask(place.guard, "GET", MANIFEST, basic, address=address)

    assert len(mode.asked) == 2


def test_who_was_let_in_is_remembered_within_bounds() -> None:
    place = Place(Mode(PULL, seconds=60))
    for number in range(_KEPT + 10):
        field = b"Bearer" + b" " * (1 + number) + b"good"
        ask(place.guard, "GET", MANIFEST, [(b"authorization", field)])

    assert len(place.guard._admitted) == _KEPT


def test_refusal_is_not_remembered() -> None:
    mode = Mode(seconds=60)
    place = Place(mode)
    assert ask(place.guard, "GET", MANIFEST, GOOD)[0] == 403
    mode.allowed = (PULL,)

    assert ask(place.guard, "GET", MANIFEST, GOOD)[0] == 200


def test_a_refusal_is_an_answer_like_any_other() -> None:
    place = Place(Mode(PULL))

    status, headers, content = ask(place.guard, "HEAD", MANIFEST)

    assert (status, content) == (401, b"")
    assert headers["www-authenticate"] == (
        'Bearer realm="https://tokens.example/token",service="service",'
        'scope="repository:team/app:pull"'
    )
    assert headers["docker-distribution-api-version"] == "registry/2.0"
    assert headers["x-extra"] == "yes"
    assert place.reached == []


def test_a_method_that_nobody_has_declared_is_refused() -> None:
    """However much somebody may do: what it would need is not known."""
    place = Place(Mode(*(Access("repository", "team/app", a) for a in ("pull", "push", "delete"))))

    for method in ("POST", "PATCH", "OPTIONS", "PROPFIND"):
        status, headers, _ = ask(place.guard, method, MANIFEST, GOOD)
        assert status == 405
        assert headers["allow"] == "DELETE, GET, HEAD, PUT"
        assert ask(place.guard, method, MANIFEST)[0] == 401
    assert place.reached == []


@pytest.mark.parametrize("path", ["/", "/nowhere", "/v2/x", "/v2/team/app/manifests", "/v1/"])
def test_what_is_no_endpoint_is_for_whoever_has_said_who_they_are(path: str) -> None:
    place = Place(Mode())

    assert ask(place.guard, "GET", path)[0] == 401
    assert ask(place.guard, "GET", path, GOOD)[0] == 200


@pytest.mark.parametrize("name", ["Team/App", "team%2Fapp", "team//app", "../app", "a" * 2000])
def test_a_name_that_is_none_is_refused_before_anybody_is_asked(name: str) -> None:
    mode = Mode()
    place = Place(mode)

    assert ask(place.guard, "GET", f"/v2/{name}/manifests/latest", GOOD)[0] == 400
    assert ask(place.guard, "GET", f"/v2/{name}/manifests/latest")[0] == 401
    assert (place.reached, mode.asked) == ([], [])


def test_what_lies_outside_of_the_prefix_is_not_ours() -> None:
    place = Place(Mode(PULL), prefix="/images")

    assert ask(place.guard, "GET", f"/images{MANIFEST}", GOOD)[0] == 200
    assert ask(place.guard, "GET", f"/images{MANIFEST}")[0] == 401
    assert ask(place.guard, "GET", MANIFEST)[0] == 401


def test_who_knows_and_cannot_be_reached_lets_nobody_in() -> None:
    mode = Mode(PULL)
    mode.trouble = AuthorityUnavailable("the API server does not answer: try again later")
    place = Place(mode)

    status, headers, content = ask(place.guard, "GET", MANIFEST, GOOD)

    assert status == 503
    assert headers["retry-after"] == "5"
    assert b"UNAVAILABLE" in content
    assert b"API server" in content
    assert place.reached == []


def test_a_mode_may_have_no_place_for_a_name() -> None:
    mode = Mode(PULL)
    mode.trouble = NameInvalid("use namespace/name")
    place = Place(mode)

    status, _, content = ask(place.guard, "GET", "/v2/a/b/c/manifests/latest", GOOD)

    assert status == 400
    assert b"use namespace/name" in content


def test_known_who_may_not_is_told_so() -> None:
    place = Place(Mode(PULL))

    status, headers, content = ask(
        place.guard, "GET", MANIFEST, [(b"authorization", b"Bearer other")]
    )

    assert status == 403
    assert "www-authenticate" not in headers
    assert b'"DENIED"' in content
    assert b'{"Type": "repository", "Name": "team/app", "Action": "pull"}' in content


UPLOADS = "/v2/team/app/blobs/uploads/"
MOUNT = b"mount=sha256:0&from=other/app"


def test_who_mounts_with_too_small_a_token_is_sent_for_a_larger_one() -> None:
    """But not who may not pull there, nor who has only begun an upload."""
    target = of_repository("team/app", "pull", "push")
    entry = {"type": "repository", "name": "team/app", "actions": ["pull", "push"]}
    mode = Mode(*target, *of_repository("other/app", "pull"), seconds=60, grants=Grants([entry]))
    place = Place(mode)

    # What has just been let in is remembered, and a mount is not the same.
    for _ in range(2):
        assert ask(place.guard, "POST", UPLOADS, GOOD)[0] == 200
        assert ask(place.guard, "POST", UPLOADS, GOOD, query=b"from=other/app")[0] == 200
        status, headers, content = ask(place.guard, "POST", UPLOADS, GOOD, query=MOUNT)
        assert status == 401
        assert headers["www-authenticate"] == (
            'Bearer realm="https://tokens.example/token",service="service",'
            'scope="repository:team/app:pull,push repository:other/app:pull",'
            'error="insufficient_scope"'
        )
        assert b'"UNAUTHORIZED"' in content
    assert place.reached == [f"POST {UPLOADS}"] * 4

    mode.grants = Grants([entry, {**entry, "name": "other/app"}])
    assert ask(place.guard, "POST", UPLOADS, GOOD, query=MOUNT)[0] == 200
    mode.grants, mode.allowed = Grants([entry]), target
    assert ask(place.guard, "POST", UPLOADS, GOOD, query=MOUNT)[0] == 200
    assert ask(place.guard, "POST", UPLOADS, GOOD, query=MOUNT + b"/../x")[0] == 200


def test_who_mounts_with_a_token_of_a_token_server_is_not_sent_for_another() -> None:
    """They might be sent for ever: what their user may is not known."""
    entry = {"type": "repository", "name": "team/app", "actions": ["pull", "push"]}
    accesses = (*of_repository("team/app", "pull", "push"), *of_repository("other/app", "pull"))
    place = Place(Mode(*accesses, grants=Grants([entry])), admits_strangers=False)

    assert ask(place.guard, "POST", UPLOADS, GOOD, query=MOUNT)[0] == 200


def test_the_counts_can_be_guarded_and_the_probes_are_not() -> None:
    async def nothing(*_: object) -> None:
        raise AssertionError("not asked for")

    mode = Mode(METRICS)
    health = HealthMonitor(interval=1, threshold=1, is_checked=False)
    guarded = Probes(nothing, health, Metrics(), guard=Place(mode).guard)
    opened = Probes(nothing, health, Metrics())

    assert ask(opened, "GET", "/metrics")[0] == 200
    assert ask(guarded, "GET", "/metrics")[0] == 401
    assert ask(guarded, "GET", "/metrics", [(b"authorization", b"Bearer other")])[0] == 403
    assert ask(guarded, "GET", "/metrics", GOOD)[0] == 200
    for path in ("/", "/healthz"):
        assert ask(guarded, "GET", path)[0] == 200


def test_paths_that_are_remembered_are_bounded() -> None:
    place = Place(Mode())
    for number in range(6000):
        ask(place.guard, "GET", f"/v2/a{number}/tags/list") if number % 100 == 0 else (
            place.guard._remembered("GET", f"/v2/a{number}/tags/list".encode())
        )

    assert place.guard._remembered.cache_info().currsize <= 4096
