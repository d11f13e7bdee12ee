"""Hostile credentials, at a running server of each mode: all are refused, and none is an accident.

What is done to tokens as such is tested in ``tests/unit/auth``; here it goes through sockets, the
protocol, the guard and the short cut.
"""

import base64
import json
import math
import re
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import bcrypt
import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from alauda_registry.auth.throttle import FREE_WITH_NAME
from tests.integration.guarded import (
    Guarded,
    basic,
    bearer,
    by_cluster,
    by_password,
    by_token,
    password_of,
)
from tests.parts.tokens import raw

pytestmark = pytest.mark.integration

SCOPE = "repository:team/app:pull,push"
MANIFEST = "/v2/team/app/manifests/latest"
BLOB = f"/v2/team/app/blobs/sha256:{'0' * 64}"


@pytest.fixture(scope="module", params=["htpasswd", "token", "kubernetes"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def place(
    mode: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Guarded]:
    # Each request comes from somewhere else: whoever guesses so much is slowed down, and refused
    # for that.
    settings = {"REGISTRY_HTTP_TRUSTEDPROXIES": "127.0.0.1"}
    with ExitStack() as stack:
        directory = tmp_path_factory.mktemp(mode)
        if mode == "kubernetes":
            plane = request.getfixturevalue("control_plane")
            starting = by_cluster(plane, directory, settings=settings)
        else:
            start = by_password if mode == "htpasswd" else by_token
            starting = start(directory, settings=settings)
        found = stack.enter_context(starting)
        found.client.event_hooks["request"].append(come_from_elsewhere)
        yield found
        assert '"status":5' not in found.server.log.read_text()
        assert "Traceback" not in found.server.log.read_text()


ADDRESSES = (f"198.51.{number // 256}.{number % 256}" for number in count())


def come_from_elsewhere(request: httpx.Request) -> None:
    request.headers["X-Forwarded-For"] = next(ADDRESSES)


def public_key_of(place: Guarded) -> Any:
    keys = place.client.get(f"{place.tokens.url}/.well-known/jwks.json").json()
    return jwt.PyJWKSet.from_dict(keys).keys[0]


def forged(place: Guarded, **header: Any) -> list[str]:
    """Tokens that say they are good for everything."""
    good = place.token("writer", SCOPE)
    says = jwt.decode(good, options={"verify_signature": False})
    says |= {
        "sub": "system:admin",
        "access": [{"type": "repository", "name": "team/app", "actions": ["*"]}],
        "identity": {"groups": ["system:masters"]},
    }
    known = public_key_of(place)
    own = ec.generate_private_key(ec.SECP256R1())
    own_jwk = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(own.public_key()))
    pem = known.key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    kid = known.key_id
    head, body, signature = good.split(".")
    hs256 = raw({"alg": "HS256", "kid": kid, "typ": "JWT"}, says, b"").rpartition(".")[0]
    mac = jwt.get_algorithm_by_name("HS256").sign(hs256.encode(), pem)
    url = "http://127.0.0.1:9/keys"
    return [
        raw({"alg": "none", "kid": kid, "typ": "JWT"}, says, b""),
        raw({"alg": "None", "kid": kid, "typ": "JWT"}, says, signature.encode()),
        f"{hs256}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}",
        jwt.encode(says, own, "ES256", headers={"kid": kid}),
        jwt.encode(says, own, "ES256", headers={"jwk": own_jwk}),
        jwt.encode(says, own, "ES256", headers={"jwk": own_jwk, "kid": kid}),
        jwt.encode(says, own, "ES256", headers={"jku": url, "kid": kid}),
        jwt.encode(says, own, "ES256", headers={"x5u": url, "kid": kid}),
        jwt.encode(says, own, "ES256", headers={"kid": "../../etc/passwd"}),
        jwt.encode(says, own, "ES256", headers={"kid": "\0"}),
        jwt.encode(says, own, "ES256", headers={"kid": "' OR 1=1 --"}),
        raw(
            {"alg": "ES256", "kid": kid, "typ": "JWT"},
            says,
            base64.urlsafe_b64decode(signature + "=="),
        ),
        f"{head}.{body}.",
        f"{head}.{body}",
        f".{body}.{signature}",
        f"{head}..{signature}",
        f"{head}.{body}.{signature}.x",
        f"{body}.{head}.{signature}",
        f"{head}.{body}.{signature[:-8]}AAAAAAAA",
        f"{head[:-3]}AAA.{body}.{signature}",
        good.upper(),
        good[:100],
        "a" * 15_000,
        ".." + "a" * 15_000,
        raw("{" * 5_000, says, b"x"),
        raw('{"alg":"ES256","alg":"none"}', says, b""),
    ]


def test_forged_tokens_are_refused(place: Guarded) -> None:
    good = place.token("writer", SCOPE)
    for token in forged(place):
        for method, path in (("GET", MANIFEST), ("GET", BLOB), ("GET", "/v2/"), ("PUT", MANIFEST)):
            answer = place.ask(method, path, bearer(token))
            assert answer.status_code == 401, (token, answer.text)
            assert answer.json()["errors"][0]["code"] == "UNAUTHORIZED"
            assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]
            assert token[:50] not in answer.text
    assert place.ask("GET", MANIFEST, bearer(good)).status_code == 404


@pytest.mark.parametrize("mode", ["kubernetes"], indirect=True)
def test_forged_tokens_of_the_cluster_are_refused(place: Guarded) -> None:
    good = place.password("writer")
    head, body, signature = good.split(".")
    header, says = (
        jwt.get_unverified_header(good),
        jwt.decode(good, options={"verify_signature": False}),
    )
    more = {**says, "sub": "system:serviceaccount:kube-system:default"}
    own = (
        rsa.generate_private_key(65537, 2048)
        if header["alg"] == "RS256"
        else ec.generate_private_key(ec.SECP256R1())
    )
    assert place.ask("GET", MANIFEST, bearer(good)).status_code == 404

    for token in (
        raw({**header, "alg": "none"}, more, b""),
        raw(header, more, base64.urlsafe_b64decode(signature + "==")),
        jwt.encode(more, own, header["alg"], headers={"kid": header["kid"]}),
        f"{head}.{body}.",
        f"{head}.{body}.{signature[:-8]}AAAAAAAA",
        f"{good}.x",
        f" {good[1:]}",
    ):
        for headers in (bearer(token), basic("writer", token)):
            answer = place.ask("GET", MANIFEST, headers)
            assert answer.status_code == 401, (token, answer.text)
            assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]
            assert token[:50] not in answer.text


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "Bearer",
        "Bearer ",
        "Basic",
        "Basic ",
        "Basic !!!!",
        "Basic YQ",
        "Basic YWxpY2U=",
        "Basic /////w==",
        "Basic " + base64.b64encode(b"admin\0:x").decode(),
        "Basic " + base64.b64encode(b":").decode(),
        "Basic " + base64.b64encode(b"admin:" + b"x" * 9_000).decode(),
        "Negotiate abc",
        "AWS4-HMAC-SHA256 Credential=x",
        "bearer\ttoken",
        "Bearer a b c",
        "Bearer \u00e9\u00e9",
        "Bearer " + "x" * 17_000,
        "admin",
        "Basic,Bearer",
    ],
    ids=range(21),
)
def test_credentials_of_no_form_are_refused(value: str, place: Guarded) -> None:
    for path in ("/v2/", MANIFEST, BLOB):
        answer = talk(place, f"GET {path} HTTP/1.1", f"Authorization: {value}")
        assert answer.split()[1] == b"401"
        assert b"www-authenticate: Bearer " in answer


def talk(place: Guarded, *lines: str) -> bytes:
    """Send a request as it stands."""
    with connected(place) as connection:
        where = f"X-Forwarded-For: {next(ADDRESSES)}"
        head = "\r\n".join([*lines, where, "Host: x", "Connection: close", "", ""])
        connection.sendall(head.encode("latin-1"))
        return rest(connection)


@contextmanager
def connected(place: Guarded) -> Iterator[socket.socket]:
    host, port = place.server.address.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        if place.server.tls is None:
            yield connection
            return
        context = ssl.create_default_context(cafile=place.server.tls.authority)
        with context.wrap_socket(connection, server_hostname=host) as secured:
            yield secured


def rest(connection: socket.socket) -> bytes:
    """All that comes until the end."""
    answer = b""
    while chunk := connection.recv(65536):
        answer += chunk
    return answer


def test_two_credentials_are_none(place: Guarded) -> None:
    good = bearer(place.token("writer", SCOPE))["Authorization"]
    request = f"GET {MANIFEST} HTTP/1.1"
    assert b" 404 " in talk(place, request, f"Authorization: {good}").splitlines()[0]
    for fields in (
        [f"Authorization: {good}", f"Authorization: {good}"],
        [f"Authorization: {good}", "Authorization: Basic YTpi"],
        ["authorization: Basic YTpi", f"AUTHORIZATION: {good}"],
        [f"Authorization: {good}, Basic YTpi"],
    ):
        assert b" 401 " in talk(place, request, *fields).splitlines()[0]
    # Folded over two lines, or with a space before the colon: not understood at all.
    for field in (f"Authorization:\r\n {good}", f"Authorization : {good}"):
        assert talk(place, request, field).splitlines()[0].split()[1] in (b"400", b"401")


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Remote-User": "admin", "X-Remote-Group": "system:masters"},
        {"X-Forwarded-User": "admin"},
        {"X-Auth-Request-User": "admin"},
        {"Proxy-Authorization": "the administrator's"},
        {"Impersonate-User": "admin", "Impersonate-Group": "system:masters"},
        {"X-Original-URL": "/v2/", "X-Rewrite-URL": "/v2/"},
        {"Cookie": "user=admin"},
    ],
    ids=lambda headers: next(iter(headers)),
)
def test_other_fields_say_nothing_about_who_is_asking(
    headers: Mapping[str, str], place: Guarded
) -> None:
    if "Proxy-Authorization" in headers:
        theirs = basic("admin", place.password("admin"))["Authorization"]
        headers = {"Proxy-Authorization": theirs}
    assert place.ask("GET", MANIFEST, headers).status_code == 401
    reader = bearer(place.token("reader", "repository:team/app:pull"))
    assert place.ask("PUT", MANIFEST, {**headers, **reader}).status_code in (401, 403)


NO_NAMESPACE_AND_NAME = ("/v2/team/app/part/manifests/latest", "/v2/app/manifests/latest")


@pytest.mark.parametrize(
    "path",
    [
        "/v2/secret/other/manifests/latest",
        *NO_NAMESPACE_AND_NAME,
        "/v2/team%2Fapp/manifests/latest",
        "/v2/team%2fapp/../../secret/other/manifests/latest",
        "/v2/team/app/../../secret/other/manifests/latest",
        "/v2/team/./app/manifests/latest",
        "/v2//team/app/manifests/latest",
        "//v2/team/app/manifests/latest",
        "/v2/Team/App/manifests/latest",
        "/v2/team/app%00/manifests/latest",
        "/v2/team/app;x=y/manifests/latest",
        "/v2/team/app,secret/other/manifests/latest",
        "/v2/team/app:pull/manifests/latest",
        "/v2/team/app manifests/latest".replace(" ", "%20"),
        "/v2/secret/other/blobs/" + BLOB.rpartition("/")[2],
        "/v2/secret/other/tags/list",
        "/v2/secret/other/referrers/" + BLOB.rpartition("/")[2],
        "/v2/_catalog",
        "/v2/_catalog/",
        "/V2/team/app/manifests/latest",
        "/v2/team/app/manifests/latest/",
        "/v2",
        "/metrics/",
        "/nowhere",
        "/token/x",
    ],
)  # fmt: skip
def test_a_token_is_good_for_its_repository_only(path: str, mode: str, place: Guarded) -> None:
    """And without one nothing is told, not even that there is no such endpoint."""
    token = place.token("writer", SCOPE)
    request = f"GET {path} HTTP/1.1"

    # That a repository is NAMESPACE/NAME tells nothing about what there is.
    is_no_place = mode == "kubernetes" and path in NO_NAMESPACE_AND_NAME
    assert talk(place, request).split()[1] == (b"400" if is_no_place else b"401")
    status = int(talk(place, request, f"Authorization: Bearer {token}").split()[1])
    assert status in ((200,) if path == "/v2" else (400, 401, 403, 404))
    if "other" in path or "part" in path or path == "/v2/app/manifests/latest":
        assert status in (400, 401, 403, 404)
        assert status != 404 or "/../" in path


@pytest.mark.parametrize(
    "scope",
    [
        "repository:team/app,secret/other:pull",
        "repository:team/app:pull,push:secret/other:pull",
        "repository:team/app:pull\trepository:secret/other:pull",
        "repository:secret%2Fother:pull",
        "repository:secret/other%00:pull",
        "repository:*:pull",
        "repository:**:*",
        "repository::*",
        "repository:team/app/../../secret/other:pull",
        "registry:*:*",
        "*:*:*",
        "repository:TEAM/OTHER:pull",
        "admin:blobs:prune",
        "repository:secret/other :pull",
        " ".join(f"repository:r{number}/x:pull,push,delete" for number in range(500)),
        "x" * 8_000,
    ],
    ids=range(16),
)
def test_scopes_bring_in_nothing(scope: str, mode: str, place: Guarded) -> None:
    """A token that was asked for in a strange way opens nothing that is not its user's."""
    token = place.token("writer", scope)
    claims = jwt.decode(token, options={"verify_signature": False})

    assert {entry["name"] for entry in claims.get("access", ())} <= {"team/app"}
    assert ("access" in claims) == (mode != "kubernetes")
    assert len(token) < 1_500
    for path in ("/v2/secret/other/manifests/latest", "/v2/_catalog"):
        assert place.ask("GET", path, bearer(token)).status_code in (401, 403)


def test_a_token_of_another_service_or_registry_is_not_good(place: Guarded, tmp_path: Path) -> None:
    with by_password(tmp_path) as other:
        token = other.token("admin", "repository:team/app:*")
        assert place.ask("GET", MANIFEST, bearer(token)).status_code == 401
    ours = Guarded(place.tokens, place.tokens, client=place.client)
    if place.server is not place.tokens:
        # For the token server itself, which has a service of its own.
        assert place.ask("GET", MANIFEST, bearer(ours.token("admin"))).status_code == 401


def test_a_connection_is_not_logged_in(place: Guarded) -> None:
    """What one request has shown is not shown by the next."""
    token = place.token("writer", SCOPE)
    with connected(place) as connection:
        for line, expected in ((f"Authorization: Bearer {token}\r\n", b"404"), ("", b"401")):
            request = f"GET {MANIFEST} HTTP/1.1\r\nHost: x\r\n{line}\r\n"
            connection.sendall(request.encode())
            assert connection.recv(65536).split()[1] == expected
        both = (
            f"GET {MANIFEST} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n"
            f"GET {MANIFEST} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        connection.sendall(both.encode())
        answer = rest(connection)
    assert re.findall(rb"HTTP/1\.1 (\d+) ", answer) == [b"404", b"401"]


def test_a_refused_upload_is_not_read(place: Guarded) -> None:
    body = b"x" * 3_000_000
    answer = place.ask("PUT", MANIFEST, {}, content=body)

    assert answer.status_code == 401


def test_guessing_is_slowed_down(tmp_path: Path) -> None:
    with by_password(tmp_path, settings={"REGISTRY_HTTP_TRUSTEDPROXIES": "127.0.0.1"}) as place:

        def login(name: str, password: str, address: str, path: str = "/v2/") -> int:
            headers = {**basic(name, password), "X-Forwarded-For": address}
            answer = place.ask("GET", path, headers)
            if answer.status_code == 429:
                assert int(answer.headers["Retry-After"]) >= 1
                assert answer.json()["errors"][0]["code"] == "TOOMANYREQUESTS"
            return answer.status_code

        def guess(number: int, address: str) -> int:
            path = ("/v2/", "/token")[number % 2]
            return login("writer", f"guess {number} at {address}", address, path)

        guesses, right, guesser = list[int](), 0, ""
        for guesser in (f"203.0.113.{number}" for number in range(10, 20)):
            guesses = [guess(number, guesser) for number in range(FREE_WITH_NAME - 1)]
            began = time.monotonic()
            guesses += [guess(FREE_WITH_NAME + number, guesser) for number in range(4)]
            # The right one is not looked at either, or it could be told from the wrong ones.
            right = login("writer", password_of("writer"), guesser)
            # Otherwise the time of waiting was over: on to the next.
            if time.monotonic() - began < 1:
                break
        assert guesses == [401] * FREE_WITH_NAME + [429] * 3
        assert right == 429
        assert login("writer", password_of("writer"), "203.0.113.2") == 200
        assert login("reader", password_of("reader"), guesser) == 200
        time.sleep(1.1)
        assert login("writer", password_of("writer"), guesser) == 200
        form = {"grant_type": "password", "username": "admin"}
        statuses: list[int] = []
        # The time of waiting doubles: sooner or later a guess is within it.
        while 429 not in statuses and len(statuses) < 3 * FREE_WITH_NAME:
            answer = place.client.post(
                f"{place.url}/token",
                data={**form, "password": f"guess {len(statuses)}"},
                headers={"X-Forwarded-For": "203.0.113.3"},
            )
            statuses.append(answer.status_code)
        assert statuses[-1] == 429


@pytest.mark.parametrize("workers", [1, 3])
def test_guessing_tells_nothing_while_the_user_is_at_work_elsewhere(
    workers: int, tmp_path: Path
) -> None:
    """However many workers there are, and although the password has just let somebody in."""
    proxies = {"REGISTRY_HTTP_TRUSTEDPROXIES": "127.0.0.1"}
    with by_password(tmp_path, settings=proxies, workers=workers) as place:

        def login(password: str, address: str) -> httpx.Response:
            headers = {**basic("writer", password), "X-Forwarded-For": address}
            # Over a connection of its own, so that it may come to any worker.
            with httpx.Client(timeout=60) as client:
                return client.get(f"{place.url}/v2/", headers=headers)

        def logins(password: str, address: str) -> set[int]:
            return {login(password, address).status_code for _ in range(4 * workers)}

        assert logins(password_of("writer"), "203.0.113.2") == {200}
        began, looked_at, told = time.monotonic(), 0, set[int]()
        while not told:
            wait, asked = 0, 0.0
            while wait < 3:
                asked = time.monotonic()
                answer = login(f"guess {looked_at}", "203.0.113.1")
                if answer.status_code == 401:
                    looked_at += 1
                else:
                    wait = int(answer.headers["Retry-After"])
                    time.sleep(0.1)
            # They are rounded up.
            until = asked + wait - 1
            for _ in range(4 * workers):
                status = login(password_of("writer"), "203.0.113.1").status_code
                if time.monotonic() > until:
                    break
                told.add(status)
        # After a second one more, two seconds later another one, and so on.
        assert looked_at <= FREE_WITH_NAME + math.log2(time.monotonic() - began + 1)
        assert told == {429}

        assert logins(password_of("writer"), "203.0.113.2") == {200}


def test_logins_do_not_hold_up_requests(tmp_path: Path) -> None:
    """Passwords are computed beside the event loop: probes are answered meanwhile."""
    costly = bcrypt.hashpw(b"other's", bcrypt.gensalt(13)).decode()
    with by_password(tmp_path) as place:
        (tmp_path / "htpasswd").write_text(
            f"other:{costly}\n" + (tmp_path / "htpasswd").read_text()
        )
        time.sleep(1.2)

        def guess(name: str, number: int) -> None:
            place.client.get(f"{place.url}/v2/", headers=basic(name, str(number)), timeout=60)

        answered, turn = 0, 0
        # On the event loop nothing would be answered before the first of them is.
        while not answered and turn < 5:
            turn += 1
            with ThreadPoolExecutor(2) as pool:
                guessing = [pool.submit(guess, f"absent{turn}", number) for number in range(2)]
                while not all(future.done() for future in guessing):
                    assert place.client.get(f"{place.url}/healthz").status_code == 200
                    answered += not any(future.done() for future in guessing)
        assert answered > 0
