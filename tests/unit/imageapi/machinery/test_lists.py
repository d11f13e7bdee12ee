"""Lists: pages, revisions, selectors and forms."""

import base64
import json
from typing import Any
from urllib.parse import quote

import pytest

from alauda_imageapi.kinds.tag_views import TagView
from alauda_imageapi.machinery.options import Token
from tests.unit.imageapi.apis import (
    MERGE_PATCH,
    METADATA,
    METADATA_LIST,
    TABLE,
    Api,
    image,
    mapping,
    source,
    stream,
)

pytestmark = pytest.mark.anyio

STREAMS = "namespaces/team/imagestreams"


def names(listed: Any) -> list[str]:
    return [item["metadata"]["name"] for item in listed["items"]]


async def fill(api: Api, count: int) -> None:
    for number in range(count):
        sent = stream(f"s{number}")
        sent["metadata"]["labels"] = {"n": str(number), "even": str(number % 2 == 0)}
        await api.make(STREAMS, sent)


async def pages(api: Api, path: str, limit: int) -> list[Any]:
    token, found = "", []
    while True:
        more = f"&continue={token}" if token else ""
        page = await api.get(f"{path}{'&' if '?' in path else '?'}limit={limit}{more}")
        found.append(page)
        token = page["metadata"].get("continue", "")
        if not token:
            return found


async def forget(api: Api, path: str) -> None:
    """Do what it takes until a state that pages were of is not known any more."""
    for number in range(150):
        patch = {"metadata": {"labels": {"n": str(number)}}}
        await api.patch(path, patch, MERGE_PATCH)
    await api.get(path.rpartition("/")[0])
    api.forget()


def forge(token: str, change: dict[str, Any]) -> str:
    """Return a token with something else in it."""
    content = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    return base64.urlsafe_b64encode(json.dumps(content | change).encode()).decode().rstrip("=")


async def test_an_empty_list_is_a_list(api: Api) -> None:
    assert await api.get("imagestreams") == {
        "kind": "ImageStreamList",
        "apiVersion": "image.alauda.io/v1",
        "metadata": {"resourceVersion": "1"},
        "items": [],
    }


async def test_pages_are_of_one_state(api: Api) -> None:
    await fill(api, 5)
    first = await api.get(f"{STREAMS}?limit=2")
    await api.call("DELETE", f"{STREAMS}/s3")
    await api.make(STREAMS, stream("s11"))
    await api.patch(f"{STREAMS}/s4", {"metadata": {"labels": {"n": "new"}}}, MERGE_PATCH)

    second = await api.get(f"{STREAMS}?limit=2&continue={first['metadata']['continue']}")
    third = await api.get(f"{STREAMS}?limit=2&continue={second['metadata']['continue']}")

    assert [*names(first), *names(second), *names(third)] == ["s0", "s1", "s2", "s3", "s4"]
    assert third["items"][0]["metadata"]["labels"]["n"] == "4"
    assert first["metadata"]["remainingItemCount"] == 3
    assert {page["metadata"]["resourceVersion"] for page in (first, second, third)} == {"6"}


async def test_pages_go_on_behind_what_a_selector_leaves_out(api: Api) -> None:
    await fill(api, 11)

    for limit in (1, 2, 3, 50):
        found = await pages(api, f"{STREAMS}?labelSelector=even%3DTrue", limit)
        assert sorted(name for page in found for name in names(page)) == [
            *("s0", "s10", "s2", "s4", "s6", "s8")
        ]
        assert all("remainingItemCount" not in page["metadata"] for page in found)


async def test_a_page_may_be_larger_than_the_one_before(api: Api) -> None:
    await fill(api, 9)
    selector = "labelSelector=n!%3D1"
    first = await api.get(f"{STREAMS}?limit=2&{selector}")
    token = first["metadata"]["continue"]

    smaller = await api.get(f"{STREAMS}?limit=1&{selector}&continue={token}")
    rest = await api.get(f"{STREAMS}?{selector}&continue={token}")

    assert (names(first), names(smaller)) == (["s0", "s2"], ["s3"])
    assert names(rest) == ["s3", "s4", "s5", "s6", "s7", "s8"]


@pytest.mark.parametrize(
    "change",
    [{"page": "nonsense"}, {"page": 1}, {"skip": -1}, {"skip": True}, {"skip": "1"}, {"rv": -1}],
    ids=repr,
)
async def test_a_page_that_was_never_given_is_refused(api: Api, change: dict[str, Any]) -> None:
    await fill(api, 3)
    first = await api.get(f"{STREAMS}?limit=1")
    forged = forge(first["metadata"]["continue"], change)

    answer = await api.call("GET", f"{STREAMS}?limit=1&continue={forged}")

    assert (answer.status_code, answer.json()["reason"]) == (400, "BadRequest")


@pytest.mark.parametrize("path", ["imagestreamtags", "imagetags"])
async def test_tags_are_paged_within_their_streams(api: Api, path: str) -> None:
    for name in ("a", "a-b"):
        for tag in ("v1", "v10", "v2"):
            await api.make("namespaces/team/imagestreammappings", mapping(name, tag))

    found = await pages(api, f"namespaces/team/{path}", 2)

    assert [name for page in found for name in names(page)] == [
        *("a:v1", "a:v10", "a:v2"),
        *("a-b:v1", "a-b:v10", "a-b:v2"),
    ]
    assert [len(page["items"]) for page in found] == [2, 2, 2]


async def fill_with_tags(api: Api) -> int:
    """Make streams with none to four tags each, and return how many tags that are."""
    made = 0
    for number, namespace in enumerate(["a", "a-b", "a", "a0b", "a", "a-b", "z"] * 2):
        name = f"s{number}"
        await api.make(f"namespaces/{namespace}/imagestreams", stream(name))
        for tag in range(number % 5):
            path = f"namespaces/{namespace}/imagestreammappings"
            await api.make(path, mapping(name, f"v{tag}"))
            made += 1
    return made


def places(found: list[Any]) -> list[tuple[str, str]]:
    return [
        (item["metadata"]["namespace"], item["metadata"]["name"])
        for page in found
        for item in page["items"]
    ]


def find(api: Api, path: str) -> TagView:
    (view,) = (one for one in api.kinds.resources if one.name == path)
    assert isinstance(view, TagView)
    return view


@pytest.mark.parametrize("path", ["imagestreamtags", "imagetags"])
@pytest.mark.parametrize("limit", [1, 3, 7, 1000])
async def test_tags_are_paged_over_one_state_while_streams_change(
    api: Api, path: str, limit: int
) -> None:
    made = await fill_with_tags(api)
    whole = await api.get(path)
    found: list[Any] = []
    token = ""
    while not found or token:
        page = await api.get(f"{path}?limit={limit}&continue={token}")
        found.append(page)
        token = page["metadata"].get("continue", "")
        number = len(found)
        await api.make("namespaces/a/imagestreammappings", mapping("s9", f"new-{number}"))
        await api.make("namespaces/a/imagestreammappings", mapping(f"new{number}", "v1"))
        if number < 3:
            await api.call("DELETE", f"namespaces/a-b/imagestreams/s{1 + number * 7}")

    assert sorted(places(found)) == sorted(places([whole]))
    assert len(places(found)) == made
    assert all(len(page["items"]) == limit for page in found[:-1])
    revision = whole["metadata"]["resourceVersion"]
    assert {page["metadata"]["resourceVersion"] for page in found} == {revision}


async def test_a_page_of_tags_reads_the_streams_that_it_shows(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        for tag in ("v1", "v2", "v3"):
            await api.make("namespaces/team/imagestreammappings", mapping(f"s{number}", tag))
    view, read = find(api, "imagestreamtags"), []
    tags_of = view.tags_of

    def counted(shown: Any) -> Any:
        read.append(shown["metadata"]["name"])
        return tags_of(shown)

    monkeypatch.setattr(view, "tags_of", counted)
    counts: list[int] = []
    token = ""
    while not counts or token:
        page = await api.get(f"imagestreamtags?limit=4&continue={token}")
        token = page["metadata"].get("continue", "")
        counts.append(len(read))
        read.clear()
        assert "remainingItemCount" not in page["metadata"]
    await api.get("imagestreamtags?fieldSelector=metadata.name%3Ds7:v2")

    assert len(counts) == 15
    # The two that have four tags, and where the page before has ended within one, the two it had.
    assert max(counts) <= 4
    assert read == ["s7"]


@pytest.mark.parametrize(
    "change",
    [
        *({"page": page} for page in ("nonsense", "1", ":", "-1:", "1:nonsense", "9999999:", 1)),
        *({"skip": skip} for skip in (-1, True, "1")),
        {"rv": -1},
    ],
    ids=repr,
)
async def test_a_page_of_tags_that_was_never_given_is_refused(
    api: Api, change: dict[str, Any]
) -> None:
    await fill_with_tags(api)
    first = await api.get("imagestreamtags?limit=3")
    forged = forge(first["metadata"]["continue"], change)

    answer = await api.call("GET", f"imagestreamtags?limit=3&continue={forged}")

    assert (answer.status_code, answer.json()["reason"]) == (400, "BadRequest")


@pytest.mark.parametrize("path", ["imagestreamtags", "imagetags"])
@pytest.mark.parametrize("seen", [1, 4])
async def test_the_way_on_from_forgotten_tags_leaves_nothing_out(
    api: Api, path: str, seen: int
) -> None:
    await fill_with_tags(api)
    whole = await api.get(path)
    found, token = [], ""
    for _ in range(seen):
        found.append(await api.get(f"{path}?limit=3&continue={token}"))
        token = found[-1]["metadata"]["continue"]
    await forget(api, "namespaces/a/imagestreams/s0")

    gone = await api.call("GET", f"{path}?limit=3&continue={token}")
    token = gone.json()["metadata"]["continue"]
    while token:
        found.append(await api.get(f"{path}?limit=3&continue={token}"))
        token = found[-1]["metadata"].get("continue", "")

    assert (gone.status_code, gone.json()["reason"]) == (410, "Expired")
    assert sorted(places(found)) == sorted(places([whole]))


async def test_a_page_of_a_state_that_is_forgotten_has_a_way_on(api: Api) -> None:
    await fill(api, 4)
    first = await api.get(f"{STREAMS}?limit=2")
    await forget(api, f"{STREAMS}/s0")

    token = first["metadata"]["continue"]
    gone = await api.call("GET", f"{STREAMS}?limit=2&continue={token}")
    rest = await api.get(f"{STREAMS}?continue={gone.json()['metadata']['continue']}")

    assert (gone.status_code, gone.json()["reason"]) == (410, "Expired")
    assert names(rest) == ["s2", "s3"]


@pytest.mark.parametrize("selector", ["", "&labelSelector=!none"], ids=["all", "selected"])
@pytest.mark.parametrize("seen", [1, 2, 3])
async def test_the_way_on_from_a_forgotten_state_leaves_nothing_out(
    api: Api, seen: int, selector: str
) -> None:
    # In the order of names another than in that of records and of namespaces in etcd.
    every = {("a", "a_b"), ("a", "a0b"), ("a-b", "x"), ("b", "z")}
    for namespace, name in every:
        await api.make(f"namespaces/{namespace}/imagestreams", stream(name))
    found, token = [], ""
    for _ in range(seen):
        page = await api.get(f"imagestreams?limit=1&continue={token}{selector}")
        found += page["items"]
        token = page["metadata"]["continue"]
    await forget(api, "namespaces/b/imagestreams/z")

    while token:
        path = f"imagestreams?limit=1&continue={token}{selector}"
        answer = await api.call("GET", path)
        token = answer.json()["metadata"].get("continue", "")
        found += answer.json().get("items", ())

    where = [(item["metadata"]["namespace"], item["metadata"]["name"]) for item in found]
    assert sorted(where) == sorted(every)


async def test_the_way_on_leaves_out_no_image_with_a_name_of_its_own(api: Api) -> None:
    every = [f"image-{number}" for number in range(8)]
    for name in every:
        await api.make("images", image() | {"metadata": {"name": name}})
    first = await api.get("images?limit=4")
    await forget(api, f"images/{names(first)[0]}")

    token = first["metadata"]["continue"]
    gone = await api.call("GET", f"images?continue={token}")
    rest = await api.get(f"images?continue={gone.json()['metadata']['continue']}")

    assert gone.status_code == 410
    assert sorted([*names(first), *names(rest)]) == every


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("n=1", ["s1"]),
        ("n==1", ["s1"]),
        ("n!=1", ["s0", "s2", "bare"]),
        ("n in (0, 2)", ["s0", "s2"]),
        ("n notin (0,2)", ["s1", "bare"]),
        ("n", ["s0", "s1", "s2"]),
        ("!n", ["bare"]),
        ("even=True,n!=0", ["s2"]),
        ("n=", []),
    ],
)
async def test_labels_select(api: Api, selector: str, expected: list[str]) -> None:
    await fill(api, 3)
    await api.make(STREAMS, stream("bare"))

    assert sorted(names(await api.get(f"{STREAMS}?labelSelector={quote(selector)}"))) == sorted(
        expected
    )


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("metadata.name=s1", ["s1"]),
        ("metadata.name!=s1", ["s0"]),
        ("metadata.name=s1,metadata.namespace=other", []),
        ("spec.dockerImageRepository=", ["s0", "s1"]),
        ("status.dockerImageRepository=localhost:5000/team/s0", ["s0"]),
    ],
)
async def test_fields_select(api: Api, selector: str, expected: list[str]) -> None:
    await fill(api, 2)

    assert names(await api.get(f"imagestreams?fieldSelector={quote(selector)}")) == expected


async def test_a_tag_is_selected_by_its_whole_name(api: Api) -> None:
    await api.make("namespaces/team/imagestreammappings", mapping("app", "v1"))
    await api.make("namespaces/team/imagestreammappings", mapping("app", "v2"))

    found = await api.get("imagestreamtags?fieldSelector=metadata.name%3Dapp:v2")

    assert names(found) == ["app:v2"]


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("labelSelector=a%20b", 400),
        ("labelSelector=a%3D%28", 400),
        ("labelSelector=a,", 400),
        ("labelSelector=" + "a," * 9000, 400),
        ("fieldSelector=spec.tags%3Dx", 400),
        ("fieldSelector=metadata.name", 400),
        ("fieldSelector=metadata.name%3D%5Cx", 400),
        ("limit=many", 400),
        ("continue=x", 400),
        ("continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEifQ", 400),
        ("resourceVersion=-1", 400),
        ("resourceVersion=" + "9" * 30, 400),
        ("resourceVersion=1000000", 504),
        ("resourceVersion=1000000&resourceVersionMatch=Exact", 504),
        ("resourceVersionMatch=Exact", 422),
        ("resourceVersionMatch=Exact&resourceVersion=0", 422),
        ("resourceVersionMatch=Sometimes&resourceVersion=1", 422),
        ("sendInitialEvents=true", 422),
        ("sendInitialEvents=perhaps", 422),
        ("watch=true&sendInitialEvents=true", 422),
        ("watch=true&sendInitialEvents=true&resourceVersionMatch=Exact", 422),
        ("watch=true&resourceVersionMatch=NotOlderThan", 422),
        ("watch=true&resourceVersion=1000000", 504),
        ("watch=true&timeoutSeconds=soon", 400),
    ],
)
async def test_what_makes_no_sense_is_refused(api: Api, query: str, status: int) -> None:
    answer = await api.call("GET", f"imagestreams?{query}")

    assert answer.status_code == status, answer.text


async def test_a_selector_may_have_a_hundred_conditions_and_no_more(api: Api) -> None:
    await fill(api, 1)
    path = f"{STREAMS}?labelSelector="
    values = ",".join(f"v{number}" for number in range(1000))

    assert names(await api.get(path + ",".join(["!a"] * 100))) == ["s0"]
    assert names(await api.get(f"{path}n%20notin%20({values})")) == ["s0"]
    for query in (
        "labelSelector=" + ",".join(["!a"] * 101),
        "watch=true&labelSelector=" + ",".join(["!a"] * 101),
        "fieldSelector=" + ",".join(["metadata.name!=a"] * 101),
    ):
        answer = await api.call("GET", f"{STREAMS}?{query}")
        assert answer.status_code == 400
        assert "more than 100 requirements" in answer.json()["message"]


async def test_a_token_of_another_list_is_refused(api: Api) -> None:
    await api.make("namespaces/team/imagestreammappings", mapping("app", "v1"))
    await api.make("namespaces/team/imagestreammappings", mapping("app", "v2"))
    token = (await api.get("imagestreamtags?limit=1"))["metadata"]["continue"]

    assert (await api.call("GET", f"imagestreams?continue={token}")).status_code == 400
    future = Token(10**12, ("a", "b")).encode()
    assert (await api.call("GET", f"imagestreams?continue={future}")).status_code == 504
    both = f"imagestreamtags?continue={token}&resourceVersion=2"
    assert (await api.call("GET", both)).status_code == 400


@pytest.mark.parametrize("path", ["imagestreams", "namespaces/team/imagestreams/app"])
async def test_a_revision_from_the_future_says_how_to_recover(api: Api, path: str) -> None:
    answer = await api.call("GET", f"{path}?resourceVersion=1000000")

    assert answer.status_code == 504
    assert answer.json()["message"] == "Too large resource version: 1000000, current: 1"
    assert answer.json()["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"
    assert answer.headers["retry-after"] == "1"


async def test_an_exact_revision_is_shown_as_it_was(api: Api) -> None:
    await fill(api, 2)
    query = "resourceVersion=2&resourceVersionMatch=Exact"

    assert names(await api.get(f"imagestreams?{query}")) == ["s0"]
    assert names(await api.get("imagestreams?resourceVersion=2")) == ["s0", "s1"]
    assert names(await api.get("imagestreams?resourceVersion=2&limit=5")) == ["s0"]


async def test_tables_have_columns_and_metadata(api: Api) -> None:
    await api.make(STREAMS, stream("app", tags=[source("a")]))

    table = await api.get("imagestreams", Accept=TABLE)
    one = await api.get(f"{STREAMS}/app?includeObject=None", Accept=TABLE)
    whole = await api.get("imagestreams?includeObject=Object", Accept=TABLE)

    assert [column["name"] for column in table["columnDefinitions"]] == [
        *("Name", "Image Repository", "Tags", "Updated"),
    ]
    assert table["columnDefinitions"][0]["format"] == "name"
    assert table["rows"][0]["cells"] == ["app", "localhost:5000/team/app", "", ""]
    assert table["rows"][0]["object"]["kind"] == "PartialObjectMetadata"
    assert "spec" not in table["rows"][0]["object"]
    assert "object" not in one["rows"][0]
    assert whole["rows"][0]["object"]["spec"]["tags"][0]["name"] == "a"


async def test_metadata_alone_is_shown(api: Api) -> None:
    made = await api.make(STREAMS, stream())

    listed = await api.get("imagestreams", Accept=METADATA_LIST)
    one = await api.get(f"{STREAMS}/app", Accept=METADATA)

    assert one == {
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": made["metadata"],
    }
    assert (listed["kind"], listed["items"]) == ("PartialObjectMetadataList", [one])


async def test_the_first_form_that_can_be_had_is_taken(api: Api) -> None:
    old = TABLE.replace("v=v1", "v=v1beta1")

    assert (await api.get("imagestreams", Accept=f"{old},{TABLE}"))["kind"] == "Table"
    accept = f"{old},application/json"
    assert (await api.get("imagestreams", Accept=accept))["kind"] == "ImageStreamList"
    assert (await api.call("GET", "imagestreams", Accept=old)).status_code == 406


async def test_the_status_of_an_object_is_shown_as_the_object_is(api: Api) -> None:
    await api.make(STREAMS, stream())

    for accept in (TABLE, METADATA, "application/json"):
        whole = await api.get(f"{STREAMS}/app", Accept=accept)
        assert await api.get(f"{STREAMS}/app/status", Accept=accept) == whole
    layers = await api.get(f"{STREAMS}/app/layers", Accept=f"{TABLE},application/json")
    assert layers["kind"] == "ImageStreamLayers"
