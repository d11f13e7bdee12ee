"""Watches through a real kube-apiserver, as client-go's reflectors rely on them."""

import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from tests.parts import image_api
from tests.parts.control_plane import ControlPlane
from tests.parts.image_api import API, ImageApi

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
MERGE = {"Content-Type": "application/merge-patch+json"}
INITIAL = {
    "sendInitialEvents": "true",
    "resourceVersionMatch": "NotOlderThan",
    "allowWatchBookmarks": "true",
}
END = {"k8s.io/initial-events-end": "true"}
FUTURE = "999999999999"

Object = dict[str, Any]


@pytest.fixture(scope="module")
def api(
    control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ImageApi]:
    directory = tmp_path_factory.mktemp("watches")
    with image_api.running(control_plane, directory, replicas=2) as found:
        yield found
    for log in directory.glob("*.log"):
        assert "Traceback" not in log.read_text()


class Streams:
    """The streams of a namespace, through kube-apiserver."""

    def __init__(self, api: ImageApi, namespace: str) -> None:
        self.client = api.plane.api
        self.path = f"{API}/namespaces/{namespace}/imagestreams"

    def make(self, name: str, **labels: str) -> str:
        """Make one, and return its revision."""
        body = {"metadata": {"name": name, "labels": labels}}
        answer = self.client.post(self.path, json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["metadata"]["resourceVersion"])

    def label(self, name: str, **labels: str | None) -> str:
        """Change labels, and return the revision."""
        body = {"metadata": {"labels": labels}}
        answer = self.client.patch(f"{self.path}/{name}", json=body, headers=MERGE)
        assert answer.is_success, answer.text
        return str(answer.json()["metadata"]["resourceVersion"])

    def delete(self, name: str) -> None:
        self.client.delete(f"{self.path}/{name}").raise_for_status()

    def revision(self) -> str:
        found = self.client.get(self.path).raise_for_status().json()
        return str(found["metadata"]["resourceVersion"])

    def ask(self, **query: str) -> httpx.Response:
        return self.client.get(f"{self.path}?{urlencode(query)}")

    @contextmanager
    def watch(self, accept: str = "", **query: str) -> Iterator[Iterator[Object]]:
        url = f"{self.path}?{urlencode({'watch': 'true', 'timeoutSeconds': '60'} | query)}"
        headers = {"Accept": accept or "application/json"}
        with self.client.stream("GET", url, headers=headers) as answer:
            if answer.status_code != 200:
                raise AssertionError(answer.read())
            yield (json.loads(line) for line in answer.iter_lines() if line)


@pytest.fixture
def streams(api: ImageApi, namespace: str) -> Streams:
    return Streams(api, namespace)


def seen(events: Iterator[Object], count: int) -> list[tuple[str, str]]:
    found = [next(events) for _ in range(count)]
    return [(event["type"], event["object"]["metadata"].get("name", "")) for event in found]


def test_a_list_is_streamed_with_a_selector_and_goes_on(streams: Streams) -> None:
    streams.make("a", tier="front")
    streams.make("b", tier="back")
    at = streams.make("c", tier="front")

    with streams.watch(labelSelector="tier=front", **INITIAL) as events:
        initial = seen(events, 2)
        bookmark = next(events)
        streams.label("b", tier="front")
        streams.label("a", tier="back")
        streams.delete("c")
        later = seen(events, 3)

    assert sorted(initial) == [("ADDED", "a"), ("ADDED", "c")]
    assert bookmark["type"] == "BOOKMARK"
    assert bookmark["object"]["metadata"]["annotations"] == END
    assert int(bookmark["object"]["metadata"]["resourceVersion"]) >= int(at)
    assert later == [("ADDED", "b"), ("DELETED", "a"), ("DELETED", "c")]


def test_one_object_is_streamed_by_its_name(streams: Streams) -> None:
    streams.make("a")
    streams.make("b")

    with streams.watch(fieldSelector="metadata.name=b", **INITIAL) as events:
        assert seen(events, 2) == [("ADDED", "b"), ("BOOKMARK", "")]
        streams.label("a", x="y")
        streams.label("b", x="y")
        assert seen(events, 1) == [("MODIFIED", "b")]


def test_metadata_alone_is_streamed_as_the_garbage_collector_wants_it(streams: Streams) -> None:
    streams.make("a", tier="front")

    with streams.watch(f"{METADATA},application/json", **INITIAL) as events:
        added, bookmark = next(events)["object"], next(events)["object"]

    assert {added["kind"], bookmark["kind"]} == {"PartialObjectMetadata"}
    assert {added["apiVersion"], bookmark["apiVersion"]} == {"meta.k8s.io/v1"}
    assert added["metadata"]["labels"] == {"tier": "front"}
    assert {"spec", "status"}.isdisjoint(added)
    assert bookmark["metadata"]["annotations"] == END


def test_a_streamed_list_is_what_a_list_is(streams: Streams) -> None:
    for number in range(25):
        streams.make(f"s{number:02}")
    listed = streams.ask().json()

    with streams.watch(**INITIAL) as events:
        streamed = [next(events)["object"] for _ in range(25)]
        assert seen(events, 1) == [("BOOKMARK", "")]

    by_name = {item["metadata"]["name"]: item for item in streamed}
    for item in listed["items"]:
        found = by_name.pop(item["metadata"]["name"])
        assert {**found, "kind": "", "apiVersion": ""} == {**item, "kind": "", "apiVersion": ""}
    assert by_name == {}


@pytest.mark.parametrize(
    "query",
    [
        {"watch": "true", "sendInitialEvents": "true"},
        {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"},
        {"watch": "true", **INITIAL, "resourceVersionMatch": "Exact"},
    ],
    ids=["without how old", "of a list", "exactly"],
)
def test_a_stream_that_cannot_be_is_refused(streams: Streams, query: dict[str, str]) -> None:
    answer = streams.ask(**query)

    assert (answer.status_code, answer.json()["reason"]) == (422, "Invalid")


def test_every_change_is_seen_once_when_servers_restart_meanwhile(
    api: ImageApi, streams: Streams
) -> None:
    revision = streams.revision()
    expected: list[tuple[str, str]] = []
    found: list[tuple[str, str]] = []

    def follow() -> None:
        """Go on where we were, as a reflector does."""
        nonlocal revision
        with streams.watch(resourceVersion=revision, allowWatchBookmarks="true") as events:
            while len(found) < len(expected):
                event = next(events)
                metadata = event["object"]["metadata"]
                assert int(metadata["resourceVersion"]) > int(revision)
                revision = metadata["resourceVersion"]
                if event["type"] != "BOOKMARK":
                    found.append((event["type"], metadata["name"]))

    for number, replica in enumerate([*api.replicas, None]):
        streams.make(f"s{number}")
        streams.label(f"s{number}", a="b")
        expected += [("ADDED", f"s{number}"), ("MODIFIED", f"s{number}")]
        follow()
        streams.delete(f"s{number}")
        expected.append(("DELETED", f"s{number}"))
        if replica is not None:
            # What happened before them is asked of the cluster.
            api.start()
            api.stop(replica)

    follow()
    assert found == expected


def test_a_watch_from_before_what_is_known_says_so(api: ImageApi, streams: Streams) -> None:
    old = now = streams.make("a")
    for number in range(3):
        now = streams.label("a", n=str(number))
    compact(api.plane, int(now))
    # New servers know nothing of their own.
    for replica in [*api.replicas]:
        api.start()
        api.stop(replica)

    query = f"watch=true&resourceVersion={old}&timeoutSeconds=25"
    answer = streams.client.get(f"{streams.path}?{query}")

    if answer.status_code == 200:
        event = json.loads(answer.text.splitlines()[0])
        assert event["type"] == "ERROR"
        status = event["object"]
    else:
        status = answer.json()
    assert (status["kind"], status["code"], status["reason"]) == ("Status", 410, "Expired")
    exact = streams.ask(resourceVersion=old, resourceVersionMatch="Exact")
    assert (exact.status_code, exact.json()["reason"]) == (410, "Expired")
    # And what a reflector does then works.
    with streams.watch(**INITIAL) as events:
        assert seen(events, 2) == [("ADDED", "a"), ("BOOKMARK", "")]


def compact(plane: ControlPlane, revision: int) -> None:
    """Let etcd forget what happened before a revision, as kube-apiserver has it do."""
    command = Path(f"/proc/{plane.apiserver}/cmdline").read_text().split("\0")
    (etcd,) = (word.partition("=")[2] for word in command if word.startswith("--etcd-servers="))
    body = {"revision": str(revision), "physical": True}
    httpx.post(f"{etcd}/v3/kv/compaction", json=body).raise_for_status()


@pytest.mark.parametrize(
    "query",
    [
        {"resourceVersion": FUTURE},
        {"resourceVersion": FUTURE, "resourceVersionMatch": "NotOlderThan"},
        {"resourceVersion": FUTURE, "resourceVersionMatch": "Exact"},
        {"resourceVersion": FUTURE, "watch": "true"},
        {"resourceVersion": FUTURE, "watch": "true", **INITIAL},
    ],
    ids=["list", "not older", "exact", "watch", "streamed list"],
)
def test_a_revision_of_the_future_says_how_to_recover(
    streams: Streams, query: dict[str, str]
) -> None:
    answer = streams.ask(**query)

    status = answer.json()
    assert (answer.status_code, status["reason"]) == (504, "Timeout")
    assert status["message"].startswith(f"Too large resource version: {FUTURE}, current: ")
    (cause,) = status["details"]["causes"]
    assert cause["reason"] == "ResourceVersionTooLarge"
    assert status["details"]["retryAfterSeconds"] == 1


def test_one_object_at_a_revision_of_the_future_says_so_too(streams: Streams) -> None:
    made = streams.make("app")
    url = f"{streams.path}/app"

    known = streams.client.get(url, params={"resourceVersion": made})
    ahead = streams.client.get(url, params={"resourceVersion": FUTURE})

    assert known.json()["metadata"]["resourceVersion"] == made
    assert (ahead.status_code, ahead.json()["reason"]) == (504, "Timeout")
    assert ahead.json()["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"


def test_mappings_at_once_are_all_kept_whichever_server_takes_them(
    api: ImageApi, streams: Streams
) -> None:
    path = streams.path.replace("imagestreams", "imagestreammappings")
    run = uuid.uuid4().hex

    def post(number: int) -> int:
        digest = f"sha256:{run}{number:032x}"
        image = {"metadata": {"name": digest}, "dockerImageReference": f"q.io/a/b@{digest}"}
        body = {"metadata": {"name": "app"}, "image": image, "tag": f"v{number % 50}"}
        return streams.client.post(path, json=body).status_code

    with ThreadPoolExecutor(100) as pool:
        codes = list(pool.map(post, range(100)))

    assert set(codes) == {201}
    found = streams.client.get(f"{streams.path}/app").json()
    history = {
        named["tag"]: {event["image"] for event in named["items"]}
        for named in found["status"]["tags"]
    }
    assert history == {
        f"v{tag}": {f"sha256:{run}{number:032x}" for number in (tag, tag + 50)} for tag in range(50)
    }
    assert len(api.replicas) == 2
