"""The verbs of stored objects, as every kind has them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from alauda_imageapi.kinds.content import NoContent
from alauda_imageapi.machinery import bodies, objects
from alauda_imageapi.machinery.errors import Forbidden
from alauda_imageapi.machinery.resources import Access
from alauda_registry.kube.client import UserInfo
from tests.unit.imageapi.apis import (
    APPLY_PATCH,
    BASE,
    DIGEST,
    JSON_PATCH,
    MERGE_PATCH,
    STRATEGIC_PATCH,
    Api,
    image,
    mapping,
    opened,
    source,
    stream,
)

pytestmark = pytest.mark.anyio

STREAMS = "namespaces/team/imagestreams"
SIZED = (
    b'{"metadata": {"name": "a"}, "dockerImageReference": "a/b", '
    b'"dockerImageMetadata": {"Size": %s}}'
)
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


async def test_the_server_says_who_an_object_is(api: Api) -> None:
    sent = stream(lookupPolicy={"local": True})
    sent["metadata"] |= {"uid": "mine", "creationTimestamp": "1999-01-01T00:00:00Z"}
    made = await api.make(STREAMS, sent)

    assert made == {
        "apiVersion": "image.alauda.io/v1",
        "kind": "ImageStream",
        "metadata": {
            "name": "app",
            "namespace": "team",
            "uid": "uid-1",
            "creationTimestamp": "2026-01-02T03:04:05Z",
            "generation": 1,
            "resourceVersion": "2",
            "managedFields": [
                {
                    "manager": "python-httpx",
                    "operation": "Update",
                    "apiVersion": "image.alauda.io/v1",
                    "time": "2026-01-02T03:04:05Z",
                    "fieldsType": "FieldsV1",
                    "fieldsV1": {"f:spec": {"f:lookupPolicy": {"f:local": {}}}},
                }
            ],
        },
        "spec": {"lookupPolicy": {"local": True}},
        "status": {"dockerImageRepository": "localhost:5000/team/app"},
    }
    assert await api.get(f"{STREAMS}/app") == made


async def test_an_object_is_made_once(api: Api) -> None:
    await api.make(STREAMS, stream())
    answer = await api.make(STREAMS, stream(), 409)

    assert answer["reason"] == "AlreadyExists"
    assert answer["message"] == 'imagestreams.image.alauda.io "app" already exists'
    assert answer["details"] == {"name": "app", "group": "image.alauda.io", "kind": "imagestreams"}


async def test_what_is_not_there_is_named(api: Api) -> None:
    answer = (await api.call("GET", f"{STREAMS}/none")).json()

    assert (answer["code"], answer["reason"]) == (404, "NotFound")
    assert answer["message"] == 'imagestreams.image.alauda.io "none" not found'


async def test_names_are_generated(api: Api) -> None:
    sent = stream()
    sent["metadata"] = {"generateName": "build-"}

    names = [(await api.make(STREAMS, sent))["metadata"]["name"] for _ in range(2)]

    assert names == ["build-00001", "build-00002"]


async def test_a_trial_changes_nothing(api: Api) -> None:
    made = await api.make(STREAMS, stream())
    tried = await api.make(f"{STREAMS}?dryRun=All", stream("other"))
    await api.patch(f"{STREAMS}/app?dryRun=All", {"spec": {"tags": [source("a")]}}, MERGE_PATCH)
    answer = await api.call("DELETE", f"{STREAMS}/app", {"dryRun": ["All"]})
    gone = await api.call("DELETE", f"{STREAMS}?dryRun=All")

    assert "resourceVersion" not in tried["metadata"]
    assert (answer.status_code, gone.status_code) == (200, 200)
    assert (await api.get(STREAMS))["items"] == [made]


async def test_a_stale_update_is_a_conflict(api: Api) -> None:
    made = await api.make(STREAMS, stream())
    await api.patch(f"{STREAMS}/app", {"metadata": {"labels": {"a": "b"}}}, MERGE_PATCH)

    answer = await api.call("PUT", f"{STREAMS}/app", made)

    assert answer.status_code == 409
    assert answer.json()["message"] == (
        'Operation cannot be fulfilled on imagestreams.image.alauda.io "app": the object has been '
        "modified; please apply your changes to the latest version and try again"
    )


async def test_an_update_without_a_revision_is_refused(api: Api) -> None:
    made = await api.make(STREAMS, stream())
    del made["metadata"]["resourceVersion"]

    answer = await api.call("PUT", f"{STREAMS}/app", made)

    assert answer.status_code == 422
    assert [cause["field"] for cause in answer.json()["details"]["causes"]] == [
        "metadata.resourceVersion"
    ]


async def test_an_update_that_changes_nothing_is_not_written(api: Api) -> None:
    made = await api.make(STREAMS, stream(tags=[source("a")]))

    again = (await api.call("PUT", f"{STREAMS}/app", made)).json()

    assert again == made


async def test_what_the_server_sets_cannot_be_changed(api: Api) -> None:
    made = await api.make(STREAMS, stream())
    sent = {**made, "metadata": {**made["metadata"], "labels": {"a": "b"}, "generation": 77}}
    sent["metadata"]["creationTimestamp"] = "1999-01-01T00:00:00Z"
    sent["status"] = {"tags": [{"tag": "fake", "items": []}]}

    changed = (await api.call("PUT", f"{STREAMS}/app", sent)).json()

    assert changed["metadata"]["generation"] == 1
    assert changed["metadata"]["creationTimestamp"] == made["metadata"]["creationTimestamp"]
    assert changed["status"] == made["status"]


@pytest.mark.parametrize(
    ("patch", "kind", "status"),
    [
        pytest.param({"metadata": {"name": "b"}}, MERGE_PATCH, 422, id="name"),
        pytest.param({"metadata": {"namespace": "b"}}, MERGE_PATCH, 422, id="namespace"),
        pytest.param({"metadata": {"uid": "b"}}, MERGE_PATCH, 409, id="uid"),
        pytest.param({"kind": "Image"}, MERGE_PATCH, 422, id="kind"),
        pytest.param({"apiVersion": "v1"}, STRATEGIC_PATCH, 422, id="apiVersion"),
        pytest.param({"metadata": {"resourceVersion": "1"}}, MERGE_PATCH, 409, id="old revision"),
        pytest.param({"metadata": {"resourceVersion": "x"}}, MERGE_PATCH, 422, id="no revision"),
        pytest.param({"metadata": None}, MERGE_PATCH, 200, id="no metadata"),
        pytest.param([{"op": "remove", "path": "/metadata"}], JSON_PATCH, 200, id="removed"),
        pytest.param([{"op": "replace", "path": "", "value": 3}], JSON_PATCH, 422, id="a number"),
    ],
)
async def test_no_patch_changes_the_identity(api: Api, patch: Any, kind: str, status: int) -> None:
    made = await api.make(STREAMS, stream())

    await api.patch(f"{STREAMS}/app", patch, kind, status)

    found = (await api.get(f"{STREAMS}/app"))["metadata"]
    for name in ("name", "namespace", "uid", "creationTimestamp"):
        assert found[name] == made["metadata"][name]


async def test_an_object_with_finalizers_waits_for_them(api: Api) -> None:
    sent = stream()
    sent["metadata"]["finalizers"] = ["example.com/wait"]
    await api.make(STREAMS, sent)

    waiting = (await api.call("DELETE", f"{STREAMS}/app")).json()
    again = (await api.call("DELETE", f"{STREAMS}/app")).json()
    late = await api.call(
        "PATCH",
        f"{STREAMS}/app",
        {"metadata": {"finalizers": ["example.com/wait", "example.com/more"]}},
        kind=MERGE_PATCH,
    )
    await api.patch(f"{STREAMS}/app", {"metadata": {"finalizers": None}}, MERGE_PATCH)

    assert waiting["metadata"]["deletionTimestamp"] == "2026-01-02T03:04:05Z"
    assert (waiting["metadata"]["deletionGracePeriodSeconds"], again) == (0, waiting)
    assert late.status_code == 422
    assert (await api.call("GET", f"{STREAMS}/app")).status_code == 404


@pytest.mark.parametrize("kind", [MERGE_PATCH, APPLY_PATCH, ""], ids=["patch", "apply", "put"])
async def test_whoever_reports_a_status_leaves_the_metadata(api: Api, kind: str) -> None:
    sent = stream()
    sent["metadata"] |= {
        "finalizers": ["example.com/hold"],
        "labels": {"a": "b"},
        "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "u"}],
    }
    await api.make(STREAMS, sent)
    await api.call("DELETE", f"{STREAMS}/app")
    before = await api.get(f"{STREAMS}/app")
    wanted = {"finalizers": None, "ownerReferences": None, "labels": {"c": "d"}}
    event = {"dockerImageReference": "quay.io/a/b:1", "created": "2026-01-01T00:00:00Z"}
    body = {
        **{name: before[name] for name in ("apiVersion", "kind")},
        "metadata": {"name": "app", "annotations": {"e": "f"}, **wanted},
        "status": {"tags": [{"tag": "v1", "items": [event]}]},
    }
    if kind == "":
        body["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"]
    method = "PATCH" if kind else "PUT"

    answer = await api.call(method, f"{STREAMS}/app/status?fieldManager=me", body, kind=kind)

    assert answer.status_code == 200, answer.text
    after = await api.get(f"{STREAMS}/app")
    assert after["status"]["tags"][0]["tag"] == "v1"
    for name in ("resourceVersion", "managedFields"):
        del before["metadata"][name]
    (mine,) = (
        entry for entry in after["metadata"].pop("managedFields") if entry["manager"] == "me"
    )
    assert mine["subresource"] == "status"
    assert list(mine["fieldsV1"]) == ["f:status"]
    del after["metadata"]["resourceVersion"]
    assert after["metadata"] == before["metadata"]


async def test_a_deletion_says_what_is_gone(api: Api) -> None:
    await api.make(STREAMS, stream())

    assert (await api.call("DELETE", f"{STREAMS}/app")).json() == {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": {
            "name": "app",
            "group": "image.alauda.io",
            "kind": "imagestreams",
            "uid": "uid-1",
        },
    }
    assert (await api.call("DELETE", f"{STREAMS}/app")).status_code == 404


@pytest.mark.parametrize(
    "preconditions", [{"uid": "other"}, {"resourceVersion": "1"}], ids=["uid", "revision"]
)
async def test_a_deletion_of_something_else_is_a_conflict(
    api: Api, preconditions: dict[str, str]
) -> None:
    await api.make(STREAMS, stream())

    answer = await api.call("DELETE", f"{STREAMS}/app", {"preconditions": preconditions})

    assert answer.status_code == 409
    assert (await api.call("GET", f"{STREAMS}/app")).status_code == 200


async def test_a_collection_is_deleted_by_its_labels(api: Api) -> None:
    for name, team in (("a", "x"), ("b", "y"), ("c", "x")):
        sent = stream(name)
        sent["metadata"]["labels"] = {"team": team}
        await api.make(STREAMS, sent)

    answer = await api.call("DELETE", f"{STREAMS}?labelSelector=team%3Dx")

    assert [item["metadata"]["name"] for item in answer.json()["items"]] == ["a", "c"]
    left = await api.get(STREAMS)
    assert [item["metadata"]["name"] for item in left["items"]] == ["b"]


async def test_a_collection_is_deleted_page_by_page(api: Api) -> None:
    for name in ("a", "b", "c"):
        sent = stream(name)
        sent["metadata"]["labels"] = {"team": "x" if name != "b" else "y"}
        await api.make(STREAMS, sent)

    tried = (await api.call("DELETE", f"{STREAMS}?limit=1&dryRun=All")).json()
    first = (await api.call("DELETE", f"{STREAMS}?limit=1")).json()
    left = await api.get(STREAMS)
    token = first["metadata"]["continue"]
    query = f"limit=1&labelSelector=team%3Dx&continue={token}"
    second = (await api.call("DELETE", f"{STREAMS}?{query}")).json()

    for page in (tried, first):
        assert [item["metadata"]["name"] for item in page["items"]] == ["a"]
        assert page["metadata"]["remainingItemCount"] == 2
    assert [item["metadata"]["name"] for item in left["items"]] == ["b", "c"]
    assert [item["metadata"]["name"] for item in second["items"]] == ["c"]
    assert "continue" not in second["metadata"]
    left = await api.get(STREAMS)
    assert [item["metadata"]["name"] for item in left["items"]] == ["b"]


async def test_a_collection_of_which_something_must_stay_says_so(tmp_path: Path) -> None:
    async with opened(tmp_path, content=Undeletable()) as api:
        for number in range(20):
            await api.make(STREAMS, stream(f"s{number}"))

        answer = await api.call("DELETE", STREAMS)

    assert (answer.status_code, answer.json()["message"]) == (403, "not these")


class Undeletable(NoContent):
    @override
    async def untag(self, namespace: str, name: str, tags: Sequence[str]) -> None:
        raise Forbidden("not these")


async def test_unknown_fields_are_told_of_and_never_kept(api: Api) -> None:
    sent = {**stream(tagz=1), "extra": True}
    text = b'{"metadata": {"name": "b", "name": "c"}, "spec": {}}'

    warned = await api.call("POST", STREAMS, sent)
    doubled = await api.call("POST", STREAMS, text)
    ignored = await api.call("POST", f"{STREAMS}?fieldValidation=Ignore", {**sent, **stream("d")})
    refused = await api.call("POST", f"{STREAMS}?fieldValidation=Strict", sent)
    patch = {"spec": {"tagz": 1}}
    patched = await api.call(
        "PATCH", f"{STREAMS}/app?fieldValidation=Strict", patch, kind=MERGE_PATCH
    )

    assert warned.headers.get_list("warning") == [
        '299 - "unknown field \\"spec.tagz\\""',
        '299 - "unknown field \\"extra\\""',
    ] or set(warned.headers.get_list("warning")) == {
        '299 - "unknown field \\"spec.tagz\\""',
        '299 - "unknown field \\"extra\\""',
    }
    assert "tagz" not in warned.json()["spec"]
    assert doubled.headers["warning"] == '299 - "duplicate field \\"metadata.name\\""'
    assert "warning" not in ignored.headers
    assert (refused.status_code, patched.status_code) == (400, 422)
    assert refused.json()["message"].startswith(
        'ImageStream in version "v1" cannot be handled as a ImageStream: strict decoding error: '
        'unknown field "'
    )


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("dryRun=Some", "dryRun"),
        ("fieldValidation=Maybe", "fieldValidation"),
        ("fieldManager=" + "x" * 129, "fieldManager"),
        ("fieldManager=%07", "fieldManager"),
        ("force=true", "force"),
    ],
)
async def test_options_that_make_no_sense_are_invalid(api: Api, query: str, field: str) -> None:
    answer = await api.call("POST", f"{STREAMS}?{query}", stream())

    assert answer.status_code == 422
    assert [cause["field"] for cause in answer.json()["details"]["causes"]] == [field]


@pytest.mark.parametrize(
    ("metadata", "field"),
    [
        ({"labels": {"-a": "b"}}, "metadata.labels"),
        ({"labels": {"a": "b c"}}, "metadata.labels"),
        ({"annotations": {"a/b/c": "d"}}, "metadata.annotations"),
        ({"annotations": {"a": "x" * 262_144}}, "metadata.annotations"),
        ({"finalizers": ["a b"]}, "metadata.finalizers"),
        ({"ownerReferences": [{"kind": "A", "name": "b", "uid": "c"}]}, "ownerReferences[0].api"),
    ],
)
async def test_metadata_is_checked(api: Api, metadata: dict[str, Any], field: str) -> None:
    sent = stream()
    sent["metadata"] |= metadata

    answer = await api.call("POST", STREAMS, sent)

    assert answer.status_code == 422
    assert field in answer.json()["details"]["causes"][0]["field"]


async def test_a_whole_object_is_made_by_applying_it(api: Api) -> None:
    path = f"{STREAMS}/app?fieldManager=me"
    made = await api.patch(path, stream(tags=[source("a")]), APPLY_PATCH, 201)
    again = await api.patch(path, stream(tags=[source("a")]), APPLY_PATCH)
    fewer = await api.patch(path, stream(), APPLY_PATCH)

    assert again == made
    assert "tags" not in fewer["spec"]


@pytest.mark.parametrize(
    ("path", "kind", "type_"),
    [
        pytest.param(f"{STREAMS}/app", "ImageStream", APPLY_PATCH, id="apply a stream"),
        pytest.param(
            *("namespaces/team/imagestreamtags/app:v1", "ImageStreamTag", APPLY_PATCH),
            id="apply a tag",
        ),
        pytest.param(
            "namespaces/team/imagestreamtags/app:v1", "ImageStreamTag", "", id="PUT a tag"
        ),
    ],
)
async def test_nothing_is_made_in_place_of_what_is_gone(
    api: Api, path: str, kind: str, type_: str
) -> None:
    name = path.rpartition("/")[2]
    body = {"apiVersion": "image.alauda.io/v1", "kind": kind, "tag": source("v1")}
    if kind == "ImageStream":
        del body["tag"]
    method = "PATCH" if type_ else "PUT"

    answer = await api.call(
        *(method, f"{path}?fieldManager=me", {**body, "metadata": {"name": name, "uid": "gone"}}),
        kind=type_,
    )

    assert (answer.status_code, answer.json()["reason"]) == (409, "Conflict")
    assert answer.json()["message"].endswith(
        f'"{name}": uid mismatch: the provided object specified uid gone, and no existing object '
        "was found"
    )
    assert (await api.get(STREAMS))["items"] == []


async def test_to_make_something_by_applying_it_takes_the_right_to_make_it(tmp_path: Path) -> None:
    may_create = False
    asked: list[Access] = []

    async def allows(user: UserInfo, access: Access) -> bool:
        asked.append(access)
        return may_create

    path = f"{STREAMS}/app?fieldManager=me"
    async with opened(tmp_path, allows=allows) as api:
        refused = await api.patch(path, stream(), APPLY_PATCH, 403)
        assert (await api.get("imagestreams"))["items"] == []
        may_create = True
        await api.patch(path, stream(), APPLY_PATCH, 201)
        may_create = False
        await api.patch(path, stream(tags=[source("a")]), APPLY_PATCH)

    assert asked == [Access("create", "imagestreams", "", "team", "app")] * 2
    assert refused["reason"] == "Forbidden"
    assert refused["message"] == (
        'imagestreams.image.alauda.io "app" is forbidden: User "system:anonymous" cannot create '
        'resource "imagestreams" in API group "image.alauda.io" in the namespace "team"'
    )


@pytest.mark.parametrize(("resource", "part"), [("imagestreamtags", "tag"), ("imagetags", "spec")])
@pytest.mark.parametrize("method", ["PUT", MERGE_PATCH, APPLY_PATCH])
@pytest.mark.parametrize("is_there", [False, True], ids=["no stream", "stream"])
async def test_to_make_a_tag_by_an_update_takes_the_right_to_make_it(
    tmp_path: Path, resource: str, part: str, method: str, is_there: bool
) -> None:
    may_create = False
    asked: list[Access] = []

    async def allows(user: UserInfo, access: Access) -> bool:
        asked.append(access)
        return may_create

    kind = "ImageStreamTag" if resource == "imagestreamtags" else "ImageTag"
    path = f"namespaces/team/{resource}/app:v1"
    body = {"apiVersion": "image.alauda.io/v1", "kind": kind, "metadata": {"name": "app:v1"}}
    body[part] = source("v1")

    async def put(path: str = path) -> int:
        if method == "PUT":
            return (await api.call("PUT", path, body)).status_code
        return (await api.call("PATCH", f"{path}?fieldManager=me", body, kind=method)).status_code

    async with opened(tmp_path, allows=allows) as api:
        if is_there:
            await api.make(STREAMS, stream())
        before = await api.get("imagestreams")
        refused = await put()
        after = await api.get("imagestreams")
        may_create = True
        made = await put()
        may_create = False
        changed = await put()

    assert (refused, made, changed) == (403, 201, 200)
    assert asked == [Access("create", resource, "", "team", "app:v1")] * 2
    assert after == before


async def test_a_tag_that_was_pushed_is_not_made_by_an_update(tmp_path: Path) -> None:
    async def allows(user: UserInfo, access: Access) -> bool:
        raise AssertionError(access)

    async with opened(tmp_path, allows=allows) as api:
        await api.make("namespaces/team/imagestreammappings", mapping("app", "v1"))
        body = {"metadata": {"name": "app:v1"}, "tag": source("v1")}
        answer = await api.call("PUT", "namespaces/team/imagestreamtags/app:v1", body)

    assert answer.status_code == 201


async def test_what_another_manager_owns_is_a_conflict(api: Api) -> None:
    mine = f"{STREAMS}/app?fieldManager=me"
    theirs = f"{STREAMS}/app?fieldManager=they"
    await api.patch(mine, stream(tags=[source("a", "x/y:1")]), APPLY_PATCH, 201)

    refused = await api.patch(theirs, stream(tags=[source("a", "x/y:2")]), APPLY_PATCH, 409)
    forced = await api.patch(
        f"{theirs}&force=true", stream(tags=[source("a", "x/y:2")]), APPLY_PATCH
    )
    lost = await api.patch(mine, stream(), APPLY_PATCH)

    assert refused["details"]["causes"] == [
        {
            "reason": "FieldManagerConflict",
            "message": 'conflict with "me"',
            "field": '.spec.tags[name="a"].from.name',
        }
    ]
    assert forced["spec"]["tags"][0]["from"]["name"] == "x/y:2"
    # It is still wanted by the other, and so stays.
    assert [tag["name"] for tag in lost["spec"]["tags"]] == ["a"]


async def test_conflicts_are_told_as_kubernetes_tells_them(api: Api) -> None:
    base = f"{STREAMS}/app?fieldManager="
    mine, theirs = stream(tags=[source("a", "x/y:1")]), stream(tags=[source("a", "x/y:2")])
    await api.patch(f"{base}me", {**mine, "metadata": {"name": "app"}}, APPLY_PATCH, 201)
    local = {"spec": {"lookupPolicy": {"local": True}}}
    await api.patch(f"{base}other", local, MERGE_PATCH)

    one = await api.patch(f"{base}they", theirs, APPLY_PATCH, 409)
    theirs["spec"]["lookupPolicy"] = {"local": False}
    two = await api.patch(f"{base}they", theirs, APPLY_PATCH, 409)

    field = '.spec.tags[name="a"].from.name'
    assert one["message"] == f'Apply failed with 1 conflict: conflict with "me": {field}'
    assert two["message"] == (
        f'Apply failed with 2 conflicts: conflicts with "me":\n- {field}\n'
        'conflicts with "other" using image.alauda.io/v1:\n- .spec.lookupPolicy.local'
    )


async def test_what_kubectl_applied_itself_is_no_conflict_for_it(api: Api) -> None:
    before = stream(tags=[source("a", "x/y:1"), source("b", "x/y:1")])
    text = json.dumps(before)
    sent = stream(tags=[source("a", "x/y:1"), source("b", "x/y:1")])
    sent["metadata"]["annotations"] = {LAST_APPLIED: text}
    await api.make(f"{STREAMS}?fieldManager=kubectl-client-side-apply", sent)
    wanted = stream(tags=[source("a", "x/y:2"), source("b", "x/y:1")])
    apply = f"{STREAMS}/app?fieldManager="

    other = await api.patch(f"{apply}me", wanted, APPLY_PATCH, 409)
    applied = await api.patch(f"{apply}kubectl", wanted, APPLY_PATCH)
    again = await api.patch(f"{apply}kubectl", wanted, APPLY_PATCH)

    assert 'conflict with "kubectl-client-side-apply"' in other["message"]
    assert [tag["from"]["name"] for tag in applied["spec"]["tags"]] == ["x/y:2", "x/y:1"]
    # What it finds its changes by, should it apply by itself again.
    assert json.loads(applied["metadata"]["annotations"][LAST_APPLIED])["spec"] == wanted["spec"]
    assert again == applied
    # Of what somebody else has changed since it knows nothing.
    change = [{"op": "replace", "path": "/spec/tags/1/from/name", "value": "x/y:3"}]
    await api.patch(f"{apply}they", change, JSON_PATCH)
    wanted["spec"]["tags"][1]["from"]["name"] = "x/y:4"
    refused = await api.patch(f"{apply}kubectl", wanted, APPLY_PATCH, 409)
    assert [cause["message"] for cause in refused["details"]["causes"]] == [
        'conflict with "they" using image.alauda.io/v1'
    ]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"spec": 1}', '{"apiVersion": "v1", "spec": {"tags": []}}']
)
async def test_what_kubectl_cannot_have_applied_excuses_no_conflict(api: Api, text: str) -> None:
    sent = stream(tags=[source("a", "x/y:1")])
    sent["metadata"]["annotations"] = {LAST_APPLIED: text}
    await api.make(f"{STREAMS}?fieldManager=kubectl-client-side-apply", sent)

    path, wanted = f"{STREAMS}/app?fieldManager=kubectl", stream(tags=[source("a", "x/y:2")])
    await api.patch(path, wanted, APPLY_PATCH, 409)


def owners(document: Any) -> list[tuple[str, str]]:
    return [
        (entry["manager"], entry["operation"])
        for entry in document["metadata"].get("managedFields", [])
    ]


async def test_who_owns_what_can_be_handed_over(api: Api) -> None:
    """As kubectl does it when it begins to let the server apply."""
    made = await api.make(
        f"{STREAMS}?fieldManager=kubectl-client-side-apply",
        stream(tags=[source("v1"), source("v2")]),
    )
    (entry,) = made["metadata"]["managedFields"]
    handed = {**entry, "manager": "kubectl", "operation": "Apply"}
    patch = [
        {"op": "replace", "path": "/metadata/managedFields", "value": [handed]},
        {
            "op": "replace",
            "path": "/metadata/resourceVersion",
            "value": made["metadata"]["resourceVersion"],
        },
    ]

    patched = await api.patch(f"{STREAMS}/app", patch, JSON_PATCH)
    applied = await api.patch(
        f"{STREAMS}/app?fieldManager=kubectl", stream(tags=[source("v1")]), APPLY_PATCH
    )

    assert patched["metadata"]["managedFields"] == [handed]
    assert [tag["name"] for tag in applied["spec"]["tags"]] == ["v1"]


NO_FIELDS: list[Any] = [1, {"spec": {}}, {"f:spec": 1}, {"k:": {}}, {"k:[]": {}}, {"i:x": {}}]
ENTRY: dict[str, Any] = {
    "manager": "they",
    "operation": "Apply",
    "apiVersion": "image.alauda.io/v1",
    "fieldsType": "FieldsV1",
    "fieldsV1": {"f:spec": {"f:tags": {'k:{"name":"v1"}': {".": {}}}}},
}


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        pytest.param([ENTRY], [("they", "Apply")], id="another"),
        pytest.param([ENTRY, ENTRY], [("they", "Apply")], id="twice"),
        pytest.param([{}], [], id="a new beginning"),
        pytest.param([], [("me", "Update")], id="none"),
        pytest.param(None, [("me", "Update")], id="null"),
        pytest.param([ENTRY, {}], [("me", "Update")], id="an empty one"),
        pytest.param([{**ENTRY, "operation": "Own"}], [("me", "Update")], id="operation"),
        pytest.param([{**ENTRY, "apiVersion": ""}], [("me", "Update")], id="no version"),
        pytest.param([{**ENTRY, "apiVersion": "v1"}], [("me", "Update")], id="other version"),
        pytest.param([{**ENTRY, "fieldsType": "FieldsV2"}], [("me", "Update")], id="type"),
        pytest.param([{**ENTRY, "manager": "x" * 129}], [("me", "Update")], id="long name"),
        *(
            pytest.param([{**ENTRY, "fieldsV1": fields}], [("me", "Update")], id=str(fields))
            for fields in NO_FIELDS
        ),
    ],
)
async def test_managed_fields_are_taken_from_clients_if_they_make_sense(
    api: Api, sent: Any, expected: list[tuple[str, str]]
) -> None:
    await api.make(f"{STREAMS}?fieldManager=me", stream(tags=[source("v1")]))

    patch = {"metadata": {"managedFields": sent}}
    patched = await api.patch(f"{STREAMS}/app", patch, MERGE_PATCH)

    assert owners(patched) == expected


@pytest.mark.parametrize("sent", [[ENTRY], [{}]], ids=["another", "a new beginning"])
async def test_managed_fields_are_not_taken_with_a_status(api: Api, sent: Any) -> None:
    await api.make(f"{STREAMS}?fieldManager=me", stream(tags=[source("v1")]))

    patch = {"metadata": {"managedFields": sent}}
    reported = await api.patch(f"{STREAMS}/app/status", patch, MERGE_PATCH)

    assert ("me", "Update") in owners(reported)
    assert ("they", "Apply") not in owners(reported)


async def test_nobody_owns_a_tag_that_is_gone(api: Api) -> None:
    tags = "namespaces/team/imagestreamtags"
    apply = f"{STREAMS}/app?fieldManager="
    await api.patch(f"{apply}me", stream(tags=[source("v1"), source("v2")]), APPLY_PATCH, 201)

    assert (await api.call("DELETE", f"{tags}/app:v1")).status_code == 200
    body = {"tag": source("v2", "x/y:2"), "metadata": {"name": "app:v2"}}
    assert (await api.call("PUT", f"{tags}/app:v2?fieldManager=you", body)).status_code == 200

    anew = stream(tags=[source("v1", "x/y:1")])
    applied = await api.patch(f"{apply}they", anew, APPLY_PATCH)
    assert [tag["from"]["name"] for tag in applied["spec"]["tags"]] == ["x/y:1", "x/y:2"]
    anew = stream(tags=[source("v2", "x/y:3")])
    refused = await api.patch(f"{apply}they", anew, APPLY_PATCH, 409)
    assert 'conflict with "you"' in refused["message"]


async def test_tags_of_others_survive_a_strategic_merge(api: Api) -> None:
    await api.make(STREAMS, stream(tags=[source("a"), source("b")]))
    patch = {"spec": {"tags": [source("c"), {"name": "a", "$patch": "delete"}]}}

    changed = await api.patch(f"{STREAMS}/app", patch, STRATEGIC_PATCH)

    assert [tag["name"] for tag in changed["spec"]["tags"]] == ["b", "c"]


@pytest.mark.parametrize(
    ("method", "path", "body", "kind", "status"),
    [
        pytest.param("POST", STREAMS, b"{", "", 400, id="no JSON"),
        pytest.param("POST", STREAMS, b"", "", 400, id="nothing"),
        pytest.param("POST", STREAMS, b"[]", "", 400, id="a list"),
        pytest.param("POST", STREAMS, b'{"metadata": []}', "", 400, id="metadata is a list"),
        pytest.param("POST", STREAMS, b'{"spec": {"tags": {}}}', "", 400, id="tags is an object"),
        pytest.param("POST", STREAMS, b'{"spec": NaN}', "", 400, id="NaN"),
        *(
            pytest.param("POST", "images", SIZED % number, "", 400, id=f"{number!r}")
            for number in (b"1e400", b"-1.5e999")
        ),
        *(
            pytest.param(
                *("POST", "images", b"--- " + SIZED % number, "application/yaml", 400),
                id=f"{number!r} in YAML",
            )
            for number in (b"1.0e+400", b".inf", b"-.inf", b".nan")
        ),
        *(
            pytest.param(
                "POST", STREAMS, '{"metadata":{"name":"a"}}'.encode(coding), "", 400, id=coding
            )
            for coding in ("utf-16", "utf-16-le", "utf-32", "utf-8-sig")
        ),
        pytest.param("POST", STREAMS, b'{"a": 1' + b"0" * 5000 + b"}", "", 400, id="digits"),
        pytest.param("POST", STREAMS, b"[" * 100_000, "", 400, id="deep"),
        pytest.param("POST", STREAMS, b'{"a":' * 200 + b"1" + b"}" * 200, "", 400, id="nested"),
        pytest.param("POST", STREAMS, b'{"kind":"\\ud800"}', "", 400, id="half a pair"),
        pytest.param("POST", STREAMS, b"\xff", "", 400, id="no UTF-8"),
        pytest.param("POST", STREAMS, b"{}", "", 422, id="no name"),
        pytest.param("POST", STREAMS, {"kind": "Image"}, "", 400, id="another kind"),
        pytest.param("POST", STREAMS, {"apiVersion": "v1"}, "", 400, id="another version"),
        pytest.param("POST", STREAMS, b"a" * (3 * 2**20 + 1), "", 413, id="large"),
        pytest.param("POST", STREAMS, b"{}", "text/plain", 415, id="text"),
        pytest.param("POST", STREAMS, b"a: &b 1\nc: *b", "application/yaml", 400, id="aliases"),
        *(
            pytest.param("POST", STREAMS, text, "application/yaml", 400, id=f"YAML {text!r:.16}")
            for text in (
                *(b"a: !!timestamp x", b'a: !!int ""', b'a: !!float ""', b"a: !!bool x"),
                *(b'a: "\\UFFFFFFFF"', b"- " * 10_000, b"a: !!omap [b: 1]"),
            )
        ),
        pytest.param("POST", STREAMS, {"metadata": {"name": "a/b"}}, "", 422, id="a slash"),
        pytest.param("POST", STREAMS, {"metadata": {"name": "x" * 300}}, "", 422, id="long"),
        pytest.param("PATCH", f"{STREAMS}/app", b"{}", "application/json", 415, id="no patch"),
        pytest.param("PATCH", f"{STREAMS}/app", b"3", MERGE_PATCH, 400, id="a number"),
        pytest.param("PATCH", f"{STREAMS}/app", b"{}", JSON_PATCH, 400, id="no list"),
        pytest.param("PATCH", f"{STREAMS}/app", b'[{"op":"x"}]', JSON_PATCH, 400, id="no op"),
        *(
            pytest.param("PATCH", f"{STREAMS}/app", body, JSON_PATCH, 400, id=body.decode())
            for body in (b'[{"op":[],"path":"/a"}]', b'[{"op":{},"path":"/a"}]', b'[{"op":"add"}]')
        ),
        pytest.param(
            *("PATCH", f"{STREAMS}/app", [{"op": "remove", "path": "/a/b"}], JSON_PATCH, 422),
            id="no such path",
        ),
        pytest.param(
            *("PATCH", f"{STREAMS}/app", [{"op": "add", "path": "/kind/x/y", "value": 1}]),
            *(JSON_PATCH, 422),
            id="through a text",
        ),
        pytest.param(
            *("PATCH", f"{STREAMS}/app"),
            [{"op": "copy", "from": "/metadata", "path": f"/metadata/{n}"} for n in range(64)],
            *(JSON_PATCH, 413),
            id="doubling",
        ),
        pytest.param(
            *("PATCH", f"{STREAMS}/app", [{"op": "test", "path": "", "value": 1}] * 10_001),
            *(JSON_PATCH, 413),
            id="many operations",
        ),
        pytest.param(
            *("PATCH", f"{STREAMS}/app", {"spec": {"tags": [{"a": 1}]}}, STRATEGIC_PATCH, 400),
            id="no merge key",
        ),
        pytest.param("PATCH", f"{STREAMS}/app", stream(), APPLY_PATCH, 422, id="no manager"),
        pytest.param(
            *("PATCH", f"{STREAMS}/app?fieldManager=m", stream("b"), APPLY_PATCH, 400),
            id="another name",
        ),
        pytest.param(
            *("PATCH", f"{STREAMS}/none", {}, MERGE_PATCH, 404),
            id="not there",
        ),
        pytest.param("PUT", f"{STREAMS}/app", stream("b"), "", 400, id="PUT another name"),
        pytest.param("PUT", f"{STREAMS}/none", stream("none"), "", 404, id="PUT not there"),
        pytest.param("PUT", STREAMS, stream(), "", 405, id="PUT a collection"),
        pytest.param("POST", "imagestreams", stream(), "", 405, id="no namespace"),
        pytest.param("POST", "images", image("a%b"), "", 422, id="percent"),
        pytest.param("DELETE", f"{STREAMS}/app", {"kind": "Pod"}, "", 400, id="no DeleteOptions"),
        pytest.param(
            *("DELETE", f"{STREAMS}/app", {"propagationPolicy": "Never"}, "", 422),
            id="no such policy",
        ),
        pytest.param(
            *("DELETE", f"{STREAMS}/app"),
            {"propagationPolicy": "Orphan", "orphanDependents": True},
            *("", 422),
            id="two policies",
        ),
        pytest.param("DELETE", f"{STREAMS}/app", {"preconditions": 3}, "", 400, id="3"),
        pytest.param("GET", f"{STREAMS}/..%2f..", None, "", 400, id="encoded slash"),
        pytest.param("GET", f"{STREAMS}/%00", None, "", 400, id="NUL"),
        pytest.param("GET", f"{STREAMS}/%ff", None, "", 400, id="bytes"),
        pytest.param("GET", f"{STREAMS}/{'x' * 60_000}", None, "", 400, id="long name"),
        pytest.param("GET", f"{STREAMS}/app/", None, "", 200, id="slash at the end"),
        pytest.param("GET", f"{STREAMS}/app/none", None, "", 404, id="no such part"),
        pytest.param("GET", f"{STREAMS}/app?resourceVersion=x", None, "", 400, id="revision"),
        pytest.param("GET", f"namespaces/team/images/{DIGEST}", None, "", 404, id="scope"),
        pytest.param("GET", "nothing", None, "", 404, id="no such resource"),
        pytest.param("GET", "/apis/apps/v1/deployments", None, "", 404, id="another group"),
        pytest.param("GET", "/api/v1/namespaces", None, "", 404, id="core"),
        pytest.param("POST", "/apis", {}, "", 405, id="POST discovery"),
        pytest.param("GET", f"{BASE}/watch/imagestreams", None, "", 404, id="ancient watch"),
    ],
)
async def test_what_makes_no_sense_is_the_clients_mistake(
    api: Api, method: str, path: str, body: Any, kind: str, status: int
) -> None:
    await api.make(STREAMS, stream())

    answer = await api.call(method, path, body, kind=kind)

    assert answer.status_code == status, answer.text


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b" " * (3 * 2**20 + 1), "limit is 3145728"),
        (
            [{"op": "test", "path": "/kind", "value": "ImageStream"}] * 10_001,
            "The allowed maximum operations in a JSON patch is 10000, got 10001",
        ),
        (
            [{"op": "copy", "from": "/a" * 100, "path": "/a" * 101}] * 1000,
            "the paths of a JSON patch may have 200000 parts, got 201000",
        ),
        (
            [{"op": "test", "path": "/a" * 21, "value": 1}] * 10_000,
            "the paths of a JSON patch may have 200000 parts, got 210000",
        ),
    ],
    ids=["a body", "operations", "copied paths", "tested paths"],
)
async def test_what_is_too_large_is_refused_in_the_words_of_kubernetes(
    api: Api, body: Any, why: str
) -> None:
    await api.make(STREAMS, stream())

    refused = await api.patch(f"{STREAMS}/app", body, JSON_PATCH, 413)

    assert refused["message"] == f"Request entity too large: {why}"


def test_yaml_is_read_as_other_servers_read_it() -> None:
    read = bodies.parse_yaml(b"port: 22:22\nratio: 1:30.5\nday: 2026-01-02\nsize: 0x10\nhalf: 0.5")

    # Not as numbers to base 60, of which a body could have one with ten thousand digits.
    assert read == {
        "port": "22:22",
        "ratio": "1:30.5",
        "day": "2026-01-02",
        "size": 16,
        "half": 0.5,
    }


def test_keys_that_are_merged_in_yaml_are_not_there_twice() -> None:
    read = bodies.parse_yaml(b"a: {<<: {b: 1, c: 2}, b: 3}\nd: {e: 1, e: 2}")

    assert read == {"a": {"b": 3, "c": 2}, "d": {"e": 2}}
    assert list(objects.repeated_keys(read)) == ["d.e"]


@pytest.mark.parametrize("kind", ["application/yaml", APPLY_PATCH])
async def test_fields_that_are_there_twice_are_told_of_in_yaml(api: Api, kind: str) -> None:
    text = (
        b"apiVersion: image.alauda.io/v1\nkind: ImageStream\nmetadata: {name: app}\n"
        b"spec: {lookupPolicy: {local: true}, lookupPolicy: {local: false}}"
    )
    method, path = ("PATCH", f"{STREAMS}/app") if kind == APPLY_PATCH else ("POST", STREAMS)
    path += "?fieldManager=me&fieldValidation="

    refused = await api.call(method, f"{path}Strict", text, kind=kind)
    warned = await api.call(method, f"{path}Warn", text, kind=kind)

    assert refused.status_code == 400
    assert refused.json()["message"].endswith('duplicate field "spec.lookupPolicy"')
    assert warned.status_code == 201
    assert warned.headers["warning"] == '299 - "duplicate field \\"spec.lookupPolicy\\""'


async def test_nobody_applies_two_wishes_for_the_same_item(api: Api) -> None:
    tags = [source("v1", "x/y:1"), source("v2"), source("v1", "x/y:2")]
    path = f"{STREAMS}/app?fieldManager=me"

    refused = await api.patch(path, stream(tags=tags), APPLY_PATCH, 400)
    sent = {**stream(), "metadata": {"name": "app", "finalizers": ["a/b", "a/b"]}}
    twice = await api.patch(path, sent, APPLY_PATCH, 400)

    assert refused["message"] == (
        'failed to create typed patch object: .spec.tags: duplicate entries for key [name="v1"]'
    )
    assert '.metadata.finalizers: duplicate entries for key [="a/b"]' in twice["message"]


@pytest.mark.parametrize("prefix", [b"", b"--- "], ids=["JSON", "YAML"])
async def test_numbers_are_kept_as_they_are(api: Api, prefix: bytes) -> None:
    kind = "application/yaml" if prefix else ""

    made = await api.call("POST", "images", prefix + SIZED % b"-1.5e+30", kind=kind)

    assert made.json()["dockerImageMetadata"]["Size"] == -1.5e30


async def test_only_json_is_written(api: Api) -> None:
    protobuf = "application/vnd.kubernetes.protobuf"

    refused = await api.call("GET", STREAMS, Accept=protobuf)
    second_best = await api.call("GET", STREAMS, Accept=f"{protobuf},application/json")

    made = await api.call("POST", STREAMS, stream(), Accept=protobuf)

    assert (refused.status_code, second_best.status_code, made.status_code) == (406, 200, 406)
    # Whoever could not read the answer would do it again.
    assert (await api.get(STREAMS))["items"] == []


async def test_a_hundred_writers_of_labels_come_through(api: Api) -> None:
    import asyncio

    await api.make(STREAMS, stream())

    await asyncio.gather(
        *(
            api.patch(f"{STREAMS}/app", {"metadata": {"labels": {f"l{n}": "x"}}}, MERGE_PATCH)
            for n in range(30)
        )
    )

    assert len((await api.get(f"{STREAMS}/app"))["metadata"]["labels"]) == 30
