"""What can be set: each by a flag, or by the variable that is named after it."""

import argparse
import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from alauda_imageapi.kinds.names import PullSpec
from alauda_imageapi.machinery.watch_limits import WatchLimits
from alauda_registry.serving.addresses import split_address
from alauda_registry.serving.durations import parse_duration
from alauda_registry.serving.logs import Formatter, Level
from alauda_registry.serving.starting import CannotStart

PREFIX = "IMAGEAPI_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Of one process."""

    listen: str
    tls_certificate: Path
    tls_key: Path
    registry: str
    public_registry: str | None
    kubeconfig: Path | None
    drain_delay: timedelta
    drain_timeout: timedelta
    max_watches: int
    max_watches_per_user: int
    log_level: Level
    log_format: Formatter

    @property
    def watch_limits(self) -> WatchLimits:
        """How many watches there may be."""
        return WatchLimits(self.max_watches, self.max_watches_per_user)


@dataclass(frozen=True, slots=True)
class _Option:
    """A setting; without a default it must be given."""

    name: str
    metavar: str
    help: str
    parse: Callable[[str], Any]
    default: str | None = None

    @property
    def flag(self) -> str:
        return f"--{self.name.replace('_', '-')}"

    @property
    def variable(self) -> str:
        return PREFIX + self.name.upper()


def _address(text: str) -> str:
    split_address(text)
    return text


def _registry(text: str) -> str:
    place = PullSpec.parse(f"{text}/namespace/name")
    if place is None or place.registry != text:
        raise ValueError(
            f"{text!r} is no registry to pull from: write HOST or HOST:PORT, as registry.example"
        )
    return text


def _count(text: str) -> int:
    if not text.isascii() or not text.isdecimal():
        raise ValueError(f"{text!r} is no number of watches")
    return int(text)


def _total(text: str) -> int:
    count = _count(text)
    if not count:
        raise ValueError("nothing could be followed with 0; there is no number for any number")
    return count


_WATCHES = WatchLimits()

_OPTIONS = (
    _Option(
        "listen", "HOST:PORT", "address; :8443 is every one of this machine", _address, ":8443"
    ),
    _Option("tls_certificate", "FILE", "certificate for NAME.NAMESPACE.svc, PEM", Path),
    _Option("tls_key", "FILE", "its private key; both are read again when they change", Path),
    _Option("registry", "HOST:PORT", "where pods pull from; streams show it", _address),
    _Option(
        *("public_registry", "HOST[:PORT]", "where others pull from; streams show it, too"),
        _registry,
        "",
    ),
    _Option("kubeconfig", "FILE", "the cluster; without it that of this pod", Path, ""),
    _Option("drain_delay", "TIME", "serve on for so long after SIGTERM", parse_duration, "15s"),
    _Option("drain_timeout", "TIME", "what runs then has so long to end", parse_duration, "10s"),
    _Option("max_watches", "COUNT", "watches at once, 1 or more", _total, str(_WATCHES.total)),
    _Option(
        *("max_watches_per_user", "COUNT", "those of one user; 0 is any number", _count),
        str(_WATCHES.per_user),
    ),
    _Option("log_level", "LEVEL", "error, warn, info or debug", Level, "info"),
    _Option("log_format", "FORMAT", "text, json or auto", Formatter, "auto"),
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Let a command line have the flags."""
    for option in _OPTIONS:
        default = f" (default {option.default})" if option.default else ""
        parser.add_argument(option.flag, metavar=option.metavar, help=option.help + default)


def read_settings(
    given: argparse.Namespace, environment: Mapping[str, str]
) -> tuple[Settings, Sequence[str]]:
    """Return the settings, and what to warn of. Flags win over variables.

    Raises:
        CannotStart: One is missing, or makes no sense.
    """
    values: dict[str, Any] = {}
    for option in _OPTIONS:
        source, text = option.flag, getattr(given, option.name)
        if text is None:
            source, text = option.variable, environment.get(option.variable)
        if text is None:
            text = option.default
        if text is None:
            raise CannotStart(f"give {option.flag} {option.metavar}: {option.help}")
        if not text and option.default == "":
            values[option.name] = None
            continue
        try:
            values[option.name] = option.parse(text)
        except ValueError as error:
            raise CannotStart(f"{source}: {error}") from error
    return Settings(**values), _unknown(environment)


def _unknown(environment: Mapping[str, str]) -> list[str]:
    known = [option.name.upper() for option in _OPTIONS]
    warnings = []
    for name in sorted(environment):
        if name.startswith(PREFIX) and name.removeprefix(PREFIX) not in known:
            close = difflib.get_close_matches(name.removeprefix(PREFIX), known, 1)
            meant = f"; did you mean {PREFIX}{close[0]}?" if close else ""
            warnings.append(f"{name} is no setting and changes nothing{meant}")
    return warnings
