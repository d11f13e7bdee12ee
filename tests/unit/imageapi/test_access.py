"""Beside a registry that asks: what each request needs, and what whoever may not is told."""

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from starlette.types import Scope

from alauda_imageapi.access import ACTIONS, OF_A_STREAM, OF_ALL, Doorstep, needs_of
from alauda_imageapi.embedded import Guard
from alauda_imageapi.kinds.catalog import build_kinds
from alauda_imageapi.kinds.names import GROUP
from alauda_imageapi.machinery.errors import NotFound
from alauda_imageapi.machinery.resources import Resource
from alauda_registry.auth.authenticator import NOBODY, Caller, Identity
from alauda_registry.auth.scopes import Access
from alauda_registry.kube.client import ResourceAttributes
from alauda_registry.oci.errors import AuthorityUnavailable, Denied, TooManyRequests, Unauthorized
from tests.unit.imageapi.apis import BASE, DIGEST, Api, Lines, mapping, open_sqlite, opened, stream

pytestmark = pytest.mark.anyio

ALICE = "alice"
CLOSED = {"create", "patch", "update"}
APP, NOT_APP = "fieldSelector=metadata.name=app", "fieldSelector=metadata.name!=app"


class FakeDoor:
    """Knows Alice by her token, and what she and strangers may.

    Args:
        allowed: Names of what Alice may, as ``ACTION NAME``.
        public: Likewise of everybody.
    """

    def __init__(self, *allowed: str, public: Sequence[str] = ()) -> None:
        self.allowed = set(allowed)
        self.public = set(public)
        self.trouble: Exception | None = None

    async def identify(self, scope: Scope) -> Caller:
        if self.trouble is not None:
            raise self.trouble
        shown = dict(scope["headers"]).get(b"authorization", b"").decode()
        if shown and shown != f"Bearer {ALICE}":
            raise Unauthorized("wrong", error="invalid_token")
        return Caller(Identity(ALICE), known_until=time.monotonic()) if shown else NOBODY

    async def admit(self, scope: Scope, needed: Sequence[Access]) -> Caller:
        caller = await self.identify(scope)
        is_known = not caller.identity.is_anonymous
        wanted = {f"{access.action} {access.name}" for access in needed}
        if not wanted <= self.public | (self.allowed if is_known else set()) or not (
            is_known or needed
        ):
            raise Denied() if is_known else Unauthorized()
        return caller

    def challenge(self, scope: Scope, error: Unauthorized, needed: Sequence[Access]) -> str:
        return f"Bearer {' '.join(access.name for access in needed)}"


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with opened(tmp_path) as found:
        await found.make("namespaces/team/imagestreams", stream("app"))
        await found.make("namespaces/team/imagestreammappings", mapping("app", "v1"))
        await found.make("namespaces/secret/imagestreams", stream("plan"))
        yield found


def door_to(api: Api, door: FakeDoor) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(Doorstep(api.server, door))
    return httpx.AsyncClient(transport=transport, base_url="http://localhost")


async def ask(
    api: Api, door: FakeDoor, method: str, path: str, name: str = ALICE, **more: Any
) -> httpx.Response:
    headers = {"Authorization": f"Bearer {name}"} if name else {}
    url = path if path.startswith(("/", "http:")) else f"{BASE}/{path}"
    async with door_to(api, door) as client:
        answer = await client.request(method, url, headers=headers, **more)
    assert answer.headers["content-type"].startswith("application/json")
    if answer.status_code >= 400:
        assert answer.json()["kind"] == "Status"
    return answer


async def resources(path: Path) -> Sequence[Resource]:
    async with open_sqlite(path) as (store, _):
        return build_kinds(store, registry="localhost:5000").resources


async def test_every_resource_and_verb_says_what_it_needs(tmp_path: Path) -> None:
    found = await resources(tmp_path)
    verbs = {
        (resource.name, part, verb)
        for resource in found
        for part, known in (
            ("", resource.verbs),
            *((part.name, part.verbs) for part in resource.subresources),
        )
        for verb in known
    }

    assert {resource.name for resource in found} == OF_A_STREAM.keys() | OF_ALL
    assert {resource.name for resource in found if not resource.namespaced} == OF_ALL
    for resource, part, verb in verbs:
        asked = ResourceAttributes(verb, GROUP.name, resource, part, "team", "app", GROUP.version)
        assert (needs_of(asked) is None) == (verb in CLOSED), (resource, part, verb)
    assert {verb for _, _, verb in verbs} == CLOSED | ACTIONS.keys()


async def test_a_resource_that_says_nothing_is_not_there() -> None:
    for group, version, resource in (
        (GROUP.name, GROUP.version, "imagestreamimports"),
        (GROUP.name, "v2", "images"),
        ("other.example", GROUP.version, "images"),
        ("", "v1", "pods"),
    ):
        with pytest.raises(NotFound):
            needs_of(ResourceAttributes("get", group, resource, "", "team", "app", version))


NEEDS: Mapping[tuple[str, str], str] = {
    ("GET", "namespaces/team/imagestreams/app"): "pull team/app",
    ("GET", "namespaces/team/imagestreams/app/layers"): "pull team/app",
    ("GET", "namespaces/team/imagestreams/app/status"): "pull team/app",
    ("GET", "namespaces/team/imagestreamtags/app:v1"): "pull team/app",
    ("GET", "namespaces/team/imagetags/app:v1"): "pull team/app",
    ("GET", f"namespaces/team/imagestreamimages/app@{DIGEST}"): "pull team/app",
    ("GET", "namespaces/team/imagestreams?fieldSelector=metadata.name=app"): "pull team/app",
    ("GET", "namespaces/team/imagetags?fieldSelector=metadata.name=app:v1"): "pull team/app",
    ("GET", "namespaces/team/imagestreams"): "* catalog, pull team/*",
    ("GET", "namespaces/team/imagestreams?fieldSelector=metadata.name!=app"): (
        "* catalog, pull team/*"
    ),
    ("GET", "namespaces/team/imagestreamtags?limit=1"): "* catalog, pull team/*",
    # Of two the first one counts, as where the list is made.
    ("GET", f"namespaces/team/imagestreams?{NOT_APP}&{APP}"): "* catalog, pull team/*",
    ("GET", f"namespaces/team/imagestreams?{APP}&{NOT_APP}"): "pull team/app",
    ("GET", "imagestreams"): "* catalog, pull **",
    ("GET", "imagestreams?fieldSelector=metadata.name=app"): "* catalog, pull **",
    ("GET", "imagetags"): "* catalog, pull **",
    ("GET", "images"): "* catalog, pull **",
    ("GET", f"images/{DIGEST}"): "pull **",
    ("DELETE", "namespaces/team/imagestreamtags/app:v1"): "pull team/app, delete team/app",
    ("DELETE", "namespaces/team/imagetags/app:v1"): "pull team/app, delete team/app",
    ("DELETE", "namespaces/team/imagestreams/app"): "pull team/app, delete team/app",
    ("DELETE", "namespaces/team/imagestreams"): "* catalog, pull team/*, delete team/*",
    ("DELETE", f"images/{DIGEST}"): "pull **, delete **",
    ("DELETE", "images"): "* catalog, pull **, delete **",
}


@pytest.mark.parametrize(("asked", "needed"), NEEDS.items(), ids=map(" ".join, NEEDS))
async def test_nothing_is_done_without_all_that_it_needs(
    api: Api, asked: tuple[str, str], needed: str
) -> None:
    everything = needed.split(", ")
    others = {"pull team/other", "push team/app", "delete team/other", "pull secret/plan"}
    for missing in everything:
        door = FakeDoor(*(set(everything) - {missing} | others))
        refused = await ask(api, door, *asked)
        assert (refused.status_code, refused.json()["reason"]) == (403, "Forbidden")
        assert 'forbidden: User "alice" cannot ' in refused.json()["message"]
        stranger = await ask(api, door, *asked, name="")
        assert (stranger.status_code, stranger.json()["reason"]) == (401, "Unauthorized")
        names = " ".join(part.partition(" ")[2] for part in everything)
        assert stranger.headers["WWW-Authenticate"] == f"Bearer {names}"

    assert (await ask(api, FakeDoor(*everything), *asked)).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "namespaces/team/imagestreams"),
        ("POST", "namespaces/team/imagestreamtags"),
        ("POST", "namespaces/team/imagestreammappings"),
        ("PUT", "namespaces/team/imagestreams/app"),
        ("PATCH", "namespaces/team/imagestreams/app"),
        ("PUT", "namespaces/team/imagestreams/app/status"),
        ("PATCH", "namespaces/team/imagestreamtags/app:v2"),
        ("POST", "images"),
        ("PATCH", f"images/{DIGEST}"),
        ("POST", "imagesignatures"),
        ("OPTIONS", "images"),
        ("CONNECT", "namespaces/team/imagestreams/app"),
    ],
)
async def test_nobody_writes_but_by_pushing_and_deleting(api: Api, method: str, path: str) -> None:
    door = FakeDoor(
        *(
            f"{action} {name}"
            for action in ("*", "pull", "push", "delete")
            for name in (
                "**",
                "team/*",
                "team/app",
                "catalog",
            )
        )
    )
    before = await api.get("imagestreams")

    refused = await ask(api, door, method, path, json=stream("new"))
    unknown = await ask(api, door, method, path, "", json=stream("new"))

    assert (refused.status_code, refused.json()["reason"]) == (403, "Forbidden")
    assert "changed by pushes and deletions alone" in refused.json()["message"]
    assert unknown.status_code == 401
    assert await api.get("imagestreams") == before


async def test_a_refusal_has_the_words_of_kubernetes(api: Api) -> None:
    answer = await ask(api, FakeDoor(), "GET", "namespaces/secret/imagestreams/plan")

    status = answer.json()
    assert status["message"] == (
        'imagestreams.image.alauda.io "plan" is forbidden: User "alice" cannot get resource '
        '"imagestreams" in API group "image.alauda.io" in the namespace "secret": it takes pull of '
        "secret/plan"
    )
    assert status["details"] == {
        "name": "plan",
        "group": "image.alauda.io",
        "kind": "imagestreams",
    }
    assert answer.headers["Cache-Control"] == "no-cache, private"


async def test_what_is_not_there_is_refused_like_what_is(api: Api) -> None:
    answers = [
        await ask(api, FakeDoor(), "GET", f"namespaces/secret/imagestreams/{name}")
        for name in ("plan", "none")
    ]

    assert [answer.status_code for answer in answers] == [403, 403]


@pytest.mark.parametrize(
    "path",
    ["/api", "/apis", "/version", "/openapi/v2", "/openapi/v3", "/apis/image.alauda.io/v1"],
)  # fmt: skip
async def test_discovery_is_for_everybody_but_whoever_shows_what_is_not_good(
    api: Api, path: str
) -> None:
    answers = [await ask(api, FakeDoor(), "GET", path, name) for name in ("", ALICE, "mallory")]

    assert [answer.status_code for answer in answers] == [200, 200, 401]


@pytest.mark.parametrize(
    "path",
    ["/api/v1/pods", "/api/v1/namespaces/team/pods", "/apis/apps/v1/deployments",
     "namespaces/team/other/app", "watch/imagestreams", "watch/namespaces/team/imagestreams/app",
     "namespaces", "namespaces/team", "namespaces/team/status/app", "namespaces/team/finalize",
     "/apis/image.alauda.io/v2/images", "/apis//v1/images"],
)  # fmt: skip
async def test_there_is_no_other_way_in(api: Api, path: str) -> None:
    for name in ("", ALICE):
        answer = await ask(api, FakeDoor(), "GET", path, name)
        assert answer.status_code in (400, 401, 403, 404)
        assert "plan" not in answer.text


async def test_what_is_public_is_for_strangers_too(api: Api) -> None:
    door = FakeDoor(public=["pull team/app"])

    assert (await ask(api, door, "GET", "namespaces/team/imagestreams/app", "")).status_code == 200
    refused = await ask(api, door, "GET", "namespaces/secret/imagestreams/plan", "")
    assert refused.status_code == 401


async def test_only_of_strangers_it_is_believed_that_a_page_may_have_sent_them(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path, guard=Guard(frozenset())) as api:
        url = "http://other.example/apis"
        answers = [await ask(api, FakeDoor(), "GET", url, name) for name in ("", ALICE)]

    assert [answer.status_code for answer in answers] == [403, 200]


@pytest.mark.parametrize(
    ("trouble", "status"),
    [(TooManyRequests(retry_after=7), 429), (AuthorityUnavailable(retry_after=7), 503)],
)
async def test_whoever_must_wait_is_told_how_long(
    api: Api, trouble: Exception, status: int
) -> None:
    door = FakeDoor("pull team/app")
    door.trouble = trouble

    answer = await ask(api, door, "GET", "namespaces/team/imagestreams/app")

    assert (answer.status_code, answer.headers["Retry-After"]) == (status, "7")


async def test_a_watch_ends_when_its_client_may_not_any_more(api: Api) -> None:
    door, lines = FakeDoor("* catalog", "pull team/*"), Lines()
    path = f"{BASE}/namespaces/team/imagestreams"
    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"watch=1",
        "headers": [(b"authorization", f"Bearer {ALICE}".encode())],
    }

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Doorstep(api.server, door, 0.01), scope, lines.receive, lines.send)
        assert await lines.take(1) == [("ADDED", "app")]
        await api.make("namespaces/team/imagestreams", stream("next"))
        assert await lines.take(1) == [("ADDED", "next")]
        door.allowed.clear()
        assert await lines.next() is None
