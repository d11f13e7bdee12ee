"""The image API server behind a real kube-apiserver: begin and end, rotation, conventions."""

import http.client
import json
import shutil
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.parts import image_api
from tests.parts.certificates import Authority, CertificatePair
from tests.parts.control_plane import ControlPlane
from tests.parts.image_api import API, ImageApi, Replica
from tests.parts.processes import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

CONFIG_MAP = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication"
REQUEST_HEADER_CA = "requestheader-client-ca-file"


@pytest.fixture(scope="module")
def api(
    control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ImageApi]:
    with image_api.running(
        control_plane,
        tmp_path_factory.mktemp("api"),
        replicas=2,
        # Longer than this machine may stand still.
        arguments=("--drain-delay", "8s"),
    ) as found:
        yield found
    for log in found.directory.glob("*.log"):
        assert "Traceback" not in log.read_text()


@pytest.fixture
def admin(control_plane: ControlPlane, tmp_path: Path) -> CertificatePair:
    return control_plane.users.issue_to_user(
        tmp_path / "admin", name="admin", groups=["system:masters"]
    )


def stream(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "image.alauda.io/v1",
        "kind": "ImageStream",
        "metadata": {"name": name},
    }


def test_the_aggregator_finds_it_available(api: ImageApi) -> None:
    api.wait_available()
    assert api.condition()["reason"] == "Passed"
    listed = api.plane.api.get(API).raise_for_status().json()
    assert "imagestreams" in [resource["name"] for resource in listed["resources"]]


def test_kubectl_makes_and_shows_a_stream(api: ImageApi, namespace: str) -> None:
    kubectl = api.plane.kubectl
    kubectl("create", "-n", namespace, "-f", "-", stdin=json.dumps(stream("app")))

    shown = kubectl("get", "imagestreams.image.alauda.io", "-n", namespace, "--no-headers").split()

    assert shown[:2] == ["app", f"{image_api.REGISTRY}/{namespace}/app"]


def test_tags_are_paged_over_one_state(api: ImageApi, namespace: str) -> None:
    """Each page perhaps by another replica, and while streams change."""
    path = f"{API}/namespaces/{namespace}"
    for number in range(6):
        tags = [{"name": f"v{tag}"} for tag in range(number)]
        made = {**stream(f"app-{number}"), "spec": {"tags": tags}}
        api.plane.api.post(f"{path}/imagestreams", json=made).raise_for_status()
    names: list[str] = []
    pages, token = 0, ""
    while not pages or token:
        query = {"limit": "4", "continue": token}
        page = api.plane.api.get(f"{path}/imagetags", params=query).raise_for_status().json()
        names += [item["metadata"]["name"] for item in page["items"]]
        pages += 1
        token = page["metadata"].get("continue", "")
        made = {**stream(f"new-{pages}"), "spec": {"tags": [{"name": "v0"}]}}
        api.plane.api.post(f"{path}/imagestreams", json=made).raise_for_status()
        api.plane.api.delete(f"{path}/imagetags/app-5:v{pages}").raise_for_status()

    assert names == [f"app-{number}:v{tag}" for number in range(6) for tag in range(number)]
    shown = api.plane.kubectl("get", "imagetags", "-n", namespace, "--chunk-size=3", "-o", "name")
    # After each of the four pages one was added, and one taken away.
    assert len(shown.split()) == len(names)


def test_an_answer_through_the_aggregator_has_one_audit_id(api: ImageApi) -> None:
    answer = api.plane.api.get(f"{API}/images")

    assert len(answer.headers.get_list("audit-id")) == 1


def test_a_rolling_restart_fails_no_request(api: ImageApi, namespace: str) -> None:
    path = f"{API}/namespaces/{namespace}/imagestreams"
    api.plane.api.post(path, json=stream("app")).raise_for_status()
    results: Counter[int | str] = Counter()
    ending = threading.Event()

    def read() -> None:
        while not ending.wait(0.1):
            try:
                results[api.plane.api.get(f"{path}/app").status_code] += 1
            except httpx.TransportError as error:
                results[str(error)] += 1

    def write() -> None:
        for number in range(10_000):
            if ending.wait(0.1):
                break
            try:
                answer = api.plane.api.post(path, json=stream(f"app-{number}"))
                results[answer.status_code] += 1
            except httpx.TransportError as error:
                results[str(error)] += 1

    with ThreadPoolExecutor(4) as pool:
        tasks = [pool.submit(work) for work in (read, read, read, write)]
        try:
            for replica in [*api.replicas]:
                api.start()
                api.stop(replica)
                time.sleep(1)
        finally:
            ending.set()
        for task in tasks:
            task.result()

    assert set(results) == {200, 201}, results
    assert results[200] > 50


@contextmanager
def connected(
    api: ImageApi, replica: Replica, pair: CertificatePair
) -> Iterator[http.client.HTTPSConnection]:
    context = ssl.create_default_context(cafile=api.tls.authority)
    context.load_cert_chain(pair.certificate, pair.key)
    connection = http.client.HTTPSConnection("127.0.0.1", replica.port, context=context, timeout=20)
    try:
        yield connection
    finally:
        connection.close()


def status_of(connection: http.client.HTTPConnection, path: str) -> tuple[int, str | None]:
    connection.request("GET", path)
    answer = connection.getresponse()
    answer.read()
    return answer.status, answer.getheader("Connection")


def test_the_end_is_told_before_it_comes(
    api: ImageApi, admin: CertificatePair, namespace: str
) -> None:
    replica = api.start()
    with (
        connected(api, replica, admin) as watching,
        connected(api, replica, admin) as kept,
        connected(api, replica, admin) as late,
    ):
        path = f"{API}/namespaces/{namespace}/imagestreams"
        watching.request("GET", f"{path}?watch=true&allowWatchBookmarks=true")
        watch = watching.getresponse()
        assert status_of(kept, f"{API}/images") == (200, None)
        began = time.monotonic()

        replica.process.terminate()

        wait_until(lambda: _probe(api, replica) == 500, "a /readyz that fails")
        # Who asks on an open connection is answered, and told to come back on another one.
        assert status_of(kept, f"{API}/images") == (200, "close")
        # Who comes only now, too.
        assert status_of(late, f"{API}/images") == (200, "close")
        assert replica.process.poll() is None
        # A chunked answer that is cut off raises here.
        events = [json.loads(line) for line in watch.read().splitlines()]
        assert {event["type"] for event in events} <= {"ADDED", "BOOKMARK"}
        assert replica.process.wait(30) == 0
        # By itself, not by force.
        assert time.monotonic() - began < 40
    api.stop(replica)


def _probe(api: ImageApi, replica: Replica) -> int:
    """Return what its /readyz says; 0 while it shows another certificate or takes nobody in."""
    try:
        with api.client(replica) as client:
            return client.get("/readyz").status_code
    except httpx.TransportError:
        return 0


def test_a_renewed_serving_certificate_is_used_soon(api: ImageApi) -> None:
    replica = api.replicas[0]

    def served() -> bytes | None:
        context = ssl._create_unverified_context()
        with connected_to(replica, context) as connection:
            return connection.getpeercert(binary_form=True)

    before = {name: (api.tls.certificate.with_name(name)).read_bytes() for name in FILES}
    old = served()
    other = Authority().issue(api.directory / "renewed")
    try:
        for name in FILES[:2]:
            shutil.copy(other.certificate.with_name(name), api.tls.certificate.with_name(name))

        wait_until(lambda: served() != old, "the renewed certificate", 55)
        assert served() == ssl.PEM_cert_to_DER_cert(other.certificate.read_text())
    finally:
        for name, content in before.items():
            api.tls.certificate.with_name(name).write_bytes(content)
    wait_until(lambda: served() == old, "the first certificate", 55)
    for waiting in api.replicas:
        wait_until(lambda waiting=waiting: _probe(api, waiting) == 200, "both")  # type: ignore[misc]
    api.wait_available()


FILES = ("tls.crt", "tls.key", "ca.crt")


@contextmanager
def connected_to(replica: Replica, context: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    connection = http.client.HTTPSConnection("127.0.0.1", replica.port, context=context, timeout=20)
    connection.connect()
    try:
        assert isinstance(connection.sock, ssl.SSLSocket)
        yield connection.sock
    finally:
        connection.close()


def test_authorities_of_the_config_map_count_soon_and_no_longer_than_they_are_there(
    api: ImageApi, tmp_path: Path
) -> None:
    plane, replica = api.plane, api.replicas[0]
    authority = Authority()
    pair = authority.issue_to_user(tmp_path / "proxy", name="front-proxy-client")
    headers = {"X-Remote-User": "root", "X-Remote-Group": "system:masters"}
    before = plane.api.get(CONFIG_MAP).json()["data"][REQUEST_HEADER_CA]

    def is_believed() -> bool:
        try:
            with api.client(replica, pair, headers=headers) as client:
                return client.get(f"{API}/images").is_success
        except httpx.TransportError:
            return False

    assert not is_believed()
    try:
        put_authorities(plane, before + pair.authority.read_text())
        wait_until(is_believed, "the added authority to count", 55)
        with api.client(replica, pair, headers=headers) as kept:
            assert kept.get(f"{API}/images").is_success

            put_authorities(plane, before)

            # On connections that are open already, too.
            wait_until(
                lambda: kept.get(f"{API}/images").status_code in (401, 403),
                "the removed authority not to count",
                55,
            )
        assert not is_believed()
    finally:
        put_authorities(plane, before)
    assert api.plane.api.get(f"{API}/images").is_success


def put_authorities(plane: ControlPlane, bundle: str) -> None:
    patch = {"data": {REQUEST_HEADER_CA: bundle}}
    plane.api.patch(
        CONFIG_MAP, json=patch, headers={"Content-Type": "application/merge-patch+json"}
    ).raise_for_status()


HOSTILE = [
    ("GET", "/"),
    ("GET", "/nonsense"),
    ("GET", "/apis/image.alauda.io"),
    ("GET", "/apis/image.alauda.io/"),
    ("GET", "/apis/image.alauda.io/v2"),
    ("GET", f"{API}/"),
    ("GET", f"{API}/nonsense"),
    ("GET", f"{API}/imagestreams/"),
    ("GET", f"{API}//imagestreams"),
    ("GET", f"{API}/namespaces/default/imagestreams/%2e%2e"),
    ("GET", f"{API}/namespaces/default/imagestreams/a%2Fb"),
    ("GET", f"{API}/namespaces/default/imagestreams/%00"),
    ("GET", f"{API}/namespaces/default/imagestreams/%ff"),
    ("GET", f"{API}/namespaces/default/imagestreams/{'x' * 20_000}"),
    ("GET", f"{API}/imagestreams?watch=true&timeoutSeconds=-1"),
    ("GET", f"{API}/imagestreams?timeoutSeconds=x"),
    ("GET", f"{API}/imagestreams?limit=-1"),
    ("GET", f"{API}/imagestreams?resourceVersion=99999999999"),
    ("GET", f"{API}/imagestreams?continue=nonsense"),
    ("GET", f"{API}/imagestreams?labelSelector=%21%21"),
    ("GET", "/openapi/v2"),
    ("GET", "/openapi/v3/apis/image.alauda.io/v1?hash=OLD"),
    ("POST", "/openapi/v2"),
    ("POST", f"{API}/imagestreams"),
    ("PUT", f"{API}/namespaces/default/imagestreams"),
    ("DELETE", f"{API}/namespaces/default/imagestreammappings/x"),
    ("TRACE", f"{API}/images"),
    ("OPTIONS", f"{API}/images"),
    ("HEAD", f"{API}/images"),
    ("GET", f"{API}/registry/x/metrics"),
]


@pytest.mark.parametrize(("method", "url"), HOSTILE, ids=lambda text: text[:60])
def test_every_answer_is_json_and_none_leads_elsewhere(
    api: ImageApi, admin: CertificatePair, method: str, url: str
) -> None:
    with connected(api, api.replicas[0], admin) as connection:
        connection.request(method, url)
        answer = connection.getresponse()
        body = answer.read()

    assert answer.status < 300 or 400 <= answer.status < 500 or answer.status == 504
    assert answer.getheader("Location") is None
    assert (answer.getheader("Content-Type") or "").startswith("application/json")
    if not body:
        assert method == "HEAD" or "watch=true" in url
        return
    document = json.loads(body)
    if answer.status >= 400:
        assert (document["kind"], document["status"]) == ("Status", "Failure")
        assert document["code"] == answer.status
        assert document["message"]
        assert document["reason"]
    elif str(document.get("kind", "")).endswith("List"):
        assert document.get("items", []) is not None


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n" % (b"x" * 70_000), 414),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: %s\r\n\r\n" % (b"x" * 300_000), 431),
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (
            b"POST %s/images HTTP/1.1\r\nHost: x\r\nContent-Length: 4000000\r\n\r\n" % API.encode(),
            413,
        ),
    ],
    ids=["long path", "long header", "no HTTP", "no host", "large body"],
)
def test_what_breaks_the_protocol_is_answered_with_a_status(
    api: ImageApi, admin: CertificatePair, sent: bytes, status: int
) -> None:
    context = ssl.create_default_context(cafile=api.tls.authority)
    context.load_cert_chain(admin.certificate, admin.key)
    with connected_to(api.replicas[0], context) as sock:
        sock.sendall(sent)
        answer = http.client.HTTPResponse(sock)
        answer.begin()
        document = json.loads(answer.read())

    assert (answer.status, document["kind"], document["code"]) == (status, "Status", status)


def test_nothing_is_made_in_a_namespace_that_is_missing(api: ImageApi) -> None:
    missing = f"{API}/namespaces/is-missing"
    mapping = {"metadata": {"name": "app"}, "tag": "v1", "image": {"metadata": {"name": "x"}}}
    applied = {"Content-Type": "application/apply-patch+yaml"}

    answers = [
        api.plane.api.post(f"{missing}/imagestreams", json=stream("app")),
        api.plane.api.post(f"{missing}/imagestreams?dryRun=All", json=stream("app")),
        api.plane.api.post(f"{missing}/imagestreammappings", json=mapping),
        api.plane.api.patch(
            f"{missing}/imagestreams/app?fieldManager=me", json=stream("app"), headers=applied
        ),
    ]

    for answer in answers:
        assert answer.json() == {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": 'namespaces "is-missing" not found',
            "reason": "NotFound",
            "details": {"name": "is-missing", "kind": "namespaces"},
            "code": 404,
        }


def test_nothing_is_made_in_a_namespace_that_ends(api: ImageApi, namespace: str) -> None:
    plane, path = api.plane, f"{API}/namespaces/{namespace}"
    plane.api.post(f"{path}/imagestreams", json=stream("app")).raise_for_status()
    held = {"metadata": {"name": "held", "finalizers": ["test.alauda.io/hold"]}}
    config_maps = f"/api/v1/namespaces/{namespace}/configmaps"
    plane.api.post(config_maps, json=held).raise_for_status()
    plane.api.delete(f"/api/v1/namespaces/{namespace}").raise_for_status()
    try:
        wait_until(lambda: plane.api.get(f"{path}/imagestreams/app").is_error, "the stream to go")

        refused = plane.api.post(f"{path}/imagestreams", json=stream("late"))

        theirs = plane.api.post(config_maps, json={"metadata": {"name": "late"}})
        expected = json.loads(
            theirs.text.replace('configmaps \\"', 'imagestreams.image.alauda.io \\"').replace(
                '"kind":"configmaps"', '"group":"image.alauda.io","kind":"imagestreams"'
            )
        )
        assert (refused.status_code, refused.json()) == (403, expected)
    finally:
        plane.api.patch(
            f"{config_maps}/held",
            json={"metadata": {"finalizers": None}},
            headers={"Content-Type": "application/merge-patch+json"},
        )


def test_a_namespace_that_was_just_made_is_known(api: ImageApi) -> None:
    for _ in range(5):
        namespace = api.plane.new_namespace()

        made = api.plane.api.post(f"{API}/namespaces/{namespace}/imagestreams", json=stream("app"))

        assert made.status_code == 201
