"""Every cell of the table of who may do what, asked of a running server.

The content is there in all repositories before anybody is asked, so that what is answered depends
on who asks alone. At the end the logs are looked through for every secret that was used.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration import access_matrix
from tests.integration.access_matrix import Mode, Request, Row
from tests.integration.guarded import (
    ACCESS,
    USERS,
    Guarded,
    basic,
    bearer,
    by_cluster,
    by_password,
    by_token,
    open_to_all,
)
from tests.parts import registry
from tests.parts.control_plane import ControlPlane
from tests.parts.processes import wait_until

pytestmark = pytest.mark.integration

MODES = access_matrix.load()
CONFIG = b"{}"
OTHER = b"only in secret/app"
REPOSITORIES = ("team/app", "public/app", "secret/app")


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
MANIFEST = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {
            "mediaType": "application/vnd.oci.empty.v1+json",
            "digest": digest_of(CONFIG),
            "size": len(CONFIG),
        },
        "layers": [],
    }
).encode()


def fill(root: Path, directory: Path) -> None:
    """Push what is asked for later, while everybody may."""
    with registry.running(directory, root=root) as server, httpx.Client(timeout=30) as client:
        for name in REPOSITORIES:
            url = f"{server.url}/v2/{name}"
            for content in (CONFIG, *((OTHER,) if name == "secret/app" else ())):
                digest = digest_of(content)
                client.post(f"{url}/blobs/uploads/?digest={digest}", content=content)
            pushed = client.put(
                f"{url}/manifests/latest", content=MANIFEST, headers={"Content-Type": MANIFEST_TYPE}
            )
            assert pushed.status_code == 201, pushed.text


@pytest.fixture(scope="module")
def guarded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Guarded]]:
    directory = tmp_path_factory.mktemp("matrix")
    # As much as the log can say.
    settings = {"REGISTRY_LOG_LEVEL": "debug"}
    started: dict[str, Guarded] = {}
    with ExitStack() as stack:

        def start(mode: str) -> Guarded:
            if mode not in started:
                root = directory / mode / "root"
                fill(root, directory / mode / "fill")
                match mode:
                    case "htpasswd":
                        part = by_password(directory / mode, root=root, settings=settings)
                    case "token":
                        part = by_token(
                            directory / mode,
                            root=root,
                            settings=settings,
                            access=ACCESS.replace(
                                "[team/app], actions: [pull, push]", "[x], actions: [pull]"
                            ),
                        )
                    case "kubernetes" | "challengedenied":
                        # Only here, since no other mode needs one.
                        plane: ControlPlane = request.getfixturevalue("control_plane")
                        as_openshift = str(mode == "challengedenied").lower()
                        more = {"REGISTRY_AUTH_KUBERNETES_CHALLENGEDENIED": as_openshift}
                        part = by_cluster(
                            plane, directory / mode, root=root, settings=settings | more
                        )
                    case _:
                        part = open_to_all(directory / mode, root=root)
                started[mode] = stack.enter_context(part)
            return started[mode]

        yield start


def headers_of(row: Row, place: Guarded) -> dict[str, str]:
    match row.credentials:
        case {"basic": [name, password]}:
            return basic(name, password)
        case {"login": name}:
            return basic("whoever", place.password(name))
        case {"own": name}:
            return bearer(place.password(name))
        case {"bearer": token}:
            return bearer(token)
        case {"field": value}:
            return {"Authorization": value}
        case {"token": [name, scope]}:
            return bearer(place.token(name, scope))
        case {"audience": [name, audience]}:
            assert place.token_for is not None
            return basic("whoever", place.token_for(name, audience))
        case {"expired": [name, scope]}:
            return bearer(place.expired_token(name, scope))
        case _:
            return {}


def client_of(row: Row, place: Guarded) -> httpx.Client:
    match row.credentials:
        case {"certificate": [name, *groups]}:
            assert place.certified is not None
            return place.certified(name, groups)
        case _:
            return place.client


def send(
    place: Guarded,
    request: Request,
    row: Row,
    headers: Mapping[str, str],
    client: httpx.Client,
) -> httpx.Response:
    path = request.path.format(
        repository=row.repository,
        blob=digest_of(CONFIG),
        other=digest_of(OTHER),
        absent=digest_of(b"absent"),
    )
    more: dict[str, Any] = {}
    if request.method == "PUT":
        more = {"content": MANIFEST}
        headers = {**headers, "Content-Type": MANIFEST_TYPE}
    return place.ask(request.method, path, headers, client=client, **more)


def challenge_of(answer: httpx.Response) -> dict[str, str]:
    found = answer.headers.get("WWW-Authenticate", "")
    assert found.startswith("Bearer ")
    return dict(re.findall(r'([a-z]+)="([^"]*)"', found))


def check(
    answer: httpx.Response, expected: str, request: Request, row: Row, place: Guarded
) -> None:
    match expected:
        case "ok" | "other":
            assert answer.status_code == request.statuses[expected]
            assert "WWW-Authenticate" not in answer.headers
            return
        case "denied" | "name":
            status, code = (403, "DENIED") if expected == "denied" else (400, "NAME_INVALID")
            assert "WWW-Authenticate" not in answer.headers
        case _:
            status, code = 401, "UNAUTHORIZED"
            challenge = challenge_of(answer)
            errors = {"scope": "insufficient_scope", "token": "invalid_token"}
            assert challenge.get("error") == errors.get(expected)
            assert challenge["service"] == place.service
            assert challenge["realm"] == (place.realm or f"{place.url}/token")
            assert challenge.get("scope", "") == request.scope.format(repository=row.repository)
    assert answer.status_code == status
    if request.method != "HEAD":
        (error,) = answer.json()["errors"]
        assert error["code"] == code
        if "message" in error:
            assert len(error["message"]) > 20


@pytest.mark.parametrize("name", MODES)
def test_every_cell_is_what_the_table_says(name: str, guarded: Callable[[str], Guarded]) -> None:
    mode, place = MODES[name], guarded(name)
    wrong = []
    for row in mode.rows:
        headers, client = headers_of(row, place), client_of(row, place)
        for request, expected in zip(mode.requests, row.answers, strict=True):
            answer = send(place, request, row, headers, client)
            try:
                check(answer, expected, request, row, place)
            except AssertionError as error:
                reason = str(error).splitlines()[0] if str(error) else ""
                wrong.append(
                    f"{row.who}: {request.name}: expected {expected}, got {answer.status_code} "
                    f"{answer.headers.get('WWW-Authenticate', '')} {answer.text[:150]} ({reason})"
                )
    assert not wrong, "\n".join(wrong)


def secrets_of(mode: Mode, place: Guarded) -> Iterator[str]:
    """Everything that was shown, in every form in which it might be written down."""
    for row in mode.rows:
        headers = headers_of(row, place)
        if "Authorization" in headers:
            yield headers["Authorization"].partition(" ")[2]
        if "basic" in row.credentials:
            yield row.credentials["basic"][1]
    for user in USERS:
        yield place.password(user)


def ask_for_tokens(place: Guarded) -> set[str]:
    """Show secrets to the token service in every way that there is, and in one that is none."""
    url, right, wrong = f"{place.tokens.url}/token", place.password("writer"), "no password at all"
    asked = {"service": place.service, "client_id": "tests", "username": "writer"}
    shown = {right, wrong}
    for password in (right, wrong):
        form = asked | {"grant_type": "password", "password": password, "access_type": "offline"}
        answer = place.client.post(url, data=form)
        assert answer.status_code in (200, 401)
        shown |= {str(answer.json().get(name, "")) for name in ("access_token", "refresh_token")}
        # In the query, where it does not belong.
        place.client.get(url, params=form)
    for refresh in (shown - {right, wrong, ""}) | {"no refresh token"}:
        form = asked | {"grant_type": "refresh_token", "refresh_token": refresh}
        shown.add(place.client.post(url, data=form).json().get("access_token", refresh))
    return shown - {""}


@pytest.mark.parametrize("name", [name for name in MODES if name != "none"])
def test_no_secret_is_in_the_logs(name: str, guarded: Callable[[str], Guarded]) -> None:
    mode, place = MODES[name], guarded(name)
    shown = set(secrets_of(mode, place))
    for row in mode.rows:
        headers, client = headers_of(row, place), client_of(row, place)
        shown.add(headers.get("Authorization", "").partition(" ")[2])
        for request in mode.requests:
            send(place, request, row, headers, client)
    shown |= ask_for_tokens(place)
    place.ask("GET", "/v2/planted/word/tags/list", {})
    # Looking through nothing would find nothing; and lines are written a moment later.
    wait_until(lambda: "planted/word" in place.server.log.read_text(), "the log")
    logs = place.server.log.read_text() + place.tokens.log.read_text()
    assert logs.count('"path":"/v2/"') >= len(mode.rows)
    assert [secret for secret in shown if secret and secret in logs] == []
    assert "eyJ" not in logs, "the beginning of every token"
    assert '"status":5' not in logs


def test_the_page_shows_the_table() -> None:
    assert access_matrix.PAGE.read_text() == access_matrix.render(), (
        "write it again: python -m tests.integration.access_matrix"
    )
