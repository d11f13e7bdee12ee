"""Flags and variables."""

import argparse
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest

from alauda_imageapi.cluster.command import main
from alauda_imageapi.cluster.settings import Settings, add_flags, read_settings
from alauda_imageapi.machinery.watch_limits import WatchLimits
from alauda_registry.serving.logs import Formatter, Level
from alauda_registry.serving.starting import CannotStart

NEEDED = ["--tls-certificate", "tls.crt", "--tls-key", "tls.key", "--registry", "r.example:5000"]


def read(*arguments: str, **environment: str) -> tuple[Settings, list[str]]:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    variables: Mapping[str, str] = environment
    settings, warnings = read_settings(parser.parse_args(arguments), variables)
    return settings, list(warnings)


def test_most_need_not_be_said() -> None:
    assert read(*NEEDED) == (
        Settings(
            listen=":8443",
            tls_certificate=Path("tls.crt"),
            tls_key=Path("tls.key"),
            registry="r.example:5000",
            public_registry=None,
            kubeconfig=None,
            drain_delay=timedelta(seconds=15),
            drain_timeout=timedelta(seconds=10),
            max_watches=4096,
            max_watches_per_user=1024,
            log_level=Level.INFO,
            log_format=Formatter.AUTO,
        ),
        [],
    )


def test_a_user_may_have_as_many_watches_as_there_are() -> None:
    settings, _ = read(*NEEDED, "--max-watches", "1", "--max-watches-per-user", "0")
    assert settings.watch_limits == WatchLimits(1, 0)


@pytest.mark.parametrize("host", ["registry.example", "registry.example:8443", "localhost"])
def test_the_public_registry_may_have_a_port(host: str) -> None:
    settings, _ = read(*NEEDED, IMAGEAPI_PUBLIC_REGISTRY=host)
    assert settings.public_registry == host


def test_flags_win_over_variables() -> None:
    settings, _ = read(*NEEDED, "--drain-delay", "1s", IMAGEAPI_DRAIN_DELAY="2s")
    assert settings.drain_delay == timedelta(seconds=1)

    settings, _ = read(*NEEDED, IMAGEAPI_DRAIN_DELAY="2s", IMAGEAPI_KUBECONFIG="config")
    assert (settings.drain_delay, settings.kubeconfig) == (timedelta(seconds=2), Path("config"))


@pytest.mark.parametrize(
    ("arguments", "environment", "told"),
    [
        ([], {}, "give --tls-certificate FILE"),
        (NEEDED[:4], {}, "give --registry HOST:PORT"),
        ([*NEEDED, "--listen", "8443"], {}, "--listen: '8443' is not HOST:PORT"),
        ([*NEEDED, "--drain-delay", "15"], {}, "--drain-delay: write a number with its unit"),
        ([*NEEDED, "--max-watches", "-1"], {}, "--max-watches: '-1' is no number of watches"),
        ([*NEEDED, "--max-watches", "0"], {}, "--max-watches: nothing could be followed with 0"),
        ([*NEEDED, "--public-registry", "registry"], {}, "--public-registry: 'registry' is no"),
        ([*NEEDED, "--public-registry", "https://r.example"], {}, "write HOST or HOST:PORT"),
        (NEEDED, {"IMAGEAPI_LOG_LEVEL": "loud"}, "IMAGEAPI_LOG_LEVEL: 'loud' is not a valid"),
    ],
)
def test_what_is_wrong_is_named(
    arguments: list[str], environment: dict[str, str], told: str
) -> None:
    with pytest.raises(CannotStart) as caught:
        read(*arguments, **environment)

    assert told in str(caught.value)


def test_a_variable_that_is_no_setting_is_warned_of() -> None:
    _, warnings = read(*NEEDED, IMAGEAPI_DRAINDELAY="1s", IMAGEAPI_X="", OTHER="")

    assert warnings == [
        "IMAGEAPI_DRAINDELAY is no setting and changes nothing; did you mean IMAGEAPI_DRAIN_DELAY?",
        "IMAGEAPI_X is no setting and changes nothing",
    ]


@pytest.mark.usefixtures("untouched_logging")
def test_a_certificate_that_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = ["--tls-certificate", str(tmp_path / "tls.crt"), "--tls-key", str(tmp_path / "tls.key")]

    assert main([*pair, "--registry", "r.example:5000"]) == 1

    told = f"image-api-server: TLS: cannot read {tmp_path}/tls.crt: No such file or directory\n"
    assert capsys.readouterr().err == told
