"""Discovery and OpenAPI: what clients are told there is, is there, and nothing else."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.unit.imageapi.apis import Api

pytestmark = pytest.mark.anyio

AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
METHODS = {
    "get": ("GET", True),
    "list": ("GET", False),
    "create": ("POST", False),
    "update": ("PUT", True),
    "patch": ("PATCH", True),
    "delete": ("DELETE", True),
    "deletecollection": ("DELETE", False),
}


async def test_discovery_lists_verbs_as_clients_and_controllers_act_on_them(api: Api) -> None:
    listed = await api.get("/apis/image.alauda.io/v1")

    assert {item["name"]: " ".join(item["verbs"]) for item in listed["resources"]} == {
        "images": "create delete deletecollection get list patch update watch",
        "imagesignatures": "create delete",
        "imagestreamimages": "get",
        "imagestreammappings": "create",
        "imagestreams": "create delete deletecollection get list patch update watch",
        "imagestreams/layers": "get",
        "imagestreams/status": "get patch update",
        "imagestreamtags": "create delete get list patch update",
        "imagetags": "create delete get list patch update",
    }
    short = {item["name"]: item.get("shortNames") for item in listed["resources"]}
    assert (short["imagestreams"], short["imagestreamtags"]) == (["is"], ["istag"])


async def test_aggregated_discovery_says_the_same(api: Api) -> None:
    legacy = await api.get("/apis/image.alauda.io/v1")
    answer = await api.call("GET", "/apis", Accept=f"{AGGREGATED},application/json")

    assert answer.headers["content-type"] == AGGREGATED
    version = answer.json()["items"][0]["versions"][0]
    found = {}
    for item in version["resources"]:
        assert item["responseKind"]["kind"]
        found[item["resource"]] = item["verbs"]
        for part in item["subresources"]:
            found[f"{item['resource']}/{part['subresource']}"] = part["verbs"]
    assert found == {item["name"]: item["verbs"] for item in legacy["resources"]}


async def test_there_is_no_core_group(api: Api) -> None:
    assert (await api.get("/api"))["versions"] == []
    assert (await api.get("/api", Accept=AGGREGATED))["items"] == []
    assert (await api.get("/version"))["major"] == "1"


@pytest.mark.parametrize("path", ["/openapi/v2", "/openapi/v3/apis/image.alauda.io/v1"])
async def test_documents_are_not_sent_again(api: Api, path: str) -> None:
    answer = await api.call("GET", path)

    again = await api.client.get(path, headers={"If-None-Match": answer.headers["etag"]})
    other = await api.client.get(f"{path}?hash=OLD", follow_redirects=False)

    assert (again.status_code, again.content) == (304, b"")
    assert other.status_code == 200


async def test_kinds_can_be_found_in_the_documents(api: Api) -> None:
    document = await api.get("/openapi/v3/apis/image.alauda.io/v1")
    schemas = document["components"]["schemas"]

    for item in (await api.get("/apis/image.alauda.io/v1"))["resources"]:
        kind = {"group": "image.alauda.io", "version": "v1", "kind": item["kind"]}
        (found,) = (
            schema
            for schema in schemas.values()
            if kind in schema.get("x-kubernetes-group-version-kind", ())
        )
        assert found["description"]


async def test_kubectl_finds_that_the_server_validates_what_can_only_be_made(api: Api) -> None:
    document = await api.get("/openapi/v3/apis/image.alauda.io/v1")

    for item in (await api.get("/apis/image.alauda.io/v1"))["resources"]:
        if "create" not in item["verbs"]:
            continue
        (patch,) = (
            found["patch"]
            for path, found in document["paths"].items()
            if "patch" in found and path.endswith(f"/{item['name']}/{{name}}")
        )
        assert patch["x-kubernetes-group-version-kind"]["kind"] == item["kind"]
        assert {"fieldValidation", "dryRun"} <= {found["name"] for found in patch["parameters"]}
        assert ("Is not served" in patch.get("description", "")) == ("patch" not in item["verbs"])


async def test_every_advertised_verb_is_described_and_answered(api: Api) -> None:
    document = await api.get("/openapi/v3/apis/image.alauda.io/v1")
    described = {
        (operation["x-kubernetes-action"], path.removesuffix("/{name}").rpartition("/")[2])
        for path, item in document["paths"].items()
        if not path.endswith(("/status", "/layers"))
        for method, operation in item.items()
        if method != "parameters"
    }
    listed = await api.get("/apis/image.alauda.io/v1")
    names = {"create": "post", "update": "put"}

    for item in listed["resources"]:
        if "/" in item["name"]:
            continue
        for verb in item["verbs"]:
            if verb == "watch":
                continue
            assert (names.get(verb, verb), item["name"]) in described
        base = "namespaces/team/" if item["namespaced"] else ""
        for verb, (method, has_name) in METHODS.items():
            path = f"{base}{item['name']}{'/a:b' if has_name else ''}"
            answer = await api.call(method, path)
            assert (answer.status_code == 405) == (verb not in item["verbs"]), (verb, path)


async def test_documents_refer_to_nothing_that_is_missing(api: Api) -> None:
    third = await api.get("/openapi/v3/apis/image.alauda.io/v1")
    second = await api.get("/openapi/v2")

    for reference in references(third):
        assert reference.removeprefix("#/components/schemas/") in third["components"]["schemas"]
    for reference in references(second):
        assert reference.removeprefix("#/definitions/") in second["definitions"]


async def test_what_is_merged_by_a_key_says_so(api: Api) -> None:
    document = await api.get("/openapi/v3/apis/image.alauda.io/v1")

    spec = document["components"]["schemas"]["io.alauda.image.v1.ImageStreamSpec"]
    assert spec["properties"]["tags"]["x-kubernetes-list-type"] == "map"
    assert spec["properties"]["tags"]["x-kubernetes-list-map-keys"] == ["name"]
    assert spec["properties"]["tags"]["x-kubernetes-patch-merge-key"] == "name"


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)
