"""The command line, as far as it goes without serving."""

import os
from pathlib import Path

import pytest
import yaml

from alauda_registry.server.cli import main

pytestmark = pytest.mark.usefixtures("untouched_logging")


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REGISTRY_CONFIGURATION_PATH", raising=False)


def run(*arguments: str) -> int:
    """Run the command; argparse ends by itself where it can."""
    try:
        return main(arguments)
    except SystemExit as ended:
        return int(ended.code or 0)


def test_check_config_prints_what_takes_effect(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yml"
    path.write_text("{http: {secret: s3cret, addr: 'localhost:1'}, storage: {inmemory: }}")
    never_set = ("host", "relativeurls")

    assert run("check-config", "--config", str(path), "--log-level", "debug") == 0

    printed = capsys.readouterr()
    effective = yaml.safe_load(printed.out)
    assert printed.err == ""
    assert "s3cret" not in printed.out
    assert effective["http"]["addr"] == "localhost:1"
    assert effective["log"]["level"] == "debug"
    assert effective["storage"]["inmemory"] == {}
    assert effective["http"]["draintimeout"] == "30s"
    assert [effective["http"].get(key, "absent") for key in never_set] == [None, None]
    assert "filesystem" not in effective["storage"]


def test_what_check_config_prints_is_a_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yml"
    path.write_text("openshift: {requests: {read: {maxrunning: 5}}}")
    run("check-config", "--config", str(path), "--workers", "3", "--root", str(tmp_path))
    first = capsys.readouterr().out
    path.write_text(first)

    assert run("check-config", "--config", str(path)) == 0
    assert capsys.readouterr() == (first, "")


def test_check_config_warns_of_unknown_keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yml"
    path.write_text("{htp: {addr: x}, storage: inmemory}")

    assert run("check-config", "--config", str(path)) == 0
    assert capsys.readouterr().err == (
        f"warning: {path}: unknown key htp is ignored; did you mean http?\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check-config", "--config", "/absent.yml"], "cannot read /absent.yml"),
        (["check-config", "--workers", "x"], "--workers: workers: must be a whole number"),
        (["serve", "--listen", "nonsense"], "--listen: http"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 1

    error = capsys.readouterr().err
    assert error.startswith("image-registry: ")
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("command", ["serve", "check-config"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--listen", ":5000"], "--allow-plain-http"),
        (["--root", "/dev/null/x"], "cannot use /dev/null/x: Not a directory"),
        (["--root", "/dev/null"], "cannot use /dev/null: Not a directory"),
        (["--root", "/absent", "--read-only"], "cannot use /absent: No such file"),
        (["--tls-certificate", "c", "--tls-key", "k"], "TLS: cannot read c"),
    ],
)
def test_the_check_refuses_what_serving_refuses(
    command: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command, *arguments) == 1

    printed = capsys.readouterr()
    assert printed.err.startswith("image-registry: ")
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_the_check_makes_nothing(tmp_path: Path) -> None:
    root = tmp_path / "a" / "b"

    assert run("check-config", "--root", str(root)) == 0
    assert list(tmp_path.iterdir()) == []


def test_the_check_sees_that_nothing_may_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root, as which tests run in containers, may write everywhere.
    monkeypatch.setattr(os, "access", lambda _path, mode: not mode & os.W_OK)

    assert run("check-config", "--root", str(tmp_path / "a")) == 1
    assert "Permission denied; choose another with --root" in capsys.readouterr().err


def test_several_mistakes_are_several_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check-config", "--workers", "x", "--listen", "y", "--log-level", "z") == 1

    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[:2] for line in lines] == [
        ["image-registry", flag] for flag in ("--workers", "--log-level", "--listen")
    ]


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["srve"], "did you mean serve?"),
        (["chek-config"], "did you mean check-config?"),
        (["serve", "--rot", "x"], "did you mean --root?"),
        (["serve", "--tls-cert", "x"], "did you mean --tls-certificate?"),
        (["serve", "--root"], "expected one argument"),
        (["serve", "x"], "x is not understood"),
        (["--verson"], "did you mean --version?"),
        (["--config", "a b", "serve"], "command: image-registry serve --config 'a b'"),
        (["--root=x", "check-config"], "command: image-registry check-config --root=x"),
        (["--read-only"], "command: image-registry serve --read-only"),
    ],
)
def test_a_slip_of_the_pen_is_answered_with_what_was_meant(
    arguments: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    assert hint in capsys.readouterr().err


def test_without_a_command_it_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 2
    assert "image-registry serve --root ./data" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--help"], "check-config"),
        (["serve", "--help"], "--allow-anonymous"),
        (["check-config", "--help"], "examples:"),
        (["--version"], "image-registry "),
    ],
)
def test_help_is_help(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 0
    assert text in capsys.readouterr().out
