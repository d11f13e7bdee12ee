"""The official program against our server, and how its report is read."""

import os
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest

from conformance import official
from conformance.official import PROGRAM, VERSIONS, Outcome, ProgramAbsent
from tests.integration.guarded import Guarded

needs_program = pytest.mark.skipif(
    not os.environ.get(PROGRAM),
    reason=f"{PROGRAM} names no program; it is in no package registry, see conformance/README.md",
)


@pytest.mark.integration
@pytest.mark.timeout(600)
@needs_program
@pytest.mark.parametrize("version", VERSIONS)
def test_our_server_passes_without_a_skip(version: str, url: str, tmp_path: Path) -> None:
    outcome = official.run(official.find_program(os.environ), url, version, tmp_path)

    assert outcome.passed, str(outcome)


@pytest.mark.integration
@pytest.mark.timeout(600)
@needs_program
@pytest.mark.parametrize("version", VERSIONS)
def test_our_server_passes_with_a_login(
    version: str,
    start_guarded: Callable[..., AbstractContextManager[Guarded]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with start_guarded(tmp_path / "server", arguments=("--allow-sparse",)) as place:
        folder = tmp_path / "results"
        folder.mkdir()
        if place.server.tls is not None:
            monkeypatch.setenv("SSL_CERT_FILE", str(place.server.tls.authority))
        outcome = official.run(
            official.find_program(os.environ),
            place.url,
            version,
            folder,
            username="admin",
            password=place.password("admin"),
        )

    assert outcome.passed, str(outcome)
    # With a token of somebody else's for the target alone nobody knows who may pull the source.
    assert (outcome.mounts_fell_back > 0) == (place.server is not place.tokens), str(outcome)


def test_with_a_login_one_thing_may_be_turned_off_and_nothing_else() -> None:
    counts = Counter({"pass": 2, "disabled": 1})

    assert not Outcome("dev", counts).passed
    assert Outcome("dev", counts, may_be_disabled=True).passed
    for state in ("fail", "skip", "error"):
        assert not Outcome("dev", counts + Counter({state: 1}), may_be_disabled=True).passed
    assert not Outcome("dev", Counter({"disabled": 1}), may_be_disabled=True).passed


def test_with_a_login_a_mount_may_become_an_upload_and_nothing_else_may_be_skipped() -> None:
    report = b"""<t><testcase name="a" status="passed"/>
      <testcase name="mount/blob-mount" status="skipped">
        <system-out>registry returned status 202, fell back to blob POST+PUT</system-out></testcase>
      %s</t>"""

    outcome = official.read_report(report % b"", "1.1")
    assert not outcome.passed
    assert replace(outcome, may_be_disabled=True).passed
    another = official.read_report(report % b'<testcase name="b" status="skipped"/>', "1.1")
    assert not replace(another, may_be_disabled=True).passed


def test_report_is_counted_by_state() -> None:
    report = b"""<testsuites><testsuite>
      <testcase name="a" status="passed"/>
      <testcase name="b" status="failure"><system-out>wrong
        status</system-out></testcase>
      <testcase name="c" status="skipped"><system-out>unsupported</system-out></testcase>
      <testcase name="d" status="skipped">
        <system-err>api X is disabled in the configuration</system-err></testcase>
      <testcase name="e" status="error"/>
    </testsuite></testsuites>"""

    outcome = official.read_report(report, "dev")

    assert outcome.counts == {"pass": 1, "fail": 1, "skip": 1, "disabled": 1, "error": 1}
    assert str(outcome) == (
        "version dev: 1 pass, 1 fail, 1 skip, 1 disabled, 1 error\n"
        "  fail     b: wrong status\n"
        "  skip     c: unsupported\n"
        "  disabled d: no reason given\n"
        "  error    e: no reason given"
    )


@pytest.mark.parametrize("status", ["failure", "skipped", "error", "unheard of"])
def test_anything_but_a_pass_is_no_pass(status: str) -> None:
    report = f'<t><testcase status="passed"/><testcase status="{status}"/></t>'.encode()

    assert not official.read_report(report, "1.1").passed


def test_report_without_tests_is_no_pass() -> None:
    assert not official.read_report(b"<testsuites/>", "1.1").passed


@pytest.mark.parametrize("environment", [{}, {PROGRAM: ""}, {PROGRAM: "/nowhere"}, {PROGRAM: "/"}])
def test_missing_program_is_said_to_be_missing(environment: dict[str, str]) -> None:
    with pytest.raises(ProgramAbsent, match="isn't at hand"):
        official.find_program(environment)


def test_command_without_the_program_does_not_exit_as_passed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(PROGRAM, raising=False)

    status = official.main(["--url", "http://127.0.0.1:1"])

    assert status == official.ABSENT
    assert "Nothing was checked" in capsys.readouterr().err
