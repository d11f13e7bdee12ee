"""The command ``python -m conformance.oci``: its exit status, its table and its file."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from typing_extensions import override

from conformance.oci.__main__ import main


class NotARegistry(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        self.do_GET()

    @override
    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@pytest.fixture
def not_a_registry() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), NotARegistry) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.integration
def test_good_registry_passes_and_the_results_are_written(
    url_of_a_good_registry: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "results.json"

    status = main(["--url", url_of_a_good_registry, "--filter", "head-blob*", "--json", str(file)])

    assert status == 0
    assert "3 checks of version dev: 3 ok, 0 failed (0 of them MUST)" in capsys.readouterr().out
    written = json.loads(file.read_text())["checks"]
    assert [(check["id"], check["level"], check["outcome"]) for check in written] == [
        ("head-blob", "MUST", "ok"),
        ("head-blob-digest-header", "MUST", "ok"),
        ("head-blob-length", "MUST", "ok"),
    ]


def test_failed_must_is_exit_status_1(
    not_a_registry: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["--url", not_a_registry, "--filter", "base-endpoint"])

    assert status == 1
    assert f"GET {not_a_registry}/v2/ answered 404, expected 200" in capsys.readouterr().out


def test_failed_should_is_exit_status_0(
    not_a_registry: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["--url", not_a_registry, "--filter", "api-version-header"])

    assert status == 0
    assert "1 failed (0 of them MUST)" in capsys.readouterr().out


def test_level_is_that_of_the_version(
    not_a_registry: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--url", not_a_registry, "--filter", "head-blob-length", "--version"]

    assert [main([*arguments, "1.1"]), main([*arguments, "dev"])] == [0, 1]
    table = capsys.readouterr().out
    assert "FAIL          SHOULD head-blob-length" in table
    assert "FAIL          MUST   head-blob-length" in table


def test_nobody_answering_is_exit_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["--url", "http://127.0.0.1:1"])

    assert status == 2
    assert "no registry answers at http://127.0.0.1:1" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [[], ["--url", "http://127.0.0.1:1", "--filter", "no-such-check"], ["--version", "3"]],
    ids=["no URL", "unknown check", "unknown version"],
)
def test_wrong_usage_is_exit_status_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)

    assert caught.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_list_names_every_check_and_asks_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list", "--filter", "Mounting*"]) == 0

    assert "mount-blob-sha512" in capsys.readouterr().out
