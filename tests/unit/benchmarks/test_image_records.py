"""Objects that are written past kube-apiserver look as if it had made them."""

import base64
import json
from typing import Any

import httpx

from alauda_registry.kube.resources import GroupVersionResource
from conformance.benchmarks.image_records import Kept

IMAGES = GroupVersionResource("example.com", "v1", "images")
MADE: dict[str, Any] = {
    "apiVersion": "example.com/v1",
    "kind": "Image",
    "metadata": {
        "name": "first",
        "uid": "1",
        "generation": 1,
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "managedFields": [{"manager": "bench", "fieldsV1": {"f:content": {}}}],
    },
    "content": "a",
}


def test_others_are_as_the_first_but_for_what_is_their_own() -> None:
    kept = {"/registry/example.com/images/first": MADE}

    def serve(request: httpx.Request) -> httpx.Response:
        asked = json.loads(request.content)
        key = base64.b64decode(asked["key"]).decode()
        if request.url.path == "/v3/kv/put":
            kept[key] = json.loads(base64.b64decode(asked["value"]))
            return httpx.Response(200, json={})
        value = base64.b64encode(json.dumps(kept[key]).encode()).decode()
        return httpx.Response(200, json={"kvs": [{"value": value}], "count": "1"})

    with httpx.Client(transport=httpx.MockTransport(serve), base_url="http://etcd") as etcd:
        found = Kept.read(etcd, IMAGES, "first")
        found.write("second", {"apiVersion": "x/v1", "content": "b", "metadata": {"name": "x"}})
        found.write("third", {"content": "c"})

    second: dict[str, Any] = kept["/registry/example.com/images/second"]
    third: dict[str, Any] = kept["/registry/example.com/images/third"]
    uids = {made["metadata"].pop("uid") for made in (second, third)}
    assert len(uids - {"1"}) == 2
    metadata = {name: value for name, value in MADE["metadata"].items() if name != "uid"}
    assert second == {**MADE, "content": "b", "metadata": {**metadata, "name": "second"}}
    assert third == {**MADE, "content": "c", "metadata": {**metadata, "name": "third"}}
