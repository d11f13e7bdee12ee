"""Whatever a client sends, the image API answers with JSON, and never blames itself for it."""

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hypothesis import given, strategies as st
from starlette.types import Message

from tests.unit.imageapi.apis import (
    APPLY_PATCH,
    DIGEST,
    JSON_PATCH,
    MERGE_PATCH,
    METADATA,
    STRATEGIC_PATCH,
    TABLE,
    Api,
    image,
    mapping,
    opened,
    source,
    stream,
)

odd_texts = st.sampled_from(
    [
        *(
            "",
            "0",
            "1",
            "-1",
            "x",
            "true",
            "All",
            "Exact",
            "NotOlderThan",
            "a=b",
            "metadata.name=a",
        ),
        *("9" * 25, "\x00", "é", "a,b", "a in (b", "%", "..", "eyJydiI6MX0", "Strict", "null"),
    ]
)
options = st.dictionaries(
    st.sampled_from(
        [
            *("watch", "limit", "continue", "resourceVersion", "resourceVersionMatch", "dryRun"),
            *("labelSelector", "fieldSelector", "fieldManager", "fieldValidation", "force"),
            *("sendInitialEvents", "allowWatchBookmarks", "includeObject", "pretty"),
            *("propagationPolicy", "orphanDependents", "gracePeriodSeconds"),
        ]
    ),
    odd_texts,
    max_size=3,
)
segments = st.sampled_from(
    [
        *("apis", "api", "openapi", "v1", "v2", "v3", "version", "image.alauda.io", "namespaces"),
        *("team", "images", "imagestreams", "imagestreamtags", "imagetags", "imagestreamimages"),
        *("imagestreammappings", "imagesignatures", "app", "app:v1", "app:none", "app@sha256:a"),
        *("status", "layers", DIGEST, f"{DIGEST}@one", "%2e%2e", "%2F", "%00", "%ff", "", ":", "@"),
    ]
)
RESOURCES = [
    *("images", "imagesignatures", "imagestreamimages", "imagestreammappings"),
    *("imagestreams", "imagestreamtags", "imagetags"),
]
NAMES = ["", "app", "app:v1", "app:none", "app@sha256:aa", DIGEST, f"{DIGEST}@one", "none"]
sensible = st.builds(
    lambda namespace, resource, name, part: "/".join(
        part for part in ("/apis/image.alauda.io/v1", namespace, resource, name, part) if part
    ),
    st.sampled_from(["", "namespaces/team"]),
    st.sampled_from(RESOURCES),
    st.sampled_from(NAMES),
    st.sampled_from(["", "", "status", "layers"]),
)
paths = sensible | st.lists(segments, max_size=7).map(lambda parts: "/" + "/".join(parts))

leaves = st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.floats(0, 1)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
fields = st.sampled_from(
    [
        *("metadata", "spec", "status", "tag", "tags", "image", "name", "from", "kind", "items"),
        *("labels", "annotations", "finalizers", "ownerReferences", "managedFields", "generation"),
        *("dockerImageReference", "dockerImageMetadata", "dockerImageManifest", "signatures"),
        *("conditions", "importPolicy", "resourceVersion", "uid", "preconditions", "dryRun"),
    ]
)
shaped = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(fields, inner, max_size=4),
    max_leaves=12,
)
manifests = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("manifests", "layers", "config", "digest", "mediaType", "size", "platform"),
                    *("architecture", "os", "created", "container_config", "Labels", "Env"),
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
).map(json.dumps)
mapped = st.builds(
    lambda name, of, given: {
        "metadata": {"name": name},
        "tag": "v1",
        "image": {"metadata": of, "dockerImageReference": "quay.io/acme/base:9", **given},
    },
    st.sampled_from(["app", "app", "BAD", ""]),
    st.sampled_from([{"name": DIGEST}, {"name": "sha256:" + "b" * 64}, {}]),
    st.dictionaries(
        st.sampled_from(["dockerImageManifest", "dockerImageConfig"]), manifests, min_size=1
    ),
)
good = st.sampled_from(
    [
        stream(tags=[source("a")]),
        {**stream(), "metadata": {"name": "app", "resourceVersion": "3"}},
        image(),
        mapping("app", "v1"),
        {"metadata": {"name": "app:v1"}, "tag": source("v1")},
        {"metadata": {"name": "app:v1"}, "spec": source("v1")},
        {"metadata": {"name": f"{DIGEST}@one"}, "type": "a", "content": "YQ=="},
    ]
)


@st.composite
def spoilt(draw: st.DrawFn) -> Any:
    """An object that makes sense, but for one place."""
    document = json.loads(json.dumps(draw(good)))
    node: Any = document
    parent: Any = None
    key: Any = None
    for _ in range(draw(st.integers(1, 4))):
        if isinstance(node, dict) and node:
            parent, key = node, draw(st.sampled_from(sorted(node)))
        elif isinstance(node, list) and node:
            parent, key = node, 0
        else:
            break
        node = parent[key]
    if parent is not None:
        parent[key] = draw(values | shaped)
    return document


steps = st.fixed_dictionaries(
    {"op": st.sampled_from(["add", "remove", "replace", "move", "copy", "test"])},
    optional={
        "path": st.sampled_from(["", "/metadata", "/spec/tags/0", "/spec/tags/-", "/x/y"]),
        "from": st.sampled_from(["", "/metadata", "/spec"]),
        "value": shaped,
    },
)
bodies = (
    (good | mapped | spoilt() | shaped | st.lists(steps, max_size=3)).map(
        lambda found: json.dumps(found)
    )
).map(str.encode) | st.sampled_from([b"", b"{", b"\xff", b"a: 1", b"[]", b"- &a [*a]"])

requests = st.tuples(
    st.sampled_from(["GET", "GET", "POST", "PUT", "PATCH", "PATCH", "DELETE", "HEAD", "TRACE"]),
    paths,
    options,
    bodies,
    st.sampled_from(
        [
            *("application/json", "application/yaml", "text/plain", ""),
            *(JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, APPLY_PATCH),
        ]
    ),
    st.sampled_from(["", "*/*", TABLE, METADATA, "text/html", "application/json;q=x", ";;,"]),
)


@given(st.lists(mapped, min_size=1, max_size=12))
def test_no_mapping_gets_more_than_a_status(posted: list[Any]) -> None:
    path = "/apis/image.alauda.io/v1/namespaces/team/imagestreammappings"
    bodies = [json.dumps(body).encode() for body in posted]
    asyncio.run(_ask_all([("POST", path, {}, body, "application/json", "") for body in bodies]))


@given(st.lists(requests, min_size=1, max_size=12))
def test_no_request_gets_more_than_a_status(asked: list[Any]) -> None:
    asyncio.run(_ask_all(asked))


async def _ask_all(asked: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with opened(Path(folder)) as api:
            await api.make("namespaces/team/imagestreammappings", mapping("app", "v1"))
            for request in asked:
                await _ask(api, *request)


async def _ask(
    api: Api, method: str, path: str, query: dict[str, str], body: bytes, kind: str, accept: str
) -> None:
    if query.get("watch", "false") not in ("false", "0"):
        # A watch has no end of its own.
        query = {**query, "timeoutSeconds": "x"}
    messages: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        messages.append(message)

    pairs = "&".join(f"{name}={quote(value)}" for name, value in query.items())
    headers = [(b"accept", accept.encode()), (b"content-type", kind.encode())]
    await api.server(
        {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": pairs.encode(),
            "headers": [header for header in headers if header[1]],
        },
        receive,
        send,
    )
    start, content = messages[0], b"".join(message.get("body", b"") for message in messages[1:])
    status = start["status"]
    where = (method, path, query, body, kind, accept, content)
    assert status < 500 or status == 504, where
    assert not 300 <= status < 400, where
    if method != "HEAD":
        document = json.loads(content)
        assert status < 400 or document["kind"] == "Status", where
        assert document.get("items", []) is not None, where
