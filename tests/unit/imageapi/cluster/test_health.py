"""What probes are answered."""

import logging

import pytest

from alauda_imageapi.cluster.health import Health


def answer(health: Health, path: str, part: str = "", *, is_verbose: bool = False) -> object:
    found = health.answer(path, part, is_verbose=is_verbose)
    return None if found is None else (found.status_code, bytes(found.body).decode())


def test_all_is_well() -> None:
    health = Health({"store": lambda: ""})

    for path in ("healthz", "livez", "readyz"):
        assert answer(health, path) == (200, "ok")
    assert answer(health, "readyz", "store") == (200, "ok")
    assert answer(health, "readyz", "nonsense") is None
    assert answer(health, "readyz", is_verbose=True) == (
        200,
        "[+]ping ok\n[+]store ok\n[+]shutdown ok\nreadyz check passed\n",
    )


def test_what_is_wrong_is_named_and_explained_in_the_log_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    health = Health({"store": lambda: "the API server at 10.0.0.1 is away"})

    with caplog.at_level(logging.WARNING):
        found = [answer(health, "readyz") for _ in range(3)]

    told = "[+]ping ok\n[-]store failed: reason withheld\n[+]shutdown ok\nreadyz check failed\n"
    assert found == [(500, told)] * 3
    assert caplog.text.count("10.0.0.1") == 1
    # A restart does not help.
    assert answer(health, "livez") == (200, "ok")


def test_who_is_about_to_stop_lives_but_is_not_ready() -> None:
    health = Health({})

    health.is_ending = True

    assert answer(health, "livez") == (200, "ok")
    assert answer(health, "healthz") == (200, "ok")
    assert answer(health, "readyz", "shutdown") == (
        500,
        "[-]shutdown failed: reason withheld\nreadyz check failed\n",
    )
