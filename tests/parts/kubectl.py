"""Finds kubectl, in every version that is here, and runs it with nobody's configuration."""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.parts.processes import inherited
from tests.parts.tools import MissingPart, cache, find, is_ci

_ADVICE = "kubectl is missing: install it from the Kubernetes project's packages, or `make tools`"


def programs() -> list[Path]:
    """Return the machine's kubectl, and those that were built beside a control plane."""
    found = sorted(cache().glob("kubernetes-*/kubectl"))
    try:
        return [find("kubectl"), *found]
    except MissingPart:
        return found


def parameters() -> Sequence[Any]:
    """Return a parameter for each program, or one that skips; under ``CI=true`` one that fails."""
    found = programs()
    if found:
        return [pytest.param(path, id=path.parent.name) for path in found]
    if is_ci():
        return [pytest.param(Path("kubectl"), id="missing")]
    return [pytest.param(Path("kubectl"), id="missing", marks=pytest.mark.skip(_ADVICE))]


@dataclass(frozen=True, slots=True)
class Kubectl:
    """A kubectl that talks to one server.

    Args:
        program: Where it is.
        server: The server's URL.
        home: A folder for its caches.
    """

    program: Path
    server: str
    home: Path

    def run(self, *arguments: str, given: object = None) -> subprocess.CompletedProcess[str]:
        """Run a command, whatever comes of it; objects that are given are what it reads."""
        return subprocess.run(
            self.command(*arguments),
            input=None if given is None else json.dumps(given),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=self.environment(),
        )

    def __call__(self, *arguments: str, given: object = None) -> str:
        """Run a command that has to succeed, and return what it prints."""
        done = self.run(*arguments, given=given)
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def get(self, *arguments: str) -> Any:
        """Return what ``get -o json`` prints."""
        return json.loads(self("get", *arguments, "-o", "json"))

    def fails(self, *arguments: str, given: object = None) -> str:
        """Run a command that has to fail, and return its complaint."""
        done = self.run(*arguments, given=given)
        assert done.returncode != 0, done.stdout
        return done.stderr

    def command(self, *arguments: str) -> list[str]:
        """Return a command line."""
        return [str(self.program), f"--server={self.server}", *arguments]

    def environment(self) -> dict[str, str]:
        """Return the variables it runs with."""
        return inherited(HOME=str(self.home), KUBECONFIG=str(self.home / "none"))
