"""The checks of the API conventions: our server passes them all, and each of them can fail."""

import json
import ssl
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from conformance.imageapi import checks
from conformance.imageapi.__main__ import main, run
from conformance.imageapi.checks import CHECKS, Check
from conformance.imageapi.target import Target, make_client
from tests.parts import image_api, registry
from tests.parts.control_plane import ControlPlane
from tests.parts.processes import PartFailed, wait_until

CUSTOM_RESOURCE = Path(checks.__file__).with_name("custom_resource.json")

FUTURE = "/apis/example.com/v1/imagestreams?resourceVersion=99999999999"
# For these kube-apiserver asks etcd how far it is, which it tells from 3.4.31 and 3.5.13 on only.
# Without, a list cannot be streamed at all,
REFUSED = "initial-events-end-with-a-bookmark"
# and a watch begins with what there was a moment ago, which often is what there is now.
FICKLE = "a-watch-without-a-revision-begins-with-what-there-is"
# kube-apiserver has the schemas of another server some seconds after it has that server.
DESCRIBED = "openapi-describes-patches"
OF_CUSTOM_RESOURCES = [
    pytest.param(
        check,
        id=check.id,
        marks=[pytest.mark.xfail(strict=True, reason="this etcd does not tell how far it is")]
        if check.id == REFUSED
        else [],
    )
    for check in CHECKS
    if check.id != FICKLE
]
EVERY_CHECK = pytest.mark.parametrize("check", CHECKS, ids=[check.id for check in CHECKS])


def connected(plane: ControlPlane) -> httpx.Client:
    """The cluster as a user sees it who may do everything, but is not above the rules."""
    plane.bind("cluster-admin", None, user="conformance")
    wait_until(
        lambda: plane.allows("conformance", verb="create", resource="namespaces"), "the role"
    )
    config = plane.user("conformance")
    context = ssl.create_default_context(cafile=plane.authority)
    context.load_cert_chain(config.with_name("tls.crt"), config.with_name("tls.key"))
    return httpx.Client(base_url=plane.url, verify=context, timeout=30)


@pytest.fixture(scope="module")
def in_cluster(
    control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Target]:
    """Ours, behind a real kube-apiserver."""
    directory = tmp_path_factory.mktemp("conformance")
    with (
        image_api.running(control_plane, directory, replicas=2),
        connected(control_plane) as client,
    ):
        yield Target(client, "image.alauda.io", "v1", "imagestreams", "ImageStream")


@pytest.fixture(scope="module")
def custom_resource(control_plane: ControlPlane) -> Iterator[Target]:
    """A custom resource of the same shape, which shows that the checks are right."""
    definition = json.loads(CUSTOM_RESOURCE.read_text())
    control_plane.apply(definition)
    name = definition["metadata"]["name"]
    control_plane.kubectl("wait", "--for=condition=Established", f"crd/{name}")
    with connected(control_plane) as client:
        target = Target(client, "example.com", "v1", "imagestreams", "ImageStream")
        wait_until(lambda: _is_described(client), "its OpenAPI document")
        # Until its cache is filled, nothing but 429 is said of the future.
        wait_until(lambda: client.get(FUTURE).status_code == 504, "its cache")
        yield target
    control_plane.kubectl("delete", "crd", name, "--wait=false")


def _is_described(client: httpx.Client) -> bool:
    return "apis/example.com/v1" in client.get("/openapi/v3").json()["paths"]


@pytest.fixture(scope="module", params=[1, 2], ids=["one worker", "two workers"])
def target(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Target]:
    directory = tmp_path_factory.mktemp("conformance")
    with (
        registry.running(directory, workers=request.param, arguments=["--image-api"]) as server,
        make_client(server.url) as client,
    ):
        yield Target(client, "image.alauda.io", "v1", "imagestreams", "ImageStream")


@pytest.mark.integration
@EVERY_CHECK
def test_our_server_passes(check: Check, target: Target) -> None:
    assert run(check, target) == ""


@pytest.mark.integration
@pytest.mark.timeout(180)
@EVERY_CHECK
def test_our_server_passes_in_a_cluster(check: Check, in_cluster: Target) -> None:
    if check.id == DESCRIBED:
        with suppress(PartFailed):
            wait_until(lambda: run(check, in_cluster) == "", "our schemas")
    assert run(check, in_cluster) == ""


@pytest.mark.integration
@pytest.mark.timeout(180)
@pytest.mark.parametrize("check", OF_CUSTOM_RESOURCES)
def test_a_custom_resource_passes(check: Check, custom_resource: Target) -> None:
    assert run(check, custom_resource) == ""


@EVERY_CHECK
def test_each_check_fails_where_nothing_is_right(check: Check) -> None:
    transport = httpx.MockTransport(lambda _request: httpx.Response(200, json={}))
    with httpx.Client(transport=transport, base_url="http://localhost") as client:
        target = Target(client, "image.alauda.io", "v1", "imagestreams", "ImageStream")

        assert run(check, target)


def test_the_checks_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list", "--filter", "tables-*"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "tables-are-rendered"
