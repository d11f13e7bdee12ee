"""The checks of the API conventions: our server passes them all, and each of them can fail."""

from collections.abc import Iterator

import httpx
import pytest

from conformance.imageapi.__main__ import main, run
from conformance.imageapi.checks import CHECKS, Check
from conformance.imageapi.target import Target, make_client
from tests.parts import registry

EVERY_CHECK = pytest.mark.parametrize("check", CHECKS, ids=[check.id for check in CHECKS])


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


@EVERY_CHECK
def test_each_check_fails_where_nothing_is_right(check: Check) -> None:
    transport = httpx.MockTransport(lambda _request: httpx.Response(200, json={}))
    with httpx.Client(transport=transport, base_url="http://localhost") as client:
        target = Target(client, "image.alauda.io", "v1", "imagestreams", "ImageStream")

        assert run(check, target)


def test_the_checks_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list", "--filter", "tables-*"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "tables-are-rendered"
