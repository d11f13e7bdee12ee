"""The token endpoint as clients use it: GET, forms, refresh, realms, keys, several workers."""

import json
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest

from tests.integration.guarded import (
    SERVICE,
    Guarded,
    basic,
    bearer,
    by_password,
    password_of,
)
from tests.parts import registry

pytestmark = pytest.mark.integration

SCOPE = "repository:team/app:pull,push"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """Two workers: what one has made, the other believes."""
    settings = {
        "REGISTRY_HTTP_TRUSTEDPROXIES": "127.0.0.2,10.0.0.0/8",
        "REGISTRY_HTTP_HEADERS": "{X-Extra: [yes]}",
    }
    with by_password(tmp_path_factory.mktemp("tokens"), settings=settings, workers=2) as found:
        yield found


def form(place: Guarded, path: str = "/token", **fields: str) -> httpx.Response:
    fields = {"service": SERVICE, "client_id": "tests", **fields}
    return place.client.post(f"{place.url}{path}", data=fields)


def said(token: str) -> dict[str, Any]:
    found: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return found


@pytest.mark.parametrize("path", ["/token", "/auth/token", "/openshift/token"])
def test_a_token_is_got_as_the_specification_of_tokens_has_it(place: Guarded, path: str) -> None:
    before = int(time.time())
    answer = place.ask(
        "GET",
        f"{path}?service={SERVICE}&account=writer&client_id=x&scope={SCOPE}"
        "&scope=repository:team/other:pull",
        basic("writer", password_of("writer")),
    )

    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Docker-Distribution-API-Version"] == "registry/2.0"
    assert answer.headers["X-Extra"] == "yes"
    content = answer.json()
    assert content.keys() == {"token", "access_token", "expires_in", "issued_at"}
    assert content["token"] == content["access_token"]
    assert content["expires_in"] >= 60
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", content["issued_at"])
    claims = said(content["token"])
    assert claims["sub"] == "writer"
    assert claims["exp"] >= before + 60
    assert claims["access"] == [
        {"type": "repository", "name": "team/app", "actions": ["pull", "push"]}
    ]


def test_a_login_needs_no_scope_and_no_service(place: Guarded) -> None:
    answer = place.ask("GET", "/token", basic("reader", password_of("reader")))

    token = answer.json()["token"]
    assert said(token)["aud"] == SERVICE
    assert place.ask("GET", "/v2/", bearer(token)).status_code == 200


def test_nobody_in_particular_gets_a_token(place: Guarded) -> None:
    for headers in ({}, {"Authorization": "Bearer anonymous"}):
        answer = place.ask("GET", "/token?scope=repository:public/app:pull,push", headers)
        claims = said(answer.json()["token"])
        assert claims["sub"] == ""
        assert claims["access"] == [
            {"type": "repository", "name": "public/app", "actions": ["pull"]}
        ]


def test_a_token_is_got_as_oauth_has_it(place: Guarded) -> None:
    answer = form(
        place,
        grant_type="password",
        username="writer",
        password=password_of("writer"),
        scope=f"{SCOPE} repository:team/other:pull",
    )

    assert answer.status_code == 200
    content = answer.json()
    assert content.keys() == {"access_token", "scope", "expires_in", "issued_at"}
    assert content["scope"] == SCOPE


def test_a_refresh_token_stands_for_the_password(place: Guarded) -> None:
    for first in (
        place.ask("GET", "/token?offline_token=true", basic("writer", password_of("writer"))),
        form(
            place,
            grant_type="password",
            username="writer",
            password=password_of("writer"),
            access_type="offline",
        ),
    ):
        refresh = first.json()["refresh_token"]
        answer = form(place, grant_type="refresh_token", refresh_token=refresh, scope=SCOPE)

        assert answer.status_code == 200
        assert answer.json()["scope"] == SCOPE
        assert answer.json()["refresh_token"] == refresh
        headers = bearer(answer.json()["access_token"])
        assert place.ask("POST", "/v2/team/app/blobs/uploads/", headers).status_code == 202
        # It opens nothing by itself, also not as a password.
        for no_use in (bearer(refresh), basic("writer", refresh)):
            assert place.ask("GET", "/v2/", no_use).status_code == 401
    assert "refresh_token" not in place.ask("GET", "/token?offline_token=true", {}).json()


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({}, 400, "UNSUPPORTED"),
        ({"grant_type": "authorization_code"}, 400, "UNSUPPORTED"),
        ({"grant_type": "password", "username": "writer"}, 400, "UNSUPPORTED"),
        ({"grant_type": "password", "password": "x"}, 400, "UNSUPPORTED"),
        ({"grant_type": "password", "username": "writer", "password": "x1"}, 401, "UNAUTHORIZED"),
        ({"grant_type": "password", "username": "nobody", "password": "x"}, 401, "UNAUTHORIZED"),
        ({"grant_type": "refresh_token"}, 400, "UNSUPPORTED"),
        ({"grant_type": "refresh_token", "refresh_token": "a.b.c"}, 401, "UNAUTHORIZED"),
        ({"grant_type": "refresh_token", "refresh_token": "x" * 50_000}, 401, "UNAUTHORIZED"),
        ({"grant_type": "password", "service": "stranger"}, 400, "UNSUPPORTED"),
        ({"grant_type": "password", "username": "x" * 70_000}, 400, "UNSUPPORTED"),
    ],
    ids=range(11),
)
def test_a_form_that_is_no_good_is_refused(
    fields: dict[str, str], status: int, code: str, place: Guarded
) -> None:
    answer = form(place, **fields)

    assert answer.status_code == status
    (error,) = answer.json()["errors"]
    assert error["code"] == code
    assert answer.headers["Cache-Control"] == "no-store"
    assert ("WWW-Authenticate" in answer.headers) == (status == 401)


@pytest.mark.parametrize(
    ("content", "media_type"),
    [
        (b"grant_type=password&grant_type=refresh_token", "application/x-www-form-urlencoded"),
        (
            b"grant_type=password&username=a&username=b&password=c",
            "application/x-www-form-urlencoded",
        ),
        (b"&".join([b"a=b"] * 500), "application/x-www-form-urlencoded"),
        (b"\xff\xfe", "application/x-www-form-urlencoded"),
        (b"grant_type=%ff", "application/x-www-form-urlencoded"),
        (b'{"grant_type": "password"}', "application/json"),
        (b"grant_type=password", "multipart/form-data; boundary=x"),
        (b"grant_type=password", ""),
    ],
    ids=range(8),
)
def test_a_body_that_is_no_form_is_refused(content: bytes, media_type: str, place: Guarded) -> None:
    answer = place.ask("POST", "/token", {"Content-Type": media_type}, content=content)

    assert answer.status_code == 400
    assert answer.json()["errors"][0]["code"] == "UNSUPPORTED"


@pytest.mark.parametrize("method", ["HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods_are_not_for_tokens(method: str, place: Guarded) -> None:
    answer = place.ask(method, "/token", {})

    assert answer.status_code == 405
    assert answer.headers["Allow"] == "GET, POST"


def test_a_token_gets_no_further_token(place: Guarded) -> None:
    """Otherwise one would be good for ever, whatever became of its user's password."""
    answer = place.ask("GET", "/token", bearer(place.token("admin")))

    assert answer.status_code == 401


def test_a_service_that_is_not_ours_gets_no_token(place: Guarded) -> None:
    answer = place.ask("GET", "/token?service=stranger", basic("admin", password_of("admin")))

    assert answer.status_code == 400
    assert "auth.tokenservice.audiences" in answer.json()["errors"][0]["message"]


def test_the_public_keys_are_there_for_whoever_verifies(place: Guarded) -> None:
    answer = place.ask("GET", "/.well-known/jwks.json", {})

    token = place.token("reader", SCOPE)
    keys = jwt.PyJWKSet.from_dict(answer.json())
    claims = jwt.decode(
        token,
        keys[jwt.get_unverified_header(token)["kid"]],
        algorithms=["ES256"],
        audience=SERVICE,
        issuer="alauda-image-registry",
    )
    assert claims["sub"] == "reader"
    assert place.ask("POST", "/.well-known/jwks.json", {}).status_code == 405


def test_the_key_is_for_the_server_only_and_stays(place: Guarded, tmp_path: Path) -> None:
    (key,) = place.server.root.rglob("token-key.pem")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    before = key.read_bytes()

    with by_password(tmp_path, root=place.server.root) as other:
        keys = "/.well-known/jwks.json"
        assert other.ask("GET", keys, {}).json() == place.ask("GET", keys, {}).json()
    assert key.read_bytes() == before


def realm(answer: httpx.Response) -> str:
    assert answer.status_code == 401
    found = re.search(r'realm="([^"]*)"', answer.headers["WWW-Authenticate"])
    assert found
    return found[1]


def test_the_realm_is_where_the_client_has_reached_us(place: Guarded) -> None:
    port = place.server.address.rpartition(":")[2]
    assert realm(place.ask("GET", "/v2/", {})) == f"http://127.0.0.1:{port}/token"
    assert realm(place.ask("GET", "/v2/", {"Host": "registry.example:8443"})) == (
        "http://registry.example:8443/token"
    )
    # Nobody but a proxy of ours tells us where that is.
    for field in ("X-Forwarded-Host", "X-Forwarded-Proto", "Forwarded"):
        value = {"Forwarded": "host=evil.example;proto=https"}.get(field, "evil.example")
        assert "evil" not in realm(place.ask("GET", "/v2/", {field: value}))
    # A proxy of ours, at another address of this machine.
    with httpx.Client(transport=httpx.HTTPTransport(local_address="127.0.0.2")) as proxy:
        answer = proxy.get(
            f"{place.url}/v2/",
            headers={"X-Forwarded-Host": "registry.example", "X-Forwarded-Proto": "https"},
        )
        assert realm(answer) == "https://registry.example/token"


@pytest.mark.parametrize("host", ['a"b', "a b", "a,b", "a\\b", "x" * 300])
def test_no_host_gets_out_of_its_quotes(host: str, place: Guarded) -> None:
    answer = place.ask("GET", "/v2/", {"Host": host})

    assert answer.headers["WWW-Authenticate"].count('"') == 4


def test_below_a_prefix_everything_is_below_it(tmp_path: Path) -> None:
    with by_password(tmp_path, settings={"REGISTRY_HTTP_PREFIX": "/images"}) as place:
        answer = place.ask("GET", "/images/v2/", {})
        assert realm(answer) == f"{place.url}/images/token"
        token = place.ask("GET", "/images/token", basic("reader", password_of("reader"))).json()
        assert place.ask("GET", "/images/v2/", bearer(token["token"])).status_code == 200
        assert place.ask("GET", "/images/.well-known/jwks.json", {}).status_code == 200
        assert place.ask("GET", "/v2/", {}).status_code == 401


def test_the_url_that_is_configured_is_the_realms(tmp_path: Path) -> None:
    with by_password(tmp_path, settings={"REGISTRY_HTTP_HOST": "https://r.example/"}) as place:
        assert realm(place.ask("GET", "/v2/", {})) == "https://r.example/token"


def test_a_token_server_behind_the_same_proxy_is_found_there(tmp_path: Path) -> None:
    jwks = tmp_path / "jwks.json"
    jwks.write_text(json.dumps({"keys": []}))
    settings = {
        "REGISTRY_AUTH_TOKEN_SERVICE": "s",
        "REGISTRY_AUTH_TOKEN_ISSUER": "i",
        "REGISTRY_AUTH_TOKEN_JWKS": str(jwks),
        "REGISTRY_AUTH_TOKEN_AUTOREDIRECT": "true",
    }
    with registry.running(tmp_path / "one", settings=settings) as server:
        assert realm(httpx.get(f"{server.url}/v2/", timeout=30)) == f"{server.url}/auth/token"
        # It is somebody else's: we have none.
        assert httpx.get(f"{server.url}/auth/token", timeout=30).status_code == 401
    settings["REGISTRY_AUTH_TOKEN_AUTOREDIRECTPATH"] = "/service/token"
    with registry.running(tmp_path / "two", settings=settings) as server:
        assert realm(httpx.get(f"{server.url}/v2/", timeout=30)) == f"{server.url}/service/token"


def test_a_changed_password_file_counts_at_once(tmp_path: Path) -> None:
    with by_password(tmp_path, workers=2) as place:
        refresh = place.ask(
            "GET", "/token?offline_token=true", basic("writer", password_of("writer"))
        ).json()["refresh_token"]
        token = place.token("writer", SCOPE)
        users = tmp_path / "htpasswd"
        lines = users.read_text().splitlines()
        users.write_text("\n".join(line for line in lines if not line.startswith("writer:")))
        time.sleep(1.2)

        for _ in range(10):
            with httpx.Client(timeout=30) as fresh:
                for headers in (bearer(token), basic("writer", password_of("writer"))):
                    answer = fresh.get(f"{place.url}/v2/", headers=headers)
                    assert answer.status_code == 401
        answer = form(place, grant_type="refresh_token", refresh_token=refresh)
        assert answer.status_code == 401
        assert place.ask("GET", "/v2/", bearer(place.token("reader"))).status_code == 200


def test_without_an_access_file_every_user_may_do_everything(tmp_path: Path) -> None:
    """As in distribution; it is said at the start."""
    with by_password(tmp_path, access=None) as place:
        headers = basic("reader", password_of("reader"))
        assert place.ask("DELETE", "/v2/any/thing/manifests/1", headers).status_code == 404
        assert place.ask("GET", "/v2/_catalog", headers).status_code == 200
        assert place.ask("GET", "/v2/any/thing/tags/list", {}).status_code == 401
        assert "accessfile is not set" in place.server.log.read_text()
