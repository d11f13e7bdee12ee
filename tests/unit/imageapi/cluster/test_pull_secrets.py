"""``imagestreams/secrets``, over a cluster in memory."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from alauda_imageapi.cluster.pull_secrets import SECRETS, ClusterPullSecrets
from alauda_registry.kube.errors import Forbidden
from alauda_registry.kube.inmemory_resources import InMemoryResources
from tests.unit.imageapi.apis import Api, open_records, opened

pytestmark = pytest.mark.anyio

PATH = "namespaces/team/imagestreams/app/secrets"
DOCKER_CONFIG, OLD_CONFIG = "kubernetes.io/dockerconfigjson", "kubernetes.io/dockercfg"


@pytest.fixture
def cluster() -> InMemoryResources:
    return InMemoryResources()


@pytest.fixture
async def api(cluster: InMemoryResources, tmp_path: Path) -> AsyncIterator[Api]:
    secrets = ClusterPullSecrets(cluster)
    async with opened(tmp_path, open_store=open_records, secrets=secrets) as found:
        yield found


async def put(
    cluster: InMemoryResources,
    name: str,
    kind: str = DOCKER_CONFIG,
    *,
    namespace: str = "team",
    data: str = "e30=",
    **metadata: Any,
) -> None:
    secret = {
        "metadata": {"name": name, "namespace": namespace, **metadata},
        "type": kind,
        "data": {".dockerconfigjson": data},
    }
    await cluster.create(SECRETS, secret)


def names(listed: Any) -> list[str]:
    return [item["metadata"]["name"] for item in listed["items"]]


async def test_pull_secrets_of_the_namespace_are_there_and_no_others(
    api: Api, cluster: InMemoryResources
) -> None:
    await put(cluster, "quay")
    await put(cluster, "old", OLD_CONFIG)
    await put(cluster, "password", "Opaque")
    await put(cluster, "elsewhere", namespace="other")
    await put(cluster, "hidden", annotations={"alauda.io/image.excludeSecret": "true"})
    await put(cluster, "hidden-before", annotations={"openshift.io/image.excludeSecret": "true"})
    await put(cluster, "shown", annotations={"alauda.io/image.excludeSecret": "false"})

    # There is no such stream, and none is looked for.
    listed = await api.get(PATH)

    assert (listed["kind"], listed["apiVersion"]) == ("SecretList", "image.alauda.io/v1")
    assert int(listed["metadata"]["resourceVersion"]) > 0
    assert names(listed) == ["old", "quay", "shown"]
    assert {(item["kind"], item["apiVersion"]) for item in listed["items"]} == {("Secret", "v1")}
    assert listed["items"][1]["data"] == {".dockerconfigjson": "e30="}


async def test_a_namespace_without_any_has_an_empty_list(api: Api) -> None:
    assert (await api.get(PATH))["items"] == []


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("labelSelector=site=a", ["a"]),
        ("fieldSelector=metadata.name=b", ["b"]),
        (f"fieldSelector=type={OLD_CONFIG}", ["old"]),
        ("limit=1", ["old", "a", "b"]),
        ("resourceVersion=0", ["old", "a", "b"]),
    ],
)
async def test_parameters_of_a_list_are_understood(
    api: Api, cluster: InMemoryResources, query: str, expected: list[str]
) -> None:
    for name in "ab":
        await put(cluster, name, labels={"site": name})
    await put(cluster, "old", OLD_CONFIG)

    assert names(await api.get(f"{PATH}?{query}")) == expected


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("fieldSelector=spec.x=y", 400),
        ("labelSelector=%21%21", 400),
        ("continue=abc", 400),
        ("resourceVersion=1000000", 504),
        ("resourceVersionMatch=Exact", 422),
    ],
)
async def test_parameters_that_make_no_sense_are_refused(api: Api, query: str, status: int) -> None:
    assert (await api.call("GET", f"{PATH}?{query}")).status_code == status


async def test_both_types_are_read_as_they_were_at_once(
    api: Api, cluster: InMemoryResources
) -> None:
    for number in range(120):
        await put(cluster, f"s{number:03}", OLD_CONFIG)
    asking = asyncio.ensure_future(api.get(PATH))
    while ("list", "secrets") not in cluster.requests:  # noqa: ASYNC110 -- no event tells
        await asyncio.sleep(0)
    await put(cluster, "late")

    listed = await asking

    assert len(listed["items"]) == 120
    exact = f"{PATH}?resourceVersion={listed['metadata']['resourceVersion']}"
    assert len((await api.get(f"{exact}&resourceVersionMatch=Exact"))["items"]) == 120
    assert len((await api.get(exact))["items"]) == 121


async def test_a_revision_that_is_forgotten_is_said_to_be_expired(
    api: Api, cluster: InMemoryResources
) -> None:
    await put(cluster, "quay")
    first = (await api.get(PATH))["metadata"]["resourceVersion"]
    await put(cluster, "later")
    cluster.compact()

    answer = await api.call("GET", f"{PATH}?resourceVersion={first}&resourceVersionMatch=Exact")

    assert (answer.status_code, answer.json()["reason"]) == (410, "Expired")


async def test_more_than_fits_is_refused_unless_less_is_chosen(
    api: Api, cluster: InMemoryResources
) -> None:
    for number in range(20):
        await put(cluster, f"s{number}", data="A" * 1_000_000)

    answer = await api.call("GET", PATH)
    chosen = await api.get(f"{PATH}?fieldSelector=metadata.name=s7")

    assert answer.status_code == 413
    assert "choose some of them by labelSelector or fieldSelector" in answer.json()["message"]
    assert names(chosen) == ["s7"]


async def test_what_the_server_may_not_read_is_its_own_trouble(
    api: Api, cluster: InMemoryResources, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.trouble = Forbidden("the API server answers 403 to listing secrets: no")

    answer = await api.call("GET", PATH)

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "pull secrets of namespace team cannot be read" in answer.json()["message"]
    assert "answers 403 to listing secrets" in caplog.text


async def test_it_can_be_read_and_nothing_else(api: Api) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        kind = "application/merge-patch+json" if method == "PATCH" else ""
        assert (await api.call(method, PATH, {}, kind=kind)).status_code == 405


async def test_documents_have_it(api: Api) -> None:
    listed = {
        item["name"]: item for item in (await api.get("/apis/image.alauda.io/v1"))["resources"]
    }
    document = await api.get("/openapi/v3/apis/image.alauda.io/v1")

    part = listed["imagestreams/secrets"]
    assert (part["kind"], part["verbs"], part["namespaced"]) == ("SecretList", ["get"], True)
    where = "/apis/image.alauda.io/v1/namespaces/{namespace}/imagestreams/{name}/secrets"
    operation = document["paths"][where]["get"]
    assert operation["x-kubernetes-group-version-kind"]["kind"] == "SecretList"
    assert {"labelSelector", "fieldSelector"} <= {one["name"] for one in operation["parameters"]}
    answer = operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"]
    assert document["components"]["schemas"][answer.rpartition("/")[2]]["properties"]["items"]


async def test_without_secrets_to_read_it_is_nowhere(tmp_path: Path) -> None:
    async with opened(tmp_path) as api:
        resources = (await api.get("/apis/image.alauda.io/v1"))["resources"]
        answer = await api.call("GET", PATH)

    assert "imagestreams/secrets" not in {item["name"] for item in resources}
    assert answer.status_code == 404
